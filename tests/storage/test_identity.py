"""A data directory knows whose it is, which life this is, and admits one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fortdb.errors import ConfigError, StorageFailed
from fortdb.model import same_disk
from fortdb.storage.identity import ENGINE_DIRECTORY, IDENTITY_FILE, Identity, mark_clean, open_directory

HOLD = """
import sys
from pathlib import Path
from fortdb.storage.identity import open_directory
identity = open_directory(Path(sys.argv[1]), "cluster", "node")
print(identity.incarnation, flush=True)
sys.stdin.read()
"""


def take(path: Path, cluster: str = "cluster", node: str = "node") -> Identity:
    """A life on the directory, with an engine's data in it."""
    identity = open_directory(path, cluster, node)
    identity.engine_path.mkdir(exist_ok=True)
    return identity


def test_each_start_is_another_life_on_the_same_disk(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    first = take(path)
    assert (first.life, first.was_clean) == (1, False)
    first.release()
    second = take(path)
    assert (second.life, second.was_clean) == (2, False)
    mark_clean(second)
    third = take(path)
    assert (third.life, third.was_clean) == (3, True)
    third.release()
    third.release()
    fourth = take(path)
    assert (fourth.life, fourth.was_clean) == (4, False)
    fourth.release()
    assert len({first.disk_id, second.disk_id, third.disk_id, fourth.disk_id}) == 1
    assert first.incarnation != second.incarnation
    assert same_disk(first.incarnation, fourth.incarnation)


def test_a_killed_process_frees_the_directory_and_was_not_clean(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        incarnation = holder.stdout.readline().strip()
        with pytest.raises(
            StorageFailed, match=rf"another process \(pid {holder.pid}\) holds data_directory"
        ):
            open_directory(tmp_path, "cluster", "node")
        holder.kill()
        holder.wait()
    (tmp_path / ENGINE_DIRECTORY).mkdir()
    identity = open_directory(tmp_path, "cluster", "node")
    assert same_disk(identity.incarnation, incarnation)
    assert (identity.life, identity.was_clean) == (2, False)
    identity.release()


@pytest.mark.parametrize(
    ("cluster", "node", "key"), [("other", "node", "cluster"), ("cluster", "other", "node")]
)
def test_somebody_elses_directory_is_refused(tmp_path: Path, cluster: str, node: str, key: str) -> None:
    take(tmp_path).release()
    before = (tmp_path / IDENTITY_FILE).read_bytes()
    with pytest.raises(ConfigError, match=f"{key} is 'other'.*belongs to {key} '{key}'"):
        open_directory(tmp_path, cluster, node)
    assert (tmp_path / IDENTITY_FILE).read_bytes() == before
    take(tmp_path).release()


def test_data_without_an_identity_is_refused(tmp_path: Path) -> None:
    (tmp_path / ENGINE_DIRECTORY).mkdir()
    with pytest.raises(ConfigError, match=rf"holds files \({ENGINE_DIRECTORY}\) but no {IDENTITY_FILE}"):
        open_directory(tmp_path, "cluster", "node")
    assert not (tmp_path / IDENTITY_FILE).exists()


def test_what_a_new_file_system_and_an_interrupted_start_leave_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f"{ENGINE_DIRECTORY}.making").mkdir()
    (tmp_path / f"{IDENTITY_FILE}.new").write_text('{"clus')
    identity = open_directory(tmp_path, "cluster", "node")
    assert identity.life == 1
    identity.release()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "\xff",
        '{"cluster": "cluster"}',
        '{"cluster": "cluster", "node": "node", "disk_id": "d", "life": "1", "clean": true}',
        '{"cluster": "cluster", "node": "node", "disk_id": "d", "life": true, "clean": true}',
        '{"cluster": "cluster", "node": "node", "disk_id": "d", "life": 1, "clean": true, "more": 1}',
    ],
)
def test_an_identity_that_cannot_be_understood_is_refused(tmp_path: Path, content: str) -> None:
    take(tmp_path).release()
    (tmp_path / IDENTITY_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{IDENTITY_FILE} cannot be understood"):
        open_directory(tmp_path, "cluster", "node")
    assert (tmp_path / IDENTITY_FILE).read_bytes() == content.encode("latin-1")


def test_an_identity_whose_data_is_gone_is_another_disk(tmp_path: Path) -> None:
    first = take(tmp_path)
    first.engine_path.rmdir()
    mark_clean(first)
    second = take(tmp_path)
    assert not same_disk(first.incarnation, second.incarnation)
    assert (second.life, second.was_clean) == (1, False)
    second.release()


def test_the_identity_is_a_file_a_person_can_read(tmp_path: Path) -> None:
    identity = take(tmp_path)
    document = json.loads((tmp_path / IDENTITY_FILE).read_text())
    assert document == {
        "cluster": "cluster",
        "node": "node",
        "disk_id": identity.disk_id,
        "life": 1,
        "clean": False,
    }
    identity.release()


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be used"):
        open_directory(tmp_path / "file" / "data", "cluster", "node")

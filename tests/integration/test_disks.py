"""What a node says and does when its disk is full, damaged, another's or gone, and what clients see."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from fortdb.client import Client
from fortdb.errors import DiskFull, FortError
from fortdb.local.ring import LocalRing, Process
from tests.support.disks import fill_disk, small_disk
from tests.support.load import Load
from tests.support.rings import partition_of, running_ring, status_of, wait_healthy
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos


def node_state(ring: LocalRing, name: str) -> str:
    return next(node.state for node in status_of(ring).nodes if node.name == name)


def health_of_process(ring: LocalRing, name: str) -> tuple[int, dict[str, str]]:
    port = ring.shape.port + 300 + ring.shape.node_names.index(name)
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def engine_files(process: Process, pattern: str) -> list[Path]:
    return sorted((process.directory / "data").rglob(pattern))


def fill(client: Client, count: int = 2000) -> None:
    for start in range(0, count, 250):
        client.put_many({f"key-{number}": os.urandom(500) for number in range(start, start + 250)})


@pytest.fixture
def first_disk(tmp_path: Path) -> Iterator[Path]:
    """Where node-1's directory will be."""
    with small_disk(tmp_path / "node-1", 48) as disk:
        yield disk


def test_a_full_disk_refuses_writes_and_heals_with_room(tmp_path: Path, first_disk: Path) -> None:
    """All partitions are led by the node whose disk is full: it says so, reads go on, nothing is lost."""
    with running_ring(tmp_path, nodes=1) as ring, ring.client() as client:
        client.put("before", "1")
        ballast = fill_disk(first_disk, leave_bytes=3 << 20)
        eventually("writes are refused", lambda: _refusal(client) is not None)
        assert isinstance(_refusal(client), DiskFull)
        assert client.get("before") == b"1"
        ballast.unlink()
        eventually("writes are taken again", lambda: _refusal(client) is None)
        assert client.get("before") == b"1"


def test_a_follower_with_a_full_disk_leaves_and_comes_back(tmp_path: Path, first_disk: Path) -> None:
    """The disk fills up to the last byte, faster than the margin at which writes are refused is noticed."""
    with running_ring(tmp_path) as ring:
        with Load([ring.shape.port], ["a", "b", "c", "d"], writers=2) as load:
            ballast = fill_disk(first_disk, leave_bytes=0)
            eventually("node-1 says that it failed", lambda: node_state(ring, "node-1") == "failed", 30)
            code, health = health_of_process(ring, "node-1")
            assert code == 503
            assert "full" in health["reason"]
            so_far = load.acknowledged_total
            eventually("writes go on without it", lambda: load.acknowledged_total > so_far + 100, 30)
            ballast.unlink()
            wait_healthy(ring)
        assert load.failures == []
        with ring.client() as client:
            load.check(client)


@pytest.mark.parametrize("is_new", [False, True], ids=["with-data", "new"])
def test_a_disk_that_is_full_at_the_start(tmp_path: Path, is_new: bool) -> None:
    """The process stays, says what is missing, ends when it is told to and starts over once there is room."""
    (tmp_path / "node-1").mkdir()
    with small_disk(tmp_path / "disk", 48) as disk:
        data = disk / "data"
        data.mkdir()
        (tmp_path / "node-1" / "data").symlink_to(data)
        with running_ring(tmp_path) as ring, ring.client() as client:
            client.put("before", "1")
            process = ring.process("node-1")
            process.stop()
            if is_new:
                shutil.rmtree(data)
                data.mkdir()
            ballast = fill_disk(disk, leave_bytes=0)
            process.start()
            eventually("node-1 says that it failed", lambda: node_state(ring, "node-1") == "failed", 30)
            code, health = health_of_process(ring, "node-1")
            assert code == 503
            assert re.search(
                rf"{process.directory}/data has \d+ bytes free, and the node needs 4,194,304 to start",
                health["reason"],
            )
            assert health["reason"] in process.last_words()
            client.put("meanwhile", "2")
            process.stop()
            assert process.exit_code == 0
            process.start()
            eventually("node-1 says that it failed again", lambda: node_state(ring, "node-1") == "failed", 30)
            ballast.unlink()
            wait_healthy(ring)
            assert client.get_many(["before", "meanwhile"]) == {"before": b"1", "meanwhile": b"2"}


def test_a_damaged_file_is_told_and_never_read(tmp_path: Path) -> None:
    with running_ring(tmp_path) as ring, ring.client() as client:
        fill(client)
        process = ring.process("node-2")
        process.stop()  # a clean stop has everything in table files
        tables = engine_files(process, "*.sst")
        assert tables
        for table in tables:
            content = bytearray(table.read_bytes())
            content[len(content) // 3] ^= 0xFF
            table.write_bytes(content)
        process.start()
        with Load([ring.shape.port], ["a", "b"], writers=2) as load:
            # Found at the start, or by the first read of the damaged block: a scan reads them all.
            def is_failed() -> bool:
                _touch_everything(ring, client)
                return node_state(ring, "node-2") == "failed"

            eventually("node-2 says that it failed", is_failed, within_s=60)
        code, health = health_of_process(ring, "node-2")
        assert code == 503
        assert "damaged" in health["reason"], health
        assert load.failures == []
        load.check(client)
        assert sum(1 for _ in client.scan("key-*")) == 2000
        process.stop()
        for file in sorted((process.directory / "data").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        process.start()
        wait_healthy(ring)


def test_two_processes_on_one_directory(tmp_path: Path) -> None:
    with running_ring(tmp_path, nodes=1) as ring:
        process = ring.process("node-1")
        config = process.config_path.read_text()
        other = tmp_path / "other.toml"
        for use in (100, 200, 300):
            config = config.replace(str(ring.shape.port + use), str(ring.shape.port + use + 5))
        other.write_text(config)
        done = _run_node(other)
        assert done.returncode != 0
        assert "another process" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_directory_of_another_node(tmp_path: Path) -> None:
    with running_ring(tmp_path, nodes=1) as ring:
        process = ring.process("node-1")
        process.stop()
        other = tmp_path / "other.toml"
        other.write_text(process.config_path.read_text().replace('name = "node-1"', 'name = "node-7"'))
        done = _run_node(other)
        assert done.returncode != 0
        assert "belongs to" in done.stderr
        assert "node-1" in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with running_ring(tmp_path, nodes=1) as ring:
        process = ring.process("node-1")
        other = tmp_path / "other.toml"
        data = str(process.directory / "data")
        other.write_text(process.config_path.read_text().replace(data, str(tmp_path / "elsewhere")))
        done = _run_node(other)
        assert done.returncode != 0
        assert "cannot listen on 127.0.0.1" in done.stderr
        assert "port" in done.stderr


def _run_node(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fortdb", "node", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _refusal(client: Client) -> FortError | None:
    try:
        client.put("probe", "1")
    except FortError as error:
        return error
    return None


def _touch_everything(ring: LocalRing, client: Client) -> None:
    """Let node-2 lead something, so that it reads its own files."""
    partition = partition_of(ring)
    if "node-2" in partition.isr and partition.leader != "node-2":
        try:
            client.move_leader(partition.name, "node-2")
        except FortError:
            return
    try:
        list(client.scan())
    except FortError:
        return

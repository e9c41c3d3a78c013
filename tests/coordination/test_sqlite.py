"""What only the SQLite store can suffer: other processes, a killed writer, a broken file, a reboot."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fortdb.coordination.open import open_store
from fortdb.coordination.sqlite import SqliteStore
from fortdb.errors import ConfigError, LeaseLost, StoreUnavailable, WatchLost
from tests.coordination.conftest import Watching
from tests.support.waiting import eventually

WRITER = """
import sys
from fortdb.coordination.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
for number in range(int(sys.argv[2])):
    store.put("/a", b"%d" % number)
    store.put("/b", b"%d" % number)
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_another_process_is_seen_by_a_watch(path: Path) -> None:
    store = SqliteStore(path)
    watching = Watching(store.watch("/", 0))
    subprocess.run(
        [sys.executable, "-c", WRITER, str(path), "5"], check=True, stdout=subprocess.PIPE, timeout=30
    )
    events = watching.wait_for(10)
    assert [event.value for event in events if event.key == "/b"] == [b"0", b"1", b"2", b"3", b"4"]
    watching.close()
    store.close()


def test_a_killed_writer_leaves_every_answered_change_and_no_half_one(path: Path) -> None:
    store = SqliteStore(path)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "1000000"], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                answered = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
            answered = int(rest[-1]) if rest else answered
        values = {item.key: int(item.value) for item in store.list("/").items}
        assert values["/b"] >= answered and values["/a"] - values["/b"] in (0, 1)
        revision = store.put("/after", b"0")  # no lock was left behind
        assert store.list("/").revision == revision
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    store.close()


def test_after_a_reboot_every_lease_has_ended(path: Path) -> None:
    before = SqliteStore(path, clock=lambda: 1_000_000, boot_id="first")
    lease = before.grant(60_000)
    before.create("/leased", b"", lease)
    before.create("/kept", b"")
    before.close()
    after = SqliteStore(path, clock=lambda: 5, boot_id="second")  # the clock began anew
    assert [item.key for item in after.list("/").items] == ["/kept"]
    with pytest.raises(LeaseLost):
        after.keepalive(lease)
    after.close()


def test_a_lease_ends_to_the_millisecond(path: Path) -> None:
    now_ms = [1_000]
    store = SqliteStore(path, clock=lambda: now_ms[0])
    store.create("/leased", b"", store.grant(250))
    now_ms[0] += 249
    assert store.get("/leased") is not None
    now_ms[0] += 1
    assert store.get("/leased") is None
    store.close()


def test_history_is_bounded_and_a_watch_from_further_back_is_lost(path: Path) -> None:
    store = SqliteStore(path, history_revisions=10)
    for number in range(30):
        store.put("/a", f"{number}".encode())
    kept = Watching(store.watch("/", 20))
    assert [event.revision for event in kept.wait_for(10)] == list(range(21, 31))
    kept.close()
    lost = Watching(store.watch("/", 19))
    eventually("the watch is lost", lambda: isinstance(lost.error, WatchLost))
    future = Watching(store.watch("/", 31))
    eventually("a watch from the future is lost", lambda: isinstance(future.error, WatchLost))
    store.close()


@pytest.mark.parametrize("spoil", ["header", "pages"])
def test_a_corrupt_file_is_called_corrupt(path: Path, spoil: str) -> None:
    store = SqliteStore(path)
    for number in range(50):
        store.put(f"/{number}", b"x" * 500)
    store.close()
    content = bytearray(path.read_bytes())
    if spoil == "header":
        content[:16] = b"not a database!!"
    else:
        content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="is corrupt") as caught:
        SqliteStore(path).list("/")
    assert str(path) in str(caught.value)


def test_another_programs_file_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()
    with pytest.raises(StoreUnavailable, match="another program"):
        SqliteStore(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened") as caught:
        SqliteStore(tmp_path / "absent" / "store.db")
    assert "absent" in str(caught.value)


def test_a_file_that_was_removed_is_missed_and_not_made_anew(path: Path) -> None:
    store = SqliteStore(path)
    path.unlink()
    watching = Watching(store.watch("/", 0))
    eventually("the watch fails", lambda: isinstance(watching.error, StoreUnavailable))
    assert "cannot be opened" in str(watching.error) and not path.exists()
    store.close()


def test_a_path_of_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "50% off? #1 grün.db"
    store = SqliteStore(path)
    store.put("/a", b"")
    store.close()
    assert path.exists()


def test_a_locked_file_is_unavailable_and_heals(path: Path) -> None:
    store = SqliteStore(path, request_ms_max=100)
    store.put("/a", b"1")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked by another process for 100 ms"):
        store.put("/a", b"2")
    assert store.get("/a") is not None  # readers do not wait for writers
    holder.execute("ROLLBACK")
    holder.close()
    store.put("/a", b"3")
    store.close()


def test_a_file_that_another_process_is_making_is_waited_for(path: Path) -> None:
    """The change to WAL is the one step in which SQLite gives up at once, with whatever time-out."""
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked by another process for 50 ms"):
        SqliteStore(path, request_ms_max=50)
    release = threading.Timer(0.2, holder.execute, ["ROLLBACK"])
    release.start()
    store = SqliteStore(path, request_ms_max=10_000)
    store.put("/a", b"")
    store.close()
    release.join()
    holder.close()


def test_many_processes_may_make_the_file_at_once(path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), "3"], stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    store = SqliteStore(path)
    assert store.list("/").revision == 4 * 3 * 2
    store.close()


def test_closing_leaves_no_file_open(path: Path) -> None:
    store = SqliteStore(path)
    threads = [threading.Thread(target=store.put, args=(f"/{n}", b"")) for n in range(5)]
    for thread in threads:
        thread.start()
    watching = Watching(store.watch("/", 0))
    watching.wait_for(5)
    for thread in threads:
        thread.join()
    assert _open_files(path)
    store.close()
    eventually("every connection is closed", lambda: watching.has_ended and not _open_files(path))


def test_addresses_of_stores(path: Path) -> None:
    open_store(f"sqlite:{path}", 1_000).close()
    open_store("http://127.0.0.1:1, http://127.0.0.1:2", 1_000).close()
    for wrong in (
        "",
        "sqlite:",
        "etcd",
        "http://",
        "http://h:port",
        "http://h:1/path",
        "http://h:1,ftp://h:2",
    ):
        with pytest.raises(ConfigError):
            open_store(wrong, 1_000)


def _open_files(path: Path) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [file for file in found if file.startswith(str(path))]

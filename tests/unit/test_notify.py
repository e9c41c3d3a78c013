"""sd_notify, with a socket that plays systemd's part."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.net.loop import Loop
from fortdb.net.notify import feed_watchdog, notify, watchdog_ms


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_lines_reach_the_service_manager(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=serving")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving"


def test_the_watchdog_is_fed_while_the_loop_runs(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_ms() == 20
    loop = Loop()
    feed_watchdog(loop)
    loop.call_later(100, loop.stop)
    loop.run(lambda: None)
    loop.close()
    assert manager.recv(1000) == b"WATCHDOG=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify("READY=1")
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_ms() == 0, "it is another process that is watched"

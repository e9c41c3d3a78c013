"""`make up` and what is around it, as a newcomer meets it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fortdb.local.ports import free_ring_port
from fortdb.local.ring import LocalRing

REPOSITORY = Path(__file__).parents[2]


class Shell:
    """Runs `fortdb local ...` on one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_ring_port()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fortdb", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "FORTDB_LOCAL_DIRECTORY": str(self.directory), "FORTDB_PORT": str(self.port)},
        )

    def up(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("local", "up", "--port", str(self.port), "--partitions", "6", *options)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path / "ring")
    yield made
    if LocalRing.exists(made.directory):
        for process in LocalRing(made.directory).processes.values():
            process.kill()


def test_up_down_and_up_again(shell: Shell) -> None:
    first = shell.up()
    assert first.returncode == 0, first.stderr
    assert "The ring is up" in first.stdout
    assert "node-3" in first.stdout
    assert shell.run("put", "kept", "over a restart").returncode == 0

    second = shell.up()
    assert second.returncode == 0, second.stderr
    assert "up already" in second.stdout

    assert shell.run("local", "down").returncode == 0
    assert "nothing runs" in shell.run("local", "down").stdout
    assert shell.run("get", "kept").returncode != 0

    assert shell.run("local", "up").returncode == 0
    assert shell.run("get", "kept").stdout == "over a restart"


def test_two_at_once(shell: Shell) -> None:
    """Two `make up` in two terminals: one of them starts the ring, neither breaks it."""
    command = [sys.executable, "-m", "fortdb", "local", "up", "--port", str(shell.port), "--partitions", "6"]
    environment = {**os.environ, "FORTDB_LOCAL_DIRECTORY": str(shell.directory)}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=120) for process in both]
    assert 0 in [process.returncode for process in both], outcomes
    assert all("Traceback" not in error for _, error in outcomes)
    assert shell.run("local", "up").returncode == 0
    assert shell.run("put", "k", "v").returncode == 0


def test_a_port_in_use_is_told_before_anything_starts(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", shell.port))
        taken.listen()
        done = shell.up()
    assert done.returncode != 0
    assert f"port {shell.port}" in done.stderr
    assert "--port" in done.stderr
    assert not LocalRing.exists(shell.directory)


def test_another_shape_is_refused(shell: Shell) -> None:
    assert shell.up().returncode == 0
    done = shell.run("local", "up", "--partitions", "12")
    assert done.returncode != 0
    assert "partitions 6, not 12" in done.stderr
    done = shell.run("local", "up", "--nodes", "2")
    assert "can only grow" in done.stderr
    done = shell.run("local", "kill", "node-9")
    assert "no process 'node-9'" in done.stderr


def test_a_process_that_dies_is_started_by_the_next_up(shell: Shell) -> None:
    assert shell.up().returncode == 0
    assert shell.run("local", "kill", "node-2").returncode == 0
    assert "down" in shell.run("local", "processes").stdout
    assert shell.run("local", "up").returncode == 0
    assert "down" not in shell.run("local", "processes").stdout


@pytest.mark.parametrize(
    ("python", "says"), [("no-such-python", "There is no 'no-such-python'"), ("/bin/false", "Python 3.11")]
)
def test_a_missing_or_old_python_is_told(tmp_path: Path, python: str, says: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed; on Debian or Ubuntu: apt-get install make")
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shutil.copy(REPOSITORY / "setup.py", tmp_path)
    done = subprocess.run(
        ["make", "up", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert says in done.stderr

"""Processes of a target: starting, ending, and what the kernel says of them in /proc.

Only processes started here are signalled, through their `Popen`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_S_MAX = 30.0


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do or where to look."""


class Usage(NamedTuple):
    """What processes have used since they began, all together."""

    cpu_s: float
    written_bytes: int

    def since(self, earlier: Usage) -> Usage:
        """The difference."""
        return Usage(self.cpu_s - earlier.cpu_s, self.written_bytes - earlier.written_bytes)


def cpu_s_of(stat: str) -> float:
    """Seconds of CPU, user's and kernel's, in the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def value_in(text: str, name: str) -> int:
    """The number after `name:` in the text of /proc/PID/io or /proc/PID/status."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise BenchError(f"the kernel tells no {name}")


def usage_of(pids: Iterable[int]) -> Usage:
    """CPU and bytes sent to the disk."""
    cpu_s, written = 0.0, 0
    for pid in pids:
        cpu_s += cpu_s_of(Path(f"/proc/{pid}/stat").read_text())
        written += value_in(Path(f"/proc/{pid}/io").read_text(), "write_bytes")
    return Usage(cpu_s, written)


def memory_of(pids: Iterable[int]) -> int:
    """Bytes of anonymous memory: what the processes hold themselves, the page cache left out."""
    return sum(value_in(Path(f"/proc/{pid}/status").read_text(), "RssAnon") * 1024 for pid in pids)


@dataclass
class Server:
    """One process and the command that starts it."""

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; does not wait until it serves."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=self.environment,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self) -> None:
        """Until it has ended; killed if that takes too long."""
        if self.process is not None:
            try:
                self.process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def check(self) -> None:
        """Raises `BenchError` if it has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-5:]
            raise BenchError(
                f"{Path(self.command[0]).name} ended by itself; its log ends:\n" + "\n".join(lines)
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid


def forget_pages(directory: Path) -> None:
    """Let the kernel drop the directory's files from its page cache, as far as they are on disk."""
    for path in directory.rglob("*"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # a directory, or gone meanwhile
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            continue
        finally:
            os.close(descriptor)

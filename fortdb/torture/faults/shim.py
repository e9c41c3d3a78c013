"""The disk and the clock of one process, bent from outside: `shim.c`, compiled at the start.

The shim is loaded into a node by LD_PRELOAD. What it is to do stands in a small file that both map into
memory, so a fault begins and ends between two system calls of the node, without a signal.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fortdb.errors import ConfigError

_SOURCE = Path(__file__).with_name("shim.c")
_CONTROL = struct.Struct("<qII")  # `struct control` in shim.c
_CONTROL_BYTES = mmap.PAGESIZE


def why_no_shim() -> str | None:
    """Why processes cannot be bent here, None if they can."""
    if shutil.which("cc") is None:
        return "there is no C compiler; on Debian or Ubuntu: apt-get install gcc libc6-dev"
    return None


def compile_shim(directory: Path) -> Path:
    """The shim as a shared object in `directory`. Raises `ConfigError`."""
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / "shim.so"
    options = ["-std=c11", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(made), str(_SOURCE), "-ldl"]
    compiled = subprocess.run(["cc", *options], capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise ConfigError(f"{_SOURCE.name} cannot be compiled:\n{compiled.stderr.strip()}")
    return made


class Shim:
    """The shim of one process: `root` is the process's data directory, `directory` is for the shim's own
    two files and lies outside."""

    def __init__(self, library: Path, directory: Path, root: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.journal = directory / "synced"
        self._library = library
        self._path = directory / "control"
        self._path.write_bytes(bytes(_CONTROL_BYTES))
        with self._path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _CONTROL_BYTES)
        self._offset_ns = 0
        self._delay_us = 0
        self._is_full = False

    @property
    def environment(self) -> Mapping[str, str]:
        """What the process needs to be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "TORTURE_CONTROL": str(self._path),
            "TORTURE_JOURNAL": str(self.journal),
            "TORTURE_ROOT": str(self.root),
        }

    def set_clock(self, offset_s: float) -> None:
        """Let the process's time of day be so far from the machine's."""
        self._offset_ns = int(offset_s * 1e9)
        self._write()

    def delay_syncs(self, delay_ms: float) -> None:
        """Let each fsync take so much longer."""
        self._delay_us = int(delay_ms * 1000)
        self._write()

    def fill_disk(self, is_full: bool) -> None:
        """Let nothing more be written, and no room be reported, below the data directory."""
        self._is_full = is_full
        self._write()

    def heal(self) -> None:
        """Everything as the machine has it."""
        self._offset_ns, self._delay_us, self._is_full = 0, 0, False
        self._write()

    def _write(self) -> None:
        self._page[: _CONTROL.size] = _CONTROL.pack(self._offset_ns, self._delay_us, self._is_full)

"""What the figures were measured on: enough to judge them, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path


def describe(directory: Path) -> dict[str, str]:
    """CPU, memory, kernel, file system of `directory`, versions."""
    return {
        "CPU": f"{os.cpu_count()} x {cpu_model(Path('/proc/cpuinfo').read_text())}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file system": file_system(Path("/proc/self/mounts").read_text(), directory.resolve()),
        "Python": platform.python_version(),
        "hiredis, rocksdict": f"{version('hiredis')}, {version('rocksdict')}",
        "Redis": _version_of("redis-server", r"v=(\S+)"),
        "etcd": _version_of("etcd", r"etcd Version: (\S+)"),
    }


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name in /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def file_system(mounts: str, directory: Path) -> str:
    """Which kind of file system holds a directory, by /proc/self/mounts."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        _, target, found, *_ = line.split()
        if directory.is_relative_to(target) and len(target) >= len(best):
            best, kind = target, found
    return kind


def _version_of(program: str, pattern: str) -> str:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "not installed"
    found = re.search(pattern, said)
    return found[1] if found else "unknown"

"""What the rehearsal needs of this machine, all that is missing told at once; and how it runs commands.

Every process of a rehearsal that outlives a call lives in one control group (`CONTROL_GROUP/<rehearsal>`), so
that one write to `cgroup.kill` ends them all, also those of a run that crashed: no process ids are noted,
and nothing else can be hit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "ssh": "openssh-client",
    "redis-cli": "redis-tools",
}
TERRAFORM = "terraform: see https://developer.hashicorp.com/terraform/install"
MODULES = ("ansible", "boto3", "moto", "pytest", "testinfra")


class RehearsalError(Exception):
    """The rehearsal cannot go on; the message says what to do or where to look."""


def missing(found: Callable[[str], object] = shutil.which, is_root: bool | None = None) -> list[str]:
    """Every reason why a rehearsal cannot run here, each with what helps; empty if it can."""
    from importlib.util import find_spec

    problems = []
    if not (os.geteuid() == 0 if is_root is None else is_root):
        problems.append("hosts and networks need root: run it with sudo, or as root in a virtual machine")
    packages = sorted({package for tool, package in PACKAGES.items() if not found(tool)})
    if packages:
        problems.append(f"apt-get install --yes {' '.join(packages)}")
    if not found("terraform"):
        problems.append(TERRAFORM)
    modules = [module for module in MODULES if find_spec(module) is None]
    if modules:
        problems.append(f"pip install -e '.[dev,deploy]' ({', '.join(modules)})")
    if control_group_root() is None:
        problems.append("no cgroup2 is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    return problems


def require(problems: Sequence[str]) -> None:
    """Raises `RehearsalError` that lists them."""
    if problems:
        raise RehearsalError("\n  - ".join(["what a rehearsal needs here:", *problems]))


def control_group_root(mounts: str | None = None) -> Path | None:
    """Where cgroup2 is mounted, wherever that is (`mounts`: as in /proc/self/mounts)."""
    for line in (Path("/proc/self/mounts").read_text() if mounts is None else mounts).splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    return None


def control_group(*names: str) -> Path:
    """The control group of that name, made if it is not there."""
    root = control_group_root()
    if root is None:
        raise RehearsalError("no cgroup2 is mounted")
    path = root.joinpath(*names)
    path.mkdir(parents=True, exist_ok=True)
    return path


def end_control_group(*names: str, seconds_max: float = 20.0) -> None:
    """Kill every process in it and remove it. Nothing happens if it is not there."""
    root = control_group_root()
    path = root.joinpath(*names) if root else None
    if path is None or not path.is_dir():
        return
    (path / "cgroup.kill").write_text("1")
    wait_until(lambda: "populated 0" in (path / "cgroup.events").read_text(), f"{path} to empty", seconds_max)
    for inner in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        inner.rmdir()
    path.rmdir()


def wait_until(condition: Callable[[], bool], what: str, seconds_max: float, every_s: float = 0.1) -> float:
    """Seconds it took. Raises `RehearsalError` that says what was waited for."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds_max:
            raise RehearsalError(f"waited {seconds_max:.0f} s for {what}")
        time.sleep(every_s)
    return time.monotonic() - start


def call(
    *command: str,
    text: str | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """A short command's output. Raises `RehearsalError` with what it said."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env=environment, cwd=directory
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RehearsalError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


def logged(
    command: Sequence[str],
    log: Path,
    group: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    lines_shown: int = 25,
) -> None:
    """A long command, its output in a file; its last lines are in the error if it fails."""
    with log.open("a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        done = subprocess.run(
            within(group, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-lines_shown:])
        raise RehearsalError(
            f"{Path(command[0]).name} ended with {done.returncode}; {log} ends with:\n{tail}"
        )


def within(group: Path, command: Sequence[str]) -> list[str]:
    """The command, started inside a control group."""
    return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]


def left_running(command: Sequence[str], log: Path, group: Path) -> subprocess.Popen[bytes]:
    """A process that outlives this one, in a session of its own, until its control group is ended."""
    with log.open("ab") as output:
        return subprocess.Popen(
            within(group, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def beside_python(program: str) -> str:
    """A program of the virtual environment that runs us, else the one on the path."""
    path = Path(sys.executable).with_name(program)
    return str(path) if path.exists() else program

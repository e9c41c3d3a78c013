"""The system that every host starts from: made once by debootstrap, kept in a cache, never written to again.

It plays the machine image. What FortDB's hosts would install from a package mirror is in it already, because
hosts have no way out: the rehearsal shows on the way that production nodes need none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

from rehearsal.tools import RehearsalError, call, logged

RELEASE = "bookworm"
USER = "admin"
PACKAGES = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "libpam-systemd",
        "openssh-server",
        "sudo",
        "procps",
        "kmod",
        "netbase",
    ),
    *("python3", "python3-apt", "python3-venv", "ca-certificates", "openssl", "iproute2", "iputils-ping"),
    *("nftables", "e2fsprogs", "etcd-server", "etcd-client"),
)
_FACTS = {"data_device": None}  # no block devices here: the data volume is mounted by the rehearsal
_VERSION = 1  # count up when `prepare` changes


def make_base(cache: Path, group: Path) -> Path:
    """The base of what is wanted, made if the cache does not have it (about a minute)."""
    wanted = hashlib.sha256(json.dumps([_VERSION, RELEASE, PACKAGES, _FACTS]).encode()).hexdigest()[:12]
    base = cache / f"image-{wanted}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            making = cache / f"image-{wanted}.making"
            shutil.rmtree(making, ignore_errors=True)
            include = f"--include={','.join(PACKAGES)}"
            command = ["debootstrap", "--variant=minbase", include, RELEASE, str(making), *_mirror()]
            logged(command, cache / "debootstrap.log", group)
            prepare(making)
            making.rename(base)
    return base


def prepare(root: Path) -> None:
    """What a fresh cloud machine has: a user who may become root, and nothing that is this host's alone."""
    call("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", USER)
    (root / "etc/sudoers.d/rehearsal").write_text(f"{USER} ALL=(ALL) NOPASSWD:ALL\n")
    call("chroot", str(root), "systemctl", "enable", "ssh.service")
    call("chroot", str(root), "systemctl", "disable", "etcd.service")  # the playbook's business
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for file in ("etc/machine-id", "etc/resolv.conf", "etc/hostname"):
        (root / file).unlink(missing_ok=True)
        (root / file).write_text("")
    facts = root / "etc/ansible/facts.d"
    facts.mkdir(parents=True)
    (facts / "fortdb.fact").write_text(json.dumps(_FACTS) + "\n")
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def _mirror() -> list[str]:
    """Where this machine itself gets the release's packages, if it does; else debootstrap's own choice."""
    if given := os.environ.get("FORTDB_REHEARSAL_MIRROR"):
        return [given]
    try:
        targets = call(
            "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"
        )
    except RehearsalError:
        return []
    found = (line.split() for line in targets.splitlines())
    return next(([uri] for release, uri in found if release == RELEASE), [])

"""Hosts with systemd and SSH, each with its own file system, network namespace and control group.

A host is an overlay on the base, run by systemd-nspawn (boot.sh). Its state is its directory: a killed host
boots again from it, as a machine does from its disk. A node's data volume is a directory of its own, bound
to /var/lib/fortdb, and outlives the host as an EBS volume does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from rehearsal.base import USER
from rehearsal.network import Network
from rehearsal.tools import RehearsalError, call, control_group, end_control_group, left_running, wait_until

BOOT_S_MAX = 120.0
_BOOT = Path(__file__).with_name("boot.sh")
_DATA = "/var/lib/fortdb"


@dataclass(frozen=True)
class Access:
    """How to get into the hosts: a key pair of this run's, and what is known of the hosts' own keys."""

    directory: Path

    @property
    def key(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def config(self) -> Path:
        return self.directory / "ssh_config"

    def make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            _make_key(self.key, "rehearsal")
        self.known_hosts.touch()
        self.config.write_text(
            f"Host *\n  User {USER}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        )

    def note(self, name: str, address: str, public_key: str) -> None:
        """A host's own key, under its name and its address."""
        kept = [line for line in self.known_hosts.read_text().splitlines() if not line.startswith(f"{name},")]
        self.known_hosts.write_text("\n".join([*kept, f"{name},{address} {public_key}", ""]))
        self.config.write_text(f"Host {name}\n  HostName {address}\n" + self.config.read_text())

    @property
    def environment(self) -> dict[str, str]:
        """What lets Ansible and pytest in; the files of the bundle know nothing of it."""
        return {
            "ANSIBLE_REMOTE_USER": USER,
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.key),
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {self.config}",
            "FORTDB_SSH_USER": USER,
        }


@dataclass(frozen=True)
class Host:
    """A machine. `directory` holds all runs' state: hosts/NAME and volumes/NAME below it are this one's."""

    name: str
    address: str
    zone: str
    has_volume: bool
    network: Network
    directory: Path
    access: Access

    @property
    def own(self) -> Path:
        return self.directory / "hosts" / self.name

    @property
    def console(self) -> Path:
        return self.own / "console.log"

    @property
    def volume(self) -> Path:
        return self.directory / "volumes" / self.name

    def create(self) -> None:
        """Disk, keys and cable; nothing runs. A host that was created before is left as it is."""
        self.network.attach(self.name, self.address)
        if self.own.exists():
            return
        etc, home = self.own / "upper/etc", self.own / "upper/home" / USER
        for path in (etc / "ssh", home / ".ssh", self.own / "work", self.own / "root", self.volume):
            path.mkdir(parents=True, exist_ok=True)
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        key = etc / "ssh/ssh_host_ed25519_key"
        _make_key(key, self.name)
        kind, public = key.with_suffix(".pub").read_text().split()[:2]
        self.access.note(self.name, self.address, f"{kind} {public}")
        (home / ".ssh/authorized_keys").write_text(self.access.public_key + "\n")
        (home / ".ssh").chmod(0o700)
        for path in (home, *home.rglob("*")):
            os.chown(path, 1000, 1000)

    def power_on(self, base: Path) -> None:
        """Begin to boot; see `wait`."""
        self.network.plug(self.name, is_in=True)
        bound = [f"{self.volume}:{_DATA}"] if self.has_volume else []
        inside = (self.network.namespace(self.name), self.address, self.network.gateway(self.address))
        command = ["unshare", "--mount", str(_BOOT), str(self.own), str(base), self.name, *inside, *bound]
        left_running(command, self.console, control_group(self.network.tag, self.name))

    def wait(self) -> None:
        """Until SSH lets us in and systemd has started everything."""
        wait_until(
            lambda: self.state() in ("running", "degraded"),
            f"{self.name} to boot: {self.console}",
            BOOT_S_MAX,
        )

    def state(self) -> str:
        """As systemd has it; empty if the host does not answer."""
        return self.ssh("systemctl is-system-running", check=False).strip()

    def ssh(self, command: str, check: bool = True) -> str:
        """Run a command there, as the user who may become root."""
        return call(
            *("ssh", "-F", str(self.access.config), "-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=2"),
            *("-o", "ServerAliveCountMax=2", self.name, command),
            check=check,
        )

    def reboot(self) -> None:
        """Ask it to, and wait until it is back."""
        before = self._boot_id()
        self.ssh("sudo systemctl reboot", check=False)
        wait_until(
            lambda: self._boot_id() not in ("", before), f"{self.name} to reboot: {self.console}", BOOT_S_MAX
        )
        self.wait()

    def kill(self) -> None:
        """Cut the power: nothing on the host gets to do anything, and nobody is told."""
        self.network.plug(self.name, is_in=False)
        end_control_group(self.network.tag, self.name)

    def stop(self) -> None:
        """Shut down in order."""
        self.ssh("sudo systemctl poweroff", check=False)
        events = control_group(self.network.tag, self.name) / "cgroup.events"
        wait_until(lambda: "populated 0" in events.read_text(), f"{self.name} to power off", 60.0)
        end_control_group(self.network.tag, self.name)

    def _boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id", check=False).strip()


def host_from(words: str, network: Network, directory: Path, access: Access) -> Host:
    """From NAME=ADDRESS:ZONE, as the command line has it. Names that begin with "node" have a data volume."""
    name, equals, rest = words.partition("=")
    address, colon, zone = rest.partition(":")
    if not (name and equals and address):
        raise RehearsalError(f"a host is NAME=ADDRESS or NAME=ADDRESS:ZONE, not {words!r}")
    return Host(
        name, address, zone if colon else "local", name.startswith("node"), network, directory, access
    )


def tear_down(network: Network) -> list[str]:
    """End every process of a rehearsal, also of one that crashed, and remove its network. Returns what is left
    (nothing). Mounts go with the processes: each host had a mount namespace of its own."""
    end_control_group(network.tag)
    network.down()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [
        *network.leftovers(),
        *(f"mount {line.split()[1]}" for line in mounts if f"/{network.tag}-" in line),
    ]


def forget(directory: Path) -> None:
    """Remove disks and volumes of hosts; logs stay."""
    for part in ("hosts", "volumes"):
        shutil.rmtree(directory / part, ignore_errors=True)


def _make_key(path: Path, comment: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=False
    )
    if done.returncode:
        raise RehearsalError(f"ssh-keygen could not make {path}")

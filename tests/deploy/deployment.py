"""What was deployed, as the inventory tells it: hosts with their roles, and what they say of the ring."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

FORTDB = "/usr/local/bin/fortdb"
TLS = "/etc/fortdb/tls"
NODE_PORT = 5100
ROUTER_PORT = 5000

# Runs on a host: sends its standard input to a server of it and prints all that comes back.
_TALK = f"""
import socket, ssl, sys
host, port, *words = sys.argv[1:]
lines = sys.stdin.buffer.read()
connection = socket.create_connection((host, int(port)), 5)
answer = b""
try:
    if "--tls" in words:
        connection = ssl.create_default_context(cafile="{TLS}/ca.pem").wrap_socket(connection, server_hostname=host)
    if "--login" in words:
        lines = b"AUTH admin " + open("/etc/fortdb/admin.password", "rb").read().strip() + b"\\r\\n" + lines
    connection.sendall(lines)
    while data := connection.recv(65536):
        answer += data
except OSError as error:
    answer += str(error).encode()
sys.stdout.buffer.write(answer)
"""


def _beside_python(program: str) -> str:
    """A program of this virtual environment, whether it is activated or not."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else program


def _plain(value: Any) -> Any:
    """What an inventory plugin brought is marked as unsafe to template; here it is only read."""
    if isinstance(value, dict):
        if value.keys() == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Access:
    """How hosts are reached. All that ssh runs on one goes through one connection, whose socket lies in `sockets`
    until `close`."""

    user: str = ""
    identity_file: str = ""
    ssh_config: str = ""
    sockets: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fortdb-checks-")))

    def host(self, address: str) -> Host:
        """As root."""
        options: dict[str, Any] = {"sudo": True, "timeout": 20, "controlpath": self.sockets / address}
        if self.ssh_config:
            options["ssh_config"] = self.ssh_config
        if self.identity_file:
            options["ssh_identity_file"] = self.identity_file
        user = f"{self.user}@" if self.user else ""
        return testinfra.get_host(f"ssh://{user}{address}", **options)

    def close(self) -> None:
        """Hang up. Idempotent."""
        for socket in self.sockets.glob("*"):
            hang_up = ["ssh", "-O", "exit", "-o", f"ControlPath={socket}", socket.name]
            subprocess.run(hang_up, capture_output=True, check=False)  # the host may have hung up before
        shutil.rmtree(self.sockets, ignore_errors=True)


@dataclass(frozen=True)
class Machine:
    """One host of the inventory."""

    name: str
    variables: Mapping[str, Any]
    groups: frozenset[str]
    access: Access

    @cached_property
    def host(self) -> Host:
        """The connection, as root."""
        return self.access.host(self.address)

    @property
    def address(self) -> str:
        return str(self.variables.get("ansible_host", self.name))

    @property
    def zone(self) -> str:
        return str(self.variables.get("fortdb_zone", "local"))

    @property
    def units(self) -> list[str]:
        """The units that its roles bring."""
        return [
            unit
            for group, unit in (
                ("etcd", "etcd.service"),
                ("fortdb_nodes", f"fortdb-node@{self.name}.service"),
                ("fortdb_routers", "fortdb-router.service"),
            )
            if group in self.groups
        ]

    def run_json(self, command: str) -> Any:
        """A command's output, which must be JSON."""
        done = self.host.run(command)
        assert done.rc in (0, 2), f"{self.name}: {command} ended with {done.rc}: {done.stderr.strip()}"
        return json.loads(done.stdout)

    @property
    def is_protected(self) -> bool:
        """Whether the inventory asks for TLS and users."""
        return not self.variables.get("fortdb_unprotected")

    def ask(self, port: int, *lines: str) -> str:
        """What a server on this host answers to text lines of the ring's admin."""
        words = ["--tls", "--login"] if self.is_protected else []
        return self._talk(port, lines, *words)

    def ask_as_nobody(self, port: int, *lines: str) -> str:
        """The same, without a login; what TLS refuses is an answer, too."""
        return self._talk(port, lines, "--tls")

    def ask_in_plain_text(self, port: int, *lines: str) -> str:
        """The same, without TLS either."""
        return self._talk(port, lines)

    def _talk(self, port: int, lines: tuple[str, ...], *words: str) -> str:
        command = ["/opt/fortdb/current/bin/python", "-c", _TALK, self.address, str(port), *words]
        text = "\r\n".join((*lines, "QUIT", ""))
        done = self.host.run(f"printf %s {shlex.quote(text)} | {shlex.join(command)}")
        assert done.rc == 0, f"{self.name}: nobody talks at port {port}: {done.stderr.strip()}"
        return str(done.stdout)

    def show(self, unit: str) -> dict[str, str]:
        """A unit's properties as systemd reports them."""
        done = self.host.run(f"systemctl show {unit}")
        assert done.rc == 0, done.stderr
        return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


class Deployment:
    """All hosts of an inventory, or those whose names match one of the patterns."""

    def __init__(self, inventory: str, patterns: list[str], access: Access) -> None:
        done = subprocess.run(
            [_beside_python("ansible-inventory"), "--inventory", inventory, "--list"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"the inventory {inventory} cannot be read:\n{done.stderr}"
        document = _plain(json.loads(done.stdout))
        variables = document["_meta"]["hostvars"]
        groups = {name: set(group.get("hosts", ())) for name, group in document.items() if name != "_meta"}
        self.everyone = [
            Machine(
                name,
                variables.get(name, {}),
                frozenset(group for group, members in groups.items() if name in members),
                access,
            )
            for name in sorted({host for members in groups.values() for host in members})
        ]
        self.machines = [
            machine
            for machine in self.everyone
            if any(fnmatch(machine.name, pattern) for pattern in patterns)
        ]

    def of(self, group: str) -> list[Machine]:
        """The hosts of a group."""
        return [machine for machine in self.machines if group in machine.groups]

"""What was deployed, as the inventory tells it: hosts with their roles, and what they say of the ring."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import testinfra
from testinfra.host import Host

FORTDB = "/opt/fortdb/current/bin/fortdb"


@dataclass(frozen=True)
class Access:
    """How hosts are reached."""

    connection: str = "ssh"
    user: str = ""
    identity_file: str = ""
    ssh_config: str = ""

    def url(self, address: str) -> str:
        """As testinfra takes it."""
        options = {
            "ssh_identity_file": self.identity_file,
            "ssh_config": self.ssh_config,
            "sudo": "true",
            "timeout": "20",
        }
        query = "&".join(f"{name}={value}" for name, value in options.items() if value)
        user = f"{self.user}@" if self.user else ""
        return f"{self.connection}://{user}{address}?{query}"


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
        return testinfra.get_host(self.access.url(self.address))

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

    def show(self, unit: str) -> dict[str, str]:
        """A unit's properties as systemd reports them."""
        done = self.host.run(f"systemctl show {unit}")
        assert done.rc == 0, done.stderr
        return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


class Deployment:
    """All hosts of an inventory, or those whose names match one of the patterns."""

    def __init__(self, inventory: str, patterns: list[str], access: Access) -> None:
        done = subprocess.run(
            ["ansible-inventory", "--inventory", inventory, "--list"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"the inventory {inventory} cannot be read:\n{done.stderr}"
        document = json.loads(done.stdout)
        variables = document["_meta"]["hostvars"]
        groups = {name: set(group.get("hosts", ())) for name, group in document.items() if name != "_meta"}
        self.machines = [
            Machine(
                name,
                variables.get(name, {}),
                frozenset(group for group, members in groups.items() if name in members),
                access,
            )
            for name in sorted({host for members in groups.values() for host in members})
            if any(fnmatch(name, pattern) for pattern in patterns)
        ]

    def of(self, group: str) -> list[Machine]:
        """The hosts of a group."""
        return [machine for machine in self.machines if group in machine.groups]

"""The VPC as namespaces and bridges of this machine.

A namespace of its own plays AWS's network: a bridge `vpc` with the first address of every subnet, and a bridge
`internet`. Hosts hang on the first with exactly their private address, as does this machine (the operator,
who reaches private addresses as through a VPN) at x.255.2. Clients hang on the second. An Elastic IP is no
address of a host: as in AWS the gateway between the two rewrites it, without state, so that it moves at once
and what was connected through it is cut off.

One number names a rehearsal, the second of its VPC 10.N.0.0/16: several can run side by side. The others are
198.18.N.0/24 (clients) and 198.19.N.0/24 (Elastic IPs), networks set aside for tests (RFC 2544).
Nothing of this machine's own settings is changed but for two interfaces, which go with the namespace.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rehearsal.tools import RehearsalError, call

CLIENT = "client"


@dataclass(frozen=True)
class Network:
    """A VPC, 10.N.0.0/16. Everything on this machine that belongs to it has a name with `tag` in front."""

    vpc_cidr: str = "10.20.0.0/16"

    def __post_init__(self) -> None:
        octets = self.vpc_cidr.split(".")
        if len(octets) != 4 or octets[0] != "10" or ".".join(octets[2:]) != "0.0/16":
            raise RehearsalError(f"the VPC of a rehearsal is 10.N.0.0/16, not {self.vpc_cidr}")
        ipaddress.ip_network(self.vpc_cidr)

    @cached_property
    def number(self) -> int:
        return int(self.vpc_cidr.split(".")[1])

    @property
    def tag(self) -> str:
        return f"fortdb{self.number}"

    @property
    def vpc(self) -> str:
        """The namespace that plays AWS's network."""
        return f"{self.tag}-vpc"

    @property
    def operator(self) -> str:
        """This machine's address in the VPC; the simulated AWS listens there."""
        return f"10.{self.number}.255.2"

    @property
    def clients_cidr(self) -> str:
        return f"198.18.{self.number}.0/24"

    def elastic_ip(self, index: int) -> str:
        """The address that the simulated AWS hands out as the index-th, from 0."""
        if not 0 <= index < 254:
            raise RehearsalError("the rehearsal has 254 public addresses")
        return f"198.19.{self.number}.{index + 1}"

    def gateway(self, address: str) -> str:
        """The first address of a host's /24."""
        if ipaddress.ip_address(address) not in ipaddress.ip_network(self.vpc_cidr):
            raise RehearsalError(f"{address} is not in {self.vpc_cidr}")
        return address.rsplit(".", 1)[0] + ".1"

    def namespace(self, host: str) -> str:
        return f"{self.tag}-{host}"

    def up(self) -> None:
        """Make the VPC, the operator's two interfaces and a namespace for clients."""
        outside = f"198.18.{self.number}"
        call("ip", "netns", "add", self.vpc)
        self._in_vpc("link set lo up")
        for bridge, address in (("vpc", f"10.{self.number}.255.1/24"), ("internet", f"{outside}.1/24")):
            self._in_vpc(f"link add {bridge} type bridge")
            self._in_vpc(f"address add {address} dev {bridge}")
            self._in_vpc(f"link set {bridge} up")
        self._in_vpc(f"route add blackhole 198.19.{self.number}.0/24")
        call("ip", "netns", "exec", self.vpc, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for bridge, address, beyond in (
            ("vpc", f"{self.operator}/24", f"{self.vpc_cidr} via 10.{self.number}.255.1"),
            ("internet", f"{outside}.2/24", f"198.19.{self.number}.0/24 via {outside}.1"),
        ):
            ours = self.tag + bridge[:3]
            call(*f"ip link add {ours} type veth peer name operator-{bridge[:3]} netns {self.vpc}".split())
            self._in_vpc(f"link set operator-{bridge[:3]} master {bridge} up")
            call(*f"ip address add {address} dev {ours}".split())
            call(*f"ip link set {ours} up".split())
            call(*f"ip route add {beyond}".split())
        self._attach(CLIENT, "internet", f"{outside}.10", f"{outside}.1")

    def attach(self, host: str, address: str) -> None:
        """Give a host its namespace, and an eth0 with its private address on the VPC's bridge."""
        self._in_vpc(f"address replace {self.gateway(address)}/24 dev vpc")
        self._attach(host, "vpc", address, self.gateway(address))

    def _attach(self, host: str, bridge: str, address: str, gateway: str) -> None:
        name = self.namespace(host)
        if name in namespaces():
            return
        # The hardware address follows from the private one: no neighbour remembers a wrong one.
        hardware = "02:00:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))
        call("ip", "netns", "add", name)
        call(
            *f"ip -n {name} link add eth0 address {hardware} type veth peer name {host} netns {self.vpc}".split()
        )
        call(*f"ip -n {name} address add {address}/24 dev eth0".split())
        call(*f"ip -n {name} link set eth0 up".split())
        call(*f"ip -n {name} link set lo up".split())
        self._in_vpc(f"link set {host} master {bridge} up")
        call(*f"ip -n {name} route replace default via {gateway}".split())

    def plug(self, host: str, is_in: bool) -> None:
        """Put a host's cable in or pull it. Pulled before a power cut: a dead machine refuses nothing."""
        self._in_vpc(f"link set {host} {'up' if is_in else 'down'}")

    def down(self) -> None:
        """Remove all of it, also what only half came up. Its processes must be gone."""
        for name in namespaces():
            if name.startswith(f"{self.tag}-"):
                call("ip", "netns", "delete", name)
        for link in json.loads(call("ip", "-json", "link", "show", "type", "veth") or "[]"):
            if link.get("ifname") in (f"{self.tag}vpc", f"{self.tag}int"):
                call("ip", "link", "delete", link["ifname"], check=False)

    def leftovers(self) -> list[str]:
        """What is still there of it."""
        links = json.loads(call("ip", "-json", "link", "show"))
        return [
            *(f"namespace {name}" for name in namespaces() if name.startswith(f"{self.tag}-")),
            *(f"interface {link['ifname']}" for link in links if link["ifname"].startswith(self.tag)),
        ]

    def lead(self, leads: Mapping[str, str]) -> None:
        """Let public addresses lead to private ones, all at once; those that are not named lead nowhere."""
        call("ip", "netns", "exec", self.vpc, "nft", "-f", "-", text=gateway_rules(leads))

    def _in_vpc(self, arguments: str) -> None:
        call("ip", "-n", self.vpc, *arguments.split())


def gateway_rules(leads: Mapping[str, str]) -> str:
    """The gateway's rules, for `nft -f`: one transaction that replaces what was there."""
    inward = "".join(f'    iifname "internet" ip daddr {a} ip daddr set {b}\n' for a, b in leads.items())
    outward = "".join(f'    oifname "internet" ip saddr {b} ip saddr set {a}\n' for a, b in leads.items())
    return (
        "table ip gateway\ndelete table ip gateway\ntable ip gateway {\n"
        f"  chain inward {{\n    type filter hook prerouting priority raw\n{inward}  }}\n"
        f"  chain outward {{\n    type filter hook postrouting priority raw\n{outward}  }}\n}}\n"
    )


def namespaces() -> list[str]:
    """All named network namespaces of this machine."""
    return [line.split()[0] for line in call("ip", "netns", "list").splitlines() if line.strip()]

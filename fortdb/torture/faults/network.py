"""A network to break: a namespace for each process of a ring, and a switch of our own between them.

Each namespace has a TUN device with one address. All packets pass the switch (`switch.py`), which looks
up the link (from, to): whether it is up, how many packets it loses, how long they take. So a partition,
a one-way cut, a bridge, loss and delay are one mechanism, in each direction by itself. The kernel's own
netem is not in every kernel; this needs network namespaces, /dev/net/tun and root.

Namespaces are named after the process that made them, and go with it; what one that was killed left
behind is removed by the next.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fortdb.errors import ConfigError

_PREFIX = "fortdb-torture-"
_NAMESPACES = Path("/run/netns")
_SUBNET = "198.18.0"  # set apart for benchmarks of networks, RFC 2544
_DEVICE = "torture"
_MTU_BYTES = 65_520  # few packets: what they cost, they cost in Python
_QUEUE_PACKETS = 5_000

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TUN = Path("/dev/net/tun")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Link:
    """The way of packets from one process to another."""

    up: bool = True
    loss: float = 0.0  # probability
    delay_ms: float = 0.0


Links = Mapping[tuple[str, str], Link]
"""(from, to) -> what is wrong with that link; others are as they should be."""


def why_no_network() -> str | None:
    """Why there can be no network of our own here, None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing; on Debian or Ubuntu: apt-get install iproute2 util-linux"
    try:
        os.close(os.open(_TUN, os.O_RDWR))
    except OSError as error:
        return f"{_TUN} cannot be used: {error.strerror}"
    return None


class Network:
    """One namespace for each name; `with` makes and removes them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._addresses = {name: f"{_SUBNET}.{number}" for number, name in enumerate(names, 1)}
        self._switch: subprocess.Popen[str] | None = None

    def address(self, name: str) -> str:
        """The address of a process."""
        return self._addresses[name]

    def prefix(self, name: str) -> tuple[str, ...]:
        """What starts a program in the namespace, in the same process."""
        return ("nsenter", f"--net={_NAMESPACES / self._namespace(name)}", "--")

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            ports = self._make()
            arguments = [f"{port}={self._addresses[name]}" for name, port in ports.items()]
            self._switch = subprocess.Popen(
                [sys.executable, "-m", "fortdb.torture.faults.switch", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=list(ports.values()),
                start_new_session=True,  # Ctrl-C is for us; the switch is still needed to heal
            )
            for port in ports.values():
                os.close(port)
            self.set({})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the switch, remove the namespaces. What still runs in one keeps it, without a name."""
        if self._switch is not None:
            assert self._switch.stdin is not None and self._switch.stdout is not None
            self._switch.stdin.close()
            self._switch.wait()
            self._switch.stdout.close()
            self._switch = None
        for name in self.names:
            if (_NAMESPACES / self._namespace(name)).exists():
                _ip("netns", "delete", self._namespace(name))

    def set(self, links: Links) -> None:
        """Let these links be as told, and all others be well; in force when this returns."""
        assert self._switch is not None and self._switch.stdin and self._switch.stdout
        rows = [
            [self._addresses[source], self._addresses[to], link.up, link.loss, link.delay_ms]
            for (source, to), link in links.items()
        ]
        self._switch.stdin.write(json.dumps(rows) + "\n")
        self._switch.stdin.flush()
        if self._switch.stdout.readline() != "ok\n":
            raise ConfigError("the switch of the torture's network ended")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and what it starts meanwhile, be in a namespace."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(_NAMESPACES / self._namespace(name))
            yield
        finally:
            _set_namespace(outside)
            os.close(outside)

    def _namespace(self, name: str) -> str:
        return f"{_PREFIX}{os.getpid()}-{name}"

    def _make(self) -> dict[str, int]:
        """Make the namespaces; an open TUN device for each."""
        ports: dict[str, int] = {}
        for name, address in self._addresses.items():
            namespace = self._namespace(name)
            _ip("netns", "add", namespace)
            ports[name] = _in_own_thread(_NAMESPACES / namespace)
            inside = ("-n", namespace)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "address", "add", f"{address}/24", "dev", _DEVICE)
            _ip(*inside, "link", "set", _DEVICE, "mtu", str(_MTU_BYTES), "txqueuelen", str(_QUEUE_PACKETS))
            _ip(*inside, "link", "set", _DEVICE, "up")
        return ports


def _in_own_thread(namespace: Path) -> int:
    """A TUN device made in a namespace: it belongs to the one in which its thread stands."""
    made: list[int] = []

    def make() -> None:
        _enter(namespace)
        port = os.open(_TUN, os.O_RDWR)
        fcntl.ioctl(port, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        made.append(port)

    thread = threading.Thread(target=make, name="tun")
    thread.start()
    thread.join()
    if not made:
        raise ConfigError("no TUN device can be made in a network namespace")
    return made[0]


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    """setns(2), of this thread alone."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def _remove_leftovers() -> None:
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        maker = path.name.removeprefix(_PREFIX).partition("-")[0]
        if maker.isdigit() and not Path("/proc", maker).exists():
            _ip("netns", "delete", path.name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"ip {' '.join(words)}: {done.stderr.strip()}")

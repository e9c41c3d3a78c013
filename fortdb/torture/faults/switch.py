"""The switch between the namespaces of a tortured ring: reads IP packets, and forwards or loses them.

A program of its own, started by `network.py`, which hands it an open TUN device for each namespace:

    python -m fortdb.torture.faults.switch DESCRIPTOR=ADDRESS ...

On standard input it gets one JSON array a line, all links that are not as they should be:
`[[from, to, up, loss, delay_ms], ...]`, and says `ok` when they are in force. It ends with its input.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import sys
from time import monotonic

_PACKET_BYTES_MAX = 65_536
_BURST_MAX = 64  # packets of one namespace before another has its turn
_IPV4 = 4
_DESTINATION = slice(16, 20)  # of an IPv4 header, RFC 791

Link = tuple[bool, float, float]
"""Whether it is up, the probability of losing a packet, and what it adds to its way in seconds."""


class Switch:
    """Ports are TUN devices by their namespace's address."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = {_packed(address): port for address, port in ports.items()}
        self._addresses = {port: address for address, port in self._ports.items()}
        self._links: dict[tuple[bytes, bytes], Link] = {}
        self._late: list[tuple[float, int, int, bytes]] = []  # (when, number, port, packet)
        self._number = 0
        self._input = b""
        self._epoll = select.epoll()
        for port in self._addresses:
            os.set_blocking(port, False)
            self._epoll.register(port, select.EPOLLIN)
        os.set_blocking(sys.stdin.fileno(), False)
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until standard input ends."""
        control = sys.stdin.fileno()
        while True:
            wait_s = max(0.0, self._late[0][0] - monotonic()) if self._late else -1
            for ready, _ in self._epoll.poll(wait_s):
                if ready != control:
                    self._forward(ready)
                elif not self._control(control):
                    return
            while self._late and self._late[0][0] <= monotonic():
                _, _, port, packet = heapq.heappop(self._late)
                _send(port, packet)

    def _forward(self, source: int) -> None:
        own, ports, links = self._addresses[source], self._ports, self._links
        for _ in range(_BURST_MAX):
            try:
                packet = os.read(source, _PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            destination = packet[_DESTINATION]
            port = ports.get(destination)
            if port is None or packet[0] >> 4 != _IPV4:
                continue
            link = links.get((own, destination))
            if link is None:
                _send(port, packet)
                continue
            up, loss, delay_s = link
            if not up or (loss and random.random() < loss):  # nosec B311 # packets are lost, no secrets made
                continue
            self._number += 1
            heapq.heappush(self._late, (monotonic() + delay_s, self._number, port, packet))

    def _control(self, control: int) -> bool:
        data = os.read(control, 1 << 20)
        if not data:
            return False
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._links = {
                (_packed(source), _packed(to)): (up, loss, delay_ms / 1000)
                for source, to, up, loss, delay_ms in json.loads(line)
            }
            sys.stdout.write("ok\n")
            sys.stdout.flush()
        return True


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def _send(port: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the device's queue is full, or it is gone: a packet is lost
        os.write(port, packet)


def main() -> None:
    ports = dict(argument.split("=") for argument in sys.argv[1:])
    for port in ports:
        fcntl.fcntl(int(port), fcntl.F_GETFL)  # fails at once if it was not handed over
    Switch({address: int(port) for port, address in ports.items()}).run()


if __name__ == "__main__":
    main()

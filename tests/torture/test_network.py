"""The torture's own network: links are cut, lossy and slow in each direction by itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fortdb.torture.faults.network import Link, Network, why_no_network
from tests.support.waiting import eventually

PORT = 7
PATIENCE_S = 5.0
ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind((sys.argv[1], 7))
print("up", flush=True)
while True:
    data, sender = echo.recvfrom(65536)
    echo.sendto(data, sender)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)
    with Network(["a", "b"]) as made:
        yield made


@contextmanager
def echo_on(network: Network, name: str) -> Iterator[None]:
    command = [*network.prefix(name), sys.executable, "-c", ECHO, network.address(name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def answers(network: Network, count: int = 1, wait_s: float = 0.2) -> list[float]:
    """Seconds that each of `count` datagrams took to b and back to a; those lost are missing."""
    took: list[float] = []
    with network.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.settimeout(wait_s)
        for number in range(count):
            began_s = time.monotonic()
            ours.sendto(b"%d." % number + bytes(1000), (network.address("b"), PORT))
            with contextlib.suppress(TimeoutError):
                while not ours.recv(65536).startswith(b"%d." % number):
                    pass  # the answer to one that was given up
                took.append(time.monotonic() - began_s)
    return took


def test_links_are_cut_lossy_and_slow(network: Network) -> None:
    with echo_on(network, "b"):
        eventually("the echo answers", lambda: answers(network))
        network.set({("a", "b"): Link(up=False)})
        assert answers(network) == []
        network.set({("b", "a"): Link(up=False)})
        assert answers(network) == []
        network.set({("a", "b"): Link(delay_ms=40), ("b", "a"): Link(delay_ms=20)})
        assert all(took >= 0.06 for took in answers(network, 3, PATIENCE_S))
        network.set({("a", "b"): Link(loss=0.5)})
        assert 5 < len(answers(network, 60, 0.02)) < 55
        network.set({})
        assert len(answers(network, 20, PATIENCE_S)) == 20


def test_nothing_is_left(network: Network) -> None:
    network.close()
    assert not list(Path("/run/netns").glob(f"fortdb-torture-{os.getpid()}-*"))

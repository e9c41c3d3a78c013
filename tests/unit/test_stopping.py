"""What a node leaves behind when it stops: nobody who still waits for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from fortdb.net.peer import Greeting
from tests.support.guarded import Talk, guarded_node


@pytest.mark.parametrize("in_c", [True, False], ids=["c", "python"])
def test_everybody_is_hung_up_on(tmp_path: Path, in_c: bool) -> None:
    with contextlib.ExitStack() as left:
        with guarded_node(tmp_path, in_c=in_c) as node:
            client, router, nameless = (
                left.enter_context(Talk(port)) for port in (node.port, node.peers.port, node.peers.port)
            )
            assert client.say(["PING"]) == [b"+PONG"]
            router.socket.sendall(Greeting("c", "router-1", session=7).encode())
            assert router.rest(1)
        assert client.is_over()
        assert nameless.is_over()
        router.rest(1 << 20)  # the rest of the greeting, up to the end

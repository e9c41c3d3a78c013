"""Walks over all keys, which one thread of a node does: how many wait for it, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from fortdb.clock import steady_ms
from fortdb.limits import ROUTER_DEADLINE_MS_MAX, WALKS_MAX
from fortdb.model import Keyspace
from fortdb.node import walks
from fortdb.protocol.commands import TABLE
from fortdb.protocol.resp import pack
from fortdb.storage.rocks import RocksCursor
from tests.support.waiting import eventually
from tests.unit.test_native_clients import Node


@pytest.fixture
def made() -> Iterator[Node]:
    with Node(in_c=False) as running:
        yield running


@pytest.fixture
def go_on(made: Node) -> Iterator[Callable[[], None]]:
    """The thread is busy until that is called."""
    busy = Event()
    made.service._jobs.submit(busy.wait)
    yield busy.set
    busy.set()


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[str]:
    """Calls of a method from now on."""
    calls: list[str] = []
    method = getattr(owner, name)

    def call(*args: object) -> object:
        calls.append(name)
        return method(*args)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_only_a_few_walks_wait(
    made: Node, go_on: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cursors = counted(monkeypatch, made.engine, "cursor")
    made.client.send(pack([b"DBSIZE", b"orders"]) * (WALKS_MAX + 3))
    made.turn(5)
    assert len(cursors) == 2 * WALKS_MAX, "keys and histories"
    go_on()
    busy = b"-BUSY 4 walks over all keys wait in node; try again\r\n"
    assert made.say(b"") == b":0\r\n" * WALKS_MAX + busy * 3
    assert made.say(pack([b"DBSIZE"]) + pack([b"DBSIZE", b"orders"])) == b":0\r\n" * 2


def test_a_walk_that_waited_too_long_is_not_begun(
    made: Node, go_on: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, counts = counted(monkeypatch, RocksCursor, "read"), counted(monkeypatch, made.engine, "count")
    made.client.send(pack([b"DBSIZE", b"orders"]) + pack([b"DBSIZE"]))
    made.turn(5)
    until_ms = steady_ms() + ROUTER_DEADLINE_MS_MAX
    with monkeypatch.context() as later:
        later.setattr(walks, "steady_ms", lambda: until_ms + 1)
        go_on()
        told = made.say(b"")
    reason = b"-UNAVAILABLE node was busy with other walks over all keys for 30000 ms; try again\r\n"
    assert told == reason * 2 and reads == counts == []
    assert made.say(pack([b"DBSIZE"])) == b":0\r\n", "it counts no more"


class Slot:
    """Of a router's request."""

    reply = b""

    def complete(self, reply: bytes) -> None:
        self.reply = reply


def test_steps_of_a_drop_are_walks_too(made: Node, go_on: Callable[[], None]) -> None:
    made.service.policies[b"orders"] = Keyspace("orders", closed=True)
    slots = [Slot() for _ in range(WALKS_MAX + 1)]
    for slot in slots:
        args = [b"PURGEALL", b"orders"]
        made.service.requests.submit(made.hosted, slot, TABLE["PURGEALL"], args)  # type: ignore[arg-type]
    assert slots[-1].reply.startswith(b"-BUSY")
    go_on()

    def are_answered() -> bool:
        made.turn()
        return all(slot.reply for slot in slots)

    eventually("the others are answered", are_answered)
    assert [slot.reply for slot in slots[:-1]] == [b":0\r\n"] * WALKS_MAX

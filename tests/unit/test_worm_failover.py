"""WORM records, their chain and receipts, while the leader dies at each point in between."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hiredis import Reader

from fortdb.model import ClusterView, Keyspace, Policy
from fortdb.node import service as service_module
from fortdb.node.execute import HANDLERS
from fortdb.ring.tokens import token_of
from tests.unit.transaction_simulation import LAYOUT, PARTITIONS, TOKENS, World

LEDGER = Keyspace("ledger", policy=Policy.WORM, retention_ms=86_400_000)
VIEW = ClusterView(layout=LAYOUT, keyspaces={"ledger": LEDGER})


def ledger_keys(partition: int, count: int) -> list[str]:
    names = (f"ledger/{number}" for number in itertools.count())
    held = (name for name in names if TOKENS.partition_of(token_of(name.encode())).id == partition)
    return list(itertools.islice(held, count))


KEYS = [ledger_keys(partition, 1)[0] for partition in range(PARTITIONS)]
OTHER = ledger_keys(0, 2)[1]


@pytest.fixture(autouse=True)
def answers_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions in C write to sockets, which these wires are not."""
    monkeypatch.setattr(service_module, "lane", None)


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Iterator[World]]:
    """One after the other, as many as are wanted."""
    made: list[World] = []

    def each() -> Iterator[World]:
        for number in itertools.count():
            (tmp_path / str(number)).mkdir()
            made.append(World(tmp_path / str(number)))
            made[-1].node.see(VIEW)
            yield made[-1]
            made.pop().close()

    yield each()
    for world in made:
        world.close()


def crash(world: World) -> None:
    world.crash()
    world.node.see(VIEW)


def asked(world: World, partition: int, *words: str) -> Any:
    """What the leader of a partition answers now."""
    hosted = world.node.hosted[partition]
    assert hosted.replica.leading is not None
    execution = world.node.execution(hosted, hosted.replica.leading, world.now_ms)
    reader = Reader()
    reader.feed(HANDLERS[words[0]](execution, [word.encode() for word in words]))
    return reader.gets()


def links(world: World, partition: int) -> list[Any]:
    """The chain of a partition, in which nothing is wrong."""
    told = asked(world, partition, "CHAIN", str(partition), "0")
    assert [link[0] for link in told[5]] == list(range(1, told[1] + 1))
    assert all(link[8] == b"" for link in told[5]), told[5]
    assert told[3] == (told[5][-1][6] if told[5] else bytes(32))
    found: list[Any] = told[5]
    return found


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_transaction_is_chained_in_all_its_partitions_or_in_none(
    worlds: Iterator[World], interrupted: bool
) -> None:
    """Also if others write between the parts, so that a prepared one is not the next link any more."""
    outcomes = set()
    for deaths, world in zip(range(0, 60, 3), worlds, strict=False):
        chance = Random(deaths)
        answer = world.routers[0].transact(*(f"ADD {key} of-all" for key in KEYS))
        steps = 0
        while steps < deaths and world.step(chance):
            steps += 1
            world.routers[1].say(f"ADD {OTHER} between{steps}")
        if interrupted:
            crash(world)
        world.heal(chance)
        counts = {len(asked(world, partition, "RECORDS", key)) for partition, key in enumerate(KEYS)}
        assert len(counts) == 1, "in all, or in none"
        outcomes |= counts
        assert [len(links(world, partition)) for partition in (1, 2)] == [*counts] * 2
        if answer.reply is not None and answer.reply[:1] == b"*":
            assert counts == {1}
        links(world, 0)
        if steps < deaths:
            break
    assert 1 in outcomes


def test_a_receipt_is_of_the_entry_that_holds_the_record(worlds: Iterator[World]) -> None:
    """Also if its leader died before the answer, and a copy of the request was answered by the next."""
    for deaths, world in zip(range(20), worlds, strict=False):
        chance = Random(deaths)
        answer = world.routers[0].say(f"ADD {KEYS[0]} deed RECEIPT")
        steps = 0
        while steps < deaths and world.step(chance):
            steps += 1
        crash(world)
        world.heal(chance)
        told = answer.value
        receipt = dict(zip(told[::2], told[1::2], strict=True))
        (link,) = links(world, 0)
        assert (link[0], link[4], link[6].hex().encode()) == (
            receipt[b"ordinal"],
            receipt[b"id"],
            receipt[b"chain"],
        )
        engine = world.engine
        (entry,) = engine.entries(0, receipt[b"offset"], receipt[b"offset"], 1 << 20)
        assert b"deed" in entry and int.from_bytes(entry[4:12], "little") == receipt[b"epoch"]
        assert receipt[b"replicas"] == [b"node"] and receipt[b"zones"] == [b"zone"]
        if steps < deaths:
            break

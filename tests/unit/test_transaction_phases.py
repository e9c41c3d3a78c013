"""Transactions over several partitions, with everybody dying at every point in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import hiredis
import pytest

from fortdb.limits import FINISH_AGE_MS, TRACE_AGE_MS, TRANSACTION_MS_MAX
from fortdb.model import PartitionRecord
from fortdb.net.gather import Then
from fortdb.node import service as service_module
from fortdb.node import transactions as node_transactions
from fortdb.protocol.commands import TABLE
from fortdb.protocol.resp import pack
from fortdb.replication.messages import FrameReader, Type, decode_call, encode_call
from fortdb.router import transactions as router_transactions
from tests.unit.transaction_simulation import (
    DEADLINE_MS,
    PARTITIONS,
    Answer,
    SimulatedRouter,
    World,
    keys_in,
)

A, B, C = (keys_in(partition, 1)[0] for partition in range(PARTITIONS))
ACCOUNTS = [key for partition in range(PARTITIONS) for key in keys_in(partition, 2)]
TRANSFER = (f"INCRBY {A} -5", f"INCRBY {B} 2", f"INCRBY {C} 3")


@pytest.fixture(autouse=True)
def answers_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions in C write to sockets, which these wires are not."""
    monkeypatch.setattr(service_module, "lane", None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def chance() -> Random:
    return Random(1)


def read(world: World, chance: Random, *keys: str) -> list[int]:
    answers = [world.routers[1].say(f"GET {key}") for key in keys]
    world.settle(chance)
    assert all(answer.reply is not None for answer in answers)
    return [int(answer.value or 0) for answer in answers]


def test_all_parts_at_one_moment(world: World, chance: Random) -> None:
    answer = world.routers[0].transact(*TRANSFER, f"MGET {A} {B} {C}", f"GET {B}", f"DEL {A} {B} none")
    world.settle(chance)
    assert answer.value == [-5, 2, 3, [b"-5", b"2", b"3"], b"2", 2]
    assert read(world, chance, A, B, C) == [0, 0, 3]
    assert not world.locked()
    assert not world.remembered(), "the decision is forgotten when all know"


def test_one_commands_error_undoes_no_other(world: World, chance: Random) -> None:
    world.routers[0].say(f"SET {B} word")
    answer = world.routers[0].transact(*TRANSFER)
    world.settle(chance)
    assert answer.value[::2] == [-5, 3]
    assert isinstance(answer.value[1], hiredis.ReplyError)


def test_a_watched_key_anywhere(world: World, chance: Random) -> None:
    for touched in (A, B, C):
        versions = world.routers[0].watch(A, B, C)
        world.settle(chance)
        watched = dict(zip((A.encode(), B.encode(), C.encode()), versions.value, strict=True))
        done = world.routers[0].transact(f"INCR {A}", watched=watched)
        world.settle(chance)
        assert done.value == [1]
        world.routers[1].say(f"SET {touched} 7")
        world.settle(chance)
        done = world.routers[0].transact(f"INCR {A}", f"INCR {B}", watched=watched)
        world.settle(chance)
        assert done.reply == b"*-1\r\n"
        assert not world.locked()
        world.routers[1].transact(f"SET {A} 0", f"SET {B} 0", f"SET {C} 0")
        world.settle(chance)


def test_whoever_meets_a_lock_waits_in_order(world: World, chance: Random) -> None:
    first = world.routers[0].transact(f"INCR {A}", f"INCR {C}")
    while not world.locked():
        world.step(chance)
    hosted = world.node.hosted[0]
    assert hosted.plain_until_ms == 0
    other = keys_in(0, 2)[1]
    before = world.routers[1].say(f"GET {A}")
    both = world.routers[1].transact(f"INCR {A}", f"INCR {other}")
    after = world.routers[1].say(f"INCR {other}")
    free = world.routers[1].say(f"SET {keys_in(0, 3)[2]} 1")
    wire = world.routers[1].wire
    while wire.to_node:
        world.hear(wire, wire.to_node.popleft())
    assert len(hosted.waiting) == 3, "the one on another key does not wait"
    world.settle(chance)
    assert [one.value for one in (first, before, both, after, free)] == [[1, 1], b"1", [2, 1], 2, b"OK"]
    assert hosted.plain_until_ms > 0


def test_transactions_that_cross_do_not_lock_each_other_out(world: World, chance: Random) -> None:
    there = [world.routers[0].transact(f"INCR {A}", f"INCR {B}", f"INCR {C}") for _ in range(20)]
    back = [world.routers[1].transact(f"INCR {C}", f"INCR {B}", f"INCR {A}") for _ in range(20)]
    world.settle(chance)
    assert sorted(answer.value for answer in there + back) == [[n, n, n] for n in range(1, 41)]


def test_the_node_dies_after_every_step(tmp_path: Path) -> None:
    """Prepared, decided, finished, forgotten: the router repeats what had no answer, and all goes on."""
    steps, done = 0, False
    while not done:
        world, chance = World(tmp_path / str(steps)), Random(2)
        answer = world.routers[0].transact(*TRANSFER)
        done = not all(world.step(chance) for _ in range(steps))
        world.crash()
        world.heal(chance)
        assert answer.value == [-5, 2, 3], steps
        assert read(world, chance, A, B, C) == [-5, 2, 3], steps
        assert not world.locked() and not world.remembered()
        world.close()
        steps += 1
    assert steps > 10


@pytest.mark.parametrize("by_router", [True, False])
def test_a_commit_that_is_not_committed_yet_is_a_rumour(
    world: World, chance: Random, by_router: bool
) -> None:
    """Its leader tells of it, to be finished since it takes so long, and dies with it before it is written: no part
    may have shown its effects."""
    world.routers[0].transact(*TRANSFER)
    while not world.remembered():
        world.step(chance)
    world.pass_time(max(TRACE_AGE_MS, FINISH_AGE_MS) + 1)
    if by_router:
        world.deliver(world.routers[1].wire)
        world.deliver(world.routers[1].wire)
    else:
        while world.loop._calls:
            world.loop._calls.popleft()()
    assert [len(hosted.locks.prepared) for hosted in world.node.hosted.values()] == [1, 1, 0]
    world.kill_router(0)
    world.crash()
    world.heal(chance)
    assert read(world, chance, A, B, C) == [0, 0, 0]


@pytest.mark.parametrize("node_too", [False, True])
@pytest.mark.parametrize("routers_left", [True, False])
def test_the_router_dies_after_every_step(tmp_path: Path, node_too: bool, routers_left: bool) -> None:
    """Others finish what it left, the one way or the other: routers, or the node, if there is none."""
    steps, done = 0, False
    totals: set[int] = set()
    node_finished: set[int] = set()
    while not done:
        world, chance = World(tmp_path / f"{steps}", routers=2 if routers_left else 1), Random(3)
        answer = world.routers[0].transact(*TRANSFER)
        done = not all(world.step(chance) for _ in range(steps))
        world.kill_router(0, for_good=not routers_left)
        if node_too:
            world.crash()
        world.heal(chance)
        finished = world.finisher.recovery.finished
        if not routers_left:
            world.routers += [SimulatedRouter(world), SimulatedRouter(world)]
        values = read(world, chance, A, B, C)
        assert values in ([0, 0, 0], [-5, 2, 3]), steps
        assert answer.reply is None or values == [-5, 2, 3], "an answered transaction is there"
        assert not world.locked()
        commits = [
            one
            for hosted in world.node.hosted.values()
            for one in hosted.locks.decisions.values()
            if one.is_commit
        ]
        assert not commits, "and forgotten"
        if any(finished.values()):
            assert finished["aborted" if values[0] else "committed"] == 0, steps
            node_finished.add(values[0])
        totals.add(values[0])
        world.close()
        steps += 1
    assert totals == {0, -5}, "both were seen"
    assert node_finished == totals, "the node had its part in both, also where routers did the same at once"


def test_answers_that_nobody_could_be_told_are_refused_before_the_decision(
    world: World, chance: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_transactions, "_PREPARED_REPLY_BYTES_MAX", 20)
    answer = world.routers[0].transact(f"INCR {A}", f"SET {B} 123456789012", f"GET {B}", f"INCR {C}")
    world.settle(chance)
    assert answer.reply is not None and answer.reply.startswith(b"-ERR the transaction's answers")
    assert read(world, chance, A, B, C) == [0, 0, 0]
    assert not world.locked()


def test_a_part_that_is_too_large_gives_all_up(
    world: World, chance: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_transactions, "TRANSACTION_BYTES_MAX", 100)
    for large in (A, B, C):
        answer = world.routers[0].transact(f"INCR {A}", f"INCR {B}", f"INCR {C}", f"SET {large} {'x' * 100}")
        world.settle(chance)
        assert answer.reply is not None and answer.reply.startswith(b"-ERR the transaction's effects")
        assert read(world, chance, A, B, C) == [0, 0, 0]
        assert not world.locked()


def test_without_enough_replicas_nothing_is_executed(world: World, chance: Random) -> None:
    for short in world.node.hosted.values():
        leader = short.replica.leading
        assert leader is not None
        leader.min_in_sync, leader.since_ms = 2, 0
        answer = world.routers[0].transact(f"INCR {A}", f"INCR {B}", f"INCR {C}")
        world.settle(chance)
        assert answer.reply is not None and answer.reply.startswith(b"-NOREPLICAS")
        leader.min_in_sync = 1
        world.heal(chance)
        assert read(world, chance, A, B, C) == [0, 0, 0]


def test_a_late_commit_is_refused_and_begun_anew(world: World, chance: Random) -> None:
    """The router is alive, and so slow that another one gave its transaction up."""
    slow = world.routers[0]
    answer = slow.transact(*TRANSFER)
    while not any(b"COMMIT" in frame for frame in slow.wire.to_node):
        world.step(chance)
    held, slow.wire.to_node = slow.wire.to_node, type(slow.wire.to_node)()
    world.pass_time(TRACE_AGE_MS + 1)
    slow.wire.to_node.clear()  # it asks for traces as well, and keeps to itself what it leads
    world.settle(chance)
    assert not world.locked(), "given up"
    slow.wire.to_node.extend(held)
    world.settle(chance)
    assert answer.value == [-5, 2, 3]
    assert read(world, chance, A, B, C) == [-5, 2, 3]


def test_an_abort_is_remembered_for_as_long_as_a_commit_may_come(world: World, chance: Random) -> None:
    slow = world.routers[0]
    answer = slow.transact(*TRANSFER)
    while not any(b"COMMIT" in frame for frame in slow.wire.to_node):
        world.step(chance)
    held = type(slow.wire.to_node)(slow.wire.to_node)
    world.kill_router(0)
    world.dead[0].to_node.clear()
    world.heal(chance)
    assert world.remembered() == 1
    world.crash()
    assert world.remembered() == 1, "it survives a restart"
    for hosted in world.node.hosted.values():
        hosted.replica.log.timestamp_ms += TRANSACTION_MS_MAX + 1_000
    world.pass_time(100)
    world.settle(chance)
    assert world.remembered() == 0
    world.dead.append(slow.wire)
    epoch = world.epoch.to_bytes(8, "little")  # as if it had been sent in the present epoch
    slow.wire.to_node.extend(frame[:7] + epoch + frame[15:] for frame in held)
    slow.wire.is_up = True
    world.settle(chance)
    assert any(b"-ABORTED the transaction took too long" in frame for frame in slow.wire.to_router)
    assert answer.reply is None
    assert read(world, chance, A, B, C) == [0, 0, 0]


def test_a_lock_without_a_router_is_named_to_those_who_wait(world: World, chance: Random) -> None:
    world.routers[0].transact(*TRANSFER)
    while not world.locked():
        world.step(chance)
    world.kill_router(0)
    world.dead.clear()
    waiting = Answer()
    world.node.requests.submit(world.node.hosted[0], waiting, TABLE["GET"], [b"GET", A.encode()])  # type: ignore[arg-type]
    world.now_ms += 10_001
    world.loop.now_ms = world.now_ms
    world.node.upkeep.sweep()
    assert waiting.reply is not None and A.encode() in waiting.reply
    assert waiting.reply.startswith(b"-UNAVAILABLE a transaction holds key")
    assert world.node.requests.held_count == 0


def test_who_waits_for_a_lock_hears_that_the_lead_moves(world: World, chance: Random) -> None:
    world.routers[0].transact(*TRANSFER)
    while not world.locked():
        world.step(chance)
    hosted, waiting = world.node.hosted[0], Answer()
    world.node.requests.submit(hosted, Then(waiting.complete), TABLE["GET"], [b"GET", A.encode()])
    assert len(hosted.waiting) == 1
    isr = {"node": "life", "other": "life"}
    moved = PartitionRecord("p-000", "other", world.epoch + 1, isr, tuple(isr), handover=True)
    hosted.replica.adopt(moved, 1, world.now_ms, 1)
    world.pass_time(100)
    assert waiting.reply is not None and waiting.reply.startswith(
        b"-NOTLEADER partition p-000 is led by other"
    )
    assert not hosted.waiting and world.node.requests.held_count == 0


def test_a_step_of_a_recovery_that_another_node_asks_for(world: World, chance: Random) -> None:
    """What may be repeated, of a partition that is led here, and nothing else."""

    def settle(*words: bytes) -> bytes | None:
        wire, number = world.routers[0].wire, 77
        world.hear(wire, encode_call(number, pack([b"SETTLE", *words])))
        world.node.tick()
        for kind, body in FrameReader().feed(b"".join(wire.to_router)):
            if kind == Type.RETURN and decode_call(body)[0] == number:
                return decode_call(body)[1]
        return None

    world.routers[0].transact(*TRANSFER)
    while not world.locked():
        world.step(chance)
    (transaction,), (prepared,) = (
        world.node.hosted[0].locks.prepared,
        world.node.hosted[0].locks.prepared.values(),
    )
    home, began = b"%d" % prepared.home, b"%d" % prepared.began_ms
    world.kill_router(0)
    world.dead.clear()
    for _ in range(2):
        world.routers[0].reconnect()
        assert settle(home, b"RESOLVE", transaction, began) == b"+ABORT\r\n"
        world.routers[0].reconnect()
        assert settle(b"0", b"FINISH", transaction, b"ABORT") == b"+OK\r\n"
        assert not world.locked()
    for wrong, code in (
        ((b"0", b"PREPARE", transaction, began, home, b"0"), b"-ERR SETTLE takes RESOLVE, FINISH, FORGET"),
        ((b"0", b"SET", b"key", b"value"), b"-ERR SETTLE takes"),
        ((b"0", b"FINISH", transaction), b"-ERR wrong number of arguments"),
        ((b"9", b"FORGET", transaction), b"-NOTLEADER node does not hold partition 9"),
        ((b"x", b"FORGET", transaction), b"-ERR value is not an integer"),
    ):
        world.routers[0].reconnect()
        answer = settle(*wrong)
        assert answer is not None and answer.startswith(code), answer


def test_a_scan_sees_what_is_committed(world: World, chance: Random) -> None:
    world.routers[0].say(f"SET {A} 1")
    world.settle(chance)
    world.routers[0].transact(f"SET {A} 2", f"SET {keys_in(0, 2)[1]} 2", f"SET {C} 2")
    while not world.locked():
        world.step(chance)
    walked, scan = Answer(), pack([b"SCAN", b"0", b"COUNT", b"100"])
    world.routers[1].service._request(0, scan, TABLE["SCAN"], walked)
    world.settle(chance)
    assert sorted(walked.value[1]) == sorted(key.encode() for key in keys_in(0, 2)), "it waited for the lock"


@pytest.mark.parametrize("seed", range(25))
def test_money_is_neither_made_nor_lost(tmp_path: Path, seed: int) -> None:
    """Random transfers and counts by two routers; both and the node die now and then."""
    world, chance = World(tmp_path), Random(seed)
    counts: list[Answer] = []
    transfers: list[tuple[str, str, int, Answer]] = []
    for _ in range(400):
        draw = chance.random()
        router = chance.choice(world.routers)
        if draw < 0.06:
            source, target = chance.sample(ACCOUNTS, 2)
            amount = chance.randrange(1, 9)
            words = (f"INCRBY {source} -{amount}", f"INCRBY {target} {amount}")
            transfers.append((source, target, amount, router.transact(*words)))
        elif draw < 0.09:
            counts.append(router.transact(*(f"GET {key}" for key in ACCOUNTS)))
        elif draw < 0.10:
            world.crash()
        elif draw < 0.11:
            world.kill_router(chance.randrange(2))
        elif draw < 0.14:
            world.pass_time(chance.choice([50, TRACE_AGE_MS + 1, DEADLINE_MS // 4]))
        else:
            world.step(chance)
    world.heal(chance)
    balances = dict(zip(ACCOUNTS, read(world, chance, *ACCOUNTS), strict=True))
    assert sum(balances.values()) == 0
    assert not world.locked()
    for count in counts:
        if count.reply is not None and count.reply.startswith(b"*"):
            assert sum(int(value or 0) for value in count.value) == 0, count.value
    _check_outcomes(balances, transfers)
    assert any(answer.reply for *_, answer in transfers)
    world.close()


def _check_outcomes(balances: dict[str, int], transfers: list[tuple[str, str, int, Answer]]) -> None:
    """Some choice of the transfers without an outcome explains the balances, beside all that were answered: for each
    account between the least and the most that they may have left."""
    for account, balance in balances.items():
        least = most = 0
        for source, target, amount, answer in transfers:
            change = amount * ((target == account) - (source == account))
            if answer.reply is not None and answer.reply.startswith(b"*"):
                least, most = least + change, most + change
            elif answer.reply is None or answer.reply.startswith(b"-TIMEOUT"):
                least, most = least + min(change, 0), most + max(change, 0)
            else:
                assert answer.reply.startswith(b"-UNAVAILABLE"), answer.reply
        assert least <= balance <= most, account

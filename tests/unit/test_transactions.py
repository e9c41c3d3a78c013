"""Transactions on a node that leads the only replica of the only partition, with and without the functions in C."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fortdb import limits
from fortdb.node import transactions
from fortdb.node.locks import Decision, Prepared, decode
from fortdb.protocol.commands import INTERNAL, TABLE
from fortdb.protocol.resp import pack
from fortdb.protocol.transactions import Bundle
from fortdb.replication.entries import Operation, RequestId, decode_entry
from fortdb.ring.tokens import hash_of
from fortdb.storage.keys import transaction_of
from fortdb.storage.values import expiry_of
from tests.support.ways import needs_c, received
from tests.unit.test_native_clients import Node

pytestmark = needs_c  # the short way is what must not be taken in the middle of a transaction


@pytest.fixture(params=[True, False], ids=["c", "python"])
def made(request: pytest.FixtureRequest) -> Iterator[Node]:
    with Node(request.param) as running:
        yield running


def say(made: Node, *lines: str) -> bytes:
    """The answers to commands that come in one go."""
    return made.say(b"".join(pack(line.encode().split()) for line in lines))


@contextlib.contextmanager
def another(made: Node) -> Iterator[None]:
    """Speak as another client."""
    first = made.client
    made.client = socket.create_connection(("127.0.0.1", made.front.listener.port))
    made.client.setblocking(False)
    try:
        yield
    finally:
        made.client.close()
        made.client = first


def test_all_at_one_moment_in_one_entry(made: Node) -> None:
    told = say(made, "MULTI", "SET a 1", "INCR a", "GET a", "PING", "MGET a b", "EXEC", "GET a")
    assert told == (
        b"+OK\r\n"
        + b"+QUEUED\r\n" * 5
        + b"*5\r\n+OK\r\n:2\r\n$1\r\n2\r\n+PONG\r\n*2\r\n$1\r\n2\r\n$-1\r\n$1\r\n2\r\n"
    )
    made.turn(3)
    counts = [len(decode_entry(entry, at).operations) for at, entry in enumerate(made.entries(), 1)]
    assert counts == [0, 2], "the no-op that opens the epoch, and the transaction"


def test_one_commands_error_undoes_no_other(made: Node) -> None:
    say(made, "SET word x")
    told = say(made, "MULTI", "SET a 1", "INCR word", "SET b 2", "EXEC", "MGET a word b")
    assert told.endswith(
        b"*3\r\n+OK\r\n-ERR value is not an integer or out of range\r\n+OK\r\n"
        b"*3\r\n$1\r\n1\r\n$1\r\nx\r\n$1\r\n2\r\n"
    )


def test_a_command_that_fails_takes_its_own_effects_back(made: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fortdb.protocol.arguments.VALUE_BYTES_MAX", 5)
    told = say(made, "SET a old", "MULTI", "SET b 1", "MSET a new c toolong", "GET a", "EXEC", "MGET a b c")
    assert b"-ERR string exceeds" in told
    assert told.endswith(b"$3\r\nold\r\n*3\r\n$3\r\nold\r\n$1\r\n1\r\n$-1\r\n")


@pytest.mark.parametrize("wrong", ["NONSENSE a", "GET", "SET a", "SCAN 0", "GET a STALE"])
def test_what_cannot_be_queued_discards_all(made: Node, wrong: str) -> None:
    told = say(made, "MULTI", "SET a 1", wrong, "EXEC", "GET a")
    assert b"-ERR" in told
    assert told.endswith(b"-EXECABORT Transaction discarded because of previous errors.\r\n$-1\r\n")


def test_discard_and_reset_forget_all(made: Node) -> None:
    assert say(made, "MULTI", "SET a 1", "DISCARD", "GET a") == b"+OK\r\n+QUEUED\r\n+OK\r\n$-1\r\n"
    assert say(made, "MULTI", "SET a 1", "RESET", "GET a") == b"+OK\r\n+QUEUED\r\n+RESET\r\n$-1\r\n"
    assert say(made, "EXEC") == b"-ERR EXEC without MULTI\r\n"
    assert say(made, "DISCARD") == b"-ERR DISCARD without MULTI\r\n"


def test_multi_and_watch_inside_multi(made: Node) -> None:
    told = say(made, "MULTI", "MULTI", "WATCH a", "SET a 1", "EXEC")
    assert told == (
        b"+OK\r\n-ERR MULTI calls can not be nested\r\n-ERR WATCH inside MULTI is not allowed\r\n"
        b"+QUEUED\r\n*1\r\n+OK\r\n"
    )


def test_empty_transactions(made: Node) -> None:
    assert say(made, "MULTI", "EXEC") == b"+OK\r\n*0\r\n"
    assert say(made, "MULTI", "PING", "EXEC") == b"+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n"
    assert say(made, "WATCH a", "MULTI", "EXEC") == b"+OK\r\n+OK\r\n*0\r\n"
    assert say(made, "WATCH a", "SET a 1", "MULTI", "EXEC") == b"+OK\r\n+OK\r\n+OK\r\n*-1\r\n"


WRITES = ["SET a 1", "APPEND a x", "DEL a", "EXPIRE a 100", "SET a 0", "MSET b 1 a 1", "GETDEL a"]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_of_a_watched_key_is_noticed(made: Node, write: str) -> None:
    say(made, "SET a 0")
    assert say(made, "WATCH x a") == b"+OK\r\n"
    with another(made):
        say(made, write)
    before = say(made, "GET a")
    assert say(made, "MULTI", "SET a mine", "EXEC", "GET a") == b"+OK\r\n+QUEUED\r\n*-1\r\n" + before
    assert say(made, "MULTI", "SET a mine", "EXEC").endswith(b"*1\r\n+OK\r\n"), "watched for one EXEC only"


def test_there_and_back_again_is_a_write(made: Node) -> None:
    say(made, "SET a 0", "WATCH a")
    with another(made):
        say(made, "SET a 1", "SET a 0")
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


@pytest.mark.parametrize("harmless", ["GET a", "SET b 1", "DEL none", "SETNX a 1", "MSET b 1 c 2", "TTL a"])
def test_other_keys_and_reads_change_nothing(made: Node, harmless: str) -> None:
    say(made, "SET a 0")
    say(made, "WATCH a none")
    with another(made):
        say(made, harmless)
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$1\r\n0\r\n")


def test_a_write_in_the_same_tick_as_watch_is_told_apart(made: Node) -> None:
    """Both go into the entry that is being built, the one before and the other after."""
    assert say(made, "SET a 0", "WATCH a", "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$1\r\n0\r\n")
    assert say(made, "SET a 0", "WATCH a", "SET a 1", "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")
    assert say(made, "SET b 0", "WATCH a", "SET a 1", "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


def test_unwatch_and_discard_let_go(made: Node) -> None:
    for ending in (["UNWATCH"], ["MULTI", "DISCARD"]):
        told = say(made, "WATCH a", "SET a 1", *ending, "MULTI", "GET a", "EXEC")
        assert told.endswith(b"*1\r\n$1\r\n1\r\n")


def test_a_watched_key_that_ended_was_written(made: Node) -> None:
    say(made, "SET a 0 PX 5", "WATCH a")
    while say(made, "EXISTS a") != b":0\r\n":
        pass
    assert say(made, "MULTI", "PING", "EXEC").endswith(b"*-1\r\n")


def test_a_watched_key_that_is_past_its_end_and_not_yet_deleted(made: Node) -> None:
    say(made, "SET a 0 PX 60000", "WATCH a")
    made.service._wall_ms += 61_000
    made.hosted.replica.log.timestamp_ms += 61_000
    assert say(made, "MULTI", "PING", "EXEC").endswith(b"*-1\r\n")


def test_versions_of_another_log_and_of_one_that_was_trimmed(made: Node) -> None:
    """The new leader's log lacks the entry, or does not reach back to it: nobody can tell."""
    say(made, "SET a 0", "WATCH a")
    (connection,) = made.front.connections
    watched = connection.session.watched
    version = watched.versions[b"a"]
    assert version is not None
    epoch, offset = map(int, version.split(b":"))
    for other in (b"%d:%d" % (epoch + 1, offset), b"%d:%d" % (epoch, offset + 100)):
        watched.versions[b"a"] = other
        assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")
    watched.versions[b"a"] = version
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$1\r\n0\r\n")
    say(made, "SET b 1")
    made.turn(3)
    log = made.hosted.replica.log
    log.trim(log.applied)
    made.service.touch(made.hosted)
    made.turn(3)
    watched.versions[b"a"] = version
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


def test_a_write_that_only_the_disk_holds_is_found(made: Node) -> None:
    """Entries that are applied are read from the log on disk, whose keys may lie in other keys' values."""
    say(made, "WATCH a")
    with another(made):
        at = b"\x01" + hash_of(b"a") + b"a"
        for number in range(30):
            made.say(pack([b"SET", b"b", at + b"%d" % number]))
        made.turn(3)
        assert not made.hosted.replica.log.pending
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$-1\r\n")
    say(made, "WATCH a")
    with another(made):
        say(made, "SET a 1")
        for number in range(30):
            say(made, f"SET b {number}")
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


def test_many_watched_keys(made: Node) -> None:
    keys = " ".join(f"k{number}" for number in range(200))
    say(made, f"WATCH {keys}")
    with another(made):
        say(made, "SET b 1")
        made.turn(3)
    assert say(made, "MULTI", "GET b", "EXEC").endswith(b"*1\r\n$1\r\n1\r\n")
    say(made, f"WATCH {keys}")
    with another(made):
        say(made, "SET k199 1")
        say(made, "SET b 1")
        made.turn(3)
    assert say(made, "MULTI", "GET b", "EXEC").endswith(b"*-1\r\n")


def test_more_log_than_is_worth_reading(made: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "WATCH_LOG_BYTES_MAX", 2_000)
    say(made, "WATCH a")
    with another(made):
        for _ in range(3):
            made.say(pack([b"SET", b"b", b"x" * 1_000]))
        made.turn(3)
    assert say(made, "MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


def test_effects_and_answers_are_bounded(made: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "TRANSACTION_BYTES_MAX", 5_000)
    made.say(pack([b"SET", b"a", b"x" * 1_000]))
    told = say(made, "MULTI", *["APPEND a y"] * 10, "EXEC", "STRLEN a")
    assert b"-ERR the transaction's effects" in told and told.endswith(b":1000\r\n")
    told = say(made, "MULTI", *["GET a"] * 10, "EXEC", "STRLEN a")
    assert b"-ERR the transaction's effects" in told


def test_a_copy_of_the_request_gets_the_former_answer(made: Node) -> None:
    """A router that lost its leader sends it again (rule 16)."""

    request = RequestId(77, 1, 1)
    bundle = Bundle([[b"INCR", b"n"], [b"INCR", b"n"]])
    command = INTERNAL["EXEC"]
    answers = [Slot(), Slot()]
    for slot in answers:
        made.service.requests.submit(made.hosted, slot, command, [b"EXEC", *bundle.encode()], request)  # type: ignore[arg-type]
        made.turn(3)
    assert [slot.reply for slot in answers] == [b"*2\r\n:1\r\n:2\r\n"] * 2
    assert say(made, "GET n") == b"$1\r\n2\r\n"


def test_a_copy_of_a_write_with_a_receipt_whose_place_is_forgotten_says_so(made: Node) -> None:
    """What a snapshot brings of the requests has their answers and not where they stand."""
    request, answers = RequestId(77, 1, 1), [Slot(), Slot()]
    args = [b"SET", b"k", b"v", b"RECEIPT"]
    memory = made.hosted.replica.log.memory
    for slot in answers:
        made.service.requests.submit(made.hosted, slot, TABLE["SET"], args, request)  # type: ignore[arg-type]
        made.turn(3)
        encoded = memory.encode(1 << 60, 0)
        memory.clear()
        memory.restore(encoded)
    assert answers[0].reply.startswith(b"*")
    assert answers[1].reply.startswith(b"-TIMEOUT the write was acknowledged already")


def test_transactions_in_one_pipeline_keep_their_order(made: Node) -> None:
    lines = [line for n in range(50) for line in ("WATCH n", "MULTI", "INCR n", "EXEC", "GET n")]
    told = say(made, *lines)
    assert told == b"".join(
        b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:%d\r\n$%d\r\n%d\r\n" % (n, len(str(n)), n) for n in range(1, 51)
    )


def test_clients_cannot_say_what_leaders_are_asked(made: Node) -> None:
    assert say(made, "EXEC 0 2 GET a").startswith(b"-ERR wrong number of arguments")


def test_bounds_leave_room_for_the_frame() -> None:
    """Of the largest transaction its entry, with the answers beside the effects, crosses the ring in one frame."""
    assert 3 * limits.TRANSACTION_BYTES_MAX < limits.FRAME_BYTES_MAX


class Slot:
    """Of a router's request."""

    reply = b""

    def complete(self, reply: bytes) -> None:
        self.reply = reply


def ask(made: Node, name: str, *args: bytes) -> bytes:
    """What a router asks the leader."""
    slot = Slot()
    made.service.requests.submit(made.hosted, slot, INTERNAL[name], [name.encode(), *args])  # type: ignore[arg-type]
    made.turn(3)
    return slot.reply


@pytest.mark.parametrize(("decision", "value"), [(b"COMMIT", b"$1\r\n1\r\n"), (b"ABORT", b"$1\r\n0\r\n")])
def test_a_locked_key_is_for_the_long_way(made: Node, decision: bytes, value: bytes) -> None:
    say(made, "SET n 0")
    bundle = Bundle([[b"INCR", b"n"]])
    assert ask(made, "PREPARE", b"t", b"5", b"9", *bundle.encode()) == b"*1\r\n:1\r\n"
    before = sum(made.front.plain_counts)
    assert say(made, "GET other", "SET other 1") == b"$-1\r\n+OK\r\n"
    assert say(made, "RANGE {other}") == b"*2\r\n$-1\r\n*0\r\n", "nothing is locked there"
    assert say(made, "DBSIZE") == b":2\r\n"
    assert sum(made.front.plain_counts) == before
    made.client.send(pack([b"GET", b"n"]))
    made.turn(5)
    with pytest.raises(BlockingIOError):
        made.client.recv(100)
    assert ask(made, "FINISH", b"t", decision) == b"+OK\r\n"
    made.turn(3)
    assert made.client.recv(100) == value
    assert say(made, "SCAN 0 COUNT 100").startswith(b"*2\r\n$1\r\n0\r\n*2\r\n"), "keys, and no records"
    say(made, "GET n")
    assert not made.in_c or sum(made.front.plain_counts) > before, "the short way again"


def test_a_copy_of_a_commit_that_is_no_longer_remembered_is_not_executed_again(made: Node) -> None:
    began = ask(made, "BEGIN")[1:-2]
    commit = [b"t", began, b"9", *Bundle([[b"INCR", b"n"]]).encode()]
    assert ask(made, "COMMIT", *commit) == b"*1\r\n:1\r\n"
    assert ask(made, "COMMIT", *commit).startswith(b"-TIMEOUT the transaction was committed")
    assert ask(made, "RESOLVE", b"t", began) == b"+COMMIT\r\n", "so its router lets the other parts show it"
    assert say(made, "GET n") == b"$1\r\n1\r\n"


@pytest.mark.parametrize("walk", ["SCAN 0 COUNT 100", "RANGE {n}"])
def test_a_walk_waits_for_what_may_be_committed_already(made: Node, walk: str) -> None:
    """Whoever committed was answered before this part heard of it."""
    ask(made, "PREPARE", b"t", b"5", b"9", *Bundle([[b"SET", b"{n}1", b"1"]]).encode())
    made.client.send(pack(walk.encode().split()))
    made.turn(5)
    with pytest.raises(BlockingIOError):
        made.client.recv(100)
    assert ask(made, "FINISH", b"t", b"COMMIT") == b"+OK\r\n"
    told = b""
    while not told:  # a SCAN waits until what was committed is in the data, too
        made.turn()
        told = received(made.client)
    assert told.endswith(b"*1\r\n$4\r\n{n}1\r\n")


def test_the_short_way_serves_no_longer_than_the_long_one(made: Node) -> None:
    """A reign that is over ends for both at once."""
    assert made.hosted.plain_until_ms == made.hosted.serve_until_ms > 0
    made.hosted.serve_until(0)
    assert made.hosted.plain_until_ms == made.hosted.serve_until_ms == 0


def test_what_is_prepared_goes_along_with_a_snapshot(made: Node) -> None:
    bundle = Bundle([[b"SET", b"n", b"1", b"PX", b"60000"], [b"DEL", b"m"]], {b"w": b"5:1"})
    ask(made, "PREPARE", b"t", b"5", b"9", *bundle.encode())
    say(made, "SET other 1")
    sent = dict(pair for bounds in made.hosted.ranges for pair in made.engine.cursor(*bounds).read(1 << 20))
    (stored,) = (value for key, value in sent.items() if transaction_of(key) == b"t")
    assert expiry_of(stored) == 0, "an install looks for it"
    record = decode(stored)
    assert isinstance(record, Prepared)
    assert (record.home, record.began_ms, sorted(record.keys)) == (9, 5, [b"m", b"n", b"w"])
    (effect,) = record.operations
    assert effect.expiry_ms and effect.key.endswith(b"n")


EFFECTS = st.builds(
    Operation,
    st.sampled_from([1, 2, 3]),
    st.binary(max_size=9),
    st.binary(max_size=9),
    st.integers(0, 1 << 50),
)


@given(
    st.lists(st.binary(max_size=30), max_size=4),
    st.lists(EFFECTS, max_size=4),
    st.integers(0, 1 << 60),
)
def test_records_are_read_as_they_were_written(
    keys: list[bytes], effects: list[Operation], began: int
) -> None:
    prepared = Prepared(began, 7, tuple(keys), tuple(effects))
    assert decode(prepared.encode()) == prepared
    decision = Decision(bool(began % 2), began, tuple(range(len(keys))))
    assert decode(decision.encode()) == decision

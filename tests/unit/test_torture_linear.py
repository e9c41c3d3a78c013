"""The judge of histories: right about known ones, about simulated ones, and as right as trying everything."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fortdb.torture.history import Kind, Operation, Outcome, Value
from fortdb.torture.linear import Verdict, _search, check
from fortdb.torture.search.plain import PlainSearch
from fortdb.torture.semantics import Impossible, after

OK, UNKNOWN, FAILED = Outcome.OK, Outcome.UNKNOWN, Outcome.FAILED
READ, WRITE, DELETE = Kind.READ, Kind.WRITE, Kind.DELETE
CAS, INCREMENT, APPEND = Kind.CAS, Kind.INCREMENT, Kind.APPEND


def call(
    start: int, end: int, kind: Kind, *arguments: Value, gives: Value = None, outcome: Outcome = OK
) -> Operation:
    return Operation(0, kind, "k", arguments, start, end, outcome, gives, "router-1")


LINEARIZABLE = {
    "nothing": [],
    "one after the other": [call(0, 1, WRITE, "a"), call(2, 3, READ, gives="a")],
    "a read beside a write sees either": [
        call(0, 9, WRITE, "a"),
        call(1, 2, READ, gives=None),
        call(3, 4, READ, gives="a"),
    ],
    "an unknown write seen late": [
        call(0, 1, WRITE, "a", outcome=UNKNOWN),
        call(2, 3, READ, gives=None),
        call(4, 5, WRITE, "b"),
        call(6, 7, READ, gives="b"),
        call(8, 9, READ, gives="a"),
    ],
    "a failed write never seen": [call(0, 1, WRITE, "a", outcome=FAILED), call(2, 3, READ, gives=None)],
    "an unknown delete, then the value is written anew": [
        call(0, 1, WRITE, "a"),
        call(2, 3, DELETE, outcome=UNKNOWN),
        call(4, 5, READ, gives=None),
        call(6, 7, CAS, "a", "b", gives=False),
    ],
    "of two at once one swaps": [
        call(0, 1, WRITE, "a"),
        call(2, 5, CAS, "a", "b", gives=True),
        call(2, 5, CAS, "a", "c", gives=False),
    ],
    "an unknown swap made way for a known one": [
        call(0, 1, WRITE, "a"),
        call(2, 3, CAS, "a", "b", outcome=UNKNOWN),
        call(4, 5, CAS, "b", "c", gives=True),
    ],
    "an unknown value hides one that a delete found": [
        call(0, 1, WRITE, "x", outcome=UNKNOWN),
        call(2, 3, DELETE, gives=True),
    ],
    "a counter with an unknown increment": [
        call(0, 1, INCREMENT, 1, gives=1),
        call(2, 3, INCREMENT, 5, outcome=UNKNOWN),
        call(4, 5, INCREMENT, 1, gives=2),
        call(6, 7, INCREMENT, 1, gives=8),
    ],
    "a list": [
        call(0, 5, APPEND, "a,", gives=4),
        call(0, 5, APPEND, "b,", gives=2),
        call(6, 7, READ, gives="b,a,"),
    ],
}

VIOLATED = {
    "a stale read": [call(0, 1, WRITE, "a"), call(2, 3, WRITE, "b"), call(4, 5, READ, gives="a")],
    "a lost write": [call(0, 1, WRITE, "a"), call(2, 3, READ, gives=None)],
    "a value that nobody wrote": [call(0, 1, READ, gives="a")],
    "a failed write is seen": [call(0, 1, WRITE, "a", outcome=FAILED), call(2, 3, READ, gives="a")],
    "a deleted value comes back": [
        call(0, 1, WRITE, "a"),
        call(2, 3, DELETE, gives=True),
        call(4, 5, READ, gives=None),
        call(6, 7, READ, gives="a"),
    ],
    "two swap one value": [
        call(0, 1, WRITE, "a"),
        call(2, 5, CAS, "a", "b", gives=True),
        call(2, 5, CAS, "a", "c", gives=True),
    ],
    "a lost update": [
        call(0, 3, INCREMENT, 1, gives=1),
        call(1, 4, INCREMENT, 1, gives=1),
    ],
    "an increment applied twice": [
        call(0, 1, INCREMENT, 1, gives=1),
        call(2, 3, READ, gives="2"),
    ],
    "reads disagree on the order of two writes": [
        call(0, 9, WRITE, "a"),
        call(0, 9, WRITE, "b"),
        call(1, 2, READ, gives="a"),
        call(3, 4, READ, gives="b"),
        call(5, 6, READ, gives="a"),
    ],
    "an unknown write takes place twice": [
        call(0, 1, WRITE, "a", outcome=UNKNOWN),
        call(2, 3, READ, gives="a"),
        call(4, 5, WRITE, "b"),
        call(6, 7, READ, gives="a"),
    ],
    "a number is read, where values are text": [
        call(0, 1, APPEND, "1", outcome=UNKNOWN),
        call(0, 1, READ, gives=1),
    ],
    "an element is lost": [
        call(0, 1, APPEND, "a,", gives=2),
        call(2, 3, APPEND, "b,", gives=4),
        call(4, 5, READ, gives="b,"),
    ],
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_what_can_have_been(name: str) -> None:
    assert check(LINEARIZABLE[name]).verdict is Verdict.LINEARIZABLE


@pytest.mark.parametrize("name", VIOLATED)
def test_what_cannot_have_been(name: str) -> None:
    judged = check(VIOLATED[name])
    assert judged.verdict is Verdict.VIOLATED
    assert judged.witness is not None


def test_the_witness_names_the_first_call_that_cannot_be_explained() -> None:
    history = [
        call(0, 1, WRITE, "a"),
        call(2, 3, WRITE, "b"),
        call(4, 7, READ, gives="a"),
        call(5, 9, WRITE, "c"),
        call(10, 11, READ, gives="zzz"),
    ]
    witness = check(history).witness
    assert witness is not None
    assert witness.culprit is history[2]
    assert [str(o) for o in witness.before] == ["write a", "write b"]
    assert witness.state == "b"
    assert witness.beside == (history[3],)


def test_it_gives_up_rather_than_run_for_ever() -> None:
    unknown = [call(0, 1, INCREMENT, 2**i, outcome=UNKNOWN) for i in range(20)]
    above_all = call(2, 3, INCREMENT, 1, gives=1 << 20 | 1)
    judged = check([*unknown, above_all], states_max=1000)
    assert judged.verdict is Verdict.UNDECIDED
    assert judged.states == 1001


calls_of_a_key = st.lists(
    st.tuples(
        st.sampled_from([READ, WRITE, DELETE, CAS, APPEND, INCREMENT]),
        st.sampled_from(["1", "2"]),
        st.sampled_from(["1", "2"]),
        st.integers(0, 12),
        st.integers(1, 6),
        st.sampled_from([OK, OK, OK, UNKNOWN]),
        st.sampled_from([None, True, False, 1, 2, 3, "1", "2", "12", "3"]),
    ),
    max_size=5,
)


def made(drawn: Sequence[tuple[Kind, str, str, int, int, Outcome, Value]]) -> list[Operation]:
    arguments = {
        READ: 0,
        DELETE: 0,
        WRITE: 1,
        APPEND: 1,
        INCREMENT: 1,
        CAS: 2,
    }
    return [
        call(start, start + length, kind, *(a, b)[: arguments[kind]], gives=gives, outcome=outcome)
        for kind, a, b, start, length, outcome, gives in drawn
    ]


def by_trying_everything(operations: Sequence[Operation]) -> bool:
    """No rule but the definition: every order, and every choice among the calls of unknown outcome."""
    calls = [o for o in operations if o.outcome is not FAILED]
    met: set[tuple[frozenset[int], str | None]] = set()

    def can_go_on(placed: frozenset[int], state: str | None) -> bool:
        rest = [index for index in range(len(calls)) if index not in placed]
        known = [calls[index].ended_ns for index in rest if calls[index].outcome is OK]
        if not known:
            return True
        if (placed, state) in met:
            return False
        met.add((placed, state))
        for index in rest:
            if calls[index].started_ns <= min(known):
                try:
                    new = after(state, calls[index])
                except Impossible:
                    continue
                if can_go_on(placed | {index}, new):
                    return True
        return False

    return can_go_on(frozenset(), None)


@settings(max_examples=1500, deadline=None)
@given(calls_of_a_key)
def test_it_is_as_right_as_trying_everything(
    drawn: list[tuple[Kind, str, str, int, int, Outcome, Value]],
) -> None:
    operations = made(drawn)
    expected = Verdict.LINEARIZABLE if by_trying_everything(operations) else Verdict.VIOLATED
    assert check(operations).verdict is expected


def simulated(seed: int, count: int, clients: int, unknown: float, kinds: Sequence[Kind]) -> list[Operation]:
    """What clients of one correct key are told: each call takes place at a moment between its beginning and
    its end; of some nobody hears, and those take place late or never."""
    chance = random.Random(seed)
    plans: list[tuple[int, int, int, int, Kind, tuple[Value, ...], Outcome]] = []
    free_at = [0] * clients
    values = itertools.count()
    for _ in range(count):
        client = chance.randrange(clients)
        start = free_at[client] + chance.randrange(1, 20)
        end = start + chance.randrange(1, 30)
        free_at[client] = end
        kind = chance.choice(kinds)
        new = f"v{next(values)}"
        of_kind: dict[Kind, tuple[Value, ...]] = {
            WRITE: (new,),
            APPEND: (new + ",",),
            INCREMENT: (chance.randrange(1, 9),),
            CAS: ("", new),
        }
        arguments = of_kind.get(kind, ())
        outcome = UNKNOWN if chance.random() < unknown else OK
        moment = chance.randrange(start, end + 1)
        if outcome is UNKNOWN:
            moment = start + chance.randrange(0, 400) if chance.random() < 0.6 else 1 << 60
        plans.append((moment, client, start, end, kind, arguments, outcome))
    state: str | None = None
    history = []
    for _, client, start, end, kind, arguments, outcome in sorted(plans, key=lambda plan: plan[0]):
        if kind is CAS:
            arguments = (state if chance.random() < 0.5 and state is not None else "other", arguments[1])
        made_call = Operation(client, kind, "k", arguments, start, end, UNKNOWN, None, "")
        before, state = state, after(state, made_call)
        result: Value = {
            READ: before,
            DELETE: before is not None,
            CAS: before == arguments[0] if kind is CAS else None,
            INCREMENT: int(state or 0) if kind is INCREMENT else None,
            APPEND: len(state or ""),
        }.get(kind)
        history.append(replace(made_call, outcome=outcome, result=result if outcome is OK else None))
    chance.shuffle(history)
    return history


SORTS = {
    "register": (READ, READ, WRITE, CAS, DELETE),
    "written and read": (READ, WRITE),
    "counter": (READ, INCREMENT),
    "list": (READ, APPEND),
    "mixed": (READ, WRITE, DELETE, CAS, APPEND),
}


def mutated(history: Sequence[Operation], chance: random.Random) -> list[Operation]:
    """One or two calls were told something else, heard of nothing, or took another time."""
    history = list(history)
    for _ in range(chance.randrange(1, 3)):
        index, other = chance.randrange(len(history)), chance.choice(history)
        call = history[index]
        match chance.randrange(4):
            case 0 if call.outcome is OK and other.outcome is OK and call.kind is other.kind:
                history[index] = replace(call, result=other.result)
            case 1:
                history[index] = replace(call, outcome=UNKNOWN, result=None)
            case 2 if isinstance(call.result, bool):
                history[index] = replace(call, result=not call.result)
            case 3:
                history[index] = replace(
                    call, started_ns=other.started_ns, ended_ns=max(call.ended_ns, other.started_ns)
                )
    return history


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(sorted(SORTS)),
    st.integers(0, 1 << 32),
    st.integers(2, 9),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_every_search_is_right_about_histories_that_were_changed(
    sort: str, seed: int, count: int, unknown: float
) -> None:
    history = mutated(simulated(seed, count, 4, unknown, SORTS[sort]), random.Random(seed))
    expected = by_trying_everything(history)
    judged = check(history)
    assert (judged.verdict is Verdict.LINEARIZABLE) == expected
    assert (judged.witness is None) == expected
    calls = [o for o in history if o.outcome is OK or (o.outcome is UNKNOWN and o.kind is not READ)]
    assert PlainSearch(calls, 1 << 20).run() == expected


@pytest.mark.parametrize("sort", SORTS)
def test_an_order_that_was_found_is_one(sort: str) -> None:
    for seed in range(20):
        history = simulated(seed, 100, 6, 0.1, SORTS[sort])
        search = _search([o for o in history if o.kind is not READ or o.outcome is OK], 1 << 20)
        assert search.run()
        state: str | None = None
        for call_ in search.order:
            state = after(state, call_)
        for earlier, later in itertools.combinations(search.order, 2):
            assert not (later.outcome is OK and later.ended_ns < earlier.started_ns)
        assert {id(o) for o in history if o.outcome is OK} <= {id(o) for o in search.order}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    "kinds", [(READ, WRITE), (READ, WRITE, CAS, DELETE), (READ, INCREMENT), (READ, APPEND)], ids=str
)
def test_what_a_correct_key_does_is_never_blamed(seed: int, kinds: Sequence[Kind]) -> None:
    history = simulated(seed, 150, 6, 0.06, kinds)
    assert check(history).verdict is Verdict.LINEARIZABLE


@pytest.mark.parametrize("seed", range(30))
def test_one_wrong_read_is_found_in_a_long_history(seed: int) -> None:
    history = sorted(simulated(seed, 300, 6, 0.03, (READ, WRITE, CAS)), key=lambda o: o.started_ns)
    writes = [o for o in history if o.kind is WRITE and o.outcome is OK]
    reads = [o for o in history if o.kind is READ and o.outcome is OK]
    late = [read for read in reads if sum(write.ended_ns < read.started_ns for write in writes) > 5]
    wrong = random.Random(seed).choice(late)
    bad = [replace(o, result=writes[0].arguments[0]) if o is wrong else o for o in history]
    judged = check(bad)
    assert judged.verdict is Verdict.VIOLATED
    assert judged.witness is not None


@pytest.mark.parametrize("unknown", [0.0, 0.02])
@pytest.mark.parametrize("sort", ["register", "counter", "list"])
def test_a_long_history_of_one_key_takes_about_a_position_a_call(sort: str, unknown: float) -> None:
    judged = check(simulated(1, 5_000, 8, unknown, SORTS[sort]))
    assert judged.verdict is Verdict.LINEARIZABLE
    assert judged.states < 2 * 5_000


@pytest.mark.parametrize("sort", ["register", "counter", "list"])
def test_many_calls_of_unknown_outcome_do_not_blow_up_a_violation(sort: str) -> None:
    for seed in range(5):
        history = sorted(simulated(seed, 300, 12, 0.2, SORTS[sort]), key=lambda o: o.started_ns)
        reads = [o for o in history if o.kind is READ and o.outcome is OK]
        bad = [replace(o, result=reads[len(reads) // 3].result) if o is reads[-1] else o for o in history]
        judged = check([*bad, replace(reads[-1], result="never written")])
        assert judged.verdict is Verdict.VIOLATED
        assert judged.witness is not None
        assert check(bad).verdict is not Verdict.UNDECIDED

"""The verdict on a whole history: each key by itself, and how long nothing was answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.linear import Verdict, Witness, check
from fortdb.torture.records import KeyFault, fault_of_records
from fortdb.torture.sorts import Sort, sort_of
from fortdb.torture.versions import as_register, fault_of_versions, has_versions
from fortdb.torture.worm import fault_of_protected, has_protected

SILENCE_NS_MIN = 1_000_000_000
"""A shorter time without any answer is not counted as an outage."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A key whose calls cannot be explained."""

    key: str
    sort: Sort
    sentence: str
    witness: Witness | None


class _KindOfKey(NamedTuple):
    """How keys of one kind are judged: what finds a fault in their calls, and what makes them calls of a register for
    the search, if they can be. `is_of`: whether calls are of such a key."""

    name: str
    is_of: Callable[[Sequence[Operation]], bool]
    find_fault: Callable[[Sequence[Operation]], KeyFault | None] | None = None
    as_register: Callable[[Sequence[Operation]], list[Operation]] | None = list


def _any(kind: Kind) -> Callable[[Sequence[Operation]], bool]:
    return lambda calls: any(call.kind is kind for call in calls)


_KINDS_OF_KEYS = (
    _KindOfKey("records", _any(Kind.ADD), fault_of_records, None),
    _KindOfKey("WORM records", has_protected, fault_of_protected, None),
    _KindOfKey("versions", has_versions, fault_of_versions, as_register),
    _KindOfKey("counters", _any(Kind.INCREMENT)),
    _KindOfKey("lists", _any(Kind.APPEND)),
    _KindOfKey("registers", lambda calls: True),
)
"""The first that the calls are of."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A stretch between two successful calls, of all clients on all keys, or on those of one `place`: keys
    with one tag, which lie in one partition."""

    started_ns: int
    ended_ns: int
    place: str = ""

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the history says. `calls`: by kind and outcome; `keys_of`: how many registers, counters, lists, keys with
    records, versions, WORM records."""

    calls: dict[tuple[Kind, Outcome], int]
    keys: int
    keys_of: dict[str, int]
    violations: tuple[Violation, ...]
    undecided: tuple[str, ...]
    silences: tuple[Silence, ...]
    place_silences: tuple[Silence, ...]

    def count(self, outcome: Outcome) -> int:
        """Calls of that outcome."""
        return sum(count for (_, one), count in self.calls.items() if one is outcome)

    @property
    def verdict(self) -> Verdict:
        """Linearizable only if every key is, and something was read."""
        if self.violations:
            return Verdict.VIOLATED
        was_read = self.calls.get((Kind.READ, Outcome.OK), 0) > 0
        return Verdict.LINEARIZABLE if was_read and not self.undecided else Verdict.UNDECIDED


def judge(
    operations: Sequence[Operation],
    progress: Callable[[int, int], None] = lambda done, all: None,
    clients_until_ns: int = 0,
) -> Judgement:
    """Judge every key. `progress` is told how many keys of how many are done. After `clients_until_ns`, if it is
    said, no client asked any more, and silence says nothing."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)

    def is_heard(silence: Silence) -> bool:
        return not clients_until_ns or silence.ended_ns <= clients_until_ns

    violations: list[Violation] = []
    undecided: list[str] = []
    for number, (key, calls) in enumerate(sorted(by_key.items())):
        progress(number, len(by_key))
        kind = _kind_of(calls)
        fault = None if kind.find_fault is None else kind.find_fault(calls)
        if fault is not None:
            violations.append(Violation(key, fault.sort, f"{key}: {fault.sentence}", None))
        if fault is not None or kind.as_register is None:
            continue
        calls = kind.as_register(calls)
        judged = check(calls)
        if judged.verdict is Verdict.VIOLATED:
            sentence = _sentence(key, calls, judged.witness)
            violations.append(Violation(key, sort_of(calls, judged.witness), sentence, judged.witness))
        elif judged.verdict is Verdict.UNDECIDED:
            undecided.append(key)
    progress(len(by_key), len(by_key))
    return Judgement(
        calls=dict(Counter((operation.kind, operation.outcome) for operation in operations)),
        keys=len(by_key),
        keys_of=dict(Counter(_kind_of(calls).name for calls in by_key.values())),
        violations=tuple(violations),
        undecided=tuple(undecided),
        silences=tuple(one for one in silences(operations) if is_heard(one)),
        place_silences=tuple(one for one in _place_silences(by_key) if is_heard(one)),
    )


def silences(operations: Iterable[Operation], place: str = "") -> list[Silence]:
    """Stretches in which no call of any client succeeded."""
    ends = sorted(operation.ended_ns for operation in operations if operation.outcome is Outcome.OK)
    return [Silence(a, b, place) for a, b in pairwise(ends) if b - a >= SILENCE_NS_MIN]


def _place_silences(by_key: Mapping[str, Sequence[Operation]]) -> Iterator[Silence]:
    by_place: defaultdict[str, list[Sequence[Operation]]] = defaultdict(list)
    for key, calls in by_key.items():
        before, opened, tag = key.partition("{")
        by_place[tag.partition("}")[0] if opened else before].append(calls)
    for place, keys in sorted(by_place.items()):
        yield from silences(chain.from_iterable(keys), place)


def _kind_of(calls: Sequence[Operation]) -> _KindOfKey:
    return next(kind for kind in _KINDS_OF_KEYS if kind.is_of(calls))


def _sentence(key: str, calls: Sequence[Operation], witness: Witness | None) -> str:
    """What is wrong, in words."""
    if witness is None:
        return f"{key}: no order of its calls explains their results"
    culprit = witness.culprit
    told = f"{key}: “{culprit}” of client {culprit.client} by {culprit.via}"
    if culprit.kind is not Kind.READ:
        state = "nothing" if witness.state is None else f"“{witness.state[-40:]}”"
        return f"{told} cannot be: the value before it was {state}"
    if any(call.kind in (Kind.INCREMENT, Kind.APPEND) for call in calls):
        return f"{told} fits no order of the changes that were acknowledged"
    writers = [
        call for call in calls if call.kind in (Kind.WRITE, Kind.CAS) and call.arguments[-1] == culprit.result
    ]
    changes = [
        call
        for call in witness.before
        if call.outcome is Outcome.OK
        and call.kind is not Kind.READ
        and call.result is not False  # a swap or a delete that found nothing to do
        and call.ended_ns < culprit.started_ns
    ]
    if culprit.result is not None and not any(call.outcome is not Outcome.FAILED for call in writers):
        return f"{told}: nobody wrote that" + (", the write was refused" if writers else "")
    if not changes:
        return f"{told} fits no order of the calls"
    last = changes[-1]
    ago_ms = (culprit.started_ns - last.ended_ns) / 1e6
    return f"{told} is out of date: “{last}” was acknowledged {ago_ms:.1f} ms before it began"

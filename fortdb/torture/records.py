"""Whether what clients were told of a key with records can have happened one call after the other.

Records are only added here. So the state is a sequence that grows at its end, in the order of its ids, and reads
and ids tell where each call stands; no search is needed. An order of all calls exists exactly if

* what a read shows ascends in its ids, and is a beginning of what every longer read shows,
* each record in it was added once, by a call that began before the read ended, under the id that it was told,
* each record whose call had ended before the read began is in it, and a read that began after another had ended
  shows no less,
* ids of acknowledged calls differ, and grow with the calls that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.sorts import Sort

Id = tuple[int, int]
Row = tuple[Id, str]
"""An id and a value."""


class KeyFault(NamedTuple):
    """What is wrong with the calls of one key, in a word and a sentence."""

    sort: Sort
    sentence: str


class Read(NamedTuple):
    """A read that was answered, and what it showed."""

    call: Operation
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"the read of client {self.call.client} by {self.call.via} ({len(self.rows)} shown)"


def fault_of_records(calls: Sequence[Operation]) -> KeyFault | None:
    """The first fault that is found, None if there is an order of the calls."""
    adds = {str(call.arguments[0]): call for call in calls if call.kind is Kind.ADD}
    reads = reads_of(calls, Kind.READ)
    acknowledged = [call for call in adds.values() if call.outcome is Outcome.OK]
    faults: Iterable[Callable[[], Iterator[KeyFault]]] = (
        lambda: faults_of_ids(acknowledged),
        lambda: (fault for read in reads for fault in faults_of_rows(read, adds, {})),
        lambda: (fault for read in reads for fault in _of_absence(read, acknowledged, reads)),
        lambda: _of_growth(reads),
    )
    return next((fault for find in faults for fault in find()), None)


def reads_of(calls: Sequence[Operation], kind: Kind) -> list[Read]:
    """Those that were answered, by their beginning."""
    answered = [call for call in calls if call.kind is kind and call.outcome is Outcome.OK]
    answered.sort(key=lambda call: call.started_ns)
    return [Read(call, tuple(_rows(str(call.result or "")))) for call in answered]


def id_of(text: str) -> Id:
    """An id, from its form `ms-number`."""
    ms, _, number = text.partition("-")
    return int(ms), int(number)


def faults_of_ids(acknowledged: Sequence[Operation]) -> Iterator[KeyFault]:
    """What is wrong with the ids that calls were told."""
    told: dict[object, Operation] = {}
    for call in acknowledged:
        other = told.setdefault(call.result, call)
        if other is not call:
            yield KeyFault(Sort.ORDER, f"“{call}” was told the id of “{other}”")
    by_end = sorted(acknowledged, key=lambda call: call.ended_ns)
    ended, newest, holder = 0, (-1, -1), None
    for call in sorted(acknowledged, key=lambda call: call.started_ns):
        while by_end[ended].ended_ns < call.started_ns:
            if id_of(str(by_end[ended].result)) > newest:
                newest, holder = id_of(str(by_end[ended].result)), by_end[ended]
            ended += 1
        if id_of(str(call.result)) <= newest:
            yield KeyFault(
                Sort.ORDER, f"“{call}” began after “{holder}” had ended, and its id is not greater"
            )


def faults_of_rows(
    read: Read, adds: Mapping[str, Operation], written: Mapping[Id, str]
) -> Iterator[KeyFault]:
    """What is wrong with what a read shows, by the calls that added its values, and, where nobody may change a record,
    by what was `written` under an id."""
    for (former, _), (later, value) in pairwise(read.rows):
        if later <= former:
            yield KeyFault(Sort.ORDER, f"{read} shows {value} out of the order of its ids")
    seen: set[str] = set()
    for record, value in read.rows:
        call = adds.get(value)
        if value in seen:
            yield KeyFault(Sort.TWICE, f"{read} shows {value} twice")
        elif written.get(record, value) != value:
            yield KeyFault(Sort.PROTECTED, f"{read} shows {value} where {written[record]} was written")
        elif call is None or call.outcome is Outcome.FAILED or call.started_ns > read.call.ended_ns:
            why = "was refused" if call is not None and call.outcome is Outcome.FAILED else "nobody had added"
            yield KeyFault(Sort.REFUSED, f"{read} shows {value}, which {why}")
        elif call.outcome is Outcome.OK and id_of(str(call.result)) != record:
            yield KeyFault(Sort.ORDER, f"{read} shows {value} under another id than {call.result}")
        seen.add(value)


def _of_absence(read: Read, acknowledged: Sequence[Operation], reads: Sequence[Read]) -> Iterator[KeyFault]:
    shown = {value for _, value in read.rows}
    for call in acknowledged:
        value = str(call.arguments[0])
        if call.ended_ns < read.call.started_ns and value not in shown:
            later = reads[-1]
            sort = Sort.STALE if any(value == other for _, other in later.rows) else Sort.LOST
            ago_ms = (read.call.started_ns - call.ended_ns) / 1e6
            yield KeyFault(
                sort, f"{read} does not show {value}, acknowledged {ago_ms:.1f} ms before it began"
            )


def _of_growth(reads: Sequence[Read]) -> Iterator[KeyFault]:
    for shorter, longer in pairwise(sorted(reads, key=lambda read: len(read.rows))):
        if longer.rows[: len(shorter.rows)] != shorter.rows:
            yield KeyFault(Sort.ORDER, f"what {shorter} shows is not what {longer} begins with")
    by_end = sorted(reads, key=lambda read: read.call.ended_ns)
    ended, most = 0, 0
    for read in reads:
        while by_end[ended].call.ended_ns < read.call.started_ns:
            most = max(most, len(by_end[ended].rows))
            ended += 1
        if len(read.rows) < most:
            yield KeyFault(Sort.STALE, f"{read} shows less than a read that had ended before it began")


def _rows(result: str) -> Iterator[Row]:
    for row in filter(None, result.split(",")):
        record, _, value = row.partition(" ")
        yield id_of(record), value

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.sorts import Sort

_Row = tuple[tuple[int, int], str]
"""An id and a value."""


class RecordsFault(NamedTuple):
    """What is wrong with the calls of one key, in a word and a sentence."""

    sort: Sort
    sentence: str


class _Read(NamedTuple):
    call: Operation
    rows: tuple[_Row, ...]


def fault_of_records(calls: Sequence[Operation]) -> RecordsFault | None:
    """The first fault that is found, None if there is an order of the calls."""
    adds = {str(call.arguments[0]): call for call in calls if call.kind is Kind.ADD}
    reads = [
        _Read(call, tuple(_rows(str(call.result or ""))))
        for call in calls
        if call.kind is Kind.READ and call.outcome is Outcome.OK
    ]
    reads.sort(key=lambda read: read.call.started_ns)
    acknowledged = [call for call in adds.values() if call.outcome is Outcome.OK]
    faults: Iterable[Callable[[], Iterator[RecordsFault]]] = (
        lambda: _of_ids(acknowledged),
        lambda: (fault for read in reads for fault in _of_rows(read, adds)),
        lambda: (fault for read in reads for fault in _of_absence(read, acknowledged, reads)),
        lambda: _of_growth(reads),
    )
    return next((fault for find in faults for fault in find()), None)


def _of_ids(acknowledged: Sequence[Operation]) -> Iterator[RecordsFault]:
    told: dict[object, Operation] = {}
    for call in acknowledged:
        other = told.setdefault(call.result, call)
        if other is not call:
            yield RecordsFault(Sort.ORDER, f"“{call}” was told the id of “{other}”")
    by_end = sorted(acknowledged, key=lambda call: call.ended_ns)
    ended, newest, holder = 0, (-1, -1), None
    for call in sorted(acknowledged, key=lambda call: call.started_ns):
        while by_end[ended].ended_ns < call.started_ns:
            if _id(str(by_end[ended].result)) > newest:
                newest, holder = _id(str(by_end[ended].result)), by_end[ended]
            ended += 1
        if _id(str(call.result)) <= newest:
            yield RecordsFault(
                Sort.ORDER, f"“{call}” began after “{holder}” had ended, and its id is not greater"
            )


def _of_rows(read: _Read, adds: dict[str, Operation]) -> Iterator[RecordsFault]:
    told = _told(read)
    for (former, _), (later, value) in pairwise(read.rows):
        if later <= former:
            yield RecordsFault(Sort.ORDER, f"{told} shows {value} out of the order of its ids")
    seen: set[str] = set()
    for record, value in read.rows:
        call = adds.get(value)
        if value in seen:
            yield RecordsFault(Sort.TWICE, f"{told} shows {value} twice")
        elif call is None or call.outcome is Outcome.FAILED or call.started_ns > read.call.ended_ns:
            why = "was refused" if call is not None and call.outcome is Outcome.FAILED else "nobody had added"
            yield RecordsFault(Sort.REFUSED, f"{told} shows {value}, which {why}")
        elif call.outcome is Outcome.OK and _id(str(call.result)) != record:
            yield RecordsFault(Sort.ORDER, f"{told} shows {value} under another id than {call.result}")
        seen.add(value)


def _of_absence(
    read: _Read, acknowledged: Sequence[Operation], reads: Sequence[_Read]
) -> Iterator[RecordsFault]:
    shown = {value for _, value in read.rows}
    for call in acknowledged:
        value = str(call.arguments[0])
        if call.ended_ns < read.call.started_ns and value not in shown:
            later = reads[-1]
            sort = Sort.STALE if any(value == other for _, other in later.rows) else Sort.LOST
            ago_ms = (read.call.started_ns - call.ended_ns) / 1e6
            yield RecordsFault(
                sort, f"{_told(read)} does not show {value}, acknowledged {ago_ms:.1f} ms before it began"
            )


def _of_growth(reads: Sequence[_Read]) -> Iterator[RecordsFault]:
    for shorter, longer in pairwise(sorted(reads, key=lambda read: len(read.rows))):
        if longer.rows[: len(shorter.rows)] != shorter.rows:
            yield RecordsFault(
                Sort.ORDER, f"what {_told(shorter)} shows is not what {_told(longer)} begins with"
            )
    by_end = sorted(reads, key=lambda read: read.call.ended_ns)
    ended, most = 0, 0
    for read in reads:
        while by_end[ended].call.ended_ns < read.call.started_ns:
            most = max(most, len(by_end[ended].rows))
            ended += 1
        if len(read.rows) < most:
            yield RecordsFault(
                Sort.STALE, f"{_told(read)} shows less than a read that had ended before it began"
            )


def _told(read: _Read) -> str:
    return f"the read of client {read.call.client} by {read.call.via} ({len(read.rows)} records)"


def _rows(result: str) -> Iterator[_Row]:
    for row in filter(None, result.split(",")):
        record, _, value = row.partition(" ")
        yield _id(record), value


def _id(text: str) -> tuple[int, int]:
    ms, _, number = text.partition("-")
    return int(ms), int(number)

"""Whether WORM records stayed what they were for as long as that was promised.

Records go by themselves here, and some may be removed: there is no one sequence, and each record is judged by itself.
It begins with its `keep`, and must be seen, under one id and as it was written, by everybody who asks after that was
acknowledged or after somebody saw it, until one of these may be:

* its retention has passed: not before its time after the *beginning* of the `keep` by the clients' clock, longer by
  what `retain` added. The partition's clock stands still now and then, so it may be there for much longer, and nothing is
  judged by that;
* it was removed, by somebody who may: in governance with `BYPASS`, or when its retention had passed.

A hold that was acknowledged keeps it against both, until a release begins. What is gone does not come back. Whoever
writes to the key as a whole, or deletes it, or shortens a retention, is refused, always. Ids ascend as those of
other records. A call that finds no record shows that it is gone as well as a read does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fortdb.model import Mode
from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.records import Id, KeyFault, Read, faults_of_ids, faults_of_rows, id_of, reads_of
from fortdb.torture.sorts import Sort

SLACK_NS = 50_000_000
"""A retention may end so much earlier than the clients' clock has it: clocks of nodes tick in milliseconds, and the
kernel's may be slewed by some."""

_OF_RECORDS = frozenset({Kind.REMOVE, Kind.HOLD, Kind.RELEASE, Kind.RETAIN})
_AS_A_WHOLE = frozenset({Kind.WRITE, Kind.CAS, Kind.DELETE})


@dataclass(slots=True)
class _Record:
    """What is known of one: `known_ns`: since when everybody sees it; `gone_ns`: since when nobody does."""

    call: Operation
    id: Id
    known_ns: float
    told: list[Operation] = field(default_factory=list)
    gone_ns: float = float("inf")
    gone_by: str = ""

    @property
    def value(self) -> str:
        return str(self.call.arguments[0])

    def until_ns(self, started_ns: int) -> float:
        """Before that its retention cannot have passed, as far as was acknowledged at a moment."""
        more = [
            int(call.arguments[1] or 0)
            for call in self.told
            if call.kind is Kind.RETAIN and _is_done(call) and call.ended_ns < started_ns
        ]
        kept_ms = int(self.call.arguments[1] or 0) + max([0, *more])
        return self.call.started_ns + kept_ms * 1_000_000 - SLACK_NS

    def is_held(self, started_ns: int, ended_ns: int) -> bool:
        """Whether a hold lay on it all the time."""
        return any(
            hold.kind is Kind.HOLD
            and _is_done(hold)
            and hold.ended_ns < started_ns
            and not any(
                call.kind is Kind.RELEASE
                and call.arguments == hold.arguments
                and call.outcome is not Outcome.FAILED
                and call.started_ns <= ended_ns
                for call in self.told
            )
            for hold in self.told
        )

    def may_be_removed(self, call: Operation, by_ns: int) -> bool:
        """Whether a `remove` may have been right to take effect, by some moment."""
        if call.outcome is Outcome.FAILED or call.result is False or call.started_ns > by_ns:
            return False
        at_ns = min(call.ended_ns, by_ns) if call.outcome is Outcome.OK else by_ns
        bypasses = call.arguments[1] is True and self.call.arguments[2] == Mode.GOVERNANCE.value
        return bypasses or at_ns >= self.until_ns(call.started_ns)

    def must_be_there(self, started_ns: int, ended_ns: int) -> bool:
        """Whether who asked then must have been shown it, having begun when it was known."""
        if self.is_held(started_ns, ended_ns):
            return True
        is_removed = any(
            call.kind is Kind.REMOVE and self.may_be_removed(call, ended_ns) for call in self.told
        )
        return not is_removed and ended_ns < self.until_ns(started_ns)


def has_protected(calls: Iterable[Operation]) -> bool:
    """Whether these are calls of a key with WORM records."""
    return any(call.kind is Kind.KEEP or call.kind in _OF_RECORDS for call in calls)


def fault_of_protected(calls: Sequence[Operation]) -> KeyFault | None:
    """The first fault that is found, None if everything was kept that was promised."""
    adds = {str(call.arguments[0]): call for call in calls if call.kind is Kind.KEEP}
    reads = reads_of(calls, Kind.READ)
    acknowledged = [call for call in adds.values() if call.outcome is Outcome.OK]
    records = _records(calls, adds, reads)
    written = {record_id: record.value for record_id, record in records.items()}
    faults: Iterable[Callable[[], Iterator[KeyFault]]] = (
        lambda: _of_changes(calls, records),
        lambda: faults_of_ids(acknowledged),
        lambda: (fault for read in reads for fault in faults_of_rows(read, adds, written)),
        lambda: (fault for read in reads for fault in _of_absence(read, records.values())),
        lambda: (fault for record in records.values() for fault in _of_record(record)),
        lambda: _of_return(reads, records),
    )
    return next((fault for find in faults for fault in find()), None)


def _records(
    calls: Iterable[Operation], adds: Mapping[str, Operation], reads: Iterable[Read]
) -> dict[Id, _Record]:
    records: dict[Id, _Record] = {}
    for call in adds.values():
        if call.outcome is Outcome.OK:
            records.setdefault(id_of(str(call.result)), _Record(call, id_of(str(call.result)), call.ended_ns))
    for read in reads:
        for record_id, value in read.rows:
            if value in adds:
                shown = _Record(adds[value], record_id, read.call.ended_ns)
                known = records.setdefault(record_id, shown)
                known.known_ns = min(known.known_ns, read.call.ended_ns)
    by_id: defaultdict[Id, list[Operation]] = defaultdict(list)
    for call in calls:
        if call.kind in _OF_RECORDS:
            by_id[id_of(str(call.arguments[0]))].append(call)
    for record_id, record in records.items():
        record.told = sorted(by_id[record_id], key=lambda call: call.started_ns)
    return records


def _of_changes(calls: Iterable[Operation], records: Mapping[Id, _Record]) -> Iterator[KeyFault]:
    """What was answered as done, and must have been refused."""
    for call in calls:
        told = f"“{call}” of client {call.client} by {call.via}"
        if call.outcome is not Outcome.OK or call.result is False:
            continue
        if call.kind in _AS_A_WHOLE:
            yield KeyFault(Sort.PROTECTED, f"{told} was not refused")
        record = records.get(id_of(str(call.arguments[0]))) if call.kind in _OF_RECORDS else None
        if record is None:
            continue
        if call.kind is Kind.RETAIN and int(call.arguments[1] or 0) < 0:
            yield KeyFault(Sort.PROTECTED, f"{told} was not refused")
        if call.kind is Kind.REMOVE:
            if record.is_held(call.started_ns, call.ended_ns):
                yield KeyFault(Sort.PROTECTED, f"{told} removed {record.value}, which was held")
            elif not record.may_be_removed(call, call.ended_ns):
                yield KeyFault(Sort.PROTECTED, f"{told} removed {record.value} {_early(record, call)}")


def _of_absence(read: Read, records: Iterable[_Record]) -> Iterator[KeyFault]:
    shown = {record for record, _ in read.rows}
    newest = max(shown, default=(-1, -1))
    for record in records:
        is_known = record.known_ns < read.call.started_ns or record.id < newest
        if record.id in shown or not is_known:
            continue
        if record.must_be_there(read.call.started_ns, read.call.ended_ns):
            yield KeyFault(Sort.PROTECTED, f"{read} does not show {record.value} {_early(record, read.call)}")
        elif record.known_ns < read.call.started_ns and read.call.ended_ns < record.gone_ns:
            record.gone_ns, record.gone_by = read.call.ended_ns, str(read)


def _of_record(record: _Record) -> Iterator[KeyFault]:
    """What calls on one record found."""
    for call in record.told:
        told = f"“{call}” of client {call.client} by {call.via}"
        if call.outcome is not Outcome.OK or call.kind is Kind.RELEASE:
            continue
        is_gone = not call.result and record.known_ns < call.started_ns
        if is_gone and record.must_be_there(call.started_ns, call.ended_ns):
            yield KeyFault(Sort.PROTECTED, f"{told} found no {record.value} {_early(record, call)}")
        if call.result and record.gone_ns < call.started_ns:
            yield KeyFault(Sort.BACK, f"{told} found {record.value}, which was gone by {record.gone_by}")
        if (is_gone or (call.result and call.kind is Kind.REMOVE)) and call.ended_ns < record.gone_ns:
            record.gone_ns, record.gone_by = call.ended_ns, told


def _of_return(reads: Iterable[Read], records: Mapping[Id, _Record]) -> Iterator[KeyFault]:
    for read in reads:
        for record_id, value in read.rows:
            record = records[record_id]
            if record.gone_ns < read.call.started_ns:
                yield KeyFault(Sort.BACK, f"{read} shows {value}, which was gone by {record.gone_by}")


def _is_done(call: Operation) -> bool:
    return call.outcome is Outcome.OK and call.result is True


def _early(record: _Record, call: Operation) -> str:
    """How long it would have had to be there, in words."""
    if record.is_held(call.started_ns, call.ended_ns):
        return "although it was held"
    left_ms = (record.until_ns(call.started_ns) - call.ended_ns) / 1e6
    return f"{left_ms:.0f} ms before its retention can have passed"

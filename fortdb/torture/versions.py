"""Whether what clients were told of a key's history is what the key held.

The key itself is a register, and the newest version is what a read tells: so `as_register` makes reads of histories,
and the search judges them with all other calls (`linear.py`). What a key held is one sequence of versions in the order
of their ids. It only grows at its end, and loses at its beginning what its policy lets go. So, of the histories
that clients saw,

* each ascends in its ids, shows nothing that was refused or that nobody wrote, no value twice, and no deletion behind
  another one,
* two agree about every id between the first and the last of either, and one shows no less than another that had ended
  before it began,
* the order is that of the calls that follow each other,
* one that keeps everything begins with the first version there ever was, and has every change that was acknowledged
  before it began; so has one that keeps n, but for those before its first, and then it shows n.

What the key held at a moment is fixed once there is a version that is as new. From then on `GET key AT moment` answers
the value that the histories have there, or nothing if the policy let it go; who finds it in a later history finds that
it was there. Writes answer no id: a value is its own name, deletions are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from fortdb.torture.history import Kind, Operation, Outcome
from fortdb.torture.records import Id, KeyFault, Read, id_of, reads_of
from fortdb.torture.sorts import Sort

_MOMENT_END = 1 << 64  # behind every id of a millisecond
_NEVER_NS = float("inf")

Changes = Mapping[str, Operation]
"""By the value that they write."""


def has_versions(calls: Iterable[Operation]) -> bool:
    """Whether these are calls of a key with a history."""
    return any(call.kind in (Kind.VERSIONS, Kind.AT) for call in calls)


def as_register(calls: Iterable[Operation]) -> list[Operation]:
    """The calls of such a key as those of a register: a history is a read of its newest version."""
    return [
        replace(call, kind=Kind.READ, arguments=(), result=_newest(call))
        if call.kind is Kind.VERSIONS
        else call
        for call in calls
        if call.kind is not Kind.AT
    ]


def fault_of_versions(calls: Sequence[Operation]) -> KeyFault | None:
    """The first fault that is found, None if one sequence explains what was told."""
    changes = {str(call.arguments[-1]): call for call in calls if call.kind in (Kind.WRITE, Kind.CAS)}
    deletes = [call for call in calls if call.kind is Kind.DELETE]
    histories = reads_of(calls, Kind.VERSIONS)
    held = {record: value for history in histories for record, value in history.rows}
    faults: Iterable[Callable[[], Iterator[KeyFault]]] = (
        lambda: (fault for history in histories for fault in _of_rows(history, changes)),
        lambda: _of_agreement(histories, held),
        lambda: _of_order(held, changes),
        lambda: (fault for history in histories for fault in _of_absence(history, changes, histories)),
        lambda: (fault for history in histories for fault in _of_deletes(history, deletes)),
        lambda: _of_growth(histories),
        lambda: (fault for call in calls if _is_moment(call) for fault in _of_moment(call, histories)),
    )
    return next((fault for find in faults for fault in find()), None)


def _newest(call: Operation) -> str | None:
    last = str(call.result or "").rpartition(",")[2]
    return last.partition(" ")[2] or None


def _keeps(history: Read) -> int:
    return int(history.call.arguments[0] or 0)


def _is_full(history: Read) -> bool:
    """Whether there may have been versions before its first."""
    return 0 < _keeps(history) <= len(history.rows)


def _took_effect(call: Operation) -> bool:
    return (
        call.outcome is Outcome.OK and call.result is not False
    )  # a swap or a delete may find nothing to do


def _of_rows(history: Read, changes: Changes) -> Iterator[KeyFault]:
    for (former, was), (later, value) in pairwise(history.rows):
        if later <= former:
            yield KeyFault(Sort.ORDER, f"{history} shows {value} out of the order of its ids")
        if not was and not value:
            yield KeyFault(Sort.TWICE, f"{history} shows two deletions one after the other")
    if 0 < _keeps(history) < len(history.rows):
        yield KeyFault(Sort.ORDER, f"{history} shows more than the {_keeps(history)} that are kept")
    seen: set[str] = set()
    for _, value in history.rows:
        call = changes.get(value)
        if not value:
            continue
        if value in seen:
            yield KeyFault(Sort.TWICE, f"{history} shows {value} twice")
        if call is None or call.started_ns > history.call.ended_ns:
            yield KeyFault(Sort.REFUSED, f"{history} shows {value}, which nobody had written")
        elif call.outcome is Outcome.FAILED or call.result is False:
            yield KeyFault(Sort.REFUSED, f"{history} shows {value}, which was refused")
        seen.add(value)


def _of_agreement(histories: Sequence[Read], held: Mapping[Id, str]) -> Iterator[KeyFault]:
    order = sorted(held)
    ids: dict[str, Id] = {}
    for history in histories:
        for record, value in history.rows:
            if held[record] != value:
                yield KeyFault(
                    Sort.ORDER,
                    f"{history} shows {_named(value)} where another one has {_named(held[record])}",
                )
    for record, value in sorted(held.items()):
        if value and ids.setdefault(value, record) != record:
            yield KeyFault(Sort.TWICE, f"histories show {value} under two ids")
    for history in histories:
        if not history.rows:
            continue
        first, last = history.rows[0][0], history.rows[-1][0]
        shown = {record for record, _ in history.rows}
        for record in order:
            if first <= record <= last and record not in shown:
                yield KeyFault(
                    Sort.LOST, f"{history} does not show {_named(held[record])}, which another one has there"
                )
        if not _is_full(history) and first != order[0]:
            yield KeyFault(
                Sort.LOST, f"{history} does not show {_named(held[order[0]])}, the first that there was"
            )


def _of_order(held: Mapping[Id, str], changes: Changes) -> Iterator[KeyFault]:
    latest_begin_ns, latest = -1, ""
    for _, value in sorted(held.items()):
        call = changes.get(value)
        if call is None:
            continue
        if call.outcome is Outcome.OK and call.ended_ns < latest_begin_ns:
            yield KeyFault(
                Sort.ORDER, f"histories show {latest} before {value}, whose write had ended before it began"
            )
        if call.started_ns > latest_begin_ns:
            latest_begin_ns, latest = call.started_ns, value


def _of_absence(history: Read, changes: Changes, histories: Sequence[Read]) -> Iterator[KeyFault]:
    shown = {value for _, value in history.rows}
    writers = [changes[value] for value in shown if value in changes]
    # What began after one of those that are shown had ended is behind it, and so behind the first.
    within_ns = min((call.ended_ns for call in writers if call.outcome is Outcome.OK), default=_NEVER_NS)
    for value, call in changes.items():
        if not _took_effect(call) or call.ended_ns >= history.call.started_ns or value in shown:
            continue
        if _is_full(history) and call.started_ns <= within_ns:
            continue
        later = any(value == other for one in histories for _, other in one.rows if one is not history)
        ago_ms = (history.call.started_ns - call.ended_ns) / 1e6
        yield KeyFault(
            Sort.STALE if later else Sort.LOST,
            f"{history} does not show {value}, acknowledged {ago_ms:.1f} ms before it began",
        )


def _of_deletes(history: Read, deletes: Sequence[Operation]) -> Iterator[KeyFault]:
    shown = sum(not value for _, value in history.rows)
    least = sum(_took_effect(call) and call.ended_ns < history.call.started_ns for call in deletes)
    most = sum(
        call.started_ns <= history.call.ended_ns and (_took_effect(call) or call.outcome is Outcome.UNKNOWN)
        for call in deletes
    )
    if shown > most:
        yield KeyFault(Sort.TWICE, f"{history} shows {shown} deletions, and there were at most {most}")
    if shown < least and not _is_full(history):
        yield KeyFault(Sort.LOST, f"{history} shows {shown} deletions of {least} that were acknowledged")


def _of_growth(histories: Sequence[Read]) -> Iterator[KeyFault]:
    by_end = sorted(histories, key=lambda history: history.call.ended_ns)
    ended, newest = 0, (-1, -1)
    for history in histories:
        while by_end[ended].call.ended_ns < history.call.started_ns:
            newest = max(newest, _last(by_end[ended]))
            ended += 1
        if _last(history) < newest:
            yield KeyFault(Sort.STALE, f"{history} ends before one that had ended before it began")


def _of_moment(call: Operation, histories: Sequence[Read]) -> Iterator[KeyFault]:
    text = str(call.arguments[0])
    moment = id_of(text) if "-" in text else (int(text), _MOMENT_END)
    if not any(history.call.ended_ns < call.started_ns and _last(history) >= moment for history in histories):
        return  # what was held then was not decided yet
    told = f"“{call}” of client {call.client} by {call.via}"
    for history in histories:
        is_whole = history.rows and not _is_full(history)
        if not (is_whole or (history.rows and history.rows[0][0] <= moment)) or _last(history) < moment:
            continue
        record, value = max((row for row in history.rows if row[0] <= moment), default=(None, ""))
        if call.result == (value or None):
            return
        if call.result is not None:
            yield KeyFault(Sort.ORDER, f"{told} cannot be: the key held {_named(value)} then")
        elif not _keeps(history) or _is_still_there(record, call, histories):
            yield KeyFault(Sort.LOST, f"{told} cannot be: the key held {value} then, and that is still kept")
        return


def _is_still_there(record: Id | None, call: Operation, histories: Sequence[Read]) -> bool:
    """Whether who came later still saw that version, or older ones."""
    return record is not None and any(
        history.call.started_ns > call.ended_ns and history.rows and history.rows[0][0] <= record
        for history in histories
    )


def _is_moment(call: Operation) -> bool:
    return call.kind is Kind.AT and call.outcome is Outcome.OK


def _last(history: Read) -> Id:
    return history.rows[-1][0] if history.rows else (-1, -1)


def _named(value: str) -> str:
    return value or "a deletion"

"""What clients do with a key of each sort: the mix of calls.

WORM records are asked for what must be refused (another value, removal, a shorter retention, an end of the key as a
whole) as often as for what may be done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fortdb.client import parse_record_id, records
from fortdb.errors import FortError
from fortdb.model import RecordId
from fortdb.torture.caller import Caller
from fortdb.torture.history import Kind, Value
from fortdb.torture.places import (
    BOUNDED,
    COLD,
    COMPLIANT,
    COUNTER,
    GOVERNED,
    HISTORY,
    HOT_CALLS_MAX,
    LIST,
    RECORDS,
    REGISTER,
    SORTS,
    sort_of,
)

_ROWS_MAX = 10 * HOT_CALLS_MAX  # more than a key ever has: it is read at one moment
_RETAIN_MS = (-2_000, 2_000)

Action = Callable[[Caller, str], FortError | None]
"""One call on a key; its error, if it had one."""


def read(caller: Caller, key: str) -> FortError | None:
    """All that a key holds: its value, its records, or its versions."""
    space = SORTS[sort_of(key)].space
    if space is None:
        return _read_value(caller, key)
    return _read_records(caller, key) if space.policy.keeps_records else _read_versions(caller, key)


def remove(caller: Caller, key: str, record: str, bypass: bool = False) -> FortError | None:
    """Remove a record."""
    return caller.call(
        Kind.REMOVE,
        key,
        (record, bypass),
        lambda: caller.client.remove(key, parse_record_id(record), bypass=bypass),
    )


def release(caller: Caller, key: str, record: str, name: str) -> FortError | None:
    """End a hold; it is forgotten when that is certain."""
    error = caller.call(
        Kind.RELEASE,
        key,
        (record, name),
        lambda: caller.client.release(key, parse_record_id(record), name),
    )
    if error is None:
        caller.notes.holds.pop((key, record, name), None)
    return error


def ids_of(caller: Caller, key: str) -> list[str]:
    """Of the records or versions that were last seen at a key."""
    rows = caller.keys.rows.get(key, "")
    return [row.partition(" ")[0] for row in rows.split(",") if row]


# --- single values -------------------------------------------------------------------------------------


def _read_value(caller: Caller, key: str) -> FortError | None:
    def get() -> Value:
        value = caller.client.get(key)
        caller.keys.recent[key] = (value or b"").decode()
        return None if value is None else value.decode()

    return caller.call(Kind.READ, key, (), get)


def _register(caller: Caller, key: str) -> FortError | None:
    return _read_value(caller, key) if caller.chance.random() < 0.45 else _change(caller, key)


def _change(caller: Caller, key: str) -> FortError | None:
    draw = caller.chance.random()
    if draw < 0.55:
        return _write(caller, key)
    if draw < 0.86:
        held = caller.keys.recent.get(key) or "nothing"
        value = caller.unique()
        return caller.call(Kind.CAS, key, (held, value), lambda: _compare_and_set(caller, key, held, value))
    return caller.call(Kind.DELETE, key, (), lambda: bool(caller.client.delete(key)))


def _write(caller: Caller, key: str) -> FortError | None:
    value = caller.unique()

    def put() -> Value:
        done = caller.client.put(key, value)
        caller.keys.recent[key] = value
        return done

    return caller.call(Kind.WRITE, key, (value,), put)


def _compare_and_set(caller: Caller, key: str, held: str, value: str) -> Value:
    done = caller.client.put(key, value, only_if_equal=held)
    if done:
        caller.keys.recent[key] = value
    return done


def _counter(caller: Caller, key: str) -> FortError | None:
    if caller.chance.random() < 0.4:
        return _read_value(caller, key)
    amount = caller.chance.randrange(1, 10)
    return caller.call(Kind.INCREMENT, key, (amount,), lambda: caller.client.increment(key, amount))


def _list(caller: Caller, key: str) -> FortError | None:
    if caller.chance.random() < 0.4:
        return _read_value(caller, key)
    element = caller.unique() + ","
    return caller.call(Kind.APPEND, key, (element,), lambda: caller.client.append(key, element))


# --- records -------------------------------------------------------------------------------------------


def _read_records(caller: Caller, key: str) -> FortError | None:
    def get() -> Value:
        found = caller.client.run(records.records(key, None, _ROWS_MAX, False))
        rows = ",".join(f"{record.id} {record.value.decode()}" for record in found)
        caller.keys.rows[key] = rows
        return rows or None

    return caller.call(Kind.READ, key, (), get)


def _records(caller: Caller, key: str) -> FortError | None:
    if caller.chance.random() < 0.4:
        return _read_records(caller, key)
    value = caller.unique()
    return caller.call(Kind.ADD, key, (value,), lambda: str(caller.client.add(key, value)))


# --- versions ------------------------------------------------------------------------------------------


def _read_versions(caller: Caller, key: str) -> FortError | None:
    space = SORTS[sort_of(key)].space
    assert space is not None

    def get() -> Value:
        found = caller.client.run(records.history(key, None, _ROWS_MAX, False))
        rows = ",".join(_version(one.id, one.value) for one in found)
        caller.keys.rows[key] = rows
        return rows or None

    return caller.call(Kind.VERSIONS, key, (space.keep or 0,), get)


def _version(record: RecordId, value: bytes | None) -> str:
    return str(record) if value is None else f"{record} {value.decode()}"


def _versions(caller: Caller, key: str) -> FortError | None:
    draw = caller.chance.random()
    if draw < 0.2:
        return _read_versions(caller, key)
    if draw < 0.3:
        return _read_value(caller, key)
    if draw < 0.5 and (ids := ids_of(caller, key)):
        return _read_moment(caller, key, caller.chance.choice(ids))
    return _change(caller, key)


def _read_moment(caller: Caller, key: str, record: str) -> FortError | None:
    """What was held with a version, or a moment before it."""
    moment: RecordId | int = parse_record_id(record)
    if caller.chance.random() < 0.5:
        moment = parse_record_id(record).ms - caller.chance.randrange(20)

    def get() -> Value:
        value = caller.client.get(key, at=moment)
        return None if value is None else value.decode()

    return caller.call(Kind.AT, key, (str(moment),), get)


# --- WORM records --------------------------------------------------------------------------------------


def _protected(caller: Caller, key: str) -> FortError | None:
    draw, ids = caller.chance.random(), ids_of(caller, key)
    if draw < 0.35:
        return _read_records(caller, key)
    if draw < 0.65 or not ids:
        return _keep(caller, key)
    record = caller.chance.choice(ids)
    if draw < 0.77:
        return remove(caller, key, record)
    if draw < 0.85:
        return _change_as_a_whole(caller, key)
    if draw < 0.90:
        return _retain(caller, key, record)
    if not caller.notes.may_govern:
        return _read_records(caller, key)
    if draw < 0.94:
        return _hold(caller, key, record)
    if draw < 0.97:
        held = [hold for hold in list(caller.notes.holds) if hold[0] == key]
        return release(caller, *caller.chance.choice(held)) if held else _hold(caller, key, record)
    return remove(caller, key, record, bypass=True)


def _keep(caller: Caller, key: str) -> FortError | None:
    space = SORTS[sort_of(key)].space
    assert space is not None and space.mode is not None
    value = caller.unique()

    def add() -> Value:
        receipt = caller.client.add_with_receipt(key, value)
        assert receipt is not None and receipt.id is not None, "the record has no condition"
        caller.notes.receipts.append(receipt)
        return str(receipt.id)

    return caller.call(Kind.KEEP, key, (value, space.retention_ms, space.mode.value), add)


def _change_as_a_whole(caller: Caller, key: str) -> FortError | None:
    """What is never done to such a key."""
    client, value = caller.client, caller.unique()
    if caller.chance.random() < 0.3:
        return caller.call(Kind.WRITE, key, (value,), lambda: client.put(key, value))
    deletes: list[Callable[[], Value]] = [
        lambda: bool(client.delete(key)),
        lambda: bool(client.purge(key)),
        lambda: client.expire(key, 1),
    ]
    return caller.call(Kind.DELETE, key, (), caller.chance.choice(deletes))


def _retain(caller: Caller, key: str, record: str) -> FortError | None:
    """Shorten a retention, which is refused, or lengthen it."""
    try:
        found = caller.client.protection(key, parse_record_id(record))
    except FortError as error:
        return error
    if found is None:
        return _read_records(caller, key)
    more_ms, until_ms = caller.chance.choice(_RETAIN_MS), found.until_ms
    return caller.call(
        Kind.RETAIN,
        key,
        (record, more_ms),
        lambda: caller.client.retain(key, parse_record_id(record), until_ms + more_ms),
    )


def _hold(caller: Caller, key: str, record: str) -> FortError | None:
    name = f"case-{caller.unique()}"
    caller.notes.holds[key, record, name] = None
    return caller.call(
        Kind.HOLD, key, (record, name), lambda: caller.client.hold(key, parse_record_id(record), name)
    )


ACTIONS: Mapping[str, Action] = {
    REGISTER: _register,
    COLD: _register,
    COUNTER: _counter,
    LIST: _list,
    RECORDS: _records,
    HISTORY: _versions,
    BOUNDED: _versions,
    GOVERNED: _protected,
    COMPLIANT: _protected,
}
"""By the letter of the sort."""

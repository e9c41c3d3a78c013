"""What keeps records, receipts, and how both are verified: the sums are done here, from what nodes tell.

The chain of a partition is described in `fortdb/node/ledger.py`. A node says what it finds of each link's record on its
disk; that the links follow from each other, and end where the partition says, is worked out by the client. Whoever can
rewrite the disks of all replicas can rewrite a chain as a whole: a receipt that was kept elsewhere shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from struct import Struct

from fortdb.client.connection import Reply
from fortdb.client.records import parse_record_id
from fortdb.client.requests import Argument, Request, bytes_of, integer_of, request, unexpected
from fortdb.client.status import Fields
from fortdb.errors import BadRequest, FortError
from fortdb.model import Mode, RecordId

_STEP = Struct(">Q32sQ?")
_CONTENT = Struct(">H")
_ID = Struct(">QQ")

Run = Callable[[Request["ChainPage"]], "ChainPage"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a write was answered with: where it stands in the log of its partition, and who had it on disk then.

    `content` is the SHA-256 digest of the value, of a record that of key, id and value (`content_of`). `ordinal` and
    `chain` are a WORM record's place in its partition's chain, `until_ms` what its retention was."""

    key: bytes
    keyspace: str
    partition: str
    partition_id: int
    epoch: int
    offset: int
    id: RecordId | None
    content: str
    ordinal: int | None
    chain: str | None
    until_ms: int | None
    replicas: tuple[str, ...]
    zones: tuple[str, ...]

    def to_json(self) -> str:
        """As text that `from_json` reads; the key as hex digits, since it may be any bytes."""
        document = asdict(self) | {"key": self.key.hex(), "id": None if self.id is None else str(self.id)}
        return json.dumps(document, indent=1)

    @staticmethod
    def from_json(text: str) -> Receipt:
        """Raises `BadRequest` for what is no receipt."""
        try:
            fields = Fields(json.loads(text), "the receipt")
            record = fields.optional("id", str)
            return Receipt(
                bytes.fromhex(fields.get("key", str)),
                fields.get("keyspace", str),
                fields.get("partition", str),
                fields.get("partition_id", int),
                fields.get("epoch", int),
                fields.get("offset", int),
                None if record is None else parse_record_id(record),
                fields.get("content", str),
                fields.optional("ordinal", int),
                fields.optional("chain", str),
                fields.optional("until_ms", int),
                fields.names("replicas"),
                fields.names("zones"),
            )
        except (ValueError, FortError) as error:
            raise BadRequest(f"this is no receipt of FortDB: {error}") from None


@dataclass(frozen=True, slots=True)
class Protection:
    """What keeps a WORM record. Holds on all records of the key begin with a `*`."""

    mode: Mode
    until_ms: int
    holds: tuple[bytes, ...]
    content: str
    ordinal: int
    chain: str


@dataclass(frozen=True, slots=True)
class Altered:
    """The first thing in a chain that is not what was written."""

    ordinal: int
    key: bytes
    id: RecordId | None
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in one replica of a partition (`node` None: its leader's). Links before `first` were removed
    with their records; `records` were read, `removed` ones went early by a right to do so."""

    partition: str
    node: str | None
    first: int
    last: int
    records: int
    removed: int
    altered: Altered | None


@dataclass(frozen=True, slots=True)
class Link:
    """A step of a chain, and what is wrong with its record (empty: nothing)."""

    ordinal: int
    state: str
    is_compliance: bool
    until_ms: int
    id: RecordId
    content: bytes
    chain: bytes
    key: bytes
    finding: str


@dataclass(frozen=True, slots=True)
class ChainPage:
    """Links of a chain, and its outline when they were read."""

    first: int
    last: int
    before: bytes
    head: bytes
    clock_ms: int
    links: tuple[Link, ...]


def content_of(key: bytes, record: RecordId | None, value: bytes) -> str:
    """The digest of what a receipt is about."""
    if record is None:
        return sha256(value).hexdigest()
    return sha256(_CONTENT.pack(len(key)) + key + _ID.pack(*record) + value).hexdigest()


def hold(key: bytes | str, record: RecordId | None, name: str) -> Request[bool]:
    return request([b"HOLD", key, _which(record), name], lambda reply: integer_of(reply) == 1)


def release(key: bytes | str, record: RecordId | None, name: str) -> Request[bool]:
    return request([b"RELEASE", key, _which(record), name], lambda reply: integer_of(reply) == 1)


def retain(key: bytes | str, record: RecordId, until_ms: int, bypass: bool) -> Request[bool]:
    words: list[Argument] = [b"BYPASS"] if bypass else []
    return request([b"RETAIN", key, str(record), until_ms, *words], lambda reply: integer_of(reply) == 1)


def protection(key: bytes | str, record: RecordId) -> Request[Protection | None]:
    return request([b"RECORDINFO", key, str(record)], _protection)


def chain(partition: int, ordinal: int, node: str | None) -> Request[ChainPage]:
    words: list[Argument] = [] if node is None else [b"REPLICA", node]
    return request([b"CHAIN", partition, ordinal, *words], _page)


def receipt_or_none(reply: Reply) -> Receipt | None:
    """The receipt in the answer to a write; None if the write's condition did not hold."""
    if reply is None:
        return None
    told = _named(reply)
    record = told["id"]
    return Receipt(
        bytes_of(told["key"]),
        _text(told["keyspace"]),
        _text(told["partition"]),
        integer_of(told["partition_id"]),
        integer_of(told["epoch"]),
        integer_of(told["offset"]),
        None if record is None else parse_record_id(bytes_of(record)),
        _text(told["content"]),
        None if told["ordinal"] is None else integer_of(told["ordinal"]),
        None if told["chain"] is None else _text(told["chain"]),
        None if told["until"] is None else integer_of(told["until"]),
        tuple(map(_text, _items(told["replicas"]))),
        tuple(map(_text, _items(told["zones"]))),
    )


def verify(run: Run, partition: str, partition_id: int, node: str | None, keyspace: str | None) -> Verified:
    """Follow the chain of a replica to its end, or to the first thing that is wrong."""
    records = removed = 0
    page = run(chain(partition_id, 1, node))
    first, ordinal, value = page.first, page.first, page.before
    while True:
        for link in page.links:
            altered = _wrong(link, value, ordinal)
            if altered is not None:
                return Verified(partition, node, first, page.last, records, removed, altered)
            ordinal, value = link.ordinal + 1, link.chain
            is_counted = keyspace is None or link.key.startswith(keyspace.encode() + b"/")
            records += is_counted and link.state == "live"
            removed += link.state == "removed"
        if ordinal > page.last or not page.links:
            return Verified(
                partition, node, first, page.last, records, removed, _wrong_end(page, ordinal, value)
            )
        page = run(chain(partition_id, ordinal, node))
        if page.first > ordinal:  # those before went with their records meanwhile
            ordinal, value = page.first, page.before


def _wrong_end(page: ChainPage, ordinal: int, value: bytes) -> Altered | None:
    if ordinal <= page.last:
        return Altered(ordinal, b"", None, "the link is missing")
    if ordinal == page.last + 1 and value != page.head:
        return Altered(page.last, b"", None, "the chain does not end as its partition says")
    return None


def _wrong(link: Link, before: bytes, expected: int) -> Altered | None:
    if link.ordinal != expected:
        return Altered(expected, b"", None, "the link is missing")
    step = _STEP.pack(link.ordinal, link.content, link.until_ms, link.is_compliance)
    if sha256(before + step).digest() != link.chain:
        return Altered(link.ordinal, link.key, link.id, "the link does not follow from the one before")
    return Altered(link.ordinal, link.key, link.id, link.finding) if link.finding else None


def disagreement(leaders: ChainPage, replica: ChainPage) -> Altered | None:
    """Whether a replica's chain ended in another value than the leader's has there; `leaders` was asked for later, from
    that end on."""
    if leaders.last < replica.last:
        return Altered(leaders.last + 1, b"", None, "the leader's chain ends before the replica's")
    there = next((link for link in leaders.links if link.ordinal == replica.last), None)
    if there is not None and there.chain != replica.head:
        return Altered(
            replica.last, there.key, there.id, "the replica's chain is another one than the leader's"
        )
    return None


def _which(record: RecordId | None) -> str:
    return "*" if record is None else str(record)


def _protection(reply: Reply) -> Protection | None:
    if reply is None:
        return None
    told = _named(reply)
    return Protection(
        Mode(_text(told["mode"])),
        integer_of(told["until"]),
        tuple(map(bytes_of, _items(told["holds"]))),
        _text(told["content"]),
        integer_of(told["ordinal"]),
        _text(told["chain"]),
    )


def _page(reply: Reply) -> ChainPage:
    first, last, before, head, clock_ms, links = _items(reply, 6)
    return ChainPage(
        integer_of(first),
        integer_of(last),
        bytes_of(before),
        bytes_of(head),
        integer_of(clock_ms),
        tuple(_link(_items(link, 9)) for link in _items(links)),
    )


def _link(row: list[Reply]) -> Link:
    ordinal, state, mode, until_ms, record, content, chained, key, finding = row
    return Link(
        integer_of(ordinal),
        _text(state),
        bytes_of(mode) == b"compliance",
        integer_of(until_ms),
        parse_record_id(bytes_of(record)),
        bytes_of(content),
        bytes_of(chained),
        bytes_of(key),
        _text(finding),
    )


def _named(reply: Reply) -> dict[str, Reply]:
    items = _items(reply)
    return {_text(name): value for name, value in zip(items[::2], items[1::2], strict=True)}


def _items(reply: Reply, count: int | None = None) -> list[Reply]:
    if not isinstance(reply, list) or count not in (None, len(reply)):
        raise unexpected(reply)
    return reply


def _text(reply: Reply) -> str:
    return bytes_of(reply).decode("utf-8", "backslashreplace")

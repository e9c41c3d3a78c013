"""The Python client: typed methods over a bounded pool of connections, usable from many threads.

What it repeats, and what not (rule 16 of the replication essay): a command of which the server
cannot have received the last byte was not executed, so it goes out again on a fresh connection;
a command that only reads may go out again once; any other command without an answer raises
`OutcomeUnknown` and is never sent twice. The caller reads before deciding. Error replies are
raised as they are: routers have already retried what is safe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from fortdb.client import records, requests, worm
from fortdb.client.access import Access
from fortdb.client.address import PORT_DEFAULT, Address, parse_url
from fortdb.client.connection import Connection, Exchange, Reply
from fortdb.client.failures import Conflict
from fortdb.client.feed import Feed, selection_words
from fortdb.client.keyspaces import KeyspaceOptions, option_words
from fortdb.client.pipeline import Pipeline
from fortdb.client.pool import Pool
from fortdb.client.records import Record, Version
from fortdb.client.requests import Argument, Request
from fortdb.client.status import (
    LayoutPlan,
    PartitionStatus,
    RingStatus,
    parse_keyspace,
    parse_keyspaces,
    parse_plan,
    parse_ring,
)
from fortdb.client.transaction import Transaction
from fortdb.client.why import Explanation, parse_why
from fortdb.client.worm import Altered, Protection, Receipt, Verified
from fortdb.errors import BadRequest, FortError, ProtocolError, Unavailable
from fortdb.limits import PAGE_COUNT
from fortdb.model import Ack, Keyspace, RecordId

T = TypeVar("T")
K = TypeVar("K", bytes, str)

ATTEMPTS_MAX = 2  # the second one is on a fresh connection; a third would learn nothing new
CATCH_UP_S = 4.0  # a follower in sync hears in far less what is committed
SCAN_COUNT = 1000  # keys asked for in one step: few round trips, answers well below a tick's room


class Client:
    """A client of one router (or of the address that routers share).

    Keys and values are bytes, or text sent as UTF-8; answers are bytes. `timeout_s` bounds a
    whole call, connecting and waiting for a free connection included. Every method may raise
    `ConnectionFailed`, `Unavailable`, `Busy` (not executed: try again), `OutcomeUnknown` (writes
    only), `BadRequest`, and where there are users `AuthenticationFailed`, `AuthenticationRequired` and
    `PermissionDenied`; all are `FortError`.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = PORT_DEFAULT,
        *,
        url: str | None = None,
        access: Access | None = None,
        connections_max: int = 16,
        timeout_s: float = 15.0,
        connect_timeout_s: float = 3.0,
    ) -> None:
        """Connects on first use. `url` (`fortdb://host:port`, or `fortdbs://user:password@host:port` for TLS)
        stands instead of host and port; `access` says who comes and how, and stands before what the URL
        says of it. Raises `BadRequest` or `ConfigError` for what cannot be right."""
        if timeout_s <= 0 or connect_timeout_s <= 0:
            raise BadRequest("timeout_s and connect_timeout_s must be above 0")
        self.address, said = (Address(host, port), Access()) if url is None else parse_url(url)
        self._access = access if access is not None else said
        context = self._access.context()
        self._timeout_s = timeout_s
        self._connect = lambda: Connection(self.address, connect_timeout_s, self._access, context)
        self._pool = Pool(self._connect, connections_max)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._pool.close()

    # Keys and values

    def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        expire_ms: int | None = None,
        only_if_absent: bool = False,
        only_if_present: bool = False,
        only_if_equal: bytes | str | None = None,
        ack: Ack | None = None,
    ) -> bool:
        """Store a value; False if the condition did not hold. With `only_if_equal`, compare-and-set.

        `ack` None takes the policy of the key's keyspace (sync unless it says otherwise);
        `Ack.ASYNC` answers from the leader's disk alone and may lose the write in a failover.
        """
        return self.run(
            requests.put(
                key,
                value,
                expire_ms=expire_ms,
                only_if_absent=only_if_absent,
                only_if_present=only_if_present,
                only_if_equal=only_if_equal,
                ack=ack,
            )
        )

    def get(self, key: bytes | str, *, stale: bool = False, at: RecordId | int | None = None) -> bytes | None:
        """The value, or the newest record; None if there is none. `stale` lets a follower answer from the past.
        `at`: what it was then, a version's id or Unix milliseconds, in a keyspace that keeps versions."""
        if at is None:
            return self.run(requests.get(key, stale=stale))
        if stale:
            raise BadRequest("stale and at exclude each other; give one")
        return self.run(records.get_at(key, at))

    def put_with_receipt(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        expire_ms: int | None = None,
        only_if_absent: bool = False,
    ) -> Receipt | None:
        """As `put`; what is answered says who had it on disk. None if the condition did not hold."""
        words: list[Argument] = [b"SET", key, value]
        if expire_ms is not None:
            words += [b"PX", expire_ms]
        if only_if_absent:
            words.append(b"NX")
        return self.run(requests.request([*words, b"RECEIPT"], worm.receipt_or_none))

    def delete(self, *keys: bytes | str) -> int:
        """Remove keys; how many there were."""
        return self.run(requests.delete(keys))

    def exists(self, *keys: bytes | str) -> int:
        """How many of the keys there are; one given twice counts twice."""
        return self.run(requests.exists(keys))

    def get_many(self, keys: Sequence[K]) -> dict[K, bytes | None]:
        """Values by key. Keys of several partitions are not read at one moment."""
        if not keys:
            return {}
        values = self.run(requests.get_many(keys))
        return dict(zip(keys, values, strict=True))

    def put_many(self, items: Mapping[K, bytes | str]) -> None:
        """Store several values; atomic for each partition, not over all of them."""
        if items:
            self.run(requests.put_many(items))

    def increment(self, key: bytes | str, by: int = 1) -> int:
        """Add to a decimal value (0 if absent); the new value."""
        return self.run(requests.increment(key, by))

    def append(self, key: bytes | str, value: bytes | str) -> int:
        """Add to the end of a value; the new length in bytes."""
        return self.run(requests.append(key, value))

    def get_and_delete(self, key: bytes | str) -> bytes | None:
        """Remove a key and return what it held."""
        return self.run(requests.get_and_delete(key))

    def length(self, key: bytes | str) -> int:
        """The value's length in bytes; 0 if there is none."""
        return self.run(requests.length(key))

    def expire(self, key: bytes | str, expire_ms: int) -> bool:
        """Let a key end after `expire_ms`; False if there is no such key."""
        return self.run(requests.expire(key, expire_ms))

    def persist(self, key: bytes | str) -> bool:
        """Take a key's end away; False if it has none or does not exist."""
        return self.run(requests.persist(key))

    def time_to_live_ms(self, key: bytes | str) -> int | None:
        """Time until the key ends; None if it has no end or does not exist."""
        return self.run(requests.time_to_live_ms(key))

    def scan(self, match: bytes | str | None = None) -> Iterator[bytes]:
        """Walk all keys (those matching a glob pattern). A key that is there from the first step
        to the last is seen at least once; one that comes or goes meanwhile may or may not be."""
        cursor = b"0"
        while True:
            cursor, keys = self.run(requests.scan(cursor, match, SCAN_COUNT))
            yield from keys
            if cursor == b"0":
                return

    def range(
        self,
        prefix: bytes | str,
        *,
        first: bytes | str | None = None,
        last: bytes | str | None = None,
        reverse: bool = False,
        page: int = PAGE_COUNT,
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """Walk the keys that begin with a prefix, which has a whole `{tag}`, in their order, each with its value
        (of a key with records, the newest). `first` and `last` are the keys to begin and end with. Each page is
        read at one moment, the whole is not."""
        start: bytes | str | None = first
        while True:
            next_, rows = self.run(requests.keys_between(prefix, start, last, page, reverse))
            yield from rows
            if next_ is None:
                return
            start = next_

    def count(self, keyspace: str | None = None) -> int:
        """How many keys there are; in a keyspace, with those of which only a history is left."""
        return self.run(requests.count(keyspace))

    # Records and versions

    def add(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        expire_ms: int | None = None,
        if_last: RecordId | None = None,
    ) -> RecordId | None:
        """Add a record to a key of a keyspace that keeps records; its id. With `if_last`, only if that is the
        newest record's id (`RecordId(0, 0)`: if there is none), else None. After `OutcomeUnknown` the record may
        be there; with `if_last` a second try adds it once."""
        return self.run(records.add(key, value, expire_ms=expire_ms, if_last=if_last))

    def add_with_receipt(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        expire_ms: int | None = None,
        if_last: RecordId | None = None,
    ) -> Receipt | None:
        """As `add`; what is answered says who had it on disk, and has the record's id."""
        return self.run(
            requests.request(
                [*records.add_words(key, value, expire_ms, if_last), b"RECEIPT"], worm.receipt_or_none
            )
        )

    def record(self, key: bytes | str, record_id: RecordId) -> bytes | None:
        """One record, None if there is none of that id."""
        return self.run(records.record(key, record_id))

    def records(
        self,
        key: bytes | str,
        *,
        first: RecordId | int | None = None,
        reverse: bool = False,
        page: int = PAGE_COUNT,
    ) -> Iterator[Record]:
        """Walk the records of a key from an id or a time (Unix ms) on, in the order of their ids, or backward. Each
        page is read at one moment, the whole is not; what is added behind the walk is met by it."""
        start = None if first is None else str(first)
        while found := self.run(records.records(key, start, page, reverse)):
            yield from found
            start = f"({found[-1].id}"

    def record_count(self, key: bytes | str) -> int:
        """How many records a key has; those that have just ended may be among them."""
        return self.run(records.record_count(key))

    def remove(
        self, key: bytes | str, record_id: RecordId, *, if_last: RecordId | None = None, bypass: bool = False
    ) -> bool:
        """Remove one record; False if there is none of that id, or the newest is not `if_last`. `bypass`: also a WORM
        record in mode governance before its retention has passed, by the right `govern`. Raises `Immutable`."""
        return self.run(records.remove(key, record_id, if_last=if_last, bypass=bypass))

    # WORM records

    def hold(self, key: bytes | str, record_id: RecordId | None = None, name: str = "legal") -> bool:
        """Keep a WORM record, or all of a key's (None), until `release`; False if there is none."""
        return self.run(worm.hold(key, record_id, name))

    def release(self, key: bytes | str, record_id: RecordId | None = None, name: str = "legal") -> bool:
        """End a hold; False if there is none of that name there."""
        return self.run(worm.release(key, record_id, name))

    def retain(self, key: bytes | str, record_id: RecordId, until_ms: int, *, bypass: bool = False) -> bool:
        """Keep a WORM record until then (Unix ms); False if there is none. Raises `Immutable` if that is earlier than
        it was, unless with `bypass` in mode governance."""
        return self.run(worm.retain(key, record_id, until_ms, bypass))

    def protection(self, key: bytes | str, record_id: RecordId) -> Protection | None:
        """What keeps a WORM record; None if there is none."""
        return self.run(worm.protection(key, record_id))

    def verify(self, keyspace: str | None = None, *, replicas: bool = False) -> Iterator[Verified]:
        """Follow the chain of each partition, with `replicas` on each of its nodes, reading all records in it.
        `keyspace` bounds which are counted; a chain is followed as a whole. A node that cannot be reached is left out
        from then on, and named after the last by an `Unavailable`."""
        missing: dict[str, Unavailable] = {}
        for partition in self.ring().partitions:
            leaders = worm.verify(self.run, partition.name, partition.id, None, keyspace)
            yield leaders
            for node in partition.followers if replicas else ():
                if node not in missing:
                    try:
                        found = self._verify_replica(partition, node, keyspace, leaders.last)
                    except Unavailable as error:
                        missing[node] = error
                    else:
                        yield found
        if missing:
            why = ", ".join(dict.fromkeys(map(str, missing.values())))
            raise Unavailable(f"not verified on {', '.join(missing)}: {why}")

    def _verify_replica(
        self, partition: PartitionStatus, node: str, keyspace: str | None, leaders_last: int
    ) -> Verified:
        found = worm.verify(self.run, partition.name, partition.id, node, keyspace)
        if found.altered is None:
            found = replace(found, altered=self._disagreement(partition.id, node, leaders_last))
        return found

    def _disagreement(self, partition: int, node: str, expected: int) -> Altered | None:
        """Whether a follower's chain is another one than the leader's; it may be a moment behind, not for long."""
        deadline_s = monotonic() + CATCH_UP_S
        while (page := self.run(worm.chain(partition, expected, node))).last < expected:
            if monotonic() > deadline_s:
                return Altered(page.last + 1, b"", None, "the replica's chain ends before the leader's")
            sleep(CATCH_UP_S / 20)
        return worm.disagreement(self.run(worm.chain(partition, page.last, None)), page)

    def verify_receipt(self, receipt: Receipt) -> str | None:
        """None if what the receipt is about is there, unchanged and in its place in the chain; else what is not."""
        value = self.get(receipt.key) if receipt.id is None else self.record(receipt.key, receipt.id)
        if value is None:
            return "it is not there (any more)"
        if worm.content_of(receipt.key, receipt.id, value) != receipt.content:
            return "another value is there"
        if receipt.ordinal is None or receipt.id is None:
            return None
        if self.protection(receipt.key, receipt.id) is None:
            return "the record is there, and is no WORM record"
        page = self.run(worm.chain(receipt.partition_id, receipt.ordinal, None))
        link = next(iter(page.links), None)
        if page.first > receipt.ordinal:
            return None  # its retention was changed, and the link that it had is gone
        if link is None or link.ordinal != receipt.ordinal or link.chain.hex() != receipt.chain:
            return "the chain has another value in the record's place"
        return link.finding or None

    def history(
        self,
        key: bytes | str,
        *,
        first: RecordId | int | None = None,
        reverse: bool = False,
        page: int = PAGE_COUNT,
    ) -> Iterator[Version]:
        """Walk what a key has held, as `records` walks records."""
        start = None if first is None else str(first)
        while found := self.run(records.history(key, start, page, reverse)):
            yield from found
            start = f"({found[-1].id}"

    def purge(self, *keys: bytes | str) -> int:
        """Remove keys with their records and their history; how many had anything."""
        return self.run(records.purge(keys))

    # Changes

    def feed(
        self,
        *,
        key: bytes | str | None = None,
        prefix: bytes | str | None = None,
        keyspace: str | None = None,
        partition: str | None = None,
        since: str | None = None,
        values: bool = True,
    ) -> Feed:
        """Changes of one key, of keys with a prefix, of a keyspace, of a partition, or of all keys, from now or
        from behind a position on; see `Feed`. It has a connection of its own, and begins before this returns."""
        selection = selection_words(key, prefix, keyspace, partition)
        return Feed(self._connect, selection, since, values, self._timeout_s)

    def feed_position(
        self,
        *,
        key: bytes | str | None = None,
        prefix: bytes | str | None = None,
        keyspace: str | None = None,
        partition: str | None = None,
    ) -> str:
        """The present position of such a feed: scan, then take the feed `since` this one, and nothing is missed."""
        words = selection_words(key, prefix, keyspace, partition)
        return self.run(requests.text([b"FEED", b"POSITION", *words])).decode()

    def ping(self) -> float:
        """Seconds that one round trip to the router takes."""
        started_s = monotonic()
        if not self.run(requests.ping()):
            raise ProtocolError("PING was not answered with PONG; is this a FortDB router?")
        return monotonic() - started_s

    def pipeline(self) -> Pipeline:
        """Collect commands and send them in one exchange; see `Pipeline`."""
        return Pipeline(self.exchange)

    @contextmanager
    def transaction(self, *watched: bytes | str) -> Iterator[Transaction]:
        """Collect commands and execute them at one moment, unless a watched key is written meanwhile; see
        `Transaction`. Raises `Conflict` then."""
        deadline_s = monotonic() + self._timeout_s
        with self._pool.connection(deadline_s) as connection:
            begun = Transaction(connection, self._timeout_s)
            try:
                begun.watch(*watched)
                yield begun
                begun.execute()
            finally:
                begun.leave()
        begun.raise_first_error()

    def transact(self, work: Callable[[Transaction], T], *watched: bytes | str) -> T:
        """Do `work` in a transaction, again and again until nobody wrote a watched key meanwhile; what it
        returned last. Raises `Conflict` when that took longer than the client's time-out."""
        deadline_s = monotonic() + self._timeout_s
        while True:
            try:
                with self.transaction(*watched) as begun:
                    return work(begun)
            except Conflict:
                if monotonic() >= deadline_s:
                    raise

    def command(self, *arguments: Argument) -> Reply:
        """Send any command; the reply as it came, an error reply raised."""
        return self.run(requests.raw(arguments))

    # The ring

    def ring(self) -> RingStatus:
        """How the ring stands: nodes, partitions, keyspaces."""
        return parse_ring(self.run(requests.text([b"RING"])))

    def why(self, key: bytes | str) -> Explanation:
        """Where a key lies, and what stands in the way of a write to it now."""
        return parse_why(self.run(requests.text([b"WHY", key])))

    def move_leader(self, partition: str, node: str) -> None:
        """Let `node`, in sync, lead `partition`."""
        self.run(requests.text([b"LEADER", b"MOVE", partition, node]))

    def seize_leader(self, partition: str, node: str) -> None:
        """Let `node` lead though it is not in sync, accepting that acknowledged writes may be gone."""
        self.run(requests.text([b"LEADER", b"SEIZE", partition, node, b"ACCEPT-DATA-LOSS"]))

    def plan_layout(
        self,
        *,
        partitions: int | None = None,
        replication: int | None = None,
        min_in_sync: int | None = None,
        remove: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> LayoutPlan:
        """What would change; nothing does. `partitions` only for the first layout."""
        asked = {
            "partitions": partitions,
            "replication": replication,
            "min_in_sync": min_in_sync,
            "remove": list(remove) or None,
            "weights": dict(weights) if weights else None,
        }
        options = json.dumps({name: value for name, value in asked.items() if value is not None})
        return parse_plan(self.run(requests.text([b"LAYOUT", b"PLAN", options])))

    def layout(self) -> dict[str, Any] | None:
        """The layout as a JSON object (who ought to hold what), None while there is none."""
        document: dict[str, Any] | None = json.loads(self.run(requests.text([b"LAYOUT", b"SHOW"])))
        return document

    def apply_layout(self, plan: LayoutPlan) -> None:
        """Apply exactly this plan; raises `StoreConflict` if the layout changed since."""
        self.run(requests.text([b"LAYOUT", b"APPLY", plan.document]))

    def keyspaces(self) -> tuple[Keyspace, ...]:
        return parse_keyspaces(self.run(requests.text([b"KEYSPACE", b"LIST"])))

    def keyspace(self, name: str) -> Keyspace:
        """One keyspace. Raises `BadRequest` if there is none of that name."""
        return parse_keyspace(self.run(requests.text([b"KEYSPACE", b"SHOW", name])))

    def create_keyspace(self, name: str, ack: Ack | None = None, **options: Unpack[KeyspaceOptions]) -> None:
        """Make a keyspace; when this returns, every node uses it."""
        self.run(requests.text([b"KEYSPACE", b"CREATE", name, *option_words(ack, options)]))

    def alter_keyspace(self, name: str, ack: Ack | None = None, **options: Unpack[KeyspaceOptions]) -> None:
        """Change what is given, 0 for no bound; when this returns, every node uses it."""
        self.run(requests.text([b"KEYSPACE", b"ALTER", name, *option_words(ack, options)]))

    def drop_keyspace(self, name: str, *, keep_keys: bool = False, delete_keys: bool = False) -> None:
        """Forget a keyspace that has no keys, or one whose single values stay (`keep_keys`), or one with all that
        it holds (`delete_keys`)."""
        if keep_keys and delete_keys:
            raise BadRequest("keep_keys and delete_keys exclude each other; give one")
        word: list[Argument] = [b"KEEP-KEYS"] if keep_keys else [b"DELETE-KEYS"] if delete_keys else []
        self.run(requests.text([b"KEYSPACE", b"DROP", name, *word]))

    # Sending

    def run(self, request: Request[T]) -> T:
        """Send one request of `fortdb.client.requests`; raises its error."""
        reply = self.exchange([request])[0]
        if isinstance(reply, FortError):
            raise reply
        return request.decode(reply)

    def exchange(self, batch: Sequence[Request[Any]]) -> list[Reply]:
        """One reply for each request, errors among them as values; see the module for retries."""
        deadline_s = monotonic() + self._timeout_s
        repeatable = all(request.read_only for request in batch)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            exchange = self._exchange_once(batch, deadline_s, fresh=attempt > 1)
            if exchange.failure is None:
                return exchange.replies
            not_executed = exchange.sent_bytes < len(batch[0].packed)
            if exchange.timed_out or not (repeatable or not_executed):
                break
        return exchange.replies + requests.without_reply(batch, exchange, self._timeout_s)

    def _exchange_once(self, batch: Sequence[Request[Any]], deadline_s: float, fresh: bool) -> Exchange:
        with self._pool.connection(deadline_s, fresh) as connection:
            exchange = connection.exchange([request.packed for request in batch], deadline_s)
            if any(request.stateful for request in batch):
                connection.close()
            return exchange

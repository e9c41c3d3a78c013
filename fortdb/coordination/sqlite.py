"""A coordination store in one SQLite file, for a cluster whose processes share one machine.

The theory. SQLite lets one process write at a time and every commit is on disk when it returns
(WAL, synchronous=FULL), so a transaction is a compare-and-set and the revision is a counter in it.
Every change is also a row of `events`; a watch reads the rows after the last one it delivered.
Nobody serves this store, so the work that etcd does in the background is done by whoever comes by:
each call first ends the leases that are overdue.

Caveats:

* The file must lie on a local file system: WAL needs shared memory, NFS has none to offer.
* Leases count on CLOCK_BOOTTIME and carry the boot id: after a reboot the clock starts anew and
  every lease from before has ended.
* A watch polls `PRAGMA data_version`, which costs microseconds, and so learns of a change tens of
  milliseconds late. That one pragma is per connection, so each watch has its own.
* The history is bounded: a watch from further back gets `WatchLost`, as with etcd's compaction.
* Removing the file under running processes splits them from those that start later. Stop them first.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from fortdb.clock import boot_id as this_boot_id
from fortdb.clock import steady_ms
from fortdb.coordination.pool import Pool, Watches
from fortdb.coordination.store import Event, Listing, Versioned
from fortdb.errors import LeaseLost, StoreConflict, StoreUnavailable, WatchLost

REQUEST_MS_MAX = 3_000  # a call waits so long for other writers; one of them takes about a millisecond
HISTORY_REVISIONS = 10_000  # replayable by a watch; some hours of a calm cluster, a few megabytes
WATCH_POLL_MS = 40  # how late a watch learns of a change; 25 reads of shared memory a second
EXPIRY_POLL_MS = 200  # how late a lease ends when nobody calls but somebody watches
WATCH_BATCH_EVENTS = 1_000  # delivered at once, so that a long replay is not held in memory whole

_BUSY_S = 0.005  # before a file in use is tried again where SQLite does not do that itself
_APPLICATION_ID = 0x464F5254  # "FORT", in the file's header
_FORMAT = 1

_SCHEMA = """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER)
    WITHOUT ROWID;
CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, ends_ms INTEGER NOT NULL,
    boot_id TEXT NOT NULL);
CREATE TABLE counter (revision INTEGER NOT NULL);
CREATE TABLE events (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);
INSERT INTO counter VALUES (0);
"""
_SCHEMA += f"PRAGMA application_id = {_APPLICATION_ID};\nPRAGMA user_version = {_FORMAT};\n"


class SqliteStore:
    """A `Store` in the file at `path`, which is made if absent; its directory must exist.

    `clock` (milliseconds) and `boot_id` are handed in by tests; a process of its own machine leaves
    them. Raises `StoreUnavailable` when the file cannot be used, with the reason and a way out.
    """

    def __init__(
        self,
        path: Path | str,
        request_ms_max: int = REQUEST_MS_MAX,
        history_revisions: int = HISTORY_REVISIONS,
        clock: Callable[[], int] = steady_ms,
        boot_id: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._request_ms_max = request_ms_max
        self._history_revisions = history_revisions
        self._clock = clock
        self._boot_id = this_boot_id() if boot_id is None else boot_id
        self._pool = Pool(self._connect)
        self._watches = Watches()
        with self._errors_named(), closing(self._connect("rwc")) as connection:
            self._prepare(connection)

    # --- reads --------------------------------------------------------------------------------------

    def get(self, key: str) -> Versioned | None:
        with self._read() as connection:
            row = connection.execute("SELECT value, revision FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else Versioned(key, row[0], row[1])

    def list(self, prefix: str) -> Listing:
        with self._read() as connection:
            revision = _revision(connection)
            rows = connection.execute(
                "SELECT key, value, revision FROM entries WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            ).fetchall()
        return Listing(revision, tuple(Versioned(*row) for row in rows))

    # --- changes ------------------------------------------------------------------------------------

    def create(self, key: str, value: bytes, lease: int | None = None) -> int:
        return self._set(key, value, lease, 0)

    def put(self, key: str, value: bytes, lease: int | None = None) -> int:
        return self._set(key, value, lease, None)

    def replace(self, key: str, value: bytes, revision: int, lease: int | None = None) -> int:
        return self._set(key, value, lease, revision)

    def delete(self, key: str, revision: int | None = None) -> None:
        with self._change() as connection:
            _expect(connection, key, revision)
            if connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount:
                self._note(connection, key, None)

    def _set(self, key: str, value: bytes, lease: int | None, expected: int | None) -> int:
        with self._change() as connection:
            _expect(connection, key, expected)
            if lease is not None:
                _lease_ttl_ms(connection, lease)
            revision = self._note(connection, key, value)
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, revision = excluded.revision, lease = excluded.lease",
                (key, value, revision, lease),
            )
        return revision

    def _note(self, connection: sqlite3.Connection, key: str, value: bytes | None) -> int:
        """Take the next revision for a change and write it into the history."""
        (revision,) = connection.execute(
            "UPDATE counter SET revision = revision + 1 RETURNING revision"
        ).fetchone()
        connection.execute("INSERT INTO events VALUES (?, ?, ?)", (revision, key, value))
        connection.execute("DELETE FROM events WHERE revision <= ?", (revision - self._history_revisions,))
        return int(revision)

    # --- leases -------------------------------------------------------------------------------------

    def grant(self, ttl_ms: int) -> int:
        # Drawn, not counted: a file made anew must not know a lease of the one before.
        lease = secrets.randbits(62) | 1
        with self._change() as connection:
            connection.execute(
                "INSERT INTO leases VALUES (?, ?, ?, ?)",
                (lease, ttl_ms, self._clock() + ttl_ms, self._boot_id),
            )
        return lease

    def keepalive(self, lease: int) -> None:
        with self._change() as connection:
            ttl_ms = _lease_ttl_ms(connection, lease)
            connection.execute("UPDATE leases SET ends_ms = ? WHERE id = ?", (self._clock() + ttl_ms, lease))

    def revoke(self, lease: int) -> None:
        with self._change() as connection:
            self._end_lease(connection, lease)

    def _end_lease(self, connection: sqlite3.Connection, lease: int) -> None:
        keys = connection.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease,)).fetchall()
        for (key,) in keys:
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            self._note(connection, key, None)
        connection.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def _overdue(self, connection: sqlite3.Connection) -> Sequence[int]:
        rows = connection.execute(
            "SELECT id FROM leases WHERE ends_ms <= ? OR boot_id <> ?", (self._clock(), self._boot_id)
        )
        return [lease for (lease,) in rows.fetchall()]

    def _end_overdue_leases(self, connection: sqlite3.Connection) -> None:
        for lease in self._overdue(connection):
            self._end_lease(connection, lease)

    # --- watches ------------------------------------------------------------------------------------

    def watch(self, prefix: str, after_revision: int) -> SqliteWatch:
        watch = SqliteWatch(self, prefix, after_revision)
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        self._watches.close()
        self._pool.close()

    # --- connections --------------------------------------------------------------------------------

    def _connect(self, mode: str = "rw") -> sqlite3.Connection:
        """Only "rwc" makes the file: one that was removed meanwhile must be missed, not made anew, empty."""
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._request_ms_max / 1000,
            isolation_level=None,  # transactions begin and end where this module says so
            check_same_thread=False,  # the pool lends it to one thread at a time
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the file ours, or see that it is."""
        if self._journal_mode(connection) != "wal":
            raise StoreUnavailable(f"{self._path} is on a file system without WAL; put it on a local disk")
        with _transaction(connection, "IMMEDIATE"):
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables and not application:
                for statement in _SCHEMA.split(";"):  # executescript would end the transaction first
                    connection.execute(statement)
                return
        if application != _APPLICATION_ID:
            raise StoreUnavailable(f"{self._path} is another program's SQLite file; name another path")
        if version != _FORMAT:
            raise StoreUnavailable(
                f"{self._path} has format {version}, this FortDB reads {_FORMAT}; use the FortDB that made it"
            )

    def _journal_mode(self, connection: sqlite3.Connection) -> str:
        """WAL, wherever that works. For this pragma SQLite does not wait for another process that does the same."""
        until_s = time.monotonic() + self._request_ms_max / 1000
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                    raise
                time.sleep(_BUSY_S)
            else:
                return str(mode)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """One picture of the file, without the keys of leases that are over."""
        with self._errors_named(), self._pool.lend() as connection:
            if self._overdue(connection):
                with _transaction(connection, "IMMEDIATE"):
                    self._end_overdue_leases(connection)
            with _transaction(connection, "DEFERRED"):
                yield connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes, begun with the end of leases that are over."""
        with (
            self._errors_named(),
            self._pool.lend() as connection,
            _transaction(connection, "IMMEDIATE"),
        ):
            self._end_overdue_leases(connection)
            yield connection

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailable(self._sentence(error)) from error

    def _sentence(self, error: sqlite3.Error) -> str:
        match _primary_code(error):
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                advice = "is corrupt: stop every process, put a good copy in its place or remove it"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                advice = f"was locked by another process for {self._request_ms_max} ms"
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                advice = "cannot be opened for writing: see that its directory exists and may be written"
            case sqlite3.SQLITE_FULL:
                advice = "cannot grow: its disk is full"
            case _:
                advice = "gave no answer"
        return f"the coordination store {self._path} {advice} ({error})"


class SqliteWatch:
    """A `Watch` on a `SqliteStore`; its connection lives only while it is iterated."""

    def __init__(self, store: SqliteStore, prefix: str, after_revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after_revision
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[tuple[Event, ...]]:
        store = self._store
        with store._errors_named(), closing(store._connect()) as connection:
            seen: int | None = None
            expiry_due_ms = 0
            while not self._closed.is_set():
                if store._clock() >= expiry_due_ms:
                    expiry_due_ms = store._clock() + EXPIRY_POLL_MS
                    self._end_overdue_leases(connection)
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                # The version is taken before the rows: a change in between is found twice, never missed.
                if version != seen and (batch := self._next_batch(connection)) is not None:
                    yield batch
                    continue  # there may be more rows than one batch
                seen = version
                self._closed.wait(WATCH_POLL_MS / 1000)

    def close(self) -> None:
        self._closed.set()

    def _end_overdue_leases(self, connection: sqlite3.Connection) -> None:
        """A read on the watch's own connection; only if it finds something a change, on another one,
        because `data_version` shows the commits of other connections alone."""
        if self._store._overdue(connection):
            with self._store._change():
                pass

    def _next_batch(self, connection: sqlite3.Connection) -> tuple[Event, ...] | None:
        """The next events under the prefix, None when all were delivered. Moves `after` along."""
        with _transaction(connection, "DEFERRED"):
            revision = _revision(connection)
            (oldest,) = connection.execute("SELECT min(revision) FROM events").fetchone()
            if self._after > revision:
                raise WatchLost(f"the store is at revision {revision}, before {self._after}: it was replaced")
            if self._after + 1 < (revision + 1 if oldest is None else oldest):
                raise WatchLost(f"the store no longer has the changes after revision {self._after}")
            rows = connection.execute(
                "SELECT key, value, revision FROM events"
                " WHERE revision > ? AND substr(key, 1, ?) = ? ORDER BY revision LIMIT ?",
                (self._after, len(self._prefix), self._prefix, WATCH_BATCH_EVENTS),
            ).fetchall()
        if not rows:
            self._after = revision
            return None
        self._after = rows[-1][2]
        return tuple(Event(*row) for row in rows)


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """BEGIN and COMMIT; a refusal (conflict, lost lease) commits too, for it comes before the
    change and what was done until then, ending overdue leases, is right."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except (StoreConflict, LeaseLost):
        connection.execute("COMMIT")
        raise
    except BaseException:
        if connection.in_transaction:  # some errors have rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _revision(connection: sqlite3.Connection) -> int:
    (revision,) = connection.execute("SELECT revision FROM counter").fetchone()
    return int(revision)


def _expect(connection: sqlite3.Connection, key: str, revision: int | None) -> None:
    """Raise `StoreConflict` unless the key's last change was at `revision` (0: it is absent)."""
    if revision is None:
        return
    row = connection.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
    actual = 0 if row is None else row[0]
    if actual != revision:
        raise StoreConflict(
            f"{key} does not exist" if not actual else f"{key} was last changed at revision {actual}"
        )


def _lease_ttl_ms(connection: sqlite3.Connection, lease: int) -> int:
    row = connection.execute("SELECT ttl_ms FROM leases WHERE id = ?", (lease,)).fetchone()
    if row is None:
        raise LeaseLost(f"the coordination store does not know lease {lease:x}")
    return int(row[0])


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's, without what the extended one adds."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF

"""How a node stays known: a lease, the node's record on it, and the word until when it holds.

One thread grants the lease, writes `nodes/<name>` on it and renews it every third of its time to
live. After each success the owner hears `on_lease(valid_until_ms)`, counted from the moment the
request was *sent* (rule 11): whenever etcd counted from, it was later. `on_lease(0)` says the lease
or the record is gone. A lease counts only while the record hangs on it: others judge this node by
the record, so a lease without it would be a right that nobody respects.

A record under this name from another disk is another node's: it is left alone until its lease ends,
and the log says so. One from an earlier life on the same disk is replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from fortdb.coordination.keys import Keys
from fortdb.coordination.records import decode_node, encode_node
from fortdb.coordination.store import Store
from fortdb.errors import FortError, LeaseLost, RecordError, StoreConflict
from fortdb.model import ClusterView, NodeRecord, same_disk

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 3  # two may fail before the lease is lost
RETRIES_PER_LEASE = 10  # after a failure it is urgent


class Registration:
    """A node's lease and record. `run` is the body of a thread; the rest may be called from any."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        record: NodeRecord,
        lease_ttl_ms: int,
        clock: Callable[[], int],
        on_lease: Callable[[int], None],
    ) -> None:
        self._store = store
        self._key = keys.node(record.name)
        self._lease_ttl_ms = lease_ttl_ms
        self._clock = clock
        self._on_lease = on_lease
        self._wake = threading.Event()
        self._stopping = False
        self._granted: int | None = None
        self._wanted = record
        self._written: NodeRecord | None = None  # what hangs on the lease, None if that is not known
        self._written_revision = 0
        self._is_missing = False

    @property
    def lease(self) -> int | None:
        """The lease, once the node's record hangs on it."""
        return self._granted if self._written is not None else None

    def update(self, record: NodeRecord) -> None:
        """Have the node's record rewritten; soon, and again until it is."""
        self._wanted = record
        self._wake.set()

    def see(self, view: ClusterView) -> None:
        """A newer view: a record that ought to be in it and is not must be written again."""
        written, revision = self._written, self._written_revision
        if written is not None and view.revision >= revision and written.name not in view.nodes:
            self._is_missing = True
            self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            started_ms = self._clock()
            wait_ms = self._lease_ttl_ms // RETRIES_PER_LEASE
            try:
                self._renew()
                wait_ms = self._lease_ttl_ms // RENEWALS_PER_LEASE - (self._clock() - started_ms)
            except LeaseLost as error:
                log.warning("lease_lost", node=self._wanted.name, reason=str(error))
                self._forget_lease()
            except FortError as error:
                log.warning("lease_not_renewed", node=self._wanted.name, reason=str(error))
            except Exception:  # the edge of a thread: a node must never stop renewing in silence
                log.exception("lease_not_renewed", node=self._wanted.name)
            self._wake.wait(max(wait_ms, 0) / 1000)

    def revoke(self) -> None:
        """Give the lease back, so that nobody has to wait it out. Only after `run` has returned."""
        if self._granted is None:
            return
        try:
            self._store.revoke(self._granted)
        except FortError as error:
            log.warning("lease_not_revoked", node=self._wanted.name, reason=str(error))
        self._forget_lease()

    def _renew(self) -> None:
        """One round: a live lease, the wanted record on it, and only then the owner is told."""
        if self._is_missing:
            self._is_missing = False
            log.warning("node_record_missing", node=self._wanted.name)
            self._written = None
            self._on_lease(0)
        sent_ms = self._clock()
        if self._granted is None:
            self._granted = self._store.grant(self._lease_ttl_ms)
        else:
            self._store.keepalive(self._granted)
        if self._written != self._wanted:
            self._write(self._granted)
        self._on_lease(sent_ms + self._lease_ttl_ms)

    def _write(self, lease: int) -> None:
        """Put the wanted record on the lease. Raises `StoreConflict` if the name is another node's."""
        wanted = self._wanted
        found = self._store.get(self._key)
        if found is None:
            revision = self._store.create(self._key, encode_node(wanted), lease)
        elif self._is_ours(found.value):
            revision = self._store.replace(self._key, encode_node(wanted), found.revision, lease)
        else:
            raise StoreConflict(
                f"another node lives under the name {wanted.name}: rename or stop one of them"
            )
        self._written_revision = revision
        self._written = wanted

    def _is_ours(self, value: bytes) -> bool:
        try:
            return same_disk(decode_node(self._wanted.name, value).incarnation, self._wanted.incarnation)
        except RecordError:
            return True  # nobody can live by a record that nobody can read

    def _forget_lease(self) -> None:
        self._granted = None
        self._written = None
        self._on_lease(0)

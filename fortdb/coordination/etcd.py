"""A coordination store in an etcd cluster, over etcd's v3 JSON gateway.

The theory. Every method is one request of etcd's KV or Lease service; compare-and-set is a
transaction on `mod_revision` (or `version == 0` for an absent key). Reads are etcd's default,
linearizable ones. `etcd3gw` gives the client: URL, TLS, connection; what to do when a member does
not answer is decided here, because it depends on the request:

* A change whose outcome is unknown is never sent twice; it raises `StoreUnavailable`. It goes to
  the next endpoint only if the connection could not be made or the member said "no leader" before
  it began: then nothing was done.
* Reads, grants, keepalives and revocations may be repeated, so each endpoint gets its share of the
  time and then the next one is asked.

Every request carries the header `Grpc-Metadata-hasleader: true` (clientv3's WithRequireLeader): a
member cut off from its cluster then refuses at once, and ends its watches, instead of hanging or
keeping silent. Seen with etcd 3.4.23: "no leader" after about one election time-out. (Only the
first seconds of a lost quorum run into the time-out.)

Caveats: etcd counts leases in whole seconds (rounded up here) and grants no less than about 1.5
election time-outs, 2 s with its defaults. A lease may end later than asked, never count on it
(rule 11). The gateway's answers leave out whatever is zero, empty or false.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import requests

from fortdb.clock import steady_ms
from fortdb.coordination.gateway import (
    Connection,
    Endpoint,
    NotAnswered,
    encode,
    event_of,
    is_silence,
    lease_lost,
    message_of,
    parse,
    put_of,
    range_of,
    reason_of,
    revision_of,
    versioned_of,
)
from fortdb.coordination.pool import Watches
from fortdb.coordination.store import Event, Listing, Versioned
from fortdb.errors import ConfigError, LeaseLost, StoreConflict, StoreUnavailable, WatchLost

REQUEST_MS_MAX = 3_000  # one request over all endpoints; below a lease, so that one loss is survivable

_CHUNK_BYTES = 64 * 1024  # of a watch's stream; a shorter message is delivered as soon as it is there


class EtcdStore:
    """A `Store` in the etcd cluster at `endpoints`, such as "https://10.0.1.5:2379".

    `request_ms_max` bounds every call. `ca`, `cert` and `key` are paths of PEM files for TLS.
    Nothing is sent before the first call. Raises `ConfigError` for a malformed endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        request_ms_max: int = REQUEST_MS_MAX,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        if not endpoints:
            raise ConfigError(
                "no endpoint of etcd is named; give at least one, such as http://127.0.0.1:2379"
            )
        if (cert is None) != (key is None):
            raise ConfigError("TLS to etcd needs a certificate and its key, and only one of them is named")
        self._endpoints = [Endpoint(text, ca, cert, key) for text in endpoints]
        self._request_ms_max = request_ms_max
        self._preferred = 0  # the endpoint that answered last; threads may race, any value is right
        self._watches = Watches()

    # --- reads --------------------------------------------------------------------------------------

    def get(self, key: str) -> Versioned | None:
        answer = self._ask("kv/range", {"key": encode(key)}, repeatable=True)
        items = [versioned_of(item) for item in answer.get("kvs", ())]
        return items[0] if items else None

    def list(self, prefix: str) -> Listing:
        answer = self._ask("kv/range", range_of(prefix), repeatable=True)
        return Listing(revision_of(answer), tuple(versioned_of(item) for item in answer.get("kvs", ())))

    # --- changes ------------------------------------------------------------------------------------

    def create(self, key: str, value: bytes, lease: int | None = None) -> int:
        return self._transact(key, "VERSION", 0, {"request_put": put_of(key, value, lease)})

    def put(self, key: str, value: bytes, lease: int | None = None) -> int:
        return revision_of(self._ask("kv/put", put_of(key, value, lease), repeatable=False))

    def replace(self, key: str, value: bytes, revision: int, lease: int | None = None) -> int:
        return self._transact(key, "MOD", revision, {"request_put": put_of(key, value, lease)})

    def delete(self, key: str, revision: int | None = None) -> None:
        if revision is None:
            self._ask("kv/deleterange", {"key": encode(key)}, repeatable=False)
        else:
            self._transact(key, "MOD", revision, {"request_delete_range": {"key": encode(key)}})

    def _transact(self, key: str, target: str, expected: int, change: dict[str, Any]) -> int:
        field = {"VERSION": "version", "MOD": "mod_revision"}[target]
        compare = {"key": encode(key), "target": target, "result": "EQUAL", field: str(expected)}
        answer = self._ask("kv/txn", {"compare": [compare], "success": [change]}, repeatable=False)
        if not answer.get("succeeded"):
            raise StoreConflict(f"{key} was changed by another" if expected else f"{key} exists already")
        return revision_of(answer)

    # --- leases -------------------------------------------------------------------------------------

    def grant(self, ttl_ms: int) -> int:
        # Repeating a grant leaves at worst an empty lease that ends by itself.
        answer = self._ask("lease/grant", {"TTL": str(-(-ttl_ms // 1000)), "ID": "0"}, repeatable=True)
        return int(answer["ID"])

    def keepalive(self, lease: int) -> None:
        answer = self._ask("lease/keepalive", {"ID": str(lease)}, repeatable=True)
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise lease_lost(lease)

    def revoke(self, lease: int) -> None:
        with contextlib.suppress(LeaseLost):  # it has ended: what was asked for
            self._ask("lease/revoke", {"ID": str(lease)}, repeatable=True)

    # --- watches ------------------------------------------------------------------------------------

    def watch(self, prefix: str, after_revision: int) -> EtcdWatch:
        watch = EtcdWatch(self, prefix, after_revision)
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        self._watches.close()
        for endpoint in self._endpoints:
            endpoint.pool.close()

    # --- asking -------------------------------------------------------------------------------------

    def _ask(self, path: str, body: dict[str, Any], repeatable: bool) -> dict[str, Any]:
        """One request to the first endpoint that takes it; the theory says who may be asked twice."""
        deadline_ms = steady_ms() + self._request_ms_max
        reasons: list[str] = []
        for turn in range(len(self._endpoints)):
            index = (self._preferred + turn) % len(self._endpoints)
            endpoint = self._endpoints[index]
            left_ms = deadline_ms - steady_ms()
            if left_ms <= 0:
                break
            share_ms = left_ms / (len(self._endpoints) - turn)
            try:
                answer = endpoint.ask(path, body, share_ms, share_ms if repeatable else left_ms)
            except NotAnswered as failure:
                reasons.append(f"{endpoint.text}: {failure}")
                if repeatable or failure.is_untouched:
                    continue
                self._preferred = (index + 1) % len(self._endpoints)
                break
            self._preferred = index
            return answer
        raise StoreUnavailable(f"etcd gave no answer to {path} ({'; '.join(reasons)})")


class EtcdWatch:
    """A `Watch` on an `EtcdStore`: a stream on a connection of its own.

    A stream silent for `request_ms_max` is opened anew from where it was, quietly: that is how a
    half-dead connection is found out, and a store that went back in time (`WatchLost`) too. etcd's
    own progress notifications come every ten minutes, too late for this.
    """

    def __init__(self, store: EtcdStore, prefix: str, after_revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after_revision
        self._lock = threading.Lock()  # guards the next two
        self._closed = False
        self._response: requests.Response | None = None

    def __iter__(self) -> Iterator[tuple[Event, ...]]:
        while not self._closed:
            try:
                yield from self._stream()
            except _Silence:
                continue
            except (StoreUnavailable, WatchLost):
                if self._closed:
                    return
                raise

    def close(self) -> None:
        """From any thread; one that iterates ends at once (or with its attempt to connect)."""
        with self._lock:
            self._closed = True
            if self._response is not None:
                # Wakes the reader without freeing what it reads from; it closes the connection itself.
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # the reader was faster
                    self._response.raw.shutdown()

    def _stream(self) -> Iterator[tuple[Event, ...]]:
        """One connection's worth of batches. Raises `_Silence` when it has been quiet too long."""
        store = self._store
        endpoint = store._endpoints[store._preferred]
        connection = Connection(endpoint.client())
        try:
            response = connection.post(
                "watch", self._request(), store._request_ms_max, store._request_ms_max, stream=True
            )
            with self._lock:
                self._response = response
                if self._closed:
                    return
            for line in response.iter_lines(_CHUNK_BYTES):
                if batch := self._batch(line, endpoint):
                    self._after = batch[-1].revision
                    yield batch
        except requests.RequestException as error:
            if self._response is not None and is_silence(error):
                raise _Silence from error
            raise self._broken(endpoint, reason_of(error)) from error
        except OSError as error:
            raise self._broken(endpoint, str(error)) from error
        finally:
            with self._lock:
                response_to_close, self._response = self._response, None
            if response_to_close is not None:
                response_to_close.close()
            connection.close()
        raise self._broken(endpoint, "the stream ended")

    def _request(self) -> dict[str, Any]:
        return {"create_request": {**range_of(self._prefix), "start_revision": str(self._after + 1)}}

    def _batch(self, line: bytes, endpoint: Endpoint) -> tuple[Event, ...]:
        """The events in one message of the stream; none in one that reports mere progress."""
        if not line.strip():
            return ()
        message = parse(line)
        if "error" in message:
            raise self._broken(endpoint, message_of(message))
        result = message.get("result", {})
        if result.get("canceled"):
            compacted = result.get("compact_revision", "?")
            raise WatchLost(
                f"etcd ended the watch after revision {self._after}:"
                f" {result.get('cancel_reason') or f'history before {compacted} was compacted'}"
            )
        if result.get("created") and revision_of(result) < self._after:
            raise WatchLost(f"etcd is at revision {revision_of(result)}, before {self._after}")
        return tuple(event_of(item) for item in result.get("events", ()))

    def _broken(self, endpoint: Endpoint, reason: str) -> StoreUnavailable:
        store = self._store
        if not self._closed and store._endpoints[store._preferred] is endpoint:
            store._preferred = (store._preferred + 1) % len(store._endpoints)
        return StoreUnavailable(f"the watch at {endpoint.text} broke: {reason}")


class _Silence(Exception):
    """A watch's stream said nothing for `request_ms_max`."""

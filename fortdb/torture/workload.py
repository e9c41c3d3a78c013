"""Clients that write, read and change values all the time.

Each is a thread with one connection to one door (`caller.py`), draws a place (`places.py`), and does there what is done
with keys of that sort (`actions.py`). A node that says that it does not lead a place is not asked for it for a while.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fortdb.client import Client, parse_record_id
from fortdb.client.failures import ConnectionFailed
from fortdb.errors import FortError, Immutable, NotLeader, PermissionDenied
from fortdb.model import Policy
from fortdb.torture import actions
from fortdb.torture.caller import Caller, Door, Notes
from fortdb.torture.history import History, Outcome
from fortdb.torture.places import COMPLIANT, GOVERNED, REGISTER, SORTS, Keys, Space, sort_of

_ELSEWHERE_S = 1.0  # a place that a node does not lead is not asked of it again for so long
_DRAWS_MAX = 20  # of a place that is not elsewhere
_BREATH_S = 0.01  # after an error, so that nobody counts refusals at full speed
_LOOK_S = 1.0  # for records whose retention has passed
_DELETED_TOGETHER = 500
_LAST_READS_FAILED_MAX = 10


class Workload:
    """`clients` threads, spread over the doors, until `stop`. Keys begin with the prefix, keyspaces with `keyspace`."""

    def __init__(
        self,
        doors: Sequence[Door],
        history: History,
        *,
        clients: int,
        seed: int,
        prefix: str,
        keyspace: str,
    ) -> None:
        self.keys = Keys(prefix, keyspace)
        self.notes = Notes(self.keys, history)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number, doors[number % len(doors)], random.Random(seed * 1000 + number)),  # nosec B311 # drawn again by the same seed
                name=f"client-{number}",
                daemon=True,
            )
            for number in range(clients)
        ]
        self._spaces: list[Space] = []

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many calls there were of each."""
        return self.notes.outcomes

    def prepare(self, door: Door) -> dict[str, str]:
        """Make the keyspaces. What is left out since the user may not do it, and why.

        Raises `PermissionDenied` if it may not even read and write keys, and what making a keyspace raises."""
        with door.client() as client:
            _probe(client, self.keys.probe(REGISTER))
            left_out = {}
            for sort, one in SORTS.items():
                try:
                    if one.space is not None:
                        self._make(client, sort, one.space)
                except PermissionDenied as error:
                    assert one.space is not None
                    self.keys.left_out.add(sort)
                    left_out[one.space.what] = str(error)
            governed = [sort for sort in (GOVERNED, COMPLIANT) if sort not in self.keys.left_out]
            try:
                for sort in governed:
                    client.hold(self.keys.probe(sort))
            except PermissionDenied as error:
                self.notes.may_govern = False
                left_out["holds and BYPASS"] = str(error)
            return left_out

    def start(self) -> None:
        """Let them begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish what it is doing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def read_all(self, door: Door) -> None:
        """The last word: every key that was ever touched, read once. Raises what the reads raise, as soon as many did:
        of a ring that is not well each may wait as long as an answer can take."""
        failed = 0
        with self._caller(len(self._threads), door) as caller:
            for key in self.keys.used:
                error = actions.read(caller, key)
                if error is not None:
                    failed += 1
                    if failed == _LAST_READS_FAILED_MAX:
                        raise error

    def verify_receipts(self, door: Door) -> tuple[int, list[str]]:
        """Whether WORM records are what their receipts say: how many are still there, and what is wrong, in
        sentences. Raises `FortError`."""
        verified, wrong = 0, []
        with door.client() as client:
            for receipt in self.notes.receipts:
                assert receipt.id is not None
                problem = client.verify_receipt(receipt)
                if client.record(receipt.key, receipt.id) is None:
                    continue  # its retention has passed
                verified += 1
                if problem is not None:
                    wrong.append(
                        f"{receipt.key.decode()} {receipt.id} is not what its receipt says: {problem}"
                    )
        return verified, wrong

    def remove_protected(
        self, door: Door, within_s: float, meanwhile: Callable[[], None], *, with_held: bool
    ) -> int:
        """Remove WORM records as soon as their retention has passed, and those that are held after a release, or not
        at all; how many could not be removed in time. Raises what an answer raises that is no refusal."""
        ends_s = time.monotonic() + within_s
        with self._caller(len(self._threads), door) as caller:
            for hold in list(self.notes.holds) if with_held else ():
                _check(actions.release(caller, *hold))
            while True:
                kept = 0
                for key in self.keys.used_of((GOVERNED, COMPLIANT)):
                    _check(actions.read(caller, key))
                    kept += sum(not _is_removed(caller, key, one) for one in actions.ids_of(caller, key))
                if not kept or time.monotonic() > ends_s:
                    return kept
                meanwhile()
                time.sleep(_LOOK_S)

    def remove_all(self, door: Door) -> list[str]:
        """Delete every key that was touched but WORM records, and the keyspaces; what is left, in sentences."""
        left = []
        with door.client() as client:
            plain = [key for key in self.keys.used if _is_deleted(key)]
            try:
                for start in range(0, len(plain), _DELETED_TOGETHER):
                    client.purge(*plain[start : start + _DELETED_TOGETHER])
            except FortError as error:
                left.append(f"keys {self.keys.probe(REGISTER).partition('{')[0]}...: {error}")
            for space in self._spaces:
                try:
                    client.drop_keyspace(self.keys.name_of(space))
                except FortError as error:
                    left.append(f"keyspace {self.keys.name_of(space)}, with {space.what}: {error}")
        return left

    def _make(self, client: Client, sort: str, space: Space) -> None:
        client.create_keyspace(
            self.keys.name_of(space),
            policy=space.policy,
            retention_ms=space.retention_ms,
            keep=space.keep,
            mode=space.mode,
        )
        self._spaces.append(space)
        client.exists(self.keys.probe(sort))  # who may make a keyspace may not yet read it

    @contextmanager
    def _caller(self, number: int, door: Door) -> Iterator[Caller]:
        with door.client() as client:
            yield Caller(self.notes, number, door, client, random.Random(0))  # nosec B311 # draws nothing

    def _run(self, number: int, door: Door, chance: random.Random) -> None:
        with door.client() as client:
            turns = _Turns(Caller(self.notes, number, door, client, chance))
            while not self._stopping.is_set():
                turns.next()


class _Turns:
    """What a client does one after another."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._elsewhere: dict[str, float] = {}  # place -> until when this node is not asked for it

    def next(self) -> None:
        """One call."""
        keys, chance = self._caller.keys, self._caller.chance
        for _ in range(_DRAWS_MAX):
            place = keys.draw_place(chance)
            if self._elsewhere.get(place, 0.0) <= time.monotonic():
                break
        else:
            time.sleep(_BREATH_S)
            return
        error = actions.ACTIONS[sort_of(place)](self._caller, keys.draw(place, chance))
        if isinstance(error, NotLeader):
            self._elsewhere[place] = time.monotonic() + _ELSEWHERE_S
        elif error is not None and not isinstance(error, Immutable):
            time.sleep(_BREATH_S * (10 if isinstance(error, ConnectionFailed) else 1))


def _is_deleted(key: str) -> bool:
    """Whether a key may be deleted at any time."""
    space = SORTS[sort_of(key)].space
    return space is None or space.policy is not Policy.WORM


def _is_removed(caller: Caller, key: str, record: str) -> bool:
    """Try to remove a record; whether it is gone, or held."""
    error = actions.remove(caller, key, record)
    if not isinstance(error, Immutable):
        _check(error)
        return True
    protection = caller.client.protection(key, parse_record_id(record))
    return protection is None or bool(protection.holds)


def _probe(client: Client, key: str) -> None:
    """Read and write once what everything is about. Raises `PermissionDenied` that says so."""
    try:
        client.put(key, "")
        client.get(key)
        client.delete(key)
    except PermissionDenied as error:
        raise PermissionDenied(
            f"a torture reads and writes keys of its own, as {key}, which the user may not: {error}"
        ) from None


def _check(error: FortError | None) -> None:
    if error is not None:
        raise error

"""`KEYSPACE`: what the keys `name/...` hold, how long, and what an acknowledgement of their writes means.

All policies stand in one record of the coordination store, changed by compare-and-set. A node hears of a change
by its watch; the command is answered when every node that is alive has, so that whoever was answered finds the
policy in use. A node that does not answer is waited for until its lease has ended.

Why a key never meets two policies that do not go together. What stands in the engine says itself what it is, so
reading needs no policy. Writing does: a plain `SET` over the head of records would leave them behind. A leader
that wrote records had seen their policy. The next leader's record is younger than what that one had seen, and a
node begins to lead only once its own view has come to that record (`Control._adopt`): so it has seen the policy,
too. The other way round, a policy that must not meet keys of another kind is put in place in steps: the keyspace
is *closed*, every node has seen that and refuses writes, there are no keys; only then the new policy stands. A
command that does not get so far opens the keyspace again as it was; if it cannot do even that, `KEYSPACE SHOW`
says closed, and `ALTER` or `DROP` go on from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from fortdb.coordination.operations import read_keyspaces, write_keyspaces
from fortdb.coordination.session import Session
from fortdb.coordination.store import Store
from fortdb.errors import BadRequest, Fault, FortError, Immutable, OutcomeUnknown, StoreConflict, Unavailable
from fortdb.limits import RETENTION_MS_MAX
from fortdb.model import Ack, Keyspace, Mode, NodeState, Policy
from fortdb.net.front import Slot
from fortdb.protocol.resp import OK, bulk
from fortdb.router.service import RouterService

log = structlog.get_logger(__name__)

_POLL_MS = 20
_NAME_BYTES_MAX = 200
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)\Z").match
_COUNT = re.compile(r"[1-9][0-9]{0,9}\Z").match
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Resume = Callable[[Any], None]
Steps = Generator[Callable[[Resume], None], Any, bytes]
"""Yields what to wait for, is sent what came of it, and returns the reply."""

Keyspaces = Mapping[str, Keyspace]


@dataclass(slots=True)
class Stored:
    """All keyspaces as they stand in the store, as far as this command knows, and at which revision."""

    keyspaces: Keyspaces
    revision: int


class _Reply:
    """A slot whose reply goes to a step."""

    def __init__(self, resume: Resume) -> None:
        self.complete: Resume = resume


class KeyspaceCommands:
    """Executes `KEYSPACE ...` on a router."""

    def __init__(self, service: RouterService, session: Session) -> None:
        self._service = service
        self._session = session

    def execute(self, slot: Slot, words: list[str]) -> None:
        """One command without its first word. Raises what is wrong with it."""
        match [words[0].upper(), *words[1:]]:
            case ["LIST"]:
                known = sorted(self._known.items())
                slot.complete(bulk(json.dumps([fields_of(keyspace) for _, keyspace in known]).encode()))
            case ["SHOW", name]:
                slot.complete(bulk(json.dumps(fields_of(self._keyspace(name))).encode()))
            case ["CREATE", name, *options]:
                self._run(slot, self._create(new_keyspace(name, options, self._known)))
            case ["ALTER", name, option, *options]:
                keyspace = self._keyspace(name)
                wanted = changed(keyspace, [option, *options])
                check_worm(keyspace, wanted)
                self._run(slot, self._alter(keyspace, wanted))
            case ["DROP", name]:
                self._run(slot, self._drop(self._keyspace(name)))
            case ["DROP", name, word] if word.upper() == "KEEP-KEYS":
                self._run(slot, self._forget(self._keyspace(name)))
            case ["DROP", name, word] if word.upper() == "DELETE-KEYS":
                self._run(slot, self._delete(self._keyspace(name)))
            case _:
                raise BadRequest(
                    "syntax error: KEYSPACE LIST | SHOW name | CREATE name [option value ...] | "
                    "ALTER name option value ... | DROP name [KEEP-KEYS|DELETE-KEYS]"
                )

    @property
    def _known(self) -> Keyspaces:
        return self._service.view.keyspaces

    def _keyspace(self, name: str) -> Keyspace:
        if name not in self._known:
            raise BadRequest(f"no keyspace {name}")
        return self._known[name]

    # --- what the commands do ---------------------------------------------------------------------

    def _create(self, keyspace: Keyspace) -> Steps:
        stored = self._stored()
        if keyspace.policy.keeps_records:
            yield from self._close(stored, keyspace, None, "would be no records")
            keyspace = replace(keyspace, version=2)
        yield from self._put(stored, keyspace)
        return OK

    def _alter(self, former: Keyspace, keyspace: Keyspace) -> Steps:
        stored = self._stored()
        kept = (former.policy, Policy.VERSIONS) if former.policy is Policy.PLAIN else (former.policy,)
        if keyspace.policy not in kept:
            what = f"are {former.policy.value} and would not be {keyspace.policy.value}"
            yield from self._close(stored, former, former, what)
        version = stored.keyspaces[keyspace.name].version + 1
        yield from self._put(stored, replace(keyspace, closed=False, version=version))
        return OK

    def _drop(self, keyspace: Keyspace) -> Steps:
        stored = self._stored()
        yield from self._close(stored, keyspace, keyspace, "would lose their policy")
        return (yield from self._remove(stored, keyspace.name))

    def _forget(self, keyspace: Keyspace) -> Steps:
        """Drop it, and let its keys stay."""
        if keyspace.policy is not Policy.PLAIN:
            raise BadRequest(
                f"keys of keyspace {keyspace.name} are {keyspace.policy.value}, and cannot be kept without it; "
                f"KEYSPACE DROP {keyspace.name} DELETE-KEYS deletes them"
            )
        return (yield from self._remove(self._stored(), keyspace.name))

    def _delete(self, keyspace: Keyspace) -> Steps:
        """Drop it, and delete its keys. Closed it stays, if that does not come to its end, and can be asked again."""
        if keyspace.policy is Policy.WORM:
            raise Immutable(
                f"records of keyspace {keyspace.name} are not deleted before their retention has passed; KEYSPACE DROP "
                f"{keyspace.name} drops it when it has no more keys"
            )
        stored, name = self._stored(), keyspace.name
        yield from self._put(stored, replace(keyspace, closed=True, version=keyspace.version + 1))
        while (reply := (yield partial(self._purge, name))) != b":0\r\n":
            if not reply.startswith(b":"):
                raise Unavailable(
                    f"keyspace {name} is closed, and not all of its keys are deleted ({reply[1:-2].decode()}); "
                    f"try KEYSPACE DROP {name} DELETE-KEYS again"
                )
        return (yield from self._remove(stored, name))

    def _remove(self, stored: Stored, name: str) -> Steps:
        yield from self._write(stored, name, None)
        return (yield from self._all_have_seen(stored, name))

    def _close(self, stored: Stored, keyspace: Keyspace, former: Keyspace | None, what: str) -> Steps:
        """Close a keyspace, which was `former`, and see that it has no keys. Raises, and has made it what it was,
        if there are some, or if that cannot be told."""
        name = keyspace.name
        version = 1 if former is None else former.version + 1
        yield from self._write(stored, name, replace(keyspace, closed=True, version=version))
        refusal: FortError
        try:
            yield from self._all_have_seen(stored, name)
        except OutcomeUnknown as error:
            refusal = Unavailable(f"nothing was changed: {error}")
        else:
            reply = yield partial(self._count, name)
            if reply == b":0\r\n":
                return OK
            refusal = Unavailable(
                f"nothing was changed: keys of {name} cannot be counted, {reply[1:-2].decode()}"
            )
            if reply.startswith(b":"):
                remedy = "remove them with PURGE"
                if former is not None and former.policy is Policy.WORM:
                    remedy = "they go when the retention of their records has passed"
                elif former is not None:
                    remedy += f"; KEYSPACE DROP {name} DELETE-KEYS deletes all"
                refusal = BadRequest(
                    f"there are {int(reply[1:-2])} keys {name}/... that {what}; nothing was changed. Find them with "
                    f"SCAN 0 MATCH {name}/*, {remedy}"
                )
        is_heard = not isinstance(refusal, Unavailable)
        back = None if former is None else replace(former, closed=False, version=version + 1)
        yield from self._write(stored, name, back)
        if is_heard:
            yield from self._all_have_seen(stored, name)
        raise refusal

    # --- steps --------------------------------------------------------------------------------------

    def _run(self, slot: Slot, steps: Steps) -> None:
        def resume(outcome: Any) -> None:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                slot.complete(done.value)
            except FortError as error:
                slot.complete(error.wire())
            except Exception as error:
                log.exception("keyspace_failed")
                slot.complete(Fault(error).wire())
            else:
                step(resume)

        resume(None)

    def _stored(self) -> Stored:
        view = self._service.view
        return Stored(view.keyspaces, view.keyspaces_revision)

    def _put(self, stored: Stored, keyspace: Keyspace) -> Steps:
        """Store one keyspace, and wait until every node has seen it."""
        yield from self._write(stored, keyspace.name, keyspace)
        yield from self._all_have_seen(stored, keyspace.name)
        return OK

    def _write(self, stored: Stored, name: str, keyspace: Keyspace | None) -> Steps:
        """Store one keyspace, or that there is none of that name, over what this command knows of it. Changes of
        others are nothing to it."""
        while True:
            keyspaces = {other: known for other, known in stored.keyspaces.items() if other != name}
            if keyspace is not None:
                keyspaces[name] = keyspace
            outcome = yield partial(self._submit, partial(self._replace, keyspaces, stored.revision))
            if not isinstance(outcome, StoreConflict):
                if isinstance(outcome, FortError):
                    raise outcome
                stored.keyspaces, stored.revision = keyspaces, outcome
                return OK
            outcome = yield partial(self._submit, self._read)
            if isinstance(outcome, FortError):
                raise outcome
            if outcome[0].get(name) != stored.keyspaces.get(name):
                raise StoreConflict(
                    f"keyspace {name} was changed by somebody else meanwhile; look at it again"
                )
            stored.keyspaces, stored.revision = outcome

    def _replace(self, keyspaces: Keyspaces, revision: int, store: Store) -> int:
        return write_keyspaces(store, self._session.keys, keyspaces, revision)

    def _read(self, store: Store) -> tuple[Keyspaces, int]:
        return read_keyspaces(store, self._session.keys)

    def _submit(self, work: Callable[[Store], object], resume: Resume) -> None:
        self._session.submit(work, lambda outcome: self._service.loop.call_soon(lambda: resume(outcome)))

    def _all_have_seen(self, stored: Stored, name: str) -> Steps:
        """Return once every living node, and this router, knows the change."""
        deadline_ms = self._service.loop.now_ms + self._service.deadline_ms
        confirmed: set[str] = set()
        asked: set[str] = set()  # a node that hangs holds up nobody else's answer

        def heard(node: str, reply: bytes) -> None:
            asked.discard(node)
            if reply.startswith(b":") and int(reply[1:-2]) >= stored.revision:
                confirmed.add(node)

        while True:
            waited_for = sorted(set(self._living()) - confirmed)
            if not waited_for and self._service.view.keyspaces_revision >= stored.revision:
                return OK
            if self._service.loop.now_ms > deadline_ms:
                raise OutcomeUnknown(
                    f"the change of keyspace {name} is in the coordination store, but "
                    f"{', '.join(waited_for) or 'this router'} did not confirm it within "
                    f"{self._service.deadline_ms} ms; KEYSPACE SHOW {name} says what holds"
                )
            for node in waited_for:
                if node not in asked:
                    asked.add(node)
                    self._service.call(node, [b"KEYSPACES"], _Reply(partial(heard, node)))
            yield self._pause

    def _living(self) -> list[str]:
        """Nodes that may lead: with a lease, and a disk."""
        nodes = self._service.view.nodes.values()
        return [node.name for node in nodes if node.state is not NodeState.FAILED]

    def _pause(self, resume: Resume) -> None:
        self._service.loop.call_later(_POLL_MS, lambda: resume(None))

    def _purge(self, name: str, resume: Resume) -> None:
        self._service.sum([b"PURGEALL", name.encode()], _Reply(resume), is_write=True)

    def _count(self, name: str, resume: Resume) -> None:
        self._service.sum([b"DBSIZE", name.encode()], _Reply(resume))


def new_keyspace(name: str, options: list[str], known: Keyspaces) -> Keyspace:
    """What `CREATE name ...` asks for. Raises `BadRequest`."""
    if not name or "/" in name or len(name.encode()) > _NAME_BYTES_MAX:
        raise BadRequest(
            f"a keyspace's name is the part of its keys before the first '/', at most {_NAME_BYTES_MAX} bytes"
        )
    if name in known:
        raise BadRequest(f"keyspace {name} exists already; KEYSPACE ALTER {name} changes it")
    return changed(Keyspace(name), options)


def changed(keyspace: Keyspace, options: list[str]) -> Keyspace:
    """The keyspace with options: pairs of a word and its value. Raises `BadRequest`."""
    if len(options) % 2:
        raise BadRequest(f"syntax error: {options[-1]} has no value")
    for word, value in zip(options[::2], options[1::2], strict=True):
        match word.upper():
            case "ACK":
                keyspace = replace(keyspace, ack=_choice(Ack, value, "ACK takes SYNC or ASYNC"))
            case "POLICY":
                says = "POLICY takes PLAIN, RECORDS, VERSIONS or WORM"
                keyspace = replace(keyspace, policy=_choice(Policy, value, says))
            case "RETENTION":
                keyspace = replace(keyspace, retention_ms=_duration_ms(value))
            case "KEEP":
                keyspace = replace(keyspace, keep=_keep(value))
            case "MODE":
                says = "MODE takes GOVERNANCE or COMPLIANCE"
                keyspace = replace(keyspace, mode=_choice(Mode, value, says))
            case _:
                raise BadRequest(f"syntax error: {word} is none of POLICY, ACK, RETENTION, KEEP and MODE")
    if keyspace.policy is not Policy.WORM and any(word.upper() == "MODE" for word in options[::2]):
        raise BadRequest("MODE is for POLICY WORM")
    return _checked(keyspace)


def check_worm(former: Keyspace, keyspace: Keyspace) -> None:
    """Raises `Immutable` for a change by which records that are to come would be kept less well than before."""
    if former.policy is not Policy.WORM or keyspace.policy is not Policy.WORM:
        return
    if keyspace.retention_ms < former.retention_ms:
        raise Immutable(f"the retention of keyspace {former.name} can be lengthened only")
    if former.mode is Mode.COMPLIANCE and keyspace.mode is not Mode.COMPLIANCE:
        raise Immutable(f"keyspace {former.name} is in mode compliance and stays in it")


def _checked(keyspace: Keyspace) -> Keyspace:
    """The keyspace, if its options go together. Raises `BadRequest`."""
    if keyspace.retention_ms and keyspace.policy is Policy.PLAIN:
        raise BadRequest("RETENTION is for POLICY RECORDS, VERSIONS and WORM; single keys take EX or EXPIRE")
    if keyspace.keep and keyspace.policy is not Policy.VERSIONS:
        raise BadRequest("KEEP is for POLICY VERSIONS")
    if keyspace.policy is not Policy.WORM:
        return replace(keyspace, mode=Mode.GOVERNANCE)
    if not keyspace.retention_ms:
        raise BadRequest("POLICY WORM takes a RETENTION: how long a record is kept")
    if keyspace.ack is not Ack.SYNC:
        raise BadRequest("POLICY WORM takes ACK SYNC: what is answered is never lost")
    return keyspace


def fields_of(keyspace: Keyspace) -> dict[str, object]:
    """A keyspace for `LIST`, `SHOW` and `RING`."""
    return {
        "name": keyspace.name,
        "policy": keyspace.policy.value,
        "ack": keyspace.ack.value,
        "retention_ms": keyspace.retention_ms,
        "keep": keyspace.keep,
        "version": keyspace.version,
        "closed": keyspace.closed,
        **({"mode": keyspace.mode.value} if keyspace.policy is Policy.WORM else {}),
    }


def _choice(kind: Any, value: str, says: str) -> Any:
    try:
        return kind(value.lower())
    except ValueError:
        raise BadRequest(says) from None


def _duration_ms(value: str) -> int:
    if value.upper() == "NONE":
        return 0
    match = _DURATION(value.lower())
    duration_ms = int(match[1]) * _UNITS_MS[match[2]] if match is not None else 0
    if not 1 <= duration_ms <= RETENTION_MS_MAX:
        raise BadRequest(
            "RETENTION takes a time such as 30d, 12h, 5m, 10s or 500ms, of at most "
            f"{RETENTION_MS_MAX // _UNITS_MS['d']}d, or NONE"
        )
    return duration_ms


def _keep(value: str) -> int:
    if value.upper() == "NONE":
        return 0
    if _COUNT(value) is None or int(value) > 1_000_000_000:
        raise BadRequest(
            "KEEP takes the number of versions that are kept, the present one among them, or NONE"
        )
    return int(value)

"""Clients that talk to a node directly, past the routers.

The node executes what concerns partitions that it leads and refuses the rest, naming the leader. It
is what a benchmark of one node measures and what an operator uses to look at one node; applications
talk to a router. `GET key` and `SET key value` are nearly all that is asked and have a short way
(`fortdb.native`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fortdb.errors import BadRequest, Fault, FortError, NotLeader, Unavailable
from fortdb.native import lane
from fortdb.net.feeds import Asked, Feeds
from fortdb.net.front import ClientConnection, Slot
from fortdb.net.gather import Completes, Gather, Part, sum_of
from fortdb.net.stream import Way
from fortdb.node.describe import describe_node
from fortdb.node.execute import check_keys
from fortdb.node.hosted import Hosted
from fortdb.node.service import NodeService
from fortdb.protocol.arguments import parse_cursor, parse_integer
from fortdb.protocol.commands import INTERNAL, Command, CommandKind, keys_of
from fortdb.protocol.resp import bulk
from fortdb.protocol.scatter import split
from fortdb.protocol.transactions import Bundle
from fortdb.ring.tokens import TokenMap, token_of

Parts = list[tuple[Hosted, list[bytes]]]
Join = Callable[[list[bytes]], bytes]


class _Routed(NamedTuple):
    """What partitions of this node are to execute, and how several answers become one."""

    parts: Parts
    join: Join | None = None


class NodeClients:
    """Executes clients' commands on this node's partitions."""

    def __init__(
        self,
        service: NodeService,
        information: Callable[[], Mapping[str, Mapping[str, object]]],
        settings: Callable[[], Mapping[str, str]],
    ) -> None:
        self._service = service
        self._information = information
        self._settings = settings
        self.feeds = Feeds(service.loop, self, service.settings.write_ms_max, knows_leaders=False)

    def way(self, counts: list[int]) -> Way | None:
        """The short way of plain requests, where there is one."""
        return None if lane is None else (lane.receive, self._service, counts)

    def information(self) -> Mapping[str, Mapping[str, object]]:
        """The sections of `INFO`."""
        return self._information()

    def settings(self) -> Mapping[str, str]:
        """What `CONFIG GET` shows."""
        return self._settings()

    def execute(self, connection: ClientConnection, command: Command, args: list[bytes]) -> bytes | Slot:
        """Answer now or later. A defect is a `Fault` until a partition is given something to execute."""
        try:
            found = self._route(connection, command, args)
        except FortError as error:
            return self._service.failure_reply(error)
        except Exception as error:
            raise Fault(error) from error
        return found if isinstance(found, bytes | Slot) else self._submit(connection.slot(), command, found)

    def _route(
        self, connection: ClientConnection, command: Command, args: list[bytes]
    ) -> bytes | Slot | _Routed:
        """The answer, or which partitions are to execute what."""
        if command.name == "RING":
            return bulk(describe_node(self._service))
        if command.kind is CommandKind.ADMIN or command.name == "PURGEALL":
            raise BadRequest(f"{command.name} is a router's command; connect to a router")
        tokens = self._known_tokens()
        if command.kind is CommandKind.FEED:
            return self.feeds.execute(tokens, connection, command, args)
        if command.name == "SCAN":
            return _Routed([(self._led(tokens, parse_cursor(args[1])), args)])
        if command.name == "CHAIN":
            return self._chain(args)
        if command.name == "DBSIZE":
            led = [hosted for hosted in self._service.hosted.values() if hosted.replica.leading is not None]
            return _Routed([(hosted, args) for hosted in led], sum_of)
        keys = keys_of(command, args)
        check_keys(keys)
        if len(keys) > 1:
            return _Routed(*self._scatter(tokens, command, args))
        if command.name == "GET" and len(args) == 3:
            return self._stale(tokens, command, args)
        return _Routed([(self._led(tokens, token_of(keys[0])), args)])

    def _submit(self, slot: Slot, command: Command, routed: _Routed) -> Slot:
        if routed.join is None:
            ((hosted, args),) = routed.parts
            self._service.requests.submit(hosted, slot, command, args)
            return slot
        if not routed.parts:
            slot.complete(routed.join([]))
        self._submit_parts(slot, command, routed.parts, routed.join)
        return slot

    def _submit_parts(self, slot: Completes, command: Command, parts: Parts, join: Join) -> None:
        gather = Gather(slot, len(parts), join)
        for index, (hosted, args) in enumerate(parts):
            self._service.requests.submit(hosted, gather.part(index), command, args)

    def leader_of(self, partition: int) -> object:
        """This node, as far as it is asked."""
        return None

    def ask_changes(self, partition: int, args: list[bytes], slot: Asked) -> Callable[[], None]:
        """Ask a partition that is to be led here, in a moment: an answer leads to the next question."""

        def ask() -> None:
            try:
                self._service.changes.ask(slot, args)
            except FortError as error:
                slot.complete(error.wire())

        self._service.loop.call_next(ask)
        return lambda: None

    def watch(self, slot: Completes, keys: list[bytes]) -> None:
        """Ask the partitions of these keys, which are to be led here, for their versions."""
        command = INTERNAL["WATCH"]
        try:
            routed = self._scatter(self._known_tokens(), command, [b"WATCH", *keys])
        except FortError as error:
            slot.complete(self._service.failure_reply(error))
            return
        except Exception as error:
            raise Fault(error) from error
        self._submit_parts(slot, command, *routed)

    def transact(self, slot: Part, bundle: Bundle) -> None:
        """Execute a transaction on the partition that holds its keys, which is to be led here."""
        try:
            tokens = self._known_tokens()
            hosted = self._led(tokens, tokens.partition_of_all(bundle.keys).token)
            args = [b"EXEC", *bundle.encode()]
        except FortError as error:
            slot.complete(self._service.failure_reply(error))
            return
        except Exception as error:
            raise Fault(error) from error
        self._service.requests.submit(hosted, slot, INTERNAL["EXEC"], args)

    def _known_tokens(self) -> TokenMap:
        if self._service.tokens is None:
            raise Unavailable("the ring has no layout yet; make one with: fortdb layout plan, layout apply")
        return self._service.tokens

    def _led(self, tokens: TokenMap, token: int) -> Hosted:
        partition = tokens.partition_of(token)
        hosted = self._service.hosted.get(partition.id)
        if hosted is None:
            raise NotLeader(
                f"{self._service.own.name} does not hold partition {partition.name}; ask a router"
            )
        return hosted

    def _chain(self, args: list[bytes]) -> _Routed:
        if len(args) != 3:
            raise BadRequest("syntax error: CHAIN partition-id ordinal; a router asks other replicas")
        hosted = self._service.hosted.get(parse_integer(args[1]))
        if hosted is None:
            raise NotLeader(f"{self._service.own.name} does not hold that partition; ask a router")
        return _Routed([(hosted, args)])

    def _stale(self, tokens: TokenMap, command: Command, args: list[bytes]) -> bytes:
        if args[2].upper() != b"STALE":
            raise BadRequest("syntax error: GET key [STALE]")
        return self._service.runner.stale(self._led(tokens, token_of(args[1])), command, args[:2])

    def _scatter(self, tokens: TokenMap, command: Command, args: list[bytes]) -> tuple[Parts, Join]:
        scattered = split(command, args, lambda key: tokens.partition_of(token_of(key)).id)
        led = [self._led(tokens, token_of(keys_of(command, part)[0])) for part in scattered.commands]
        return [*zip(led, scattered.commands, strict=True)], scattered.join

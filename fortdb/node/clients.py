"""Clients that talk to a node directly, past the routers.

The node executes what concerns partitions that it leads and refuses the rest, naming the leader. It
is what a benchmark of one node measures and what an operator uses to look at one node; applications
talk to a router. `GET key` and `SET key value` are nearly all that is asked and have a short way
(`fortdb.native`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fortdb.errors import BadRequest, FortError, NotLeader, Unavailable
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
        """Answer now or later."""
        try:
            return self._execute(connection, command, args)
        except FortError as error:
            return self._service.failure_reply(error)

    def _execute(self, connection: ClientConnection, command: Command, args: list[bytes]) -> bytes | Slot:
        if command.name == "RING":
            return bulk(describe_node(self._service))
        if command.kind is CommandKind.ADMIN or command.name == "PURGEALL":
            raise BadRequest(f"{command.name} is a router's command; connect to a router")
        tokens = self._known_tokens()
        if command.kind is CommandKind.FEED:
            return self.feeds.execute(tokens, connection, command, args)
        if command.name == "SCAN":
            return self._submit(connection, self._led(tokens, parse_cursor(args[1])), command, args)
        if command.name == "CHAIN":
            return self._chain(connection, command, args)
        if command.name == "DBSIZE":
            return self._count(connection, command, args)
        keys = keys_of(command, args)
        check_keys(keys)
        if len(keys) == 1:
            if command.name == "GET" and len(args) == 3:
                return self._stale(tokens, command, args)
            return self._submit(connection, self._led(tokens, token_of(keys[0])), command, args)
        slot = connection.slot()
        self._scatter(slot, tokens, command, args)
        return slot

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
        try:
            self._scatter(slot, self._known_tokens(), INTERNAL["WATCH"], [b"WATCH", *keys])
        except FortError as error:
            slot.complete(self._service.failure_reply(error))

    def transact(self, slot: Part, bundle: Bundle) -> None:
        """Execute a transaction on the partition that holds its keys, which is to be led here."""
        try:
            tokens = self._known_tokens()
            hosted = self._led(tokens, tokens.partition_of_all(bundle.keys).token)
            self._service.requests.submit(hosted, slot, INTERNAL["EXEC"], [b"EXEC", *bundle.encode()])
        except FortError as error:
            slot.complete(self._service.failure_reply(error))

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

    def _submit(
        self,
        connection: ClientConnection,
        hosted: Hosted,
        command: Command,
        args: list[bytes],
    ) -> Slot:
        slot = connection.slot()
        self._service.requests.submit(hosted, slot, command, args)
        return slot

    def _chain(self, connection: ClientConnection, command: Command, args: list[bytes]) -> Slot:
        if len(args) != 3:
            raise BadRequest("syntax error: CHAIN partition-id ordinal; a router asks other replicas")
        hosted = self._service.hosted.get(parse_integer(args[1]))
        if hosted is None:
            raise NotLeader(f"{self._service.own.name} does not hold that partition; ask a router")
        return self._submit(connection, hosted, command, args)

    def _stale(self, tokens: TokenMap, command: Command, args: list[bytes]) -> bytes:
        if args[2].upper() != b"STALE":
            raise BadRequest("syntax error: GET key [STALE]")
        return self._service.runner.stale(self._led(tokens, token_of(args[1])), command, args[:2])

    def _scatter(self, slot: Completes, tokens: TokenMap, command: Command, args: list[bytes]) -> None:
        scattered = split(command, args, lambda key: tokens.partition_of(token_of(key)).id)
        hosted = [self._led(tokens, token_of(keys_of(command, part)[0])) for part in scattered.commands]
        gather = Gather(slot, len(hosted), scattered.join)
        for index, (where, part) in enumerate(zip(hosted, scattered.commands, strict=True)):
            self._service.requests.submit(where, gather.part(index), command, part)

    def _count(self, connection: ClientConnection, command: Command, args: list[bytes]) -> Slot:
        led = [hosted for hosted in self._service.hosted.values() if hosted.replica.leading is not None]
        slot = connection.slot()
        if not led:
            slot.complete(b":0\r\n")
        gather = Gather(slot, len(led), sum_of)
        for index, hosted in enumerate(led):
            self._service.requests.submit(hosted, gather.part(index), command, args)
        return slot

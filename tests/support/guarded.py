"""A node that leads all keys, with users and TLS, on a thread of this process; and certificates for it."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from fortdb.access.passwords import hash_password
from fortdb.access.users import Right
from fortdb.local.authority import Authority
from fortdb.model import Layout, NodeSpec, Partition, PartitionRecord
from fortdb.net.certificates import CertificateFiles
from fortdb.net.front import Front
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting
from fortdb.net.security import Security
from fortdb.net.stream import Listener, Outbox
from fortdb.node.clients import NodeClients
from fortdb.node.core import Settings
from fortdb.node.disk import open_replica
from fortdb.node.hosted import Hosted
from fortdb.node.service import NodeService
from fortdb.protocol.resp import pack
from fortdb.ring.tokens import TokenMap
from fortdb.storage.rocks import RocksEngine

EVERYTHING = tuple(right.value for right in Right)
_LEASE_UNTIL_MS = 1 << 50
_SETTINGS = Settings(3_000, 100, 1_000, 3_000, 1_000, 1)
_hashes: dict[str, str] = {}


def hashed(password: str) -> str:
    """A hash of the password, made once for all tests."""
    if password not in _hashes:
        _hashes[password] = hash_password(password)
    return _hashes[password]


def user(
    name: str,
    *passwords: str,
    commands: tuple[str, ...] = EVERYTHING,
    keyspaces: tuple[str, ...] = ("*",),
    **limits: int,
) -> str:
    """A table of users.toml."""
    lines = [
        f"[{name}]",
        f"passwords = {json.dumps([hashed(password) for password in passwords])}",
        f"commands = {json.dumps(commands)}",
        f"keyspaces = {json.dumps(keyspaces)}",
        *(f"{key} = {value}" for key, value in limits.items()),
    ]
    return "\n".join(lines) + "\n"


class GuardedNode:
    """Serves until it is closed. `users` and `tls` are what guards it."""

    def __init__(self, directory: Path, users: str = "", tls: bool = False, in_c: bool = True) -> None:
        self.users_path = directory / "users.toml"
        self.audit_path = directory / "audit.jsonl"
        files = None
        self.authority = Authority(directory / "tls") if tls else None
        if self.authority is not None:
            cert, key = self.authority.issue("node", ("localhost", "127.0.0.1"))
            files = CertificateFiles(str(cert), str(key), str(self.authority.ca))
        if users:
            self.users_path.write_text(users)
        self.loop, outbox = Loop(), Outbox()
        self.security = Security(
            self.loop, "node", files, str(self.users_path) if users else "", str(self.audit_path)
        )
        self._engine = RocksEngine(
            directory / "engine", cache_bytes=1 << 20, memtable_bytes=1 << 20, sync=False
        )
        self.service = NodeService(self.loop, outbox, self._engine, Greeting("c", "node", "life"), _SETTINGS)
        partition = Partition(0, "p-000", 0, ("node",))
        self.service.tokens = TokenMap(Layout(1, 1, 1, {"node": NodeSpec("zone")}, (partition,)))
        replica = open_replica(self._engine, 0, "p-000", "node", "life", None)
        hosted = Hosted(replica, ((0, 1 << 64),))
        self.service.host(hosted)
        replica.adopt(
            PartitionRecord("p-000", "node", 5, {"node": "life"}, ("node",), handover=True),
            1,
            self.loop.now_ms,
            1,
        )
        self.service.touch(hosted)
        clients = NodeClients(self.service, dict, dict)
        self.front = Front(
            self.loop,
            self.service.answers,
            clients,
            host="127.0.0.1",
            port=0,
            connections_max=100,
            idle_ms_max=0,
            way=clients.way if in_c else lambda counts: None,
            gate=self.security.gate,
            handshakes=self.security.accept_clients(),
        )
        self.peers = Listener(
            self.loop,
            "127.0.0.1",
            0,
            "peer.port",
            self.service.links.accept,
            self.security.accept_members(),
        )
        self.service.lease_renewed(_LEASE_UNTIL_MS)
        self._tick_way = self.service.tick_way if in_c else None
        self.port = self.front.listener.port
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run(self.service.tick, self._tick_way)

    def set_users(self, text: str) -> None:
        """Replace the file of users, and say so; returns when the node has seen it."""
        self.users_path.write_text(text)
        self.reload()

    def reload(self) -> None:
        """What SIGHUP does."""
        done = threading.Event()

        def run() -> None:
            self.security.reload()
            done.set()

        self.loop.call_soon(run)
        assert done.wait(10)

    def audit(self) -> list[dict[str, object]]:
        """The events so far."""
        return [json.loads(line) for line in self.audit_path.read_text().splitlines()]

    def close(self) -> None:
        """End it."""
        self.loop.call_soon(self.loop.stop)
        self._thread.join()
        self.front.close()
        self.service.links.close()
        self.peers.close()
        self.security.close()
        self.service._jobs.shutdown()
        self._engine.close()
        self.loop.close()


@contextlib.contextmanager
def guarded_node(
    directory: Path, users: str = "", tls: bool = False, in_c: bool = True
) -> Iterator[GuardedNode]:
    """A serving node."""
    node = GuardedNode(directory, users, tls, in_c)
    try:
        yield node
    finally:
        node.close()


class Talk:
    """A bare connection: what is said, and what is answered, byte for byte."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, name: str = "localhost") -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        self.socket = plain if context is None else context.wrap_socket(plain, server_hostname=name)
        self.socket.settimeout(10)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *commands: Sequence[bytes | str]) -> list[bytes]:
        """One line of each answer; for answers that are lines."""
        self.send(*commands)
        return [self.line() for _ in commands]

    def send(self, *commands: Sequence[bytes | str]) -> None:
        """In one piece."""
        words = [
            [word.encode() if isinstance(word, str) else word for word in command] for command in commands
        ]
        self.socket.sendall(b"".join(map(pack, words)))

    def line(self) -> bytes:
        """The next line; empty when the connection ended."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                return b""
            line += byte
        return line[:-2]

    def rest(self, size: int) -> bytes:
        """So many bytes, whatever they are."""
        parts = []
        while size and (data := self.socket.recv(min(size, 1 << 20))):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def stays_silent(self, for_s: float = 0.05) -> bool:
        """Whether nothing is answered meanwhile; what was sent has been read by then."""
        return not select.select([self.socket], [], [], for_s)[0]

    def is_over(self) -> bool:
        """Whether the other side hung up and has nothing more to say."""
        try:
            return self.socket.recv(1) == b""
        except OSError:
            return True

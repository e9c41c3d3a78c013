"""`fortdb --ssh USER@HOST`: a ring that opens no port to the world, reached through SSH.

A port of 127.0.0.1 is listened on for as long as the command runs; each connection to it becomes a
channel to the router as HOST sees it. The host's key must be known (~/.ssh/known_hosts): an unknown or
changed one is refused, not asked about, because what would follow is typed into it.
"""

from __future__ import annotations

import contextlib
import getpass
import select
import socket
import threading
from dataclasses import dataclass
from typing import Any, Self

from fortdb.client import Address
from fortdb.errors import BadRequest, ConfigError, FortError, Unavailable

CONNECT_S_MAX = 10.0
_PORT = 22
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SshTarget:
    """USER@HOST:PORT, taken apart."""

    user: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `BadRequest`."""
        user, at, rest = text.rpartition("@")
        host, colon, port = rest.partition(":")
        if not host or (at and not user) or (colon and not port.isdigit()):
            raise BadRequest(f"{text!r} is no SSH target; write USER@HOST or USER@HOST:PORT")
        return cls(user or getpass.getuser(), host, int(port) if colon else _PORT)


class Tunnel:
    """An SSH connection and the port that leads through it; used as a context manager."""

    def __init__(self, target: SshTarget, router: Address) -> None:
        """Connects. Raises `ConfigError` without paramiko, `Unavailable` if the host cannot be reached,
        is not the one it was, or lets nobody in."""
        self._router = router
        self._client: Any = _connect(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="tunnel", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port and the connection."""
        self._listener.close()
        self._client.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, origin = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(connection, origin), daemon=True).start()

    def _carry(self, connection: socket.socket, origin: tuple[str, int]) -> None:
        import paramiko

        target = (self._router.host, self._router.port)
        with connection:
            try:
                channel = self._client.get_transport().open_channel("direct-tcpip", target, origin)
            except (paramiko.SSHException, AttributeError):
                return  # nobody listens there: the client sees a closed connection
            with contextlib.closing(channel), contextlib.suppress(OSError):
                _pump(connection, channel)


def _pump(connection: socket.socket, channel: Any) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        readable, _, _ = select.select([connection, channel], [], [])
        if connection in readable:
            data = connection.recv(_CHUNK_BYTES)
            if not data:
                return
            channel.sendall(data)
        if channel in readable:
            data = channel.recv(_CHUNK_BYTES)
            if not data:
                return
            connection.sendall(data)


def _connect(target: SshTarget) -> Any:
    try:
        import paramiko
    except ImportError:
        raise ConfigError("--ssh needs paramiko: pip install 'fortdb[ssh]'") from None
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            target.host, target.port, target.user, timeout=CONNECT_S_MAX, banner_timeout=CONNECT_S_MAX
        )
    except (paramiko.SSHException, OSError) as error:
        client.close()
        raise _refused(target, error) from error
    return client


def _refused(target: SshTarget, error: Exception) -> FortError:
    import paramiko

    where = f"{target.user}@{target.host}:{target.port}"
    if isinstance(error, paramiko.BadHostKeyException):
        return Unavailable(
            f"{where} shows another host key than ~/.ssh/known_hosts has; do not go on before you know why"
        )
    if "not found in known_hosts" in str(error):
        return Unavailable(f"{where} is not in ~/.ssh/known_hosts; connect once by ssh and compare its key")
    if isinstance(error, paramiko.AuthenticationException):
        return Unavailable(f"{where} lets none of your keys in ({error}); is ssh-agent running?")
    return Unavailable(f"{where} cannot be reached by SSH: {error}")

"""Where a router listens: `fortdb://host:port`, `host:port` or `host`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from fortdb.errors import BadRequest

SCHEME = "fortdb"
PORT_DEFAULT = 5000


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a TCP port."""

    host: str
    port: int = PORT_DEFAULT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address; raises `BadRequest` that says what the form is."""
    try:
        parts = urlsplit(text if "://" in text else f"{SCHEME}://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed(text) from error
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme != SCHEME or not host or port == 0 or extra:
        raise _malformed(text)
    return Address(host, PORT_DEFAULT if port is None else port)


def _malformed(text: str) -> BadRequest:
    return BadRequest(f"{text!r} is no address of a router; write {SCHEME}://host:port")

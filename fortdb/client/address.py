"""Where a router listens: `fortdb://host:port`, `host:port` or `host`.

`fortdbs://user:password@host:port` says that it speaks TLS, and who comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from fortdb.client.access import Access
from fortdb.errors import BadRequest

SCHEME = "fortdb"
SCHEME_TLS = "fortdbs"
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
    address, access = parse_url(text)
    if access != Access():
        raise _malformed(text)
    return address


def parse_url(text: str) -> tuple[Address, Access]:
    """Parse an address and how to come in; raises `BadRequest` that says what the form is."""
    try:
        parts = urlsplit(text if "://" in text else f"{SCHEME}://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed(text) from error
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in (SCHEME, SCHEME_TLS) or not host or port == 0 or extra:
        raise _malformed(text)
    access = Access(
        unquote(parts.username or ""), unquote(parts.password or ""), tls=parts.scheme == SCHEME_TLS
    )
    return Address(host, PORT_DEFAULT if port is None else port), access


def _malformed(text: str) -> BadRequest:
    hidden = text if "@" not in text else "..." + text[text.rindex("@") :]  # there may be a password in it
    return BadRequest(f"{hidden!r} is no address of a router; write {SCHEME}://host:port")

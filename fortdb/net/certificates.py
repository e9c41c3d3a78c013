"""The certificate of a process, and the TLS contexts made of it, replaced while the process runs.

One certificate serves both sides of a process: its clients verify it, and so do the other processes of
the ring, which show theirs (mutual TLS). `ca` signs the ring's members and nobody else: whoever has a
certificate of it may say everything that a node or a router may, under the name in it.

Files are taken in only together and only if they work: a handshake in memory, with the ring's own
contexts, shows whether key, certificate, authority and dates belong together and whether the certificate
names this process. What does not work is refused, and the former certificate stays in use.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fortdb.errors import ConfigError
from fortdb.net.tls import names_of, reason_of
from fortdb.net.watch import FileWatch

_ROUND_TRIPS_MAX = 10


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files."""

    cert: str
    key: str
    ca: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files held. `fingerprint` is the SHA-256 of the certificate, in hexadecimal."""

    names: frozenset[str]
    not_after: str
    fingerprint: str

    @property
    def until_s(self) -> int:
        """When it ends, Unix time."""
        return int(ssl.cert_time_to_seconds(self.not_after))


class Certificates:
    """The contexts for new connections."""

    def __init__(self, files: CertificateFiles, name: str) -> None:
        """`name`: of the process. Raises `ConfigError` for files that do not work."""
        self._files = files
        self._name = name
        self._watch = FileWatch([files.cert, files.key, files.ca])
        self._take_in()

    def have_changed(self) -> bool:
        """Whether files changed since this was asked last."""
        return self._watch.has_changed()

    def reload(self) -> None:
        """Take the files in. Raises `ConfigError`, and keeps what there was."""
        self._take_in()

    def for_clients(self) -> ssl.SSLContext:
        """To accept clients, which need no certificate."""
        return self._clients

    def for_members(self) -> ssl.SSLContext:
        """To accept nodes and routers, which show theirs."""
        return self._members

    def to_members(self) -> ssl.SSLContext:
        """To connect to nodes."""
        return self._dialling

    def _take_in(self) -> None:
        clients = self._context(ssl.PROTOCOL_TLS_SERVER)
        members = self._context(ssl.PROTOCOL_TLS_SERVER)
        dialling = self._context(ssl.PROTOCOL_TLS_CLIENT)
        for context in (members, dialling):
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cafile=self._files.ca)
            except OSError as error:
                raise ConfigError(f"tls.ca: {self._files.ca} cannot be used: {_why(error)}") from None
        self.loaded = self._tried(members, dialling)
        self._clients, self._members, self._dialling = clients, members, dialling

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.check_hostname = False  # members are known by the name that their greeting claims
        context.verify_mode = ssl.CERT_NONE  # clients have passwords
        try:
            context.load_cert_chain(self._files.cert, self._files.key, password=_no_password)
        except OSError as error:
            where = f"{self._files.cert} and {self._files.key}"
            raise ConfigError(f"tls.cert and tls.key: {where} cannot be used: {_why(error)}") from None
        return context

    def _tried(self, members: ssl.SSLContext, dialling: ssl.SSLContext) -> Loaded:
        try:
            shown = _shake_hands(members, dialling)
        except OSError as error:
            raise ConfigError(
                f"tls.cert: {self._files.cert} does not work in this ring: {reason_of(error)} "
                f"(verified with tls.ca, {self._files.ca})"
            ) from None
        names = names_of(shown)
        if self._name not in names:
            raise ConfigError(
                f"tls.cert: {self._files.cert} is for {', '.join(sorted(names)) or 'nobody'}; "
                f"the process is {self._name}: one of its DNS names (subjectAltName) must be that"
            )
        first = ssl.PEM_cert_to_DER_cert(_first_certificate(self._files.cert))
        return Loaded(names, str((shown or {}).get("notAfter", "")), hashlib.sha256(first).hexdigest())


def _shake_hands(accepting: ssl.SSLContext, dialling: ssl.SSLContext) -> Mapping[str, Any] | None:
    """A handshake of the process with itself, in memory; returns the certificate that was shown."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [dialling.wrap_bio(back, there), accepting.wrap_bio(there, back, server_side=True)]
    for _ in range(_ROUND_TRIPS_MAX):
        waiting = False
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting = True
        if not waiting:
            return sides[1].getpeercert()
    raise ssl.SSLError("the handshake does not end")


def _first_certificate(path: str) -> str:
    text = Path(path).read_text()
    begin, end = text.index("-----BEGIN CERT"), text.index("-----END CERTIFICATE-----")
    return text[begin : end + len("-----END CERTIFICATE-----")]


def _no_password() -> str:
    raise OSError("the key is encrypted; FortDB starts without anybody who could type a password")


def _why(error: OSError) -> str:
    return error.strerror or reason_of(error) if not isinstance(error, ssl.SSLError) else reason_of(error)

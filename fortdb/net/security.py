"""What guards a process, put together: certificates, users, the audit log; looked after while it runs.

Files that changed are taken in without a restart, at once by SIGHUP and otherwise within seconds. A new
file that is wrong is refused, told in log and audit log, and what there was stays in use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fortdb.access.users import Users, parse_users
from fortdb.clock import wall_ms
from fortdb.errors import ConfigError
from fortdb.net.audit import Audit
from fortdb.net.certificates import CertificateFiles, Certificates
from fortdb.net.gate import Gate
from fortdb.net.loop import Loop
from fortdb.net.tls import Context, Handshakes
from fortdb.net.watch import FileWatch

log = structlog.get_logger(__name__)

UNPROTECTED = "whoever reaches these ports may read and change everything"
"""What an operator has to say to have ports without TLS or users on a network."""

_LOOK_MS = 2_000
_WARN_MS = 6 * 3_600_000
_WARN_DAYS = 14


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_users(path: str) -> Users:
    """Raises `ConfigError`."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"security.users: {path} cannot be read: {error}") from None
    return parse_users(text, path)


class Security:
    """The guard of one process."""

    def __init__(
        self, loop: Loop, process: str, files: CertificateFiles | None, users: str, audit_file: str
    ) -> None:
        """`files` None: no TLS; `users` empty: no users. Raises `ConfigError`."""
        self._loop = loop
        self._refused_handshakes = 0
        self._audit = Audit(process, audit_file)
        self.certificates = Certificates(files, process) if files is not None else None
        self._users_path = users
        self._watch = FileWatch([users])
        self.gate = Gate(loop, load_users(users), self._audit) if users else None
        self._warn()
        loop.call_every(_LOOK_MS, self._look)
        loop.call_every(_WARN_MS, self._warn)

    @property
    def to_members(self) -> Context | None:
        """The context to connect to nodes with."""
        return self.certificates.to_members if self.certificates is not None else None

    @property
    def for_clients(self) -> Context | None:
        """The context to accept clients with."""
        return self.certificates.for_clients if self.certificates is not None else None

    def accept_clients(self) -> Handshakes | None:
        """For a listener."""
        return self._handshakes(self.for_clients)

    def accept_members(self) -> Handshakes | None:
        """For a listener."""
        return self._handshakes(self.certificates.for_members if self.certificates is not None else None)

    def metrics(self) -> Iterator[Metric]:
        """What was refused, and how long the certificate is good for."""
        if self.certificates is not None:
            until_s = self.certificates.loaded.until_s
            yield GaugeMetricFamily(
                "fortdb_certificate_expiry_seconds", "When the certificate ends, Unix time", value=until_s
            )
            yield CounterMetricFamily(
                "fortdb_tls_refused",
                "Connections on which TLS was not set up",
                value=self._refused_handshakes,
            )
        if self.gate is not None:
            yield CounterMetricFamily(
                "fortdb_logins_failed", "Logins refused", value=self.gate.failed_logins_total
            )
            yield CounterMetricFamily(
                "fortdb_commands_refused",
                "Commands that the user may not send",
                value=self.gate.refused_total,
            )

    def reload(self) -> None:
        """Take all files in, changed or not; on the loop's thread."""
        self._attempt("audit_file", self._audit.reopen)
        self._watch.has_changed()
        if self.certificates is not None:
            self.certificates.have_changed()
            self._attempt("certificates", self.certificates.reload)
        if self.gate is not None:
            self._attempt("users", self._take_users)

    def close(self) -> None:
        """Write nothing more."""
        if self.gate is not None:
            self.gate.close()
        self._audit.close()

    def _handshakes(self, context: Context | None) -> Handshakes | None:
        if context is None:
            return None
        return Handshakes(self._loop, context, self._handshake_refused)

    def _handshake_refused(self, address: str, reason: str) -> None:
        self._refused_handshakes += 1
        self._audit.refusal("audit_tls_refused", address=address, reason=reason)

    def _warn(self) -> None:
        """An expired certificate keeps all new connections out, so it is told before."""
        if self.certificates is not None:
            days = (self.certificates.loaded.until_s - wall_ms() // 1000) // 86_400
            if days < _WARN_DAYS:
                log.warning(
                    "certificate_expires", days_left=days, names=sorted(self.certificates.loaded.names)
                )

    def _look(self) -> None:
        if self.certificates is not None and self.certificates.have_changed():
            self._attempt("certificates", self.certificates.reload)
        if self.gate is not None and self._watch.has_changed():
            self._attempt("users", self._take_users)

    def _take_users(self) -> None:
        users = load_users(self._users_path)
        assert self.gate is not None
        self.gate.see(users)

    def _attempt(self, what: str, take_in: Callable[[], None]) -> None:
        try:
            take_in()
        except ConfigError as error:
            log.error("not_reloaded", what=what, reason=str(error))
            self._audit.event("audit_not_reloaded", what=what, reason=str(error))
            return
        if what == "audit_file":
            return  # what would be told stands at its beginning
        details: dict[str, object] = {}
        if what == "certificates" and self.certificates is not None:
            loaded = self.certificates.loaded
            details = {"fingerprint": loaded.fingerprint, "not_after": loaded.not_after}
        self._audit.event("audit_reloaded", what=what, **details)

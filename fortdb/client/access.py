"""How a client comes in: as which user, and whether over TLS.

With TLS the router's certificate must be signed by `ca` (by default by one of those that the system trusts) and
name the host that was asked for; there is no way to leave that out.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from fortdb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """Without a user and a password nobody logs in; a password alone is the user `default`'s."""

    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    """PEM file of the authority that signed the router's certificate."""
    server_name: str = ""
    """The name to find in the certificate, if it is not the host that is connected to."""

    @property
    def login(self) -> list[bytes] | None:
        """The command to log in with."""
        if not self.user and not self.password:
            return None
        words = ["AUTH", self.user, self.password] if self.user else ["AUTH", self.password]
        return [word.encode() for word in words]

    def context(self) -> ssl.SSLContext | None:
        """For new connections; None without TLS. Raises `ConfigError` for a file that is no certificate."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:
            raise ConfigError(
                f"{self.ca} cannot be used as the authority: {error.strerror or error}"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


OPEN = Access()
"""Nobody logs in, and in plain text."""

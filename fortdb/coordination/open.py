"""From an address to a store: the one place that knows both kinds."""

from __future__ import annotations

from pathlib import Path

from fortdb.coordination.etcd import EtcdStore
from fortdb.coordination.sqlite import SqliteStore
from fortdb.coordination.store import Store
from fortdb.errors import ConfigError

_SQLITE = "sqlite:"


def open_store(
    address: str,
    request_ms_max: int,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> Store:
    """The store at `address`: "sqlite:PATH", or endpoints of etcd with commas between them,
    "http://10.0.1.5:2379,http://10.0.2.5:2379". `ca`, `cert`, `key`: PEM files for TLS to etcd.

    Raises `ConfigError` for an address that is neither, `StoreUnavailable` for a file out of use.
    """
    if address.startswith(_SQLITE) and len(address) > len(_SQLITE):
        return SqliteStore(Path(address[len(_SQLITE) :]), request_ms_max)
    if address.startswith(("http://", "https://")):
        endpoints = [endpoint.strip() for endpoint in address.split(",")]
        return EtcdStore(endpoints, request_ms_max, ca, cert, key)
    raise ConfigError(
        f"{address!r} is no coordination store; write sqlite:PATH or http://HOST:PORT,http://HOST:PORT of etcd"
    )

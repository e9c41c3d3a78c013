"""What a server says of itself in Redis' words, truthfully: `INFO` and `CONFIG GET`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fortdb import __version__
from fortdb.limits import VALUE_BYTES_MAX
from fortdb.net.front import Front

REDIS_VERSION = "7.0.15"  # whose commands and replies are meant; clients switch features by it

Sections = dict[str, Mapping[str, object]]


def server_information(front: Front, role: str, started_ms: int) -> Sections:
    """The sections of `INFO` that every process has."""
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "fortdb_version": __version__,
            "fortdb_role": role,
            "process_id": os.getpid(),
            "tcp_port": front.listener.port,
            "uptime_in_seconds": (front.loop.now_ms - started_ms) // 1000,
        },
        "Clients": {"connected_clients": len(front.connections)},
        "Stats": {
            "total_connections_received": front.connections_total,
            "total_commands_processed": front.commands_total + sum(front.plain_counts),
        },
    }


def redis_settings(front: Front) -> dict[str, str]:
    """What `CONFIG GET` shows."""
    return {
        "appendfsync": "always",
        "appendonly": "yes",
        "databases": "1",
        "maxclients": str(front.connections_max),
        "maxmemory": "0",
        "port": str(front.listener.port),
        "proto-max-bulk-len": str(VALUE_BYTES_MAX),
        "save": "",
        "timeout": str(front.idle_ms_max // 1000),
    }

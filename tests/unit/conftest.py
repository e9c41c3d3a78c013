"""A Redis server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.client_servers import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running

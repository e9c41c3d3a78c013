"""Rings of real processes, on both coordination stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fortdb.local.ring import LocalRing
from tests.support.rings import running_ring


@pytest.fixture(scope="module", params=["sqlite", "etcd"])
def ring(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRing]:
    """A healthy ring, one for all tests of a module that do not break it."""
    etcd: tuple[str, ...] = ()
    if request.param == "etcd":
        etcd = tuple(request.getfixturevalue("etcd_cluster").endpoints)
    with running_ring(tmp_path_factory.mktemp("ring"), etcd=etcd) as made:
        yield made

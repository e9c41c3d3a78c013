"""A real etcd of three members, started once for all tests that need one, and how examples are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from fortdb.local.etcd import MISSING, EtcdCluster, etcd_is_installed

# The same examples on every run of a commit, so that a failure is the change's; `make explore` draws others.
settings.register_profile("steady", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    if not etcd_is_installed():
        pytest.skip(MISSING)
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def etcd(etcd_cluster: EtcdCluster) -> Iterator[EtcdCluster]:
    """The cluster for a test that breaks it; whole again afterwards."""
    yield etcd_cluster
    etcd_cluster.restore()

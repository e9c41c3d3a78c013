"""A real etcd of three members, started once for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fortdb.local.etcd import MISSING, EtcdCluster, etcd_is_installed


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

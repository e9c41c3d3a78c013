"""etcd comes back from one member's data with everything that it had answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from fortdb.coordination.etcd import EtcdStore
from fortdb.errors import FortError
from fortdb.local.etcd import MISSING, EtcdCluster, etcd_is_installed
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos


def revision_of_kept(store: EtcdStore) -> int | None:
    try:
        found = store.get("/kept")
    except FortError:
        return None
    return None if found is None else found.revision


def test_etcd_is_restored_from_one_member(tmp_path: Path) -> None:
    if not etcd_is_installed():
        pytest.skip(MISSING)
    with EtcdCluster(tmp_path, election_ms=1_000) as etcd:
        store = EtcdStore(etcd.endpoints)
        before = store.create("/kept", b"x")
        etcd.restore_from_one()
        eventually("etcd has what it had, where it had it", lambda: revision_of_kept(store) == before)
        etcd.kill(etcd.leader())
        eventually("the others go on", lambda: revision_of_kept(store) == before)
        store.close()

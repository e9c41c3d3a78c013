"""One address for a ring: the Elastic IP follows the active router.

Of the routers that share an Elastic IP one is *active*: it holds a key in the coordination store on a
lease of its own. The others stand by. When the active one dies its lease ends, a standby takes the
key, and moves the address to itself by `AssociateAddress`. The key decides who may move it; AWS's own
record decides where it is, so the active router looks at that now and then and puts it right.

A router is active only while it could serve; one that drains gives the key back before it closes its
connections. Two routers that both believe to be active, for less than a lease, do no harm: the
address is at one of them, and either serves. So a lease suffices, where for data it would not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from fortdb.coordination.store import Store
from fortdb.errors import ConfigError, FortError, LeaseLost, StoreConflict

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 3
CHECK_EVERY_RENEWALS = 10  # how often AWS is asked where the address is; its calls are rationed


class ElasticIp:
    """One Elastic IP, as AWS has it. Methods block, and raise botocore's errors."""

    def __init__(self, allocation_id: str, region: str) -> None:
        """Raises `ConfigError` without boto3. Credentials come from the instance's role, say."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise ConfigError("an Elastic IP needs boto3: pip install 'fortdb[aws]'") from None
        patient = Config(
            connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 3, "mode": "standard"}
        )
        self._ec2: Any = boto3.client("ec2", region_name=region or None, config=patient)
        self._allocation_id = allocation_id

    def holder(self) -> str | None:
        """The instance that the address leads to."""
        return self._describe(AllocationIds=[self._allocation_id])[0].get("InstanceId") or None

    def take(self, instance_id: str) -> None:
        """Lead the address to an instance, also one that has another address: that one is let go first,
        because AWS refuses a second one for the same private address."""
        held = self._describe(Filters=[{"Name": "instance-id", "Values": [instance_id]}])
        for address in held:
            if address["AllocationId"] != self._allocation_id:
                self._ec2.disassociate_address(AssociationId=address["AssociationId"])
        self._ec2.associate_address(
            AllocationId=self._allocation_id, InstanceId=instance_id, AllowReassociation=True
        )

    def _describe(self, **which: Any) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self._ec2.describe_addresses(**which)["Addresses"]
        return found


class Keeper:
    """Keeps the address at the active router. `may_serve` says whether this one could be it."""

    def __init__(
        self,
        store: Store,
        key: str,
        name: str,
        address: ElasticIp,
        instance_id: str,
        lease_ttl_ms: int,
        may_serve: Callable[[], bool],
    ) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._address = address
        self._instance_id = instance_id
        self._lease_ttl_ms = lease_ttl_ms
        self._may_serve = may_serve
        self._stopping = threading.Event()
        self._lease: int | None = None
        self._renewals = 0
        self.is_active = False
        self._thread = threading.Thread(target=self._run, name="elastic-ip", daemon=True)

    def start(self) -> None:
        """Begin to stand by."""
        self._thread.start()

    def close(self) -> None:
        """Give the address up for another router; returns when the store knows."""
        self._stopping.set()
        self._thread.join(self._lease_ttl_ms / 1000)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except FortError as error:
                self._stand_by(str(error))
            except Exception as error:  # noqa: BLE001  botocore has a hundred of them; the next step tries again
                log.warning("elastic_ip_failed", reason=str(error))
            self._stopping.wait(self._lease_ttl_ms / 1000 / RENEWALS_PER_LEASE)
        self._release()

    def _step(self) -> None:
        if not self._may_serve():
            self._release()
            return
        if self._lease is None:
            self._lease = self._store.grant(self._lease_ttl_ms)
        else:
            self._store.keepalive(self._lease)
        if not self.is_active:
            self._try_to_become_active(self._lease)
        elif self._renewals % CHECK_EVERY_RENEWALS == 0:
            self._put_right()
        self._renewals += 1

    def _try_to_become_active(self, lease: int) -> None:
        try:
            self._store.create(self._key, self._name.encode(), lease)
        except StoreConflict:
            return  # another one is; our lease costs nothing
        self.is_active = True
        self._renewals = 0
        log.info("active", router=self._name)
        self._put_right()

    def _put_right(self) -> None:
        holder = self._address.holder()
        if holder != self._instance_id:
            self._address.take(self._instance_id)
            log.info("elastic_ip_moved", to=self._instance_id, was=holder or "nowhere")

    def _stand_by(self, reason: str) -> None:
        """The lease is lost, or nobody knows: whoever is active, it is not this one."""
        if self.is_active:
            log.warning("standing_by", reason=reason)
        self.is_active = False
        self._lease = None

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        was_active, self.is_active = self.is_active, False
        if lease is None:
            return
        try:
            self._store.revoke(lease)
        except (LeaseLost, FortError) as error:
            log.warning("release_failed", reason=str(error))
        if was_active:
            log.info("released", router=self._name)

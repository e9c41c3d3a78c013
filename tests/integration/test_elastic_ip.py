"""The Elastic IP follows the active router: real routers, and a simulated AWS that answers real boto3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fortdb.local.etcd import EtcdCluster
from fortdb.local.ports import free_ports
from fortdb.local.ring import LocalRing, Process
from tests.support.rings import running_ring
from tests.support.waiting import eventually

REGION = "eu-central-1"


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An EC2 client of a simulated AWS; processes started meanwhile find it by their environment."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install -e '.[deploy]'")
    pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[deploy]'")
    port = free_ports(1)[0]
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
    try:
        ec2 = boto3.client("ec2", region_name=REGION)
        eventually("the simulated AWS answers", lambda: _answers(ec2), within_s=60)
        yield ec2
    finally:
        server.terminate()
        server.wait()


def _answers(ec2: Any) -> bool:
    from botocore.exceptions import BotoCoreError

    try:
        return ec2.describe_addresses() is not None
    except BotoCoreError:
        return False


def give_elastic_ip(process: Process, allocation: str, instance: str) -> None:
    config = process.config_path.read_text()
    process.stop()
    process.config_path.write_text(
        f'{config}\n[elastic_ip]\nallocation_id = "{allocation}"\ninstance_id = "{instance}"\n'
        f'region = "{REGION}"\nlease_ttl_ms = 2000\n'
    )
    process.start()


def test_the_address_follows_the_active_router(tmp_path: Path, aws: Any, etcd_cluster: EtcdCluster) -> None:
    image = aws.describe_images()["Images"][0]["ImageId"]
    made = aws.run_instances(ImageId=image, MinCount=2, MaxCount=2, InstanceType="t3.micro")
    instances = [instance["InstanceId"] for instance in made["Instances"]]
    address = aws.allocate_address(Domain="vpc")
    other = aws.allocate_address(Domain="vpc")  # the standby's machine has an address of its own
    aws.associate_address(AllocationId=other["AllocationId"], InstanceId=instances[1])
    aws.create_tags(
        Resources=[address["AllocationId"]], Tags=[{"Key": "fortdb:cluster", "Value": "rehearsal"}]
    )

    def holder() -> str:
        found = aws.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"]
        return str(found[0].get("InstanceId", ""))

    with running_ring(tmp_path, etcd=tuple(etcd_cluster.endpoints), nodes=1, routers=2) as ring:
        first, second = ring.process("router-1"), ring.process("router-2")
        give_elastic_ip(first, address["AllocationId"], instances[0])
        eventually("the first router has the address", lambda: holder() == instances[0], within_s=30)
        give_elastic_ip(second, address["AllocationId"], instances[1])
        eventually("the second stands by", lambda: _serves(ring, 1), within_s=30)
        assert holder() == instances[0]

        first.kill()
        eventually("the standby has taken it", lambda: holder() == instances[1], within_s=30)
        first.start()
        eventually("the first is back", lambda: _serves(ring, 0), within_s=30)
        assert holder() == instances[1], "who comes back stands by"

        second.stop()  # a planned stop gives it up at once
        eventually("the first has it again", lambda: holder() == instances[0], within_s=30)

        done = subprocess.run(
            [sys.executable, "-m", "fortdb", "endpoint", "--aws", "--cluster", "rehearsal"],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
            timeout=60,
        )
        assert done.stdout.strip() == f"fortdb://{address['PublicIp']}:5000"


def _serves(ring: LocalRing, router: int) -> bool:
    from fortdb.errors import FortError

    try:
        with ring.client(router) as client:
            return client.ping() >= 0
    except FortError:
        return False

"""The module applied for real: real Terraform and AWS provider, a simulated AWS, resources seen by boto3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fortdb.local.ports import free_ports
from rehearsal.simulated_aws import images
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
REGION = "eu-central-1"
THREE = {f"node-0{number}": {"zone_index": number - 1, "etcd": True} for number in (1, 2, 3)}
FIVE = {**THREE, "node-04": {"zone_index": 0}, "node-05": {"zone_index": 1}}

pytestmark = pytest.mark.terraform


class Module:
    """A copy of terraform/, with a state of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def run(self, *words: str, ok: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            ["terraform", *words],
            cwd=self._directory,
            env=dict(self._environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode in ok, (
            f"terraform {' '.join(words)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout

    def variables(self, **values: object) -> None:
        (self._directory / "test.auto.tfvars.json").write_text(json.dumps(values))

    def plan(self) -> list[dict[str, Any]]:
        """What would change, as (action, address)."""
        self.run("plan", "-input=false", "-out=plan.tfplan")
        document = json.loads(self.run("show", "-json", "plan.tfplan"))
        return [
            change
            for change in document["resource_changes"]
            if change["mode"] == "managed" and change["change"]["actions"] != ["no-op"]
        ]

    def guard(self) -> subprocess.CompletedProcess[str]:
        """What the guard says of the last plan."""
        shown = self.run("show", "-json", "plan.tfplan")
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / "destroy_guard.py")],
            input=shown,
            capture_output=True,
            text=True,
            check=False,
        )

    def apply(self) -> dict[str, Any]:
        """Apply, and return the outputs."""
        self.run("apply", "-input=false", "-auto-approve")
        return {name: output["value"] for name, output in json.loads(self.run("output", "-json")).items()}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a simulated AWS stands for AWS."""
    pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[deploy]'")
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    directory = tmp_path_factory.mktemp("aws")
    (directory / "images.json").write_text(json.dumps(images()))
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "rehearsal.moto_server", "-H", "127.0.0.1", "-p", str(port)],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
                "MOTO_AMIS_PATH": str(directory / "images.json"),
            },
        )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    made = {
        **inherited,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if plugins := os.environ.get("TERRAFORM_PLUGIN_DIR"):
        made["TF_CLI_ARGS_init"] = f"-plugin-dir={plugins}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=5):
                return True
        except OSError:
            return False

    try:
        eventually("the simulated AWS answers", answers, within_s=60)
        yield made
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def module(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Module:
    directory = tmp_path_factory.mktemp("module") / "terraform"
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfvars.json")
    shutil.copytree(REPOSITORY / "terraform", directory, ignore=ignored)
    shutil.copy(directory / "destroy_override.tf.example", directory / "destroy_override.tf")
    made = Module(directory, environment)
    made.run("init", "-input=false", "-lockfile=readonly")
    return made


def client(environment: Mapping[str, str], service: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def configure(module: Module, nodes: Mapping[str, object]) -> None:
    module.variables(
        region=REGION,
        allowed_client_cidrs=["203.0.113.0/24"],
        admin_cidrs=["198.51.100.7/32"],
        ssh_public_key=public_key(),
        nodes=nodes,
    )


def public_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_from_nothing_to_five_nodes_and_back(module: Module, environment: dict[str, str]) -> None:
    """One story, because each step stands on the one before."""
    configure(module, THREE)
    outputs = module.apply()
    assert module.plan() == [], "a second plan changes nothing"
    assert {name: node["private_ip"] for name, node in outputs["nodes"].items()} == {
        "node-01": "10.20.0.11",
        "node-02": "10.20.1.12",
        "node-03": "10.20.2.13",
    }
    check_instances(environment, outputs)
    check_doors(environment)
    check_bucket(environment, outputs["backup_bucket"])

    configure(module, FIVE)
    grown = module.plan()
    assert {tuple(change["change"]["actions"]) for change in grown} == {("create",)}, "nobody else is touched"
    assert module.guard().returncode == 0
    five = module.apply()
    assert len(five["nodes"]) == 5
    assert {name: five["nodes"][name] for name in outputs["nodes"]} == outputs["nodes"]

    configure(module, THREE)
    shrunk = module.plan()
    assert {tuple(change["change"]["actions"]) for change in shrunk} == {("delete",)}
    refused = module.guard()
    assert refused.returncode == 2
    assert "2 nodes would be removed" in refused.stderr
    assert 'aws_ebs_volume.data["node-04"]' in refused.stderr
    assert module.apply()["nodes"] == outputs["nodes"]

    module.run("destroy", "-input=false", "-auto-approve")
    check_nothing_is_left(environment)


def check_instances(environment: Mapping[str, str], outputs: Mapping[str, Any]) -> None:
    ec2 = client(environment, "ec2")
    found = {
        next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "Name"): instance
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    }
    assert found.keys() == {"node-01", "node-02", "node-03", "router-01", "router-02"}
    zones = {found[name]["Placement"]["AvailabilityZone"] for name in outputs["nodes"]}
    assert len(zones) == 3
    for instance in found.values():
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
    (address,) = ec2.describe_addresses()["Addresses"]
    assert address["PublicIp"] == outputs["elastic_ip"]
    assert address["InstanceId"] == found["router-01"]["InstanceId"]
    for name, node in outputs["nodes"].items():
        (volume,) = ec2.describe_volumes(VolumeIds=[node["volume_id"]])["Volumes"]
        assert volume["Encrypted"]
        assert volume["VolumeType"] == "gp3"
        assert volume["Attachments"][0]["InstanceId"] == found[name]["InstanceId"]
        assert volume["AvailabilityZone"] == found[name]["Placement"]["AvailabilityZone"]


def check_doors(environment: Mapping[str, str]) -> None:
    """By rule: what is open to addresses outside the VPC."""
    ec2 = client(environment, "ec2")
    rules = ec2.describe_security_group_rules()["SecurityGroupRules"]
    doors = {
        (rule["CidrIpv4"], rule["FromPort"], rule["ToPort"])
        for rule in rules
        if not rule["IsEgress"] and rule.get("CidrIpv4") and rule["CidrIpv4"] != "10.20.0.0/16"
    }
    assert doors == {("203.0.113.0/24", 5000, 5000), ("198.51.100.7/32", 22, 22)}


def check_bucket(environment: Mapping[str, str], bucket: str) -> None:
    s3 = client(environment, "s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]


def check_nothing_is_left(environment: Mapping[str, str]) -> None:
    ec2 = client(environment, "ec2")
    alive = [
        instance["InstanceId"]
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
        if instance["State"]["Name"] != "terminated"
    ]
    assert alive == []
    assert ec2.describe_addresses()["Addresses"] == []
    assert ec2.describe_volumes()["Volumes"] == []
    assert [vpc for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]] == []
    assert client(environment, "s3").list_buckets()["Buckets"] == []

"""AWS, simulated: moto's server, and the environment in which tools take it for the real one.

Run as a module it is the server, and AWS's network with it: a thread looks where each Elastic IP is associated
and lets the gateway lead it there. It only follows; who moves an address is the routers' business.
What moto gets differently from AWS is put right here and in `moto_server`, and nowhere else: it knows no Debian
image, and its public addresses lie where nothing can be reached.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from rehearsal.network import Network
from rehearsal.tools import control_group, left_running, wait_until

REGION = "eu-central-1"
ACCOUNT = "123456789012"  # moto's own
READY_S_MAX = 60.0
LOOK_EVERY_S = 0.1
_DEBIAN = {
    "owner_id": "136693071363",
    "name": "debian-12-{}-20990101-0000",
    "creation_date": "2099-01-01T00:00:00.000Z",
    "description": "Debian 12",
    "state": "available",
    "public": True,
    "image_location": "debian/debian-12",
    "image_type": "machine",
    "root_device_type": "ebs",
    "root_device_name": "/dev/xvda",
    "virtualization_type": "hvm",
    "hypervisor": "xen",
}


def images() -> list[dict[str, object]]:
    """The machine images that this AWS has, as moto wants them."""
    return [
        {**_DEBIAN, "ami_id": ami, "name": str(_DEBIAN["name"]).format(word), "architecture": architecture}
        for ami, word, architecture in (
            ("ami-0fd00000000000001", "amd64", "x86_64"),
            ("ami-0fd00000000000002", "arm64", "arm64"),
        )
    ]


def variables(url: str) -> dict[str, str]:
    """What takes a tool to the simulated AWS and nowhere else: no file of the user's is read for keys."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "rehearsal",
        "AWS_SECRET_ACCESS_KEY": "rehearsal",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def environment(url: str, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For tools on this machine: what they inherit, without anything that leads to a real account."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
    if not Path(kept.get("TF_CLI_CONFIG_FILE", "/")).exists():
        del kept["TF_CLI_CONFIG_FILE"]
    if plugins := kept.get("TERRAFORM_PLUGIN_DIR"):
        kept["TF_CLI_ARGS_init"] = f"-plugin-dir={plugins}"
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {**kept, **nowhere, **variables(url), "NO_PROXY": "*", "no_proxy": "*"}


def start(network: Network, directory: Path) -> str:
    """Start it on the operator's address in the VPC, where hosts reach it too. Returns its URL."""
    with socket.socket() as free:
        free.bind((network.operator, 0))
        port = free.getsockname()[1]
    url = f"http://{network.operator}:{port}"
    (directory / "images.json").write_text(json.dumps(images()))
    settings = {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "MOTO_AMIS_PATH": str(directory / "images.json")}
    assignments = [f"{name}={value}" for name, value in settings.items()]
    server = [sys.executable, "-m", "rehearsal.simulated_aws", network.vpc_cidr, str(port)]
    process = left_running(
        ["env", f"PYTHONPATH={Path(__file__).parents[1]}", *assignments, *server],
        directory / "simulated_aws.log",
        control_group(network.tag, "aws"),
    )

    def answers() -> bool:
        if process.poll() is not None:
            return True
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{url}/moto-api/", timeout=5
            ):
                return True
        except OSError:
            return False

    wait_until(answers, f"the simulated AWS: {directory}/simulated_aws.log", READY_S_MAX)
    wait_until(lambda: process.poll() is None, f"the simulated AWS: {directory}/simulated_aws.log", 0)
    return url


def ec2(url: str) -> Any:
    """A boto3 client of it."""
    import boto3

    keys = {"aws_access_key_id": "rehearsal", "aws_secret_access_key": "rehearsal"}
    return boto3.client("ec2", endpoint_url=url, region_name=REGION, **keys)


def leads(addresses: list[dict[str, Any]]) -> dict[str, str]:
    """From the answer of DescribeAddresses: public address -> the private one that it leads to."""
    return {a["PublicIp"]: a["PrivateIpAddress"] for a in addresses if a.get("PrivateIpAddress")}


def _follow(network: Network) -> None:
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[ACCOUNT][REGION]
    led: dict[str, str] = {}
    while True:
        found = {
            a.public_ip: a.private_ip_address for a in backend.describe_addresses() if a.private_ip_address
        }
        if found != led:
            network.lead(found)
            led = found
            print("elastic ips lead to", led, flush=True)  # noqa: T201  its log
        threading.Event().wait(LOOK_EVERY_S)


def _serve(vpc_cidr: str, port: str) -> None:
    from moto.ec2.models import elastic_ip_addresses
    from moto.server import main

    import rehearsal.moto_server  # noqa: F401  mends on import

    network = Network(vpc_cidr)
    handed_out = count()
    vars(elastic_ip_addresses)["random_ip"] = lambda: network.elastic_ip(next(handed_out))
    threading.Thread(target=_follow, args=[network], daemon=True).start()
    main(["-H", network.operator, "-p", port])


if __name__ == "__main__":
    _serve(*sys.argv[1:])

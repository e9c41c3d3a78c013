"""AWS, simulated: moto's server, and the environment in which tools take it for the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from rehearsal.tools import Failed

PORT = 5566  # not 5000, which is the routers'
REGION = "eu-central-1"
READY_S_MAX = 60.0


class SimulatedAws:
    """A server that answers AWS' API on one address of this machine."""

    def __init__(self, address: str, log: Path) -> None:
        self.url = f"http://{address}:{PORT}"
        self._address = address
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of this process, and of AWS."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        kept.pop("TF_CLI_CONFIG_FILE", None)  # may name a file that does not exist
        return {**kept, **self.variables}

    @property
    def variables(self) -> dict[str, str]:
        """What a tool needs to know to take this for AWS; also on the hosts."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": "rehearsal",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, and wait until it answers. Raises `Failed`."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rehearsal.moto_server", "-H", self._address, "-p", str(PORT)],
                stdout=log,
                stderr=log,
                env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
                start_new_session=True,
            )
        deadline_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise Failed(f"the simulated AWS does not answer at {self.url}; see {self._log}")

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End it; what it knew is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def ec2(environment: Mapping[str, str]) -> object:
    """A boto3 client for it."""
    import boto3

    return boto3.client(
        "ec2",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )

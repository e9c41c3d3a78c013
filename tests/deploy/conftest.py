"""`pytest tests/deploy --ansible-inventory=inventory/aws_ec2.yml`: is what was deployed what was asked for?

The options are testinfra's own: `--hosts` names hosts or patterns of the inventory (all of them without
it), `--ssh-config` and `--ssh-identity-file` say how to get in; it is always by ssh. A test that asks
for `machine`, `node`, `router` or `etcd_member` runs once for each. When one fails, the
journals of that host's units are printed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from tests.deploy.deployment import FORTDB, Access, Deployment, Machine

_ROLES = {"node": "fortdb_nodes", "router": "fortdb_routers", "etcd_member": "etcd"}
_JOURNAL_LINES = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ssh-user", default=os.environ.get("FORTDB_SSH_USER", ""), help="who logs in on the hosts"
    )
    parser.addoption("--endpoint", default="", help="where clients connect: HOST:PORT, say the Elastic IP")


def _deployment(config: pytest.Config) -> Deployment | None:
    inventory = config.getoption("--ansible-inventory")
    if not inventory:
        return None
    if not hasattr(config, "_fortdb_deployment"):
        if config.getoption("--connection") not in (None, "ssh"):
            raise pytest.UsageError("--connection must be ssh: testinfra's others do not verify host keys")
        hosts = config.getoption("--hosts")
        access = Access(
            user=config.getoption("--ssh-user"),
            identity_file=config.getoption("--ssh-identity-file") or "",
            ssh_config=config.getoption("--ssh-config") or "",
        )
        config.add_cleanup(access.close)
        config._fortdb_deployment = Deployment(  # type: ignore[attr-defined]
            inventory, hosts.split(",") if hosts else ["*"], access
        )
    found: Deployment = config._fortdb_deployment  # type: ignore[attr-defined]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    deployment = _deployment(metafunc.config)
    for name, group in {**_ROLES, "machine": ""}.items():
        if name in metafunc.fixturenames:
            machines = [] if deployment is None else deployment.of(group) if group else deployment.machines
            metafunc.parametrize(name, machines, ids=[machine.name for machine in machines], scope="session")


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest) -> Deployment:
    found = _deployment(request.config)
    if found is None:
        pytest.skip("say what was deployed: --ansible-inventory=inventory/aws_ec2.yml")
    return found


@pytest.fixture(scope="session")
def ring(deployment: Deployment) -> Any:
    """The ring as the first router tells it."""
    routers = deployment.of("fortdb_routers")
    assert routers, "no router among the hosts"
    return routers[0].run_json(f"{FORTDB} ring --json")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    arguments = getattr(item, "funcargs", {})
    machine = next((value for value in arguments.values() if isinstance(value, Machine)), None)
    if report.failed and machine is not None:
        for unit in machine.units:
            report.sections.append((f"{machine.name}: journal of {unit}", _journal(machine, unit)))


def _journal(machine: Machine, unit: str) -> str:
    try:
        return str(machine.host.run(f"journalctl --no-pager --unit {unit} --lines {_JOURNAL_LINES}").stdout)
    except RuntimeError as error:  # testinfra's, for a host that cannot be reached
        return f"cannot be had: {error}"

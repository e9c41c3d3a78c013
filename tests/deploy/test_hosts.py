"""Each host by itself: users, permissions, mounts, units and their hardening, ports, certificates, clocks."""

from __future__ import annotations

import time

import pytest

from tests.deploy.deployment import FORTDB, Deployment, Machine

CERTIFICATE_DAYS_MIN = 14
CLOCK_S_MAX = 1.0
EXPOSURE_MAX = 2.0  # of `systemd-analyze security`, 0 to 10

HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "",
    "User": "fortdb",
}


def test_the_user_owns_its_files_and_nobody_else_reads_keys(machine: Machine) -> None:
    host = machine.host
    user = host.user("fortdb")
    assert user.exists
    assert user.shell.endswith(("nologin", "false"))
    key = host.file("/etc/fortdb/tls/host.key")
    assert key.exists
    assert key.mode & 0o077 in (0o000, 0o040), f"mode {key.mode:o}"
    assert key.group in ("fortdb", "root")
    configs = {"fortdb_nodes": "/etc/fortdb/node.toml", "fortdb_routers": "/etc/fortdb/router.toml"}
    for group, path in configs.items():
        if group in machine.groups:
            file = host.file(path)
            assert file.exists
            assert file.mode & 0o022 == 0, "writable by others"


def test_the_data_directory_is_the_nodes_own(node: Machine) -> None:
    data = node.host.file(f"/var/lib/fortdb/{node.name}")
    assert data.is_directory
    assert (data.user, data.mode & 0o077) == ("fortdb", 0)
    device = node.variables.get("base_data_device")
    mounted = node.host.mount_point("/var/lib/fortdb")
    if device:
        assert mounted.exists, "the data volume is not mounted"
    if mounted.exists:
        assert "rw" in mounted.options


def test_units_run_and_start_at_boot(machine: Machine) -> None:
    assert machine.units
    for unit in machine.units:
        shown = machine.show(unit)
        assert (shown["ActiveState"], shown["SubState"]) == ("active", "running"), unit
        assert shown["UnitFileState"] == "enabled", unit
        assert shown["Result"] == "success", unit


def test_our_units_are_supervised(machine: Machine) -> None:
    for unit in machine.units:
        if unit.startswith("fortdb"):
            shown = machine.show(unit)
            assert shown["Type"] == "notify"
            assert shown["Restart"] == "on-failure"
            assert shown["WatchdogUSec"] not in ("0", "infinity")


def test_hardening_as_systemd_reports_it(machine: Machine) -> None:
    for unit in machine.units:
        if not unit.startswith("fortdb"):
            continue
        shown = machine.show(unit)
        assert {name: shown.get(name, "") for name in HARDENING} == HARDENING
        done = machine.host.run(f"systemd-analyze security --no-pager {unit}")
        exposure = float(done.stdout.rsplit(":", 1)[1].split()[0])
        assert exposure <= EXPOSURE_MAX, f"{unit}: {exposure}"


def test_the_running_version_is_the_installed_one(machine: Machine) -> None:
    host = machine.host
    current = host.file("/opt/fortdb/current")
    assert current.is_symlink
    installed = host.run(f"{FORTDB} --version").stdout.split()[-1]
    assert current.linked_to.endswith(f"/releases/{installed}"), (current.linked_to, installed)
    for unit in machine.units:
        if unit.startswith("fortdb"):
            running = host.run(f"readlink /proc/{machine.show(unit)['MainPID']}/exe").stdout.strip()
            command = host.run(f"tr '\\0' ' ' < /proc/{machine.show(unit)['MainPID']}/cmdline").stdout
            assert "/opt/fortdb/" in command, command
            assert "(deleted)" not in running


def test_configurations_are_right(machine: Machine) -> None:
    for group, path in (("fortdb_nodes", "node.toml"), ("fortdb_routers", "router.toml")):
        if group in machine.groups:
            done = machine.host.run(f"{FORTDB} config check /etc/fortdb/{path}")
            assert done.rc == 0, done.stderr


@pytest.mark.parametrize("port", [5100, 5200, 5300])
def test_a_node_listens_inside(node: Machine, port: int) -> None:
    assert (
        node.host.socket(f"tcp://{port}").is_listening
        or node.host.socket(f"tcp://{node.address}:{port}").is_listening
    )


def test_a_router_listens_for_clients(router: Machine) -> None:
    assert (
        router.host.socket("tcp://0.0.0.0:5000").is_listening
        or router.host.socket(f"tcp://{router.address}:5000").is_listening
    )


def test_the_firewall_lets_in_what_it_should(deployment: Deployment, machine: Machine) -> None:
    """From each host to each other: peers and etcd within the ring, nothing that is not meant."""
    rules = machine.host.run("nft list ruleset").stdout
    assert "policy drop" in rules, "the firewall is not on"
    for other in deployment.machines:
        if other.name == machine.name:
            continue
        if "fortdb_nodes" in other.groups:
            assert _reaches(machine, other.address, 5200), f"{machine.name} cannot reach {other.name}:5200"
        assert not _reaches(machine, other.address, 9), f"{other.name} lets port 9 through"


def _reaches(machine: Machine, address: str, port: int) -> bool:
    connect = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
    return bool(machine.host.run(f'python3 -c "{connect}"').rc == 0)


def test_etcd_is_well_and_speaks_tls_only(etcd_member: Machine) -> None:
    tls = "--cacert /etc/fortdb/tls/ca.pem --cert /etc/fortdb/tls/host.pem --key /etc/fortdb/tls/host.key"
    command = f"ETCDCTL_API=3 etcdctl --endpoints https://{etcd_member.address}:2379 {tls} endpoint health"
    done = etcd_member.host.run(command)
    assert done.rc == 0, done.stdout + done.stderr
    plain = etcd_member.host.run(f"curl --silent --max-time 5 http://{etcd_member.address}:2379/health")
    assert plain.rc != 0, "etcd answers without TLS"


def test_certificates_are_valid_for_long_enough(machine: Machine) -> None:
    for name in ("ca.pem", "host.pem"):
        seconds = CERTIFICATE_DAYS_MIN * 86_400
        done = machine.host.run(f"openssl x509 -in /etc/fortdb/tls/{name} -noout -checkend {seconds}")
        assert done.rc == 0, (
            f"{name} ends within {CERTIFICATE_DAYS_MIN} days, or cannot be read: {done.stderr}"
        )
    done = machine.host.run("openssl verify -CAfile /etc/fortdb/tls/ca.pem /etc/fortdb/tls/host.pem")
    assert done.rc == 0, done.stderr
    text = machine.host.run("openssl x509 -in /etc/fortdb/tls/host.pem -noout -text").stdout
    assert machine.address in text, "the certificate is not for this host's address"


def test_clocks_agree(machine: Machine) -> None:
    before = time.time()
    theirs = float(machine.host.run("date +%s.%N").stdout)
    after = time.time()
    assert before - CLOCK_S_MAX <= theirs <= after + CLOCK_S_MAX

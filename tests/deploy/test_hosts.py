"""Each host by itself: users, permissions, mounts, units and their hardening, ports, certificates, clocks."""

from __future__ import annotations

import json
import re
import shlex
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deploy.deployment import FORTDB, NODE_PORT, ROUTER_PORT, TLS, Deployment, Machine

CERTIFICATE_DAYS_MIN = 14
PEER_PORT = 5200
NODE_STATUS_PORT = 5300
ROUTER_STATUS_PORT = 5301
CLOCK_S_MAX = 1.0
CLOSED_AFTER_S = 2.0  # without an answer
RING_PORTS = (2379, 2380, 5100, 5200, 5300, 5301)
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


def test_what_must_be_installed_is(machine: Machine) -> None:
    programs = ["nft", "systemctl", "journalctl"]
    if "etcd" in machine.groups:
        programs += ["etcd", "etcdctl"]
    assert [program for program in programs if not machine.host.exists(program)] == []
    if machine.groups & {"fortdb_nodes", "fortdb_routers"}:
        python = machine.host.run("/opt/fortdb/current/bin/python --version").stdout
        assert tuple(map(int, python.split()[1].split(".")[:2])) >= (3, 11), python


def test_the_user_owns_its_files_and_nobody_else_reads_keys(machine: Machine) -> None:
    host = machine.host
    user = host.user("fortdb")
    assert user.exists
    assert user.shell.endswith(("nologin", "false"))
    for path, owner in _keys(machine):
        key = host.file(path)
        assert key.contains("PRIVATE KEY"), f"{path} holds no key"
        assert (key.user, f"{key.mode:o}") == (owner, "400"), path
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
    for group, port in (("fortdb_nodes", NODE_PORT), ("fortdb_routers", ROUTER_PORT)):
        if group in machine.groups:
            answer = machine.ask(port, "INFO server")
            running = re.search(r"fortdb_version:(\S+)", answer)
            assert running is not None, answer
            assert running[1] == installed


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
    others = [other for other in deployment.machines if other.name != machine.name]
    peers = [(other.address, 5200) for other in others if "fortdb_nodes" in other.groups]
    closed = [(other.address, 9) for other in others]
    assert _reached(machine, peers + closed) == peers


def test_ring_ports_are_closed_to_others(deployment: Deployment, machine: Machine) -> None:
    """From where the checks run, which is no host of the ring."""
    here = _own_address(machine.address)
    if here in {member.address for member in deployment.everyone}:
        pytest.skip(f"these checks run on {here}, a host of the ring, to which its ports are open")
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda port: _answers(machine.address, port), RING_PORTS)
    assert [port for port, answered in zip(RING_PORTS, answers, strict=True) if answered] == []


def _own_address(other: str) -> str:
    """From which address we reach another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return str(probe.getsockname()[0])


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), CLOSED_AFTER_S).close()
    except OSError:
        return False
    return True


def _reached(machine: Machine, targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Which of them a host can connect to."""
    script = f"""
import socket
from concurrent.futures import ThreadPoolExecutor
def reached(target):
    try:
        socket.create_connection(target, {CLOSED_AFTER_S}).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor(32) as pool:
    print(*map(int, pool.map(reached, {targets})))
"""
    done = machine.host.run(f"python3 -c {shlex.quote(script)}")
    assert done.rc == 0, done.stderr
    return [target for target, answer in zip(targets, done.stdout.split(), strict=True) if answer == "1"]


def test_etcd_is_well_and_speaks_tls_only(etcd_member: Machine) -> None:
    files = "/etc/etcd/tls"
    tls = f"--cacert {files}/ca.pem --cert {files}/host.pem --key {files}/host.pem"
    command = f"ETCDCTL_API=3 etcdctl --endpoints https://{etcd_member.address}:2379 {tls} endpoint health"
    done = etcd_member.host.run(command)
    assert done.rc == 0, done.stdout + done.stderr
    plain = etcd_member.ask_in_plain_text(2379, "GET /health HTTP/1.0", "")
    assert '"health"' not in plain, "etcd answers without TLS"


def _keys(machine: Machine) -> list[tuple[str, str]]:
    """Files with a certificate and its key, and whose they are."""
    ours = [(f"{TLS}/host.pem", "fortdb")] if machine.groups & {"fortdb_nodes", "fortdb_routers"} else []
    return ours + ([("/etc/etcd/tls/host.pem", "etcd")] if "etcd" in machine.groups else [])


def test_certificates_are_valid_for_long_enough(machine: Machine) -> None:
    seconds = CERTIFICATE_DAYS_MIN * 86_400
    for path, _ in _keys(machine):
        ca = f"{path.rpartition('/')[0]}/ca.pem"
        for file in (path, ca):
            done = machine.host.run(f"openssl x509 -in {file} -noout -checkend {seconds}")
            assert done.rc == 0, (
                f"{file} ends within {CERTIFICATE_DAYS_MIN} days, or cannot be read: {done.stderr}"
            )
        done = machine.host.run(f"openssl verify -CAfile {ca} {path}")
        assert done.rc == 0, done.stderr


def test_certificates_are_for_the_right_names(machine: Machine) -> None:
    for path, _ in _keys(machine):
        text = machine.host.run(f"openssl x509 -in {path} -noout -ext subjectAltName").stdout
        names = {part.strip().replace("IP Address:", "IP:") for part in text.partition("\n")[2].split(",")}
        wanted = {f"DNS:{machine.name}", "DNS:localhost", "IP:127.0.0.1", f"IP:{machine.address}"}
        assert names >= wanted, f"{path} is for {names}"


def test_routers_are_known_by_the_address_of_clients(router: Machine, request: pytest.FixtureRequest) -> None:
    """Whichever of them holds the Elastic IP."""
    host = str(request.config.getoption("--endpoint")).partition(":")[0]
    if not host:
        pytest.skip("say where clients connect: --endpoint=HOST:PORT")
    kind = "ip" if re.fullmatch(r"[0-9.]+", host) else "host"
    done = router.host.run(f"openssl x509 -in {TLS}/host.pem -noout -check{kind} {host}")
    assert "does match" in done.stdout, done.stdout


def test_the_authorities_keys_are_not_here(machine: Machine) -> None:
    done = machine.host.run("find /etc/fortdb /etc/etcd -name 'ca.key*' -o -name '*.csr'")
    assert done.stdout.strip() == ""


def test_secrets_can_be_read_by_nobody_else(machine: Machine) -> None:
    if not (machine.is_protected and machine.groups & {"fortdb_nodes", "fortdb_routers"}):
        pytest.skip("there are no users here")
    for path, owner, mode in (
        ("/etc/fortdb/users.toml", "root:fortdb", "640"),
        ("/etc/fortdb/admin.password", "root:root", "400"),
    ):
        file = machine.host.file(path)
        assert (f"{file.user}:{file.group}", f"{file.mode:o}") == (owner, mode), path
    done = machine.host.run(f"{FORTDB} user check /etc/fortdb/users.toml")
    assert done.rc == 0, done.stderr
    assert "admin:" in done.stdout


def _served(machine: Machine) -> list[int]:
    """The ports of FortDB."""
    ports = [NODE_PORT, PEER_PORT, NODE_STATUS_PORT] if "fortdb_nodes" in machine.groups else []
    return ports + ([ROUTER_PORT, ROUTER_STATUS_PORT] if "fortdb_routers" in machine.groups else [])


def test_plain_text_is_refused_at_every_port(machine: Machine) -> None:
    if not machine.is_protected:
        pytest.skip("plain text is meant")
    for port in _served(machine):
        answer = machine.ask_in_plain_text(port, "PING", "GET /healthz HTTP/1.0", "")
        assert not re.search("PONG|NOAUTH|HTTP/1", answer), f"port {port} answers {answer!r}"


def test_nobody_comes_in_without_a_password(machine: Machine) -> None:
    if not machine.is_protected:
        pytest.skip("everybody may come in")
    for port in set(_served(machine)) & {NODE_PORT, ROUTER_PORT}:
        answer = machine.ask_as_nobody(port, "GET a", "RING")
        assert answer.count("NOAUTH") == 2, f"port {port} answers {answer!r}"
        assert "PONG" in machine.ask(port, "PING"), f"port {port} lets admin not in"


def test_peers_show_a_certificate(node: Machine) -> None:
    if not node.is_protected:
        pytest.skip("peers are not told apart")
    answer = node.ask_as_nobody(PEER_PORT, "PING").lower()
    assert "certificate required" in answer, f"a peer without a certificate is answered {answer!r}"


def test_logins_are_in_the_audit_log(machine: Machine) -> None:
    if not machine.is_protected:
        pytest.skip("nobody logs in")
    path = f"/var/log/fortdb/{machine.name}.audit.jsonl"
    for port in set(_served(machine)) & {NODE_PORT, ROUTER_PORT}:
        log = machine.host.file(path)
        assert log.exists
        assert (log.user, log.mode & 0o007) == ("fortdb", 0)
        before = log.size
        machine.ask(port, "PING")
        added = machine.host.run(f"tail --bytes=+{before + 1} {path}").stdout.splitlines()
        users = [event["user"] for event in map(json.loads, added) if event["event"] == "audit_login"]
        assert "admin" in users, f"the login at port {port} is not in {path}"


def test_clocks_agree(machine: Machine) -> None:
    before = time.time()
    theirs = float(machine.host.run("date +%s.%N").stdout)
    after = time.time()
    assert before - CLOCK_S_MAX <= theirs <= after + CLOCK_S_MAX

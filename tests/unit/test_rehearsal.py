"""The parts of the rehearsal that are values in, values out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rehearsal.breakages import BREAKAGES, failed_checks
from rehearsal.hosts import Access, host_from
from rehearsal.network import Network, gateway_rules
from rehearsal.phases import REPOSITORY, recap_of
from rehearsal.simulated_aws import environment, images, leads
from rehearsal.tools import RehearsalError, control_group_root, missing, require

NETWORK = Network("10.33.0.0/16")


def test_all_that_is_missing_is_told_at_once() -> None:
    problems = missing(found=lambda tool: None, is_root=False)
    text = "\n".join(problems)
    assert "root" in problems[0]
    assert "apt-get install --yes debootstrap iproute2 nftables" in text
    assert "terraform" in text
    with pytest.raises(RehearsalError, match="debootstrap"):
        require(problems)


def test_cgroup2_is_found_wherever_it_is_mounted() -> None:
    assert control_group_root("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n") is None
    mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert control_group_root(mounts) == Path("/sys/fs/cgroup/unified")


def test_a_network_has_the_addresses_of_its_number() -> None:
    assert NETWORK.gateway("10.33.2.13") == "10.33.2.1"
    assert NETWORK.operator == "10.33.255.2"
    assert NETWORK.clients_cidr == "198.18.33.0/24"
    assert [NETWORK.elastic_ip(index) for index in (0, 253)] == ["198.19.33.1", "198.19.33.254"]
    assert len(NETWORK.tag + "vpc") <= 15, "the kernel's bound on names of interfaces"


@pytest.mark.parametrize("cidr", ["192.168.0.0/16", "10.20.0.0/24", "10.20.1.0/16", "10.20"])
def test_a_network_that_is_none_is_refused(cidr: str) -> None:
    with pytest.raises(RehearsalError, match=r"10\.N\.0\.0/16"):
        Network(cidr)


def test_an_address_outside_the_network_is_refused() -> None:
    with pytest.raises(RehearsalError, match=r"10\.20\.0\.11 is not in 10\.33"):
        NETWORK.gateway("10.20.0.11")


def test_the_gateway_rewrites_both_ways_and_replaces_what_was() -> None:
    rules = gateway_rules({"198.19.33.1": "10.33.0.101"})
    assert rules.index("delete table ip gateway") < rules.index("chain inward")
    assert 'iifname "internet" ip daddr 198.19.33.1 ip daddr set 10.33.0.101' in rules
    assert 'oifname "internet" ip saddr 10.33.0.101 ip saddr set 198.19.33.1' in rules
    assert "set" not in gateway_rules({})


def test_hosts_of_the_command_line(tmp_path: Path) -> None:
    access = Access(tmp_path)
    host = host_from("node-01=10.33.0.11:zone-a", NETWORK, tmp_path, access)
    assert (host.name, host.address, host.zone, host.has_volume) == ("node-01", "10.33.0.11", "zone-a", True)
    assert not host_from("router-01=10.33.0.101", NETWORK, tmp_path, access).has_volume
    with pytest.raises(RehearsalError, match="NAME=ADDRESS:ZONE"):
        host_from("node-01", NETWORK, tmp_path, access)


def test_a_host_has_one_line_among_the_known_ones(tmp_path: Path) -> None:
    access = Access(tmp_path)
    access.known_hosts.touch()
    access.config.touch()
    for key in ("ssh-ed25519 old", "ssh-ed25519 new"):
        access.note("node-01", "10.33.0.11", key)
    assert access.known_hosts.read_text() == "node-01,10.33.0.11 ssh-ed25519 new\n"


def test_no_tool_gets_at_a_real_account() -> None:
    inherited = {"AWS_PROFILE": "production", "AWS_SESSION_TOKEN": "x", "HOME": "/root"}
    given = environment("http://10.33.255.2:4566", inherited)
    assert "AWS_PROFILE" not in given
    assert "AWS_SESSION_TOKEN" not in given
    assert given["AWS_ENDPOINT_URL"] == "http://10.33.255.2:4566"
    assert given["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"
    assert "TF_CLI_ARGS_init" not in given


def test_a_mirror_of_plugins_is_handed_to_terraform(tmp_path: Path) -> None:
    inherited = {"TERRAFORM_PLUGIN_DIR": "/mirror", "TF_CLI_CONFIG_FILE": str(tmp_path / "none")}
    given = environment("http://10.33.255.2:4566", inherited)
    assert given["TF_CLI_ARGS_init"] == "-plugin-dir=/mirror"
    assert "TF_CLI_CONFIG_FILE" not in given


def test_every_architecture_has_an_image() -> None:
    assert {image["architecture"] for image in images()} == {"x86_64", "arm64"}
    assert len({image["ami_id"] for image in images()}) == 2


def test_an_address_that_is_associated_with_nothing_leads_nowhere() -> None:
    answer = [{"PublicIp": "198.19.33.1", "PrivateIpAddress": "10.33.0.101"}, {"PublicIp": "198.19.33.2"}]
    assert leads(answer) == {"198.19.33.1": "10.33.0.101"}


def test_the_recap_of_a_play() -> None:
    output = "changed=7\nPLAY RECAP ****\nnode-01    : ok=97   changed=0    unreachable=0    failed=0   \n\n"
    assert recap_of(output) == {"node-01": {"ok": 97, "changed": 0, "unreachable": 0, "failed": 0}}
    assert recap_of("no such thing") == {}


def test_failed_checks_are_known_by_their_names() -> None:
    output = (
        "tests/deploy/test_a.py::test_x PASSED\nFAILED tests/deploy/test_a.py::test_y[node-01] - assert 1\n"
    )
    assert failed_checks(output) == {"test_y[node-01]": "tests/deploy/test_a.py::test_y[node-01]"}


def test_every_breakage_is_noticed_by_a_check_that_there_is() -> None:
    checks = "".join(path.read_text() for path in (REPOSITORY / "tests/deploy").glob("test_*.py"))
    for breakage in BREAKAGES:
        assert breakage.noticed_by
        for check in breakage.noticed_by:
            assert f"def {check.partition('[')[0]}(" in checks, check

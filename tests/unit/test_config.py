"""Configuration: everything has a name and bounds, and everything that is wrong is told at once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fortdb.cli.main import main
from fortdb.config import describe, load_node, load_router
from fortdb.errors import ConfigError
from fortdb.net.security import UNPROTECTED

NODE = 'name = "node-1"\ndata_dir = "/var/lib/fortdb"\n[coordinator]\nsqlite = "/tmp/c.sqlite"\n'
ROUTER = 'name = "router-1"\n[coordinator]\netcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fortdb.toml"


def problems(file: Path, text: str, environment: dict[str, str] | None = None) -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_node(file, environment or {})
    return str(raised.value)


def test_what_is_not_given_has_a_default(file: Path) -> None:
    file.write_text(NODE)
    config = load_node(file, {})
    assert (config.client.port, config.peer.port, config.status.port) == (5100, 5200, 5300)
    assert config.coordinator.address == "sqlite:/tmp/c.sqlite"
    assert config.coordinator.lease_ttl_ms == 5_000
    file.write_text(ROUTER)
    router = load_router(file, {})
    assert router.client.port == 5000
    assert router.coordinator.address == "http://10.0.0.1:2379,http://10.0.0.2:2379"


def test_everything_wrong_is_told_at_once(file: Path) -> None:
    told = problems(
        file,
        'data_dir = ""\ncolour = "red"\n[client]\nport = 70000\nhots = "x"\n[storage]\ncache_bytes = "much"\n'
        '[log]\nlevel = "loud"\n[coordinator]\n',
    )
    for part in (
        "8 wrong",
        "name: must be given: The node's name",
        "colour: no such setting; there are cluster, name",
        "client.hots: no such setting; there are host, port",
        "client.port: Input should be less than or equal to 65535, not 70000",
        "storage.cache_bytes",
        "log.level: Input should be 'debug', 'info', 'warning' or 'error', not \"loud\"",
        "data_dir",
        "coordinator: give either etcd (a list of endpoints) or sqlite",
    ):
        assert part in told, told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (NODE + 'etcd = ["http://x:1"]\n', "give either etcd"),
        (NODE.replace('sqlite = "/tmp/c.sqlite"', 'etcd = ["10.0.0.1:2379"]'), "no endpoint of etcd"),
        (NODE + "lease_ttl_ms = 1500\n", "multiple of 1000"),
        (NODE + "lease_ttl_ms = 1000\n[replication]\nheartbeat_ms = 900\n", "at most a third"),
        (NODE.replace("node-1", "no spaces, please"), "name"),
        (NODE.partition("[coordinator]")[0], "etcd or sqlite in [coordinator]"),
        ("name = ", "is no TOML"),
    ],
)
def test_what_does_not_fit_is_said(file: Path, text: str, says: str) -> None:
    assert says in problems(file, text)


def test_a_missing_file_and_one_that_is_no_text(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_node(file, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no TOML"):
        load_node(file, {})


def test_the_environment_wins(file: Path) -> None:
    file.write_text(NODE)
    config = load_node(
        file,
        {
            "FORTDB_NAME": "node-7",
            "FORTDB_CLIENT__PORT": "6000",
            "FORTDB_REPLICATION__LEADER_RETURN_MS": "0",
            "PATH": "/bin",
        },
    )
    assert (config.name, config.client.port, config.replication.leader_return_ms) == ("node-7", 6000, 0)
    file.write_text('name = "r"\n')
    router = load_router(file, {"FORTDB_COORDINATOR__ETCD": "http://a:1,http://b:1"})
    assert router.coordinator.etcd == ("http://a:1", "http://b:1")


def test_a_wrong_variable_is_told_by_its_name(file: Path) -> None:
    told = problems(file, NODE, {"FORTDB_CLIENT__PROT": "1", "FORTDB_STATUS__PORT": "x"})
    assert "FORTDB_CLIENT__PROT: no such setting" in told
    assert "status.port" in told


def test_variables_of_other_programs_are_none_of_the_servers(file: Path) -> None:
    file.write_text(NODE)
    others = {"FORTDB_PORT": "6000", "FORTDB_URL": "fortdb://x:1", "FORTDB_CA_PASSPHRASE": "x"}
    assert load_node(file, others).client.port == 5100


def test_the_reference_names_every_setting_and_its_variable() -> None:
    text = describe()
    for name in (
        "data_dir",
        "lease_ttl_ms",
        "connections_max",
        "deadline_ms",
        "heartbeat_ms",
        "FORTDB_CLIENT__PORT",
    ):
        assert name in text
    assert "None" not in text
    for half in text.split("# A router's file."):  # with the comments of the defaults taken away it is a file
        uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", half)
        tomllib.loads(re.sub(r"(?m) = (\.\.\.|null)$", ' = ""', uncommented))


def test_config_check(file: Path) -> None:
    file.write_text(NODE)
    assert CliRunner().invoke(main, ["config", "check", str(file)]).exit_code == 0
    file.write_text(ROUTER)
    assert "router" in CliRunner().invoke(main, ["config", "check", str(file)]).output
    file.write_text(NODE + "nonsense = 1\n")
    wrong = CliRunner().invoke(main, ["config", "check", str(file)])
    assert wrong.exit_code != 0
    assert "coordinator.nonsense: no such setting" in wrong.output
    assert CliRunner().invoke(main, ["config", "reference"]).exit_code == 0


# --- protection ----------------------------------------------------------------------------------

TLS = '[tls]\ncert = "c"\nkey = "k"\nca = "a"\n'
USERS = '[security]\nusers = "u"\n'
SENTENCE = f'[security]\nunprotected = "{UNPROTECTED}"\n'


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", ""),
        ('[client]\nhost = "localhost"\n', ""),
        ('[client]\nhost = "::1"\n', ""),
        ('[client]\nhost = "127.1.2.3"\n', ""),
        ('[client]\nhost = "0.0.0.0"\n', "[tls] cert, key and ca and [security] users must be given"),
        (
            '[client]\nhost = "node.example.org"\n',
            "[tls] cert, key and ca and [security] users must be given",
        ),
        ('[client]\nhost = "::"\n' + TLS, "reached from other machines: [security] users must be given"),
        (
            '[client]\nhost = "::"\n' + USERS,
            "reached from other machines: [tls] cert, key and ca must be given",
        ),
        ('[client]\nhost = "::"\n' + TLS + USERS, ""),
        ('[peer]\nhost = "10.0.0.1"\n', "peer.host (10.0.0.1) can be reached from other machines: [tls]"),
        ('[peer]\nhost = "10.0.0.1"\n' + TLS, ""),
        ('[status]\nhost = "10.0.0.1"\n', "status.host (10.0.0.1)"),
        ('[status]\nhost = "10.0.0.1"\n' + TLS, ""),
        ('[client]\nhost = "0.0.0.0"\n[peer]\nhost = "0.0.0.0"\n' + SENTENCE, ""),
        ('[security]\nunprotected = "yes"\n', "be the whole sentence"),
        ('[tls]\ncert = "c"\n', "give cert, key and ca, or none of them"),
    ],
)
def test_what_others_can_reach_is_protected_or_said_not_to_be(
    tmp_path: Path, text: str, missing: str
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(NODE + text)
    if not missing:
        load_node(path, {})
        return
    with pytest.raises(ConfigError) as caught:
        load_node(path, {})
    assert missing in str(caught.value)

"""`fortdb --ssh` through a real SSH server on loopback, whose key is known, unknown, or not the one it was."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fortdb.local.ports import free_ports
from fortdb.local.ring import LocalRing
from tests.support.rings import module_ring
from tests.support.waiting import eventually


@dataclass
class Server:
    port: int
    home: Path  # the client's, with its key and known hosts
    process: subprocess.Popen[bytes]

    def fortdb(self, router_port: int, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(self.home)}
        environment.pop("SSH_AUTH_SOCK", None)
        target = f"root@127.0.0.1:{self.port}"
        return subprocess.run(
            [sys.executable, "-m", "fortdb", "--ssh", target, "--port", str(router_port), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )

    def know(self, key: Path) -> None:
        kind, public = key.with_suffix(".pub").read_text().split()[:2]
        (self.home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install -e '.[deploy]'")
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if sshd is None or os.geteuid() != 0:
        pytest.skip("an SSH server needs root and openssh-server (apt-get install openssh-server)")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    make_key(home / ".ssh" / "id_ed25519")
    host_key = make_key(tmp_path / "host_key")
    authorized = tmp_path / "authorized_keys"
    shutil.copy(home / ".ssh" / "id_ed25519.pub", authorized)
    port = free_ports(1)[0]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {host_key}\nAuthorizedKeysFile {authorized}\n"
        "StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    made = Server(port, home, process)
    made.know(host_key)
    try:
        eventually("the SSH server listens", lambda: _listens(port))
        yield made
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


ring = module_ring(nodes=1)


def test_put_and_get_through_the_tunnel(server: Server, ring: LocalRing) -> None:
    assert server.fortdb(ring.shape.port, "put", "far", "away").returncode == 0
    done = server.fortdb(ring.shape.port, "get", "far")
    assert (done.stdout, done.stderr) == ("away", "")
    assert "healthy" in server.fortdb(ring.shape.port, "status").stdout


def test_nobody_listens_behind_the_tunnel(server: Server) -> None:
    done = server.fortdb(1, "get", "k")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_an_unknown_host_is_refused(server: Server, ring: LocalRing) -> None:
    (server.home / ".ssh" / "known_hosts").unlink()
    done = server.fortdb(ring.shape.port, "ping")
    assert done.returncode != 0
    assert "is not in ~/.ssh/known_hosts" in done.stderr


def test_a_changed_host_key_is_refused(server: Server, ring: LocalRing, tmp_path: Path) -> None:
    server.know(make_key(tmp_path / "another"))
    done = server.fortdb(ring.shape.port, "ping")
    assert done.returncode != 0
    assert "another host key" in done.stderr


def test_a_key_that_nobody_knows_is_refused(server: Server, ring: LocalRing) -> None:
    for file in (server.home / ".ssh").glob("id_*"):
        file.unlink()
    make_key(server.home / ".ssh" / "id_ed25519")
    done = server.fortdb(ring.shape.port, "ping")
    assert done.returncode != 0
    assert "lets none of your keys in" in done.stderr


@pytest.mark.parametrize("target", ["@host", "user@", "user@host:port"])
def test_what_is_no_target_is_said(target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fortdb", "--ssh", target, "ping"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "is no SSH target" in done.stderr

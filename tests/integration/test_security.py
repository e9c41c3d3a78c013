"""Rings with TLS on every port and users: what comes in, what does not, and what changes meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis

from fortdb.client import Access, Client, parse_address
from fortdb.errors import AuthenticationFailed, AuthenticationRequired, FortError, PermissionDenied
from fortdb.local.authority import Authority
from fortdb.local.ring import LocalRing
from tests.support.guarded import Talk, user
from tests.support.rings import add_users, ca_of, reload, running_ring, status_of, users_of, wait_healthy
from tests.support.waiting import eventually

SHOP = user("shop", "p-shop", commands=("read", "write", "scan", "view"), keyspaces=("orders",))


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRing]:
    with running_ring(tmp_path_factory.mktemp("ring"), tls=True, routers=2) as made:
        add_users(made, SHOP)
        yield made


def as_shop(ring: LocalRing) -> Access:
    return Access("shop", "p-shop", tls=True, ca=ca_of(ring))


def run(
    ring: LocalRing, *arguments: str, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line, at the first router."""
    return subprocess.run(
        [sys.executable, "-m", "fortdb", "--port", str(ring.shape.port), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


# --- coming in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_over_tls_with_a_login(ring: LocalRing, protocol: int) -> None:
    with redis.Redis(
        *("localhost", ring.shape.port),
        ssl=True,
        ssl_ca_certs=ca_of(ring),
        username="admin",
        password=ring.access.password,
        protocol=protocol,
    ) as client:
        assert client.mset({f"many:{number}": number for number in range(100)})
        assert client.mget([f"many:{number}" for number in range(100)])[99] == b"99"
        assert client.incr("count") >= 1
        batch = client.pipeline(transaction=False)
        for number in range(1000):
            batch.set(f"batch:{number}", "x" * 100)
        assert all(batch.execute())
        assert len(list(client.scan_iter("batch:*"))) == 1000


def test_redis_cli_works_over_tls_with_a_login(ring: LocalRing) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed; make tools")
    done = subprocess.run(
        [
            "redis-cli",
            "-p",
            str(ring.shape.port),
            "--tls",
            "--cacert",
            ca_of(ring),
            "--user",
            "admin",
            "SET",
            "a",
            "1",
        ],
        capture_output=True,
        text=True,
        env={"REDISCLI_AUTH": ring.access.password, "PATH": "/usr/bin:/bin"},
        timeout=30,
    )
    assert done.stdout == "OK\n", done


def test_every_port_of_clients_is_guarded(ring: LocalRing) -> None:
    doors = [parse_address(node.client_address) for node in status_of(ring).nodes]
    doors += [parse_address(f"127.0.0.1:{ring.ports(name)['client']}") for name in ring.routers]
    for door in doors:
        with Client(door.host, door.port, access=Access(tls=True, ca=ca_of(ring))) as client:
            asks: list[Callable[[], object]] = [
                partial(client.get, "a"),
                partial(client.put, "a", "1"),
                client.ring,
            ]
            for ask in asks:
                with pytest.raises(AuthenticationRequired):
                    ask()
        with Client(door.host, door.port, access=as_shop(ring)) as client, pytest.raises(PermissionDenied):
            client.get("a")
        with Client(door.host, door.port) as client, pytest.raises(FortError, match="speaks TLS only"):
            client.get("a")


def test_a_peer_port_hears_nobody_without_a_certificate(ring: LocalRing) -> None:
    other = Authority(ring.directory / "other")
    cert, key = other.issue("router-1")
    for loaded in (None, (cert, key)):
        context = ssl.create_default_context(cafile=ca_of(ring))
        if loaded is not None:
            context.load_cert_chain(*loaded)
        with Talk(ring.ports("node-1")["peer"], context) as talk:
            assert talk.is_over()


def test_what_a_user_may_not_do_is_refused_on_the_way_through_a_router(ring: LocalRing) -> None:
    with ring.client() as admin, ring.client(access=as_shop(ring)) as shop:
        admin.put("secret", "1")
        shop.put("orders/1", "1")
        assert shop.get("orders/1") == b"1"
        assert len(shop.ring().nodes) == 3
        asks: list[Callable[[], object]] = [
            lambda: shop.get("secret"),
            lambda: shop.get("secret", stale=True),
            lambda: shop.put("secret", "2"),
            lambda: shop.delete("orders/1", "secret"),
            lambda: shop.get_many(["orders/1", "secret"]),
            lambda: shop.put_many({"orders/1": "2", "secret": "2"}),
            lambda: list(shop.scan()),
            lambda: shop.move_leader("p-000", "node-1"),
            lambda: shop.create_keyspace("mine"),
        ]
        for ask in asks:
            with pytest.raises(PermissionDenied):
                ask()
        assert admin.get("secret") == b"1"
        assert admin.get("orders/1") == b"1"
    text = ring.process("router-1").log_path.read_text()
    assert re.search(r"event=audit_refused .*command=GET .*user=shop", text)
    assert "secret" not in text
    assert "p-shop" not in text


def test_status_is_served_over_tls(ring: LocalRing) -> None:
    context = ssl.create_default_context(cafile=ca_of(ring))
    for name in ("node-1", "router-1"):
        port = ring.ports(name)["status"]
        with urllib.request.urlopen(
            f"https://localhost:{port}/readyz", context=context, timeout=10
        ) as answer:
            assert json.load(answer)["ok"]
        with urllib.request.urlopen(
            f"https://localhost:{port}/metrics", context=context, timeout=10
        ) as answer:
            text = answer.read().decode()
        until_s = float(re.search(r"(?m)^fortdb_certificate_expiry_seconds (\S+)", text)[1])  # type: ignore[index]
        assert until_s > time.time() + 3600
        assert "fortdb_commands_refused_total" in text
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=10)


def test_the_documented_metrics_are_those_that_are_served(ring: LocalRing) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = re.findall(r"(?m)^\| `(fortdb_\w+)` \| (node|router|both)\b", text)
    context = ssl.create_default_context(cafile=ca_of(ring))
    for process, role in (("node-1", "node"), ("router-1", "router")):
        url = f"https://localhost:{ring.ports(process)['status']}/metrics"
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            served = re.findall(r"(?m)^# TYPE (fortdb_\w+) ", answer.read().decode())
        assert sorted(name for name, whose in rows if whose in (role, "both")) == sorted(served), role


def test_the_command_line_comes_in(ring: LocalRing, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(ring.access.password + "\n")
    options = ("--ca", ca_of(ring), "--user", "admin", "--password-file", str(password))
    assert run(ring, *options, "put", "cli", "1").stdout == "OK\n"
    assert run(ring, *options, typed="GET cli\n").stdout == '"1"\n'
    assert "healthy" in run(ring, *options, "status").stdout
    variables = {"FORTDB_USER": "admin", "FORTDB_PASSWORD": ring.access.password, "FORTDB_CA": ca_of(ring)}
    assert run(ring, "get", "cli", **variables).stdout == "1"
    wrong = run(ring, "get", "cli", **{**variables, "FORTDB_PASSWORD": "no"})
    assert (wrong.returncode, wrong.stderr.split(";")[0].strip()) == (
        1,
        "fortdb: invalid username-password pair or user is disabled.",
    )
    warned = run(
        ring,
        *("--url", f"fortdbs://admin:{ring.access.password}@localhost:{ring.shape.port}"),
        *("--ca", ca_of(ring), "get", "cli"),
    )
    assert warned.stdout == "1"
    assert "a password on the command line can be read" in warned.stderr
    assert "certificate" in run(ring, "--tls", "get", "cli").stderr


# --- changes while it serves ---------------------------------------------------------------------


@contextmanager
def load(ring: LocalRing, access: Callable[[], Access]) -> Iterator[list[int]]:
    """Clients that come and stay, and clients that come and go; fails if one request failed. Yields how many
    have been answered."""
    stopping, done, failures = threading.Event(), [0], list[BaseException]()

    def work(router: int) -> None:
        try:
            with ring.client(router, access=access()) as lasting:
                while not stopping.is_set():
                    lasting.put("load", "1")
                    with ring.client(router, access=access()) as fresh:
                        assert fresh.get("load") == b"1"
                    done[0] += 1
        except BaseException as error:  # noqa: BLE001  told to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(router,)) for router in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield done
        before = done[0]
        eventually("the load goes on", lambda: done[0] > before + 20 or failures)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_certificates_rotate_without_a_failed_request(ring: LocalRing) -> None:
    authority = Authority(ring.tls_directory)
    with load(ring, lambda: ring.access) as done:
        for _ in range(2):
            before = done[0]
            for name in ring.processes:
                authority.issue(name, ("localhost", "127.0.0.1"))
            reload(ring)
            eventually("requests go on", lambda: done[0] > before + 20)  # noqa: B023
    assert not re.search("not_reloaded.*what=certificates", ring.process("node-1").log_path.read_text())


def test_the_ring_meets_again_with_new_certificates(ring: LocalRing) -> None:
    authority = Authority(ring.tls_directory)
    for name in ring.processes:
        authority.issue(name, ("localhost", "127.0.0.1"))
    reload(ring)
    ring.process("node-2").kill()
    with ring.client(timeout_s=30) as client:
        client.put("after", "1")
    ring.process("node-2").start()
    wait_healthy(ring)


def test_passwords_rotate_without_a_failed_request(ring: LocalRing) -> None:
    old, both, new = (user("rolling", *passwords) for passwords in (("one",), ("one", "two"), ("two",)))
    present = users_of(ring).read_text()
    password = ["one"]

    def access() -> Access:
        return Access("rolling", password[0], tls=True, ca=ca_of(ring))

    users_of(ring).write_text(present + old)
    reload(ring)
    with load(ring, access):
        users_of(ring).write_text(present + both)
        reload(ring)
    password[0] = "two"  # clients are started again with it
    with load(ring, access):
        users_of(ring).write_text(present + new)
        reload(ring)
    former = Access("rolling", "one", tls=True, ca=ca_of(ring))
    with ring.client(access=former) as client, pytest.raises(AuthenticationFailed):
        client.get("a")
    users_of(ring).write_text(present)
    reload(ring)


# --- starting ------------------------------------------------------------------------------------


def start(kind: str, text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    path = directory / f"{kind}.toml"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "fortdb", kind, "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_reached_from_elsewhere_and_unprotected_does_not_start(tmp_path: Path) -> None:
    store = f'[coordinator]\nsqlite = "{tmp_path}/c.sqlite"\n'
    node = f'name = "n"\ndata_dir = "{tmp_path}/data"\n' + store
    for kind, text, missing in (
        (
            "node",
            node + '[client]\nhost = "0.0.0.0"\nport = 0\n',
            "[tls] cert, key and ca and [security] users",
        ),
        (
            "node",
            node + '[peer]\nhost = "::"\nport = 0\n',
            "peer.host (::) can be reached from other machines: [tls]",
        ),
        ("router", f'name = "r"\n{store}[client]\nhost = "10.0.0.1"\n', "client.host (10.0.0.1)"),
        ("router", f'name = "r"\n{store}[status]\nhost = "0.0.0.0"\n', "status.host (0.0.0.0)"),
    ):
        done = start(kind, text, tmp_path)
        assert done.returncode == 2, done
        assert missing in " ".join(done.stderr.split())
        assert 'unprotected = "whoever reaches these ports' in " ".join(done.stderr.split())


def test_files_that_do_not_work_keep_it_from_starting(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    cert, key = authority.issue("other")
    base = (
        f'name = "r"\n[coordinator]\nsqlite = "{tmp_path}/c.sqlite"\n[client]\nport = 0\n[status]\nport = 0\n'
    )
    tls = f'[tls]\ncert = "{cert}"\nkey = "{key}"\nca = "{authority.ca}"\n'
    (tmp_path / "users.toml").write_text("[a]\n")
    for more, problem in (
        (tls, "is for other; the process is r"),
        ('[tls]\ncert = "x"\n', "give cert, key and ca, or none of them"),
        (f'[security]\nusers = "{tmp_path}/users.toml"\n', "a.passwords: must be given"),
        ('[security]\nusers = "/nowhere"\n', "security.users: /nowhere cannot be read"),
        (
            '[security]\naudit_file = "/nowhere/audit"\n',
            "security.audit_file: /nowhere/audit cannot be written",
        ),
        ('[security]\nunprotected = "yes"\n', "be the whole sentence"),
    ):
        done = start("router", base + more, tmp_path)
        assert done.returncode == 2, done
        assert problem in " ".join(done.stderr.split())


def test_a_feed_shows_what_its_user_may_see_and_ends_with_the_right(ring: LocalRing) -> None:
    with ring.client(access=as_shop(ring)) as client, ring.client() as admin:
        refused: list[Callable[[], object]] = [
            client.feed,
            partial(client.feed, prefix="o"),
            partial(client.feed, key="hidden"),
            partial(client.feed, keyspace="other"),
            partial(client.feed, partition="p-000"),
        ]
        for ask in refused:
            with pytest.raises(PermissionDenied):
                ask()
        feed = client.feed(keyspace="orders")
        admin.put("other/1", "no")
        client.put("orders/fed", "1")
        change = feed.next(20)
        assert change is not None and (change.key, change.value) == (b"orders/fed", b"1")
        before = users_of(ring).read_text()
        users_of(ring).write_text(before.replace('keyspaces = ["orders"]', 'keyspaces = ["others"]'))
        try:
            reload(ring)
            with pytest.raises(PermissionDenied):
                feed.next(20)
        finally:
            users_of(ring).write_text(before)
            reload(ring)
    assert "audit_feed" in "".join(ring.process(name).log_path.read_text() for name in ring.routers)

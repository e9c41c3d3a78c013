"""TLS on a loop that never blocks: every size, slowness and fault, with the functions in C and without."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fortdb.client import Access, Client, ConnectionFailed
from fortdb.errors import ConfigError
from fortdb.local.authority import Authority
from fortdb.net.certificates import CertificateFiles, Certificates
from fortdb.net.loop import Loop
from fortdb.net.peer import Greeting, Link
from fortdb.net.stream import Outbox
from fortdb.net.tls import names_of
from tests.support.guarded import GuardedNode, Talk, guarded_node, user
from tests.support.waiting import eventually

USERS = user("default", "sesame")
_DAY = datetime.timedelta(days=1)


@pytest.fixture(params=[True, False], ids=["c", "python"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GuardedNode]:
    with guarded_node(tmp_path, tls=True, in_c=request.param) as made:
        yield made


def authority_of(node: GuardedNode) -> Authority:
    assert node.authority is not None
    return node.authority


def trusting(node: GuardedNode, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority_of(node).ca))
    for name, version in versions.items():
        setattr(context, name, version)
    return context


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_and_answers_of_every_size(node: GuardedNode, version: ssl.TLSVersion) -> None:
    context = trusting(node, minimum_version=version, maximum_version=version)
    with Talk(node.port, context) as talk:
        for size in (0, 1, 16_300, 16_384, 16_400, 70_000, 300_000, 8_000_000):
            value = bytes(range(256)) * (size // 256 + 1)
            assert talk.say(["SET", "a", value[:size]]) == [b"+OK"]
            assert talk.say(["GET", "a"]) == [b"$%d" % size]
            assert talk.rest(size + 2) == value[:size] + b"\r\n"


def test_a_long_pipeline_whose_answers_are_fetched_late(node: GuardedNode) -> None:
    value = b"v" * 1000
    with Talk(node.port, trusting(node)) as talk:
        talk.say(["SET", "a", value])
        sender = threading.Thread(target=lambda: talk.send(*[["GET", "a"]] * 5000))
        sender.start()  # blocks as soon as the server stops to read
        answer = b"$1000\r\n" + value + b"\r\n"
        time.sleep(0.2)
        assert talk.rest(5000 * len(answer)) == answer * 5000
        sender.join()


def test_requests_in_pieces(node: GuardedNode) -> None:
    with Talk(node.port, trusting(node)) as talk:
        request = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
        for _ in range(2):  # the second time by the short way
            for at in range(len(request)):
                talk.socket.sendall(request[at : at + 1])
            assert [talk.line() for _ in range(3)] == [b"+OK", b"$5", b"hello"]
        assert (node.front.plain_counts[1] > 0) == (node.front.way is not None)


def test_half_an_end_is_an_end(node: GuardedNode) -> None:
    with Talk(node.port, trusting(node)) as talk:
        assert isinstance(talk.socket, ssl.SSLSocket)
        talk.send(["SET", "a", "1"])
        talk.line()
        assert talk.socket.unwrap() is not None  # waits for the server's goodbye
    with Talk(node.port, trusting(node)) as talk:
        talk.send(["GET", "a"], ["QUIT"])
        assert [talk.line() for _ in range(4)] == [b"$1", b"1", b"+OK", b""]
    with Talk(node.port, trusting(node)) as talk:
        assert isinstance(talk.socket, ssl.SSLSocket)
        talk.send(["GET", "a"])
        inner = socket.socket(fileno=talk.socket.detach())
        inner.close()  # without a goodbye
    eventually("both are forgotten", lambda: not node.front.connections)


def test_garbage_behind_a_handshake_ends_the_connection(node: GuardedNode) -> None:
    with Talk(node.port, trusting(node)) as talk:
        assert talk.say(["PING"]) == [b"+PONG"]
        raw = socket.socket(fileno=talk.socket.detach())
        raw.settimeout(10)
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        while raw.recv(1000):
            pass
        raw.close()
    eventually("it is forgotten", lambda: not node.front.connections)


def test_redis_py_over_tls_with_a_login(tmp_path: Path) -> None:
    with guarded_node(tmp_path, USERS, tls=True) as node:
        for protocol in (2, 3):
            with redis.Redis(
                *("localhost", node.port),
                ssl=True,
                ssl_ca_certs=str(authority_of(node).ca),
                password="sesame",
                protocol=protocol,
            ) as client:
                assert client.set("a", "x" * 100_000)
                assert len(client.get("a") or b"") == 100_000
                batch = client.pipeline(transaction=False)
                for number in range(500):
                    batch.set(f"key:{number}", number)
                assert all(batch.execute())


# --- handshakes ----------------------------------------------------------------------------------


def test_who_speaks_plain_text_is_told(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        assert talk.say(["PING"]) == [b"-ERR this port speaks TLS only"]
        assert talk.is_over()
    eventually(
        "it is written down",
        lambda: [event["reason"] for event in node.audit()] == ["speaks no TLS"],
    )
    with Client(port=node.port) as client, pytest.raises(Exception, match="this port speaks TLS only"):
        client.get("a")


def test_tls_to_a_plain_port_ends_at_once(tmp_path: Path) -> None:
    with guarded_node(tmp_path) as node:
        began_s = time.monotonic()
        with pytest.raises(ssl.SSLError):
            Talk(node.port, ssl._create_unverified_context())
        with (
            Client(port=node.port, access=Access(tls=True)) as client,
            pytest.raises(ConnectionFailed, match="does it speak TLS at all"),
        ):
            client.get("a")
        assert time.monotonic() - began_s < 5


def test_a_slow_handshake_is_given_up_and_others_go_on(
    node: GuardedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Talk(node.port, trusting(node)) as talk, contextlib.ExitStack() as left:
        assert talk.say(["PING"]) == [b"+PONG"]
        monkeypatch.setattr("fortdb.net.tls.HANDSHAKE_MS_MAX", 300)
        silent, slow = left.enter_context(Talk(node.port)), left.enter_context(Talk(node.port))
        slow.socket.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert talk.say(["SET", "a", "1"]) == [b"+OK"]
        assert silent.is_over()
        assert slow.is_over()
        assert talk.say(["GET", "a"]) == [b"$1"]


def test_handshakes_are_bounded(node: GuardedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fortdb.net.tls.HANDSHAKES_MAX", 3)
    waiting = [Talk(node.port) for _ in range(3)]
    with Talk(node.port) as late:
        assert late.is_over()
    for talk in waiting:
        talk.socket.close()
    eventually("there is room again", lambda: _is_let_in(node))


def _is_let_in(node: GuardedNode) -> bool:
    try:
        with Talk(node.port, trusting(node)) as talk:
            return talk.say(["PING"]) == [b"+PONG"]
    except OSError:
        return False


def test_old_versions_are_refused(node: GuardedNode) -> None:
    context = trusting(node)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        Talk(node.port, context)


def test_a_client_verifies_authority_and_name(node: GuardedNode, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    ca = str(authority_of(node).ca)
    with Client("127.0.0.1", node.port, access=Access(tls=True, ca=ca)) as client:
        client.put("a", "1")
        assert client.get("a") == b"1"
    for access, problem in (
        (Access(tls=True, ca=str(other.ca)), "certificate"),
        (Access(tls=True), "certificate"),
        (Access(tls=True, ca=ca, server_name="elsewhere"), "elsewhere"),
    ):
        with (
            Client("127.0.0.1", node.port, access=access) as client,
            pytest.raises(ConnectionFailed, match=problem),
        ):
            client.get("a")
    with pytest.raises(ConfigError, match="cannot be used as the authority"):
        Client(access=Access(tls=True, ca=str(tmp_path / "nothing")))


# --- certificates --------------------------------------------------------------------------------


def files_of(authority: Authority, name: str, **options: object) -> CertificateFiles:
    cert, key = authority.issue(name, **options)  # type: ignore[arg-type]
    return CertificateFiles(str(cert), str(key), str(authority.ca))


def test_certificates_that_do_not_work_are_refused_and_named(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    good, foreign = files_of(ours, "node"), files_of(other, "node")
    now = datetime.datetime.now(datetime.UTC)
    expired = files_of(ours, "node", file="old", not_before=now - 3 * _DAY, not_after=now - _DAY)
    early = files_of(ours, "node", file="early", not_before=now + _DAY)
    loaded = Certificates(good, "node").loaded
    assert loaded.names == {"node"}
    assert len(loaded.fingerprint) == 64
    (tmp_path / "garbage").write_text("garbage")
    for files, problem in (
        (CertificateFiles(good.cert, foreign.key, good.ca), "key values mismatch"),
        (CertificateFiles(foreign.cert, foreign.key, good.ca), "unable to get local issuer certificate"),
        (expired, "certificate has expired"),
        (early, "certificate is not yet valid"),
        (CertificateFiles(str(tmp_path / "nothing"), good.key, good.ca), "No such file"),
        (CertificateFiles(good.cert, good.key, str(tmp_path / "nothing")), "tls.ca: .* No such file"),
        (CertificateFiles(good.cert, good.key, str(tmp_path / "garbage")), "tls.ca: "),
        (files_of(ours, "router"), "is for router; the process is node"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Certificates(files, "node")


def test_names_in_certificates() -> None:
    assert names_of(None) == names_of({}) == frozenset()
    subject = ((("commonName", "node-1"),),)
    assert names_of({"subject": subject}) == {"node-1"}
    both = {"subject": subject, "subjectAltName": (("DNS", "a"), ("DNS", "b"), ("IP Address", "10.0.0.1"))}
    assert names_of(both) == {"a", "b"}


def test_certificates_are_replaced_under_load_without_a_failed_request(node: GuardedNode) -> None:
    authority = authority_of(node)
    stopping = threading.Event()
    failures: list[BaseException] = []
    shown: set[bytes] = set()
    done = [0]

    def load() -> None:
        try:
            with Talk(node.port, trusting(node)) as lasting:
                while not stopping.is_set():
                    assert lasting.say(["SET", "a", "1"]) == [b"+OK"]
                    with Talk(node.port, trusting(node)) as fresh:
                        assert isinstance(fresh.socket, ssl.SSLSocket)
                        shown.add(fresh.socket.getpeercert(binary_form=True) or b"")
                        assert fresh.say(["GET", "a"]) == [b"$1"]
                    done[0] += 1
        except BaseException as error:  # noqa: BLE001  told to the test
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before, certificates = done[0], len(shown)
            authority.issue("node", ("localhost", "127.0.0.1"))
            node.reload()
            eventually("the new one is shown", lambda: len(shown) > certificates)  # noqa: B023
            (authority.directory / "node.key").write_text("broken")
            node.reload()
            eventually("it goes on", lambda: done[0] > before + 10 or failures)  # noqa: B023
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failures == []
    events = [event["event"] for event in node.audit()]
    assert events.count("audit_not_reloaded") >= 3
    assert events.count("audit_reloaded") >= 3


def test_a_changed_certificate_is_seen_without_a_word(node: GuardedNode) -> None:
    authority_of(node).issue("node", ("localhost", "127.0.0.1"))
    eventually("it is taken in", lambda: any(event["event"] == "audit_reloaded" for event in node.audit()))


# --- the ring's side -----------------------------------------------------------------------------


class Dialler:
    """A process that dials the node, turned by hand."""

    def __init__(self, node: GuardedNode, name: str, files: CertificateFiles | None) -> None:
        self.loop, self.outbox = Loop(), Outbox()
        self.ups: list[str] = []
        secure = None if files is None else Certificates(files, files.cert.split("/")[-1][:-4]).to_members
        self.link = Link(
            *(self.loop, self.outbox, Greeting("c", name, session=7), "node"),
            f"127.0.0.1:{node.peers.port}",
            up=lambda link, other: self.ups.append(other.name),
            down=lambda link: None,
            heard=lambda link, kind, body: None,
            secure=secure,
        )

    def comes_in(self, within_s: float = 1.0) -> bool:
        until_s = time.monotonic() + within_s
        self.loop.call_every(5, lambda: None)
        while not self.ups and time.monotonic() < until_s:
            self.loop.run(self._tick)
        self.link.close()
        self.loop.close()
        return bool(self.ups)

    def _tick(self) -> None:
        self.outbox.flush()
        self.loop.stop()


def test_members_of_the_ring_come_in_by_their_own_name_alone(
    node: GuardedNode, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours, other = authority_of(node), Authority(tmp_path / "other")
    router = files_of(ours, "router-1")
    foreign = files_of(other, "router-1")
    assert Dialler(node, "router-1", router).comes_in(10)
    assert not Dialler(node, "router-2", router).comes_in()
    assert not Dialler(node, "router-1", foreign).comes_in()
    assert not Dialler(node, "router-1", None).comes_in()
    now = datetime.datetime.now(datetime.UTC)
    with Certificates_without_a_trial():
        expired = files_of(ours, "router-1", file="router-1", not_before=now - 3 * _DAY, not_after=now - _DAY)
        assert not Dialler(node, "router-1", expired).comes_in()
    assert Dialler(node, "router-1", files_of(ours, "router-1")).comes_in(10)


class Certificates_without_a_trial:
    """A process that did not look at its own certificate before it shows it."""

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(Certificates, "_tried", lambda *_: None)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_client_without_a_certificate_is_no_member(node: GuardedNode) -> None:
    with Talk(node.peers.port, trusting(node)) as talk:
        talk.socket.sendall(Greeting("c", "router-1", session=7).encode())
        assert talk.is_over()

"""A node with users, asked by every way in; by the functions in C and without them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fortdb.client import Access, Client, Connection
from fortdb.client.address import Address
from fortdb.errors import AuthenticationFailed, AuthenticationRequired, PermissionDenied
from fortdb.limits import GUESSES_FREE, STRANGER_BYTES_MAX
from fortdb.protocol.commands import TABLE
from tests.support.guarded import GuardedNode, Talk, guarded_node, user
from tests.support.waiting import eventually

NOAUTH = b"-NOAUTH Authentication required."
WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled."
USERS = (
    user("default", "open sesame")
    + user("app", "p-app", commands=("read", "write"))
    + user("shop", "p-shop", commands=("read", "write", "scan"), keyspaces=("orders",))
    + user("reader", "p-reader", commands=("read",))
)


@pytest.fixture(params=[True, False], ids=["c", "python"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GuardedNode]:
    with guarded_node(tmp_path, USERS, in_c=request.param) as made:
        yield made


def logged_in(node: GuardedNode, name: str, password: str) -> Talk:
    talk = Talk(node.port)
    assert talk.say(["AUTH", name, password]) == [b"+OK"]
    return talk


# --- without a login -----------------------------------------------------------------------------


def test_a_stranger_may_say_who_he_is_and_nothing_else(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        for line in (
            *("PING", "GET a", "SET a 1", "MGET a b", "SCAN 0", "DBSIZE", "RING", "INFO", "CONFIG GET *"),
            *("CLIENT LIST", "COMMAND", "SELECT 0", "ECHO a", "HELP", "MULTI", "EXEC", "WATCH a", "NONSENSE"),
            *("KEYSPACE LIST", "LAYOUT SHOW", "LEADER MOVE a b"),
        ):
            assert talk.say(list(line.split())) == [NOAUTH], line
        assert talk.say(["HELLO", "3"])[0].startswith(b"-NOAUTH HELLO must be called with")
        assert talk.say(["RESET"]) == [b"+RESET"]
        assert talk.say(["QUIT"]) == [b"+OK"]
        assert talk.is_over()
    refused = [event for event in node.audit() if event["event"] == "audit_refused"]
    assert {event["user"] for event in refused} == {""}
    assert refused[1]["command"] == "GET"
    assert str(refused[1]["address"]).startswith("127.0.0.1:")


def test_text_lines_are_guarded_as_well(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        talk.socket.sendall(b"GET a\nPUT a 1\nAUTH app p-app\nPUT a 1\nGET a\n")
        assert [talk.line() for _ in range(6)] == [NOAUTH, NOAUTH, b"+OK", b"+OK", b"$1", b"1"]


def test_what_is_sent_behind_a_login_waits_for_it(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        answers = talk.say(
            *(["SET", "a", "1"], ["AUTH", "reader", "p-reader"], ["SET", "a", "2"], ["GET", "b"]),
            *(["AUTH", "app", "p-app"], ["SET", "a", "3"], ["AUTH", "app", "wrong"], ["SET", "a", "4"]),
        )
    assert answers[:2] == [NOAUTH, b"+OK"]
    assert answers[2].startswith(b"-NOPERM User reader has no permissions to run the 'set' command")
    assert answers[3:] == [b"$-1", b"+OK", b"+OK", WRONGPASS, b"+OK"]


def test_a_stranger_cannot_make_the_server_keep_much(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        talk.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$8000000\r\n" + b"x" * (STRANGER_BYTES_MAX + 9))
        assert talk.line() == b"-ERR Protocol error: unauthenticated command is too long"
        assert talk.is_over()
    with logged_in(node, "app", "p-app") as talk:
        assert talk.say(["SET", "a", b"x" * 8_000_000]) == [b"+OK"]


def test_a_stranger_who_stays_silent_is_hung_up_on(
    node: GuardedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Talk(node.port) as silent, logged_in(node, "app", "p-app") as talk:
        monkeypatch.setattr("fortdb.net.front.STRANGER_MS_MAX", 100)
        assert silent.is_over()
        assert talk.say(["GET", "a"]) == [b"$-1"]


# --- logging in ----------------------------------------------------------------------------------


def test_every_form_of_a_login(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        assert talk.say(["AUTH", "open sesame"]) == [b"+OK"]
        assert talk.say(["AUTH", "app", "p-app"], ["GET", "a"]) == [b"+OK", b"$-1"]
        assert talk.say(["RESET"], ["GET", "a"]) == [b"+RESET", NOAUTH]
        assert talk.say(["HELLO", "2", "AUTH", "app", "p-app", "SETNAME", "me"]) == [b"*14"]
        while talk.line() != b"*0":  # the modules, the last of what HELLO tells
            pass
        assert talk.say(["CLIENT", "GETNAME"], ["GET", "a"])[0] == b"$2"
    attempts: list[list[str | bytes]] = [
        ["AUTH", "app", "p-shop"],
        ["AUTH", "nobody", "p-app"],
        ["AUTH", "p-app"],
        ["AUTH", "app", ""],
        ["HELLO", "3", "AUTH", "app", "no"],
        ["AUTH", "app", b"\xff\x00"],
        ["AUTH", "app", "x" * 5000],
    ]
    for wrong in attempts:
        with guarded_address_forgotten(node), Talk(node.port) as talk:
            assert talk.say(wrong, ["GET", "a"]) == [WRONGPASS, NOAUTH], wrong
    with Talk(node.port) as talk:
        assert talk.say(["AUTH", "a", "b", "c"])[0].startswith(b"-ERR wrong number of arguments for 'auth'")
        assert talk.say(["HELLO", "3", "AUTH", "app"])[0].startswith(b"-ERR syntax error in HELLO option")


class guarded_address_forgotten:
    """Wrong passwords inside do not make the address wait afterwards."""

    def __init__(self, node: GuardedNode) -> None:
        self._node = node

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        gate = self._node.security.gate
        assert gate is not None
        gate._logins._guesses._guessers.clear()


def test_guesses_make_an_address_wait_even_with_the_right_password(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as inside:
        with Talk(node.port) as talk:
            for number in range(GUESSES_FREE):
                assert talk.say(["AUTH", "app", f"guess {number}"]) == [WRONGPASS]
            assert talk.say(["AUTH", "app", "p-app"])[0].startswith(b"-WRONGPASS too many wrong passwords")
            assert talk.say(["GET", "a"]) == [NOAUTH]
            eventually("it may try again", lambda: talk.say(["AUTH", "app", "p-app"]) == [b"+OK"])
        assert inside.say(["GET", "a"]) == [b"$-1"]  # who is in does not notice
    failed = [event for event in node.audit() if event["event"] == "audit_login_failed"]
    assert len(failed) > GUESSES_FREE
    assert failed[0]["user"] == "app"
    assert not any("guess" in str(value) for event in failed for value in event.values())


def test_many_who_come_at_once_are_let_in_and_hold_up_nobody(node: GuardedNode) -> None:
    talks = [Talk(node.port) for _ in range(60)]
    with logged_in(node, "reader", "p-reader") as inside:
        for talk in talks:
            talk.send(["AUTH", "app", "p-app"], ["SET", "a", "1"])
        began_s = time.monotonic()
        assert inside.say(["GET", "nothing"]) == [b"$-1"]
        assert time.monotonic() - began_s < 5
        for talk in talks:
            assert [talk.line(), talk.line()] == [b"+OK", b"+OK"]
            talk.socket.close()


def test_different_passwords_of_one_address_do_not_queue_up(node: GuardedNode) -> None:
    talks = [Talk(node.port) for _ in range(12)]
    for number, talk in enumerate(talks):
        talk.send(["AUTH", "app", f"guess {number}"])
    answers = [talk.line() for talk in talks]
    assert WRONGPASS in answers
    assert any(answer.startswith(b"-BUSY too many") for answer in answers)
    for talk in talks:
        talk.socket.close()


def test_who_hangs_up_while_he_waits_harms_nobody(node: GuardedNode) -> None:
    for _ in range(5):
        talk = Talk(node.port)
        talk.send(["AUTH", "shop", "p-shop"], ["GET", "orders/1"])
        talk.socket.close()
    with logged_in(node, "shop", "p-shop") as talk:
        assert talk.say(["GET", "orders/1"]) == [b"$-1"]


# --- rights --------------------------------------------------------------------------------------


def test_the_short_way_is_for_those_alone_who_may_do_all_of_it(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as talk:
        talk.say(["SET", "a", "1"], ["GET", "nothing"])
        before = sum(node.front.plain_counts)
        talk.say(["SET", "a", "1"], ["GET", "nothing"])
        assert (sum(node.front.plain_counts) - before > 0) == (node.front.way is not None)
    before = sum(node.front.plain_counts)
    with logged_in(node, "shop", "p-shop") as talk:
        assert talk.say(["SET", "orders/1", "1"], ["SET", "other/1", "1"], ["GET", "a"]) == [
            b"+OK",
            b"-NOPERM No permissions to access a key",
            b"-NOPERM No permissions to access a key",
        ]
        assert (
            talk.say(["MGET", "orders/1", "a"], ["DEL", "orders/1", "a"])
            == [b"-NOPERM No permissions to access a key"] * 2
        )
        assert talk.say(["SCAN", "0"])[0].startswith(b"-NOPERM User shop may not see all keyspaces")
    assert sum(node.front.plain_counts) == before
    refused = next(event for event in node.audit() if event["event"] == "audit_refused")
    assert (refused["user"], refused["command"], refused["keyspace"]) == ("shop", "SET", "other")


def test_someone_else_on_the_same_connection_has_other_rights(node: GuardedNode) -> None:
    with Talk(node.port) as talk:
        answers = talk.say(
            *(["AUTH", "app", "p-app"], ["SET", "a", "1"], ["SET", "a", "1"]),
            *(["AUTH", "reader", "p-reader"], ["SET", "a", "2"]),
        )
        assert answers[:4] == [b"+OK"] * 4
        assert answers[4].startswith(b"-NOPERM")
        assert talk.say(["SET", "a", "2"])[0].startswith(b"-NOPERM")


def test_a_transaction_of_what_is_refused_executes_nothing(node: GuardedNode) -> None:
    with logged_in(node, "reader", "p-reader") as talk:
        answers = talk.say(["MULTI"], ["SET", "a", "1"], ["EXEC"], ["GET", "a"])
        assert answers[-1] == b"$-1"


def test_a_command_without_its_arguments_is_told_so_and_harms_nobody(node: GuardedNode) -> None:
    lacking = [name for name, command in TABLE.items() if abs(command.arity) > 1]
    with logged_in(node, "shop", "p-shop") as talk:
        for name in sorted(set(lacking) - {"AUTH"}):
            assert talk.say([name])[0].startswith((b"-ERR wrong number", b"-NOPERM", b"-ERR unknown")), name
        assert talk.say(["GET", "orders/a"]) == [b"$-1"]


def test_limits_of_a_user(tmp_path: Path) -> None:
    users = user("slow", "p", commands_per_second=5, value_bytes_max=10)
    with guarded_node(tmp_path, users) as node, logged_in(node, "slow", "p") as talk:
        assert talk.say(["SET", "a", "x" * 11]) == [b"-ERR value of 11 bytes; user slow may write 10"]
        answers = talk.say(*[["GET", "a"]] * 20)
        assert answers.count(b"$-1") <= 5
        assert answers[-1] == b"-BUSY user slow sends more than 5 commands a second"
        eventually("a second is over", lambda: talk.say(["GET", "a"]) == [b"$-1"])


# --- changes -------------------------------------------------------------------------------------


def test_changed_rights_count_at_once(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as talk:
        assert talk.say(["SET", "a", "1"]) == [b"+OK"]
        talk.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na")  # half of a request, which the short way may hold
        assert talk.stays_silent()
        node.set_users(USERS.replace('["read", "write"]', '["read"]'))
        talk.socket.sendall(b"\r\n$1\r\n2\r\n")
        assert talk.line().startswith(b"-NOPERM")
        assert talk.say(["GET", "a"]) == [b"$1"]
        assert talk.line() == b"1"
        node.set_users(USERS)
        assert talk.say(["SET", "a", "3"]) == [b"+OK"]


def test_a_transaction_has_the_rights_of_its_user(node: GuardedNode) -> None:
    with logged_in(node, "reader", "p-reader") as talk:
        refused = talk.say(["MULTI"], ["GET", "a"], ["SET", "a", "1"], ["EXEC"])
        assert refused[:2] == [b"+OK", b"+QUEUED"]
        assert refused[2].startswith(b"-NOPERM")
        assert refused[3].startswith(b"-EXECABORT")
    with logged_in(node, "shop", "p-shop") as talk:
        assert talk.say(["WATCH", "orders/1"]) == [b"+OK"]
        assert talk.say(["WATCH", "orders/1", "a"])[0].startswith(b"-NOPERM")


def test_rights_are_asked_again_when_a_transaction_is_executed(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as talk:
        assert talk.say(["SET", "a", "1"], ["MULTI"], ["SET", "a", "2"]) == [b"+OK", b"+OK", b"+QUEUED"]
        node.set_users(USERS.replace('["read", "write"]', '["read"]'))
        assert talk.say(["EXEC"])[0].startswith(b"-NOPERM")
        assert talk.say(["GET", "a"]) == [b"$1"]
        assert talk.line() == b"1"


def test_nobody_becomes_another_inside_a_transaction(node: GuardedNode) -> None:
    with logged_in(node, "reader", "p-reader") as talk:
        answers = talk.say(["MULTI"], ["AUTH", "app", "p-app"], ["SET", "a", "1"], ["EXEC"])
    assert answers[1] == b"-ERR Command not allowed inside a transaction"
    assert answers[2].startswith(b"-NOPERM")
    assert answers[3].startswith(b"-EXECABORT")


def test_rights_that_come_and_go_lose_nothing_of_a_request(node: GuardedNode) -> None:
    value = b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"  # which is no request here
    request = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n%b\r\n" % (len(value), value)
    with logged_in(node, "app", "p-app") as talk:
        for at in (1, 9, request.index(value), request.index(value) + 1, len(request) - 1):
            assert talk.say(["SET", "a", "1"]) == [b"+OK"]
            talk.socket.sendall(request[:at])
            assert talk.stays_silent(0.01)
            node.set_users(USERS.replace('["read", "write"]', '["read"]'))
            node.set_users(USERS)
            talk.socket.sendall(request[at:] + request)
            assert [talk.line(), talk.line()] == [b"+OK", b"+OK"]


def test_who_is_taken_out_is_hung_up_on_and_others_are_not(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as gone, logged_in(node, "reader", "p-reader") as stays:
        node.set_users(USERS.replace("[app]", "[other]"))
        assert gone.is_over()
        assert stays.say(["GET", "a"]) == [b"$-1"]
        with Talk(node.port) as talk:
            assert talk.say(["AUTH", "app", "p-app"], ["AUTH", "other", "p-app"]) == [WRONGPASS, b"+OK"]
    assert [event["user"] for event in node.audit() if event["event"] == "audit_user_removed"] == ["app"]


def test_a_password_is_replaced_with_both_in_force_meanwhile(node: GuardedNode) -> None:
    old = user("app", "p-app", commands=("read", "write"))
    both = user("app", "p-app", "p-new", commands=("read", "write"))
    new = user("app", "p-new", commands=("read", "write"))
    with logged_in(node, "app", "p-app") as first:
        node.set_users(USERS.replace(old, both))
        with logged_in(node, "app", "p-app"), logged_in(node, "app", "p-new") as second:
            assert first.say(["GET", "a"]) == [b"$-1"]
            node.set_users(USERS.replace(old, new))
            assert first.is_over()
            assert second.say(["GET", "a"]) == [b"$-1"]
        with Talk(node.port) as talk:
            assert talk.say(["AUTH", "app", "p-app"]) == [WRONGPASS]


def test_a_wrong_file_changes_nothing(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as talk:
        node.set_users("[app]\npasswords = 1\n")
        assert talk.say(["SET", "a", "1"]) == [b"+OK"]
        assert talk.say(["AUTH", "app", "p-app"]) == [b"+OK"]
    (event,) = [event for event in node.audit() if event["event"] == "audit_not_reloaded"]
    assert "app.passwords" in str(event["reason"])


def test_a_changed_file_is_seen_without_a_word(node: GuardedNode) -> None:
    with logged_in(node, "app", "p-app") as talk:
        node.users_path.write_text(USERS.replace("[app]", "[other]"))
        assert talk.is_over()


# --- clients -------------------------------------------------------------------------------------


def test_the_python_client_says_what_is_wrong(node: GuardedNode) -> None:
    with Client(port=node.port, access=Access("app", "p-app")) as client:
        client.put("a", "1")
        assert client.get("a") == b"1"
    with Client(url=f"fortdb://shop:p-shop@127.0.0.1:{node.port}") as client, pytest.raises(PermissionDenied):
        client.get("a")
    with Client(port=node.port) as client, pytest.raises(AuthenticationRequired):
        client.get("a")
    with Client(port=node.port, access=Access("app", "no")) as client, pytest.raises(AuthenticationFailed):
        client.get("a")
    for number in range(GUESSES_FREE):
        with pytest.raises(AuthenticationFailed):
            Connection(Address("127.0.0.1", node.port), 10, Access("app", f"no {number}"))


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_is_let_in_unchanged(node: GuardedNode, protocol: int) -> None:
    with redis.Redis(port=node.port, username="app", password="p-app", protocol=protocol) as client:
        assert client.set("a", "1")
        assert client.get("a") == b"1"
    with redis.Redis(port=node.port, password="open sesame", protocol=protocol) as client:
        assert client.get("a") == b"1"
    with (
        guarded_address_forgotten(node),
        redis.Redis(port=node.port, username="app", password="no", protocol=protocol) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.get("a")
    with (
        redis.Redis(port=node.port, username="reader", password="p-reader", protocol=protocol) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.set("a", "2")

"""What the client does when a connection fails: rule 16, against sockets that fail on purpose."""

from __future__ import annotations

import socket
from threading import Event
from time import monotonic

import pytest

from fortdb.client import Address, Client, Connection, ConnectionFailed
from fortdb.client.failures import error_from_reply
from fortdb.client.pool import Pool
from fortdb.errors import (
    Answer,
    BadRequest,
    Busy,
    DiskFull,
    FortError,
    NotEnoughReplicas,
    NotLeader,
    OutcomeUnknown,
    ProtocolError,
    StorageFailed,
    StoreConflict,
    Unavailable,
    WrongType,
)
from tests.unit.client_servers import free_port, scripted_server


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    return data


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize(
    ("reply", "kind", "answer"),
    [
        ("ERR unknown command", BadRequest, Answer.REFUSE),
        ("ERR Protocol error: too big", ProtocolError, Answer.REFUSE),
        ("NOTLEADER p3", NotLeader, Answer.RETRY),
        ("NOREPLICAS 1 of 2", NotEnoughReplicas, Answer.REFUSE),
        ("UNAVAILABLE no leader", Unavailable, Answer.RETRY),
        ("BUSY many", Busy, Answer.RETRY),
        ("TIMEOUT it may have been applied", OutcomeUnknown, Answer.UNKNOWN),
        ("IOERR checksum", StorageFailed, Answer.CRASH),
        ("DISKFULL 1 MiB left", DiskFull, Answer.CRASH),
        ("CONFLICT base version 3", StoreConflict, Answer.RETRY),
        ("WRONGTYPE list", WrongType, Answer.REFUSE),
        ("NOSCRIPT 5", BadRequest, Answer.REFUSE),
        ("ERR", BadRequest, Answer.REFUSE),
    ],
)
def test_code_words_become_classes(reply: str, kind: type[FortError], answer: Answer) -> None:
    error = error_from_reply(reply)
    assert type(error) is kind
    assert error.answer is answer


def test_the_message_loses_its_code_word_only_if_the_class_carries_it() -> None:
    assert str(error_from_reply("NOREPLICAS 1 of 2")) == "1 of 2"
    assert str(error_from_reply("WRONGTYPE a list")) == "a list"
    assert str(error_from_reply("NOSCRIPT 5")) == "NOSCRIPT 5"


def test_nobody_listens() -> None:
    with Client(port=free_port()) as client, pytest.raises(ConnectionFailed, match="cannot connect to 127"):
        client.put("a", "1")


def test_a_write_whose_answer_did_not_come_is_unknown_and_not_sent_again() -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket, number: int) -> None:
        seen.append(read_until(connection, b"$1\r\n1\r\n"))

    with (
        scripted_server(serve) as port,
        Client(port=port) as client,
        pytest.raises(OutcomeUnknown, match="may have been executed"),
    ):
        client.put("a", "1")
    assert len(seen) == 1


def test_a_read_is_sent_once_more_on_a_fresh_connection() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        read_until(connection, b"$1\r\na\r\n")
        if number == 1:
            connection.sendall(b"$1\r\n7\r\n")
            wait_for_end(connection)

    with scripted_server(serve) as port, Client(port=port) as client:
        assert client.get("a") == b"7"


def test_a_read_is_not_sent_a_third_time() -> None:
    connections: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connections.append(number)
        read_until(connection, b"$1\r\na\r\n")

    with (
        scripted_server(serve) as port,
        Client(port=port) as client,
        pytest.raises(ConnectionFailed, match="broke"),
    ):
        client.get("a")
    assert connections == [0, 1]


def test_a_write_cut_off_before_its_last_byte_goes_out_again() -> None:
    """The first server reads a little of a large value and resets the connection."""
    value = b"x" * 8_000_000

    def serve(connection: socket.socket, number: int) -> None:
        if number == 0:
            connection.recv(100)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        assert read_until(connection, value[-100:] + b"\r\n").count(b"x") == len(value)
        connection.sendall(b"+OK\r\n")
        wait_for_end(connection)

    with scripted_server(serve) as port, Client(port=port) as client:
        assert client.put("a", value) is True


def test_silence_is_unknown_for_a_write_and_unavailable_for_a_read() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        wait_for_end(connection)

    with scripted_server(serve) as port, Client(port=port, timeout_s=0.2) as client:
        with pytest.raises(OutcomeUnknown, match=r"within 0.2 s"):
            client.put("a", "1")
        with pytest.raises(Unavailable, match=r"within 0.2 s"):
            client.get("a")


def test_an_answer_that_comes_too_late_meets_nobody() -> None:
    """After a time-out the connection is gone, and with it the late answer."""

    def serve(connection: socket.socket, number: int) -> None:
        if number == 0:
            wait_for_end(connection)
            return
        read_until(connection, b"$1\r\nb\r\n")
        connection.sendall(b"$5\r\nright\r\n")
        wait_for_end(connection)

    with scripted_server(serve) as port, Client(port=port, timeout_s=0.2) as client:
        with pytest.raises(Unavailable):
            client.get("a")
        with Client(port=port) as patient:
            assert patient.get("b") == b"right"


def test_a_broken_pipeline_keeps_the_answers_that_came() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        read_until(connection, b"$1\r\nc\r\n")
        connection.sendall(b"+OK\r\n:2\r\n")

    with scripted_server(serve) as port, Client(port=port) as client:
        batch = client.pipeline()
        batch.put("a", "1")
        batch.increment("b")
        batch.increment("n")
        batch.get("c")
        put, increment, lost, got = batch.run()
    assert put.value is True
    assert increment.value == 2
    assert isinstance(lost.error, OutcomeUnknown)
    assert isinstance(got.error, ConnectionFailed)


def test_unasked_bytes_make_a_pooled_connection_unusable() -> None:
    """They come in the idle time after an answer."""
    idle = Event()

    def serve(connection: socket.socket, number: int) -> None:
        while read_until(connection, b"PING\r\n"):
            connection.sendall(b"+PONG\r\n")
            if number == 0:
                assert idle.wait(10)
                connection.sendall(b"-ERR idle for too long\r\n")
                return

    with scripted_server(serve) as port:
        connection = Connection(Address("127.0.0.1", port), 3)
        pool = Pool(lambda: connection, connections_max=1)
        with pool.connection(monotonic()) as used:
            assert used.exchange([b"PING\r\n"], monotonic() + 10).replies == [b"PONG"]
        assert connection.is_usable()
        idle.set()
        deadline_s = monotonic() + 10
        while connection.is_usable():
            assert monotonic() < deadline_s, "the unasked bytes were not noticed"
        pool.close()


@pytest.mark.parametrize("unasked", [b"-ERR bye\r\n", b"-ERR"])
def test_unasked_bytes_after_an_answer_are_not_the_next_answer(unasked: bytes) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        while read_until(connection, b"PING\r\n"):
            connection.sendall(b"+PONG\r\n" + (unasked if number == 0 else b""))

    with scripted_server(serve) as port, Client(port=port) as client:
        for _ in range(3):
            client.ping()


def test_what_is_no_resp_is_a_protocol_error() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        wait_for_end(connection)

    with (
        scripted_server(serve) as port,
        Client(port=port) as client,
        pytest.raises(FortError, match="broke: Protocol error"),
    ):
        client.get("a")


def test_waiting_for_a_connection_is_bounded() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        wait_for_end(connection)

    with scripted_server(serve) as port:
        pool = Pool(lambda: Connection(Address("127.0.0.1", port), 3), connections_max=1)
        with (
            pool.connection(monotonic()) as held,
            pytest.raises(Busy, match="connections_max"),
            pool.connection(monotonic() + 0.05),
        ):
            pass
        with pool.connection(monotonic()) as again:
            assert again is held
        pool.close()
        assert held.closed


def test_a_place_is_free_again_when_connecting_failed() -> None:
    with Client(port=free_port(), connections_max=1, timeout_s=1) as client:
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                client.ping()


@pytest.mark.parametrize("connections_max", [0, -1])
def test_a_pool_needs_room(connections_max: int) -> None:
    with pytest.raises(BadRequest, match="at least 1"):
        Client(connections_max=connections_max)

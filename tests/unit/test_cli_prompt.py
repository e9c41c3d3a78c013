"""The prompt as a person and as a script meet it: through a real terminal (pty) and through a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.unit.client_servers import RedisServer, free_port, needs_redis, redis_server, scripted_server

COMMAND = [sys.executable, "-m", "fortdb"]
DEADLINE_S = 8.0

IN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ctrl-C becomes a signal, as in a real terminal
from fortdb.cli.main import main
main()
"""

pytestmark = needs_redis


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def piped(port: int, lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--port", str(port), *options],
        input=lines,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Terminal:
    """A prompt in a pseudo-terminal: `type` presses keys, `expect` waits for text after the last one found."""

    def __init__(self, port: int, state: Path) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 120))
        environment = dict(os.environ, TERM="xterm", XDG_STATE_HOME=str(state))
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, "--port", str(port)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self._screen = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while text not in self._screen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0 and self._read(left_s), f"no {text!r} on the screen:\n{self._screen}"
        self._screen = self._screen[self._screen.index(text) + len(text) :]

    def ask(self, line: str, answer: str) -> None:
        """Type a line, see its answer and the next prompt: only then is the terminal raw again."""
        self.type(line + "\r")
        self.expect(answer)
        self.expect(">")

    def wait(self) -> int:
        deadline_s = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            self._read(0.1)
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._master)

    def _read(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], timeout_s)
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        text = data.decode(errors="replace")
        for _ in range(text.count("\x1b[6n")):  # "where is the cursor?": a terminal answers that
            self.type("\x1b[1;1R")
        self._screen += re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", text)
        return bool(data)


@pytest.fixture
def terminal(server: RedisServer, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(server.port, tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def test_piped_commands_are_answered_one_a_line(server: RedisServer) -> None:
    lines = 'SET "a b" "x\\ny"\n\nGET "a b"\nGET none\nINCR n\nMGET n none\nEXIT\nGET never\n'
    result = piped(server.port, lines)
    assert result.stdout.splitlines() == ["OK", r'"x\ny"', "(nil)", "(integer) 1", '1) "1" 2) (nil)']
    assert (result.returncode, result.stderr) == (0, "")


def test_a_failed_line_does_not_end_the_others(server: RedisServer) -> None:
    result = piped(server.port, 'NONSENSE\nGET "open\nSET a 1\n')
    failed, unbalanced, done = result.stdout.splitlines()
    assert failed.startswith("(error) ERR unknown command")
    assert unbalanced.startswith("(error) ERR ")
    assert done == "OK"
    assert result.returncode == 1


def test_piped_json(server: RedisServer) -> None:
    result = piped(server.port, "SET a 1\nMGET a b\nINCR c\nNONSENSE\n", "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert answers[:3] == ["OK", ["1", None], 1]
    assert answers[3]["error"] == "ERR"


def test_a_transaction_keeps_its_connection(server: RedisServer) -> None:
    result = piped(server.port, "MULTI\nINCR n\nINCR n\nEXEC\n")
    assert result.stdout.splitlines() == ["OK", "QUEUED", "QUEUED", "1) (integer) 1 2) (integer) 2"]


def test_nobody_there(server: RedisServer) -> None:
    result = piped(free_port(), "PING\nPING\n")
    assert result.stdout.count("(error) UNAVAILABLE cannot connect") == 2
    assert result.returncode == 1


def test_a_person_at_a_terminal(terminal: Terminal, server: RedisServer, tmp_path: Path) -> None:
    terminal.expect(f"FortDB at 127.0.0.1:{server.port}")
    terminal.expect(">")
    terminal.ask('SET greeting "hello there"', "OK")
    terminal.ask("GET greeting", '"hello there"')
    terminal.expect("last answer")
    terminal.ask("GET none", "(nil)")
    terminal.ask("KEYS *", '1) "greeting"')
    terminal.ask("SET only", "(error) ERR wrong number of arguments")
    terminal.type("half a li\x03")
    terminal.expect(">")
    terminal.ask("INCR n", "(integer) 1")
    terminal.type("\x04")
    assert terminal.wait() == 0
    history = tmp_path / "fortdb" / "history"
    assert "+GET greeting" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0, "values are typed here"


def test_the_prompt_shows_an_open_transaction(terminal: Terminal, server: RedisServer) -> None:
    outside, inside = f"127.0.0.1:{server.port}>", f"127.0.0.1:{server.port} (tx)>"
    terminal.expect(outside)
    for ending, answer in (("EXEC", "1) (integer) "), ("DISCARD", "OK"), ("RESET", "RESET")):
        for line, said in (("MULTI", "OK"), ("INCR tx", "QUEUED")):
            terminal.type(f"{line}\r")
            terminal.expect(said)
            terminal.expect(inside)
        terminal.type(f"{ending}\r")
        terminal.expect(answer)
        terminal.expect(outside)
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_completion_and_help(terminal: Terminal) -> None:
    terminal.expect(">")
    terminal.ask("HELP", "PUT is SET")
    terminal.type("getde")
    terminal.expect("getde")
    terminal.type("\t")
    terminal.expect("GETDEL")
    terminal.ask(" gone", "(nil)")
    terminal.type("exit\r")
    assert terminal.wait() == 0


def test_a_lost_connection_is_told_and_made_again(terminal: Terminal, server: RedisServer) -> None:
    terminal.expect(">")
    terminal.ask("SET a 1", "OK")
    server.kill()
    terminal.type("GET a\r")
    terminal.expect("(error) UNAVAILABLE cannot connect")
    terminal.expect("not connected>")
    server.start()
    terminal.type("PING\r")
    terminal.expect("connected to 127.0.0.1")
    terminal.expect("PONG")
    terminal.expect(">")
    terminal.type("QUIT\r")
    assert terminal.wait() == 0


def test_ctrl_c_stops_waiting_and_not_the_prompt(tmp_path: Path) -> None:
    asked = Event()

    def serve(connection: socket.socket, number: int) -> None:
        while data := connection.recv(65536):
            if b"PING" in data:
                connection.sendall(b"+PONG\r\n")
            else:
                asked.set()  # and never answer

    with scripted_server(serve) as port:
        terminal = Terminal(port, tmp_path)
        try:
            terminal.expect(">")
            terminal.type("GET a\r")
            assert asked.wait(DEADLINE_S)
            terminal.type("\x03")
            terminal.expect("stopped waiting")
            terminal.expect(">")
            terminal.ask("PING", "PONG")
            terminal.type("\x04")
            assert terminal.wait() == 0
        finally:
            terminal.close()

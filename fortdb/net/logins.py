"""Verifying passwords beside the loop: one at a time, on a thread of its own.

A verification takes some 20 ms on purpose, so it must not hold up anybody's requests. What waits is
bounded, for all and for one address. The same user and password that already wait are waited for
together, and a password that was right once is known again by a keyed digest (HMAC-SHA-256 under a key that
never leaves this process): when a router starts, thousands of connections come back at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from fortdb.access.pace import Guesses, whole_of
from fortdb.access.passwords import which
from fortdb.access.users import Users
from fortdb.errors import AuthenticationFailed, Busy
from fortdb.limits import LOGINS_MAX, LOGINS_OF_ADDRESS_MAX, PASSWORD_BYTES_MAX
from fortdb.net.loop import Loop

Done = Callable[[str | None], None]
"""Gets the hash that the password has, None for a wrong one."""


@dataclass(slots=True)
class _Login:
    digest: bytes
    password: bytes = field(repr=False)
    lines: tuple[str, ...] = field(repr=False)
    efforts: int
    fake: str
    hosts: set[str]
    waiting: list[Done]


class Logins:
    """Answers on the loop's thread, in the order in which passwords were verified."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._secret = os.urandom(32)
        self._right: dict[str, bytes] = {}  # hash -> digest of the password that it is of
        self._under_way: dict[bytes, _Login] = {}
        self._queue: SimpleQueue[_Login | None] = SimpleQueue()
        self._guesses = Guesses()
        self._thread: threading.Thread | None = None

    def verify(self, users: Users, name: str, password: bytes, host: str, done: Done) -> None:
        """`done` is called now or later. Raises `Busy` when too much waits, `AuthenticationFailed` when that
        address has to."""
        wait_ms = self._guesses.wait_ms(host, self._loop.now_ms)
        if wait_ms:
            seconds = wait_ms // 1000 + 1
            raise AuthenticationFailed(f"too many wrong passwords from this address; wait {seconds} s")
        if len(password) > PASSWORD_BYTES_MAX:
            self._guesses.wrong(host, self._loop.now_ms)
            done(None)
            return
        user = users.get(name)
        lines = user.passwords if user is not None else ()
        digest = hmac.digest(self._secret, b"%b\0%b" % (name.encode(), password), hashlib.sha256)
        for line in lines:
            if hmac.compare_digest(self._right.get(line, b""), digest):
                done(line)
                return
        login = self._under_way.get(digest)
        host = whole_of(host)
        if login is None:
            self._check_room(host)
            login = _Login(digest, password, lines, users.efforts, users.fake, set(), [])
            self._under_way[digest] = login
            self._queue.put(login)
            self._start()
        login.hosts.add(host)
        login.waiting.append(done)

    def forget_but(self, users: Users) -> None:
        """Only these users' passwords are still right."""
        lines = {line for user in users for line in user.passwords}
        self._right = {line: digest for line, digest in self._right.items() if line in lines}

    def close(self) -> None:
        """Let the thread end."""
        self._queue.put(None)

    def _check_room(self, host: str) -> None:
        of_host = sum(host in login.hosts for login in self._under_way.values())
        if len(self._under_way) >= LOGINS_MAX or of_host >= LOGINS_OF_ADDRESS_MAX:
            raise Busy("too many logins at once; try again")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="logins", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (login := self._queue.get()) is not None:
            line = which(login.password, login.lines, login.efforts, login.fake)
            self._loop.call_soon(partial(self._verified, login, line))

    def _verified(self, login: _Login, line: str | None) -> None:
        del self._under_way[login.digest]
        if line is not None:
            self._right[line] = login.digest
        else:
            for host in login.hosts:
                self._guesses.wrong(host, self._loop.now_ms)
        for done in login.waiting:
            done(line)

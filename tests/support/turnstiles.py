"""A ring whose routers reach the nodes through turnstiles, which stop a router's requests at a step of a transaction."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from fortdb.local.ring import LocalRing
from fortdb.replication.messages import FrameReader, Type, decode_json, frame


class Hold:
    """When to stop a router: at a request with this name, after so many of them. From then on nothing of it passes any
    more, as if it had died the moment before."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._word, self._passes, self._stops, self._held = b"", 0, True, ""

    def set(self, word: bytes, passes: int = 0, stops: bool = True) -> None:
        """Hold the router that comes to this request first, or let it pass and only tell."""
        with self._lock:
            self._word, self._passes = b"$%d\r\n%s\r\n" % (len(word), word), passes
            self._stops, self._held = stops, ""
            self.reached.clear()

    def release(self) -> None:
        """Let everything pass."""
        with self._lock:
            self._word, self._held = b"", ""
            self.reached.clear()

    def lets_pass(self, router: str, kind: int, body: bytes) -> bool:
        """Whether a frame of a router goes on."""
        with self._lock:
            if self._word and kind == Type.REQUEST and self._word in body[:64]:
                self._passes -= 1
                if self._passes < 0:
                    self._held = router if self._stops else ""
                    self._word = b""
                    self.reached.set()
            return router != self._held


class Turnstile:
    """Stands before a node's peer port."""

    def __init__(self, peer_port: int, hold: Hold) -> None:
        self._peer_port = peer_port
        self._hold = hold
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            near,
            socket.create_connection(("127.0.0.1", self._peer_port)) as far,
        ):
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
            back.start()
            self._let_through(near, far)
            for one in (near, far):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            back.join()

    def _let_through(self, near: socket.socket, far: socket.socket) -> None:
        reader, name = FrameReader(), ""
        while data := near.recv(65536):
            for kind, body in reader.feed(data):
                if kind == Type.HELLO:
                    name = str(decode_json(body)["name"])
                if not name.startswith("router") or self._hold.lets_pass(name, kind, body):
                    far.sendall(frame(kind, body))


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


class RingWithTurnstiles(LocalRing):
    """All peer connections lead through turnstiles; only routers are ever held. Without TLS, which they could not
    look into."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.hold = Hold()
        self._turnstiles: dict[str, Turnstile] = {}
        super().__init__(*args, **options)

    def _configuration(self, name: str) -> dict[str, Any]:
        config = super()._configuration(name)
        if name in self.shape.node_names:
            if name not in self._turnstiles:
                self._turnstiles[name] = Turnstile(self.ports(name)["peer"], self.hold)
            config["peer"]["advertise"] = f"127.0.0.1:{self._turnstiles[name].port}"
        return config

    def close(self) -> None:
        """Take the turnstiles away."""
        for turnstile in self._turnstiles.values():
            turnstile.close()

"""etcd's v3 JSON gateway: one member's connections, its JSON, and what its errors mean.

64-bit numbers are text, keys and values are base64, and whatever is zero, empty or false is left
out. An error is a text in a plain answer and an object in a stream's.

What went wrong with a connection matters to the one who asks again: `NotAnswered.is_untouched` says
that the member surely did nothing, because it was never reached or refused before it began.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlsplit

import requests
from etcd3gw.client import Etcd3Client
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from fortdb.coordination.pool import Pool
from fortdb.coordination.store import Event, Versioned
from fortdb.errors import ConfigError, LeaseLost

_NO_LEADER = "etcdserver: no leader"
_NO_LEASE = "etcdserver: requested lease not found"
_API_PATH = "/v3/"


class NotAnswered(Exception):
    """An endpoint gave no usable answer; `is_untouched` if it surely did nothing."""

    def __init__(self, reason: str, is_untouched: bool) -> None:
        super().__init__(reason)
        self.is_untouched = is_untouched


class Endpoint:
    """One member of etcd, with its clients."""

    def __init__(self, text: str, ca: str | None, cert: str | None, key: str | None) -> None:
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port or 2379
        except ValueError:
            host, port = None, 0
        if host is None or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
            raise ConfigError(f"{text!r} is no endpoint of etcd; write http://HOST:PORT or https://HOST:PORT")
        self.text = text
        self._host, self._port, self._protocol = host, port, parts.scheme
        self._ca, self._cert, self._key = ca, cert, key
        self.pool = Pool(lambda: Connection(self.client()))

    def client(self) -> Etcd3Client:
        session = requests.Session()
        session.trust_env = False  # a proxy or a .netrc of the environment has no place on this path
        session.headers["Grpc-Metadata-hasleader"] = "true"
        if self._ca is not None:
            session.verify = self._ca
        if self._cert is not None and self._key is not None:
            session.cert = (self._cert, self._key)
        return Etcd3Client(self._host, self._port, self._protocol, api_path=_API_PATH, session=session)

    def ask(self, path: str, body: dict[str, Any], connect_ms: float, answer_ms: float) -> dict[str, Any]:
        """Raises `NotAnswered`, or `LeaseLost` if etcd says so."""
        try:
            with self.pool.lend() as connection:
                response = connection.post(path, body, connect_ms, answer_ms)
                status, text = response.status_code, response.text
        except requests.RequestException as error:
            raise NotAnswered(reason_of(error), _was_not_sent(error)) from error
        except OSError as error:  # requests lets a missing TLS file through as it is
            raise NotAnswered(str(error), is_untouched=True) from error
        answer = parse(text)
        if status == requests.codes["ok"] and "error" not in answer:
            return answer
        message = message_of(answer) or f"HTTP status {status}"
        if message == _NO_LEASE:
            raise lease_lost(int(body.get("ID") or body.get("lease") or _lease_in(body)))
        raise NotAnswered(message, is_untouched=message == _NO_LEADER)


class Connection:
    """A client of `etcd3gw` for one thread at a time."""

    def __init__(self, client: Etcd3Client) -> None:
        self._client = client

    def post(
        self, path: str, body: dict[str, Any], connect_ms: float, answer_ms: float, stream: bool = False
    ) -> requests.Response:
        # Not `client.post`: it folds a refused connection and a lost answer into one error.
        return self._client.session.post(
            self._client.get_url(path),
            json=body,
            timeout=(connect_ms / 1000, answer_ms / 1000),
            stream=stream,
        )

    def close(self) -> None:
        self._client.session.close()


# --- the gateway's JSON: 64-bit numbers are text, keys and values are base64 -----------------------


def encode(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def range_of(prefix: str) -> dict[str, str]:
    """All keys that start with `prefix`; UTF-8 has no byte 0xff, so its last byte can be raised by one."""
    start = prefix.encode()
    if not start:
        return {"key": encode(b"\0"), "range_end": encode(b"\0")}
    return {"key": encode(start), "range_end": encode(start[:-1] + bytes([start[-1] + 1]))}


def put_of(key: str, value: bytes, lease: int | None) -> dict[str, str]:
    return {"key": encode(key), "value": encode(value), "lease": str(lease or 0)}


def versioned_of(item: dict[str, Any]) -> Versioned:
    return Versioned(
        base64.b64decode(item["key"]).decode(),
        base64.b64decode(item.get("value", "")),
        int(item["mod_revision"]),
    )


def event_of(item: dict[str, Any]) -> Event:
    found = versioned_of(item["kv"])
    return Event(found.key, None if item.get("type") == "DELETE" else found.value, found.revision)


def revision_of(answer: dict[str, Any]) -> int:
    return int(answer.get("header", {}).get("revision", 0))


def parse(text: str | bytes) -> dict[str, Any]:
    """A JSON object; anything else, such as a proxy's HTML, counts as an answer that says nothing."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": "the answer is not etcd's JSON"}


def message_of(answer: dict[str, Any]) -> str:
    """The reason in an error, which is a text from a plain request and an object from a stream."""
    error = answer.get("error", "")
    return str(error.get("message", "")) if isinstance(error, dict) else str(error)


def _lease_in(body: dict[str, Any]) -> int:
    """The lease that a transaction's put names."""
    return int(body["success"][0]["request_put"]["lease"])


def lease_lost(lease: int) -> LeaseLost:
    return LeaseLost(f"etcd does not know lease {lease:x}")


# --- what went wrong with a connection ---------------------------------------------------------------


def _cause(error: requests.RequestException) -> object:
    """urllib3's own error inside that of requests."""
    inner = error.args[0] if error.args else None
    return getattr(inner, "reason", None) or inner


def _was_not_sent(error: requests.RequestException) -> bool:
    """Whether the connection was never made, so that the member cannot have seen the request."""
    return isinstance(error, requests.ConnectTimeout) or isinstance(_cause(error), NewConnectionError)


def is_silence(error: requests.RequestException) -> bool:
    return isinstance(error, requests.ReadTimeout) or isinstance(_cause(error), ReadTimeoutError)


def reason_of(error: requests.RequestException) -> str:
    if _was_not_sent(error):
        return "no connection"
    if is_silence(error):
        return "no answer in time"
    return str(_cause(error) or error)

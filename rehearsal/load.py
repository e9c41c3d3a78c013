"""A client under load: writes through the Elastic IP, never the same key twice, and keeps what was acknowledged.

`python -m rehearsal.load HOST PORT FILE` appends a line to FILE for every acknowledged write and every one that
failed, until its standard input ends; `... check` reads those that were acknowledged back and says, as JSON, how many
there are, which are lost and how many failed. A write whose outcome is unknown is not written again: only what was
promised is held against the ring. Nothing is tried twice. How to come in is told by the variables of the command
line (FORTDB_CA, FORTDB_USER, FORTDB_PASSWORD_FILE); a connection is for some writes, so that new certificates and
passwords are met while they change.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

WRITERS = 4
WRITES_A_CONNECTION = 100
_PAUSE_S = 0.02  # between writes of one writer: the hosts share this machine's processors with all else
_PATIENCE_S = 20.0  # longer than a router's own: what fails was told so, or nobody was there to tell
_READ_AT_ONCE = 500
_FAILED = "!"


def _client(host: str, port: int) -> redis.Redis:
    return redis.Redis(
        host=host,
        port=port,
        username=os.environ["FORTDB_USER"],
        password=Path(os.environ["FORTDB_PASSWORD_FILE"]).read_text().strip(),
        ssl=True,
        ssl_ca_certs=os.environ["FORTDB_CA"],
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def write(host: str, port: int, heard: TextIO, stopping: threading.Event) -> None:
    """One writer, until it is told to stop."""
    while not stopping.is_set():
        with _client(host, port) as client:
            for _ in range(WRITES_A_CONNECTION):
                if stopping.is_set():
                    return
                key = f"load-{uuid.uuid4()}"
                try:
                    client.set(key, key[::-1])
                except redis.RedisError as error:
                    heard.write(f"{time.time():.3f} {_FAILED} {type(error).__name__}: {error}\n")
                    stopping.wait(0.05)
                    continue
                heard.write(f"{time.time():.3f} {key}\n")
                heard.flush()
                stopping.wait(_PAUSE_S)


def check(host: str, port: int, file: Path) -> dict[str, object]:
    """How many writes were acknowledged, which of them are lost, what failed, and the longest pause between two
    that were acknowledged."""
    lines = [line.split(maxsplit=2) for line in file.read_text().splitlines()]
    acknowledged = [(moment, key) for moment, key, *_ in lines if key != _FAILED]
    client = _client(host, port)
    keys = [key for _, key in acknowledged]
    chunks = [keys[start : start + _READ_AT_ONCE] for start in range(0, len(keys), _READ_AT_ONCE)]
    found = {key: value for chunk in chunks for key, value in zip(chunk, client.mget(chunk), strict=True)}
    lost = [key for key in keys if found[key] != key[::-1]]
    times = sorted(float(moment) for moment, _ in acknowledged)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    return {
        "acknowledged": len(acknowledged),
        "lost": lost,
        "failed": [" ".join(words) for _, key, *words in lines if key == _FAILED],
        "longest_pause_s": round(max(pauses, default=0.0), 1),
    }


def main(host: str, port: str, file: str, *words: str) -> None:
    if words == ("check",):
        print(json.dumps(check(host, int(port), Path(file))))  # noqa: T201
        return
    stopping = threading.Event()
    with Path(file).open("a") as heard:
        writers = [
            threading.Thread(target=write, args=(host, int(port), heard, stopping)) for _ in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        sys.stdin.read()
        stopping.set()
        for writer in writers:
            writer.join()


if __name__ == "__main__":
    main(*sys.argv[1:])

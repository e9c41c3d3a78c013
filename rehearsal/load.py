"""A client under load: writes through the Elastic IP, never the same key twice, and keeps what was acknowledged.

`python -m rehearsal.load HOST PORT FILE` appends a line to FILE for every acknowledged write, until its standard
input ends; `... check` reads every one of them back and says, as JSON, how many there are and which are lost.
A write whose outcome is unknown is no line, and not written again: only what was promised is held against the ring.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import redis

WRITERS = 4
_PATIENCE_S = 2.0


def _client(host: str, port: int) -> redis.Redis:
    return redis.Redis(
        host=host,
        port=port,
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        decode_responses=True,
    )


def write(host: str, port: int, acknowledged: TextIO, stopping: threading.Event) -> None:
    """One writer, until it is told to stop."""
    client = _client(host, port)
    while not stopping.is_set():
        key = f"load-{uuid.uuid4()}"
        try:
            client.set(key, key[::-1])
        except redis.RedisError:
            stopping.wait(0.05)
            continue
        acknowledged.write(f"{time.time():.3f} {key}\n")
        acknowledged.flush()


def check(host: str, port: int, file: Path) -> dict[str, object]:
    """How many writes were acknowledged, which of them are lost, and the longest pause between two."""
    lines = [line.split() for line in file.read_text().splitlines()]
    client = _client(host, port)
    lost = [key for _, key in lines if client.get(key) != key[::-1]]
    times = sorted(float(moment) for moment, _ in lines)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    return {"acknowledged": len(lines), "lost": lost, "longest_pause_s": round(max(pauses, default=0.0), 1)}


def main(host: str, port: str, file: str, *words: str) -> None:
    if words == ("check",):
        print(json.dumps(check(host, int(port), Path(file))))  # noqa: T201
        return
    stopping = threading.Event()
    with Path(file).open("a") as acknowledged:
        writers = [
            threading.Thread(target=write, args=(host, int(port), acknowledged, stopping))
            for _ in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        sys.stdin.read()
        stopping.set()
        for writer in writers:
            writer.join()


if __name__ == "__main__":
    main(*sys.argv[1:])

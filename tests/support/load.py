"""Clients that write all the time and remember what they were told, so that it can be held against
the ring afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Self

from fortdb.client import Client
from fortdb.errors import FortError, OutcomeUnknown


@dataclass
class Heard:
    """What one writer was told."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    acknowledged_at_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # requests that were answered with an error
    violations: list[str] = field(default_factory=list)  # answers that cannot be true
    count_acknowledged: int = 0  # increments of the writer's own counter
    count_unknown: int = 0


class Load:
    """`writers` threads, each on a connection of its own, until `stop`.

    Each writes new keys under `{tag}-...` of the tags it is given in turn, reads each of its writes back
    now and then, and increments a counter of its own: the counter tells writes that were lost from
    writes that were applied twice.
    """

    def __init__(self, ports: Sequence[int], tags: Sequence[str], writers: int = 4) -> None:
        self.heard = [Heard() for _ in range(writers)]
        self._tags = tags
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, ports[number % len(ports)]), daemon=True)
            for number in range(writers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every writer finish what it is doing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs"

    @property
    def acknowledged_total(self) -> int:
        return sum(len(heard.acknowledged) for heard in self.heard)

    @property
    def violations(self) -> list[str]:
        return [violation for heard in self.heard for violation in heard.violations]

    @property
    def failures(self) -> list[str]:
        return [failure for heard in self.heard for failure in heard.failures]

    def longest_silence_s(self, since_s: float = 0.0) -> float:
        """The longest time in which no write at all was acknowledged."""
        moments = sorted(at for heard in self.heard for at in heard.acknowledged_at_s if at >= since_s)
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def first_acknowledged_after_s(self, moment_s: float) -> float:
        """How long after a moment the next write was acknowledged that began after it."""
        return min(at for heard in self.heard for at in heard.acknowledged_at_s if at > moment_s) - moment_s

    def check(self, client: Client) -> None:
        """Every acknowledged write is there, and every counter has been incremented as often as its
        writer was told; and no answer on the way was impossible."""
        assert self.violations == []
        for number, heard in enumerate(self.heard):
            keys = list(heard.acknowledged)
            for start in range(0, len(keys), 500):
                found = client.get_many(keys[start : start + 500])
                for key, value in found.items():
                    assert value is not None, f"{key} was acknowledged and is lost"
                    assert value.decode() == heard.acknowledged[key], f"{key} has another value: {value!r}"
            count = int(client.get(self._counter(number)) or 0)
            most = heard.count_acknowledged + heard.count_unknown
            assert heard.count_acknowledged <= count <= most, (
                f"writer {number}: {heard.count_acknowledged} increments acknowledged, "
                f"{heard.count_unknown} unknown, counted {count}"
            )

    def _counter(self, number: int) -> str:
        return f"{{{self._tags[number % len(self._tags)]}}}-counter-{number}"

    def _run(self, number: int, port: int) -> None:
        heard = self.heard[number]
        with Client("127.0.0.1", port, connections_max=1, timeout_s=30) as client:
            turn = 0
            while not self._stopping.is_set():
                turn += 1
                key = f"{{{self._tags[turn % len(self._tags)]}}}-{number}-{turn}"
                try:
                    client.put(key, f"value {turn}")
                    heard.acknowledged[key] = f"value {turn}"
                    heard.acknowledged_at_s.append(time.monotonic())
                    if turn % 7 == 0:
                        assert client.get(key) == heard.acknowledged[key].encode(), f"{key} cannot be read"
                    if turn % 5 == 0:
                        self._increment(client, heard, number)
                except FortError as error:
                    heard.failures.append(f"{key}: {error}")
                except AssertionError as error:
                    heard.violations.append(str(error))

    def _increment(self, client: Client, heard: Heard, number: int) -> None:
        try:
            count = client.increment(self._counter(number))
        except OutcomeUnknown:
            heard.count_unknown += 1
            raise
        heard.count_acknowledged += 1
        assert heard.count_acknowledged <= count <= heard.count_acknowledged + heard.count_unknown, (
            f"counter is {count} after {heard.count_acknowledged} increments"
        )

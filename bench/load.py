"""The load generator: processes that each drive their connections in a closed loop.

A connection sends a batch of `pipeline` requests, waits for all answers, checks them and sends the next,
as redis-benchmark does; the latency of a request is that of its batch. Batches are built before
anything is measured and taken in turn, so that the generator's own cost is two system calls and a
comparison a batch. What that is as a share of a core is measured and told with every result.
"""

from __future__ import annotations

import gc
import multiprocessing
import select
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Literal

from bench.conversation import Batch, Conversation, Operation, WrongAnswer
from bench.data import key_of, value_of
from bench.grpc import GrpcConversation
from bench.resp import RespConversation

Speaks = Literal["resp", "grpc"]
_PROTOCOLS: dict[Speaks, type[Conversation]] = {"resp": RespConversation, "grpc": GrpcConversation}

_POOL_REQUESTS = 20_000  # built beforehand by one process
_POOL_BYTES = 48 << 20
_ANSWER_S_MAX = 20.0  # a server that is silent for so long does not work


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and which keys to ask for there."""

    host: str
    port: int
    keys: range | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """What one process of the generator does. Times are of the monotonic clock, in seconds."""

    speaks: Speaks
    endpoints: tuple[Endpoint, ...]
    connections: int
    pipeline: int
    value_bytes: int
    write_percent: int
    seed: int
    in_order: bool = False  # every key of the one endpoint once, first to last: to fill a target


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of it, between the end of the warm-up and the end: `seconds` later, or more if the first
    answer took longer than that."""

    requests: int
    latencies_s: array[float]  # one a batch
    cpu_s: float
    seconds: float
    failure: str | None = None


class Generator:
    """The processes of the generator, kept from one measurement to the next."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = []
        self._busy: list[Any] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def prepare(self, work: list[Work]) -> None:
        """Connect and build what will be sent. `work` is one a process, or fewer."""
        for (_, pipe), each in zip(self._workers, work, strict=False):
            pipe.send(each)
        for _, pipe in self._workers[: len(work)]:
            if (failure := pipe.recv()) is not None:
                raise WrongAnswer(failure)
        self._busy = self._workers[: len(work)]

    def begin(self, begin_s: float, end_s: float) -> None:
        """Drive at once, count from `begin_s` to `end_s` (monotonic clock)."""
        for _, pipe in self._busy:
            pipe.send((begin_s, end_s))

    def finish(self) -> list[Heard]:
        """What each process heard. Raises `WrongAnswer`."""
        heard: list[Heard] = [pipe.recv() for _, pipe in self._busy]
        for each in heard:
            if each.failure is not None:
                raise WrongAnswer(each.failure)
        return heard

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return len(self._workers)

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._workers:
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()


def split(work: Work, processes: int) -> list[Work]:
    """The work of one process each: connections dealt out, seeds apart."""
    shares = [len(range(index, work.connections, processes)) for index in range(processes)]
    return [
        Work(
            work.speaks,
            work.endpoints,
            share,
            work.pipeline,
            work.value_bytes,
            work.write_percent,
            work.seed * 100 + index,
        )
        for index, share in enumerate(shares)
        if share
    ]


def _serve(pipe: Connection) -> None:
    """A process of the generator: work, when to begin and end, what was heard, and so on."""
    gc.disable()
    while True:
        try:
            work: Work = pipe.recv()
        except EOFError:
            return
        driver = None
        try:
            driver = _Driver(work)
        except (OSError, WrongAnswer) as error:
            pipe.send(f"{type(error).__name__}: {error}")
            continue
        pipe.send(None)
        begin_s, end_s = pipe.recv()
        try:
            heard = driver.drive(begin_s, end_s)
        except (OSError, WrongAnswer) as error:
            heard = Heard(0, array("d"), 0.0, 0.0, f"{type(error).__name__}: {error}")
        pipe.send(heard)
        driver.close()
        del driver
        gc.collect()


class _Driver:
    def __init__(self, work: Work) -> None:
        protocol: Any = _PROTOCOLS[work.speaks]
        chooser = Random(work.seed)
        endpoints = work.endpoints
        pools = [_pool(protocol, work, endpoint, len(endpoints), chooser) for endpoint in endpoints]
        self._conversations: dict[int, tuple[Conversation, list[Batch]]] = {}
        for index in range(work.connections):
            which = index % len(endpoints)
            conversation = protocol((endpoints[which].host, endpoints[which].port))
            self._conversations[conversation.socket.fileno()] = (conversation, pools[which])
        self._in_order = work.in_order
        self._offset = chooser.randrange(1 << 20)

    def drive(self, begin_s: float, end_s: float) -> Heard:
        """Closed loop until `end_s`; with `in_order` until every batch was answered once."""
        clock = time.monotonic
        began: dict[int, float] = {}
        under_way: dict[int, int] = {}
        latencies = array("d")
        requests = 0
        turn = 0 if self._in_order else self._offset
        last = len(next(iter(self._conversations.values()))[1]) if self._in_order else 1 << 62
        poll = select.epoll()
        for descriptor, (conversation, pool) in self._conversations.items():
            poll.register(descriptor, select.EPOLLIN)
            batch = pool[turn % len(pool)]
            turn += 1
            began[descriptor], under_way[descriptor] = clock(), batch.requests
            conversation.begin(batch)
        cpu_s, silent_since_s, now_s = -1.0, clock(), clock()
        while began and (now_s < end_s or not latencies):
            ready = poll.poll(0.05)
            now_s = clock()
            if cpu_s < 0 and now_s >= begin_s:
                cpu_s = time.process_time()
            if ready:
                silent_since_s = now_s
            elif now_s - silent_since_s > _ANSWER_S_MAX:
                raise WrongAnswer(f"no answer for {_ANSWER_S_MAX:.0f} s")
            for descriptor, _ in ready:
                conversation, pool = self._conversations[descriptor]
                if not conversation.readable():
                    continue
                now_s = clock()
                if now_s >= begin_s:
                    latencies.append(now_s - began[descriptor])
                    requests += under_way[descriptor]
                if turn >= last:
                    del began[descriptor]
                    continue
                batch = pool[turn % len(pool)]
                turn += 1
                began[descriptor], under_way[descriptor] = now_s, batch.requests
                conversation.begin(batch)
        poll.close()
        return Heard(requests, latencies, time.process_time() - max(cpu_s, 0.0), now_s - begin_s)

    def close(self) -> None:
        """Hang up."""
        for conversation, _ in self._conversations.values():
            conversation.socket.close()


def _pool(
    protocol: type[Conversation], work: Work, endpoint: Endpoint, endpoints: int, chooser: Random
) -> list[Batch]:
    """The batches that connections to one endpoint take in turn."""
    keys, size = endpoint.keys, work.value_bytes
    if work.in_order:
        chosen = list(keys)
    else:
        count = min(_POOL_REQUESTS, _POOL_BYTES // (size + 64)) // endpoints
        chosen = chooser.choices(keys, k=max(count, work.pipeline))
    batches = []
    for at in range(0, len(chosen), work.pipeline):
        operations = [
            Operation(key_of(number), value_of(number, size), chooser.randrange(100) < work.write_percent)
            for number in chosen[at : at + work.pipeline]
        ]
        batches.append(protocol.batch(operations))
    return batches

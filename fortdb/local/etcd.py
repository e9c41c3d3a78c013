"""A real etcd cluster on one machine: each member can be stopped, killed, paused and started again.

Members listen on free ports of the addresses that they are given (127.0.0.1 if none) and keep their
data under a directory of the caller's. Only processes started here are signalled, by their id.

    with EtcdCluster(directory) as etcd:
        store = EtcdStore(etcd.endpoints)
        etcd.pause(etcd.leader())
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fortdb.local.place import HERE, Place
from fortdb.local.ports import free_ports

MISSING = "etcd is not installed; on Debian or Ubuntu: apt-get install etcd-server"

READY_S_MAX = 30.0


def etcd_is_installed() -> bool:
    return shutil.which("etcd") is not None


class EtcdCluster:
    """`size` members, started by `start` (or `with`) and serving when it returns."""

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        election_ms: int = 500,
        places: Sequence[Place] | None = None,
    ) -> None:
        if not etcd_is_installed():
            raise RuntimeError(MISSING)
        self.size = size
        self._directory = directory
        self._election_ms = election_ms
        self._places = tuple(places or [HERE] * size)
        hosts, ports = [place.host for place in self._places], free_ports(2 * size)
        self.endpoints = [f"http://{host}:{port}" for host, port in zip(hosts, ports, strict=False)]
        self._peers = [f"http://{host}:{port}" for host, port in zip(hosts, ports[size:], strict=True)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size

    # --- the whole ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every member that is not running; returns when the cluster has a leader."""
        for index in range(self.size):
            if self._processes[index] is None:
                self.start_member(index)
        self.wait_ready()

    def stop(self) -> None:
        """End every member."""
        for index in range(self.size):
            self.kill(index)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Until every running member answers and agrees with the others on one leader."""
        running = [index for index in range(self.size) if self._processes[index] is not None]

        def is_ready() -> bool:
            leaders = {self._status(index).get("leader", "0") for index in running}
            return len(leaders) == 1 and leaders != {"0"}

        self._wait_until("the members of etcd agree on a leader", is_ready)

    def leader(self) -> int:
        """The index of the member that leads. Asks running members; pause none meanwhile."""
        found: list[int] = []

        def has_leader() -> bool:
            for index in range(self.size):
                status = self._status(index)
                if status and status.get("leader", "0") == status["header"]["member_id"]:
                    found.append(index)
                    return True
            return False

        self._wait_until("a member of etcd leads", has_leader)
        return found[0]

    def restore(self) -> None:
        """Undo every pause and kill; returns when the cluster is whole."""
        for index in range(self.size):
            if self._processes[index] is not None:
                self.resume(index)
        self.start()

    def restore_from_one(self) -> None:
        """End every member, lose the data of all but one, and make a new cluster of what that one holds: etcd's
        way back from a quorum that is lost for good. Nothing that etcd answered is lost: whoever leads when
        a majority is just left has it all. Returns when the cluster is whole again."""
        self.terminate((self.leader() + 1) % self.size)
        survivor = self.leader()
        others = [index for index in range(self.size) if index != survivor]
        for index in (*others, survivor):
            self.terminate(index)
        self.start_member(survivor, "--force-new-cluster")
        self._wait_until("a member of etcd leads alone", lambda: self._has_leader(survivor))
        for index in others:
            shutil.rmtree(self._home(index))
            self._wait_until("etcd takes a new member", lambda index=index: self._add(survivor, index))  # type: ignore[misc]
            members = ",".join(
                f"m{number}={peer}"
                for number, peer in enumerate(self._peers)
                if peer in self._members(survivor)
            )
            self.start_member(index, "--initial-cluster-state", "existing", "--initial-cluster", members)
            self._wait_until(
                "a new member of etcd has caught up",
                lambda index=index: self._has_leader(index),  # type: ignore[misc]
            )
        self.terminate(survivor)  # or it would make itself a cluster again when it is started next
        self.start_member(survivor)
        self.wait_ready()

    # --- one member -----------------------------------------------------------------------------------

    def start_member(self, index: int, *words: str) -> None:
        """Start a member on the data it has, with `words` more on its command line; does not wait for it."""
        assert self._processes[index] is None, f"member {index} is running"
        members = ",".join(f"m{number}={peer}" for number, peer in enumerate(self._peers))
        place = self._places[index]
        command = [
            *place.prefix,
            "etcd",
            *("--name", f"m{index}", "--data-dir", str(self._home(index))),
            *(
                "--listen-client-urls",
                self.endpoints[index],
                "--advertise-client-urls",
                self.endpoints[index],
            ),
            *("--listen-peer-urls", self._peers[index], "--initial-advertise-peer-urls", self._peers[index]),
            *("--initial-cluster", members, "--initial-cluster-state", "new"),
            *(
                "--heartbeat-interval",
                str(self._election_ms // 10),
                "--election-timeout",
                str(self._election_ms),
            ),
            *words,
        ]
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f"m{index}.log").open("ab") as output:
            self._processes[index] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **place.environment}
            )

    def kill(self, index: int) -> None:
        """SIGKILL: the member is gone without a word, its data stays. Nothing if it is not running."""
        self._end(index, signal.SIGKILL)

    def terminate(self, index: int) -> None:
        """SIGTERM: the member hands over and leaves properly."""
        self._end(index, signal.SIGTERM)

    def pause(self, index: int) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self._signal(index, signal.SIGCONT)

    def log_of(self, index: int) -> str:
        """What a member printed, for the message of a failing test."""
        return (self._directory / f"m{index}.log").read_text(errors="replace")

    def _end(self, index: int, number: int) -> None:
        process = self._processes[index]
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a paused process does not heed SIGTERM
            process.wait(READY_S_MAX)
            self._processes[index] = None

    def _signal(self, index: int, number: int) -> None:
        process = self._processes[index]
        assert process is not None, f"member {index} is not running"
        process.send_signal(number)

    # --- asking ---------------------------------------------------------------------------------------

    def compact(self) -> int:
        """Forget all history before the newest revision; returns that revision."""
        revision = int(self._post(self.leader(), "kv/range", {"key": "AA=="})["header"]["revision"])
        self._post(self.leader(), "kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def revoke_lease_of(self, key: str) -> bool:
        """Take away the lease that a key lives on, as etcd may by itself; False if there is none."""
        leader = self.leader()
        wanted = {"key": base64.b64encode(key.encode()).decode()}
        found = self._post(leader, "kv/range", wanted).get("kvs", [])
        lease = found[0].get("lease", "0") if found else "0"
        if lease == "0":
            return False
        self._post(leader, "lease/revoke", {"ID": lease})
        return True

    def _home(self, index: int) -> Path:
        return self._directory / f"m{index}"

    def _has_leader(self, index: int) -> bool:
        return bool(self._status(index).get("leader", "0") != "0")

    def _members(self, asked: int) -> set[str]:
        """The addresses of all members, as one knows them."""
        members = self._post(asked, "cluster/member/list", {})["members"]
        return {address for member in members for address in member["peerURLs"]}

    def _add(self, asked: int, index: int) -> bool:
        """Have a member added; False while the others have not all caught up."""
        peer = self._peers[index]
        try:
            if peer not in self._members(asked):
                self._post(asked, "cluster/member/add", {"peerURLs": [peer]})
        except OSError:
            return False
        return True

    def _status(self, index: int) -> dict[str, Any]:
        """A member's status, empty while it does not answer."""
        try:
            return self._post(index, "maintenance/status", {})
        except OSError:
            return {}

    def _post(self, index: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoints[index]}/v3/{path}", json.dumps(body).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=2.0) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def _wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while not is_so():
            for index, process in enumerate(self._processes):
                if process is not None and process.poll() is not None:
                    raise RuntimeError(f"member {index} of etcd ended:\n{self.log_of(index)[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not come about in {READY_S_MAX:.0f} s that {what}")
            time.sleep(0.05)

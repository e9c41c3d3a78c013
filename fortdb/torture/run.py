"""The torture: a ring of its own, clients that remember everything, faults, healing, and the judgement.

    start ring -> clients and faults for a while -> heal -> follow chains -> last reads -> end retentions -> stop
    -> compare replicas -> judge

What the machine cannot do (no root: no network of our own; no compiler: no shim) is left out, and said.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fortdb.errors import ConfigError, FortError
from fortdb.local.etcd import MISSING, EtcdCluster, etcd_is_installed
from fortdb.local.place import HERE, Place
from fortdb.local.ports import free_ring_port
from fortdb.local.ring import CLIENT_PORT, LocalRing, Settings, Shape
from fortdb.torture.caller import Door
from fortdb.torture.crowd import Crowd
from fortdb.torture.director import Director
from fortdb.torture.faults.base import Cast, Need
from fortdb.torture.faults.network import Network, why_no_network
from fortdb.torture.faults.shim import Shim, compile_shim, why_no_shim
from fortdb.torture.faults.world import OBSERVER, World
from fortdb.torture.findings import HISTORY_FILE, Findings
from fortdb.torture.history import History
from fortdb.torture.replicas import contents_of, differences
from fortdb.torture.schedule import Step, choose, draw

PARTITIONS = 6
LEASE_MS = 2_000
_NODES = 3
_ROUTERS = 2
_MEMBERS = 3
_ELECTION_MS = 1_000  # of etcd: on a busy machine less is a torture of etcd alone
_ROUTER_TIMEOUT_S = 7.0  # above what a router takes to say that it does not know
_NODE_TIMEOUT_S = 1.0  # below a lease: a paused node wakes to questions asked when others led already
_HEALTHY_S_MAX = 90.0
_SETTLED_S_MAX = 30.0
_RETENTIONS_S_MAX = 90.0  # retentions, and the minute that a change of leader may cost each
_SHOW_EVERY_S = 0.5
_AFTER_HEALING_S = 2.0  # clients go on: what comes back late is met by somebody

NODE_SETTINGS: Settings = {
    # Short times, so that many faults fit into a minute; small buffers, so that files are made and merged.
    "coordinator": {"lease_ttl_ms": LEASE_MS, "request_ms_max": 1_000},
    "replication": {
        "heartbeat_ms": 200,
        "isr_lag_ms_max": 2_000,
        "write_ms_max": 4_000,
        "leader_return_ms": 4_000,
    },
    "storage": {"cache_bytes": 16 << 20, "memtable_bytes": 4 << 20, "disk_free_bytes_min": 4 << 20},
}
_KEYSPACE = "torture"
ROUTER_SETTINGS: Settings = {"routing": {"deadline_ms": 5_000}, "coordinator": {"request_ms_max": 1_000}}

NODE_PROGRAM = (sys.executable, "-m", "fortdb.torture.node")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for. `program` stands for `fortdb` where the nodes are started."""

    directory: Path
    seed: int
    seconds: float = 60.0
    nodes: int = _NODES
    clients: int = 12
    faults: tuple[str, ...] = ()
    program: tuple[str, ...] = NODE_PROGRAM

    @property
    def other_words(self) -> list[str]:
        """What besides seed and seconds has to be said to get the same schedule."""
        words = [] if self.nodes == _NODES else ["--nodes", str(self.nodes)]
        return words + (["--faults", ",".join(self.faults)] if self.faults else [])


@dataclass(frozen=True, slots=True)
class Glance:
    """How it goes, for a display."""

    phase: str
    elapsed_s: float
    seconds: float
    calls: Mapping[str, int]
    in_force: Sequence[str]
    faults_done: int
    faults_total: int


Show = Callable[[Glance], None]


class Torture:
    """One run. `say` gets lines to keep, `show` how it goes, often. `schedule` stands for the one that
    the seed would draw; when `is_enough`, the run ends there and then, with nothing healed or read once more."""

    def __init__(
        self,
        options: Options,
        say: Say,
        show: Show,
        schedule: Callable[[Cast], list[Step]] | None = None,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> None:
        if options.nodes < 3:
            raise ConfigError("the torture takes at least three nodes: fewer survive no fault")
        if options.clients < 1 or options.seconds <= 0:
            raise ConfigError("the torture takes at least one client and some seconds")
        if not etcd_is_installed():
            raise ConfigError(MISSING)
        self._options = options
        self._say = say
        self._show = show
        self._schedule = schedule or self._draw
        self._is_enough = is_enough
        self._directory = options.directory.resolve()
        self._began_s = time.monotonic()
        self.findings = Findings(seed=options.seed, seconds=options.seconds, options=options.other_words)
        self._phase = "starting"
        self._crowd: Crowd | None = None
        self._director: Director | None = None
        self._steps: list[Step] = []
        self._names: list[str] = []

    def run(self) -> Findings:
        """Torture a ring; the history and the findings are in the directory afterwards."""
        make_room(self._directory)
        missing = self._missing()
        self._names, self.findings.left_out = choose(self._options.faults, missing)
        for name, reason in self.findings.left_out.items():
            self._say(f"left out: {name} ({reason})")
        shape = self._shape(Need.NETWORK not in missing)
        members = [f"etcd-{number}" for number in range(1, _MEMBERS + 1)]
        cast = Cast(shape.node_names, shape.router_names, members, LEASE_MS / 1000)
        steps = self._schedule(cast)
        self._steps = [step for step in steps if step.fault.name not in self.findings.left_out]
        self._say(f"seed {self._options.seed}: {len(self._steps)} faults in {self._options.seconds:g} s")
        history = History(self._directory / HISTORY_FILE)
        try:
            with self._world(shape, members, missing) as world:
                self._torture(world, history)
                if not world.ending.is_set():
                    self._heal(world)
                    self._last_words(world)
        finally:
            history.close()
            if self._crowd is not None:
                self._crowd.close()
                self._crowd.judge_feed(self._directory, self.findings)
            self.findings.write(self._directory)
        return self.findings

    def _draw(self, cast: Cast) -> list[Step]:
        return draw(self._options.seed, self._options.seconds, self._names, cast)

    # --- the ring -------------------------------------------------------------------------------

    def _missing(self) -> dict[Need, str]:
        reasons = {Need.NETWORK: why_no_network(), Need.SHIM: why_no_shim()}
        return {need: reason for need, reason in reasons.items() if reason is not None}

    def _shape(self, own_network: bool) -> Shape:
        return Shape(
            nodes=self._options.nodes,
            partitions=PARTITIONS,
            routers=_ROUTERS,
            port=CLIENT_PORT if own_network else free_ring_port(),
            cluster="torture",
            node_settings=NODE_SETTINGS,
            router_settings=ROUTER_SETTINGS,
        )

    @contextmanager
    def _world(self, shape: Shape, members: Sequence[str], missing: Mapping[Need, str]) -> Iterator[World]:
        """A healthy ring in its network; every process of it is gone at the end."""
        with ExitStack() as stack:
            network: Network | None = None
            everybody = [*shape.node_names, *shape.router_names, *members, OBSERVER]
            if Need.NETWORK not in missing:
                self._enter("making a network")
                network = stack.enter_context(Network(everybody))
                stack.enter_context(network.inside(OBSERVER))
            shims: dict[str, Shim] = {}
            if Need.SHIM not in missing:
                library = compile_shim(self._directory / "shim")
                for name in shape.node_names:
                    root = self._directory / "ring" / name / "data"
                    shims[name] = Shim(library, self._directory / "shim" / name, root)
            places = {name: self._place(name, network, shims) for name in everybody}
            self._enter("starting etcd")
            etcd_places = [places[name] for name in members]
            etcd = EtcdCluster(self._directory / "etcd", _MEMBERS, _ELECTION_MS, etcd_places)
            stack.enter_context(etcd)
            ring = LocalRing(self._directory / "ring", replace(shape, etcd=tuple(etcd.endpoints)), places)
            stack.callback(_kill_all, ring)
            ring.up(self._enter)
            yield World(ring, etcd, network, shims, self._note)

    def _place(self, name: str, network: Network | None, shims: Mapping[str, Shim]) -> Place:
        return Place(
            host=HERE.host if network is None else network.address(name),
            prefix=() if network is None else network.prefix(name),
            environment=shims[name].environment if name in shims else {},
            program=self._options.program if name.startswith("node-") else HERE.program,
        )

    # --- phases ---------------------------------------------------------------------------------

    def _torture(self, world: World, history: History) -> None:
        ring = world.ring
        # Half of the clients use routers; the others talk to nodes, so that a node that wrongly
        # believes that it leads is asked.
        routers = [self._door(ring, name) for name in ring.routers]
        nodes = [self._door(ring, name) for name in ring.nodes]
        doors = [door for number in range(len(nodes)) for door in (routers[number % 2], nodes[number])]
        crowd = self._crowd = Crowd(
            doors,
            routers,
            history,
            clients=self._options.clients,
            seed=self._options.seed,
            keyspace=_KEYSPACE,
        )
        crowd.prepare()
        director = self._director = Director(world, self._steps, history)
        self._enter("torturing")
        crowd.start()
        director.start()
        try:
            ends_s = time.monotonic() + self._options.seconds
            while time.monotonic() < ends_s and director.failure is None and not self._is_enough():
                self._glance()
                time.sleep(_SHOW_EVERY_S)
            self._enter("healing")
            if self._is_enough():
                world.ending.set()
            director.stop()
            if director.failure is not None:
                raise director.failure
            if not world.ending.is_set():
                world.heal()
                wait(_AFTER_HEALING_S, self._glance)
        finally:
            director.stop()
            crowd.stop(self.findings)
        self.findings.faults = director.done

    def _door(self, ring: LocalRing, name: str) -> Door:
        timeout_s = _NODE_TIMEOUT_S if name in ring.nodes else _ROUTER_TIMEOUT_S
        return Door(name, ring.place(name).host, ring.ports(name)["client"], timeout_s)

    def _heal(self, world: World) -> None:
        self._enter("waiting until the ring is well")
        if not world.wait(lambda: self._watched(world.restore_layout), _HEALTHY_S_MAX):
            self.findings.violations.append("the layout could not be brought back after all faults ended")
        if not world.wait(lambda: self._watched(world.is_healthy), _HEALTHY_S_MAX):
            self.findings.violations.append(
                f"the ring is not well {_HEALTHY_S_MAX:.0f} s after all faults ended: {world.ill()}"
            )

    def _last_words(self, world: World) -> None:
        assert self._crowd is not None
        door = self._door(world.ring, world.ring.shape.router_names[0])
        self._enter("following the chains of WORM records")
        self._follow_chains(door)
        self._enter("reading every key")
        self._crowd.last_words(door, self._directory, self.findings)
        self._enter("removing WORM records")
        self._end_retentions(door)
        self._compare_replicas(world)

    def _follow_chains(self, door: Door) -> None:
        findings = self.findings
        try:
            with door.client() as client:
                for one in client.verify(replicas=True):
                    findings.chains += 1
                    findings.links += one.last - one.first + 1
                    if one.altered is not None:
                        where = one.partition if one.node is None else f"{one.partition} on {one.node}"
                        what = f"at {one.altered.ordinal}: {one.altered.what}"
                        findings.violations.append(f"the chain of {where} is altered {what}")
        except FortError as error:
            findings.unjudged.append(f"the chains could not be followed: {error}")

    def _end_retentions(self, door: Door) -> None:
        """After that nothing changes by itself any more, while nodes are stopped one after another."""
        assert self._crowd is not None
        try:
            left = self._crowd.workload.remove_protected(
                door, _RETENTIONS_S_MAX, self._glance, with_held=False
            )
        except FortError as error:
            self.findings.unjudged.append(f"WORM records could not be removed at the end: {error}")
            return
        if left:
            self.findings.violations.append(
                f"{left} WORM records cannot be removed {_RETENTIONS_S_MAX:.0f} s after all clients ended"
            )

    def _compare_replicas(self, world: World) -> None:
        if not world.wait(lambda: self._watched(world.is_settled), _SETTLED_S_MAX):
            self.findings.violations.append("followers have not caught up long after all faults ended")
        status = world.status()
        self._enter("comparing the replicas")
        world.ring.down(lambda step: self._glance())
        if status is None:
            self.findings.unjudged.append("no router said who holds what: replicas are not compared")
            return
        holders = [(partition.token, frozenset(partition.isr)) for partition in status.partitions]
        try:
            contents = contents_of(world.ring)
            found = differences(contents, holders)
            self.findings.keys_compared = len(set().union(*contents.values()))
        except FortError as error:
            self.findings.violations.append(f"a replica cannot be read: {error}")
            return
        if found:
            self.findings.violations.append(f"replicas differ in {len(found)} keys: {'; '.join(found[:3])}")

    # --- telling --------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._glance()

    def _note(self, text: str) -> None:
        self.findings.notes.append(f"{time.monotonic() - self._began_s:.1f} s: {text}")

    def _watched(self, look: Callable[[], bool]) -> bool:
        self._glance()
        return look()

    def _glance(self) -> None:
        director = self._director
        calls = {} if self._crowd is None else self._crowd.calls
        self._show(
            Glance(
                self._phase,
                time.monotonic() - self._began_s,
                self._options.seconds,
                calls,
                [] if director is None else director.in_force,
                0 if director is None else director.done,
                len(self._steps),
            )
        )


def make_room(directory: Path) -> None:
    """An empty directory. One that holds anything but an earlier torture is refused."""
    if directory.exists() and any(directory.iterdir()) and not (directory / HISTORY_FILE).exists():
        raise ConfigError(f"{directory} holds something else than a torture: name another with --directory")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / HISTORY_FILE).touch()


def _kill_all(ring: LocalRing) -> None:
    for process in ring.processes.values():
        process.resume()
        process.kill()


def wait(seconds: float, meanwhile: Callable[[], None]) -> None:
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        meanwhile()
        time.sleep(_SHOW_EVERY_S)

"""A whole ring on one machine: data nodes, routers and the coordination store, as real processes.

What `make up` runs, and what the integration tests drive. A ring lives in a directory: `ring.json`
says of what it consists, each process has a sub-directory with its configuration, its log, its data
and a file that tells its process id. Processes outlive the command that started them.

A process id alone names nobody, because the kernel gives it out again; with the moment at which the
process began it does. Signals go through a pidfd (`pidfd_send_signal`), which cannot hit another.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fortdb.access.passwords import hash_password
from fortdb.client import Access, Client, RingStatus
from fortdb.client.health import Level, health_of
from fortdb.errors import ConfigError, FortError, Unavailable
from fortdb.local.authority import Authority
from fortdb.local.place import HERE, Place
from fortdb.net.security import UNPROTECTED, is_loopback

CLIENT_PORT = 5000
STOP_S_MAX = 20.0  # a drain takes up to DRAIN_MS_MAX
READY_S_MAX = 60.0
_LOOK_AGAIN_S = 0.05
_ZONES = ("zone-a", "zone-b", "zone-c")
_LOCAL_STORAGE = {"cache_bytes": 64 << 20, "memtable_bytes": 16 << 20, "disk_free_bytes_min": 256 << 20}

_ADMIN = """# The users of this ring; docs/security.md explains the file.
[admin]
passwords = ["{line}"]
commands = ["read", "write", "scan", "view", "admin"]
keyspaces = ["*"]
"""

Settings = Mapping[str, Mapping[str, object]]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of what a ring consists; with `tls`, certificates and a user `admin` too. Ports count up from `port`: routers at `port`, nodes' clients, peers and
    status ports at 100, 200 and 300 above, routers' status ports at 400 above."""

    nodes: int = 3
    partitions: int = 24
    routers: int = 1
    port: int = CLIENT_PORT
    etcd: tuple[str, ...] = ()
    cluster: str = "local"
    tls: bool = False
    node_settings: Settings = field(default_factory=dict)
    router_settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, most in (("nodes", 99), ("routers", 99), ("partitions", 4096)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from 1 to {most}, not {getattr(self, name)}")
        if not 1 <= self.port <= 65535 - 500:
            raise ConfigError(f"port must be from 1 to {65535 - 500}, not {self.port}")

    @property
    def node_names(self) -> list[str]:
        return [f"node-{number}" for number in range(1, self.nodes + 1)]

    @property
    def router_names(self) -> list[str]:
        return [f"router-{number}" for number in range(1, self.routers + 1)]


class Process:
    """One process of a ring, running or not."""

    def __init__(self, name: str, kind: str, directory: Path, place: Place = HERE) -> None:
        self.name = name
        self.directory = directory
        self.place = place
        self.config_path = directory / f"{kind}.toml"
        self.log_path = directory / "log"
        self._kind = kind
        self._identity_path = directory / "process.json"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None if it does not run."""
        if self._child is not None:
            self._child.poll()  # takes leave of it if it has ended
        try:
            identity = json.loads(self._identity_path.read_text())
        except (OSError, ValueError):
            return None
        pid = int(identity["pid"])
        return pid if _began(pid) == identity["began"] else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, None if it runs or was started by another process."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start it unless it runs."""
        if self.pid is not None:
            return
        place = self.place
        passed_on = {name: value for name, value in os.environ.items() if _is_passed_on(name)}
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                [*place.prefix, *place.program, self._kind, "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**passed_on, **place.environment},
            )
        pid = self._child.pid
        self._identity_path.write_text(json.dumps({"pid": pid, "began": _began(pid)}))

    def stop(self) -> None:
        """Ask it to drain and end, and wait until it has; kill it if it takes too long."""
        if not self.signal(signal.SIGTERM, STOP_S_MAX):
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would end the process."""
        self.signal(signal.SIGKILL, STOP_S_MAX)

    def pause(self) -> None:
        """Let it stand still."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals, wait_s: float = 0.0) -> bool:
        """Send a signal; with `wait_s`, whether it has ended within that time."""
        pid = self.pid
        if pid is None:
            return True
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            signal.pidfd_send_signal(handle, number)
            if number is not signal.SIGSTOP and wait_s:
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                ended = bool(poll.poll(int(wait_s * 1000)))
                if ended and self._child is not None:
                    self._child.wait()
                return ended
            return False
        except ProcessLookupError:
            return True
        finally:
            os.close(handle)

    def last_words(self) -> str:
        """The end of its log."""
        try:
            lines = self.log_path.read_text(errors="replace").strip().splitlines()
        except OSError:
            return "it has written no log"
        return "\n".join(lines[-5:])


class LocalRing:
    """The ring in a directory."""

    def __init__(
        self, directory: Path, shape: Shape | None = None, places: Mapping[str, Place] | None = None
    ) -> None:
        """`shape` None: the one that the directory has. Raises `ConfigError` if it has none, or if the
        given one cannot follow it (only the number of nodes and routers may grow). `places`: processes
        that run elsewhere than on the loopback address; not remembered in the directory."""
        self.directory = directory.absolute()
        self._shape_path = self.directory / "ring.json"
        self.shape = self._settle(shape)
        self._places = places or {}
        self.nodes = {name: self._process(name, "node") for name in self.shape.node_names}
        self.routers = {name: self._process(name, "router") for name in self.shape.router_names}

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether there is a ring in the directory."""
        return (directory / "ring.json").exists()

    @property
    def processes(self) -> dict[str, Process]:
        """Nodes first, then routers."""
        return {**self.nodes, **self.routers}

    def process(self, name: str) -> Process:
        """The process of that name. Raises `ConfigError`."""
        found = self.processes.get(name)
        if found is None:
            raise ConfigError(f"no process {name!r}; there are {', '.join(self.processes)}")
        return found

    def place(self, name: str) -> Place:
        """Where the process of that name runs."""
        return self._places.get(name, HERE)

    @property
    def running(self) -> list[str]:
        """Names of the processes that run."""
        return [name for name, process in self.processes.items() if process.pid is not None]

    def client(self, router: int = 0, **options: Any) -> Client:
        """A client of a router."""
        name = self.shape.router_names[router]
        options.setdefault("access", self.access)
        return Client(self.place(name).host, self.ports(name)["client"], **options)

    @property
    def tls_directory(self) -> Path:
        """Where the authority, the certificates, users.toml and admin's password are, if the shape says TLS."""
        return self.directory / "tls"

    @property
    def access(self) -> Access:
        """How its clients come in."""
        if not self.shape.tls:
            return Access()
        password = (self.tls_directory / "admin.password").read_text()
        return Access("admin", password, tls=True, ca=str(self.tls_directory / "ca.pem"))

    def up(self, progress: Progress = lambda step: None) -> RingStatus:
        """Start what does not run, give a new ring its first layout, wait until all is well.

        Raises `ConfigError` for a port in use, `Unavailable` for a process that ends or a ring that
        does not become healthy in time.
        """
        starting = [process for process in self.processes.values() if process.pid is None]
        self._check_ports(starting)
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._alone():
            return self._up(progress)

    def _up(self, progress: Progress) -> RingStatus:
        starting = [process for process in self.processes.values() if process.pid is None]
        self._check_ports(starting)
        self._shape_path.write_text(json.dumps(asdict(self.shape), indent=2) + "\n")
        if self.shape.tls:
            self._protect()
        for process in starting:
            process.directory.mkdir(exist_ok=True)
            process.config_path.write_text(_toml(self._configuration(process.name)))
            progress(f"starting {process.name}")
            process.start()
        with self.client() as client:
            progress("waiting for the nodes to join")
            ring = self._wait(client, starting, lambda ring: self._all_joined(ring))
            if ring.layout is None:
                progress("making the first layout")
                client.apply_layout(client.plan_layout(partitions=self.shape.partitions))
            progress("waiting until every partition is led and in sync")
            status = self._wait(client, starting, lambda ring: health_of(ring).level is Level.HEALTHY)
        for number in range(1, len(self.routers)):
            with self.client(number) as client:
                self._wait(client, starting, lambda ring: True)
        return status

    def _protect(self) -> None:
        """Make the certificates and the user that are not there yet."""
        directory = self.tls_directory
        authority = Authority(directory)
        for name in self.processes:
            if not (directory / f"{name}.pem").exists():
                authority.issue(name, ("localhost", self.place(name).host))
        users = directory / "users.toml"
        if not users.exists():
            password = secrets.token_urlsafe()
            for path, text in (
                (directory / "admin.password", password),
                (users, _ADMIN.format(line=hash_password(password))),
            ):
                path.touch(mode=0o600)
                path.write_text(text)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two that start one ring at the same moment would hand out its ports twice: one waits."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def down(self, progress: Progress = lambda step: None) -> None:
        """Stop everything; the data stays. Routers go first, so that no client sees the nodes go."""
        for process in [*self.routers.values(), *self.nodes.values()]:
            if process.pid is not None:
                progress(f"stopping {process.name}")
                process.resume()
                process.stop()

    def _all_joined(self, ring: RingStatus) -> bool:
        serving = {node.name for node in ring.nodes if node.state == "serving"}
        return serving >= self.nodes.keys()

    def _wait(
        self, client: Client, starting: list[Process], is_well: Callable[[RingStatus], bool]
    ) -> RingStatus:
        deadline_s = time.monotonic() + READY_S_MAX
        last = "the router does not answer"
        while time.monotonic() < deadline_s:
            for process in starting:
                if process.pid is None:
                    raise Unavailable(
                        f"{process.name} ended at its start; its log ends:\n{process.last_words()}"
                    )
            try:
                ring = client.ring()
            except FortError as error:
                last = str(error)
            else:
                if is_well(ring):
                    return ring
                last = "; ".join(finding.text for finding in health_of(ring).findings[:3])
            time.sleep(_LOOK_AGAIN_S)
        raise Unavailable(
            f"the ring is not well after {READY_S_MAX:.0f} s: {last}; logs are in {self.directory}"
        )

    # --- configuration ------------------------------------------------------------------------

    def _settle(self, asked: Shape | None) -> Shape:
        if not self._shape_path.exists():
            if asked is None:
                raise ConfigError(f"there is no ring in {self.directory}; start one: fortdb local up")
            return asked
        try:
            found = Shape(**json.loads(self._shape_path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{self._shape_path} cannot be understood: {error}") from None
        if asked is None:
            return found
        for name in ("cluster", "port", "partitions", "tls"):
            if getattr(asked, name) != getattr(found, name):
                raise ConfigError(
                    f"the ring in {self.directory} has {name} {getattr(found, name)}, not "
                    f"{getattr(asked, name)}; leave that option out, or choose another directory"
                )
        for name in ("nodes", "routers"):
            if getattr(asked, name) < getattr(found, name):
                raise ConfigError(
                    f"the ring in {self.directory} has {getattr(found, name)} {name}; they can only grow here"
                )
        return asked

    def _process(self, name: str, kind: str) -> Process:
        return Process(name, kind, self.directory / name, self.place(name))

    def ports(self, name: str) -> dict[str, int]:
        """The ports of a process by their use: client, peer (nodes only), status."""
        kind, _, number = name.partition("-")
        index, port = int(number) - 1, self.shape.port
        if kind == "router":
            return {"client": port + index, "status": port + 400 + index}
        return {"client": port + 100 + index, "peer": port + 200 + index, "status": port + 300 + index}

    def _check_ports(self, starting: list[Process]) -> None:
        for process in starting:
            if process.place.has_own_ports:
                continue
            for use, port in self.ports(process.name).items():
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((process.place.host, port))
                    except OSError as error:
                        raise ConfigError(
                            f"port {port}, wanted by {process.name} for its {use} port, cannot be had "
                            f"({error.strerror}): stop the process that holds it, or choose other ports with "
                            "--port (make up PORT=6000)"
                        ) from None

    def _configuration(self, name: str) -> dict[str, Any]:
        shape = self.shape
        coordinator: dict[str, object] = (
            {"etcd": list(shape.etcd)}
            if shape.etcd
            else {"sqlite": str(self.directory / "coordinator.sqlite")}
        )
        config: dict[str, Any] = {"name": name, "cluster": shape.cluster, "coordinator": coordinator}
        for section, port in self.ports(name).items():
            config[section] = {"host": self.place(name).host, "port": port}
        if name in shape.node_names:
            config["zone"] = _ZONES[(shape.node_names.index(name)) % len(_ZONES)]
            config["data_dir"] = str(self.directory / name / "data")
            config["storage"] = dict(_LOCAL_STORAGE)
        if not is_loopback(self.place(name).host):
            config["security"] = {"unprotected": UNPROTECTED}
        if shape.tls:
            directory = self.tls_directory
            pem = {
                "cert": directory / f"{name}.pem",
                "key": directory / f"{name}.key",
                "ca": directory / "ca.pem",
            }
            config["tls"] = {key: str(path) for key, path in pem.items()}
            config["security"] = {"users": str(directory / "users.toml")}
        for section, values in (shape.node_settings if "zone" in config else shape.router_settings).items():
            config.setdefault(section, {}).update(values)
        return config


def _toml(config: Mapping[str, Any]) -> str:
    """Names, numbers and lists of texts are the same in JSON and in TOML."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for section, values in config.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _is_passed_on(variable: str) -> bool:
    """The files say everything; of FortDB's variables only the log's make sense for all processes."""
    return not variable.startswith("FORTDB_") or variable.startswith("FORTDB_LOG__")


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]

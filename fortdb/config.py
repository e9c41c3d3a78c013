"""What a process may be told: one typed TOML file each for a node and for a router.

Every setting may also stand in the environment, `FORTDB_SECTION__KEY` (or `FORTDB_KEY` for one
outside the sections); the environment wins. A wrong or unknown setting is refused with its name and
what is allowed, all of them at once; a `FORTDB_KEY` that is no setting is left to FortDB's other
programs (`FORTDB_URL` is the command line's). Only entry points read this module and hand values down.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.fields import FieldInfo

from fortdb.errors import ConfigError
from fortdb.limits import ROUTER_DEADLINE_MS_MAX
from fortdb.net.certificates import CertificateFiles
from fortdb.net.security import UNPROTECTED, is_loopback

_PREFIX = "FORTDB_"
_SEPARATOR = "__"

MiB = 1024 * 1024

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Settings that stand together."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Client(Section):
    """Where clients connect."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 5000
    """The port to listen on."""
    advertise: str = ""
    """HOST:PORT that others see, if it is not the address listened on."""
    connections_max: int = Field(10_000, ge=1, le=1_000_000)
    """Connections at one time; more are refused with an error."""
    idle_ms_max: int = Field(0, ge=0)
    """A connection that sends nothing for so long is closed; 0: never."""


class NodeClient(Client):
    """Where clients connect to the node itself, past the routers."""

    port: Port = 5100
    """The port to listen on."""


class Peer(Section):
    """Where the other nodes and the routers connect."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 5200
    """The port to listen on."""
    advertise: str = ""
    """IP:PORT that others see, if it is not the address listened on."""


class Status(Section):
    """Where /healthz, /readyz and /metrics are served."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 5300
    """The port to listen on."""


class Coordinator(Section):
    """The coordination store: etcd, or a SQLite file for processes on one machine."""

    etcd: tuple[str, ...] = ()
    """Endpoints of etcd's members, each http(s)://HOST:PORT."""
    sqlite: str = ""
    """Path of the SQLite file."""
    request_ms_max: int = Field(2_000, ge=100, le=60_000)
    """Bound on one request to the store."""
    ca: str | None = None
    """PEM file of the authority that signed etcd's certificates."""
    cert: str | None = None
    """PEM file of the certificate to show to etcd."""
    key: str | None = None
    """PEM file of that certificate's key."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.etcd) == bool(self.sqlite):
            raise ValueError("give either etcd (a list of endpoints) or sqlite (the path of a file)")
        wrong = [url for url in self.etcd if not url.startswith(("http://", "https://"))]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no endpoint of etcd; write http://HOST:PORT")
        return self

    @property
    def address(self) -> str:
        """As `open_store` takes it."""
        return f"sqlite:{self.sqlite}" if self.sqlite else ",".join(self.etcd)


class NodeCoordinator(Coordinator):
    """The coordination store: etcd, or a SQLite file for processes on one machine."""

    lease_ttl_ms: int = Field(5_000, ge=1_000, le=60_000, multiple_of=1_000)
    """A node that has not renewed its lease for so long is replaced as leader."""


class Replication(Section):
    """Between leaders and followers."""

    heartbeat_ms: int = Field(250, ge=10, le=5_000)
    """How often a leader renews its followers' promises; well below the lease."""
    isr_lag_ms_max: int = Field(5_000, ge=100)
    """A follower that has not caught up for so long leaves the ISR."""
    write_ms_max: int = Field(10_000, ge=100)
    """A write that is not confirmed after so long is answered with "outcome unknown"."""
    leader_return_ms: int = Field(10_000, ge=0)
    """How long all is well before a partition goes back to its preferred leader; 0: never."""


class Storage(Section):
    """The storage engine."""

    cache_bytes: int = Field(256 * MiB, ge=8 * MiB)
    """Blocks, indexes and filters kept in memory."""
    memtable_bytes: int = Field(64 * MiB, ge=4 * MiB)
    """Writes kept in memory before they go to files."""
    disk_free_bytes_min: int = Field(512 * MiB, ge=0)
    """With less free space than this writes are refused, so that nothing fails half way."""


class ElasticIp(Section):
    """The Elastic IP that follows the active router; without an allocation_id there is none."""

    allocation_id: str = ""
    """AWS' id of the address, eipalloc-..."""
    instance_id: str = ""
    """AWS' id of the machine that this router runs on, i-..."""
    region: str = ""
    """The AWS region; empty: AWS_REGION."""
    lease_ttl_ms: int = Field(6_000, ge=2_000, le=60_000, multiple_of=1_000)
    """An active router that is silent for so long is replaced."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.allocation_id) != bool(self.instance_id):
            raise ValueError("give both allocation_id and instance_id, or neither")
        return self


class Routing(Section):
    """From clients to leaders."""

    deadline_ms: int = Field(12_000, ge=100, le=ROUTER_DEADLINE_MS_MAX)
    """A request is held and tried again for so long, say while a leader is elected."""


class Tls(Section):
    """TLS on every port; without it all of them speak plain text."""

    cert: str = ""
    """PEM file of the process's certificate, with what is between it and the authority. Its DNS names hold the
    process's name, and those by which clients know it."""
    key: str = ""
    """PEM file of the certificate's key."""
    ca: str = ""
    """PEM file of the ring's own authority: whoever has a certificate of it is a node or a router."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({bool(path) for path in (self.cert, self.key, self.ca)}) > 1:
            raise ValueError("give cert, key and ca, or none of them")
        return self


class Security(Section):
    """Who may do what."""

    users: str = ""
    """The file of users, their passwords and rights; empty: everybody may do everything."""
    audit_file: str = ""
    """Where the audit log goes, as JSON lines; empty: to the log."""
    unprotected: str = ""
    """The sentence "whoever reaches these ports may read and change everything" lets the process listen
    elsewhere than on loopback without TLS or users."""

    @model_validator(mode="after")
    def _in_plain_words(self) -> Self:
        if self.unprotected not in ("", UNPROTECTED):
            raise ValueError(f'unprotected must be left out, or be the whole sentence "{UNPROTECTED}"')
        return self


class Log(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Events below this are not written."""
    format: Literal["logfmt", "json"] = "logfmt"
    """logfmt for people, json for collectors."""


class NodeConfig(Section):
    """A data node's settings."""

    cluster: Name = "fortdb"
    """The cluster's name; processes of other clusters are refused."""
    name: Name
    """The node's name, unique in the cluster and the same for ever."""
    zone: Name = "local"
    """Where it stands: replicas of a partition are put in different zones."""
    data_dir: Annotated[str, Field(min_length=1)]
    """The directory that holds its data; it belongs to this node alone."""
    client: NodeClient = NodeClient()
    peer: Peer = Peer()
    status: Status = Status()
    coordinator: NodeCoordinator
    """The coordination store: etcd or sqlite in [coordinator]."""
    replication: Replication = Replication()
    storage: Storage = Storage()
    tls: Tls = Tls()
    security: Security = Security()
    log: Log = Log()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.replication.heartbeat_ms * 3 > self.coordinator.lease_ttl_ms:
            raise ValueError("replication.heartbeat_ms must be at most a third of coordinator.lease_ttl_ms")
        _check_protection(self, {"client": self.client, "peer": self.peer, "status": self.status})
        return self


class RouterConfig(Section):
    """A router's settings."""

    cluster: Name = "fortdb"
    """The cluster's name; processes of other clusters are refused."""
    name: Name
    """The router's name, for logs."""
    client: Client = Client()
    status: Status = Status(port=5301)
    coordinator: Coordinator
    """The coordination store: etcd or sqlite in [coordinator]."""
    routing: Routing = Routing()
    elastic_ip: ElasticIp = ElasticIp()
    tls: Tls = Tls()
    security: Security = Security()
    log: Log = Log()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_protection(self, {"client": self.client, "status": self.status})
        return self


C = TypeVar("C", NodeConfig, RouterConfig)


def certificate_files(config: NodeConfig | RouterConfig) -> CertificateFiles | None:
    """Where the certificate is; None without TLS."""
    tls = config.tls
    return CertificateFiles(tls.cert, tls.key, tls.ca) if tls.cert else None


def _check_protection(
    config: NodeConfig | RouterConfig, sections: Mapping[str, Client | Peer | Status]
) -> None:
    """Raises `ValueError` for ports that others reach and nothing protects."""
    if config.security.unprotected:
        return
    reached = [name for name, section in sections.items() if not is_loopback(section.host)]
    missing = []
    if reached and not config.tls.cert:
        missing.append("[tls] cert, key and ca")
    if "client" in reached and not config.security.users:
        missing.append("[security] users")
    if missing:
        where = " and ".join(f"{name}.host ({sections[name].host})" for name in reached)
        raise ValueError(
            f"{where} can be reached from other machines: {' and '.join(missing)} must be given. If that is "
            f'what you want, say so: [security] unprotected = "{UNPROTECTED}"'
        )


def load_node(path: Path, environment: Mapping[str, str]) -> NodeConfig:
    """A node's settings. Raises `ConfigError` naming every wrong one."""
    return _load(NodeConfig, path, environment)


def load_router(path: Path, environment: Mapping[str, str]) -> RouterConfig:
    """A router's settings. Raises `ConfigError` naming every wrong one."""
    return _load(RouterConfig, path, environment)


def kind_of(path: Path) -> Literal["node", "router"]:
    """Whose file it is: nodes have a data_dir. Raises `ConfigError` for what is no TOML."""
    return "node" if "data_dir" in _read(path) else "router"


def describe() -> str:
    """Every setting with its meaning, its default and the variable that sets it, as commented TOML."""
    return "\n".join([*_describe("A data node", NodeConfig), "", *_describe("A router", RouterConfig)])


def _load(kind: type[C], path: Path, environment: Mapping[str, str]) -> C:
    values = _read(path)
    problems: list[str] = _overlay(kind, values, environment)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        problems += [_problem(dict(detail), kind) for detail in error.errors()]
    if problems:
        raise ConfigError("\n  ".join([f"{path}: {len(problems)} wrong", *problems]))
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from None


def _overlay(kind: type[Section], values: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Put settings of the environment over those of the file; returns what is wrong with them."""
    known = {variable: place for place, variable, _ in _settings(kind)}
    problems: list[str] = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(_PREFIX):
            continue
        place = known.get(variable)
        if place is None and _SEPARATOR not in variable:
            continue
        if place is None:
            problems.append(f"{variable}: no such setting; `fortdb config reference` lists them")
            continue
        *sections, key = place
        where = values
        for section in sections:
            where = where.setdefault(section, {})
        field = _field(kind, place)
        where[key] = text.split(",") if field is not None and "tuple" in str(field.annotation) else text
    return problems


def _problem(detail: dict[str, Any], kind: type[Section]) -> str:
    place = tuple(str(part) for part in detail["loc"])
    name = ".".join(place) or "settings"
    if detail["type"] == "extra_forbidden":
        parent = _section(kind, place[:-1])
        known = ", ".join(parent.model_fields) if parent is not None else "none"
        return f"{name}: no such setting; there are {known}"
    if detail["type"] == "missing":
        field = _field(kind, place)
        meaning = (field.description if field is not None else "") or "see `fortdb config reference`"
        return f"{name}: must be given: {meaning}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name}: {message}, not {json.dumps(detail['input'], default=str)}"


def _settings(
    kind: type[Section], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, FieldInfo]]:
    """Every setting: its place, its variable in the environment, its field."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _settings(inner, (*place, name))
        else:
            yield (*place, name), _PREFIX + _SEPARATOR.join((*place, name)).upper(), field


def _section(kind: type[Section], place: tuple[str, ...]) -> type[Section] | None:
    for name in place:
        field = kind.model_fields.get(name)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        ):
            return None
        kind = field.annotation
    return kind


def _field(kind: type[Section], place: tuple[str, ...]) -> FieldInfo | None:
    section = _section(kind, place[:-1])
    return section.model_fields.get(place[-1]) if section is not None and place else None


def _describe(title: str, kind: type[Section]) -> Iterator[str]:
    yield f"# {title}'s file."
    section: tuple[str, ...] = ()
    for place, variable, field in _settings(kind):
        if place[:-1] != section:
            section = place[:-1]
            holder = _section(kind, section)
            assert holder is not None
            yield ""
            yield f"# {(holder.__doc__ or '').splitlines()[0]}"
            yield f"[{'.'.join(section)}]"
        meaning = " ".join((field.description or "").split())
        yield f"# {meaning} {_allowed(field)}({variable})"
        default = _default(kind, place, field)
        yield f"{place[-1]} = ..." if default is _REQUIRED else f"# {place[-1]} = {json.dumps(default)}"


_REQUIRED = object()


def _default(kind: type[Section], place: tuple[str, ...], field: FieldInfo) -> object:
    """Its default, as its section in this kind of file has it."""
    if field.is_required():
        return _REQUIRED
    if len(place) == 2 and not kind.model_fields[place[0]].is_required():
        return getattr(kind.model_fields[place[0]].default, place[1])
    return field.default


def _allowed(field: FieldInfo) -> str:
    words = [f"{limit} {value}" for limit, value in _bounds(field)]
    if str(field.annotation).startswith("typing.Literal"):
        words.append("one of " + ", ".join(map(str, get_args(field.annotation))))
    return f"[{'; '.join(words)}] " if words else ""


def _bounds(field: FieldInfo) -> Iterator[tuple[str, object]]:
    for limit, word in (("ge", "from"), ("le", "to"), ("multiple_of", "a multiple of")):
        for rule in field.metadata:
            if (value := getattr(rule, limit, None)) is not None:
                yield word, value

"""Whose data directory this is, and which life of the process on it.

`node.json` says which cluster and node the directory belongs to, its disk id (drawn when the
directory is made), how many starts it has seen and whether the last stop was a clean one. The
coordination store knows a replica as in sync only in one `incarnation` = `<disk id>.<life>`, so a
restarted process, a swapped disk and an emptied one are all told from what was there before
(rules 5 and 9).

Rules:

* A directory is taken only if it is empty or says that it is ours. Data without an identity is
  refused: treating it as empty would forget acknowledged writes.
* An identity without the engine's data means that the data was lost or never came to be; that is
  another disk, so it gets a new disk id.
* `node.json` changes by a rename, so a reader sees the old one or the new one.
* One process at a time: the lock on the file `lock` ends with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fortdb.errors import ConfigError, DiskFull, StorageFailed
from fortdb.storage.room import MAKE_ROOM, is_full

IDENTITY_FILE = "node.json"
LOCK_FILE = "lock"
ENGINE_DIRECTORY = "engine"

_NOT_DATA = {IDENTITY_FILE, f"{IDENTITY_FILE}.new", LOCK_FILE, f"{ENGINE_DIRECTORY}.making", "lost+found"}
"""What an interrupted first start, or the making of a file system, leaves behind."""

_FIELDS = {"cluster": str, "node": str, "disk_id": str, "life": int, "clean": bool}


@dataclass(slots=True)
class Identity:
    """A data directory that this process holds. `was_clean`: nothing of the life before can be missing."""

    path: Path
    cluster: str
    node: str
    disk_id: str
    life: int
    was_clean: bool
    lock: int

    @property
    def incarnation(self) -> str:
        """`<disk id>.<life>`, the name of this life in the coordination store."""
        return f"{self.disk_id}.{self.life}"

    @property
    def engine_path(self) -> Path:
        """Where the storage engine keeps its files."""
        return self.path / ENGINE_DIRECTORY

    def release(self) -> None:
        """Let another process have the directory. Idempotent; the end of the process does it too."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def open_directory(path: Path, cluster: str, node: str) -> Identity:
    """Take the data directory for a new life of `node`, making it if it is absent or empty.

    Raises `ConfigError` if it belongs to somebody else or holds data of unknown origin,
    `StorageFailed` if another process holds it or the disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        return _next_life(path, cluster, node, lock)
    except OSError as error:
        os.close(lock)
        raise _refused(path, error) from error
    except BaseException:
        os.close(lock)
        raise


def former_incarnation(path: Path) -> str:
    """The name of the last life on the directory, for a process that could not begin another one there: what it
    says under that name replaces what the last life said. Of a disk without any, a name that nobody had."""
    try:
        return _read(path, -1).incarnation
    except (OSError, ConfigError):
        return f"{_draw_disk_id()}.0"


def mark_clean(identity: Identity) -> None:
    """The last act of an orderly stop, after the engine closed without an error; releases the directory."""
    assert identity.lock >= 0, "the directory was released before"
    try:
        _write(identity, clean=True)
    except OSError as error:
        raise _refused(identity.path, error) from error
    identity.release()


def _next_life(path: Path, cluster: str, node: str, lock: int) -> Identity:
    names = {entry.name for entry in path.iterdir()}
    has_data = bool(names - _NOT_DATA)
    if IDENTITY_FILE not in names:
        if has_data:
            some = ", ".join(sorted(names - _NOT_DATA)[:3])
            raise ConfigError(
                f"data_directory {path} holds files ({some}) but no {IDENTITY_FILE}, so nobody knows whose they"
                " are: name an empty directory, or put the file back if it was lost"
            )
        identity = Identity(path, cluster, node, _draw_disk_id(), 1, was_clean=False, lock=lock)
    else:
        identity = _read(path, lock)
        _check_owner(identity, "cluster", identity.cluster, cluster)
        _check_owner(identity, "node", identity.node, node)
        identity.life += 1
        if ENGINE_DIRECTORY not in names:
            identity.disk_id, identity.life, identity.was_clean = _draw_disk_id(), 1, False
    _write(identity, clean=False)
    return identity


def _check_owner(identity: Identity, key: str, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise ConfigError(
            f"{key} is {ours!r}, but data_directory {identity.path} belongs to {key} {theirs!r}: correct {key} in the"
            " configuration, or name another data_directory"
        )


def _read(path: Path, lock: int) -> Identity:
    file = path / IDENTITY_FILE
    try:
        document = json.loads(file.read_bytes())
        if not isinstance(document, dict) or document.keys() != _FIELDS.keys():
            raise ValueError(f"it must be an object with the keys {', '.join(_FIELDS)}")
        for key, kind in _FIELDS.items():
            if type(document[key]) is not kind:
                raise ValueError(f"{key} must be of type {kind.__name__}")
    except ValueError as error:
        raise ConfigError(
            f"{file} cannot be understood ({error}): put back what was there, or empty data_directory {path} and let"
            " the node copy its data from the other replicas"
        ) from error
    return Identity(
        path,
        document["cluster"],
        document["node"],
        document["disk_id"],
        document["life"],
        document["clean"],
        lock,
    )


def _write(identity: Identity, *, clean: bool) -> None:
    """Replace `node.json` so that it is there, old or new, whenever the power goes."""
    document = {
        "cluster": identity.cluster,
        "node": identity.node,
        "disk_id": identity.disk_id,
        "life": identity.life,
        "clean": clean,
    }
    file = identity.path / IDENTITY_FILE
    new = file.with_name(f"{IDENTITY_FILE}.new")
    with new.open("w", encoding="utf-8") as output:
        json.dump(document, output, indent=2)
        output.write("\n")
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)
    directory = os.open(identity.path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _lock(path: Path) -> int:
    """An exclusive lock on the directory; its descriptor is not handed to child processes."""
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StorageFailed(
            f"another process{f' ({holder})' if holder else ''} holds data_directory {path}: stop it first, or give"
            " this node its own directory"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    # A courtesy to whoever is refused; a full disk must not keep the node from starting to be emptied.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _draw_disk_id() -> str:
    return secrets.token_hex(8)


def _refused(path: Path, error: OSError) -> StorageFailed:
    message = f"data_directory {path} cannot be used: {error}"
    return DiskFull(f"{message}; {MAKE_ROOM}") if is_full(error) else StorageFailed(message)

"""How an engine fails: once, for good, and with a reason that says what to do.

An engine that failed stays failed. RocksDB can resume from some errors by itself, but after a failed fsync
nobody knows which pages are on the disk; only reading them anew, at a start, tells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rocksdict import DbClosedError

from fortdb.errors import DiskFull, StorageFailed
from fortdb.storage.room import MAKE_ROOM

_FULL = ("No space left", "quota exceeded")
_HELD = ("While lock file", "lock hold by current process")
_DAMAGED = (
    "A file is damaged: empty the node's data directory, or give it another disk, and let the node copy its data"
    " from the other replicas"
)
_ADVICE = {
    "Corruption": _DAMAGED,
    "IO error": "Look at the disk and at the kernel's messages, then start the node again",
}


class Guard:
    """`with guard:` turns what is raised inside into the engine's failure, off the hot path."""

    def __init__(self, fail: Callable[[Exception], NoReturn]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        del trace  # see `_give_up`
        if isinstance(error, Exception):
            self._fail(error)


class Failing:
    """What an engine in a directory remembers of its failure. Any thread may meet it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        self.refuses = False
        """Whether it failed, or is closed."""
        self.guard = Guard(self.fail)
        self._failed_as: type[StorageFailed] = StorageFailed

    def refuse(self, *_: object) -> NoReturn:
        """Say why nothing can be read or written any more."""
        raise self._failed_as(self.failure or f"the engine in {self.path} is closed")

    def refuse_if_failed(self) -> None:
        """Raise if nothing can be read or written any more."""
        if self.refuses:
            self.refuse()

    def stop_waiting_if_failed(self) -> None:
        """Raise if it failed. If it only is about to close, what has been begun is carried out."""
        if self.failure is not None:
            self.refuse()

    def stop_answering(self) -> None:
        """From now on every call is refused."""
        self.refuses = True

    def fail(self, error: Exception) -> NoReturn:
        """Turn what RocksDB or the journal raises into ours. RocksDB only knows plain `Exception`; anything
        else is ours already, or a caller's mistake (a key that is no bytes) and no failure of the storage."""
        if isinstance(error, DbClosedError):
            self.refuse()
        if type(error) is not Exception and not isinstance(error, OSError):
            raise error
        text = f"IO error: {error}" if isinstance(error, OSError) else str(error)
        if any(sign in text for sign in _FULL):
            self._give_up(DiskFull, f"the disk of {self.path} is full: {text}; {MAKE_ROOM}", error)
        advice = next((advice for sign, advice in _ADVICE.items() if sign in text), "Start the node again")
        self._give_up(StorageFailed, f"the storage engine in {self.path} failed: {text}. {advice}", error)

    def fail_later(self, error: Exception) -> None:
        """Another thread met an error: the next call tells."""
        if type(error) is not Exception and not isinstance(error, (OSError, StorageFailed)):
            error = Exception(repr(error))
        with suppress(StorageFailed):
            self.fail(error)

    def fail_to_open(self, error: Exception) -> NoReturn:
        """The same for what opening the database raised."""
        if any(sign in str(error) for sign in _HELD):
            message = f"another process holds {self.path}: stop it first, or give this node its own directory"
            self._give_up(StorageFailed, message, error)
        self.fail(error)

    def damaged(self, what: str, cause: Exception | None = None) -> NoReturn:
        """What is stored is not what was written."""
        self._give_up(StorageFailed, f"{what}. {_DAMAGED}", cause)

    def _give_up(self, kind: type[StorageFailed], reason: str, cause: Exception | None) -> NoReturn:
        """Fail now and from now on. The first reason stays: what follows is a consequence."""
        if self.failure is None:
            self._failed_as = kind
            self.failure = reason
        self.stop_answering()
        # The frames that the cause went through have handles of families, which would keep the files open.
        raise kind(reason) from cause and cause.with_traceback(None)

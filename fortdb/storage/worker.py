"""A thread that does one kind of work whenever it is asked to, for what must not hold up the server's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Calls `work` once or more after every `wake`, one call at a time. What `work` raises goes to
    `failed`, and the worker goes on: whoever hears of it stops it."""

    def __init__(self, name: str, work: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        self._work = work
        self._failed = failed
        self._asked = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is work. Returns at once."""
        self._asked.set()

    def stop(self) -> None:
        """Return once the thread has ended, after the work that it may be at. Idempotent."""
        self._stopping = True
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopping:
                return
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  the edge of the thread
                self._failed(error)

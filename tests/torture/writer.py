"""A program that writes lines, to have its power cut: `writer.py PATH MODE COUNT`. Says `done`.

`sync` and `async` append them; `over-sync` and `over-async` write them over zeros that are on the disk.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

LINE_BYTES = 9


def _write_over(file: int, line: bytes, position: int) -> None:
    """By either of the calls that there are for it."""
    if line[-2] % 2:
        os.pwrite(file, line, position)
    else:
        os.pwritev(file, [line[:4], line[4:]], position)


def main() -> None:
    path, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    path.parent.mkdir(exist_ok=True)
    with path.open("wb", buffering=0) as file:
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(file.fileno())
        os.fsync(directory)
        if mode.startswith("over"):
            file.write(bytes(LINE_BYTES * count))
            os.fsync(file.fileno())
        for number in range(count):
            line = b"%08d\n" % number
            if mode.startswith("over"):
                _write_over(file.fileno(), line, LINE_BYTES * number)
            else:
                file.write(line)
            if mode.endswith("-sync") or mode == "sync":
                os.fdatasync(file.fileno())
        (path.parent / "nameless").write_bytes(b"its directory is not synced again")
        print("done", time.time(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

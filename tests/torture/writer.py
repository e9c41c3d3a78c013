"""A program that writes lines, to have its power cut: `writer.py PATH sync|async COUNT`. Says `done`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main() -> None:
    path, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    path.parent.mkdir(exist_ok=True)
    with path.open("wb", buffering=0) as file:
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(file.fileno())
        os.fsync(directory)
        for number in range(count):
            file.write(b"%08d\n" % number)
            if mode == "sync":
                os.fdatasync(file.fileno())
        (path.parent / "nameless").write_bytes(b"its directory is not synced again")
        print("done", time.time(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

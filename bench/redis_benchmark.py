"""redis-benchmark, to hold our own generator against: the same load, from the tool that everybody knows.

It has no mixes of reads and writes, its CSV no 99.9th percentile, and it does not look at the values that
it reads, which is why it is the control and not the measure.
"""

from __future__ import annotations

import csv
import io
import subprocess
from typing import NamedTuple

from bench.data import KEY_BYTES
from bench.processes import BenchError


class Control(NamedTuple):
    """A line of redis-benchmark's CSV."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def parse(text: str) -> dict[str, Control]:
    """By name of the test. Raises `BenchError` for output that is none, and for errors in it."""
    for line in text.splitlines():
        if line.startswith(("Error", "WARNING: Could not")):
            raise BenchError(f"redis-benchmark: {line}")
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    try:
        return {
            row["test"].split(" ")[0]: Control(
                float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"])
            )
            for row in rows
        }
    except (KeyError, ValueError) as error:
        raise BenchError(f"redis-benchmark's CSV is not understood: {error!r}") from None


def run(port: int, *, requests: int, connections: int, pipeline: int, keys: int, value_bytes: int) -> Control:
    """`SET` of random keys; returns what it says."""
    command = [
        "redis-benchmark",
        *("-h", "127.0.0.1", "-p", str(port), "--csv", "-e"),
        *("-n", str(requests), "-c", str(connections), "-P", str(pipeline), "-r", str(keys)),
        *("SET", f"{'control:':<{KEY_BYTES - 12}}__rand_int__".replace(" ", ":"), "v" * value_bytes),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise BenchError(f"redis-benchmark ended with {done.returncode}: {done.stderr or done.stdout}")
    found = parse(done.stdout + done.stderr)
    return next(iter(found.values()))

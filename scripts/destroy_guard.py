#!/usr/bin/env python3
"""Refuse a Terraform plan that would remove more than the ring can lose.

    terraform plan -out plan.tfplan
    terraform show -json plan.tfplan | scripts/destroy_guard.py
    terraform apply plan.tfplan

A partition lives on `--replication` nodes and takes writes with `--min-in-sync` of them, so a plan may
remove or replace at most the difference at once, and it never may take a data volume, the backup bucket or
the Elastic IP without being told so by name. Exit code 0: go on. 2: refused. 1: no plan. Standard library
only, so that it runs wherever Terraform does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        with sys.stdin if options.plan == "-" else open(options.plan, encoding="utf-8") as file:
            changes = json.load(file)["resource_changes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(
            f"destroy_guard: this is no plan: {error!r}; make it with terraform show -json", file=sys.stderr
        )
        return 1
    if not isinstance(changes, list):
        print(
            "destroy_guard: this is no plan: it lists no changes; make it with terraform show -json",
            file=sys.stderr,
        )
        return 1
    problems = list(judge(changes, options.replication - options.min_in_sync, set(options.allow)))
    for problem in problems:
        print(f"destroy_guard: REFUSED: {problem}", file=sys.stderr)
    if not problems:
        print("destroy_guard: the ring can bear this plan")
    return REFUSED if problems else 0


def judge(changes: Iterable[dict[str, Any]], nodes_max: int, allowed: set[str]) -> Iterable[str]:
    """What is wrong with a plan's changes; `allowed` are addresses that may go."""
    lost = [change for change in changes if "delete" in change["change"]["actions"]]
    nodes = sorted(change["address"] for change in lost if _is(change, "aws_instance", "node"))
    if len(nodes) > nodes_max:
        yield (
            f"{_count(nodes, 'node')} would be removed or replaced at once ({', '.join(nodes)}), and the ring can "
            f"spare {nodes_max}: move their partitions away first (fortdb layout plan --remove), or go one by one"
        )
    for change in lost:
        address = change["address"]
        for kind, name, loss in (
            ("aws_ebs_volume", "data", "all data of its node"),
            ("aws_s3_bucket", "backup", "all backups"),
            ("aws_eip", "this", "the address that every client knows"),
        ):
            if _is(change, kind, name) and address not in allowed:
                yield f"{address} would be deleted, and with it {loss}; if that is meant: --allow '{address}'"


def _is(change: dict[str, Any], kind: str, name: str) -> bool:
    return bool(change.get("type") == kind and change.get("name") == name)


def _count(things: Sequence[str], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Refuse a plan that would remove more than the ring can lose."
    )
    parser.add_argument(
        "plan", nargs="?", default="-", help="output of terraform show -json; - is standard input"
    )
    parser.add_argument("--replication", type=int, default=3, help="replicas of a partition (3)")
    parser.add_argument("--min-in-sync", type=int, default=2, help="replicas that writes need (2)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="ADDRESS", help="may be deleted; repeatable"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

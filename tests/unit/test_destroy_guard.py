"""The guard before `terraform apply`: what it lets through, and what it does not."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from scripts.destroy_guard import judge, main


def change(kind: str, name: str, key: str | None, *actions: str) -> dict[str, Any]:
    address = f"{kind}.{name}" + (f'["{key}"]' if key else "")
    return {"address": address, "type": kind, "name": name, "change": {"actions": list(actions)}}


def node(number: int, *actions: str) -> dict[str, Any]:
    return change("aws_instance", "node", f"node-{number:02}", *actions)


def test_growing_and_changing_in_place_are_harmless() -> None:
    assert not list(judge([node(4, "create"), node(1, "update"), node(2, "no-op")], 1, set()))


def test_one_node_may_go_and_two_may_not() -> None:
    assert not list(judge([node(1, "delete", "create")], 1, set()))
    (problem,) = judge([node(1, "delete"), node(2, "create", "delete")], 1, set())
    assert "2 nodes" in problem
    assert 'aws_instance.node["node-02"]' in problem


def test_routers_may_go() -> None:
    gone = [change("aws_instance", "router", f"router-0{number}", "delete") for number in (1, 2)]
    assert not list(judge(gone, 0, set()))


@pytest.mark.parametrize(
    ("kind", "name", "key"),
    [("aws_ebs_volume", "data", "node-01"), ("aws_s3_bucket", "backup", None), ("aws_eip", "this", None)],
)
def test_what_cannot_be_had_back_needs_its_name(kind: str, name: str, key: str | None) -> None:
    gone = change(kind, name, key, "delete")
    (problem,) = judge([gone], 1, set())
    assert gone["address"] in problem
    assert not list(judge([gone], 1, {gone["address"]}))


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(text: str, *arguments: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return main(arguments)

    two_gone = json.dumps({"resource_changes": [node(1, "delete"), node(2, "delete")]})
    assert run(two_gone) == 2
    assert "REFUSED" in capsys.readouterr().err
    assert run(two_gone, "--replication", "5", "--min-in-sync", "3") == 0
    for nonsense in ("", "[]", "{}", '{"resource_changes": null}'):
        assert run(nonsense) == 1
    assert "terraform show -json" in capsys.readouterr().err

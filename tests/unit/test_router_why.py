"""What `WHY` concludes from what it was told; the parties themselves are played by a real ring elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fortdb.limits import CHANNEL_REQUESTS_MAX, UNCOMMITTED_BYTES_MAX
from fortdb.model import (
    ClusterView,
    Keyspace,
    Layout,
    NodeRecord,
    NodeSpec,
    NodeState,
    Partition,
    PartitionRecord,
)
from fortdb.ring.tokens import TokenMap
from fortdb.router.channels import Channel, Unanswered
from fortdb.router.explain import Asked, explain

NAMES = ("n1", "n2", "n3")
LAYOUT = Layout(1, 3, 2, {name: NodeSpec("z") for name in NAMES}, (Partition(0, "p-000", 7, NAMES),))
RECORD = PartitionRecord("p-000", "n1", 4, dict.fromkeys(NAMES, "d.1"), NAMES, revision=9)
NODES = {
    name: NodeRecord(name, "z", "h:1", f"{name}:2", "h:3", "d.1", NodeState.SERVING, "0") for name in NAMES
}
FOLLOWER = {"incarnation": "d.1", "phase": "stream", "lag": 0, "lag_ms": 90, "promise_left_ms": 2_900}
SERVING = {
    "refusal": None,
    "serves_ms": 2_500,
    "lease_ttl_ms": 3_000,
    "lease_left_ms": 2_800,
    "lease_margin_ms": 300,
    "heartbeat_ms": 100,
    "has_opened": True,
    "alone_in_ms": 0,
    "handover_to": None,
    "held": 0,
    "uncommitted_bytes": 0,
    "followers": {"n2": FOLLOWER, "n3": FOLLOWER},
}


class Nobody:
    def complete(self, reply: bytes) -> None: ...


def asked(serving: dict[str, Any] | None = None, **changes: Any) -> Asked:
    """A partition that is well, but for what is said otherwise."""
    channel = Channel(0, "p-000")
    channel.route("n1", 4, None)
    told = {**SERVING, **(serving or {})}
    report = {"role": "follower", "epoch": 4, "last_offset": 12, "commit_offset": 12, "serving": None}
    base = Asked(
        key=b"k",
        view=ClusterView(1, LAYOUT, 1, NODES, {"p-000": RECORD}, controller="n2"),
        layout=LAYOUT,
        tokens=TokenMap(LAYOUT),
        channel=channel,
        record=RECORD,
        store_error="",
        links=dict.fromkeys(NAMES, True),
        reports={**dict.fromkeys(NAMES, report), "n1": {**report, "role": "leader", "serving": told}},
    )
    return replace(base, **changes)


def told(case: Asked) -> tuple[Any, list[tuple[str, str, str]]]:
    answer: dict[str, Any] = explain(case)
    return answer["verdict"], [(one["level"], one["blocks"], one["text"]) for one in answer["findings"]]


def view_with(**nodes: NodeRecord | None) -> ClusterView:
    living = {name: node for name, node in {**NODES, **nodes}.items() if node is not None}
    return ClusterView(1, LAYOUT, 1, living, {"p-000": RECORD}, controller="n2")


BOTH, WRITES = "reads and writes", "writes"


def test_nothing_stands_in_the_way() -> None:
    assert told(asked()) == ("served", [])


@pytest.mark.parametrize(
    ("serving", "blocks", "text"),
    [
        ({"handover_to": "n2"}, BOTH, "n1 hands the partition to n2"),
        ({"lease_left_ms": 300, "serves_ms": 0}, BOTH, "n1 holds no lease"),
        ({"serves_ms": 0, "alone_in_ms": 70}, BOTH, "n1 waits 70 ms more"),
        (
            {"serves_ms": 0, "has_opened": False},
            BOTH,
            "n1 waits for those in sync to have the first entry of epoch 4",
        ),
        (
            {"serves_ms": 0, "followers": {"n2": FOLLOWER, "n3": {**FOLLOWER, "promise_left_ms": 0}}},
            BOTH,
            "n1 waits for the promise of n3",
        ),
        ({"refusal": "the disk is full"}, WRITES, "n1 refuses writes: the disk is full"),
        ({"uncommitted_bytes": UNCOMMITTED_BYTES_MAX + 1}, WRITES, "67,108,865 bytes wait for the followers"),
        ({"followers": {"n2": FOLLOWER}}, WRITES, "n3 is gone and in sync by the record"),
        (
            {"followers": {"n2": FOLLOWER, "n3": {**FOLLOWER, "incarnation": "d.2"}}},
            WRITES,
            "n3 is gone and in sync by the record",
        ),
    ],
)
def test_what_the_leader_says_blocks(serving: dict[str, Any], blocks: str, text: str) -> None:
    verdict, findings = told(asked(serving))
    assert verdict == "blocked"
    assert [(level, what) for level, what, _ in findings] == [("blocked", blocks)]
    assert findings[0][2].startswith(text)


@pytest.mark.parametrize(
    ("serving", "text"),
    [
        ({"lease_left_ms": 1_000}, "n1 has 1000 of 3000 ms left of its lease"),
        ({"followers": {"n2": FOLLOWER, "n3": {**FOLLOWER, "lag_ms": 600}}}, "n3 was level 600 ms ago"),
    ],
)
def test_what_may_soon_block(serving: dict[str, Any], text: str) -> None:
    verdict, findings = told(asked(serving))
    assert verdict == "degraded"
    assert [level for level, _, _ in findings] == ["degraded"]
    assert findings[0][2].startswith(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"record": None}, "p-000 has no record in the coordination store"),
        (
            {"record": replace(RECORD, leader=None)},
            "nobody leads; the controller (n2) is about to let n1 lead",
        ),
        (
            {"view": view_with(n1=None)},
            "n1 led, and its lease in the coordination store has ended; the controller",
        ),
        (
            {"view": view_with(n1=replace(NODES["n1"], state=NodeState.FAILED, reason="full"))},
            "n1 led, and has failed: full; the controller (n2) is about to let n2 lead",
        ),
        ({"view": view_with(n1=replace(NODES["n1"], incarnation="d.2"))}, "n1 led, and was started anew"),
        (
            {"view": view_with(n1=None), "record": replace(RECORD, isr={"n1": "d.1", "n2": "old.1"})},
            "n1 led, and its lease in the coordination store has ended; of those in sync (n1, n2) nobody is there",
        ),
        ({"links": dict.fromkeys(NAMES, False)}, "this router has no connection to n1 at n1:2"),
        ({"reports": {}}, "n1 does not answer"),
        ({"reports": {"n1": None}}, "n1 does not know yet that it leads in epoch 4"),
    ],
)
def test_nobody_serves(changes: dict[str, Any], text: str) -> None:
    verdict, findings = told(asked(**changes))
    assert verdict == "blocked"
    assert findings[0][:2] == ("blocked", BOTH)
    assert findings[0][2].startswith(text)


def test_too_few_in_sync_and_fewer_than_there_ought_to_be() -> None:
    verdict, findings = told(asked(record=replace(RECORD, isr={"n1": "d.1", "n2": "d.1"})))
    assert (verdict, findings) == ("degraded", [("degraded", "", "2 of 3 in sync, without n3 (catching up)")])
    verdict, findings = told(asked(record=replace(RECORD, isr={"n1": "d.1"}), view=view_with(n3=None)))
    text = "1 in sync, and a write needs 2: start n2 (catching up), n3 (down)"
    assert (verdict, findings) == ("blocked", [("blocked", WRITES, text)])


def test_what_is_only_worth_a_word() -> None:
    moving = replace(RECORD, replicas=("n1", "n2", "n4"), isr={**RECORD.isr})
    case = asked({"held": 2}, record=moving)
    case.channel.send(Unanswered(b"", Nobody(), True, 0))
    verdict, findings = told(case)
    assert verdict == "served"
    assert [text for _, _, text in findings] == [
        "1 requests wait for their answers at this router",
        "n1 holds 2 requests until it serves",
        "a move is under way: n1, n2, n4 hold it, and the layout wants n1, n2, n3",
    ]


def test_what_the_router_and_the_store_do() -> None:
    verdict, findings = told(asked(store_error="no member answers"))
    assert verdict == "degraded"
    assert findings[0][2].startswith("the coordination store does not answer (no member answers)")
    verdict, findings = told(asked(view=replace(view_with(), controller=None)))
    assert (verdict, findings[0][2][:22]) == ("degraded", "there is no controller")
    verdict, findings = told(asked(record=replace(RECORD, epoch=5)))
    assert verdict == "blocked"
    assert findings[0][2] == "n1 does not know yet that it leads in epoch 5"
    assert findings[1][2] == "this router sends to n1 in epoch 4 still; the record says n1 in epoch 5"
    full = asked()
    full.channel.unanswered = dict.fromkeys(range(CHANNEL_REQUESTS_MAX), Unanswered(b"", Nobody(), True, 0))
    assert told(full) == (
        "blocked",
        [("blocked", BOTH, "20,000 requests wait at this router, and it takes no more")],
    )


def test_a_key_is_in_the_keyspace_that_its_name_begins_with() -> None:
    view = replace(view_with(), keyspaces={"orders": Keyspace("orders")})
    names = [explain(asked(key=key, view=view))["keyspace"] for key in (b"orders/1", b"orders", b"\xff/1")]
    assert [name["name"] for name in names] == ["orders", None, None]  # type: ignore[index]

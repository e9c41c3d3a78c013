"""Addresses, and the admin documents parsed strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fortdb.client import Address, parse_address, parse_plan, parse_record_id, parse_ring, read_plan
from fortdb.client.status import parse_keyspace, parse_keyspaces
from fortdb.errors import BadRequest, ProtocolError
from fortdb.model import Ack, Keyspace, Policy, RecordId


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("fortdb://db.example:7000", Address("db.example", 7000), "db.example:7000"),
        ("fortdb://db.example", Address("db.example", 5000), "db.example:5000"),
        ("fortdb://db.example/", Address("db.example", 5000), "db.example:5000"),
        ("10.0.0.1:6000", Address("10.0.0.1", 6000), "10.0.0.1:6000"),
        ("localhost", Address("localhost", 5000), "localhost:5000"),
        ("fortdb://[::1]:5001", Address("::1", 5001), "[::1]:5001"),
    ],
)
def test_addresses(text: str, address: Address, written: str) -> None:
    assert parse_address(text) == address
    assert str(address) == written
    assert parse_address(written) == address


@pytest.mark.parametrize(
    "text",
    ["", "redis://host:1", "fortdb://", "fortdb://h:port", "h:0", "h:70000", "fortdb://h/3", "u@h", "[::1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadRequest, match="fortdb://host:port"):
        parse_address(text)


def ring_document() -> dict[str, Any]:
    return {
        "cluster": "test",
        "controller": None,
        "layout": {"version": 2, "replication": 3, "min_in_sync": 2},
        "partitions": [
            {
                "id": 0,
                "name": "p0",
                "token": "8000000000000000",
                "share": 1,
                "replicas": ["n1", "n2"],
                "leader": "n2",
                "epoch": 4,
                "isr": ["n1", "n2"],
                "preferred": None,
                "moving": False,
                "last_offset": 10,
                "commit_offset": None,
                "lag": {"n1": 3},
            }
        ],
        "nodes": [
            {
                "name": "n1",
                "zone": "a",
                "state": "serving",
                "reason": "",
                "client_address": "127.0.0.1:1",
                "peer_address": "127.0.0.1:2",
                "status_address": "127.0.0.1:3",
                "version": "0.1.0",
                "leads": 0,
                "holds": 1,
                "bytes_on_disk": 12,
                "bytes_free": None,
            }
        ],
        "keyspaces": [{"name": "orders", "ack": "async"}],
        "from_the_future": 1,
    }


def test_a_ring() -> None:
    ring = parse_ring(json.dumps(ring_document()).encode())
    assert ring.layout is not None and ring.layout.min_in_sync == 2
    (partition,) = ring.partitions
    assert partition.token == 1 << 63
    assert partition.share == 1.0
    assert partition.followers == ("n1",)
    assert partition.lag == {"n1": 3}
    assert ring.nodes[0].bytes_free is None
    assert ring.keyspaces == (Keyspace("orders", Ack.ASYNC),)


def test_a_ring_without_a_layout() -> None:
    document = ring_document() | {"layout": None, "partitions": []}
    assert parse_ring(json.dumps(document).encode()).layout is None


def test_every_field_is_needed_and_typed() -> None:
    """Removing or spoiling any field of any object names it in the error."""
    whole = ring_document()
    places = [("RING", whole), ("RING.layout", whole["layout"])]
    places += [("RING.partitions[0]", whole["partitions"][0]), ("RING.nodes[0]", whole["nodes"][0])]
    places += [("RING.keyspaces[0]", whole["keyspaces"][0])]
    for path, part in places:
        for name in [key for key in part if key != "from_the_future"]:
            value = part.pop(name)
            with pytest.raises(ProtocolError) as missing:
                parse_ring(json.dumps(whole).encode())
            part[name] = True if name != "moving" else 1
            with pytest.raises(ProtocolError) as spoiled:
                parse_ring(json.dumps(whole).encode())
            part[name] = value
            assert f"{path}.{name}" in str(missing.value)
            assert f"{path}.{name}" in str(spoiled.value)
    parse_ring(json.dumps(whole).encode())


def test_what_is_no_json() -> None:
    with pytest.raises(ProtocolError, match="not JSON"):
        parse_ring(b"<html>")
    with pytest.raises(ProtocolError, match="not an object"):
        parse_ring(b"[]")


def test_a_plan_keeps_its_bytes() -> None:
    document = json.dumps(
        {
            "base_version": 2,
            "layout": {"version": 3, "replication": 3},
            "moves": [
                {
                    "partition": "p0",
                    "share": 0.5,
                    "add": ["n3"],
                    "remove": ["n1"],
                    "leader_before": "n1",
                    "leader_after": None,
                }
            ],
            "share_moved": 0.25,
            "loads": {"n1": 1},
        },
        indent=3,
    ).encode()
    plan = parse_plan(document)
    assert (plan.base_version, plan.layout_version, plan.share_moved) == (2, 3, 0.25)
    assert plan.moves[0].add == ("n3",)
    assert plan.document == document
    with pytest.raises(BadRequest, match="no layout plan"):
        read_plan(b'{"base_version": 1}')


def test_keyspaces() -> None:
    assert parse_keyspaces(b'[{"name": "a", "ack": "sync"}]') == (Keyspace("a", Ack.SYNC),)
    with pytest.raises(ProtocolError, match="sync or async"):
        parse_keyspaces(b'[{"name": "a", "ack": "never"}]')
    document = b'{"name": "a", "ack": "sync", "policy": "%b", "retention_ms": 5, "keep": 0, "version": 3, "closed": true}'
    assert parse_keyspace(document % b"records") == Keyspace("a", Ack.SYNC, Policy.RECORDS, 5, 0, 3, True)
    with pytest.raises(ProtocolError, match="plain, records, versions or worm"):
        parse_keyspace(document % b"tapes")


def test_ids_of_records() -> None:
    assert parse_record_id("17-4") == parse_record_id(b"17-4") == RecordId(17, 4)
    assert str(RecordId(17, 4)) == "17-4"
    for wrong in ("", "17", "17-", "-4", "17-x", "17-4-5"):
        with pytest.raises(BadRequest, match="ms-number"):
            parse_record_id(wrong)

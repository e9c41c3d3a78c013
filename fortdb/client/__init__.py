"""The FortDB client library: `Client`, and the values and errors it hands out."""

from fortdb.client.access import OPEN, Access
from fortdb.client.address import PORT_DEFAULT, Address, parse_address, parse_url
from fortdb.client.client import Client
from fortdb.client.connection import Connection, Reply
from fortdb.client.failures import Conflict, ConnectionFailed
from fortdb.client.feed import Change, Feed
from fortdb.client.pipeline import Later, Pipeline
from fortdb.client.records import Record, Version, parse_record_id
from fortdb.client.status import (
    LayoutPlan,
    NodeStatus,
    PartitionStatus,
    PlannedMove,
    RingStatus,
    parse_plan,
    parse_ring,
    read_plan,
)
from fortdb.client.transaction import Transaction
from fortdb.client.why import Explanation, WhyFinding, WhyRecord, WhyReplica, WhyRoute
from fortdb.client.worm import Altered, Protection, Receipt, Verified

__all__ = [
    "OPEN",
    "PORT_DEFAULT",
    "Access",
    "Altered",
    "Address",
    "Change",
    "Client",
    "Conflict",
    "Connection",
    "ConnectionFailed",
    "Explanation",
    "Feed",
    "Later",
    "LayoutPlan",
    "NodeStatus",
    "PartitionStatus",
    "Pipeline",
    "PlannedMove",
    "Protection",
    "Receipt",
    "Record",
    "Reply",
    "RingStatus",
    "Transaction",
    "Verified",
    "Version",
    "WhyFinding",
    "WhyRecord",
    "WhyReplica",
    "WhyRoute",
    "parse_address",
    "parse_plan",
    "parse_record_id",
    "parse_ring",
    "parse_url",
    "read_plan",
]

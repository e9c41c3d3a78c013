"""What the prompt offers for a line: command names, and names out of the ring."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from fortdb.cli.completion import CommandCompleter
from fortdb.client import Address
from tests.unit.test_cli_commands import bulk, ring, router


@pytest.fixture(scope="module")
def completer() -> Iterator[CommandCompleter]:
    keyspaces = [{"name": "orders", "ack": "sync"}, {"name": "logs", "ack": "sync"}]
    with router({"RING": bulk(ring(keyspaces=keyspaces))}) as (port, _):
        made = CommandCompleter(Address("127.0.0.1", port))
        yield made
        made._client.close()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("recordc", ["RECORDCOUNT"]),
        ("KEYSPACE al", ["ALTER"]),
        ("KEYSPACE SHOW o", ["orders"]),
        ("keyspace drop orders k", ["KEEP-KEYS"]),
        ("KEYSPACE CREATE new p", ["POLICY"]),
        ("KEYSPACE CREATE new POLICY v", ["VERSIONS"]),
        ("KEYSPACE ALTER orders POLICY RECORDS a", ["ACK"]),
        ("KEYSPACE ALTER orders POLICY RECORDS ACK a", ["ASYNC"]),
        ("ADD o", ["orders/"]),
        ("get lo", ["logs/"]),
        ("DBSIZE o", ["orders"]),
        ("FEED S", ["SUBSCRIBE"]),
        ("FEED SUBSCRIBE PR", ["PREFIX"]),
        ("LEADER MOVE p", ["p0", "p1"]),
        ("GET orders/1 o", []),
        ("ADD x", []),
    ],
)
def test_words_are_offered_by_where_they_stand(
    completer: CommandCompleter, line: str, offered: list[str]
) -> None:
    found = completer.get_completions(Document(line), CompleteEvent())
    assert [one.text for one in found] == offered


def test_a_ring_that_does_not_answer_offers_nothing() -> None:
    silent = CommandCompleter(Address("127.0.0.1", 1))
    assert list(silent.get_completions(Document("ADD o"), CompleteEvent())) == []

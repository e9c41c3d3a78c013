"""Asks for everything that `explain` judges: the coordination store and whoever has to do with a key, at once."""

from __future__ import annotations

import json

from fortdb.coordination.operations import read_record
from fortdb.coordination.session import Session
from fortdb.errors import FortError, Unavailable
from fortdb.limits import KEY_BYTES_MAX, WHY_MS_MAX
from fortdb.model import PartitionRecord
from fortdb.net.front import Slot
from fortdb.net.gather import Gather
from fortdb.protocol.resp import bulk, payload_of_bulk
from fortdb.router.explain import Asked, explain
from fortdb.router.service import NO_LAYOUT, RouterService, key_too_long


def ask_why(service: RouterService, session: Session, slot: Slot, key: bytes) -> None:
    """Complete `slot` with the answer to `WHY key`, once everybody has answered or their time is over."""
    view, layout, tokens = service.view, service.view.layout, service.tokens
    if tokens is None or layout is None:
        raise Unavailable(NO_LAYOUT)
    if len(key) > KEY_BYTES_MAX:
        raise key_too_long(key)
    partition = tokens.locate(key)[1]
    channel, shown = service.channels[partition.id], view.records.get(partition.name)
    concerned = {*partition.replicas, channel.leader, *((shown.leader, *shown.replicas) if shown else ())}
    nodes = [name for name, link in service.links.items() if name in concerned and link.is_up]
    in_store: list[PartitionRecord | FortError | None] = []  # what it holds, once it has answered

    def join(replies: list[bytes]) -> bytes:
        found = in_store[0] if in_store else Unavailable(f"nothing within {WHY_MS_MAX} ms")
        payloads = zip(nodes, map(payload_of_bulk, replies[1:]), strict=True)
        asked = Asked(
            key=key,
            view=service.view,
            layout=layout,
            tokens=tokens,
            channel=channel,
            record=shown if isinstance(found, FortError) else found,
            store_error=str(found) if isinstance(found, FortError) else "",
            links={name: link.is_up for name, link in service.links.items()},
            reports={name: json.loads(payload) for name, payload in payloads if payload is not None},
        )
        return bulk(json.dumps(explain(asked)).encode())

    gather = Gather(slot, 1 + len(nodes), join)
    store_part = gather.part(0)

    def heard(outcome: PartitionRecord | FortError | None) -> None:
        in_store.append(outcome)
        service.loop.call_soon(lambda: store_part.complete(b""))

    session.submit(lambda store: read_record(store, session.keys, partition.name), heard)
    service.loop.call_later(WHY_MS_MAX, lambda: store_part.complete(b""))
    for index, name in enumerate(nodes, 1):
        service.call(name, [b"REPLICA", b"%d" % partition.id], gather.part(index), WHY_MS_MAX)

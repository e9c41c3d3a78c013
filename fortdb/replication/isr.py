"""The in-sync replicas of a partition, as its leader must see them.

Two sets are in play while a change is under way: the *committed* one, which the coordination store
holds, and the *proposed* one, which a compare-and-set may or may not have put there. The leader
waits for every member of their union, the maximal ISR (rule 3), which makes both directions safe:

* shrinking: the removed replica is waited for until the store has accepted the smaller set
  (rule 4), because until then another leader may still be elected from the larger one;
* growing: the new replica is waited for from the moment the larger set is proposed, because from
  that moment it may be elected.

A proposal whose outcome is unknown stays proposed, and is proposed again until the store says yes
or shows a newer record. Source: KIP-497 and KIP-966 (maximal ISR).

An ISR maps a node to the incarnation (the life of its process) in which it was found in sync; a
node in another life counts as missing (rules 5 and 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fortdb.model import PartitionRecord
from fortdb.native import bind


class InSync:
    """The leader's view of its partition's ISR: one committed record, at most one proposed."""

    __slots__ = ("_members", "proposed", "record")

    def __init__(self, record: PartitionRecord) -> None:
        self.record = record
        self.proposed: PartitionRecord | None = None
        self._members: tuple[tuple[str, str], ...] | None = None  # of these two; asked for all the time

    @property
    def committed(self) -> Mapping[str, str]:
        """The ISR that the coordination store is known to hold."""
        return self.record.isr

    def members(self) -> tuple[tuple[str, str], ...]:
        """(node, incarnation) of everyone in the maximal ISR, the same tuple until something changes."""
        members = self._members
        if members is None:
            proposed = self.proposed.isr.items() if self.proposed is not None else ()
            members = self._members = tuple({*self.record.isr.items(), *proposed})
        return members

    def propose_isr(self, isr: Mapping[str, str], is_alone: bool) -> PartitionRecord:
        """The record that asks for another ISR; to be put into the store by compare-and-set. `is_alone`: no
        leader of an earlier epoch can serve any more."""
        assert self.record.leader in isr, "a leader is always in its own ISR"
        return self._propose(replace(self.record, isr=dict(isr), handover=is_alone))

    def propose_leader(self, leader: str, preferred: str | None, is_alone: bool) -> PartitionRecord:
        """The record that hands the partition to another in-sync node in the next epoch."""
        assert leader in self.record.isr, "rule 6: a leader comes from the ISR"
        return self._propose(
            replace(
                self.record,
                leader=leader,
                epoch=self.record.epoch + 1,
                handover=is_alone,
                preferred=preferred,
            )
        )

    def accepted(self, record: PartitionRecord) -> None:
        """The store holds `record` now, whether it is the proposed one or somebody else's. Only this
        ends a proposal: a compare-and-set that met another revision may have met its own earlier
        attempt, whose answer was lost."""
        if record.revision > self.record.revision:
            self.record = record
            self.proposed = None
            self._members = None

    def _propose(self, record: PartitionRecord) -> PartitionRecord:
        assert self.proposed is None, "one proposal at a time"
        self.proposed = record
        self._members = None
        return record


bind(InSync)

"""Whether accounts hold in the end what the transfers between them left there.

A transfer adds to two accounts in one transaction. Those that were acknowledged have happened, refused ones have not,
and each of unknown outcome has or has not: that leaves so many balances of an account, and it must hold one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fortdb.torture.history import Outcome


@dataclass(frozen=True, slots=True)
class Posting:
    """A transaction at the bank as its client saw it. `steps` are (account, what was added to it, what it held then;
    None if that was not told)."""

    outcome: Outcome
    started_ns: int
    ended_ns: int
    steps: tuple[tuple[str, int, int | None], ...]


def judge(ledger: Iterable[Posting], opened: Mapping[str, int], held: Mapping[str, int]) -> list[str]:
    """What is wrong, in sentences, with what accounts hold after all postings, if they were opened with so much."""
    postings = list(ledger)
    return [
        f"{account} held {held[account]} in the end; {_shown(possible)} is what its transfers leave there"
        for account, balance in opened.items()
        if held[account] not in (possible := _balances(postings, account, balance))
    ]


def _balances(postings: list[Posting], account: str, balance: int) -> set[int]:
    """What an account may hold."""
    possible = {balance}
    for posting in postings:
        added = sum(amount for key, amount, _ in posting.steps if key == account)
        if posting.outcome is Outcome.OK:
            possible = {held + added for held in possible}
        elif posting.outcome is Outcome.UNKNOWN:
            possible |= {held + added for held in possible}
    return possible


def _shown(possible: set[int]) -> str:
    least, most = min(possible), max(possible)
    return str(least) if least == most else f"one of {len(possible)} balances from {least} to {most}"

"""A witness as a picture: who called what when, one lane a client, the call that cannot be in red.

Bars run from a call's beginning to its end; a call of unknown outcome has no end and fades to the right.
Faults in force are bands behind the lanes. Deterministic; readable on light and on dark ground.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from fortdb.torture.history import FaultEvent, Kind, Operation, Outcome
from fortdb.torture.linear import Witness

CALLS_MAX = 40
"""The last calls before the culprit that are drawn; more would be no picture."""

_WIDTH, _LEFT, _LANE, _BAR, _TOP = 1080.0, 96.0, 46.0, 12.0, 64.0
_LETTER = 6.1  # width of one at 10.5 px
_COLORS = {Outcome.OK: "#3a7bd5", Outcome.UNKNOWN: "#c98a1b", Outcome.FAILED: "#8a8f98"}
_CULPRIT = "#d6336c"


@dataclass(frozen=True, slots=True)
class Band:
    """A fault, while it was in force."""

    label: str
    started_ns: int
    ended_ns: int


def bands(faults: Sequence[FaultEvent], until_ns: int) -> list[Band]:
    """Beginnings with their ends; what has no end lasts until the last moment."""
    open_: dict[tuple[str, str], int] = {}
    found: list[Band] = []
    for event in sorted(faults, key=lambda event: event.at_ns):
        place = event.name, event.detail
        if event.phase == "begin":
            open_.setdefault(place, event.at_ns)
        elif place in open_:
            found.append(Band(event.detail, open_.pop(place), event.at_ns))
    found += [Band(detail, start, max(start, until_ns)) for (_, detail), start in open_.items()]
    return sorted(found, key=lambda band: band.started_ns)


def timeline(witness: Witness, faults: Sequence[FaultEvent]) -> str:
    """The SVG document."""
    return "\n".join(_draw(witness, faults))


def _shown(witness: Witness) -> list[Operation]:
    """What is drawn, by beginning: the culprit, who wrote what it told, what ran beside it, and what came last
    before it."""
    culprit = witness.culprit
    before = [o for o in witness.before if o.ended_ns <= culprit.ended_ns]
    origin = [o for o in before if o.arguments and o.arguments[-1] == culprit.result][-1:]
    changes = [o for o in before if o.kind is not Kind.READ][-CALLS_MAX // 2 :]
    reads = [o for o in before if o.kind is Kind.READ][-CALLS_MAX // 4 :]
    beside = [
        o
        for o in witness.beside
        if o.outcome is Outcome.OK or (o.outcome is Outcome.UNKNOWN and o.kind is not Kind.READ)
    ][-CALLS_MAX // 2 :]
    unique = dict.fromkeys([*origin, *changes, *reads, *beside, culprit])
    return sorted(unique, key=lambda o: (o.started_ns, o.ended_ns, o.client))


def _draw(witness: Witness, faults: Sequence[FaultEvent]) -> Iterator[str]:
    shown = _shown(witness)
    ends = {
        o: o.ended_ns if o.outcome is not Outcome.UNKNOWN else max(o.ended_ns, witness.culprit.ended_ns)
        for o in shown
    }
    scale = _Scale(shown, ends)
    lanes, rows = _lanes(shown, scale, ends)
    height = _TOP + len(rows) * _LANE + 40
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" '
        f'height="{height:g}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="10.5">'
    )
    yield (
        "<style>.t{fill:#1f2430}.q{fill:#6b7280}.g{stroke:#d4d8e0}.b{fill:#fdecc8;opacity:.6}"
        "@media(prefers-color-scheme:dark){.t{fill:#e6e9ef}.q{fill:#9aa3b2}.g{stroke:#3a4150}"
        ".b{fill:#5a4310;opacity:.5}}</style>"
    )
    culprit = witness.culprit
    yield f'<text class="t" x="12" y="22" font-size="14">{escape(culprit.key)}: {escape(str(culprit))}</text>'
    yield from _draw_bands(faults, scale, height)
    for row, label in enumerate(rows):
        y = _TOP + row * _LANE + _LANE / 2
        yield f'<line class="g" x1="{_LEFT:g}" x2="{_WIDTH - 12:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        if label:
            yield f'<text class="q" x="12" y="{y + 4:.1f}">{escape(label)}</text>'
    for operation in shown:
        yield from _draw_call(operation, operation == culprit, scale, ends, _TOP + lanes[operation] * _LANE)
    for x, text in scale.ticks():
        yield f'<text class="q" x="{x:.1f}" y="{height - 14:.1f}" text-anchor="middle">{text}</text>'
    yield "</svg>"


def _draw_bands(faults: Sequence[FaultEvent], scale: _Scale, height: float) -> Iterator[str]:
    free_from = [_LEFT, _LEFT]
    for band in bands(faults, scale.last_ns):
        if band.ended_ns < scale.first_ns or band.started_ns > scale.last_ns:
            continue
        left, right = scale.x(band.started_ns), scale.x(band.ended_ns)
        yield (
            f'<rect class="b" x="{left:.1f}" y="50" width="{max(2.0, right - left):.1f}" '
            f'height="{height - 80:.1f}"><title>{escape(band.label)}</title></rect>'
        )
        for line, free in enumerate(free_from):
            if left >= free:
                yield f'<text class="q" x="{left + 2:.1f}" y="{36 + 12 * line}">{escape(band.label)}</text>'
                free_from[line] = left + len(band.label) * _LETTER + 10
                break


def _draw_call(
    operation: Operation, is_culprit: bool, scale: _Scale, ends: dict[Operation, int], top: float
) -> Iterator[str]:
    left, right = scale.x(operation.started_ns), scale.x(ends[operation])
    color = _CULPRIT if is_culprit else _COLORS[operation.outcome]
    y = top + _LANE / 2 - _BAR / 2
    dash = ' stroke-dasharray="3 2" fill-opacity=".35"' if operation.outcome is Outcome.UNKNOWN else ""
    yield (
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(2.0, right - left):.1f}" height="{_BAR:g}" rx="3" '
        f'fill="{color}" stroke="{color}"{dash}><title>client {operation.client} by {escape(operation.via)}: '
        f"{escape(str(operation))} {escape(operation.error or '')}</title></rect>"
    )
    weight = ' font-weight="700"' if is_culprit else ""
    fill = f' fill="{_CULPRIT}"' if is_culprit else ' class="t"'
    yield f'<text x="{left:.1f}" y="{y - 4:.1f}"{fill}{weight}>{escape(str(operation))}</text>'


def _lanes(
    shown: Sequence[Operation], scale: _Scale, ends: dict[Operation, int]
) -> tuple[dict[Operation, int], list[str]]:
    """A lane for each client, and further ones where labels would lie on each other."""
    lanes: dict[Operation, int] = {}
    rows: list[str] = []
    for client in sorted({operation.client for operation in shown}):
        free_from: list[float] = []
        first = len(rows)
        for operation in (o for o in shown if o.client == client):
            left = scale.x(operation.started_ns)
            taken = max(scale.x(ends[operation]), left + len(str(operation)) * _LETTER) + 8
            row = next((row for row, free in enumerate(free_from) if left >= free), None)
            if row is None:
                row = len(free_from)
                free_from.append(0.0)
                rows.append(f"client {client}" if row == 0 else "")
            free_from[row] = taken
            lanes[operation] = first + row
    return lanes, rows


class _Scale:
    """Time to place. Calls cluster: gaps in which nothing begins or ends are cut short."""

    def __init__(self, shown: Sequence[Operation], ends: dict[Operation, int]) -> None:
        moments = sorted({o.started_ns for o in shown} | set(ends.values()))
        self.first_ns, self.last_ns = moments[0], moments[-1]
        gaps = [b - a for a, b in pairwise(moments)]
        usual = sorted(gaps)[len(gaps) // 2] if gaps else 1
        self._places = [0.0]
        for gap in gaps:
            self._places.append(self._places[-1] + min(max(gap, usual / 4), usual * 6) + 1)
        self._moments = moments

    def x(self, moment_ns: int) -> float:
        """Where a moment is drawn."""
        share = self._share(moment_ns)
        return _LEFT + 6 + share * (_WIDTH - _LEFT - 180)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """A few moments with their time in ms since the first."""
        last = -1e9
        for moment in self._moments:
            if self.x(moment) - last > 80:
                last = self.x(moment)
                yield last, f"{(moment - self.first_ns) / 1e6:.1f} ms"

    def _share(self, moment_ns: int) -> float:
        whole = self._places[-1] or 1.0
        if moment_ns <= self.first_ns:
            return 0.0
        if moment_ns >= self.last_ns:
            return 1.0
        for index in range(1, len(self._moments)):
            if moment_ns <= self._moments[index]:
                start, end = self._moments[index - 1], self._moments[index]
                part = (moment_ns - start) / (end - start)
                width = self._places[index] - self._places[index - 1]
                return (self._places[index - 1] + part * width) / whole
        return 1.0

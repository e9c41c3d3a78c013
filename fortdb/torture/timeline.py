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

_WIDTH, _LEFT, _RIGHT, _LANE, _BAR = 1080.0, 96.0, 1068.0, 46.0, 12.0
_HEAD, _LINE = 36.0, 12.0  # where the first label of a fault stands, and the next below it
_LETTER = 6.4  # width of one at 10.5 px
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
    placed, lines = _place_bands(bands(faults, scale.last_ns), scale)
    top = _HEAD + lines * _LINE + 4
    height = top + len(rows) * _LANE + 40
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
    yield from _draw_bands(placed, scale, top - 14, height - 30)
    for row, label in enumerate(rows):
        y = top + row * _LANE + _LANE / 2
        yield f'<line class="g" x1="{_LEFT:g}" x2="{_RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        if label:
            yield f'<text class="q" x="12" y="{y + 4:.1f}">{escape(label)}</text>'
    for operation in shown:
        yield from _draw_call(operation, operation == culprit, scale, ends, top + lanes[operation] * _LANE)
    for x, text in scale.ticks():
        yield f'<text class="q" x="{x:.1f}" y="{height - 14:.1f}" text-anchor="middle">{text}</text>'
    yield "</svg>"


def _place_bands(found: Sequence[Band], scale: _Scale) -> tuple[list[tuple[Band, float, int]], int]:
    """Those in the picture, each with the place of its label and its line; and how many lines that takes."""
    free_from: list[float] = []
    placed: list[tuple[Band, float, int]] = []
    for band in found:
        if band.ended_ns < scale.first_ns or band.started_ns > scale.last_ns:
            continue
        left = _label_x(scale.x(band.started_ns) + 2, band.label)
        line = _free_row(free_from, left)
        free_from[line] = left + len(band.label) * _LETTER + 8
        placed.append((band, left, line))
    return placed, len(free_from)


def _draw_bands(
    placed: Sequence[tuple[Band, float, int]], scale: _Scale, top: float, bottom: float
) -> Iterator[str]:
    for band, label_x, line in placed:
        left, right = scale.x(band.started_ns), scale.x(band.ended_ns)
        label = escape(band.label)
        yield (
            f'<rect class="b" x="{left:.1f}" y="{top:g}" width="{max(2.0, right - left):.1f}" '
            f'height="{bottom - top:g}"><title>{label}</title></rect>'
        )
        yield f'<text class="q" x="{label_x:.1f}" y="{_HEAD + _LINE * line:g}">{label}</text>'


def _label_x(left: float, label: str) -> float:
    """Where a label begins: where it should, or so far before that it ends inside the picture."""
    return max(0.0, min(left, _RIGHT - len(label) * _LETTER))


def _free_row(free_from: list[float], left: float) -> int:
    """The first row that is free from there on; a new one if none is."""
    for row, free in enumerate(free_from):
        if left >= free:
            return row
    free_from.append(0.0)
    return len(free_from) - 1


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
    label = str(operation)
    yield f'<text x="{_label_x(left, label):.1f}" y="{y - 4:.1f}"{fill}{weight}>{escape(label)}</text>'


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
            left, label = scale.x(operation.started_ns), str(operation)
            label_x = _label_x(left, label)
            row = _free_row(free_from, min(left, label_x))
            if first + row == len(rows):
                rows.append(f"client {client}" if row == 0 else "")
            free_from[row] = max(scale.x(ends[operation]), label_x + len(label) * _LETTER) + 8
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

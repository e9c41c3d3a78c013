"""Plots as SVG, written by hand: bars in groups and lines over a logarithmic axis. No script, no font of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = {
    "fortdb": "#1b6ca8",
    "ring": "#17a2b8",
    "router": "#7fc8d8",
    "redis-always": "#c0392b",
    "redis-no": "#e8a598",
    "etcd": "#d68910",
    "etcd-3": "#f5cba7",
    "fortdb-small": "#5d6d7e",
}
_INK, _FAINT = "#222222", "#d8d8d8"
_BAR, _GAP, _LEFT, _WIDTH = 15, 16, 200, 860
_LINE_HEIGHT = 420


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}"{weight}>'
        f"{escape(words)}</text>"
    )


def _document(width: float, height: float, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, Arial, sans-serif">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def short(number: float) -> str:
    """A number in a few characters: 41.2k, 3.1, 0.48."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def _legend_width(title: str) -> float:
    return 34 + 6.9 * len(title)


def _legend(names: Sequence[str], titles: Mapping[str, str], y: float) -> tuple[list[str], float]:
    """The parts, and where its last line stands."""
    parts: list[str] = []
    x = 20.0
    for name in names:
        width = _legend_width(titles[name])
        if x + width > _WIDTH:
            x, y = 20.0, y + 20
        parts.append(f'<rect x="{x:.0f}" y="{y - 10:.0f}" width="12" height="12" fill="{_COLOURS[name]}"/>')
        parts.append(_text(x + 18, y, titles[name]))
        x += width
    return parts, y


def bars(title: str, groups: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> str:
    """Groups of horizontal bars, one a target, each group on its own scale; the value stands at its end."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    legend, y = _legend(names, titles, 54)
    parts = [_text(20, 28, title, size=16, bold=True), *legend]
    y += 20
    for group, values in groups.items():
        most = max(values.values(), default=0) or 1
        middle = y + len(values) * _BAR / 2
        for line, words in enumerate(group.split(", ")):
            parts.append(
                _text(_LEFT - 10, middle + 4 + 14 * (line - (group.count(", ")) / 2), words, anchor="end")
            )
        for name, value in values.items():
            width = (_WIDTH - _LEFT - 70) * value / most
            parts.append(
                f'<rect x="{_LEFT}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{_BAR - 2}" '
                f'fill="{_COLOURS[name]}"/>'
            )
            parts.append(_text(_LEFT + width + 6, y + _BAR - 4, short(value), size=11))
            y += _BAR
        y += max(_GAP, 14 * (group.count(", ") + 1) - len(values) * _BAR + _GAP)
    return _document(_WIDTH, y, parts)


def lines(
    title: str,
    x_title: str,
    y_title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    titles: Mapping[str, str],
) -> str:
    """A line a target over a logarithmic x axis; the y axis begins at 0."""
    points = [point for line in series.values() for point in line]
    least, most = (math.log10(chosen(x for x, _ in points)) for chosen in (min, max))
    top = nice(max((y for _, y in points), default=1.0))
    left, right, upper, lower = 70, _WIDTH - 30, 96, _LINE_HEIGHT - 50

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(x) - least) / (most - least) if most > least else 0.5
        return left + (right - left) * along, lower - (lower - upper) * y / top

    parts = [_text(20, 28, title, size=16, bold=True), *_legend(list(series), titles, 54)[0]]
    for step in range(5):
        _, y = place(10**least, top * step / 4)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>')
        parts.append(_text(left - 8, y + 4, short(top * step / 4), anchor="end", size=11))
    for x in sorted({x for x, _ in points}):
        parts.append(_text(place(x, 0)[0], lower + 18, short(x), anchor="middle", size=11))
    parts.append(_text((left + right) / 2, lower + 38, x_title, anchor="middle"))
    parts.append(_text(20, upper - 12, y_title))
    for name, line in series.items():
        at = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        colour = _COLOURS[name]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in at]
    return _document(_WIDTH, _LINE_HEIGHT, parts)


def nice(number: float) -> float:
    """The next greater of 1, 2, 4, 5, 8 or 10 times a power of ten."""
    if number <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(number))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= number)

"""The ring as a picture: for a terminal and as SVG, both pure functions of a `RingStatus`.

The keyspace is a circle, so each partition is an arc as long as its share, clockwise by token from
the top. The outer ring tells who leads; each ring inside it tells one follower, so that a partition
reads from the rim inwards and replicas that are spread show as different colors. A node has one
letter and one color in everything drawn; red is kept for what is missing, and hatching for a
replica that is not in sync.

In a terminal a character is two pixels wide and two high (quadrant blocks, two colors each) and
twice as high as wide, so the circle is computed in columns and a row counts for two. Without color
the same geometry is filled with letters: capital for the leader, small for followers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from xml.sax.saxutils import escape, quoteattr  # nosec B406 # writes, never parses

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.style import Style
from rich.table import Table
from rich.text import Text

from fortdb.client.health import Level, health_of
from fortdb.client.status import NodeStatus, PartitionStatus, RingStatus

# Okabe and Ito's palette without its vermilion (red means trouble here), and four that go with it.
PALETTE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#7b5fc4",
    "#a6761d",
    "#44aa99",
    "#8c8c8c",
)
ALARM = "#d7191c"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZΓΔΘΛΞΠΣΦΨΩБДЖИЛЦЧШЭЮЯ"  # each has a small form unlike the others
LETTER_BEYOND = "#"
LEVEL_COLORS = {Level.HEALTHY: "green", Level.DEGRADED: "yellow", Level.UNAVAILABLE: "red"}
STATE_COLORS = {"serving": "green", "draining": "yellow", "failed": "red", "down": "red"}


@dataclass(frozen=True, slots=True)
class Mark:
    """How a node is drawn wherever it appears."""

    letter: str
    color: str
    index: int

    @property
    def ink(self) -> str:
        """Black or white, whichever can be read on the color."""
        return _ink_on(self.color)


@dataclass(frozen=True, slots=True)
class Arc:
    """A partition's part of the circle, in turns: 0 is the top, 0.25 the right."""

    partition: PartitionStatus
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True, slots=True)
class Band:
    """One ring of the picture by its radii; depth 0 is the leaders', 1 the first followers'."""

    depth: int
    outer: float
    inner: float


@dataclass(frozen=True, slots=True)
class Paint:
    """What a place in the picture shows; no mark means that nobody leads there."""

    mark: Mark | None
    leads: bool
    in_sync: bool

    @property
    def hatched(self) -> bool:
        return self.mark is None or not self.in_sync

    @property
    def color(self) -> str:
        return ALARM if self.mark is None else self.mark.color

    @property
    def letter(self) -> str:
        if self.mark is None:
            return "!"
        if not self.in_sync:
            return "."
        return self.mark.letter if self.leads else self.mark.letter.lower()


def arcs_of(partitions: tuple[PartitionStatus, ...]) -> tuple[Arc, ...]:
    """Arcs by token that together make one turn, whatever the shares add up to."""
    ordered = sorted(partitions, key=lambda partition: partition.token)
    shares = [max(partition.share, 0.0) for partition in ordered]
    whole = sum(shares)
    if not 0 < whole < math.inf:
        shares, whole = [1.0] * len(ordered), float(len(ordered))
    ends = [*accumulate(share / whole for share in shares)]
    ends[-1:] = [1.0] if ends else []
    return tuple(map(Arc, ordered, [0.0, *ends], ends))


def nodes_of(ring: RingStatus) -> tuple[NodeStatus, ...]:
    """The nodes that the ring tells of, and those that only partitions name."""
    known = {node.name for node in ring.nodes}
    named = {name for one in ring.partitions for name in (*one.replicas, one.leader) if name is not None}
    return (*ring.nodes, *(_unknown_node(ring, name) for name in sorted(named - known)))


def marks_of(nodes: tuple[NodeStatus, ...]) -> Mapping[str, Mark]:
    """A letter and a color for each node, in order."""
    letters = LETTERS + LETTER_BEYOND * len(nodes)
    return {
        node.name: Mark(letters[index], PALETTE[index % len(PALETTE)], index)
        for index, node in enumerate(nodes)
    }


def spread_line(ring: RingStatus) -> str:
    """Whether every partition's replicas lie in as many zones as they can."""
    zones = {node.name: node.zone for node in nodes_of(ring)}
    available = len(set(zones.values()))
    crowded = [
        partition
        for partition in ring.partitions
        if len({zones[name] for name in partition.replicas}) < min(len(partition.replicas), available)
    ]
    if crowded:
        return f"{len(crowded)} of {len(ring.partitions)} partitions could be spread over more zones"
    return f"replicas spread over {available} zones" if available > 1 else "all replicas in one zone"


def _unknown_node(ring: RingStatus, name: str) -> NodeStatus:
    leads = sum(partition.leader == name for partition in ring.partitions)
    holds = sum(name in partition.replicas for partition in ring.partitions)
    return NodeStatus(name, "?", "unknown", "", "", "", "", "", leads, holds, None, None)


def _paint(partition: PartitionStatus, depth: int, marks: Mapping[str, Mark]) -> Paint | None:
    if depth == 0:
        leader = partition.leader
        return Paint(None if leader is None else marks[leader], True, True)
    if depth > len(partition.followers):
        return None
    name = partition.followers[depth - 1]
    return Paint(marks[name], False, name in partition.isr)


def _depths(ring: RingStatus) -> int:
    return 1 + max((len(partition.followers) for partition in ring.partitions), default=0)


def _bands(depths: int, radius: float, leaders: float, follower: float, gap: float) -> tuple[Band, ...]:
    """The leaders' band and thinner ones inside it, thinner still where there would be no middle."""
    room = radius * 0.7 - leaders
    step = min(follower + gap, room / max(depths - 1, 1))
    thickness = step * follower / (follower + gap)
    bands = [Band(0, radius, radius - leaders)]
    for depth in range(1, depths):
        outer = radius - leaders - gap - (depth - 1) * step
        bands.append(Band(depth, outer, outer - thickness))
    return tuple(bands)


def _ink_on(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else "#ffffff"


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


# -- In a terminal ------------------------------------------------------------------------------

COLUMNS_LEAST = 8  # cropped by a terminal that is narrower still
COLUMNS_MIN, COLUMNS_MAX, COLUMNS_MAX_WIDE = 24, 42, 56
WIDE = 110  # columns of a terminal that has room for the larger picture
QUADRANTS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"  # by bits: 1 top left, 2 top right, 4 bottom left, 8 bottom right
BORDER = 0.3  # columns left empty on either side where two partitions meet
ARC_MIN_FOR_BORDER = 3.0  # columns along the rim; shorter arcs are drawn without borders
ARC_MIN_FOR_LETTER = 3.5
FINDINGS_MAX = 3
KEY_COLORED = "outer ring leads, inner rings follow; hatched: out of sync; red: no leader"
KEY_LETTERS = "outer ring leads, inner rings follow; '.': out of sync; '!': no leader"

Cell = tuple[str, Style]


def ring_text(ring: RingStatus, width: int) -> RenderableType:
    """The ring for a terminal of this width: colored where the console has color, letters if not."""
    return _RingPicture(ring, width)


@dataclass(frozen=True, slots=True)
class _RingPicture:
    ring: RingStatus
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(self.width, options.max_width)
        colored = console.color_system is not None and not console.no_color
        legend = _legend(self.ring, colored)
        beside = width - Measurement.get(console, options, legend).maximum - 3
        columns = min(COLUMNS_MAX_WIDE if width >= WIDE else COLUMNS_MAX, beside) // 2 * 2
        if columns >= COLUMNS_MIN:
            both = Table.grid(padding=(0, 3, 0, 0))
            both.add_column(no_wrap=True, width=columns)
            both.add_column(vertical="middle")
            both.add_row(_Circle(self.ring, columns).text(colored), legend)
            yield both
        else:
            yield _Circle(self.ring, max(min(COLUMNS_MAX, width) // 2 * 2, COLUMNS_LEAST)).text(colored)
            yield legend
        yield Text()
        yield from _footer(self.ring, colored)


class _Circle:
    """The rings on a grid of characters, `columns` wide and half as many high."""

    def __init__(self, ring: RingStatus, columns: int) -> None:
        self._ring = ring
        self._columns = columns
        self._radius = columns / 2
        self._arcs = arcs_of(ring.partitions)
        self._starts = [arc.start for arc in self._arcs]
        self._marks = marks_of(nodes_of(ring))
        self._bands = _bands(_depths(ring), self._radius, columns * 0.1, columns * 0.055, columns * 0.018)

    def text(self, colored: bool) -> Text:
        cell = self._blocks if colored else self._letter
        rows = [[cell(column, row) for column in range(self._columns)] for row in range(self._columns // 2)]
        if colored:
            self._name_arcs(rows)
        self._write_middle(rows, colored)
        lines = [Text.assemble(*row, no_wrap=True) for row in rows]
        return Text("\n", no_wrap=True).join(lines)

    def _at(self, x: float, y: float, border: float) -> Paint | None:
        """What is drawn at a place given in columns from the left and from the top."""
        right, up = x - self._radius, self._radius - y
        distance = math.hypot(right, up)
        band = next((band for band in self._bands if band.inner <= distance < band.outer), None)
        if band is None or not self._arcs:
            return None
        turn = math.atan2(right, up) / math.tau % 1.0
        arc = self._arcs[bisect_right(self._starts, turn) - 1]
        around = math.tau * distance
        if (arc.end - arc.start) * around >= ARC_MIN_FOR_BORDER and len(self._arcs) > 1:
            edge = min(turn - arc.start, arc.end - turn) * around
            if edge < border:
                return None
        return _paint(arc.partition, band.depth, self._marks)

    def _letter(self, column: int, row: int) -> Cell:
        paint = self._at(column + 0.5, 2 * row + 1.0, 0.0)
        return (" " if paint is None else paint.letter), Style.null()

    def _blocks(self, column: int, row: int) -> Cell:
        """The quadrant block and two colors that come closest to four pixels."""
        pixels: list[str | None] = []
        for bit in range(4):
            across, down = bit % 2, bit // 2
            paint = self._at(column + 0.25 + across / 2, 2 * row + 0.5 + down, BORDER)
            blank = paint is None or (paint.hatched and (across + down) % 2)
            pixels.append(None if blank or paint is None else paint.color)
        common = [color for color, _ in Counter(pixels).most_common()]
        front = next((color for color in common if color is not None), None)
        if front is None:
            return " ", Style.null()
        back = None if None in pixels else next((color for color in common if color != front), None)
        bits = sum(1 << bit for bit, color in enumerate(pixels) if color is not None and color != back)
        return QUADRANTS[bits], Style(color=front, bgcolor=back)

    def _name_arcs(self, rows: list[list[Cell]]) -> None:
        """Each leader's letter on its arc where there is room, for those who cannot tell the colors."""
        distance = (self._bands[0].outer + self._bands[0].inner) / 2
        for arc in self._arcs:
            if (arc.end - arc.start) * math.tau * distance < ARC_MIN_FOR_LETTER:
                continue
            paint = _paint(arc.partition, 0, self._marks)
            angle = arc.middle * math.tau
            column = int(self._radius + distance * math.sin(angle))
            row = int((self._radius - distance * math.cos(angle)) / 2)
            if paint is not None:
                style = Style(color=_ink_on(paint.color), bgcolor=paint.color, bold=True)
                rows[row][column] = (paint.letter, style)

    def _write_middle(self, rows: list[list[Cell]], colored: bool) -> None:
        """The cluster's name and how it is, where the rings leave a hole."""
        level = health_of(self._ring).level
        lines = (
            (_printable(self._ring.cluster), Style(bold=True)),
            (f"{len(self._arcs)} partitions", Style.null()),
            (level.name.lower(), Style(color=LEVEL_COLORS[level], bold=True)),
        )
        hole = self._bands[-1].inner
        top = len(rows) // 2 - 1
        for number, (line, style) in enumerate(lines, top):
            row, edge = rows[number], abs(2 * number + 1 - self._radius) + 1
            room = int(2 * math.sqrt(max(hole * hole - edge * edge, 0.0)))
            if cell_len(line) == len(line) <= room:
                start = (self._columns - len(line)) // 2
                row[start : start + len(line)] = [(one, style if colored else Style.null()) for one in line]


def _legend(ring: RingStatus, colored: bool) -> Table:
    nodes = nodes_of(ring)
    marks = marks_of(nodes)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("node", overflow="fold")
    table.add_column("zone", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("leads", justify="right", no_wrap=True)
    table.add_column("holds", justify="right", no_wrap=True)
    for node in nodes:
        mark = marks[node.name]
        swatch = Text(f" {mark.letter} ", Style(color=mark.ink, bgcolor=mark.color, bold=True))
        table.add_row(
            swatch if colored else Text(mark.letter),
            Text(_printable(node.name)),
            Text(_printable(node.zone)),
            Text(_printable(node.state), STATE_COLORS.get(node.state, "yellow")),
            str(node.leads),
            str(node.holds),
        )
    return table


def _footer(ring: RingStatus, colored: bool) -> Iterator[Text]:
    """How to read the picture, the layout, and how the ring is."""
    health = health_of(ring)
    yield Text(KEY_COLORED if colored else KEY_LETTERS, "dim")
    if ring.layout is not None:
        layout = ring.layout
        yield Text(
            f"{_printable(ring.cluster)}: layout {layout.version}, replication {layout.replication}, "
            f"min_in_sync {layout.min_in_sync}, {spread_line(ring)}"
        )
    for finding in health.findings[:FINDINGS_MAX]:
        yield Text(f"- {_printable(finding.text)}", LEVEL_COLORS[finding.level])
    if len(health.findings) > FINDINGS_MAX:
        yield Text(f"... and {len(health.findings) - FINDINGS_MAX} more; fortdb status shows them")
    yield Text(_printable(health.summary(ring)), f"bold {LEVEL_COLORS[health.level]}")


# -- As SVG -------------------------------------------------------------------------------------

SVG_WIDTH, SVG_HEIGHT_MIN = 1120, 720
CENTER, RADIUS = 350.0, 320.0
LEADERS_BAND, FOLLOWERS_BAND, BANDS_GAP = 58.0, 30.0, 5.0
LEGEND_LEFT, LEGEND_TOP, LEGEND_ROW = 720, 168, 34
NAME_SIZE = 12.0
CHARACTER_WIDTH = 0.62  # of the font's size; a little more than most are


def ring_svg(ring: RingStatus) -> str:
    """The ring as an SVG document that stands alone; hovering names what is under the pointer."""
    nodes = nodes_of(ring)
    marks = marks_of(nodes)
    height = max(SVG_HEIGHT_MIN, LEGEND_TOP + LEGEND_ROW * (len(nodes) + 5))
    bands = _bands(_depths(ring), RADIUS, LEADERS_BAND, FOLLOWERS_BAND, BANDS_GAP)
    arcs = arcs_of(ring.partitions)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" fill="#1b1f24">',
        f"<title>{_xml(ring.cluster)}: {_xml(health_of(ring).summary(ring))}</title>",
        f"<defs>{''.join(_svg_hatches(marks))}</defs>",
        f'<rect width="{SVG_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<g stroke="#ffffff" stroke-width="1.5" stroke-linejoin="round">',
        *(_svg_arc(arc, band, marks) for arc in arcs for band in bands),
        "</g>",
        *(_svg_name(arc, bands[0], marks) for arc in arcs),
        *_svg_middle(ring, bands[-1].inner),
        *_svg_legend(ring, nodes, marks),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _xml(text: str) -> str:
    return escape(_printable(text))


def _attribute(text: str) -> str:
    return quoteattr(_printable(text))


def _svg_hatches(marks: Mapping[str, Mark]) -> Iterator[str]:
    """Stripes for replicas out of sync, one pattern a node, and one for arcs without a leader."""
    for name, color in [("alarm", ALARM), *((str(mark.index), mark.color) for mark in marks.values())]:
        yield (
            f'<pattern id="hatch-{name}" width="8" height="8" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="8" height="8" fill="{color}" fill-opacity="0.18"/>'
            f'<rect width="3" height="8" fill="{color}"/></pattern>'
        )


def _svg_arc(arc: Arc, band: Band, marks: Mapping[str, Mark]) -> str:
    paint = _paint(arc.partition, band.depth, marks)
    if paint is None:
        return ""
    partition = arc.partition
    if band.depth == 0:
        who, role = partition.leader or "", "leader"
        says = f"led by {who}" if partition.leader is not None else "no leader"
    else:
        who, role = partition.followers[band.depth - 1], "follower"
        says = f"followed by {who}" + ("" if paint.in_sync else ", out of sync")
    hatch = "alarm" if paint.mark is None else str(paint.mark.index)
    fill = f"url(#hatch-{hatch})" if paint.hatched else paint.color
    title = f"{partition.name} ({partition.share:.1%} of the keyspace): {says}"
    return (
        f'<path class="{role}" data-partition={_attribute(partition.name)} data-node={_attribute(who)} '
        f'data-start="{arc.start * 360:.6f}" data-end="{arc.end * 360:.6f}" '
        f'fill="{fill}" d="{_svg_sector(arc, band)}"><title>{_xml(title)}</title></path>'
    )


def _svg_sector(arc: Arc, band: Band) -> str:
    """A piece of a ring. In two halves, because an arc whose ends meet is nothing in SVG."""
    outer = [_point(turn, band.outer) for turn in (arc.start, arc.middle, arc.end)]
    inner = [_point(turn, band.inner) for turn in (arc.end, arc.middle, arc.start)]
    out = "".join(f" A {band.outer:.2f} {band.outer:.2f} 0 0 1 {point}" for point in outer[1:])
    back = "".join(f" A {band.inner:.2f} {band.inner:.2f} 0 0 0 {point}" for point in inner[1:])
    joint = "M" if arc.end - arc.start >= 1 else "L"  # a whole ring has no sides
    return f"M {outer[0]}{out} {joint} {inner[0]}{back} Z"


def _point(turn: float, radius: float) -> str:
    angle = turn * math.tau
    return f"{CENTER + radius * math.sin(angle):.2f} {CENTER - radius * math.cos(angle):.2f}"


def _svg_name(arc: Arc, band: Band, marks: Mapping[str, Mark]) -> str:
    """The partition's name along its arc, or across it, or not at all."""
    paint = _paint(arc.partition, 0, marks)
    radius = (band.outer + band.inner) / 2
    along = (arc.end - arc.start) * math.tau * radius
    name = _printable(arc.partition.name)
    length = cell_len(name) * NAME_SIZE * CHARACTER_WIDTH
    degrees = arc.middle * 360
    if length + 8 <= min(along, radius):
        rotation = degrees - 180 if 90 < degrees < 270 else degrees
    elif length + 8 <= band.outer - band.inner and along >= NAME_SIZE + 2:
        rotation = degrees + 90 if degrees > 180 else degrees - 90
    else:
        return ""
    place = _point(arc.middle, radius)
    ink = ALARM if paint is None or paint.mark is None else paint.mark.ink
    halo = ' stroke="#ffffff" stroke-width="4" paint-order="stroke"' if ink == ALARM else ""
    return (
        f'<text transform="translate({place}) rotate({rotation:.2f})" text-anchor="middle" dy="0.35em" '
        f'font-size="{NAME_SIZE:g}" font-weight="600" fill="{ink}"{halo} pointer-events="none">{escape(name)}</text>'
    )


def _svg_text(x: float, y: float, text: str, size: float, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{more and " " + more}>{_xml(text)}</text>'


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _svg_middle(ring: RingStatus, radius: float) -> Iterator[str]:
    level = health_of(ring).level
    color = {Level.HEALTHY: "#00734f", Level.DEGRADED: "#9a6700", Level.UNAVAILABLE: ALARM}[level]
    size = min(30.0, radius / 4)
    name = _shortened(ring.cluster, int(radius * 1.7 / (size * CHARACTER_WIDTH)))
    middle = 'text-anchor="middle"'
    yield _svg_text(CENTER, CENTER - size * 0.6, name, size, f'{middle} font-weight="700"')
    yield _svg_text(CENTER, CENTER + size * 0.5, f"{len(ring.partitions)} partitions", size * 0.6, middle)
    emphasis = f'{middle} font-weight="700" fill="{color}"'
    yield _svg_text(CENTER, CENTER + size * 1.4, level.name.lower(), size * 0.6, emphasis)


def _svg_legend(ring: RingStatus, nodes: tuple[NodeStatus, ...], marks: Mapping[str, Mark]) -> Iterator[str]:
    left, muted = LEGEND_LEFT, 'fill="#57606a"'
    yield _svg_text(left, 60, _shortened(ring.cluster, 22), 24, 'font-weight="700"')
    if ring.layout is not None:
        layout = ring.layout
        line = f"layout {layout.version}, replication {layout.replication}, min_in_sync {layout.min_in_sync}"
        yield _svg_text(left, 86, line, 14, muted)
    yield _svg_text(left, 108, spread_line(ring), 14, muted)
    for x, word in zip((40, 145, 215, 312, 360), ("node", "zone", "state", "leads", "holds"), strict=True):
        yield _svg_text(
            left + x, LEGEND_TOP - 20, word, 12, muted + (' text-anchor="end"' if x > 260 else "")
        )
    for row, node in enumerate(nodes):
        yield from _svg_legend_row(node, marks[node.name], LEGEND_TOP + row * LEGEND_ROW)
    bottom = LEGEND_TOP + (len(nodes) + 0.6) * LEGEND_ROW
    for line in (
        "outer ring: leader; inner rings: followers",
        "striped: replica out of sync",
        "red: no leader",
    ):
        yield _svg_text(left, bottom, line, 13, muted)
        bottom += 20


def _svg_legend_row(node: NodeStatus, mark: Mark, top: float) -> Iterator[str]:
    left, line = LEGEND_LEFT, top + 17
    color = {"serving": "#00734f", "draining": "#9a6700"}.get(node.state, ALARM)
    yield f"<g><title>{_xml(f'{node.name} in {node.zone}: {node.state} {node.reason}'.rstrip())}</title>"
    yield f'<rect x="{left}" y="{top}" width="26" height="24" rx="5" fill="{mark.color}"/>'
    yield _svg_text(
        left + 13, line, mark.letter, 14, f'text-anchor="middle" font-weight="700" fill="{mark.ink}"'
    )
    yield _svg_text(left + 40, line, _shortened(node.name, 13), 14, 'font-weight="600"')
    yield _svg_text(left + 145, line, _shortened(node.zone, 8), 14)
    yield _svg_text(left + 215, line, _shortened(node.state, 8), 14, f'fill="{color}"')
    yield _svg_text(left + 312, line, str(node.leads), 14, 'text-anchor="end"')
    yield _svg_text(left + 360, line, str(node.holds), 14, 'text-anchor="end"')
    yield "</g>"

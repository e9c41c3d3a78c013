"""The pictures of the ring: nobody is left out, nothing sticks out, whatever the ring looks like."""

from __future__ import annotations

import io
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fortdb.cli.picture import ALARM, Arc, arcs_of, marks_of, nodes_of, ring_svg, ring_text, spread_line
from fortdb.cli.ring import write_atomically
from fortdb.client import NodeStatus, PartitionStatus, RingStatus
from fortdb.client.status import LayoutSummary

TOKENS = 2**64
SVG = "{http://www.w3.org/2000/svg}"


def node(name: str, zone: str = "zone-a", state: str = "serving") -> NodeStatus:
    return NodeStatus(name, zone, state, "", "", "", "", "1", 1, 1, None, None)


def partition(
    number: int, share: float, replicas: tuple[str, ...], leader: str | None, isr: tuple[str, ...]
) -> PartitionStatus:
    token = number * TOKENS // 4096
    name = f"p{number:03d}"
    return PartitionStatus(number, name, token, share, replicas, leader, 1, isr, leader, False, 7, 7, {})


def ring_of(
    partitions: list[PartitionStatus], nodes: list[NodeStatus], cluster: str = "orders"
) -> RingStatus:
    return RingStatus(
        cluster, nodes[0].name, LayoutSummary(1, 3, 2), tuple(partitions), tuple(nodes), (), b""
    )


def even_ring(count: int, names: list[str], replication: int = 3) -> RingStatus:
    """Partitions of one size, led in turn."""
    partitions = []
    for number in range(count):
        replicas = tuple(names[(number + at) % len(names)] for at in range(min(replication, len(names))))
        partitions.append(partition(number, 1 / count, replicas, replicas[0], replicas))
    nodes = [node(name, f"zone-{'abc'[index % 3]}") for index, name in enumerate(names)]
    return ring_of(partitions, nodes)


@st.composite
def rings(draw: st.DrawFn) -> RingStatus:
    names = draw(st.lists(st.text(max_size=12), min_size=1, max_size=40, unique=True))
    weights = draw(st.lists(st.floats(0, 1), max_size=40))
    partitions = []
    for number, weight in enumerate(weights):
        replicas = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=7, unique=True)))
        isr = tuple(draw(st.lists(st.sampled_from(replicas), unique=True)))
        leader = draw(st.none() | st.sampled_from(replicas))
        partitions.append(partition(number, weight, replicas, leader, isr))
    nodes = [node(name, draw(st.text(max_size=8))) for name in names]
    known = draw(st.integers(1, len(nodes)))
    return ring_of(partitions, nodes[:known], draw(st.text(max_size=60)))


def drawn(ring: RingStatus, width: int = 80, *, colored: bool = False) -> str:
    file = io.StringIO()
    # not from the environment, whose NO_COLOR and COLUMNS would decide
    console = Console(
        file=file,
        width=width,
        color_system="truecolor" if colored else None,
        force_terminal=colored,
        _environ={},
    )
    console.print(ring_text(ring, width))
    return file.getvalue()


def paths(ring: RingStatus, role: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(ring_svg(ring))
    return [path for path in root.iter(f"{SVG}path") if path.get("class") == role]


def picture_rows(text: str, columns: int = 42) -> str:
    return "\n".join(line[:columns] for line in text.splitlines()[: columns // 2])


@settings(max_examples=40, deadline=None)
@given(rings())
def test_arcs_make_one_turn_by_token(ring: RingStatus) -> None:
    arcs: tuple[Arc, ...] = arcs_of(ring.partitions)
    assert [arc.partition.token for arc in arcs] == sorted(one.token for one in ring.partitions)
    assert [arc.end for arc in arcs[:-1]] == [arc.start for arc in arcs[1:]]
    if arcs:
        assert (arcs[0].start, arcs[-1].end) == (0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(rings())
def test_svg_has_every_partition_and_every_replica(ring: RingStatus) -> None:
    leaders, followers = paths(ring, "leader"), paths(ring, "follower")
    assert [path.get("data-partition") for path in leaders] == [one.name for one in ring.partitions]
    assert len(followers) == sum(len(one.followers) for one in ring.partitions)
    turned = math.fsum(float(path.get("data-end", 0)) - float(path.get("data-start", 0)) for path in leaders)
    assert not ring.partitions or turned == pytest.approx(360, abs=0.001)


@settings(max_examples=15, deadline=None)
@given(rings(), st.integers(1, 160), st.booleans())
def test_text_draws_any_ring_within_the_width(ring: RingStatus, width: int, colored: bool) -> None:
    plain = drawn(ring, width)
    assert max(map(cell_len, plain.splitlines())) <= width
    if colored:
        assert "\x1b[" in drawn(ring, width, colored=True)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_text_names_every_node(width: int) -> None:
    names = [f"node-{number}" for number in range(1, 31)]
    text = drawn(even_ring(64, names), width)
    assert [name for name in names if f" {name} " not in text] == []
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("count", [1, 2, 16, 256])
@pytest.mark.parametrize("names", [["one"], ["one", "two", "three", "four", "five"]])
def test_letters_show_who_leads_and_who_follows(count: int, names: list[str]) -> None:
    ring = even_ring(count, names)
    picture = picture_rows(drawn(ring).replace(ring.cluster, "").replace("partitions", ""))
    marks = marks_of(nodes_of(ring))
    assert all(marks[one.leader].letter in picture for one in ring.partitions if one.leader)
    if count <= 16:
        followers = {name for one in ring.partitions for name in one.followers}
        assert all(marks[name].letter.lower() in picture for name in followers)


def test_arcs_lie_clockwise_from_the_top() -> None:
    rows = drawn(even_ring(4, ["one", "two", "three", "four"])).splitlines()[:21]
    assert (rows[3].strip()[0], rows[3][:42].strip()[-1]) == ("D", "A")
    assert (rows[17].strip()[0], rows[17][:42].strip()[-1]) == ("C", "B")


def test_arcs_are_as_long_as_their_share() -> None:
    parts = [partition(0, 0.75, ("one",), "one", ("one",)), partition(1, 0.25, ("two",), "two", ("two",))]
    picture = picture_rows(drawn(ring_of(parts, [node("one"), node("two")])))
    assert picture.count("A") == pytest.approx(3 * picture.count("B"), rel=0.1)


def test_a_missing_leader_and_a_replica_out_of_sync_are_seen() -> None:
    parts = [
        partition(0, 0.5, ("one", "two"), None, ("one", "two")),
        partition(1, 0.5, ("two", "one"), "two", ("two",)),
    ]
    ring = ring_of(parts, [node("one"), node("two", state="down")])
    text = drawn(ring)
    assert "!!" in picture_rows(text) and ".." in picture_rows(text)
    assert "p000 has no leader" in text and "unavailable: 2 partitions on 2 nodes" in text
    red, green, blue = (int(ALARM[at : at + 2], 16) for at in (1, 3, 5))
    assert f"38;2;{red};{green};{blue}" in drawn(ring, colored=True)
    assert [path.get("fill") for path in paths(ring, "leader")] == [
        "url(#hatch-alarm)",
        marks_of(ring.nodes)["two"].color,
    ]
    fills = {path.get("data-node"): path.get("fill") for path in paths(ring, "follower")[2:]}
    assert fills == {"one": "url(#hatch-0)"}


def test_a_healthy_ring_has_no_alarm() -> None:
    text = drawn(even_ring(12, ["one", "two", "three"]))
    assert "!" not in picture_rows(text) and "healthy: 12 partitions on 3 nodes" in text
    assert "replicas spread over 3 zones" in text


def test_replicas_in_one_zone_are_told() -> None:
    parts = [partition(0, 1, ("one", "two"), "one", ("one", "two"))]
    nodes = [node("one"), node("two"), node("three", "zone-b")]
    assert spread_line(ring_of(parts, nodes)) == "1 of 1 partitions could be spread over more zones"
    assert spread_line(ring_of(parts, nodes[:2])) == "all replicas in one zone"


def test_hostile_names_stay_text() -> None:
    hostile = "<script a=\"&'\x00\x1b[31m\ud800[red]"
    parts = [partition(0, 1, (hostile,), hostile, (hostile,))]
    ring = ring_of(parts, [node(hostile, hostile)], hostile)
    svg = ring_svg(ring)
    svg.encode()
    assert "<script" not in svg
    shown = paths(ring, "leader")[0].get("data-node")
    assert shown is not None and shown.startswith("<script a=\"&'") and shown.endswith("[red]")
    text = drawn(ring)
    text.encode()
    assert "\x1b" not in text and "\x00" not in text


def test_svg_stands_alone() -> None:
    svg = ring_svg(even_ring(16, ["one", "two", "three"]))
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("viewBox")
    assert "href" not in svg and svg.count("http") == 1
    assert all(path.find(f"{SVG}title") is not None for path in root.iter(f"{SVG}path"))
    said = {element.text for element in root.iter(f"{SVG}text")}
    assert {"orders", "one", "two", "three", "zone-a", "p000", "p015"} <= said


def test_a_node_that_only_partitions_name_is_drawn() -> None:
    ring = ring_of([partition(0, 1, ("gone",), "gone", ("gone",))], [node("one")])
    assert "gone" in drawn(ring) and "unknown" in drawn(ring)
    assert paths(ring, "leader")[0].get("data-node") == "gone"


def test_writing_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ring.svg"
    write_atomically(path, "first")
    path.chmod(0o640)
    write_atomically(path, "sécond")
    assert path.read_text(encoding="utf-8") == "sécond" and path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "sécond" and list(tmp_path.iterdir()) == [path]

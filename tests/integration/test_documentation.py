"""The examples of docs/data-model.md, run in their order on a ring of its own."""

from __future__ import annotations

import re
from pathlib import Path
from time import sleep

from fortdb.cli.replies import rendered
from fortdb.client import Client
from fortdb.errors import FortError
from fortdb.protocol.text import split_line
from tests.support.rings import running_ring

PAGE = Path(__file__).parents[2] / "docs" / "data-model.md"
_BLOCK = re.compile(r"```(fortdb|python)\n(.*?)```", re.DOTALL)
_STAMP = re.compile(r"\b\d{13}(?:-\d+)?\b")
_AS_IT_IS = (b"KEYSPACE", b"TYPE")


def test_the_data_model_does_what_its_page_says(tmp_path: Path) -> None:
    blocks = _BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 6
    stamps: dict[str, str] = {}  # ids and times of the page -> those of this ring
    with running_ring(tmp_path) as ring, ring.client() as client:
        for language, text in blocks:
            if language == "python":
                exec(compile(text.replace("5000", str(ring.shape.port)), str(PAGE), "exec"), {})
                continue
            for example in re.split(r"^> ", text, flags=re.MULTILINE)[1:]:
                line, _, expected = example.partition("\n")
                sleep(0.002)  # the page's ids are of different milliseconds, as when a person types
                _compare(line, expected.strip("\n"), answer(client, _translated(line, stamps)), stamps)


def answer(client: Client, line: str) -> str:
    """What the prompt shows."""
    words = split_line(line.encode())
    try:
        reply = client.command(*words)
    except FortError as error:
        return rendered(error)
    if reply == b"OK" or (isinstance(reply, bytes) and words[0] in _AS_IT_IS):
        return reply.decode()
    return rendered(reply)


def _translated(text: str, stamps: dict[str, str]) -> str:
    return _STAMP.sub(lambda found: stamps[found[0]], text)


def _compare(line: str, expected: str, told: str, stamps: dict[str, str]) -> None:
    """Ids and times are what the ring made them, the same ones in the same places."""
    pairs = list(zip(_STAMP.findall(expected), _STAMP.findall(told), strict=False))
    assert _STAMP.sub("*", told) == _STAMP.sub("*", expected), line
    for written, actual in pairs:
        assert stamps.setdefault(written, actual) == actual, line
        ms = written.partition("-")[0]
        assert stamps.setdefault(ms, actual.partition("-")[0]) == actual.partition("-")[0], line

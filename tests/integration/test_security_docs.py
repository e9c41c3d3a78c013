"""What docs/security.md shows is so: its console is played, its files are read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fortdb.access.users import Right
from fortdb.config import load_node
from fortdb.local.ports import free_ring_port
from fortdb.net.security import load_users

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```", TEXT)


def test_its_console(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "fortdb"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fortdb "$@"\n')
    command.chmod(0o755)
    port = str(free_ring_port())
    (console,) = blocks("console")
    lines = console.replace("5000", port).splitlines()
    steps = [at for at, line in enumerate(lines) if line.startswith("$ ")]
    script = "".join(f"printf '\\n--- {at}\\n'; {lines[at][2:]}\n" for at in steps)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "FORTDB_PORT": port,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "FORTDB_NATIVE": os.environ.get("FORTDB_NATIVE", "1"),
    }
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    said = dict(re.findall(r"(?ms)^--- (\d+)\n(.*?)(?=^--- |\Z)", done.stdout))
    for at, following in zip(steps, [*steps[1:], len(lines)], strict=True):
        shown = "\n".join(lines[at + 1 : following])
        if shown != "...":
            assert said[str(at)].strip() == shown.strip(), (lines[at], done.stdout)


def test_its_files(tmp_path: Path) -> None:
    node, users = blocks("toml")
    (tmp_path / "node.toml").write_text(node)
    (tmp_path / "users.toml").write_text(users)
    assert load_node(tmp_path / "node.toml", {}).security.users == "/etc/fortdb/users.toml"
    operator = load_users(str(tmp_path / "users.toml")).get("operator")
    assert operator is not None
    assert operator.rights == set(Right) - {Right.GOVERN}, "who runs a ring need not get at what it must keep"


def test_its_words_are_those_of_the_process() -> None:
    from fortdb.net.security import UNPROTECTED

    assert UNPROTECTED in " ".join(TEXT.split())
    assert {name for name in _events() if name not in TEXT} == set()


def _events() -> set[str]:
    sources = (Path(__file__).parents[2] / "fortdb" / "net").glob("*.py")
    return {name for source in sources for name in re.findall(r'"(audit_[a-z_]+)"', source.read_text())} - {
        "audit_file",
        "audit_not_written",
    }

"""Users and passwords on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fortdb.access.passwords import which
from fortdb.cli.main import main
from fortdb.cli.prompt import _history
from fortdb.client import Access, Address, parse_url
from fortdb.errors import BadRequest
from tests.support.guarded import user


def test_hash_reads_a_password_and_writes_a_line() -> None:
    done = CliRunner().invoke(main, ["user", "hash"], input="correct horse\n")
    line = done.output.strip()
    assert done.exit_code == 0
    assert line.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert which(b"correct horse", [line], 1, line) == line
    assert "correct" not in done.output
    empty = CliRunner().invoke(main, ["user", "hash"], input="\n")
    assert (empty.exit_code, "from 1 to 1024 bytes" in empty.stderr) == (1, True)


def test_check_lists_who_may_do_what_and_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text(
        user(
            "app",
            "x",
            "y",
            commands=("read",),
            keyspaces=("b", "a"),
            commands_per_second=5,
            value_bytes_max=9,
        )
        + user("admin", "z")
    )
    done = CliRunner().invoke(main, ["user", "check", str(path)])
    assert done.output.splitlines() == [
        "app: 2 password(s); read; keyspaces a, b; at most 5 commands/s and values of 9 bytes",
        "admin: 1 password(s); admin, govern, read, scan, view, write; keyspaces *",
    ]
    path.write_text("[app]\n")
    wrong = CliRunner().invoke(main, ["user", "check", str(path)])
    assert wrong.exit_code == 2
    assert "app.passwords: must be given" in wrong.stderr


def test_a_password_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    nowhere, binary = tmp_path / "none", tmp_path / "binary"
    binary.write_bytes(b"\xff")
    for path, why in ((nowhere, "No such file or directory"), (binary, "it is no UTF-8")):
        done = CliRunner().invoke(main, ["--password-file", str(path), "ping"])
        assert done.exit_code == 2
        assert done.stderr == f"fortdb: {path}: no password can be read from it: {why}\n"


def test_addresses_say_who_comes_and_how() -> None:
    assert parse_url("fortdbs://h:1") == (Address("h", 1), Access(tls=True))
    assert parse_url("fortdb://u:p%40w@h") == (Address("h"), Access("u", "p@w"))
    assert parse_url("fortdb://:pw@h") == (Address("h"), Access("", "pw"))
    assert "p@w" not in repr(parse_url("fortdb://u:p%40w@h")[1])
    with pytest.raises(BadRequest) as caught:
        parse_url("http://u:secret@h")
    assert "secret" not in str(caught.value)


def test_the_history_of_the_prompt_holds_no_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = _history()
    for line in ("GET a", "auth app secret", " HELLO 3 auth app secret", "AUTH secret", "GET auth"):
        history.store_string(line)
    text = (tmp_path / "fortdb" / "history").read_text()
    assert "secret" not in text
    assert "GET a" in text
    assert "GET auth" in text

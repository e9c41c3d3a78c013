"""What the global options say, handed to every command as click's context object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from fortdb.client import OPEN, Access, Address, Client, parse_record_id, parse_url
from fortdb.errors import BadRequest, FortError
from fortdb.model import RecordId

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """The router to talk to and as whom, and how to write answers."""

    address: Address
    timeout_s: float
    as_json: bool
    access: Access = OPEN

    def client(self) -> Client:
        """A client for one command; used as a context manager."""
        return Client(self.address.host, self.address.port, access=self.access, timeout_s=self.timeout_s)

    def write(self, document: object, text: str) -> None:
        """Print `document` as JSON if asked for, else the text."""
        click.echo(json.dumps(document, indent=2 if sys.stdout.isatty() else None) if self.as_json else text)


pass_settings = click.make_pass_decorator(Settings)


def receipt_option(command: F) -> F:
    """`--receipt FILE` of what writes."""
    return click.option(
        "--receipt",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a receipt there: who has it on disk, and where it stands; see fortdb verify.",
    )(command)


def json_option(command: F) -> F:
    """`--json` after the command's name too, where people look for it."""

    def note(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Settings).as_json = True

    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=note, help="Write the answer as JSON."
    )
    return option(command)


class Moment(click.ParamType[RecordId | int]):
    """An id of a record or a version, or a time in Unix milliseconds."""

    name = "id|ms"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RecordId | int:
        if isinstance(value, (RecordId, int)):
            return value
        text = str(value)
        try:
            return int(text) if text.isdecimal() else parse_record_id(text)
        except FortError:
            self.fail(f"{text!r} is no id (ms-number) and no time in Unix milliseconds", param, ctx)


MOMENT = Moment()


def choose_address(context: click.Context, host: str, port: int, url: str | None) -> tuple[Address, Access]:
    """`--url` before `--host` and `--port`, and what was typed before the environment; and what a URL says of
    how to come in. A URL that is none is wrong usage."""
    typed = click.core.ParameterSource.COMMANDLINE
    host_typed = typed in (context.get_parameter_source("host"), context.get_parameter_source("port"))
    if url is None or (host_typed and context.get_parameter_source("url") is not typed):
        return Address(host, port), Access()
    try:
        return parse_url(url)
    except BadRequest as error:
        raise click.UsageError(str(error), context) from None


def text_of(value: bytes) -> str:
    """Bytes for a person's eyes: UTF-8 where it is, escapes where it is not."""
    return value.decode("utf-8", "backslashreplace")

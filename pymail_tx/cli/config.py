"""
C{pymail-tx config check}: what a relay would be with a configuration, or all
that is wrong with it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

import attrs
import click
from twisted.internet.base import ReactorBase
from twisted.internet.threads import deferToThreadPool

from pymail_tx.cli.help import Command, Group
from pymail_tx.cli.running import run
from pymail_tx.config.keys import Row, in_toml, rows, written
from pymail_tx.config.reading import Configuration, Problem, WrongConfiguration, read_file
from pymail_tx.config.settings import Settings
from pymail_tx.core.reply import printable
from pymail_tx.relay.couriers import Surroundings
from pymail_tx.relay.making import make
from pymail_tx.relay.options import machine_name

EXAMPLES = """\
Examples:
  # Before a restart, and before SIGHUP.
  pymail-tx config check relay.toml

  # For a program.
  pymail-tx config check --json relay.toml

Exit status:
  0   a relay would run with it
  1   it would not; each line says why
  64  the command line is wrong
"""

GROUP_EXAMPLES = """\
Examples:
  pymail-tx config check relay.toml
"""


@click.group(cls=Group, no_args_is_help=False, epilog=GROUP_EXAMPLES)
def config() -> None:
    """Look at the relay's configuration."""


@config.command(cls=Command, epilog=EXAMPLES)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def check(file: str, as_json: bool) -> None:
    """
    Say what a relay would do with the configuration in FILE, or all that is wrong there.

    Nothing is started, and nothing is listened at: whether a port is free shows at the start only.
    """
    problems: tuple[Problem, ...] = ()
    settings = None
    try:
        settings = run(partial(_checked, file))
    except WrongConfiguration as wrong:
        problems = wrong.problems
    show = _show_json if as_json else _show
    show(file, settings, problems)
    sys.exit(1 if problems else 0)


async def _checked(file: str, reactor: ReactorBase) -> Settings:
    """
    @raise WrongConfiguration: no relay would run with it.
    """
    configuration = read_file(file, hostname=partial(machine_name, socket.getfqdn))
    made = make(configuration, reactor, _surroundings(configuration, reactor))
    await made.couriers.close()
    return made.settings


def _surroundings(configuration: Configuration, reactor: ReactorBase) -> Surroundings:
    return Surroundings(
        reactor=reactor,
        hostname=configuration.settings.hostname,
        wall_clock=time.time,
        new_token=partial(secrets.token_hex, 8),
        run_in_thread=partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        environment=os.environ,
    )


def _show(file: str, settings: Settings | None, problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        click.echo(printable(str(problem)))
    if settings:
        click.echo(f"{file} is right. A relay would run with this, defaults included:\n")
        click.echo("\n".join(_lines(Settings, written(settings))))


def _lines(section: type, values: Mapping[str, object], above: str = "") -> Iterator[str]:
    """As a file would have it, in which what is not set stands as a comment."""
    keys = rows(section)
    for key, row in keys.items():
        if row.section is None:
            yield f"# {key}: {row.without}" if values[key] is None else f"{key} = {in_toml(values[key])}"
    for key, row in keys.items():
        if row.section is not None:
            yield from _tables(row, values[key], f"{above}{key}")


def _tables(row: Row, value: object, name: str) -> Iterator[str]:
    assert row.section is not None
    header = f"[[{name}]]" if row.repeated else f"[{name}]"
    tables = cast("list[Mapping[str, object]]", value if row.repeated else [value])
    for values in tables:
        yield from ("", header, *_lines(row.section, values, f"{name}."))


def _show_json(file: str, settings: Settings | None, problems: tuple[Problem, ...]) -> None:
    result = {
        "file": file,
        "ok": not problems,
        "problems": [attrs.asdict(problem) for problem in problems],
        "settings": written(settings) if settings else None,
    }
    click.echo(json.dumps(result, ensure_ascii=False, indent=2))

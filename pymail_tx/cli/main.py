"""
The program C{pymail-tx} and its commands.
"""

from __future__ import annotations

import importlib.metadata

import click

from pymail_tx.cli.config import config
from pymail_tx.cli.help import Group
from pymail_tx.cli.mistake import in_one_line
from pymail_tx.cli.send import send
from pymail_tx.cli.sink import sink
from pymail_tx.cli.user import user


class Program(Group):
    """All commands. It says in one line what is wrong with a command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See C{click.Group}."""
        with in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """See C{click.Group}."""
        with in_one_line():
            return super().invoke(ctx)


EXAMPLES = """\
Examples:
  # In one terminal, a server that shows what it gets.
  pymail-tx sink

  # In another, a message to it.
  pymail-tx send --server smtp://127.0.0.1:2526 --from joe@example.org \\
      --to ann@example.com --header 'Subject: Hello' --body 'It works.'
"""


@click.group(cls=Program, no_args_is_help=False, epilog=EXAMPLES)
@click.version_option(importlib.metadata.version("pymail-tx"), message="pymail-tx %(version)s")
def program() -> None:
    """Send mail, see what becomes of it, and look after the relay."""


program.add_command(send)
program.add_command(sink)
program.add_command(config)
program.add_command(user)

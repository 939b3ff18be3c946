"""
What is said about mistakes: one line, and an exit status, that of sysexits.h
where one fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

import click

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.reply import printable


class Mistake(click.ClickException):
    """
    Ends the command: its line is wrong, and will not do better tomorrow.
    """

    exit_code = 64  # EX_USAGE

    def show(self, file: IO[str] | None = None) -> None:
        """See C{click.ClickException}."""
        click.echo(f"pymail-tx: {printable(self.message)}", err=True)


class Prevented(Mistake):
    """The line may be right, but a file cannot be read, or a port is in use."""

    exit_code = 1


class Interrupted(Mistake):
    """Somebody pressed Ctrl-C."""

    exit_code = 130  # as shells have it: 128 and SIGINT's number


@contextmanager
def naming(options: Mapping[str, str], mistake: type[Mistake] = Mistake) -> Iterator[None]:
    """
    Say which option an argument that cannot be used came from.

    @param options: the option for each field of L{BadArgument}; a field that
        is not there is an option's name itself.
    @raise Mistake: in the place of L{BadArgument}.
    """
    try:
        yield
    except BadArgument as problem:
        option = options.get(problem.field, f"--{problem.field}")
        raise mistake(f"{option}: {problem.words}") from None


@contextmanager
def in_one_line() -> Iterator[None]:
    """
    @raise Mistake: in the place of click's errors about usage, which print a
        page.
    """
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "pymail-tx"
        words = error.format_message().replace("\n", " ").rstrip(".")
        raise Mistake(f"{words}; {command} --help tells all options") from None

"""
Helps that end in examples, printed as they are written.
"""

from __future__ import annotations

import click


class Command(click.Command):
    """A command whose C{epilog} is not wrapped."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See C{click.Command}."""
        formatter.write(f"\n{(self.epilog or '').rstrip()}\n")


class Group(Command, click.Group):
    """A command with commands of its own."""

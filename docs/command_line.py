"""
Writes docs/reference/command-line.md from the helps of the commands.

    python -m docs.command_line > docs/reference/command-line.md

The tests say when that has to be done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from pymail_tx.cli.main import program

_HEAD = """\
# The command line

`pymail-tx` sends mail and shows what becomes of it. This page is what its helps say.

What a command finds out goes to standard output, everything else to standard error. A mistake gets one line that names
the option:

```console
$ pymail-tx send --to ann --from joe@example.org --body x; echo $?
pymail-tx: --to: 'ann' has no domain
64
```
"""

_WIDTH = 80


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections("pymail-tx", program)])


def _sections(name: str, command: click.Command) -> Iterator[str]:
    yield _section(name, command)
    if isinstance(command, click.Group):
        for each, below in command.commands.items():
            yield from _sections(f"{name} {each}", below)


def _section(name: str, command: click.Command) -> str:
    with click.Context(command, info_name=name, terminal_width=_WIDTH) as context:
        return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())

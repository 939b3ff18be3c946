"""
A bar on a terminal while a large message is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

FROM_OCTETS = 1_048_576
"""What is smaller is gone before anybody looks."""


@contextmanager
def shown_for(octets: int) -> Iterator[Callable[[int], object] | None]:
    """
    Show a bar on standard error, if that is a terminal, for a message of more
    than L{FROM_OCTETS}.

    @return: for how many octets were sent so far; C{None} without a bar.
    """
    if octets <= FROM_OCTETS or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("sending", total=octets)
        yield lambda sent: bar.update(task, completed=min(sent, octets))

"""
What the client benchmarks have in common: rows with their marks, rounds that are fair to all sides, tables of figures.

A figure without the machine and without its peer in the same minutes says little. So a row is a figure beside a peer's
wherever there is one, each round measures all sides once and begins with another, and medians count.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from attrs import Factory, frozen

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "benchmarks.md"

NOT_BUILT = "not built yet"
NOT_MEASURED = "not measured"
MISSED = "MISSED"

_HEADER = ("", "unit", "pymail-tx", "beside", "ratio", "mark", "aim", "", "")

_T = TypeVar("_T")


@frozen
class Mark:
    """
    What a figure has to reach.

    @ivar value: missed, the benchmark fails.
    @ivar aim: what is hoped for beyond it.
    @ivar at_least: whether more is better.
    @ivar of_ratio: whether it is the ratio to the peer's figure that has to, as where more is better.
    """

    value: float
    aim: float | None = None
    at_least: bool = False
    of_ratio: bool = Factory(lambda self: self.at_least, takes_self=True)

    def verdict(self, figure: float) -> str:
        """How the figure stands to mark and aim."""
        if not self._reaches(figure, self.value):
            return MISSED
        return "aim reached" if self.aim is not None and self._reaches(figure, self.aim) else "holds"

    def _reaches(self, figure: float, limit: float) -> bool:
        return figure >= limit if self.at_least else figure <= limit


@frozen(kw_only=True)
class Row:
    """
    One line of the table.

    @ivar ours: the median, C{None} where there is none; the remark says why.
    @ivar theirs: the peer's median, C{None} without a peer.
    @ivar ratio: of ours to theirs, the median of the rounds'.
    @ivar mark: for the ratio if it is one of C{of_ratio}, else for C{ours}; C{None} where the figure is only reported.
    """

    what: str
    unit: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    mark: Mark | None = None
    remark: str = ""
    missing: str = NOT_MEASURED

    @property
    def verdict(self) -> str:
        """In a word or two."""
        figure = self.ratio if self.mark and self.mark.of_ratio else self.ours
        if figure is None:
            return self.missing
        return self.mark.verdict(figure) if self.mark else "reported"

    def cells(self) -> tuple[str, ...]:
        """What stands in the table."""
        mark, aim = (self.mark.value, self.mark.aim) if self.mark else (None, None)
        figures = (self.ours, self.theirs, self.ratio, mark, aim)
        return (self.what, self.unit, *map(_figure, figures), self.verdict, self.remark)


def text_table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    lines = [_HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(_aligned, line, widths, range(len(line)))).rstrip() for line in lines)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows for a page."""
    rule = ("---", "---", "---:", "---:", "---:", "---:", "---:", "---", "---")
    return "\n".join(f"| {' | '.join(line)} |" for line in (_HEADER, rule, *(row.cells() for row in rows)))


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if 2 <= column <= 6 else cell.ljust(width)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rounds(count: int, sides: Mapping[str, Callable[[], _T]]) -> dict[str, list[_T]]:
    """
    Measure every side once a round, each round beginning with the next of them: what else the machine does meets all
    alike.
    """
    found: dict[str, list[_T]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(count):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the rounds' ratios: a slow minute slows both sides of its round."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def memory_kib(pid: int | str, field: str) -> int:
    """
    A process's memory, in KiB.

    @param pid: a process, or C{"self"}.
    @param field: C{"VmRSS"} now, C{"VmHWM"} at its peak (since it became this program; getrusage's counts what its
        parent had as well).
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/status has no {field}: the process has ended")


def cpu_s(pid: int) -> float:
    """CPU time of a running process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{len(os.sched_getaffinity(0))} cores of {_cpu_model()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, Twisted {version('Twisted')}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write_section(name: str, date: str, setting: str, rows: Sequence[Row]) -> None:
    """
    Put the rows, with the command that measured them, onto the page of benchmarks.

    @param name: of the benchmark: its script's, and its section's.
    @param setting: what was measured on, and beside what.
    """
    command = shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    text = f"Measured on {date} on {setting}, by `{command}`.\n\n{markdown_table(rows)}"
    PAGE.write_text(with_section(PAGE.read_text(), name, text))


def with_section(page: str, name: str, text: str) -> str:
    """
    The page with other text between C{<!-- NAME: begin -->} and C{<!-- NAME: end -->}.

    @raise ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the page needs the lines {begin} and {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"

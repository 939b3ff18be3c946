"""
A file, read by the table of keys: L{Settings}, or all that is wrong with it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping

from attrs import field, frozen

from pymail_tx.config.keys import Kind, Misfit, Misfits, table
from pymail_tx.config.lines import Path, lines_of
from pymail_tx.config.settings import Settings

MAX_FILE_OCTETS = 10_485_760
"""10 MiB: some fifty thousand users."""

_TABLE: Kind[Settings] = table(Settings)
_PLACE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)\Z")


@frozen(kw_only=True)
class Problem:
    """
    Something that is wrong.

    @ivar file: as it was named; C{""} if an option is wrong.
    @ivar line: C{None} if it is about no line.
    @ivar key: with dots; or the option with its dashes; or C{""}.
    @ivar words: what is wrong, and what to write instead.
    """

    file: str
    line: int | None
    key: str
    words: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.words) if part)


class WrongConfiguration(Exception):
    """
    @ivar problems: all that is wrong, in the order of lines.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@frozen(kw_only=True)
class Source:
    """
    Where settings come from.

    @ivar file: its name; C{""} without one.
    @ivar text: what is in it; it may hold passwords.
    @ivar options: the option that gave what stands at a path, instead of the
        file.
    """

    file: str = ""
    text: str = field(default="", repr=False)
    options: Mapping[Path, str] = field(factory=dict)

    def problems(self, misfits: Iterable[Misfit]) -> tuple[Problem, ...]:
        """Each with its place, in the order of lines."""
        lines = lines_of(self.text)
        found = [self._problem(misfit, lines) for misfit in misfits]
        return tuple(sorted(found, key=lambda problem: problem.line or 0))

    def _problem(self, misfit: Misfit, lines: Mapping[Path, int]) -> Problem:
        above = [misfit.path[:length] for length in range(len(misfit.path), 0, -1)]
        option = next((self.options[path] for path in above if path in self.options), None)
        if option:
            return Problem(file="", line=None, key=option, words=misfit.words)
        line = next((lines[path] for path in above if path in lines), None)
        key = ".".join(part for part in misfit.path if isinstance(part, str))
        return Problem(file=self.file, line=line, key=key, words=misfit.words)


@frozen
class Configuration:
    """Settings, and where they come from."""

    settings: Settings
    source: Source = field(repr=False)


@frozen(kw_only=True)
class Option:
    """
    A value from the command line, which goes before the file's.

    @ivar name: with dashes.
    @ivar path: of the key.
    @ivar value: as TOML would have it.
    """

    name: str
    path: Path
    value: object = field(repr=False)


def read_file(path: str, *, hostname: Callable[[], str], options: Iterable[Option] = ()) -> Configuration:
    """
    Read a file; see L{read}.

    @raise WrongConfiguration: or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            octets = file.read(MAX_FILE_OCTETS + 1)
    except OSError as problem:
        raise _unreadable(path, f"cannot be read: {problem.strerror}") from None
    except ValueError:  # a NUL in its name
        raise _unreadable(path, "is no name of a file") from None
    return read(octets, file=path, hostname=hostname, options=options)


def read(octets: bytes, *, file: str, hostname: Callable[[], str], options: Iterable[Option] = ()) -> Configuration:
    """
    @param octets: the file's.
    @param file: its name, for the errors.
    @param hostname: asked for one if there is none.
    @raise WrongConfiguration: with all that is wrong.
    """
    text = _decoded(octets, file)
    tables = _parsed(text, file)
    given = list(options)
    for option in given:
        _put(tables, option)
    if "hostname" not in tables:
        tables["hostname"] = hostname()
    source = Source(file=file, text=text, options={option.path: option.name for option in given})
    try:
        return Configuration(_TABLE.read(tables), source)
    except Misfits as wrong:
        raise WrongConfiguration(source.problems(wrong.all)) from None


def _decoded(octets: bytes, file: str) -> str:
    if len(octets) > MAX_FILE_OCTETS:
        raise _unreadable(file, f"has more than {MAX_FILE_OCTETS} octets")
    try:
        return octets.decode()
    except UnicodeDecodeError as problem:
        raise _unreadable(file, "is not UTF-8", octets.count(b"\n", 0, problem.start) + 1) from None


def _parsed(text: str, file: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        place = _PLACE.search(str(problem))
        words = str(problem)[: place.start()] if place else str(problem)
        line = int(place[1]) if place and place[1] else max(1, len(text.splitlines()))
        raise _unreadable(file, f"is not TOML: {words[:1].lower()}{words[1:]}", line) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; arrays within arrays without end
        raise _unreadable(file, "is not TOML that anybody would write") from None


def _unreadable(file: str, words: str, line: int | None = None) -> WrongConfiguration:
    return WrongConfiguration((Problem(file=file, line=line, key="", words=words),))


def _put(tables: dict[str, object], option: Option) -> None:
    """What is no table where one is needed stays, for the reader to find."""
    *above, last = option.path
    table: object = tables
    for name in above:
        table = table.setdefault(str(name), {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table[last] = option.value

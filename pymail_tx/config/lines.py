"""
Where in a TOML file each key stands. C{tomllib} gives values without their
places, so this looks for keys, and for nothing else: it is to be asked about a
text that C{tomllib} has read, and relies on its being TOML.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping

from attrs import define, field

Path = tuple[str | int, ...]
"""Keys from the top, and the places in arrays, from 0: C{("route", 1, "to")}."""

_TOKEN = re.compile(
    r"""
      \"{3} (?: \\. | [^\\] )*? \"{3,5} | '{3} .*? '{3,5}
    | " (?: \\. | [^"\\] )* " | '[^']*'
    | [^\s\[\]{}=,.\#"']+
    | [\[\]{}=,.\n]
    """,
    re.VERBOSE | re.DOTALL,
)
_SKIPPED = re.compile(r"(?:[ \t\r]|\#[^\n]*)*")


def lines_of(text: str) -> Mapping[Path, int]:
    """
    The line, from 1, on which each key and each element of an array begins. A
    table that has a header of its own begins there.

    @param text: valid TOML.
    """
    return _Finder(_tokens(text)).run()


def _tokens(text: str) -> list[tuple[str, int]]:
    """Each with its line; strings whole, line ends as tokens of their own, comments left out."""
    return list(_each_token(text))


def _each_token(text: str) -> Iterator[tuple[str, int]]:
    at, line = 0, 1
    while True:
        skipped = _SKIPPED.match(text, at)
        found = _TOKEN.match(text, skipped.end() if skipped else at)
        if not found:
            yield "\n", line  # so that the last statement ends like all others
            return
        yield found[0], line
        line += found[0].count("\n")
        at = found.end()


@define
class _Finder:
    """
    @ivar _at: the next token.
    @ivar _arrays: how many tables each C{[[array]]} has so far.
    """

    _tokens: list[tuple[str, int]]
    _at: int = 0
    _arrays: dict[Path, int] = field(factory=dict)
    _lines: dict[Path, int] = field(factory=dict)

    def run(self) -> Mapping[Path, int]:
        table: Path = ()
        while self._at < len(self._tokens):
            if self._next == "\n":
                self._at += 1
            elif self._next == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _line(self) -> int:
        return self._tokens[self._at][1]

    def _header(self) -> Path:
        """C{[a.b]} or C{[[a.b]]}; what it opens."""
        line = self._line
        is_array = self._tokens[self._at + 1][0] == "["
        self._at += 1 + is_array
        path: Path = ()
        for name in self._names():
            path = self._opened((*path, name))
        if is_array:
            path = self._appended(path[: len(path) - isinstance(path[-1], int)])
        self._at += 1 + is_array
        self._note_all(path, len(path), line)
        self._lines[path] = line  # [a.b] may stand above [a]
        return path

    def _opened(self, path: Path) -> Path:
        """A table, or the last one of an array of tables."""
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _appended(self, array: Path) -> Path:
        self._arrays[array] = self._arrays.get(array, 0) + 1
        return self._opened(array)

    def _pair(self, table: Path) -> None:
        line = self._line
        names = self._names()
        self._at += 1  # the equals sign
        path = (*table, *names)
        self._note_all(path, len(names), line)
        self._value(path)

    def _names(self) -> list[str]:
        """A key, dotted or not; what follows it is the next token."""
        names = [_name(self._next)]
        self._at += 1
        while self._next == ".":
            names.append(_name(self._tokens[self._at + 1][0]))
            self._at += 2
        return names

    def _note_all(self, path: Path, parts: int, line: int) -> None:
        """Its last parts, as far as they were not there before."""
        for end in range(len(path) - parts + 1, len(path) + 1):
            self._lines.setdefault(path[:end], line)

    def _value(self, path: Path) -> None:
        if self._next == "[":
            self._array(path)
        elif self._next == "{":
            self._inline_table(path)
        else:
            while self._next not in (",", "]", "}", "\n"):  # 1979-05-27 07:32:00.5 is several
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        place = 0
        while self._next != "]":
            if self._next in (",", "\n"):
                self._at += 1
                continue
            self._note_all((*path, place), 1, self._line)
            self._value((*path, place))
            place += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._next != "}":
            if self._next in (",", "\n"):
                self._at += 1
            else:
                self._pair(path)
        self._at += 1


def _name(token: str) -> str:
    if token[0] not in "\"'":
        return token
    [name] = tomllib.loads(f"{token}=0")
    return name

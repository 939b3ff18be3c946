"""
Where keys stand in a TOML file: held against C{tomllib}, which knows what is
there, and against texts that were written with a note of every line.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.config.lines import Path, lines_of

_SCALARS = (
    "1", "0x1F", "1_000.5e-3", "inf", "true", "1979-05-27T07:32:00.999-07:00", "1979-05-27 07:32:00.5", "07:32:00",
    '""', "''", '"#\\"[{=,\\\\"', "'#\"[{=,\\'", '"""a\n\\"""\n"]]"\n# """', '""""a"""""', "'''\n''#\n= ''''", '""""""',
)  # fmt: skip
_NAMES = ("a", "b-1", "1.2", "é", "", "#", "x]", 'q"', "'", "\\", "=", "\n")
_BLANKS = ("", " ", "\t")
_GAPS = (*_BLANKS, "\n", "\r\n", " # [x] = '\"\n\n")


@define
class _Writer:
    """Writes TOML as wildly as TOML allows, and notes the line of all that it writes."""

    choose: Callable[[int], int]
    text: str = ""
    lines: dict[Path, int] = field(factory=dict)
    _count: int = 0

    def document(self) -> None:
        self.pairs(())
        tables: list[Path] = [()]
        for _ in range(self.choose(4)):
            self.text += self.one_of(_GAPS[3:])
            above = tables[self.choose(len(tables) - 1)]
            tables.append(self.array_of_tables(above) if self.choose(1) else self.table(above))
            self.pairs(tables[-1])

    def table(self, above: Path) -> Path:
        self.text += "["
        path = (*above, self.name())
        self.note(path)
        self.text += self.header(path) + "]" + self.one_of(_GAPS[3:])
        return path

    def array_of_tables(self, above: Path) -> Path:
        self.text += "[["
        array = (*above, self.name())
        words = self.header(array)
        self.note(array)
        self.note((*array, 0))
        self.text += words + "]]\n"
        for place in range(1, 1 + self.choose(2)):
            self.pairs((*array, place - 1))
            self.note((*array, place))
            self.text += f"[[{words}]]\n"
        return (*array, max(path[-1] for path in self.lines if path[:-1] == array))

    def header(self, path: Path) -> str:
        return self.one_of((".", " . ")).join(self.written(part) for part in path if isinstance(part, str))

    def pairs(self, table: Path) -> None:
        for _ in range(self.choose(2)):
            self.text += self.one_of(_GAPS)
            self.pair(table)
            self.text += self.one_of(_GAPS[3:])

    def pair(self, table: Path) -> None:
        path = table
        for part in range(1 + self.choose(1)):
            self.text += " . " if part else ""
            path = (*path, self.name())
            self.note(path)
            self.text += self.written(path[-1])
        self.text += self.one_of(_BLANKS) + "=" + self.one_of(_BLANKS)
        self.value(path, depth=2)

    def value(self, path: Path, *, depth: int) -> None:
        kind = self.choose(3) if depth else 0
        if kind == 2:
            self.array(path, depth - 1)
        elif kind == 3:
            self.text += "{"
            for place in range(self.choose(2)):
                self.text += ", " if place else " "
                self.pair_within(path, depth - 1)
            self.text += " }"
        else:
            self.text += self.one_of(_SCALARS)

    def pair_within(self, table: Path, depth: int) -> None:
        path = (*table, self.name())
        self.note(path)
        self.text += f"{self.written(path[-1])} = "
        self.value(path, depth=depth)

    def array(self, path: Path, depth: int) -> None:
        self.text += "["
        for place in range(self.choose(3)):
            self.text += ("," if place else "") + self.one_of(_GAPS)
            self.note((*path, place))
            self.value((*path, place), depth=depth)
            self.text += self.one_of(_GAPS)
        self.text += "]"

    def name(self) -> str:
        self._count += 1
        return f"{self.one_of(_NAMES)}{self._count}"

    def written(self, name: object) -> str:
        text = str(name)
        bare = text.replace("-", "").isalnum() and text.isascii()
        literal = "'" not in text and "\n" not in text
        forms = [json.dumps(text, ensure_ascii=False), *([text] * bare), *([f"'{text}'"] * literal)]
        return self.one_of(forms)

    def note(self, path: Path) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def one_of(self, texts: tuple[str, ...] | list[str]) -> str:
        return texts[self.choose(len(texts) - 1)]


@st.composite
def _documents(draw: st.DrawFn) -> tuple[str, Mapping[Path, int]]:
    writer = _Writer(lambda most: draw(st.integers(0, most)))
    writer.document()
    return writer.text, writer.lines


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    """All that C{tomllib} found."""
    parts: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    for name, part in parts:
        yield (*path, name)
        yield from _paths(part, (*path, name))


class Lines(SynchronousTestCase):
    @given(_documents())
    def test_every_key_that_tomllib_finds_has_the_line_on_which_it_was_written(
        self, document: tuple[str, Mapping[Path, int]]
    ) -> None:
        text, written = document
        self.assertEqual(set(_paths(tomllib.loads(text))), set(written), text)
        self.assertEqual(lines_of(text), written, text)

    def test_a_configuration(self) -> None:
        text = (
            'hostname = "relay.example.org"\n'
            "# [smtp]\n"
            "[smtp]\n"
            "listen = [\n"
            '  "tcp:25", # one\n'
            '  "tcp:587",\n'
            "]\n"
            "\n"
            "[[route]]\n"
            'match = "example.org"\n'
            "[[route]]\n"
            'match = "*"\n'
            "[[route.on_reply]]\n"
            "action = 'suspend 30m'\n"
        )
        found = lines_of(text)
        for path, line in {
            ("hostname",): 1,
            ("smtp",): 3,
            ("smtp", "listen"): 4,
            ("smtp", "listen", 1): 6,
            ("route", 0): 9,
            ("route", 1, "match"): 12,
            ("route", 1, "on_reply", 0, "action"): 14,
        }.items():
            self.assertEqual(found[path], line, path)

    def test_a_table_below_its_own_sub_table_begins_at_its_header(self) -> None:
        self.assertEqual(lines_of("[a.b]\n[a]\nc=1")[("a",)], 2)

    def test_a_text_without_a_last_line_end_or_without_anything(self) -> None:
        self.assertEqual(lines_of("a=1"), {("a",): 1})
        self.assertEqual(lines_of(""), {})
        self.assertEqual(lines_of("# nothing"), {})

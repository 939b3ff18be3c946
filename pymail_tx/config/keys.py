"""
What a row in the table of keys is made of.

A section of the configuration is a frozen class of attrs, and each of its
attributes a key::

    max_connections: int = key(number(1, 100_000), "How many …", default=1_000, example=500)

What a key takes is a L{Kind}: it reads what TOML has, writes it back for
people, and has words for it. Reading raises L{Misfits}, all at once, which
never quote a value of another type than was asked for: it may hold a password.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Generic, TypeVar, cast

import attrs
from attrs import evolve, frozen

from pymail_tx.config.lines import Path
from pymail_tx.core.errors import BadArgument

T = TypeVar("T")

_ROW = "pymail_tx.config"
_TAKES_TABLE = "a table with a header in single brackets"


@frozen
class Misfit:
    """
    Something that is wrong.

    @ivar path: of the key, from wherever reading began.
    @ivar words: what is wrong, and what to write instead.
    """

    path: Path
    words: str


@frozen
class Misfits(Exception):
    """All that is wrong with a value."""

    all: tuple[Misfit, ...]

    def below(self, name: str | int) -> tuple[Misfit, ...]:
        """The same, seen from one table or array further up."""
        return tuple(Misfit((name, *one.path), one.words) for one in self.all)


@frozen(kw_only=True)
class Kind(Generic[T]):
    """
    What a key takes.

    @ivar takes: what that is: C{"text"}, C{"a whole number …"}.
    @ivar read: the value; raises L{Misfits}.
    @ivar write: the value as TOML and JSON may have it, without secrets.
    """

    takes: str
    read: Callable[[object], T]
    write: Callable[[T], object]


@frozen(kw_only=True)
class Row:
    """
    A key of a section.

    @ivar words: what it is for.
    @ivar takes: see L{Kind}; likewise C{read} and C{write}.
    @ivar default: as TOML would have it; C{None} without a constant one.
    @ivar without: in words, what holds where the key is not set and there is no
        constant default.
    @ivar required: whether it must be set.
    @ivar example: as TOML has it; C{None} for a section.
    @ivar section: the class whose keys stand in it.
    @ivar repeated: whether that is an array of tables.
    """

    words: str
    takes: str
    read: Callable[[object], object]
    write: Callable[[object], object]
    default: object = None
    without: str = ""
    required: bool = False
    example: object = None
    section: type | None = None
    repeated: bool = False


def key(kind: Kind[T], words: str, *, default: object, example: object) -> T:
    """A key with a constant default, given as TOML would have it."""
    row = evolve(_row(kind, words, example=example), default=default)
    return attrs.field(default=kind.read(default), metadata={_ROW: row})


def optional(kind: Kind[T], words: str, *, without: str, example: object) -> T | None:
    """A key that is C{None} where it is not set; C{without} says what that means."""
    row = evolve(_row(kind, words, example=example), without=without)
    return cast("T | None", attrs.field(default=None, metadata={_ROW: row}))


def required(kind: Kind[T], words: str, *, example: object, without: str = "") -> T:
    """
    A key without a default.

    @param without: what the reader puts in its place; with it, the file need
        not have the key.
    """
    row = evolve(_row(kind, words, example=example), without=without, required=not without)
    return cast(T, attrs.field(metadata={_ROW: row}))


def section(of: type[T], words: str) -> T:
    """A table, C{[name]}. It need not be there; C{of} must do without any key."""
    row = evolve(_row(table(of), words), section=of)
    return attrs.field(factory=of, metadata={_ROW: row})


def sections(of: type[T], words: str) -> tuple[T, ...]:
    """An array of tables, C{[[name]]}."""
    row = evolve(
        _row(_each(table(of), "tables, each with a header in double brackets"), words), section=of, repeated=True
    )
    return cast("tuple[T, ...]", attrs.field(default=(), metadata={_ROW: row}))


def rows(of: type) -> Mapping[str, Row]:
    """The keys of a section, in their order."""
    return {one.name: one.metadata[_ROW] for one in attrs.fields(of)}


def text(parse: Callable[[str], T], write: Callable[[T], object] = str, *, takes: str = "text") -> Kind[T]:
    """
    @param parse: may raise L{BadArgument}.
    """

    def read(value: object) -> T:
        if not isinstance(value, str):
            raise _wrong_type(value, takes)
        return _parsed(parse, value)

    return Kind(takes=takes, read=read, write=write)


def texts(parse: Callable[[str], T], write: Callable[[T], object] = str) -> Kind[tuple[T, ...]]:
    """A list; see L{text}."""
    return _each(text(parse, write), "a list of texts")


def number(least: int, most: int) -> Kind[int]:
    """A whole number."""
    return _number(int, least, most, f"a whole number from {least} to {most}")


def fraction(least: float, most: float) -> Kind[float]:
    """A part of something."""
    return _number(float, least, most, f"a number from {least:g} to {most:g}")


def flag() -> Kind[bool]:
    """Yes or no."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type(value, "true or false")
        return value

    return Kind(takes="true or false", read=read, write=bool)


def either(one: Kind[int], other: Kind[int]) -> Kind[int]:
    """A number, or a text that stands for one."""
    takes = f"{one.takes} or {other.takes}"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _wrong_type(value, takes)
        return (other if isinstance(value, str) else one).read(value)

    return Kind(takes=takes, read=read, write=one.write)


def table(of: type[T]) -> Kind[T]:
    """The keys of a section, or of the whole file."""
    return Kind(takes=_TAKES_TABLE, read=partial(_read_table, of), write=written)


def in_toml(value: object) -> str:
    """A value as it is written in TOML."""
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    # JSON is TOML, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def written(values: object) -> Mapping[str, object]:
    """All keys of a section and what they are, defaults too, without secrets, as JSON may have it."""
    return {name: row.write(getattr(values, name)) for name, row in rows(type(values)).items()}


def changes(before: object, after: object) -> list[str]:
    """The keys, with dots, that differ between two values of a section."""
    names = []
    for name, row in rows(type(before)).items():
        old, new = getattr(before, name), getattr(after, name)
        if row.section is not None and not row.repeated:
            names += [f"{name}.{each}" for each in changes(old, new)]
        elif old != new:
            names.append(name)
    return names


def _row(kind: Kind[T], words: str, *, example: object = None) -> Row:
    def write(value: object) -> object:
        return None if value is None else kind.write(cast(T, value))

    read = partial(_read_with_example, kind, example)
    return Row(words=words, takes=kind.takes, read=read, write=write, example=example)


def _read_with_example(kind: Kind[T], example: object, value: object) -> T:
    try:
        return kind.read(value)
    except Misfits as wrong:
        if example is None:
            raise
        raise Misfits(tuple(evolve(one, words=_with_example(one.words, example)) for one in wrong.all)) from None


def _with_example(words: str, example: object) -> str:
    """Some errors have said by themselves what to write."""
    return words if "; write " in words else f"{words}; write for example {in_toml(example)}"


def _parsed(parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except BadArgument as problem:
        raise Misfits((Misfit((), problem.words),)) from None


N = TypeVar("N", int, float)


def _number(of: type[N], least: N, most: N, takes: str) -> Kind[N]:
    def read(value: object) -> N:
        if isinstance(value, bool) or not isinstance(value, (int, of)):
            raise _wrong_type(value, takes)
        if not least <= value <= most:
            raise Misfits((Misfit((), f"{value} is not {takes}"),))
        return of(value)

    return Kind(takes=takes, read=read, write=of)


def _each(kind: Kind[T], takes: str) -> Kind[tuple[T, ...]]:
    """
    A list.

    @param kind: what each of its elements is.
    """

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong_type(value, takes)
        return tuple(_all_or_misfits({place: partial(kind.read, one) for place, one in enumerate(value)}).values())

    def write(values: tuple[T, ...]) -> object:
        return [kind.write(value) for value in values]

    return Kind(takes=takes, read=read, write=write)


def _read_table(of: type[T], value: object) -> T:
    if not isinstance(value, dict):
        raise _wrong_type(value, _TAKES_TABLE)
    known = rows(of)
    steps: dict[str | int, Callable[[], object]] = {}
    for name, one in value.items():
        steps[name] = partial(known[name].read, one) if name in known else partial(_unknown, name, known)
    for name, row in known.items():
        if row.required and name not in value:
            steps[name] = partial(_missing, row)
    read = _all_or_misfits(steps)
    try:
        return of(**cast("dict[str, object]", read))
    except BadArgument as problem:  # two keys do not go together
        raise Misfits((Misfit((problem.field,), problem.words),)) from None


def _all_or_misfits(steps: Mapping[str | int, Callable[[], T]]) -> Mapping[str | int, T]:
    """What each step returns; or, if any is in vain, what is wrong in all of them."""
    results: dict[str | int, T] = {}
    misfits: list[Misfit] = []
    for name, step in steps.items():
        try:
            results[name] = step()
        except Misfits as wrong:
            misfits += wrong.below(name)
    if misfits:
        raise Misfits(tuple(misfits))
    return results


def _unknown(name: str, known: Mapping[str, Row]) -> object:
    close = get_close_matches(name, known, n=1)
    instead = f"did you mean {close[0]}?" if close else f"what can stand here: {', '.join(known)}"
    raise Misfits((Misfit((), f"there is no such key; {instead}"),))


def _missing(row: Row) -> object:
    raise Misfits((Misfit((), f"is missing; write for example {in_toml(row.example)}"),))


_TYPES: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    datetime.date: "a date",
    datetime.time: "a time",
}


def _wrong_type(value: object, takes: str) -> Misfits:
    found = next((words for of, words in _TYPES.items() if isinstance(value, of)), "something else")
    return Misfits((Misfit((), f"is {found}, not {takes}"),))

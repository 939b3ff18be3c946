"""
Content in parts, as SQLite's table C{parts} keeps it: read as a file, and
written as it comes in.
"""

from __future__ import annotations

import enum
import io
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import quote

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, succeed

from pymail_tx.spool.interface import PART_OCTETS
from pymail_tx.spool.queries import named_queries

_PART = named_queries("sqlite_queries.sql")["part"]

_READER_CACHE_KIB = 128
"""SQLite's own memory for each content that is being read: two parts. Its default is 2 MiB."""

T = TypeVar("T")


class Submit(Protocol):
    """Has work done in the writer's thread, within a transaction; fires after its commit."""

    def __call__(self, work: Callable[[], T]) -> Deferred[T]: ...


@frozen
class ComingIn:
    """
    Content as far as it has come.

    @ivar message_id: the message that it will be, C{None} before the first part
        is stored.
    @ivar parts: how many parts are stored.
    @ivar rest: what comes behind them.
    """

    message_id: int | None
    parts: int
    rest: bytes
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> ComingIn:
        """Content that is there as a whole."""
        return cls(None, 0, content, len(content))

    def rest_in_parts(self) -> Iterator[tuple[int, bytes]]:
        """What is still to be stored, with the numbers of the parts; of empty content one part."""
        if len(self.rest) <= PART_OCTETS:
            if self.rest or not self.parts:
                yield self.parts, self.rest
            return
        for number, start in enumerate(range(0, len(self.rest), PART_OCTETS), self.parts):
            yield number, self.rest[start : start + PART_OCTETS]


class PartsTable(Protocol):
    """What a writer needs of the tables."""

    def add_parts(self, coming_in: ComingIn) -> int: ...
    def drop_content(self, message_id: int) -> None: ...


class _Phase(enum.Enum):
    OPEN = enum.auto()
    TAKEN = enum.auto()
    ABANDONED = enum.auto()


@define(eq=False)
class SQLiteContentWriter:
    """
    Implements L{ContentWriter <pymail_tx.spool.interface.ContentWriter>}.
    """

    _submit: Submit
    _table: PartsTable
    _message_id: int | None = field(default=None, init=False)
    _parts: int = field(default=0, init=False)
    _buffer: bytearray = field(factory=bytearray, init=False)
    _phase: _Phase = field(default=_Phase.OPEN, init=False)
    _writing: bool = field(default=False, init=False)

    @property
    def size_bytes(self) -> int:
        return self._parts * PART_OCTETS + len(self._buffer)

    def write(self, block: bytes) -> Deferred[None]:
        assert self._phase is _Phase.OPEN, "there is nothing behind the end of content"
        assert not self._writing, "one block at a time"
        self._buffer += block
        if len(self._buffer) < PART_OCTETS:
            return succeed(None)
        whole = len(self._buffer) - len(self._buffer) % PART_OCTETS
        parts = ComingIn(self._message_id, self._parts, bytes(self._buffer[:whole]), whole)
        self._writing = True
        return self._submit(partial(self._table.add_parts, parts)).addCallbacks(
            self._stored, self._not_stored, (whole,)
        )

    def so_far(self) -> ComingIn:
        """All that was written."""
        assert self._phase is _Phase.OPEN and not self._writing, "content that is whole and belongs to no message yet"
        return ComingIn(self._message_id, self._parts, bytes(self._buffer), self.size_bytes)

    def taken(self) -> None:
        """A message has it now."""
        self._phase = _Phase.TAKEN
        self._buffer.clear()

    def abandon(self) -> None:
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.ABANDONED
        self._buffer.clear()
        if self._message_id is not None and not self._writing:
            self._drop(self._message_id)

    def _stored(self, message_id: int, octets: int) -> None:
        self._message_id, self._writing = message_id, False
        if self._phase is _Phase.ABANDONED:
            self._drop(message_id)
            return
        self._parts += octets // PART_OCTETS
        del self._buffer[:octets]

    def _not_stored(self, failure: T) -> T:
        self._writing = False
        return failure

    def _drop(self, message_id: int) -> None:
        """If the spool is broken, the next opening does it."""
        self._submit(partial(self._table.drop_content, message_id)).addErrback(lambda _: None)


@frozen
class SQLiteContent:
    """
    Implements L{StoredContent <pymail_tx.spool.interface.StoredContent>}.
    """

    _path: str
    _message_id: int
    size_bytes: int

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Parts(self._path, self._message_id, self.size_bytes), PART_OCTETS)


class _Parts(io.RawIOBase):
    """A content's parts as one file, over a connection of its own: it may be read in another thread than others."""

    def __init__(self, path: str, message_id: int, size_bytes: int) -> None:
        super().__init__()
        self._message_id = message_id
        self._size = size_bytes
        self._position = 0
        try:
            self._database = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, check_same_thread=False)
            self._database.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
        except sqlite3.Error as problem:
            raise OSError(f"spool {path}: {problem}") from problem

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower than any buffer
        """To the end of a part at most."""
        if self._position >= self._size:
            return 0
        number, start = divmod(self._position, PART_OCTETS)
        octets = self._part(number)[start : start + len(buffer)]
        buffer[: len(octets)] = octets
        self._position += len(octets)
        return len(octets)

    def close(self) -> None:
        if not self.closed:
            self._database.close()
        super().close()

    def _part(self, number: int) -> bytes:
        try:
            rows = self._database.execute(_PART, {"message_id": self._message_id, "number": number}).fetchall()
        except sqlite3.Error as problem:
            raise OSError(f"message {self._message_id} cannot be read from the spool: {problem}") from problem
        if not rows:
            raise OSError(f"message {self._message_id} is not in the spool any more")
        [(octets,)] = rows
        assert isinstance(octets, bytes)
        return octets

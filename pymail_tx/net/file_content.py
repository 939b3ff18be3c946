"""
Content from a file: looked through before it is sent, and read again for that.

The file is read from where it stands to its end, a block at a time, so that
memory does not grow with it. Looking it through lets the reactor do other
things every now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pymail_tx.core.content import BLOCK_OCTETS, Content, Surveyor
from pymail_tx.core.errors import BadArgument

BLOCKS_A_TURN = 16
"""A MiB takes about a millisecond to look through."""


async def look_through(clock: IReactorTime, file: BinaryIO) -> Content:
    """
    @param file: binary and seekable. It must stay open, and what is in it the
        same, until the message is sent.
    @raise BadArgument: it cannot be read so.
    """
    source = _Source.of(file)
    surveyor = Surveyor()
    for number, block in enumerate(source.look()):
        surveyor.feed(block)
        if number % BLOCKS_A_TURN == BLOCKS_A_TURN - 1:
            await deferLater(clock, 0)
    survey = surveyor.survey()
    return Content(survey, None, lambda: source.blocks(survey.raw_bytes))


@frozen
class _Source:
    """A file, and where in it the content begins. Others may read it between two blocks."""

    file: BinaryIO
    start: int

    @classmethod
    def of(cls, file: BinaryIO) -> _Source:
        try:
            seekable, is_text = file.seekable(), isinstance(file.read(0), str)
            start = file.tell() if seekable else 0
        except (OSError, AttributeError, ValueError) as problem:
            raise BadArgument("content", f"octets, an EmailMessage or a file is wanted: {problem}") from None
        if is_text or not seekable:
            raise BadArgument("content", "a file must be binary and seekable")
        return cls(file, start)

    def look(self) -> Iterator[bytes]:
        """
        @raise BadArgument: it cannot be read.
        """
        position = self.start
        while block := self._look_at(position):
            position += len(block)
            yield block

    def _look_at(self, position: int) -> bytes:
        try:
            return self._block(position, BLOCK_OCTETS)
        except OSError as problem:
            raise BadArgument("content", f"no file that can be read: {problem}") from None

    def blocks(self, octets: int) -> Iterator[bytes]:
        """
        @raise OSError: it cannot be read any more, or does not hold as many
            octets as it did.
        """
        position, end = self.start, self.start + octets
        while position < end:
            block = self._block(position, min(BLOCK_OCTETS, end - position))
            if not block:
                raise OSError("the file has become shorter since it was looked through")
            position += len(block)
            yield block
        if self._block(end, 1):
            raise OSError("the file has grown since it was looked through")

    def _block(self, position: int, octets: int) -> bytes:
        try:
            self.file.seek(position)
            return self.file.read(octets)
        except ValueError as closed:
            raise OSError(str(closed)) from None

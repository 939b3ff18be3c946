"""
Content that is sent as fast as the transport takes it, and no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Flow:
    """
    Puts blocks, one by one, until the transport asks to pause; goes on when it
    has room again (back-pressure). No more than a block is in memory.
    """

    def __init__(
        self, transport: IConsumer, blocks: Iterator[bytes], put: Callable[[bytes], bool], failed: Callable[[str], None]
    ) -> None:
        """
        @param put: takes the next block; says whether more are wanted.
        @param failed: hears why there is no next block.
        """
        self._transport = transport
        self._blocks = blocks
        self._put = put
        self._failed = failed
        self._paused = True

    def start(self, all_put: Callable[[], None]) -> None:
        """
        Begin.

        @param all_put: called when the last block was put.
        """
        self._all_put = all_put
        self._transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """See L{IPushProducer <twisted.internet.interfaces.IPushProducer>}."""
        self._paused = False
        while not self._paused:
            try:
                block = next(self._blocks, None)
            except OSError as problem:
                self._stop()
                self._failed(str(problem))
                return
            if block is None:
                self._stop()
                self._all_put()
            elif not self._put(block):
                self._stop()

    def pauseProducing(self) -> None:
        """See L{IPushProducer <twisted.internet.interfaces.IPushProducer>}."""
        self._paused = True

    def stopProducing(self) -> None:
        """See L{IPushProducer <twisted.internet.interfaces.IPushProducer>}."""
        self._paused = True

    def _stop(self) -> None:
        self._paused = True
        self._transport.unregisterProducer()

"""
Who carries mail out of the relay: what the scheduler asks of a route's target.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol

from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report

Content = bytes | BinaryIO
"""A message's content: in memory, or a file that can be sought and holds it from its beginning."""


class Courier(Protocol):
    """
    Carries messages to one target.
    """

    @property
    def key(self) -> str:
        """
        Its name: the same for the same target, also after a restart. Limits are
        kept for each key, and deliveries remember it. No secret is in it.
        """
        ...

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        """
        Try to deliver. A file stays open until then. Fires with one outcome for each recipient, in order,
        whatever the world does; a failure other than C{CancelledError} is a
        bug. Cancelling ends the attempt as soon as can be; what is already
        decided may still come as a Report.
        """
        ...

    def close(self) -> Deferred[None]:
        """Finish what is under way and let go of connections and files. Whoever made a courier closes it."""
        ...

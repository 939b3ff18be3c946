"""
A mail transaction over an L{SMTPClient} (RFC 5321 §3.3), from the plan to a
verdict for each recipient.

MAIL, every RCPT and DATA go out in one write where the server pipelines; where
it does not, the protocol sends them one by one. The content follows in blocks
that wait for the transport to drain, a short one together with its dot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from pymail_tx.core.content import encoded
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import OutOfOrder, SessionError, SessionLost
from pymail_tx.core.outcome import Report
from pymail_tx.core.plan import Plan, plan
from pymail_tx.core.reply import Reply
from pymail_tx.core.state import State
from pymail_tx.core.verdicts import Verdicts

if TYPE_CHECKING:
    from pymail_tx.net.protocol import SMTPClient

BLOCK_OCTETS = 65_536
"""What is encoded and handed to the transport at a time; a transport asks to pause at about this much."""


async def transact(client: SMTPClient, envelope: Envelope, content: bytes) -> Report:
    """See L{SMTPClient.send}."""
    if client.state is not State.READY and not client.ended_by:
        raise OutOfOrder(f"a message cannot be sent while {client.state.value}")
    verdicts = Verdicts(envelope, client.peer())
    planned = plan(envelope, content, client.extensions)
    verdicts.refuse(planned.refused)
    transaction = _Transaction(client, envelope, planned, verdicts)
    try:
        again = bool(verdicts.open)
        while again and client.state is State.READY:
            again = await transaction.run()
        if again:
            raise client.ended_by or SessionLost("the session cannot go on")
    except SessionError as error:
        verdicts.lost(error, uncertain=client.in_doubt)
    return verdicts.report()


class _Transaction:
    """
    MAIL to the reply to end of data, for whoever has no verdict yet.
    """

    def __init__(self, client: SMTPClient, envelope: Envelope, planned: Plan, verdicts: Verdicts) -> None:
        self._client = client
        self._envelope = envelope
        self._planned = planned
        self._verdicts = verdicts

    async def run(self) -> bool:
        """
        @return: whether another one is due at once, see
            L{Verdicts.transaction_over}.
        @raise SessionError: the session ended; the verdicts given so far stand.
        """
        mail, recipients, data = self._say_envelope()
        accepted = await mail
        if isinstance(accepted, Reply) and accepted.severity != 2:
            self._verdicts.all(accepted)
        for index, replied in recipients.items():
            reply = await replied
            if isinstance(reply, Reply) and self._verdicts.is_open(index):
                self._verdicts.rcpt(index, reply)
        await self._send_content(_reply_in(await data))
        again = self._verdicts.transaction_over()
        if self._client.state in (State.TRANSACTION, State.ADDRESSED):
            await self._client.rset()
        return again

    def _say_envelope(self) -> tuple[_Settled, dict[int, _Settled], _Settled]:
        client, recipients = self._client, self._envelope.recipients
        with client.group():
            mail = _settled(client.mail(self._envelope.sender, *self._planned.parameters))
            named = {index: _settled(client.rcpt(recipients[index].address)) for index in self._verdicts.open}
            data = _settled(client.data())
        return mail, named, data

    async def _send_content(self, asked: Reply | None) -> None:
        if asked is None:
            return
        if asked.severity != 3:
            self._verdicts.end(asked)
        elif self._client.state is State.NOTHING_TO_SEND:
            # Everybody was refused, and still the server wants content. A lone
            # dot is the way out; its reply is nobody's delivery (RFC 2920 §3.1).
            ended = self._client.content_reply()
            self._client.end_of_data()
            await ended
        else:
            replied = self._client.content_reply()
            if self._client.state is State.CONTENT:  # it may have been refused together with the 354
                self._flow()
            self._verdicts.end(await replied)

    def _flow(self) -> None:
        blocks = encoded(_blocks(self._planned.content))
        if len(self._planned.content) <= BLOCK_OCTETS:
            self._client.end_of_data(b"".join(blocks))
        else:
            flow = _Flow(self._client, blocks)
            IConsumer(self._client.transport).registerProducer(flow, True)
            flow.resumeProducing()


_Settled = Deferred[Reply | Exception]


def _settled(replied: Deferred[Reply]) -> _Settled:
    """A Deferred whose failure is a value: several wait at once, and only the first end is worth telling."""

    def caught(failure: Failure) -> Exception:
        if not isinstance(failure.value, SessionError | OutOfOrder):
            failure.raiseException()
        return failure.value

    return replied.addErrback(caught)


def _reply_in(settled: Reply | Exception) -> Reply | None:
    """
    @return: C{None} for a command that was not sent because one before it had
        been refused.
    @raise SessionError: the session ended first.
    """
    if isinstance(settled, SessionError):
        raise settled
    return settled if isinstance(settled, Reply) else None


def _blocks(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(content), BLOCK_OCTETS):
        yield bytes(view[start : start + BLOCK_OCTETS])


@implementer(IPushProducer)
class _Flow:
    """Sends blocks as fast as the transport takes them, and the dot behind the last."""

    def __init__(self, client: SMTPClient, blocks: Iterator[bytes]) -> None:
        self._client = client
        self._blocks = blocks
        self._paused = False

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        while not self._paused and self._client.state is State.CONTENT:
            block = next(self._blocks, None)
            if block is None:
                self._finish()
                return
            self._client.send_content(block)

    def _finish(self) -> None:
        self._paused = True
        IConsumer(self._client.transport).unregisterProducer()
        self._client.end_of_data()

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

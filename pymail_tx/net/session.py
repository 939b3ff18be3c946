"""
One open session, step by step, for a caller who waits for each.

L{OpenSession} joins an L{SMTPClient <pymail_tx.net.protocol.SMTPClient>} and
its L{BlockingConnection <pymail_tx.net.blocking.BlockingConnection>}. It speaks
of replies and of L{pymail_tx.core.errors}; the names and exceptions of PyMail
are L{pymail_tx.client}'s.

The rules of the house:

  1. Every step first hears what the server has said meanwhile. A reply that
     nobody asked for ends the session, and is not taken for that of the step.
  2. A step that is refused raises L{Refused <pymail_tx.core.errors.Refused>};
     the session goes on.
  3. Whatever else goes wrong ends the session. The dot that would have the
     message accepted is not sent then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, NotOffered, OutOfOrder, Refused, ReplyTimeout, SessionLost
from pymail_tx.core.lonedot import LoneDot
from pymail_tx.core.reply import Reply
from pymail_tx.core.state import State
from pymail_tx.net.blocking import BlockingConnection
from pymail_tx.net.protocol import SMTPClient

_BLOCK_OCTETS = 65_536
"""What is handed to the connection at a time, and what it may still hold when L{OpenSession.send} returns."""

_FEW_OCTETS = 4_096
"""Less waits for more: content that comes line by line would go out in a packet, or a TLS record, for each line."""

_CRLF = b"\r\n"

Negotiation = Coroutine[Deferred[Reply], object, None]


@define(eq=False)
class OpenSession:
    """
    @ivar _unread: replies to lines said by hand that nobody has read yet.
    @ivar _few: content that waits for more.
    @ivar _last_octets: the last two of the content; its start is the start of
        a line.
    """

    _connection: BlockingConnection
    _client: SMTPClient
    _unread: deque[Deferred[Reply]] = field(factory=deque)
    _guard: LoneDot = field(factory=LoneDot)
    _few: bytes = b""
    _last_octets: bytes = _CRLF

    @classmethod
    def begin(cls, connection: BlockingConnection, client: SMTPClient, negotiation: Negotiation) -> OpenSession:
        """
        Go through the negotiation that makes a connection a session.

        @raise SessionError: it ended otherwise; the connection is closed.
        """
        try:
            connection.attach(client)
            connection.run(Deferred.fromCoroutine(negotiation))
        except BaseException:
            connection.close()
            raise
        return cls(connection, client)

    @property
    def is_over(self) -> bool:
        """Whether nothing can be said any more."""
        return self._client.state is State.CLOSED

    # The message

    def name_envelope(self, envelope: Envelope) -> None:
        """MAIL and RCPT, in one write where the server allows it (RFC 2920 §3.1)."""
        self._listen()
        parameters = self._mail_parameters(envelope)
        with self._client.group():
            replied = [self._client.mail(envelope.sender, *parameters)]
            replied += [self._client.rcpt(recipient.address) for recipient in envelope.recipients]
        replies = self._connection.run(DeferredList(replied, consumeErrors=True))
        for step, (_, reply) in zip(["MAIL FROM"] + ["RCPT TO"] * len(envelope.recipients), replies, strict=True):
            if isinstance(reply, Failure):
                reply.raiseException()
            _expect(2, step, reply)

    def begin_content(self) -> None:
        """DATA."""
        self._listen()
        _expect(3, "DATA", self._connection.run(self._client.data()))
        self._guard, self._few, self._last_octets = LoneDot(), b"", _CRLF

    def send(self, octets: bytes) -> None:
        """
        Send content as it is, and wait until the network has taken nearly all
        of it.

        @raise BadArgument: a line of it is a lone dot, which some server would
            take for the end of data. The session is over.
        """
        for start in range(0, len(octets), _BLOCK_OCTETS):
            self._send_block(octets[start : start + _BLOCK_OCTETS])

    def end_content(self) -> None:
        """
        The lone dot, after a CRLF that the content may lack.

        @raise BadArgument: that CRLF would complete a line of one dot. The
            session is over.
        """
        self._listen()
        if self._guard.found_at_end():
            self._refuse_lone_dot()
        verdict = self._client.content_reply()
        self._client.end_of_data(self._few if self._last_octets == _CRLF else self._few + _CRLF)
        _expect(2, "end of data", self._connection.run(verdict))

    # The end

    def quit(self) -> None:
        """QUIT. That no reply comes is no error: all was decided before."""
        self._connection.listen()
        if self.is_over:
            return
        try:
            _expect(2, "QUIT", self._connection.run(self._client.quit()))
        except (SessionLost, ReplyTimeout):
            return

    def drop(self) -> None:
        """Close the connection; nobody reads what it may still say."""
        self._connection.close()
        for unread in self._unread:
            unread.addErrback(lambda lost: None)

    # By hand

    def say(self, line: str) -> None:
        """
        Send a line. A command gets a reply, to be L{read}; a line of content
        has none, up to the one that is a lone dot.
        """
        self._listen()
        if self._client.state is not State.CONTENT:
            self._unread.append(self._client.by_hand(line))
        elif line == ".":
            self._unread.append(self._client.content_reply())
            self._client.end_of_data()
        else:
            self._client.send_content(_line_of_content(line))
        self._connection.drain(0)

    def read(self) -> Reply:
        """The reply to the oldest line whose reply was not read yet."""
        if not self._unread:
            raise OutOfOrder("read: no line was sent that gets a reply")
        return self._connection.run(self._unread.popleft())

    # How it is done

    def _listen(self) -> None:
        """
        Hear what came unasked.

        @raise SessionError: it, or the loss of the connection, ended the session.
        """
        self._connection.listen()
        if self._client.ended_by:
            raise self._client.ended_by

    def _mail_parameters(self, envelope: Envelope) -> tuple[str, ...]:
        if not envelope.needs_smtputf8:
            return ()
        if "SMTPUTF8" not in self._client.extensions:
            raise NotOffered("an address needs SMTPUTF8, which the server does not offer")
        return ("SMTPUTF8",)

    def _send_block(self, block: bytes) -> None:
        self._listen()
        if self._guard.found_in(block):
            self._refuse_lone_dot()
        self._last_octets = (self._last_octets + block[-2:])[-2:]
        self._few += block
        if len(self._few) >= _FEW_OCTETS:
            few, self._few = self._few, b""
            self._client.send_content(few)
            self._connection.drain(_BLOCK_OCTETS)

    def _refuse_lone_dot(self) -> None:
        self._client.abort("a lone dot in the content")
        raise BadArgument("data", "a line of one dot would end the message; double the dot")


def _expect(severity: int, step: str, reply: Reply) -> None:
    if reply.severity != severity:
        raise Refused(step, reply)


def _line_of_content(line: str) -> bytes:
    if any(octet in line for octet in "\r\n\0"):
        raise BadArgument("msg", "CR, LF and NUL cannot be sent in a line")
    return line.encode("utf-8", "surrogateescape") + _CRLF

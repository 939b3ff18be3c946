"""
The SMTP client protocol: L{pymail_tx.core.state}'s table at work.

L{SMTPClient} has a method for each command, over the engine of
L{pymail_tx.net.dialogue}. It knows commands, not policy: what a refusal means
for a message is L{pymail_tx.core.verdicts}', which host comes next the agent's.

It needs no reactor. Its clock and transport come from whoever makes it, a
reactor's or the blocking ones of L{pymail_tx.net.blocking}.

The rules of the house:

  1. A command method returns a Deferred that fires with the L{Reply}, a
     refusal included. It fails with a L{SessionError} when the session ends
     first, and with L{OutOfOrder} if the command no longer fits when its turn
     comes, because one before it was refused; then it is never sent.
  2. Commands may be given one behind the other, see L{Dialogue}.
  3. Cancelling a command that was sent closes the connection, since what is on
     the wire cannot be taken back. The cancelled Deferred fails with CancelledError,
     the others with L{SessionLost}.
  4. Once credentials were given, words of the server that hold them are
     withheld, in replies and in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.python.failure import Failure

from pymail_tx.core.address import Mailbox, refuse_controls
from pymail_tx.core.authentication import Authentication, Computation, Refusal
from pymail_tx.core.command import COMMANDS, Verb, hello_command, path_command
from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import OutOfOrder, ProtocolViolation, SessionError, SessionLost
from pymail_tx.core.outcome import Peer, Report
from pymail_tx.core.reply import Reply
from pymail_tx.core.state import State, hoped_after
from pymail_tx.net.dialogue import Dialogue
from pymail_tx.net.exchange import Exchange

if TYPE_CHECKING:
    from pymail_tx.core.mechanisms import Circumstances, Identity
    from pymail_tx.net.tls import ClientTLS
    from pymail_tx.net.transcript import Transcript

Run = Callable[[Computation], Deferred[bytes]]
"""Runs a computation, in a thread or not, and fires with its result."""


def run_here(computation: Computation) -> Deferred[bytes]:
    """Run it in the calling thread."""
    return succeed(computation.run())


class SMTPClient(Dialogue):
    """
    One SMTP session as a client (RFC 5321).

    @ivar state: where the session is, by the replies that came.
    @ivar extensions: what the server's last EHLO reply offered.
    @ivar tls: the session's TLS, C{None} as long as it is plain text.
    @ivar lmtp: the server speaks LMTP.
    @ivar refusal: why the server refused the last authentication, if it said so
        within the mechanism.
    @ivar ended_by: why the session is over; C{None} while it lasts and after a
        QUIT that was answered.
    """

    def __init__(  # noqa: PLR0913  # each has a default
        self,
        clock: IReactorTime,
        *,
        host: str | None = None,
        implicit_tls: ClientTLS | None = None,
        lmtp: bool = False,
        transcript: Transcript | None = None,
        timeouts_s: Mapping[Verb, float] | None = None,
    ) -> None:
        """
        @param clock: keeps the deadlines.
        @param host: the server's name, for outcomes; by default the peer's
            address.
        @param implicit_tls: begin with a TLS handshake, before the greeting
            (RFC 8314 §3).
        @param lmtp: the server speaks LMTP (RFC 2033): greet it with L{lhlo}.
        @param transcript: keeps what is said.
        @param timeouts_s: other deadlines than those of the command table, in
            seconds.
        """
        super().__init__(clock, implicit_tls=implicit_tls, timeouts_s=timeouts_s)
        self._transcript = transcript.session(clock.seconds) if transcript else None
        self.lmtp = lmtp
        self._host = host
        self.refusal: Refusal | None = None
        self._smtputf8 = False
        self._sent: Deferred[Report] | None = None
        self._gone: list[Deferred[None]] = []

    # Commands

    def greeting(self) -> Deferred[Reply]:
        """
        Wait for the greeting (RFC 5321 §3.1). Other commands may be given
        without: they are sent when it has come.

        @raise OutOfOrder: somebody waits for it already.
        """
        if self.greeting_reply:
            return succeed(self.greeting_reply)
        if self.ended_by:
            return fail(self.ended_by)
        return self._promise(self._greeting)

    def ehlo(self, name: str) -> Deferred[Reply]:
        """
        Say EHLO. Accepted, its reply becomes L{extensions}.

        @param name: our domain or address literal (RFC 5321 §4.1.4).
        """
        return self._say(Verb.EHLO, hello_command(Verb.EHLO, name))

    def lhlo(self, name: str) -> Deferred[Reply]:
        """Say LHLO, which is LMTP's EHLO (RFC 2033 §4.1)."""
        return self._say(Verb.LHLO, hello_command(Verb.LHLO, name))

    def helo(self, name: str) -> Deferred[Reply]:
        """Say HELO, for servers that know no EHLO."""
        return self._say(Verb.HELO, hello_command(Verb.HELO, name))

    def starttls(self, creator: ClientTLS) -> Deferred[Reply]:
        """
        Ask for TLS and shake hands (RFC 3207). Whatever was learnt before is
        forgotten: say EHLO again.

        @return: fires with the reply: with a 220 when the handshake is done.
            Fails with L{TLSFailed} when the handshake does.
        """
        promise = self._say(Verb.STARTTLS, b"STARTTLS")
        self._tls_to_start = creator
        return promise

    def authenticate(
        self,
        identity: Identity,
        *,
        mechanism: str = "PLAIN",
        circumstances: Circumstances | None = None,
        run: Run = run_here,
    ) -> Deferred[Reply]:
        """
        Authenticate (RFC 4954). It is the caller who sees to it that the
        session is encrypted and the server who it should be, and who knows
        what the server offers: L{choose <pymail_tx.core.mechanisms.choose>}
        says which mechanism is the strongest.

        @param circumstances: what the mechanism may need of the session; the
            SCRAM ones need a nonce.
        @param run: runs SCRAM's computation, which takes up to 0.3 s.
        @return: fires with the last reply, 235 for a yes that may be believed.
            Fails with L{ProtocolViolation}, and the session is over, when the
            server says yes before it was told or has proved everything, or
            asks for what the mechanism has no answer to.
        @raise BadArgument: the mechanism is not known, or cannot do with these.
        """
        from pymail_tx.core.mechanisms import Circumstances, begin  # a session without credentials can do without

        authentication = begin(mechanism, identity, circumstances or Circumstances())
        return Deferred.fromCoroutine(self._authenticate(authentication, run))

    def mail(self, sender: str, *parameters: str) -> Deferred[Reply]:
        """
        Begin a mail transaction.

        @param sender: the reverse-path's mailbox, C{""} for the null one.
        @param parameters: such as C{"SIZE=1000"}, C{"SMTPUTF8"}.
        """
        smtputf8 = "SMTPUTF8" in parameters
        path = Mailbox.parse("sender", sender).path(utf8=smtputf8) if sender else b""
        promise = self._say(Verb.MAIL, path_command(Verb.MAIL, path, parameters))
        self._smtputf8 = smtputf8
        return promise

    def rcpt(self, recipient: str, *parameters: str) -> Deferred[Reply]:
        """Name a recipient of the transaction."""
        path = Mailbox.parse("recipient", recipient).path(utf8=self._smtputf8)
        return self._say(Verb.RCPT, path_command(Verb.RCPT, path, parameters))

    def data(self) -> Deferred[Reply]:
        """Ask to send the content; a yes is 354. Go on with C{send_content} and C{end_of_data}."""
        return self._say(Verb.DATA, b"DATA")

    def rset(self) -> Deferred[Reply]:
        """Drop the transaction under way."""
        return self._say(Verb.RSET, b"RSET")

    def noop(self) -> Deferred[Reply]:
        """Ask for a sign of life."""
        return self._say(Verb.NOOP, b"NOOP")

    def quit(self) -> Deferred[Reply]:
        """Say good-bye; the connection is closed whatever the reply."""
        return self._say(Verb.QUIT, b"QUIT")

    def by_hand(self, line: str) -> Deferred[Reply]:
        """
        Send a command that this class has no method for, or one that it has.

        @param line: without CRLF; STARTTLS cannot be given this way.
        """
        refuse_controls("line", line)
        verb = _BY_HAND.get(line.partition(" ")[0].upper(), Verb.OTHER)
        if verb is Verb.STARTTLS:
            raise OutOfOrder("STARTTLS cannot be given by hand")
        if hoped_after(self.hopes(), verb) is None:
            verb = Verb.OTHER
        return self._say(verb, line.encode())

    def send(self, envelope: Envelope, content: bytes | Content) -> Deferred[Report]:
        """
        Send a message: whole mail transactions, MAIL to the reply to end of
        data, as many as the server's limits need.

        @param content: header and body, as they are; line ends and dots are
            seen to here.
        @return: fires with one outcome for each recipient whatever the server
            and the network do. Cancelled, it closes the connection; a cancel
            after the end of data was sent leaves open what the server does.
        @raise OutOfOrder: the session is not open or busy with a transaction.
        """
        if (self._sent and not self._sent.called) or (self.hopes() is not State.READY and not self.ended_by):
            return fail(OutOfOrder(f"a message cannot be sent while {self.state.value}"))
        from pymail_tx.net.pipeline import Pipeline  # the blocking Session can do without it and MIME
        from pymail_tx.net.transaction import Sending

        ready = content if isinstance(content, Content) else Content.of(content)
        sending = Sending(envelope, ready, lambda _, report: sent.callback(report))

        def cancel(_: Deferred[Report]) -> None:
            sending.done = lambda _, report: None
            self.abort("cancelled")

        sent = self._sent = Deferred(cancel)
        Pipeline(self).start(sending)
        return sent

    def peer(self) -> Peer:
        """Whom the session is with, for its outcomes."""
        address = self.transport.getPeer()
        return Peer(
            host=self._host or getattr(address, "host", None), port=getattr(address, "port", None), tls=self.tls
        )

    # Content

    def content_reply(self) -> Deferred[Reply]:
        """
        The reply to the content: the one to end of data, or a refusal that
        came before it, after which the session is over (RFC 5321 §4.2.5 knows
        none, servers do it).
        """
        if self.content_refusal:
            return succeed(self.content_refusal)
        if self._end_of_data is None:
            raise OutOfOrder(f"no content can be sent while {self.state.value}")
        if self.ended_by:
            return fail(self.ended_by)
        return self._promise(self._end_of_data)

    # The end

    def when_gone(self) -> Deferred[None]:
        """Fires when the connection is gone."""
        if self._connection_lost:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol <twisted.internet.protocol.Protocol>}."""
        super().connectionLost(reason)
        gone, self._gone = self._gone, []
        for each in gone:
            each.callback(None)

    # How a command becomes a Deferred

    def _say(self, verb: Verb, line: bytes) -> Deferred[Reply]:
        exchange = Exchange(verb, line + b"\r\n")
        promise = self._promise(exchange)
        self.say(exchange)
        return promise

    def _promise(self, exchange: Exchange) -> Deferred[Reply]:
        if exchange.answered:
            raise OutOfOrder(f"somebody waits for the reply to {exchange.verb.value} already")
        promise: Deferred[Reply] = Deferred(lambda _: self._cancel(exchange))

        def answered(answer: Reply | SessionError | OutOfOrder) -> None:
            if isinstance(answer, Reply):
                promise.callback(answer)
            else:
                promise.errback(answer)

        exchange.answered = answered
        return promise

    def _cancel(self, exchange: Exchange) -> None:
        exchange.answered = None
        if not self.unsay(exchange):
            self._end(SessionLost(f"cancelled while {COMMANDS[exchange.verb].doing}"))

    async def _authenticate(self, authentication: Authentication, run: Run) -> Reply:
        try:
            reply = await self._confide(authentication, authentication.command())
            while reply.severity == 3:
                answer = authentication.answer(reply.lines[-1])
                while isinstance(answer, Computation):
                    answer = authentication.computed(await self._result(run(answer)))
                reply = await self._confide(authentication, answer)
            return authentication.verdict(reply)
        except ProtocolViolation as violation:
            self._end(violation)
            raise
        finally:
            self.refusal = authentication.refusal

    def _confide(self, authentication: Authentication, line: bytes) -> Deferred[Reply]:
        self._secrets = tuple(dict.fromkeys((*self._secrets, *authentication.secrets)))
        if self._transcript:
            self._transcript.confides(authentication.secrets)
        return self._say(Verb.AUTH, line)

    async def _result(self, computing: Deferred[bytes]) -> bytes:
        try:
            return await computing
        except CancelledError:
            self._end(SessionLost("cancelled while authenticating"))
            raise


_BY_HAND = {
    verb.value: verb
    for verb in (
        Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.RSET, Verb.NOOP, Verb.QUIT,
    )
}  # fmt: skip


class SMTPClientFactory(ClientFactory):
    """
    Makes an L{SMTPClient} for each connection; give it to an endpoint's
    C{connect}, whose Deferred then fires with the client.
    """

    noisy = False

    def __init__(  # noqa: PLR0913  # each has a default
        self,
        clock: IReactorTime,
        *,
        host: str | None = None,
        implicit_tls: Callable[[], ClientTLS] | None = None,
        lmtp: bool = False,
        transcript: Transcript | None = None,
        timeouts_s: Mapping[Verb, float] | None = None,
    ) -> None:
        """
        @param implicit_tls: makes the TLS of one connection.

        The rest goes to each L{SMTPClient}.
        """
        self._clock = clock
        self._host = host
        self._implicit_tls = implicit_tls
        self._lmtp = lmtp
        self._transcript = transcript
        self._timeouts_s = timeouts_s

    def buildProtocol(self, addr: IAddress | None) -> SMTPClient:
        """See L{ClientFactory <twisted.internet.protocol.ClientFactory>}."""
        client = SMTPClient(
            self._clock,
            host=self._host,
            implicit_tls=self._implicit_tls() if self._implicit_tls else None,
            lmtp=self._lmtp,
            transcript=self._transcript,
            timeouts_s=self._timeouts_s,
        )
        client.factory = self
        return client

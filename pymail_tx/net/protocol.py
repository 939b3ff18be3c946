"""
The SMTP client protocol: L{pymail_tx.core.state}'s table at work.

L{SMTPClient} turns calls into lines, lines into replies, replies into steps of
the table, and keeps the deadlines. It knows commands, not policy: what a
refusal means for a message is L{pymail_tx.core.verdicts}', which host comes
next the agent's.

It needs no reactor. Its clock and transport come from whoever makes it, a
reactor's or the blocking ones of L{pymail_tx.net.blocking}.

The rules of the house:

  1. A command method returns a Deferred that fires with the L{Reply}, a
     refusal included. It fails with a L{SessionError} when the session ends
     first, and with L{Misuse} when the command must not be sent.
  2. Commands may be given one behind the other. They are written together as
     far as the server's PIPELINING and the verbs allow, and wait otherwise.
     One that no longer fits when its turn comes, because one before it was
     refused, fails with L{OutOfOrder} and is never sent.
  3. Every end is final: after a violation, a passed deadline, a 421, a reply
     nobody asked for or a cancel, the connection is closed, never reused.
  4. Cancelling a command that was sent closes the connection, since what is on
     the wire cannot be taken back. The cancelled Deferred fails with CancelledError,
     the others with L{SessionLost}.
  5. Octets that came before a command was written are never its reply: what
     arrives together is looked through whole before anybody hears of it.
  6. Once credentials were given, words of the server that hold them are
     withheld, in replies and in errors.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from pymail_tx.core import sasl
from pymail_tx.core.address import Mailbox, ascii_domain, refuse_controls
from pymail_tx.core.command import COMMANDS, Answer, Verb, answer_to, path_command
from pymail_tx.core.content import END_OF_DATA
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import (
    OutOfOrder,
    ProtocolViolation,
    ReplyTimeout,
    SessionError,
    SessionLost,
    TLSFailed,
)
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.outcome import Peer, Report, TLSFacts
from pymail_tx.core.reply import MAX_REPLY_LINE_OCTETS, Reply, ReplyReader
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import State, after, hoped_after

if TYPE_CHECKING:
    from OpenSSL import SSL

    from pymail_tx.net.tls import ClientTLS

SLICE_OCTETS = 16_384
"""LineReceiver copies its buffer for every line; feeding it slices keeps a flood of short lines linear."""


class SessionTransport(Protocol):
    """What a session needs of a transport; Twisted's TCP connections have it, and so has the blocking one."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def startTLS(self, contextFactory: ClientTLS) -> object: ...
    def getHandle(self) -> SSL.Connection: ...
    def getPeer(self) -> IAddress: ...


@define(eq=False)
class _Exchange:
    """
    A command and the reply that it waits for.

    @ivar line: the command with its CRLF, empty for a step that is no command.
    """

    verb: Verb
    line: bytes = field(default=b"", repr=False)
    fired: Deferred[Reply] | None = None

    def reply(self, reply: Reply) -> None:
        fired, self.fired = self.fired, None
        if fired:
            fired.callback(reply)

    def fail(self, error: Exception) -> None:
        fired, self.fired = self.fired, None
        if fired:
            fired.errback(error)


@implementer(IHandshakeListener)
class SMTPClient(LineReceiver):
    """
    One SMTP session as a client (RFC 5321).

    @ivar state: where the session is, by the replies that came.
    @ivar extensions: what the server's last EHLO reply offered.
    @ivar tls: the session's TLS, C{None} as long as it is plain text.
    @ivar ended_by: why the session is over; C{None} while it lasts and after a
        QUIT that was answered.
    @ivar in_doubt: the end of data was written, and its reply has not come.
    """

    transport: SessionTransport  # type: ignore[assignment]  # narrower than ITransport, and there once connected
    delimiter = b"\r\n"
    MAX_LENGTH = MAX_REPLY_LINE_OCTETS - 2

    def __init__(
        self,
        clock: IReactorTime,
        *,
        host: str | None = None,
        implicit_tls: ClientTLS | None = None,
        timeouts_s: Mapping[Verb, float] | None = None,
    ) -> None:
        """
        @param clock: keeps the deadlines.
        @param host: the server's name, for outcomes; by default the peer's
            address.
        @param implicit_tls: begin with a TLS handshake, before the greeting
            (RFC 8314 §3).
        @param timeouts_s: other deadlines than those of the command table, in
            seconds.
        """
        self.state = State.HANDSHAKE if implicit_tls else State.GREETING
        self.extensions = Extensions()
        self.tls: TLSFacts | None = None
        self.ended_by: SessionError | None = None
        self.in_doubt = False
        self._clock = clock
        self._host = host
        self._timeouts_s = timeouts_s or {}
        self._tls_to_start = implicit_tls
        self._creator: ClientTLS | None = None
        self._reader = ReplyReader()
        self._held = b""
        self._greeting = _Exchange(Verb.GREETING)
        self._greeting_reply: Reply | None = None
        self._handshake: _Exchange | None = None
        self._end_of_data: _Exchange | None = None
        self._content_refusal: Reply | None = None
        self._waiting: deque[_Exchange] = deque()
        self._answered: deque[tuple[_Exchange, Reply]] = deque()
        self._unsent: deque[_Exchange] = deque()
        self._hoped: State | None = None
        self._grouping = False
        self._smtputf8 = False
        self._secrets: tuple[Secret, ...] = ()
        self._timer: IDelayedCall | None = None
        self._due_s: float | None = None
        self._due_verb = Verb.GREETING
        self._gone: list[Deferred[None]] = []
        self._connection_lost = False

    # Commands

    def greeting(self) -> Deferred[Reply]:
        """
        Wait for the greeting (RFC 5321 §3.1). Other commands may be given
        without: they are sent when it has come.

        @raise OutOfOrder: somebody waits for it already.
        """
        if self._greeting_reply:
            return succeed(self._greeting_reply)
        if self.ended_by:
            return fail(self.ended_by)
        return self._promise(self._greeting)

    def ehlo(self, name: str) -> Deferred[Reply]:
        """
        Say EHLO. Accepted, its reply becomes L{extensions}.

        @param name: our domain or address literal (RFC 5321 §4.1.4).
        """
        return self._say(Verb.EHLO, b"EHLO " + ascii_domain("name", name).encode("ascii"))

    def helo(self, name: str) -> Deferred[Reply]:
        """Say HELO, for servers that know no EHLO."""
        return self._say(Verb.HELO, b"HELO " + ascii_domain("name", name).encode("ascii"))

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

    def authenticate(self, credentials: sasl.Credentials) -> Deferred[Reply]:
        """
        Authenticate with PLAIN (RFC 4954). It is the caller who sees to it that
        the session is encrypted and the server who it should be.

        @return: fires with the last reply, 235 for a yes.
        """
        self._secrets = sasl.plain_secrets(credentials)
        return Deferred.fromCoroutine(self._authenticate(b"PLAIN", sasl.plain(credentials)))

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
        """Ask to send the content; a yes is 354. Go on with L{send_content} and L{end_of_data}."""
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
        if hoped_after(self._hopes(), verb) is None:
            verb = Verb.OTHER
        return self._say(verb, line.encode())

    def send(self, envelope: Envelope, content: bytes) -> Deferred[Report]:
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
        from pymail_tx.net.transaction import transact  # the blocking Session can do without it and MIME

        return Deferred.fromCoroutine(transact(self, envelope, content))

    def peer(self) -> Peer:
        """Whom the session is with, for its outcomes."""
        address = self.transport.getPeer()
        return Peer(
            host=self._host or getattr(address, "host", None), port=getattr(address, "port", None), tls=self.tls
        )

    # Content

    def send_content(self, octets: bytes) -> None:
        """
        Send octets of the content as they are. Whoever calls sees to line
        ends, dots and back-pressure; the deadline for a block begins anew.

        @raise OutOfOrder: no 354 came, or the session is over.
        """
        if self.state is not State.CONTENT:
            raise OutOfOrder(f"content cannot be sent while {self.state.value}")
        self.transport.write(octets)
        self._wait_for(Verb.CONTENT)

    def content_reply(self) -> Deferred[Reply]:
        """
        The reply to the content: the one to end of data, or a refusal that
        came before it, after which the session is over (RFC 5321 §4.2.5 knows
        none, servers do it). Ask before L{end_of_data}.

        @raise OutOfOrder: no content is under way, or somebody waits already.
        """
        if self._content_refusal:
            return succeed(self._content_refusal)
        if self._end_of_data is None:
            raise OutOfOrder(f"no content can be sent while {self.state.value}")
        if self.ended_by:
            return fail(self.ended_by)
        return self._promise(self._end_of_data)

    def end_of_data(self, last: bytes = b"") -> None:
        """
        Send the lone dot. From here on a loss leaves it open whether the
        message was accepted. It is not sent if a reply has begun: that one
        cannot be about the whole content, and the session is over.

        @param last: the rest of the content, to go out in the same write.
        """
        if self.state not in (State.CONTENT, State.NOTHING_TO_SEND) or self._end_of_data is None:
            raise OutOfOrder(f"end of data cannot be sent while {self.state.value}")
        if self._reply_begun():
            self._end(ProtocolViolation("a reply that nobody asked for"))
            return
        self.in_doubt = True
        self._waiting.append(self._end_of_data)
        self.transport.write(last + END_OF_DATA)
        self._wait_for(Verb.END_OF_DATA)

    # The end

    def abort(self, problem: str = "closed by us") -> None:
        """End the session at once, without QUIT."""
        self._end(SessionLost(problem))

    def when_gone(self) -> Deferred[None]:
        """Fires when the connection is gone."""
        if self._connection_lost:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    # Commands on their way out

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """Commands given inside go out in one write (RFC 2920 §3.1)."""
        self._grouping = True
        try:
            yield
        finally:
            self._grouping = False
            self._write()

    def _say(self, verb: Verb, line: bytes) -> Deferred[Reply]:
        if self.ended_by:
            return fail(self.ended_by)
        hopes = hoped_after(self._hopes(), verb)
        if hopes is None:
            raise OutOfOrder(f"{verb.value} cannot be sent while {self._hopes().value}")
        exchange = _Exchange(verb, line + b"\r\n")
        self._hoped = hopes
        if self.state is State.SASL:
            self._unsent.appendleft(exchange)  # other commands wait for the end of the authentication
        else:
            self._unsent.append(exchange)
        promise = self._promise(exchange)
        self._write()
        return promise

    def _hopes(self) -> State:
        """The state that the session will be in if every command on its way is accepted."""
        if self._hoped is None:
            self._hoped = self.state
            for verb in self._on_their_way():
                self._hoped = hoped_after(self._hoped, verb) or self._hoped
        return self._hoped

    def _on_their_way(self) -> Iterator[Verb]:
        if self.state is State.HANDSHAKE:
            yield Verb.HANDSHAKE
        if self.state in (State.HANDSHAKE, State.GREETING):
            yield Verb.GREETING
        if self.state is State.SECURING:
            yield Verb.HANDSHAKE
        for exchange in (*self._waiting, *self._unsent):
            if exchange.verb is not Verb.GREETING:
                yield exchange.verb

    def _promise(self, exchange: _Exchange) -> Deferred[Reply]:
        if exchange.fired:
            raise OutOfOrder(f"somebody waits for the reply to {exchange.verb.value} already")
        exchange.fired = Deferred(lambda fired: self._cancel(exchange))
        return exchange.fired

    def _cancel(self, exchange: _Exchange) -> None:
        exchange.fired = None
        if exchange in self._unsent:
            self._unsent.remove(exchange)
            self._hoped = None
            return
        self._end(SessionLost(f"cancelled while {COMMANDS[exchange.verb].doing}"))

    def _write(self) -> None:
        lines, stale = [], []
        while self._unsent and not self._grouping and self._may_write():
            exchange = self._unsent.popleft()
            if not self._waiting and hoped_after(self.state, exchange.verb) is None:
                stale.append(exchange)
            else:
                lines.append(exchange.line)
                self._waiting.append(exchange)
        if lines:
            self.transport.write(b"".join(lines))
            if self._due_s is None:
                self._wait_for(self._waiting[0].verb)
        for exchange in stale:
            exchange.fail(OutOfOrder(f"{exchange.verb.value} was not sent: {self.state.value}"))

    def _may_write(self) -> bool:
        if not self._waiting:
            return self.state not in (State.HANDSHAKE, State.GREETING, State.SECURING)
        return "PIPELINING" in self.extensions and COMMANDS[self._waiting[-1].verb].pipelined

    async def _authenticate(self, name: bytes, mechanism: sasl.Mechanism) -> Reply:
        response = next(mechanism)
        line = b"AUTH " + name + b" " + sasl.encode(response)
        held_back = len(line) + 2 > sasl.MAX_INITIAL_LINE_OCTETS
        reply = await self._say(Verb.AUTH, b"AUTH " + name if held_back else line)
        rounds, gave_up = 0, False
        while reply.severity == 3 and rounds < sasl.MAX_ROUNDS:
            answer = _encoded_response(mechanism, reply, response if held_back else None)
            rounds, held_back, gave_up = rounds + 1, False, answer == b"*"
            reply = await self._say(Verb.AUTH, answer)
        if reply.severity == 3 or (gave_up and reply.severity == 2):
            error = ProtocolViolation("authentication that does not end as it should")
            self._end(error)
            raise error
        return reply

    # Replies on their way in

    def connectionMade(self) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        if ITCPTransport.providedBy(self.transport):
            # Write, write, read against a delayed acknowledgement costs 40 ms with Nagle's algorithm.
            self.transport.setTcpNoDelay(True)
        self._waiting.append(self._greeting)
        if self.state is State.HANDSHAKE:
            self._start_tls()
        else:
            self._wait_for(Verb.GREETING)

    def dataReceived(self, data: bytes) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        for start in range(0, len(data), SLICE_OCTETS):
            if self.state is not State.CLOSED:
                super().dataReceived(self._held + data[start : start + SLICE_OCTETS])  # type: ignore[no-untyped-call]
                self._held = self.clearLineBuffer()  # type: ignore[no-untyped-call]
                self._look_at_rest(more=start + SLICE_OCTETS < len(data))
        self._tell()

    def _look_at_rest(self, *, more: bool) -> None:
        if self.state is State.SECURING:
            if self._reply_begun() or more:
                # Octets from before TLS must never be taken for octets from inside it (RFC 3207 §6).
                self._end(ProtocolViolation("data behind the reply to STARTTLS"))
            else:
                self._start_tls()
        elif b"\n" in self._held or b"\r" in self._held[:-1] or b"\0" in self._held:
            self._end(ProtocolViolation("a reply line that does not end in CRLF"))
        elif self._reply_begun() and not self._waiting and self.state is not State.CONTENT:
            self._end(ProtocolViolation("a reply that nobody asked for"))

    def _reply_begun(self) -> bool:
        return bool(self._held) or self._reader.inside

    def lineReceived(self, line: bytes) -> None:
        """See L{LineReceiver}."""
        if self.state is not State.CLOSED:
            violation = self._heed(line)
            if violation:
                self._end(violation)

    def _heed(self, line: bytes) -> ProtocolViolation | None:
        try:
            if self.state is State.SECURING:
                raise ProtocolViolation("data behind the reply to STARTTLS")
            reply = self._reader.line(line)
            if reply:
                self._replied(self._without_secrets(reply))
        except ProtocolViolation as violation:
            if sasl.gives_away(line.decode("utf-8", "backslashreplace"), self._secrets):
                return ProtocolViolation(f"not an SMTP reply: {sasl.WITHHELD}")
            return violation
        return None

    def _without_secrets(self, reply: Reply) -> Reply:
        is_challenge = reply.severity == 3 and self._waiting and self._waiting[0].verb is Verb.AUTH
        return reply if is_challenge else sasl.without_secrets(reply, self._secrets)

    def lineLengthExceeded(self, line: bytes) -> None:
        """See L{LineReceiver}."""
        self._end(ProtocolViolation(f"a reply line of more than {MAX_REPLY_LINE_OCTETS} octets"))

    def _replied(self, reply: Reply) -> None:
        if not self._waiting:
            self._unasked(reply)
            return
        exchange = self._waiting[0]
        answer = answer_to(exchange.verb, reply)
        self.state = after(self.state, exchange.verb, answer)
        self._waiting.popleft()
        if answer is Answer.REFUSED or not self._waiting:
            self._hoped = None
        if self.state is not State.CLOSED:  # QUIT's deadline is for the closing as well
            self._wait_for(self._waiting[0].verb if self._waiting else None)
        if exchange.verb in _LEARNING:
            _LEARNING[exchange.verb](self, reply, answer)
        if self.state is not State.SECURING:
            self._answered.append((exchange, reply))
        else:
            self._handshake = exchange
        if reply.code == 421:
            self._end(SessionLost(f"the server closed the session: {reply}", reply))

    def _unasked(self, reply: Reply) -> None:
        if reply.severity in (4, 5) and self.state is State.CONTENT and self._end_of_data:
            # Refused while the content still flows: the dot must never be sent.
            self._content_refusal = reply
            self._answered.append((self._end_of_data, reply))
            self._end(SessionLost(f"the server refused the content: {reply}", reply))
        elif reply.code == 421:
            self._end(SessionLost(f"the server closed the session: {reply}", reply))
        else:
            self._end(ProtocolViolation(f"a reply that nobody asked for: {reply}"))

    def _tell(self) -> None:
        """Hand out the replies that came, and write what may be written now."""
        while self._answered:
            exchange, reply = self._answered.popleft()
            exchange.reply(reply)
        self._write()

    def _learn_greeting(self, reply: Reply, answer: Answer) -> None:
        self._greeting_reply = reply

    def _learn_extensions(self, reply: Reply, answer: Answer) -> None:
        if answer is Answer.DONE:
            self.extensions = Extensions.of(reply)

    def _forget_extensions(self, reply: Reply, answer: Answer) -> None:
        if answer is Answer.DONE:
            self.extensions = Extensions()

    def _expect_content(self, reply: Reply, answer: Answer) -> None:
        if answer is Answer.GO_ON:
            self._end_of_data = _Exchange(Verb.END_OF_DATA)
            self._wait_for(Verb.CONTENT)

    def _forget_content(self, reply: Reply, answer: Answer) -> None:
        self._end_of_data, self.in_doubt = None, False

    def _say_good_bye(self, reply: Reply, answer: Answer) -> None:
        self.transport.loseConnection()  # a peer that never finishes its TLS closure is cut off when QUIT's time is up

    # TLS

    def _start_tls(self) -> None:
        creator, self._tls_to_start = self._tls_to_start, None
        if creator:
            self._creator = creator
            self._wait_for(Verb.HANDSHAKE)
            self.transport.startTLS(creator)

    def handshakeCompleted(self) -> None:
        """See L{IHandshakeListener}."""
        if self.state is State.CLOSED or self._creator is None:
            return
        self.tls = self._creator.facts(self.transport.getHandle())
        self.extensions = Extensions()
        self.state = after(self.state, Verb.HANDSHAKE, Answer.DONE)
        self._hoped = None
        handshake, self._handshake = self._handshake, None
        self._wait_for(self._waiting[0].verb if self._waiting else None)
        if handshake:
            handshake.reply(Reply(220, ("TLS",)))
        self._write()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        self._connection_lost = True
        self._end(self._loss(reason))
        self._wait_for(None)
        gone, self._gone = self._gone, []
        for each in gone:
            each.callback(None)

    def _loss(self, reason: Failure) -> SessionError:
        if self.state not in (State.HANDSHAKE, State.SECURING) or self._creator is None:
            return SessionLost(f"connection lost while {COMMANDS[self._due_verb].doing}: {reason.getErrorMessage()}")
        return self._creator.failure(reason)

    # Deadlines

    def _wait_for(self, verb: Verb | None) -> None:
        """From now on C{verb}'s deadline runs; C{None}: none does."""
        if verb is None:
            self._due_s = None
            if self._timer and self._connection_lost:
                self._timer.cancel()
                self._timer = None
            return
        self._due_verb = verb
        self._due_s = self._clock.seconds() + self._timeout_s(verb)
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout_s(verb), self._look_at_clock)
        elif self._timer.getTime() > self._due_s:
            self._timer.reset(self._timeout_s(verb))

    def _timeout_s(self, verb: Verb) -> float:
        return self._timeouts_s.get(verb, COMMANDS[verb].timeout_s)

    def _look_at_clock(self) -> None:
        """One timer serves all deadlines: moving it at every reply would cost more than a look too many."""
        self._timer = None
        if self._due_s is None:
            return
        left_s = self._due_s - self._clock.seconds()
        if left_s > 0:
            self._timer = self._clock.callLater(left_s, self._look_at_clock)
        else:
            passed = f"{self._timeout_s(self._due_verb):g} s passed {COMMANDS[self._due_verb].doing}"
            self._end(TLSFailed(passed) if self._due_verb is Verb.HANDSHAKE else ReplyTimeout(passed))

    # The one way a session ends early

    def _end(self, error: SessionError) -> None:
        """Close, then tell everybody who waits; replies that came before the end are replies."""
        if self.state is not State.CLOSED:
            self.state, self.ended_by = State.CLOSED, error
        if not self._connection_lost:
            self.transport.abortConnection()
        self._wait_for(None)
        broken = [self._handshake, self._greeting, *self._waiting, self._end_of_data, *self._unsent]
        self._waiting.clear()
        self._unsent.clear()
        self._tell()
        for exchange in broken:
            if exchange:
                exchange.fail(error)


_LEARNING: dict[Verb, Callable[[SMTPClient, Reply, Answer], None]] = {
    Verb.GREETING: SMTPClient._learn_greeting,
    Verb.EHLO: SMTPClient._learn_extensions,
    Verb.HELO: SMTPClient._forget_extensions,
    Verb.DATA: SMTPClient._expect_content,
    Verb.END_OF_DATA: SMTPClient._forget_content,
    Verb.QUIT: SMTPClient._say_good_bye,
}

_BY_HAND = {
    verb.value: verb
    for verb in (
        Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.RSET, Verb.NOOP, Verb.QUIT,
    )
}  # fmt: skip


def _encoded_response(mechanism: sasl.Mechanism, reply: Reply, held_back: bytes | None) -> bytes:
    """What a 334 gets: the response in base64, or a star, which gives up (RFC 4954 §4)."""
    try:
        challenge = sasl.decode(reply.lines[-1])
        return sasl.encode(held_back if held_back is not None else mechanism.send(challenge))
    except (ProtocolViolation, StopIteration):
        return b"*"


class SMTPClientFactory(ClientFactory):
    """
    Makes an L{SMTPClient} for each connection; give it to an endpoint's
    C{connect}, whose Deferred then fires with the client.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        *,
        host: str | None = None,
        implicit_tls: Callable[[], ClientTLS] | None = None,
        timeouts_s: Mapping[Verb, float] | None = None,
    ) -> None:
        """
        @param implicit_tls: makes the TLS of one connection.

        The rest goes to each L{SMTPClient}.
        """
        self._clock = clock
        self._host = host
        self._implicit_tls = implicit_tls
        self._timeouts_s = timeouts_s

    def buildProtocol(self, addr: IAddress | None) -> SMTPClient:
        """See L{ClientFactory}."""
        client = SMTPClient(
            self._clock,
            host=self._host,
            implicit_tls=self._implicit_tls() if self._implicit_tls else None,
            timeouts_s=self._timeouts_s,
        )
        client.factory = self
        return client

"""
What is said and what is answered, in step: the engine under
L{pymail_tx.net.protocol}.

A L{Dialogue} turns exchanges into lines, lines into replies, replies into
steps of L{pymail_tx.core.state}'s table, and keeps the deadlines. It knows
verbs only by their rows. It needs no reactor: clock and transport come from
whoever makes it.

The rules of the house:

  1. Exchanges are answered in the order in which they were given, each once:
     with a L{Reply}, with a L{SessionError} when the session ends first, or
     with L{OutOfOrder} when one before it was refused and it no longer fits.
  2. They are written together as far as the server's PIPELINING and the verbs
     allow, and wait otherwise.
  3. Every end is final: after a violation, a passed deadline, a 421 or a reply
     nobody asked for the connection is closed, never reused.
  4. Octets that came before a command was written are never its reply: what
     arrives together is looked through whole before anybody hears of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IAddress, IHandshakeListener, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from pymail_tx.core import command, sasl
from pymail_tx.core.command import COMMANDS, PIPELINED, Verb
from pymail_tx.core.content import END_OF_DATA
from pymail_tx.core.errors import (
    OutOfOrder,
    ProtocolViolation,
    Refused,
    ReplyTimeout,
    SessionError,
    SessionLost,
    TLSFailed,
)
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.reply import MAX_REPLY_LINE_OCTETS, Reply, ReplyReader
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import (
    State,
    after,
    after_reply,
    after_severity,
    hoped_after,
    hoped_after_all,
    hoped_replies,
)
from pymail_tx.net.deadline import Deadline
from pymail_tx.net.exchange import Answered, Exchange, Group, Said, Volley

if TYPE_CHECKING:
    from OpenSSL import SSL

    from pymail_tx.net.at_once import TurnEnd
    from pymail_tx.net.tls import ClientTLS
    from pymail_tx.net.transcript import SessionTranscript

_TIMEOUTS_S = {verb: row.timeout_s for verb, row in COMMANDS.items()}

_SECURED = Reply(220, ("TLS",))
"""What stands for the reply to STARTTLS when the handshake is done."""


class SessionTransport(Protocol):
    """What a session needs of a transport; Twisted's TCP connections have it, and so has the blocking one."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def startTLS(self, contextFactory: ClientTLS) -> object: ...
    def getHandle(self) -> SSL.Connection: ...
    def getPeer(self) -> IAddress: ...


@implementer(IHandshakeListener)
class Dialogue(LineReceiver):
    """
    See the module's head.

    @ivar state: where the session is, by the replies that came.
    @ivar extensions: what the server's last EHLO reply offered.
    @ivar assumed: what it will offer by all that is known, as long as that
        reply has not come; see L{assume}.
    @ivar tls: the session's TLS, C{None} as long as it is plain text.
    @ivar ended_by: why the session is over; C{None} while it lasts and after a
        QUIT that was answered.
    @ivar in_doubt: an end of data was written, and its reply has not come.
    @ivar greeting_reply: the greeting, once it has come.
    @ivar content_refusal: the reply that refused the content while it was sent.
    @ivar on_end: called when the session ends early, after everybody who waited
        has heard of it.
    """

    transport: SessionTransport  # type: ignore[assignment]  # narrower than ITransport, and there once connected

    def __init__(
        self, clock: IReactorTime, *, implicit_tls: ClientTLS | None, timeouts_s: Mapping[Verb, float] | None
    ) -> None:
        self.state = State.HANDSHAKE if implicit_tls else State.GREETING
        self.extensions = Extensions()
        self.assumed: Extensions | None = None
        self.tls: TLSFacts | None = None
        self.ended_by: SessionError | None = None
        self.in_doubt = False
        self.greeting_reply: Reply | None = None
        self.content_refusal: Reply | None = None
        self.on_end: Callable[[SessionError], object] | None = None
        self._transcript: SessionTranscript | None = None
        self._timeouts_s = _TIMEOUTS_S | dict(timeouts_s) if timeouts_s else _TIMEOUTS_S
        self._deadline = Deadline(clock, self._deadline_passed)
        self._due_verb = Verb.GREETING
        self._tls_to_start = implicit_tls
        self._creator: ClientTLS | None = None
        self._reader = ReplyReader()
        self._held = b""
        self._secrets: tuple[Secret, ...] = ()
        self._greeting = Exchange(Verb.GREETING)
        self._handshake: Exchange | None = None
        self._end_of_data: Exchange | None = None
        self._waiting: deque[Said] = deque()
        self._answered: list[Callable[[], object]] = []  # both are short, and an empty deque takes 600 octets
        self._unsent: list[Exchange] = []
        self._hoped: State | None = None
        self._pipelining = False
        self._group = Group(self._write, lambda octets: self._at_once(octets))
        self._connection_lost = False
        self._turn_end: TurnEnd | None = None

    def write_with_others(self, turn_end: TurnEnd) -> None:
        """Put what is said off until then, if the transport allows it."""
        from pymail_tx.net.at_once import writer  # the blocking Session can do without Twisted's TCP

        self._turn_end, self._at_once = turn_end, writer(self.transport, turn_end)

    # Exchanges on their way out

    def group(self) -> AbstractContextManager[object]:
        """What is said inside goes out in one write (RFC 2920 §3.1)."""
        return self._group

    def say(self, *exchanges: Exchange) -> None:
        """
        Send commands, in one write if possible, or have them wait for their turn.

        @raise OutOfOrder: one does not fit the state that the session will be
            in if everything on its way is accepted; none is sent.
        """
        if self.ended_by:
            for exchange in exchanges:
                exchange.answer(self.ended_by)
            return
        hopes = self.hopes()
        for exchange in exchanges:
            following = hoped_after(hopes, exchange.verb)
            if following is None:
                raise OutOfOrder(f"{exchange.verb.value} cannot be sent while {hopes.value}")
            hopes = following
        self._hoped = hopes
        if self.state is State.SASL:
            self._unsent[:0] = exchanges  # other commands wait for the end of the authentication
        else:
            self._unsent.extend(exchanges)
        if self._group.octets is None:
            self._write()

    def say_all(self, volley: Volley) -> None:
        """
        Send a volley, or, where its commands cannot all go out now, an exchange
        for each.

        @raise OutOfOrder: as L{say} does.
        """
        one_by_one = self.ended_by or self._transcript or self._secrets or self._unsent
        hoped = None if one_by_one else hoped_after_all(self.hopes(), volley.verbs)
        if hoped is None or not (self._pipelining and self._may_write()):
            self.say(*volley.exchanges())
            return
        self._hoped = hoped
        self._waiting.append(volley)
        self._transmit(volley.line)
        if not self._deadline.running:
            self._wait_for(volley.verb)

    def assume(self, offers: Extensions, hello: Exchange) -> None:
        """
        Wait neither for the greeting nor for the reply to EHLO: the server
        takes commands before (Exim's PIPECONNECT), and it is known what it
        offers. EHLO goes out with the first command, or when the greeting has
        come. Should the server greet or offer otherwise, the session ends.

        @param hello: EHLO.
        """
        self.assumed = offers
        self._know(offers)
        self._unsent.append(hello)
        self._hoped = None

    def unsay(self, exchange: Exchange) -> bool:
        """
        Take a command back.

        @return: whether it was not sent yet; else it stands.
        """
        if exchange not in self._unsent:
            return False
        self._unsent.remove(exchange)
        self._hoped = None
        return True

    def send_content(self, octets: bytes) -> None:
        """
        Send octets of the content as they are. Whoever calls sees to line
        ends, dots and back-pressure; the deadline for a block begins anew.

        @raise OutOfOrder: no 354 came, or the session is over.
        """
        if self.state is not State.CONTENT:
            raise OutOfOrder(f"content cannot be sent while {self.state.value}")
        self.send_of_chunk(octets)

    def send_of_chunk(self, octets: bytes) -> None:
        """Send octets that the last BDAT announced; the deadline for a block begins anew."""
        self._note_content(octets)
        if self._turn_end:
            self._turn_end.come()  # what was said before goes first
        self.transport.write(octets)
        self._wait_for(Verb.CONTENT)

    def _note_content(self, octets: bytes) -> None:
        if self._transcript:
            self._transcript.content(len(octets))

    def end_of_chunk(self) -> None:
        """All octets that the last BDAT announced are sent."""
        self._wait_for(Verb.BDAT)

    def end_of_data(self, last: bytes = b"", *, deliveries: Iterable[Exchange] = ()) -> None:
        """
        Send the lone dot. From here on a loss leaves it open whether the
        message was accepted. It is not sent if a reply has begun: that one
        cannot be about the whole content, and the session is over.

        @param last: the rest of the content, to go out in the same write.
        @param deliveries: LMTP's replies before the last.
        """
        if self.state not in (State.CONTENT, State.NOTHING_TO_SEND) or self._end_of_data is None:
            raise OutOfOrder(f"end of data cannot be sent while {self.state.value}")
        if self._reply_begun():
            self._end(ProtocolViolation("a reply that nobody asked for"))
            return
        self.in_doubt = True
        self._waiting.extend(deliveries)
        self._waiting.append(self._end_of_data)
        self._hoped = State.READY
        self._note_content(last)
        self._transmit(last + END_OF_DATA)
        self._wait_for(Verb.END_OF_DATA)

    def abort(self, problem: str = "closed by us") -> None:
        """End the session at once, without QUIT."""
        self._end(SessionLost(problem))

    def violated(self, problem: str) -> None:
        """End the session: the server broke a rule that this class does not know."""
        self._end(ProtocolViolation(problem))

    def fail(self, error: SessionError) -> None:
        """End the session at once, for a reason of ours."""
        self._end(error)

    def when_content_answered(self, answered: Answered) -> None:
        """
        Hear of the reply to the content: the one to end of data, or a refusal
        that came before it, after which the session is over.

        @raise OutOfOrder: no 354 came.
        """
        if self._end_of_data is None:
            raise OutOfOrder(f"no content can be sent while {self.state.value}")
        if self._end_of_data.answered:
            raise OutOfOrder("somebody waits for the reply to the content already")
        self._end_of_data.answered = answered

    def _transmit(self, octets: bytes) -> None:
        if self._group.octets is None:
            self._at_once(octets)
        else:
            self._group.octets.append(octets)

    def _write(self) -> None:
        """Send what may be sent; what no longer fits is answered so."""
        lines: list[bytes] = []
        stale: list[Exchange] = []
        while self._unsent and self._may_write():
            exchange = self._unsent.pop(0)
            if not self._waiting and hoped_after(self.state, exchange.verb) is None:
                stale.append(exchange)
            else:
                lines.append(exchange.line)
                self._waiting.append(exchange)
        if lines:
            self._write_lines(lines)
        for exchange in stale:
            exchange.answer(OutOfOrder(f"{exchange.verb.value} was not sent: {self.state.value}"))

    def _may_write(self) -> bool:
        if self._waiting:
            last = self._waiting[-1]
            verb = last.verbs[-1] if isinstance(last, Volley) else last.verb
            return self._pipelining and (verb in PIPELINED or (self.assumed is not None and verb in _OPENING))
        return self.state not in (State.HANDSHAKE, State.GREETING, State.SECURING)

    def _write_lines(self, lines: list[bytes]) -> None:
        if self._transcript:
            self._note_said(len(lines))
        self._transmit(b"".join(lines))
        if not self._deadline.running:
            self._wait_for(self._waiting[0].verb)

    def _note_said(self, count: int) -> None:
        """The last so many commands are being sent. Behind BDAT's line stands content."""
        assert self._transcript
        for exchange in islice(self._waiting, len(self._waiting) - count, None):
            assert isinstance(exchange, Exchange), "with a transcript there are no volleys"
            line, _, content = exchange.line.partition(b"\r\n")
            self._transcript.said(exchange.verb, line)
            self._transcript.content(len(content))

    def hopes(self) -> State:
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
        for said in (*self._waiting, *self._unsent):
            if isinstance(said, Volley):
                yield from said.verbs
            elif said.verb is not Verb.GREETING:
                yield said.verb

    # Replies on their way in

    def connectionMade(self) -> None:
        """See L{Protocol <twisted.internet.protocol.Protocol>}."""
        if ITCPTransport.providedBy(self.transport):
            # Write, write, read against a delayed acknowledgement costs 40 ms with Nagle's algorithm.
            self.transport.setTcpNoDelay(True)
            from pymail_tx.net.at_once import writer  # the blocking Session can do without Twisted's TCP

            self._at_once = writer(self.transport)
        else:
            self._at_once = self.transport.write
        if self._transcript:
            address = self.transport.getPeer()
            self._transcript.connected(str(getattr(address, "host", address)), int(getattr(address, "port", 0)))
        self._waiting.append(self._greeting)
        if self.state is State.HANDSHAKE:
            self._start_tls()
        else:
            self._wait_for(Verb.GREETING)

    def dataReceived(self, data: bytes) -> None:
        """See L{Protocol <twisted.internet.protocol.Protocol>}."""
        if self.state is State.CLOSED:
            return
        *lines, self._held = (self._held + data).split(b"\r\n")
        place = 0
        while place < len(lines):
            if self._waiting and isinstance(self._waiting[0], Volley):
                place += self._volley_answered(self._waiting[0], lines[place:])
            else:
                self.lineReceived(lines[place])
                place += 1
        if self._held or self.state is State.SECURING or (self._reader.inside and not self._waiting):
            self._look_at_rest()
        if self._answered:
            self._tell()

    def _volley_answered(self, volley: Volley, lines: list[bytes]) -> int:
        """
        @return: how many lines answer it, if they do as hoped; else none does, and
            its exchanges stand in its place.
        """
        replies, state = hoped_replies(volley.verbs, lines), hoped_after_all(self.state, volley.verbs)
        self._waiting.popleft()
        if replies is None or state is None:
            self._waiting.extendleft(reversed(volley.exchanges()))
            return 0
        self.state = state
        if state is State.CONTENT:
            self._expect_content(replies[-1])
        self._answered.append(partial(volley.accepted, replies))
        return len(replies)

    def _look_at_rest(self) -> None:
        if self.state is State.SECURING:
            if self._reply_begun():
                # Octets from before TLS must never be taken for octets from inside it (RFC 3207 §6).
                self._end(ProtocolViolation("data behind the reply to STARTTLS"))
            else:
                self._start_tls()
        elif len(self._held) >= MAX_REPLY_LINE_OCTETS:
            self._end(ProtocolViolation(f"a reply line of more than {MAX_REPLY_LINE_OCTETS} octets"))
        elif self._held and (b"\n" in self._held or b"\r" in self._held[:-1] or b"\0" in self._held):
            self._end(ProtocolViolation("a reply line that does not end in CRLF"))
        elif not self._waiting and self._reply_begun() and self.state is not State.CONTENT:
            self._end(ProtocolViolation("a reply that nobody asked for"))

    def _reply_begun(self) -> bool:
        return bool(self._held) or self._reader.inside

    def lineReceived(self, line: bytes) -> None:
        """See L{LineReceiver <twisted.protocols.basic.LineReceiver>}."""
        if self.state is State.CLOSED:
            return
        try:
            if self.state is State.SECURING:
                raise ProtocolViolation("data behind the reply to STARTTLS")
            reply = self._reader.line(line)
            if reply:
                self._replied(self._without_secrets(reply) if self._secrets else reply)
        except ProtocolViolation as violation:
            self._end(self._without_words(violation, line))

    def _without_words(self, violation: ProtocolViolation, line: bytes) -> ProtocolViolation:
        """The violation, without the server's words if they give a secret away."""
        if sasl.gives_away(line.decode("utf-8", "backslashreplace"), self._secrets):
            return ProtocolViolation(f"not an SMTP reply: {sasl.WITHHELD}")
        return violation

    def _without_secrets(self, reply: Reply) -> Reply:
        is_challenge = reply.severity == 3 and self._waiting and self._waiting[0].verb is Verb.AUTH
        return reply if is_challenge else sasl.without_secrets(reply, self._secrets)

    def _replied(self, reply: Reply) -> None:
        if not self._waiting:
            self._unasked(reply)
            return
        exchange = self._waiting[0]
        assert isinstance(exchange, Exchange), "a volley whose replies come one by one has become exchanges"
        if self._transcript:
            self._transcript.heard(exchange.verb, reply)
        verb, before = exchange.verb, self.state
        self.state = after_severity(before, verb, reply.severity) or after_reply(before, verb, reply)
        self._waiting.popleft()
        if self.state is not hoped_after(before, verb):
            self._hoped = None
        if verb in _LEARNING:
            _LEARNING[verb](self, reply)
        if self.state is not State.SECURING:
            self._answered.append(partial(exchange.answer, reply))
        else:
            self._handshake, self._hoped = exchange, None
        if reply.code == 421:
            self._end(SessionLost(f"the server closed the session: {reply}", reply))

    def _unasked(self, reply: Reply) -> None:
        if self._transcript:
            self._transcript.heard(Verb.OTHER, reply)
        if reply.severity in (4, 5) and self.state is State.CONTENT and self._end_of_data:
            # Refused while the content still flows: the dot must never be sent.
            self.content_refusal = reply
            self._answered.append(partial(self._end_of_data.answer, reply))
            self._end(SessionLost(f"the server refused the content: {reply}", reply))
        elif reply.code == 421:
            self._end(SessionLost(f"the server closed the session: {reply}", reply))
        else:
            self._end(ProtocolViolation(f"a reply that nobody asked for: {reply}"))

    def _tell(self) -> None:
        """Hand out the replies that came, and send what may be sent now."""
        if self.state not in (State.CLOSED, State.SECURING, State.HANDSHAKE):
            self._wait_for_next()
        while self._answered:
            self._answered.pop(0)()
        if self._unsent:
            self._write()

    def _learn_greeting(self, reply: Reply) -> None:
        self.greeting_reply = reply
        if self.assumed is not None and reply.severity != 2:
            self._end(Refused("greeting", reply))

    def _learn_extensions(self, reply: Reply) -> None:
        if reply.severity == 2:
            self._know(Extensions.of(reply))
        if self.assumed is not None:
            self._compare_with_assumed(reply)

    def _compare_with_assumed(self, reply: Reply) -> None:
        """What was said already is right only if nothing is otherwise."""
        if reply.severity != 2:
            self._end(Refused("EHLO", reply))
        elif self.extensions != self.assumed:
            self._end(SessionLost("the server does not offer what it offered before"))
        else:
            self.assumed = None

    def _forget_extensions(self, reply: Reply) -> None:
        if reply.severity == 2:
            self._know(Extensions())

    def _know(self, extensions: Extensions) -> None:
        self.extensions = extensions
        self._pipelining = "PIPELINING" in extensions

    def _expect_content(self, reply: Reply) -> None:
        if reply.severity == 3:
            self._end_of_data = Exchange(Verb.END_OF_DATA)

    def _forget_content(self, reply: Reply) -> None:
        self._end_of_data, self.in_doubt = None, False

    def _say_good_bye(self, reply: Reply) -> None:
        if self._transcript:
            self._transcript.ended(None)
        self.transport.loseConnection()  # a peer that never finishes its TLS closure is cut off when QUIT's time is up

    # TLS

    def _start_tls(self) -> None:
        creator, self._tls_to_start = self._tls_to_start, None
        if creator:
            self._creator = creator
            self._wait_for(Verb.HANDSHAKE)
            self.transport.startTLS(creator)

    def handshakeCompleted(self) -> None:
        """See L{IHandshakeListener <twisted.internet.interfaces.IHandshakeListener>}."""
        if self.state is State.CLOSED or self._creator is None:
            return
        self.tls = self._creator.facts(self.transport.getHandle())
        if self._transcript:
            self._transcript.secured(self.tls)
        self._know(Extensions())
        self.state = after(self.state, Verb.HANDSHAKE, command.Answer.DONE)
        self._hoped = None
        handshake, self._handshake = self._handshake, None
        self._wait_for_next()
        if handshake:
            handshake.answer(_SECURED)
        self._write()

    # Deadlines and the end

    def _wait_for_next(self) -> None:
        """The reply before came: the next one's time begins."""
        if self._waiting:
            self._wait_for(self._waiting[0].verb)
        elif self.state is State.CONTENT:
            self._wait_for(Verb.CONTENT)
        else:
            self._deadline.drop()

    def _wait_for(self, verb: Verb) -> None:
        self._due_verb = verb
        self._deadline.within(self._timeouts_s[verb])

    def _deadline_passed(self) -> None:
        verb = self._due_verb
        passed = f"{self._timeouts_s[verb]:g} s passed {COMMANDS[verb].doing}"
        self._end(TLSFailed(passed) if verb is Verb.HANDSHAKE else ReplyTimeout(passed))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol <twisted.internet.protocol.Protocol>}."""
        self._connection_lost = True
        self._end(self._loss(reason))
        self._deadline.stop()

    def _loss(self, reason: Failure) -> SessionError:
        if self.state not in (State.HANDSHAKE, State.SECURING) or self._creator is None:
            return SessionLost(f"connection lost while {COMMANDS[self._due_verb].doing}: {reason.getErrorMessage()}")
        return self._creator.failure(reason)

    def _end(self, error: SessionError) -> None:
        """The one way a session ends early: close, then tell everybody who waits."""
        is_news = self.state is not State.CLOSED
        if is_news:
            self.state, self.ended_by = State.CLOSED, error
            if self._transcript:
                self._transcript.ended(error)
        if not self._connection_lost:
            self.transport.abortConnection()
        self._deadline.drop()
        waiting = [one for said in self._waiting for one in said.exchanges()]
        broken = [self._handshake, self._greeting, *waiting, self._end_of_data, *self._unsent]
        self._waiting.clear()
        self._unsent.clear()
        self._tell()  # replies that came before the end are replies
        for exchange in broken:
            if exchange:
                exchange.answer(error)
        if is_news and self.on_end:
            self.on_end(error)


_OPENING = frozenset({Verb.GREETING, Verb.EHLO})

_LEARNING: dict[Verb, Callable[[Dialogue, Reply], None]] = {
    Verb.GREETING: Dialogue._learn_greeting,
    Verb.EHLO: Dialogue._learn_extensions,
    Verb.LHLO: Dialogue._learn_extensions,
    Verb.HELO: Dialogue._forget_extensions,
    Verb.DATA: Dialogue._expect_content,
    Verb.END_OF_DATA: Dialogue._forget_content,
    Verb.QUIT: Dialogue._say_good_bye,
}

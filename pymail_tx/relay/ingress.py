"""
Where messages come in: the SMTP server of the relay (RFC 5321), for clients on
this machine.

L{_COMMANDS} is the protocol: for each verb the states that it fits and what is
done about it. What the relay promises here:

  1. 250 to end of data is said when C{spool.accept} has fired, never before.
     Until then nothing else of the session is looked at: commands that were
     pipelined behind wait, and so does the client, since reading stops.
  2. A message ends at CRLF, dot, CRLF, and nowhere else. One with a CR or LF
     alone is refused after its true end: the session stays in step, and
     nothing that hides in a message is ever taken for a command.
  3. Every input has a limit. What is beyond is not kept: it is read, dropped
     and answered.
  4. A client that does not read its replies is not read either.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from pymail_tx.core.address import Mailbox
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.routes import Routes, Scheme
from pymail_tx.relay.arguments import MAIL_PARAMETERS, Refused, Transaction, no_argument, path_and_parameters
from pymail_tx.relay.incoming import MAX_MESSAGE_OCTETS, Content
from pymail_tx.spool.interface import Acceptor, NewMessage, SpoolError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

MAX_RECIPIENTS = 1_000
"""Of one mail transaction. RFC 5321 §4.5.3.1.8 promises 100; clients split at 452."""

MAX_COMMAND_OCTETS = 2_048
"""A command line with its CRLF. RFC 5321 §4.5.3.1.4 has 512, extensions add; a path alone may have 1,000 here."""

MAX_BAD_COMMANDS = 20
"""Commands answered 500 to 504 or 555 in a session. Whoever gives more is not speaking SMTP."""

MAX_SESSIONS = 500
"""At a time. A process has 1,024 descriptors on most systems, and deliveries need some."""

IDLE_TIMEOUT_S = 300
"""Without an octet from the client (RFC 5321 §4.5.3.2.7)."""

CLOSING_TIMEOUT_S = 10
"""For a client to take its last reply."""

SLICE_OCTETS = 4_096
"""LineReceiver copies its buffer for every line; feeding it slices keeps a flood of short lines linear."""

_MAX_NAME_SHOWN = 255
"""Of an EHLO argument, in the Received line: as long as a domain (RFC 5321 §4.5.3.1.2)."""


class ServerTransport(Protocol):
    """What a session needs of a transport; TCP's and Unix's have it."""

    disconnecting: bool

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


class _State(enum.Enum):
    """Where a session is; the value tells a client what is missing."""

    GREETED = "say EHLO first"
    READY = "say MAIL first"
    TRANSACTION = "no recipient yet, say RCPT first"
    ADDRESSED = "a mail transaction is under way"
    CLOSING = "the session is over"


@implementer(IPushProducer)
class SMTPServer(LineReceiver):
    """
    One session as a server. As a producer it is the source of its replies: it
    is paused as long as the client does not take them.
    """

    transport: ServerTransport  # type: ignore[assignment]  # narrower than ITransport, and there once connected
    delimiter = b"\r\n"
    MAX_LENGTH = MAX_COMMAND_OCTETS - 2

    _log = Logger()

    def __init__(self, factory: IngressFactory, client: str) -> None:
        """
        @param client: the client's address, as a Received line has it.
        """
        self._relay = factory
        self._client = client
        self._state = _State.GREETED
        self._name = b""
        self._extended = False
        self._transaction: Transaction | None = None
        self._content = Content()
        self._raw: Callable[[bytes], None] = self._content_received
        self._handed_back = b""
        self._half_crlf = b""
        self._pauses: set[str] = set()
        self._bad_commands = 0
        self._heard_at_s = 0.0
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        if ITCPTransport.providedBy(self.transport):
            # Write, write, read against a delayed acknowledgement costs 40 ms with Nagle's algorithm.
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._heard_at_s = self._relay.clock.seconds()
        self._timer = self._relay.clock.callLater(IDLE_TIMEOUT_S, self._look_at_clock)
        refusal = self._relay.admit(self, self._client)
        if refusal:
            self._close(refusal)
        else:
            self._say(b"220 %s ESMTP" % self._relay.hostname)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        self._state = _State.CLOSING
        self._content = Content()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._relay.gone(self)

    def stop(self) -> None:
        """
        End the session: at once, unless a message is being accepted, which
        gets its reply first.
        """
        if "accept" not in self._pauses and self._state is not _State.CLOSING:
            self._close(_STOPPING)

    # Octets in

    def dataReceived(self, data: bytes) -> None:
        """See L{twisted.internet.protocol.Protocol}."""
        self._heard_at_s = self._relay.clock.seconds()
        start = 0
        while start < len(data) and self._state is not _State.CLOSING:
            end = start + SLICE_OCTETS if self.line_mode and not self.paused else len(data)
            super().dataReceived(data[start:end])  # type: ignore[no-untyped-call]  # Twisted has no types here
            start = end
            if self._handed_back:
                data, start, self._handed_back = self._handed_back + data[end:], 0, b""

    def rawDataReceived(self, data: bytes) -> None:
        """See L{LineReceiver}."""
        self._raw(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """See L{LineReceiver}, which hands over all that it has."""
        self._handed_back = line
        self._to_raw(self._skip_line)

    def _skip_line(self, data: bytes) -> None:
        """Drop the rest of a command that is too long; a CR at the end may be half of its CRLF."""
        data = self._half_crlf + data
        end = data.find(b"\r\n")
        self._half_crlf = b"\r" if end < 0 and data.endswith(b"\r") else b""
        if end >= 0:
            self._to_commands(data[end + 2 :])
            self._refuse(Refused(b"500 5.5.2 a command line has at most %d octets" % MAX_COMMAND_OCTETS))

    def _to_raw(self, taker: Callable[[bytes], None]) -> None:
        self._raw = taker
        self.setRawMode()  # type: ignore[no-untyped-call]  # Twisted has no types here

    def _to_commands(self, rest: bytes) -> None:
        self.setLineMode()  # type: ignore[no-untyped-call]  # Twisted has no types here
        self._handed_back = rest

    # Commands in, replies out

    def lineReceived(self, line: bytes) -> None:
        """See L{LineReceiver}."""
        if self._state is _State.CLOSING:
            return
        try:
            self._command(line)
        except Refused as refused:
            self._refuse(refused)

    def _command(self, line: bytes) -> None:
        if _CONTROLS.search(line):
            raise Refused(b"500 5.5.2 control characters are no part of a command")
        name, _, argument = line.strip(b" ").partition(b" ")
        verb = name.upper()
        handlers = _COMMANDS.get(verb)
        if handlers is None:
            raise Refused(_NOT_HERE.get(verb, b"500 5.5.2 unknown command"))
        handler = handlers.get(self._state)
        if handler is None:
            raise Refused(b"503 5.5.1 " + self._state.value.encode())
        handler(self, argument.strip(b" "))

    def _refuse(self, refused: Refused) -> None:
        self._bad_commands += refused.is_bad_command
        if self._bad_commands > MAX_BAD_COMMANDS:
            self._close(b"421 4.7.0 too many bad commands")
        else:
            self._say(refused.reply)

    def _say(self, reply: bytes) -> None:
        self.transport.write(reply + b"\r\n")

    def _ehlo(self, argument: bytes) -> None:
        self._hello(argument, extended=True)
        self._say(b"\r\n".join((b"250-" + self._relay.hostname, *_EXTENSIONS)))

    def _helo(self, argument: bytes) -> None:
        self._hello(argument, extended=False)
        self._say(b"250 " + self._relay.hostname)

    def _hello(self, argument: bytes, *, extended: bool) -> None:
        if not argument:
            raise Refused(b"501 5.5.4 a name must follow")
        self._name, self._extended = argument, extended
        self._reset()

    def _mail(self, argument: bytes) -> None:
        path, parameters = path_and_parameters(argument, b"FROM", b"501 5.1.7")
        transaction = Transaction("", utf8=False)
        for key, value in parameters.items():
            parameter = MAIL_PARAMETERS.get(key) if self._extended else None
            if parameter is None:
                raise Refused(b"555 5.5.4 a parameter that is not known here")
            parameter(transaction, value)
        transaction.sender = self._mailbox(path, transaction, b"501 5.1.7") if path else ""
        self._transaction, self._state = transaction, _State.TRANSACTION
        self._say(b"250 2.1.0 sender ok")

    def _rcpt(self, argument: bytes) -> None:
        assert self._transaction is not None
        path, parameters = path_and_parameters(argument, b"TO", b"501 5.1.3")
        if parameters:
            raise Refused(b"555 5.5.4 a parameter that is not known here")
        if path.lower() == b"postmaster":
            path += b"@" + self._relay.hostname  # RFC 5321 §4.1.1.3
        self._admit(self._mailbox(path, self._transaction, b"501 5.1.3"), self._transaction.recipients)
        self._state = _State.ADDRESSED
        self._say(b"250 2.1.5 recipient ok")

    def _admit(self, address: str, recipients: dict[str, None]) -> None:
        route = self._relay.routes.find(address.rpartition("@")[2])
        if route is None:
            raise Refused(b"550 5.4.4 no route leads to that domain", is_bad_command=False)
        if route.target.scheme is Scheme.REJECT:
            raise Refused(b"550 5.7.1 " + route.target.text.encode(), is_bad_command=False)
        if len(recipients) == MAX_RECIPIENTS:
            raise Refused(b"452 4.5.3 no more than %d recipients" % MAX_RECIPIENTS, is_bad_command=False)
        recipients[address] = None

    def _mailbox(self, path: bytes, transaction: Transaction, code: bytes) -> str:
        """A path as an address; the domain in A-labels."""
        if not path.isascii() and not transaction.utf8:
            raise Refused(b"553 5.6.7 an address that is not ASCII needs SMTPUTF8 in MAIL")
        try:
            mailbox = Mailbox.parse("address", path.decode())
        except (BadArgument, UnicodeDecodeError):
            raise Refused(code + b" that is no address") from None
        if not mailbox.domain:
            raise Refused(code + b" the address has no domain")
        return str(mailbox)

    def _data(self, argument: bytes) -> None:
        no_argument(argument)
        self._content = Content()
        self._to_raw(self._content_received)
        self._say(b"354 go on, end with a dot alone on a line")

    def _rset(self, argument: bytes) -> None:
        no_argument(argument)
        if self._state is not _State.GREETED:
            self._reset()
        self._say(b"250 2.0.0 ok")

    def _noop(self, argument: bytes) -> None:
        self._say(b"250 2.0.0 ok")

    def _help(self, argument: bytes) -> None:
        self._say(b"214 2.0.0 " + b" ".join(_COMMANDS))

    def _vrfy(self, argument: bytes) -> None:
        if not argument:
            raise Refused(b"501 5.5.4 an address must follow")
        self._say(b"252 2.5.0 send it, and see (RFC 5321 3.5.3)")

    def _quit(self, argument: bytes) -> None:
        no_argument(argument)
        self._close(b"221 2.0.0 " + self._relay.hostname)

    def _reset(self) -> None:
        self._transaction, self._state = None, _State.READY
        self._content = Content()

    # Content

    def _content_received(self, data: bytes) -> None:
        rest = self._content.take(data)
        if rest is None:
            return
        self._to_commands(rest)
        problem = self._content.problem()
        if problem:
            self._reset()
            self._say(problem)
        else:
            self._accept()

    def _accept(self) -> None:
        """The one place that says that a message is ours. Callbacks, since it is run for every message."""
        assert self._transaction is not None
        relay, transaction = self._relay, self._transaction
        message = NewMessage(
            envelope=Envelope(transaction.sender, transaction.recipients),
            submitter=self._client,
            content=self._content.message(self._received(transaction)),
        )
        self._reset()
        self._pause("accept")
        accepted = relay.spool.accept(message, now=relay.wall_clock())
        accepted.addCallback(self._accepted).addErrback(self._not_accepted).addCallback(self._answer)

    def _accepted(self, message_id: int) -> bytes:
        self._relay.accepted()
        return b"250 2.0.0 accepted as %d" % message_id

    def _not_accepted(self, failure: Failure) -> bytes:
        if isinstance(failure.value, SpoolError):
            self._log.error("a message was not accepted: {problem}", problem=str(failure.value))
        else:
            self._log.failure("a message was not accepted", failure)
        return b"451 4.3.0 it cannot be stored now, try again later"

    def _answer(self, reply: bytes) -> None:
        """A client that is gone does not get it, and sends the message again (RFC 5321 §4.2.5)."""
        self._pauses.discard("accept")
        if self._state is _State.CLOSING:
            return
        self._heard_at_s = self._relay.clock.seconds()
        self._say(reply)
        if self._relay.stopping:
            self._close(_STOPPING)
        elif not self._pauses:
            self._go_on()

    def _received(self, transaction: Transaction) -> bytes:
        """The trace of this hop (RFC 5321 §4.4, RFC 6531 §3.7.3)."""
        relay = self._relay
        protocol = b"UTF8SMTP" if transaction.utf8 else b"ESMTP" if self._extended else b"SMTP"
        return b"Received: from %s (%s)\r\n\tby %s with %s id %s;\r\n\t%s\r\n" % (
            _NOT_IN_NAME.sub(b"?", self._name[:_MAX_NAME_SHOWN]),
            self._client.encode(),
            relay.hostname,
            protocol,
            relay.new_token().encode(),
            _date(int(relay.wall_clock())),
        )

    # Pauses: for the spool, and for a client that does not take its replies

    def pauseProducing(self) -> None:
        """See L{IPushProducer}: the client does not take its replies."""
        self._pause("replies")

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._pauses.discard("replies")
        if not self._pauses and self._state is not _State.CLOSING:
            self._go_on()

    def stopProducing(self) -> None:
        """See L{IPushProducer}: the connection is gone, L{connectionLost} comes next."""

    def _pause(self, why: str) -> None:
        self._pauses.add(why)
        self.paused = True
        self.transport.pauseProducing()

    def _go_on(self) -> None:
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(self.clearLineBuffer())  # type: ignore[no-untyped-call]  # Twisted has no types here

    # The end

    def _close(self, reply: bytes) -> None:
        self._say(reply)
        self._state = _State.CLOSING
        self._content = Content()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if self._timer:
            self._timer.reset(CLOSING_TIMEOUT_S)

    def _look_at_clock(self) -> None:
        """One timer that looks: moving it at every octet would cost more."""
        self._timer = None
        if self._state is _State.CLOSING:
            self.transport.abortConnection()
            return
        now_s = self._relay.clock.seconds()
        if "accept" in self._pauses:  # it is the spool that keeps us waiting, not the client
            self._heard_at_s = now_s
        left_s = self._heard_at_s + IDLE_TIMEOUT_S - now_s
        self._timer = self._relay.clock.callLater(max(left_s, CLOSING_TIMEOUT_S), self._look_at_clock)
        if left_s <= 0:
            self._close(b"421 4.4.2 nothing came for %d s" % IDLE_TIMEOUT_S)


_Handler = Callable[[SMTPServer, bytes], None]

_OPEN = (_State.READY, _State.TRANSACTION, _State.ADDRESSED)
_ALWAYS = (_State.GREETED, *_OPEN)


def _in(states: tuple[_State, ...], handler: _Handler) -> Mapping[_State, _Handler]:
    return dict.fromkeys(states, handler)


_COMMANDS: Mapping[bytes, Mapping[_State, _Handler]] = {
    b"EHLO": _in(_ALWAYS, SMTPServer._ehlo),
    b"HELO": _in(_ALWAYS, SMTPServer._helo),
    b"MAIL": _in((_State.READY,), SMTPServer._mail),
    b"RCPT": _in((_State.TRANSACTION, _State.ADDRESSED), SMTPServer._rcpt),
    b"DATA": _in((_State.ADDRESSED,), SMTPServer._data),
    b"RSET": _in(_ALWAYS, SMTPServer._rset),
    b"NOOP": _in(_ALWAYS, SMTPServer._noop),
    b"VRFY": _in(_ALWAYS, SMTPServer._vrfy),
    b"HELP": _in(_ALWAYS, SMTPServer._help),
    b"QUIT": _in(_ALWAYS, SMTPServer._quit),
}

_NOT_HERE = dict.fromkeys((b"EXPN", b"STARTTLS", b"AUTH", b"BDAT"), b"502 5.5.1 not offered here")

_EXTENSIONS = (
    b"250-PIPELINING",
    b"250-8BITMIME",
    b"250-SIZE %d" % MAX_MESSAGE_OCTETS,
    b"250-ENHANCEDSTATUSCODES",
    b"250 SMTPUTF8",
)

_STOPPING = b"421 4.3.2 the relay is stopping"

_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
_NOT_IN_NAME = re.compile(rb"[^A-Za-z0-9._:\[\]-]")


def _ascii(text: str) -> bytes:
    return text.encode("ascii")


@lru_cache(maxsize=2)
def _date(now: int) -> bytes:
    """RFC 5322 §3.3. Made once a second: it costs more than the rest of the line."""
    return format_datetime(datetime.fromtimestamp(now, UTC)).encode()


@define(kw_only=True, eq=False, slots=False)
class IngressFactory(ServerFactory):
    """
    Makes an L{SMTPServer} for each connection.

    @ivar hostname: our domain in ASCII.
    @ivar clock: keeps the idle timeouts.
    @ivar wall_clock: seconds since the epoch.
    @ivar new_token: makes the Received line's id, letters and digits.
    @ivar accepted: called when a message is durable.
    @ivar stopping: L{stop} was called.
    """

    noisy = False

    spool: Acceptor
    routes: Routes
    hostname: bytes = field(converter=_ascii)
    clock: IReactorTime
    wall_clock: Callable[[], float]
    new_token: Callable[[], str]
    accepted: Callable[[], None]
    stopping: bool = field(default=False, init=False)
    _sessions: set[SMTPServer] = field(factory=set, init=False)
    _all_gone: list[Deferred[None]] = field(factory=list, init=False)

    def buildProtocol(self, addr: IAddress | None) -> SMTPServer:
        """See L{ServerFactory}."""
        server = SMTPServer(self, _client(addr))
        server.factory = self
        return server

    def admit(self, session: SMTPServer, client: str) -> bytes | None:
        """A session begins. The reply that turns it away, C{None} if it may stay."""
        self._sessions.add(session)
        if not client:
            return b"554 5.7.1 this relay is for clients on its own machine"
        if self.stopping:
            return _STOPPING
        if len(self._sessions) > MAX_SESSIONS:
            return b"421 4.3.2 no more than %d sessions at a time" % MAX_SESSIONS
        return None

    def gone(self, session: SMTPServer) -> None:
        """A session's connection is gone."""
        self._sessions.discard(session)
        if not self._sessions:
            waiting, self._all_gone = self._all_gone, []
            for each in waiting:
                each.callback(None)

    def stop(self) -> Deferred[None]:
        """
        End all sessions. Those whose message is being accepted get their reply
        first, the others a 421 at once.

        @return: fires when the last connection is gone. Cancelled, the
            sessions end all the same.
        """
        self.stopping = True
        for session in list(self._sessions):
            session.stop()
        if not self._sessions:
            return succeed(None)
        gone: Deferred[None] = Deferred(self._all_gone.remove)
        self._all_gone.append(gone)
        return gone


def _client(address: IAddress | None) -> str:
    """
    The client's address as a Received line has it, C{""} for one that is not on
    this machine. A Unix socket's has no host, and cannot be anywhere else.
    """
    name = getattr(address, "host", None)
    if name is None:
        return "local"
    try:
        host = ipaddress.ip_address(name)
    except ValueError:
        return ""
    host = getattr(host, "ipv4_mapped", None) or host
    if not host.is_loopback:
        return ""
    return f"[IPv6:{host}]" if host.version == 6 else f"[{host}]"

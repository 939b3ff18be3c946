r"""
The blocking client: the names of PyMail 0.1.2's C{pymail.client}.

A L{Session} sends one message through one server, in steps or all at once::

    session = Session(["mail.example.org"], "me.example.org", "id-1", "from@example.org", "to@example.org")
    session.start()
    session.startData()
    session.sendData(b"Subject: Hello\r\n\r\nHow are you?\r\n")
    session.endData()
    session.close()

It drives the same protocol object as the asynchronous client, over a socket of
its own (L{pymail_tx.net.blocking}): without a reactor and without a thread, so
in any thread, after a fork, and beside a running reactor.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pymail_tx.core.address import ascii_domain, refuse_controls
from pymail_tx.core.command import COMMANDS, Verb
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import (
    BadArgument,
    Misuse,
    NoConnection,
    NotOffered,
    OutOfOrder,
    ProtocolViolation,
    Refused,
    SessionError,
    TLSFailed,
)
from pymail_tx.core.lonedot import LoneDot
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import State
from pymail_tx.net import opening
from pymail_tx.net.blocking import BlockingClock, BlockingConnection
from pymail_tx.net.protocol import SMTPClient

if TYPE_CHECKING:
    from pymail_tx.net.tls import ClientTLS

CONNECT_TIMEOUT = 10
"""Seconds for a connection to one address of a host."""

REPLY_TIMEOUT = 300
"""Seconds for a whole reply, and for a block of content that the server does not read. Read when a session opens."""

END_OF_DATA_TIMEOUT = 600
"""Seconds for the reply to end of data (RFC 5321 §4.5.3.2.6). Read when a session opens."""

COMMAND_MODE = 1
DATA_MODE = 2

_BLOCK_OCTETS = 65_536
_INVALID_CREDENTIALS = 535


class ClientException(RuntimeError):
    """
    The server's reply was not the expected one, or the call was not.

    @ivar reply: the server's L{Reply}, C{None} if there was none.
    """

    reply: Reply | None = None


class TemporaryError(RuntimeError):
    """
    No connection, a timeout or a loss: the same may succeed later.

    @ivar reply: the server's L{Reply}, C{None} if there was none.
    """

    reply: Reply | None = None


class _TemporaryRefusal(ClientException, TemporaryError):
    """A 4yz reply: not the expected one, and worth another try."""


class _NothingElseHelps(ClientException):
    """Credentials refused, or a host that cannot prove who it is to somebody who has credentials."""


def collected(items: Iterable[object]) -> str:
    """The items, a line each."""
    return "\n".join(map(str, items))


class Session:
    """
    One SMTP session, for one message to one recipient.

    Methods raise L{ClientException} for a reply other than the expected one
    and for misuse, L{TemporaryError} when connection or time ran out, and an
    exception that is both for a 4yz reply.

    @ivar status: C{COMMAND_MODE} or C{DATA_MODE}; C{None} without connection.
    @ivar host: the host of the connection.
    @ivar port: its port.
    @ivar dataSize: octets of content sent.
    @ivar socket: the connected socket; C{None} without connection.
    @ivar sockfile: the same as an unbuffered file, for its descriptor; what
        arrives on it belongs to L{read}.
    """

    log = Logger()
    serverResponseRe = re.compile(r"^([2-5][0-9]{2})(?:([ -])(.*))?$")

    def __init__(  # noqa: PLR0913  # PyMail's signature
        self,
        mailHosts: Sequence[str],
        clientAddress: str,
        messageId: str,
        source: str,
        destination: str,
        credentials: tuple[str | None, str | None] = (None, None),
        *,
        allow_plaintext: bool = False,
        trust_root: str | None = None,
        connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection,
    ) -> None:
        """
        @param mailHosts: names or addresses of servers to try, in this order.
        @param clientAddress: our own domain or address literal, for EHLO.
        @param messageId: stands in log events, nowhere else.
        @param source: the sender's address, C{""} for the null reverse-path.
        @param destination: the recipient's address.
        @param credentials: user and password, for AUTH PLAIN.
        @param allow_plaintext: with credentials, whether L{start} goes on to
            plain text, where they are not sent, if no TLS port opens.
        @param trust_root: a file of CA certificates in PEM; by default OpenSSL's
            store, C{SSL_CERT_FILE} and C{SSL_CERT_DIR} included.
        @param connect: makes the connection to (host, port) within seconds.
        @raise ClientException: an argument that cannot be sent; nothing was.
        """
        if isinstance(mailHosts, str):
            raise ClientException("mailHosts: a list of names is wanted, not one string")
        self.mailHosts = mailHosts
        self.clientAddress = clientAddress
        self.messageId = messageId
        self.source = source
        self.destination = destination
        self.credentials = credentials
        self.host: str | None = None
        self.port: int | None = None
        self.status: int | None = None
        self.dataSize = 0
        self.socket: socket.socket | None = None
        self.sockfile: socket.SocketIO | None = None
        self._allow_plaintext = allow_plaintext
        self._trust_root = trust_root
        self._connect = connect
        self._live: _Live | None = None
        self._check()

    def _check(self) -> None:
        """
        @raise ClientException: an argument that cannot be sent.
        """
        with self._in_pymails_terms():
            for field_name in ("clientAddress", "messageId", "source", "destination"):
                refuse_controls(field_name, getattr(self, field_name))
            for host in self.mailHosts:
                refuse_controls("mailHosts", host)
            ascii_domain("clientAddress", self.clientAddress)
            Envelope(self.source, [self.destination])
            _login(self.credentials)

    # The five ways in, and start, which tries them

    def start(self) -> None:
        """
        Open a session, encrypted if possible, and say whom the message is from
        and for. With credentials, a server that refuses them (535) or cannot
        prove who it is ends the search at once.

        @raise TemporaryError: no session opened, and for some server it may
            be different later.
        @raise ClientException: no session opened, or sender or recipient was
            refused; then L{close} says good-bye.
        """
        ways = [(self.starttls, 25), (self.tls, 465), (self.starttls, 587)]
        if self._allow_plaintext or not _login(self.credentials):
            ways += [(self.plain, 25), (self.plain, 587)]
        _first_that_works([partial(way, port) for way, port in ways])
        self._say_envelope()

    def plain(self, port: int) -> None:
        """Open a session in plain text, without credentials, up to MAIL FROM."""
        self._open(port, self._greet_in_plain_text)

    def starttls(self, port: int) -> None:
        """
        Open a session, encrypt it with STARTTLS, and authenticate if there are
        credentials and the server offers AUTH PLAIN.
        """
        self._open(port, self._greet_and_secure)

    def tls(self, port: int) -> None:
        """
        Open a session that is encrypted from the start, and authenticate if
        there are credentials and the server offers AUTH PLAIN.
        """
        self._open(port, self._greet_in_tls, implicit_tls=True)

    # The message

    def startData(self) -> None:
        """Send DATA and switch to C{DATA_MODE}."""
        with self._using("startData", COMMAND_MODE) as live:
            reply = live.run(live.client.data())
            if reply.severity != 3:
                raise _refused("DATA", reply)
            live.begin_content()
            self.dataSize = 0
            self.status = DATA_MODE

    def sendData(self, data: bytes | str) -> None:
        """
        Send content as it is: line ends and doubled dots are the caller's. It
        returns when the server has read nearly all of it.

        @param data: any piece of the content; C{str} goes out in UTF-8.
        @raise ClientException: a line of the content is a lone dot, which some
            server would take for its end; or the server refused the content.
            The connection is closed, the message not accepted.
        @raise TemporaryError: the server stopped reading, or is gone.
        """
        octets = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        with self._using("sendData", DATA_MODE) as live:
            if live.guard.found_in(octets):
                live.client.abort("a lone dot in the content")
                raise ClientException("sendData: a line of one dot would end the message; double the dot")
            for start in range(0, len(octets), _BLOCK_OCTETS):
                live.send(octets[start : start + _BLOCK_OCTETS])
            self.dataSize += len(octets)

    def endData(self) -> None:
        """
        Send the lone dot, after a CRLF that the content may lack, and switch to
        C{COMMAND_MODE}.

        @raise ClientException: the server refused the message, for now if it is
            a L{TemporaryError} as well.
        @raise TemporaryError: it did not reply; the message may have been
            accepted all the same.
        """
        with self._using("endData", DATA_MODE) as live:
            if live.guard.found_at_end():
                live.client.abort("a lone dot in the content")
                raise ClientException("endData: the last line would be a lone dot; double the dot")
            reply = live.end_content()
            self.status = COMMAND_MODE
            if reply.severity != 2:
                raise _refused("end of data", reply)

    def close(self) -> None:
        """
        Say QUIT and close the connection. No reply to QUIT is no error, since
        all was decided before. Without connection nothing happens.

        @raise ClientException: a reply other than a yes; or the content was
            begun and not ended, and is not accepted.
        """
        if self._live is None:
            return
        try:
            with self._using("close", COMMAND_MODE) as live:
                reply = live.run(live.client.quit())
                if reply.severity != 2:
                    raise _refused("QUIT", reply)
        except TemporaryError as gone:
            if gone.reply:
                raise
        finally:
            self._drop()

    # By hand

    def sendLine(self, msg: str) -> None:
        """
        Send a line and CRLF. L{read} gives the reply. Behind a DATA sent this
        way, a line of content has none, up to the one that is a lone dot.
        """
        with self._using("sendLine", COMMAND_MODE) as live:
            live.say(msg)

    def read(self) -> list[tuple[str, str]]:
        """
        Read the reply to the oldest line sent whose reply was not read yet.

        @return: (code, text) for each line of the reply.
        """
        with self._using("read", COMMAND_MODE) as live:
            if not live.said:
                raise OutOfOrder("read: no line was sent that gets a reply")
            reply = live.run(live.said.pop(0))
            return [(str(reply.code), line) for line in reply.lines]

    # How it is done

    def _open(self, port: int, negotiate: _Negotiation, *, implicit_tls: bool = False) -> None:
        if self._live:
            raise ClientException("a session is open already; close it first")
        if not self.mailHosts:
            raise ClientException("mailHosts: no host to try")
        _first_that_works([partial(self._open_at, host, port, negotiate, implicit_tls) for host in self.mailHosts])

    def _open_at(self, host: str, port: int, negotiate: _Negotiation, implicit_tls: bool) -> None:
        with self._in_pymails_terms():
            creator = self._creator(host) if implicit_tls else None
            clock = BlockingClock()
            client = SMTPClient(clock, host=host, implicit_tls=creator, timeouts_s=_timeouts_s())
            self.socket = self._connected(host, port)
            self.sockfile = self.socket.makefile("rwb", buffering=0)
            self.host, self.port = host, port
            self._live = _Live(BlockingConnection(self.socket, clock), client)
            try:
                self._live.begin(negotiate(client, host))
            except SessionError:
                self._drop()
                raise
            self.status = COMMAND_MODE
        self.log.debug("{message_id}: session with {host}:{port}", message_id=self.messageId, host=host, port=port)

    def _connected(self, host: str, port: int) -> socket.socket:
        try:
            return self._connect((host, port), CONNECT_TIMEOUT)
        except UnicodeError:
            raise BadArgument("mailHosts", f"{host!r} is no host name") from None
        except OSError as problem:
            raise NoConnection(f"no connection to {host} port {port}: {problem}") from None

    def _creator(self, host: str) -> ClientTLS:
        from pymail_tx.net.tls import ClientTLS  # OpenSSL takes 60 ms to import

        try:
            return ClientTLS(host, must_verify=_login(self.credentials) is not None, trust_root=self._trust_root)
        except OSError as problem:
            raise BadArgument("trust_root", str(problem)) from None

    async def _greet_in_plain_text(self, client: SMTPClient, host: str) -> None:
        await opening.greet(client, self.clientAddress, helo=True)

    async def _greet_and_secure(self, client: SMTPClient, host: str) -> None:
        await opening.greet(client, self.clientAddress, helo=False)
        await opening.secure(client, self.clientAddress, self._creator(host))
        await self._authenticate(client)

    async def _greet_in_tls(self, client: SMTPClient, host: str) -> None:
        await opening.greet(client, self.clientAddress, helo=False)
        await self._authenticate(client)

    async def _authenticate(self, client: SMTPClient) -> None:
        credentials = _login(self.credentials)
        if credentials and "PLAIN" in client.extensions.auth_mechanisms:
            await opening.authenticate(client, credentials)

    def _say_envelope(self) -> None:
        with self._using("start", COMMAND_MODE) as live:
            client, parameters = live.client, self._mail_parameters(live.client)
            with client.group():
                asked = [
                    ("MAIL FROM", client.mail(self.source, *parameters)),
                    ("RCPT TO", client.rcpt(self.destination)),
                ]
            replies = [(step, live.settled(replied)) for step, replied in asked]
            for step, reply in replies:
                if isinstance(reply, Exception):
                    raise reply
                if reply.severity != 2:
                    raise _refused(step, reply)

    def _mail_parameters(self, client: SMTPClient) -> tuple[str, ...]:
        envelope = Envelope(self.source, [self.destination])
        if not envelope.needs_smtputf8:
            return ()
        if "SMTPUTF8" not in client.extensions:
            raise NotOffered("an address needs SMTPUTF8, which the server does not offer")
        return ("SMTPUTF8",)

    @contextlib.contextmanager
    def _using(self, method: str, mode: int) -> Iterator[_Live]:
        """The session for a method that needs it in C{mode}; whatever ends it leaves no connection behind."""
        with self._in_pymails_terms():
            if self._live is None:
                raise OutOfOrder(f"{method}: no session is open")
            if self.status != mode:
                raise OutOfOrder(f"{method}: {_OTHER_MODE[mode]}")
            try:
                yield self._live
            finally:
                if self._live.client.state is State.CLOSED:
                    self._drop()

    @contextlib.contextmanager
    def _in_pymails_terms(self) -> Iterator[None]:
        try:
            yield
        except SessionError as error:
            raise _exception_for(error) from error
        except Misuse as error:
            raise ClientException(str(error)) from error

    def _drop(self) -> None:
        if self._live and self.sockfile and self.socket:
            self._live.drop()
            self.sockfile.close()
        self._live = self.socket = self.sockfile = self.status = None


_Negotiation = Callable[[SMTPClient, str], Coroutine[Deferred[Reply], object, None]]

_OTHER_MODE = {
    COMMAND_MODE: "the content is not ended; the message is not accepted",
    DATA_MODE: "startData was not called",
}


@define(eq=False)
class _Live:
    """
    An open session.

    @ivar said: replies to lines sent by hand that were not read yet.
    @ivar verdict: the reply to the content under way.
    """

    connection: BlockingConnection
    client: SMTPClient
    guard: LoneDot = field(factory=LoneDot)
    said: list[Deferred[Reply]] = field(factory=list)
    _verdict: Deferred[Reply] | None = None
    _last_octets: bytes = b"\r\n"

    def begin(self, negotiation: Coroutine[Deferred[Reply], object, None]) -> None:
        self.connection.attach(self.client)
        self.connection.run(Deferred.fromCoroutine(negotiation))

    def run(self, replied: Deferred[Reply]) -> Reply:
        return self.connection.run(replied)

    def settled(self, replied: Deferred[Reply]) -> Reply | SessionError | OutOfOrder:
        try:
            return self.run(replied)
        except (SessionError, OutOfOrder) as error:
            return error

    def begin_content(self) -> None:
        self._verdict = self.client.content_reply()
        self.guard, self._last_octets = LoneDot(), b"\r\n"

    def send(self, octets: bytes) -> None:
        """Send a block and wait until the socket has taken nearly all of it."""
        self._heed_early_verdict()
        self.client.send_content(octets)
        self._last_octets = (self._last_octets + octets[-2:])[-2:]
        self.connection.drain(_BLOCK_OCTETS)
        self._heed_early_verdict()

    def end_content(self) -> Reply:
        self._heed_early_verdict()
        self.client.end_of_data(b"" if self._last_octets == b"\r\n" else b"\r\n")
        return self._replied()

    def say(self, line: str) -> None:
        """Send a line by hand."""
        if self.client.state is not State.CONTENT:
            self.said.append(self.client.by_hand(line))
        elif line == ".":
            self.said.append(self.client.content_reply())
            self.client.end_of_data()
        else:
            self.client.send_content(_line_of_content(line))
        self.connection.drain(0)

    def drop(self) -> None:
        """Close the connection; nobody reads what it may still say."""
        self.connection.close()
        for unread in (*self.said, self._verdict):
            if unread:
                unread.addErrback(lambda lost: None)

    def _heed_early_verdict(self) -> None:
        if self.client.state is State.CLOSED:
            raise _refused("content", self._replied())

    def _replied(self) -> Reply:
        assert self._verdict
        verdict, self._verdict = self._verdict, None
        return self.run(verdict)


def _line_of_content(line: str) -> bytes:
    if any(octet in line for octet in "\r\n\0"):
        raise BadArgument("msg", "CR, LF and NUL cannot be sent in a line")
    return line.encode("utf-8", "surrogateescape") + b"\r\n"


def _timeouts_s() -> dict[Verb, float]:
    """What the module's numbers mean for each verb; QUIT and the handshake keep shorter ones of their own."""
    shorter = {verb: min(COMMANDS[verb].timeout_s, REPLY_TIMEOUT) for verb in (Verb.QUIT, Verb.HANDSHAKE)}
    return dict.fromkeys(Verb, REPLY_TIMEOUT) | shorter | {Verb.END_OF_DATA: END_OF_DATA_TIMEOUT}


def _first_that_works(attempts: Sequence[Callable[[], None]]) -> None:
    """
    @raise ClientException, TemporaryError: that of the last attempt, of the last
        temporary one if there was any.
    """
    problems: list[ClientException | TemporaryError] = []
    for attempt in attempts:
        try:
            return attempt()
        except _NothingElseHelps:
            raise
        except (ClientException, TemporaryError) as problem:
            problems.append(problem)
    temporary = [problem for problem in problems if isinstance(problem, TemporaryError)]
    raise (temporary or problems)[-1]


def _exception_for(error: SessionError) -> ClientException | TemporaryError:
    exception = _kind_of(error)(str(error))
    exception.reply = error.reply
    return exception


def _kind_of(error: SessionError) -> type[ClientException] | type[TemporaryError]:
    if error.reply:
        refused_login = isinstance(error, Refused) and error.step == "AUTH"
        return _NothingElseHelps if refused_login and error.reply.code == _INVALID_CREDENTIALS else _kind(error.reply)
    if isinstance(error, TLSFailed) and error.unverified:
        return _NothingElseHelps
    return ClientException if isinstance(error, ProtocolViolation | NotOffered) else TemporaryError


def _kind(reply: Reply) -> type[ClientException]:
    return _TemporaryRefusal if reply.severity == 4 else ClientException


def _refused(step: str, reply: Reply) -> ClientException:
    exception = _kind(reply)(f"{step}: {reply}")
    exception.reply = reply
    return exception


def _login(credentials: tuple[str | None, str | None]) -> Credentials | None:
    user, password = credentials
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise BadArgument("credentials", "a user and a password, or neither")
    return Credentials(user, Secret(password))

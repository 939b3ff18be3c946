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

import functools
import logging
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from pymail_tx.core.address import Mailbox, ascii_domain, refuse_controls
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
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.net import opening
from pymail_tx.net.blocking import BlockingClock, BlockingConnection
from pymail_tx.net.protocol import SMTPClient
from pymail_tx.net.session import Negotiation, OpenSession

if TYPE_CHECKING:
    from pymail_tx.net.tls import ClientTLS

_P = ParamSpec("_P")
_T = TypeVar("_T")

CONNECT_TIMEOUT = 10
"""Seconds for a connection to one address of a host."""

REPLY_TIMEOUT = 300
"""Seconds for a whole reply, and for a block of content that the server does not read. Read when a session opens."""

END_OF_DATA_TIMEOUT = 600
"""Seconds for the reply to end of data (RFC 5321 §4.5.3.2.6). Read when a session opens."""

COMMAND_MODE = 1
DATA_MODE = 2


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


def _in_pymails_terms(method: Callable[Concatenate[Session, _P], _T]) -> Callable[Concatenate[Session, _P], _T]:
    """The method, raising what this module promises."""

    @functools.wraps(method)
    def call(self: Session, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except (SessionError, Misuse) as error:
            self._drop_if_over()
            raise _exception_for(error) from error

    return call


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
    @ivar socket: the connected socket; C{None} without connection. What arrives
        on it belongs to L{read}.
    """

    log = logging.getLogger(__name__)
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
        self._allow_plaintext = allow_plaintext
        self._trust_root = trust_root
        self._connect = connect
        self._session: OpenSession | None = None
        self._check()

    @_in_pymails_terms
    def _check(self) -> None:
        """
        @raise ClientException: an argument that cannot be sent.
        """
        if isinstance(self.mailHosts, str):
            raise BadArgument("mailHosts", "a list of names is wanted, not one string")
        for host in self.mailHosts:
            refuse_controls("mailHosts", host)
        ascii_domain("clientAddress", self.clientAddress)
        refuse_controls("messageId", self.messageId)
        if self.source:
            Mailbox.parse("source", self.source)
        Mailbox.parse("destination", self.destination)
        _login(self.credentials)

    # The five ways in, and start, which tries them

    @_in_pymails_terms
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
        envelope = Envelope(self.source, [self.destination])
        self._in_mode(COMMAND_MODE, "start").name_envelope(envelope)

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

    @_in_pymails_terms
    def startData(self) -> None:
        """Send DATA and switch to C{DATA_MODE}."""
        self._in_mode(COMMAND_MODE, "startData").begin_content()
        self.dataSize = 0
        self.status = DATA_MODE

    @_in_pymails_terms
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
        octets = _octets(data) if isinstance(data, str) else data
        self._in_mode(DATA_MODE, "sendData").send(octets)
        self.dataSize += len(octets)

    @_in_pymails_terms
    def endData(self) -> None:
        """
        Send the lone dot, after a CRLF that the content may lack, and switch to
        C{COMMAND_MODE}.

        @raise ClientException: the server refused the message, for now if it is
            a L{TemporaryError} as well.
        @raise TemporaryError: it did not reply; the message may have been
            accepted all the same.
        """
        session = self._in_mode(DATA_MODE, "endData")
        self.status = COMMAND_MODE
        session.end_content()

    @_in_pymails_terms
    def close(self) -> None:
        """
        Say QUIT and close the connection. No reply to QUIT is no error, since
        all was decided before. Without connection nothing happens.

        @raise ClientException: a reply other than a yes; or the content was
            begun and not ended, and is not accepted.
        """
        if self._session is None:
            return
        try:
            self._in_mode(COMMAND_MODE, "close").quit()
        finally:
            self._drop()

    # By hand

    @property
    def sockfile(self) -> socket.SocketIO | None:
        """The socket as an unbuffered file; C{None} without connection."""
        return socket.SocketIO(self.socket, "rwb") if self.socket else None

    @_in_pymails_terms
    def sendLine(self, msg: str) -> None:
        """
        Send a line and CRLF. L{read} gives the reply. Behind a DATA sent this
        way, a line of content has none, up to the one that is a lone dot.
        """
        self._in_mode(COMMAND_MODE, "sendLine").say(msg)

    @_in_pymails_terms
    def read(self) -> list[tuple[str, str]]:
        """
        Read the reply to the oldest line sent whose reply was not read yet.

        @return: (code, text) for each line of the reply.
        """
        reply = self._in_mode(COMMAND_MODE, "read").read()
        return [(str(reply.code), line) for line in reply.lines]

    # How it is done

    def _open(self, port: int, negotiate: _Negotiate, *, implicit_tls: bool = False) -> None:
        if self._session:
            raise ClientException("a session is open already; close it first")
        if not self.mailHosts:
            raise ClientException("mailHosts: no host to try")
        _first_that_works([partial(self._open_at, host, port, negotiate, implicit_tls) for host in self.mailHosts])

    @_in_pymails_terms
    def _open_at(self, host: str, port: int, negotiate: _Negotiate, implicit_tls: bool) -> None:
        creator = self._creator(host) if implicit_tls else None
        clock = BlockingClock()
        timeouts_s = _timeouts_s(REPLY_TIMEOUT, END_OF_DATA_TIMEOUT)
        client = SMTPClient(clock, host=host, implicit_tls=creator, timeouts_s=timeouts_s)
        connection = self._connected(host, port, clock)
        self._session = OpenSession.begin(connection, client, negotiate(client, host))
        self.host, self.port, self.socket, self.status = host, port, connection.socket, COMMAND_MODE
        self.log.debug("%s: session with %s port %s", self.messageId, host, port)

    def _connected(self, host: str, port: int, clock: BlockingClock) -> BlockingConnection:
        try:
            return BlockingConnection(self._connect((host, port), CONNECT_TIMEOUT), clock)
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
            await opening.authenticate_with_plain(client, credentials)

    def _in_mode(self, mode: int, method: str) -> OpenSession:
        """The session, if it is there and in the mode that the method needs."""
        if self._session is None:
            raise OutOfOrder(f"{method}: no session is open")
        if self.status != mode:
            raise OutOfOrder(f"{method}: {_OTHER_MODE[mode]}")
        return self._session

    def _drop_if_over(self) -> None:
        if self._session and self._session.is_over:
            self._drop()

    def _drop(self) -> None:
        if self._session:
            self._session.drop()
        self._session = self.socket = self.status = None


_Negotiate = Callable[[SMTPClient, str], Negotiation]

_OTHER_MODE = {
    COMMAND_MODE: "the content is not ended; the message is not accepted",
    DATA_MODE: "startData was not called",
}


@functools.lru_cache(maxsize=4)
def _timeouts_s(reply_s: float, end_of_data_s: float) -> dict[Verb, float]:
    """What the module's numbers mean for each verb; QUIT and the handshake keep shorter ones of their own."""
    shorter = {verb: min(COMMANDS[verb].timeout_s, reply_s) for verb in (Verb.QUIT, Verb.HANDSHAKE)}
    return dict.fromkeys(Verb, reply_s) | shorter | {Verb.END_OF_DATA: end_of_data_s}


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


def _exception_for(error: SessionError | Misuse) -> ClientException | TemporaryError:
    exception = _kind_of(error)(str(error))
    exception.reply = error.reply if isinstance(error, SessionError) else None
    return exception


def _kind_of(error: SessionError | Misuse) -> type[ClientException] | type[TemporaryError]:
    match error:
        case Refused(step="AUTH", reply=Reply(code=535)) | TLSFailed(unverified=True):
            return _NothingElseHelps
        case SessionError(reply=Reply(severity=4)):
            return _TemporaryRefusal
        case SessionError(reply=Reply()) | ProtocolViolation() | NotOffered() | Misuse():
            return ClientException
        case _:
            return TemporaryError


def _octets(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as problem:
        raise BadArgument("data", str(problem)) from None


def _login(credentials: tuple[str | None, str | None]) -> Credentials | None:
    user, password = credentials
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise BadArgument("credentials", "a user and a password, or neither")
    return Credentials(user, Secret(password))

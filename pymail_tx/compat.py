"""
The names of twisted.mail.smtp for applications that send through it today:
L{sendmail}, L{SMTPSenderFactory} and L{ESMTPSenderFactory}.

An application changes its import and nothing else. It keeps

  - the signatures, in their order,
  - what the Deferred fires with: the number of recipients that the message was
    delivered to, and C{(address, code, response)} for each,
  - the exceptions, which are twisted.mail.smtp's own and can be imported from
    here as well,
  - the ways to connect: connectTCP, connectSSL, endpoints, TLSMemoryBIOFactory.

The session itself is L{SMTPClient}'s. What differs from twisted.mail is told in
docs/howto/from-twisted-mail.md; the rules of this house:

  1. A host that is named is a host that is verified. Whatever the application's
     own context factory accepts, is accepted.
  2. Credentials cross plain text only to this machine itself, or where the
     application said C{requireTransportSecurity=False} to a factory whose
     default is C{True}.
  3. A message that may have been delivered is not sent again. Otherwise a
     session that ended early is tried again as often as C{retries} says.
  4. Once there is a connection the Deferred fires, whoever made it and however
     it ends.

twisted.mail.smtp is imported when an exception or the default reactor is
needed, not before.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from email.utils import getaddresses
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import NotConnectingError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IOpenSSLClientConnectionCreator,
    IReactorTCP,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from pymail_tx.core.address import Mailbox
from pymail_tx.core.command import Verb
from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.errors import ProtocolViolation, Refused, ReplyTimeout, SessionError, TLSFailed
from pymail_tx.core.outcome import Outcome, Report, Status, TLSFacts
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import State
from pymail_tx.net import opening
from pymail_tx.net.protocol import SMTPClient
from pymail_tx.net.tls import ClientTLS

if TYPE_CHECKING:
    from twisted.mail.smtp import Address, SMTPClientError, User

__all__ = ["ESMTPSenderFactory", "SMTPSenderFactory", "sendmail"]

_EXCEPTIONS = frozenset(
    {
        "AUTHDeclinedError", "AUTHRequiredError", "AddressError", "AuthenticationError", "EHLORequiredError",
        "ESMTPClientError", "SMTPClientError", "SMTPConnectError", "SMTPDeliveryError", "SMTPError",
        "SMTPProtocolError", "SMTPTimeoutError", "TLSError", "TLSRequiredError",
    }
)  # fmt: skip

_OF_STEP = {
    "greeting": "SMTPConnectError",
    "EHLO": "EHLORequiredError",
    "STARTTLS": "TLSError",
    "AUTH": "AUTHDeclinedError",
}
"""The exception for a refusal, by the step that was refused."""

_OF_END: dict[type[SessionError], str] = {ReplyTimeout: "SMTPTimeoutError", ProtocolViolation: "SMTPProtocolError"}
"""The exception for a session that ended early; any other end is an C{SMTPConnectError}."""

_NO_CODE = -1
"""twisted.mail's code where the server gave none."""

_OWN_CODES = {Status.DEFERRED: 450, Status.FAILED: 550}
"""The code of an outcome that no reply decided (RFC 5321 §4.2.3)."""

_NOT_ALLOWED = 553
"""Mailbox name not allowed (RFC 5321 §4.2.3): an address that cannot go out on the wire."""

_NO_RECIPIENTS = 554
_NOBODY = b"No recipients accepted"

_SAYS_QUIT = frozenset({State.READY, State.CONNECTED, State.TURNED_AWAY})

Text: TypeAlias = str | bytes
Path: TypeAlias = "str | bytes | Address | User"
Paths: TypeAlias = "Path | Iterable[Path]"

Results = list[tuple[bytes, int, bytes]]
Sent = tuple[int, Results]
"""What the Deferred fires with: how many recipients, and C{(address, code, response)} for each."""

_Result = TypeVar("_Result")


class File(Protocol):
    """What holds a message; read once, when a connection is there."""

    def read(self) -> Text: ...


class _Contexts(Protocol):
    """Context factories of the older kind, such as C{twisted.internet.ssl.ClientContextFactory}."""

    def getContext(self) -> SSL.Context: ...


def __getattr__(name: str) -> type[Exception]:
    if name not in _EXCEPTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _exception(name)


class SMTPSenderFactory(ClientFactory):
    """
    Sends one message over the connection that it is given to, without TLS of
    its own and without credentials.

    @ivar domain: our name for EHLO, by default this machine's.
    @ivar sendFinished: whether C{result} has fired.
    @ivar currentProtocol: the session under way, or C{None}.
    """

    noisy = False
    domain: Text = ""

    _log = Logger()

    def __init__(  # noqa: PLR0913  # twisted.mail's signature
        self,
        fromEmail: Path,
        toEmail: Paths,
        file: File,
        deferred: Deferred[Sent],
        retries: int = 5,
        timeout: float | None = None,
        *,
        clock: IReactorTime | None = None,
    ) -> None:
        """
        @param fromEmail: the reverse-path, empty for the null one. Without a
            domain it gets this machine's, as recipients do.
        @param toEmail: one recipient or several.
        @param file: holds the message, lines ending in LF or CRLF.
        @param deferred: fires with L{Sent} when the message is delivered to
            anybody, and fails with a C{twisted.mail.smtp.SMTPClientError} when
            to nobody. Cancelled, it closes the connection or gives up making
            one.
        @param retries: how often to connect again after a session that ended
            early or was refused for now. It takes a connector: connections
            that an endpoint makes are not made again.
        @param timeout: in seconds, how long a reply, or a stalled write of the
            content, may take; by default as long as RFC 5321 §4.5.3.2 says.
        @param clock: keeps the deadlines; by default twisted.mail's reactor.
        @raise AddressError: C{fromEmail} cannot go out on the wire. It is
            twisted.mail.smtp's.
        """
        self.fromEmail = _sender(fromEmail)
        self.toEmail = [_as_given(path) for path in _listed(toEmail)]
        self.file = file
        self.result = deferred
        self.timeout = timeout
        self.sendFinished = False
        self.currentProtocol: SMTPClient | None = None
        self._clock = clock
        self._envelope, self._refused = _envelope(self.fromEmail, self.toEmail)
        self._content: bytes | None = None
        self._retries_left = retries
        self._connector: IConnector | None = None
        self._attempt: Deferred[Sent] | None = None
        deferred.addBoth(self._finish)

    # What connectors and endpoints call

    def startedConnecting(self, connector: IConnector) -> None:
        """See L{ClientFactory}."""
        self._connector = connector

    def buildProtocol(self, addr: IAddress | None) -> SMTPClient | None:
        """See L{ClientFactory}. Nothing is built once C{result} has fired."""
        if self.sendFinished:
            return None
        client = self.currentProtocol = SMTPClient(
            self._clock or cast(IReactorTime, _twisted_mail("reactor")),
            timeouts_s={} if self.timeout is None else {verb: self.timeout for verb in Verb if verb is not Verb.QUIT},
        )
        client.factory = self
        self._attempt = Deferred.fromCoroutine(self._send(client))
        self._attempt.addCallbacks(self._sent, self._fail_or_retry)
        return client

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """See L{ClientFactory}."""
        problem = f"Unable to connect to SMTP server: {reason.getErrorMessage()}"
        error = _error("SMTPConnectError", _NO_CODE, problem.encode())
        error.__cause__ = reason.value
        self._fail_or_retry(Failure(error))
        self._connect_again()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """See L{ClientFactory}."""
        self.currentProtocol = None
        self._connect_again()

    # One attempt

    async def _send(self, client: SMTPClient) -> Sent:
        try:
            await client.greeting()
            if self._envelope is None:
                raise _delivery_error(_results(self.toEmail, self._refused, ()))
            await self._open(client)
            report = await client.send(self._envelope, self._read())
            return self._judged(report, client.ended_by)
        except SessionError as error:
            raise _translated(error) from error
        finally:
            _leave(client)

    async def _open(self, client: SMTPClient) -> None:
        await opening.greet(client, self._name(), helo=True)

    def _name(self) -> str:
        return _text(self.domain) or _own_name()

    def _read(self) -> bytes:
        """The content, kept for the next attempt, since the file need not be one that can be read twice."""
        if self._content is None:
            self._content = _octets(self.file.read())
        return self._content

    def _judged(self, report: Report, ended_by: SessionError | None) -> Sent:
        results = _results(self.toEmail, self._refused, report.outcomes)
        delivered = sum(outcome.status is Status.DELIVERED for outcome in report.outcomes)
        if delivered:
            return delivered, results
        if ended_by and any(_is_undecided(outcome) for outcome in report.outcomes):
            raise _translated(ended_by, uncertain=any(outcome.uncertain for outcome in report.outcomes))
        raise _delivery_error(results)

    # How it ends

    def _sent(self, sent: Sent) -> None:
        self._attempt = None
        self.result.callback(sent)

    def _fail_or_retry(self, failure: Failure) -> None:
        """Fail, or leave it to the connection's end to begin again."""
        self._attempt = None
        if self.sendFinished or (self._connector and self._retries_left > 0 and _may_pass(failure)):
            return
        self.result.errback(failure)

    def _connect_again(self) -> None:
        if not self.sendFinished and self._connector:
            self._log.info("connecting again; times left: {retries_left}", retries_left=self._retries_left)
            self._retries_left -= 1
            self._connector.connect()

    def _finish(self, result: _Result) -> _Result:
        """C{result} has fired: of itself, or because its owner cancelled it."""
        self.sendFinished, self.currentProtocol = True, None
        if self._attempt:
            self._attempt.cancel()
        elif self._connector:
            with contextlib.suppress(NotConnectingError):
                self._connector.stopConnecting()
        return result


class ESMTPSenderFactory(SMTPSenderFactory):
    """
    Sends one message over the connection that it is given to, with STARTTLS and
    credentials as far as asked.
    """

    _trusts_plain_text = True

    def __init__(  # noqa: PLR0913  # twisted.mail's signature
        self,
        username: Text | None,
        password: Text | None,
        fromEmail: Path,
        toEmail: Paths,
        file: File,
        deferred: Deferred[Sent],
        retries: int = 5,
        timeout: float | None = None,
        contextFactory: IOpenSSLClientConnectionCreator | _Contexts | None = None,
        heloFallback: bool = False,
        requireAuthentication: bool = True,
        requireTransportSecurity: bool = True,
        hostname: Text | None = None,
        *,
        clock: IReactorTime | None = None,
    ) -> None:
        """
        STARTTLS is used where the server offers it, if C{contextFactory} or
        C{hostname} is given. What is not told here is L{SMTPSenderFactory}'s.

        @param username: the credentials, used where the server offers AUTH.
        @param password: see C{username}.
        @param contextFactory: makes the TLS of STARTTLS, and decides which
            certificate will do.
        @param heloFallback: whether HELO will do for a server that knows no
            EHLO, where neither authentication nor STARTTLS is required.
        @param requireAuthentication: whether to fail where AUTH is not offered.
        @param requireTransportSecurity: whether to fail without TLS. A
            connection that comes with TLS has it.
        @param hostname: whose certificate STARTTLS must show, if there is no
            C{contextFactory}.
        @raise BadArgument: NUL stands in the credentials (RFC 4616 §2).
        @raise UnicodeDecodeError: they are octets and not UTF-8.
        """
        super().__init__(fromEmail, toEmail, file, deferred, retries, timeout, clock=clock)
        self._credentials = Credentials(_text(username), Secret(_text(password))) if username and password else None
        self._context_factory = contextFactory
        self._hostname = _text(hostname) if hostname else None
        self._may_say_helo = heloFallback
        self._must_authenticate = bool(requireAuthentication)
        self._must_secure = bool(requireTransportSecurity)

    async def _open(self, client: SMTPClient) -> None:
        is_secure = ISSLTransport.providedBy(client.transport)
        must_secure = self._must_secure and not is_secure
        helo = self._may_say_helo and not self._must_authenticate and not must_secure
        await opening.greet(client, self._name(), helo=helo)
        if not is_secure:
            is_secure = await self._secure(client)
        await self._authenticate(client, is_secure=is_secure)

    async def _secure(self, client: SMTPClient) -> bool:
        """@return: whether the session is under TLS now."""
        creator = self._creator()
        if creator and "STARTTLS" in client.extensions:
            await opening.secure(client, self._name(), creator)
            return True
        if self._must_secure and creator is None:
            raise _error("TLSRequiredError", 502, b"TLS is required, but neither hostname nor contextFactory is given")
        if self._must_secure:
            raise _error("TLSRequiredError", 502, b"Server does not support secure communication via TLS / SSL")
        return False

    def _creator(self) -> ClientTLS | None:
        if self._context_factory is not None:
            return _ApplicationTLS(self._context_factory)
        return ClientTLS(self._hostname, must_verify=True) if self._hostname else None

    async def _authenticate(self, client: SMTPClient, *, is_secure: bool) -> None:
        if self._credentials and "PLAIN" in client.extensions.auth_mechanisms:
            if not (is_secure or self._trusts_plain_text or _is_this_machine(client)):
                raise _error("TLSRequiredError", 502, b"Credentials are not sent without TLS to another machine")
            reply = await client.authenticate(self._credentials)
            if reply.severity != 2:
                raise Refused("AUTH", reply)
        elif self._must_authenticate:
            raise _error("AUTHRequiredError", 502, b"Server does not support Client Authentication schemes [PLAIN]")


class _MailFactory(ESMTPSenderFactory):
    """L{sendmail}'s: there C{requireTransportSecurity=False} is the default, so nobody has asked for plain text."""

    _trusts_plain_text = False


def sendmail(  # noqa: PLR0913  # twisted.mail's signature
    smtphost: Text,
    from_addr: Path,
    to_addrs: Paths,
    msg: File | Message | Text,
    senderDomainName: Text | None = None,
    port: int = 25,
    reactor: IReactorTCP | None = None,
    username: Text | None = None,
    password: Text | None = None,
    requireAuthentication: bool = False,
    requireTransportSecurity: bool = False,
) -> Deferred[Sent]:
    """
    Send a message to a host, with STARTTLS where it is offered and credentials
    if given; see L{ESMTPSenderFactory}.

    @param smtphost: its certificate must verify for this name, if it offers
        STARTTLS.
    @param msg: a file, the message itself, or a C{email.message.Message},
        whose Bcc header is left out.
    @param senderDomainName: our name for EHLO, by default this machine's.
    @param reactor: by default twisted.mail's.
    @return: see C{deferred} of L{SMTPSenderFactory}; connects up to six times.
        Cancelled, it closes the connection or gives up making one.
    """
    used = reactor or IReactorTCP(_twisted_mail("reactor"))
    sent: Deferred[Sent] = Deferred()
    factory = _MailFactory(
        username, password, from_addr, to_addrs, cast(File, msg) if hasattr(msg, "read") else _Held(msg), sent,
        heloFallback=True, requireAuthentication=requireAuthentication,
        requireTransportSecurity=requireTransportSecurity, hostname=smtphost, clock=IReactorTime(used, None),
    )  # fmt: skip
    factory.domain = senderDomainName or ""
    used.connectTCP(_text(smtphost), port, factory)
    return sent


@frozen
class _Held:
    """A message in memory, as a file."""

    message: Message | Text

    def read(self) -> Text:
        if not isinstance(self.message, Message):
            return self.message
        public = copy.copy(self.message)
        del public["Bcc"]
        return bytes(public)


class _ApplicationTLS(ClientTLS):
    """The TLS of one connection as the application's own context factory makes and judges it."""

    def __init__(self, factory: IOpenSSLClientConnectionCreator | _Contexts) -> None:
        self.problem = ""
        self._factory = factory

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See L{IOpenSSLClientConnectionCreator}."""
        if IOpenSSLClientConnectionCreator.providedBy(self._factory):
            return self._factory.clientConnectionForTLS(tlsProtocol)
        return SSL.Connection(self._factory.getContext(), None)

    def facts(self, connection: SSL.Connection) -> TLSFacts:
        """See L{ClientTLS}."""
        return TLSFacts(
            version=connection.get_protocol_version_name(), cipher=connection.get_cipher_name() or "",
            verified=False, problem="judged by the application",
        )  # fmt: skip

    def failure(self, reason: Failure) -> TLSFailed:
        """See L{ClientTLS}."""
        return TLSFailed(f"TLS handshake: {reason.getErrorMessage()}")


def _leave(client: SMTPClient) -> None:
    """Say good-bye in the background; the protocol gives it 5 s."""
    if client.state in _SAYS_QUIT:
        client.quit().addErrback(lambda failure: failure.trap(SessionError) and None)
    elif client.state is not State.CLOSED:
        client.abort()


def _is_this_machine(client: SMTPClient) -> bool:
    host = client.peer().host
    return host is None or ipaddress.ip_address(host).is_loopback  # a UNIX socket's address has no host


# Results and exceptions in twisted.mail's terms


def _results(given: Sequence[bytes], refused: Mapping[int, str], outcomes: Sequence[Outcome]) -> Results:
    """One for each recipient, by the reply that decided about it."""
    told = iter(outcomes)
    return [
        (address, _NOT_ALLOWED, refused[index].encode()) if index in refused else (address, *_answer(next(told)))
        for index, address in enumerate(given)
    ]


def _answer(outcome: Outcome) -> tuple[int, bytes]:
    if outcome.reply is None:
        return _OWN_CODES[outcome.status], outcome.reason.encode()
    return outcome.reply.code, "\n".join(outcome.reply.lines).encode()


def _is_undecided(outcome: Outcome) -> bool:
    return outcome.status is Status.DEFERRED and outcome.reply is None


def _delivery_error(results: Results) -> SMTPClientError:
    """For a message that was delivered to nobody."""
    answers = {(code, response) for _, code, response in results}
    code, response = answers.pop() if len(answers) == 1 else (results[-1][1] if results else _NO_RECIPIENTS, _NOBODY)
    log = b"\n".join(b"%b: %03d %b" % each for each in results)
    return _error("SMTPDeliveryError", code, response, log=log, addresses=results)


def _translated(error: SessionError, *, uncertain: bool = False) -> SMTPClientError:
    """For a session that ended before its work was done."""
    if isinstance(error, Refused):
        name = _OF_STEP[error.step]
    else:
        name = next((name for kind, name in _OF_END.items() if isinstance(error, kind)), "SMTPConnectError")
    code, words = (error.reply.code, "\n".join(error.reply.lines)) if error.reply else (_NO_CODE, str(error))
    if uncertain:
        words += "; it may have been delivered"
    translated = _error(name, code, words.encode(), retry=not uncertain and _is_passing(error))
    translated.__cause__ = error
    return translated


def _is_passing(error: SessionError) -> bool:
    """Whether another session may fare better."""
    if error.reply:
        return error.reply.severity == 4
    return not (isinstance(error, ProtocolViolation) or (isinstance(error, TLSFailed) and error.unverified))


def _may_pass(failure: Failure) -> bool:
    return bool(getattr(failure.value, "retry", False))


def _error(name: str, code: int, response: bytes, **more: object) -> SMTPClientError:
    return cast("SMTPClientError", _exception(name)(code, response, **more))


def _exception(name: str) -> type[Exception]:
    return cast(type[Exception], _twisted_mail(name))


def _twisted_mail(name: str) -> object:
    from twisted.mail import smtp  # takes the reactor in, which whoever only imports us may not have chosen yet

    return getattr(smtp, name)


# Arguments in our terms


def _sender(path: Path) -> str:
    """
    @raise AddressError: it cannot be sent.
    """
    try:
        address = _mailbox(_text(path))
        if address:
            Mailbox.parse("fromEmail", address)
    except ValueError as problem:
        raise _exception("AddressError")(str(problem)) from None
    return address


def _envelope(sender: str, recipients: Sequence[bytes]) -> tuple[Envelope | None, dict[int, str]]:
    """
    @return: the envelope, C{None} without recipients that can be sent to, and by the recipient's index why it cannot.
    """
    accepted, refused = [], {}
    for index, address in enumerate(recipients):
        try:
            accepted.append(Recipient(_mailbox(address.decode())))
        except ValueError as problem:
            refused[index] = f"5.1.3 {problem}"
    return (Envelope(sender, accepted) if accepted else None), refused


def _mailbox(address: str) -> str:
    """The mailbox of an address that may stand in angle brackets, behind a display name, or without a domain."""
    if address == "<>":
        return ""
    if address.endswith(">"):
        found = getaddresses([address])
        address = found[0][1] if len(found) == 1 and found[0][1] else address
    if not address or "@" in address or address.lower() == "postmaster":
        return address
    return f"{address}@{_own_name()}"


@functools.cache
def _own_name() -> str:
    """This machine's name. Asked once, since finding it may ask the resolver; twisted.mail does so when imported."""
    return socket.getfqdn()


def _listed(paths: Paths) -> list[Path]:
    return [paths] if isinstance(paths, str | bytes) or not isinstance(paths, Iterable) else list(paths)


def _text(value: Path) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _as_given(path: Path) -> bytes:
    """What stands for a recipient in the results. A lone surrogate has no octets, and makes no mailbox either way."""
    return path if isinstance(path, bytes) else str(path).encode(errors="backslashreplace")


def _octets(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()

"""
twisted.mail's names against a real Postfix, over every kind of connection that
applications make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorFDSet, IReactorSSL, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.tcp import Client
from twisted.mail import smtp
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from pymail_tx.compat import ESMTPSenderFactory, Sent, SMTPSenderFactory, sendmail
from tests import peers
from tests.peers.postfix import Postfix

MESSAGE = b"Subject: Hello\n\n.It works.\n"


@contextmanager
def trusting(ca_file: str) -> Iterator[None]:
    """OpenSSL's default store is that file."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = ca_file
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


class Case(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.postfix = Postfix.start(self)
        context = trusting(str(self.postfix.ca_file))
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        self.sent: Deferred[Sent] = Deferred()
        self.addCleanup(lambda: Deferred.fromCoroutine(self._good_byes()))

    async def _good_byes(self) -> None:
        """Who sent hears before QUIT is answered, as with twisted.mail; the connection ends within QUIT's 5 s."""
        while any(isinstance(reader, Client) for reader in IReactorFDSet(reactor).getReaders()):
            await deferLater(IReactorTime(reactor), 0.01)

    def plain(self) -> SMTPSenderFactory:
        return SMTPSenderFactory("ann@example.net", "bob@example.org", BytesIO(MESSAGE), self.sent, timeout=20)

    def extended(
        self, hostname: str | None = None, context: IOpenSSLClientConnectionCreator | None = None, *, tls: bool = True,
        auth: bool = False, password: str | None = None,
    ) -> ESMTPSenderFactory:  # fmt: skip
        return ESMTPSenderFactory(
            self.postfix.user, password or self.postfix.password, "ann@example.net", ["bob@example.org"],
            BytesIO(MESSAGE), self.sent, 1, 20, contextFactory=context, requireAuthentication=auth,
            requireTransportSecurity=tls, hostname=hostname,
        )  # fmt: skip

    async def delivered(self, sent: Deferred[Sent], *, tls: bool = True) -> None:
        count, ((address, code, response),) = await sent
        self.assertEqual((count, address, code, response[:6]), (1, b"bob@example.org", 250, b"2.0.0 "))
        (message,) = self.postfix.await_messages(1)
        self.assertTrue(message.endswith(b"\n\n.It works.\n"), message)
        self.assertEqual(b"using TLS" in message, tls)

    async def failed(self, kind: type[smtp.SMTPClientError], sent: Deferred[Sent]) -> smtp.SMTPClientError:
        try:
            await sent
        except smtp.SMTPClientError as error:
            self.assertIs(type(error), kind)
            return error
        raise AssertionError("it was sent")


class Connections(Case):
    async def test_connect_tcp_in_plain_text(self) -> None:
        reactor.connectTCP("127.0.0.1", self.postfix.port, self.plain())
        await self.delivered(self.sent, tls=False)

    async def test_connect_tcp_with_starttls(self) -> None:
        reactor.connectTCP("127.0.0.1", self.postfix.starttls_port, self.extended("localhost"))
        await self.delivered(self.sent)

    async def test_connect_ssl(self) -> None:
        IReactorSSL(reactor).connectSSL(
            "127.0.0.1", self.postfix.tls_port, self.extended(), ssl.ClientContextFactory(), 30, None
        )
        await self.delivered(self.sent)

    async def test_an_endpoint(self) -> None:
        endpoint = HostnameEndpoint(reactor, "localhost", self.postfix.port)
        await endpoint.connect(self.extended(tls=False))
        await self.delivered(self.sent, tls=False)

    async def test_an_endpoint_wrapped_in_tls(self) -> None:
        endpoint = HostnameEndpoint(reactor, "localhost", self.postfix.tls_port)
        await wrapClientTLS(ssl.optionsForClientTLS("localhost"), endpoint).connect(self.extended())
        await self.delivered(self.sent)

    async def test_a_factory_wrapped_in_tls(self) -> None:
        factory = TLSMemoryBIOFactory(ssl.optionsForClientTLS("localhost"), True, self.extended())
        await HostnameEndpoint(reactor, "localhost", self.postfix.tls_port).connect(factory)
        await self.delivered(self.sent)

    async def test_a_handshake_that_breaks_behind_an_endpoint_is_told(self) -> None:
        factory = TLSMemoryBIOFactory(ssl.optionsForClientTLS("elsewhere.example"), True, self.extended())
        await HostnameEndpoint(reactor, "localhost", self.postfix.tls_port).connect(factory)
        await self.failed(smtp.SMTPConnectError, self.sent)


class StartTLS(Case):
    async def test_a_certificate_for_another_name_is_refused_once(self) -> None:
        reactor.connectTCP("127.0.0.1", self.postfix.starttls_port, self.extended("elsewhere.example"))
        error = await self.failed(smtp.SMTPConnectError, self.sent)
        self.assertIn(b"certificate is not for elsewhere.example", error.resp)
        broken = peers.eventually("the broken handshake", lambda: self.postfix.log.count("SSL_accept error"))
        self.assertEqual(broken, 1)

    async def test_the_applications_own_context_decides(self) -> None:
        reactor.connectTCP(
            "127.0.0.1", self.postfix.starttls_port, self.extended("elsewhere.example", ssl.CertificateOptions())
        )
        await self.delivered(self.sent)

    async def test_the_applications_own_context_can_refuse(self) -> None:
        context = ssl.optionsForClientTLS("elsewhere.example")
        reactor.connectTCP("127.0.0.1", self.postfix.starttls_port, self.extended(context=context))
        await self.failed(smtp.SMTPConnectError, self.sent)
        self.assertEqual(self.postfix.messages(), [])


class Authentication(Case):
    async def test_credentials_are_used(self) -> None:
        reactor.connectTCP("127.0.0.1", self.postfix.auth_port, self.extended("localhost", auth=True))
        await self.delivered(self.sent)
        self.assertIn(f"sasl_username={self.postfix.user}", self.postfix.log)

    async def test_a_wrong_password_is_declined(self) -> None:
        factory = self.extended("localhost", auth=True, password="wrong")
        reactor.connectTCP("127.0.0.1", self.postfix.auth_port, factory)
        self.assertEqual((await self.failed(smtp.AUTHDeclinedError, self.sent)).code, 535)


class SendMail(Case):
    async def test_it_uses_tls_and_credentials_where_they_are_offered(self) -> None:
        sent = sendmail(
            "localhost", "ann@example.net", ["bob@example.org"], MESSAGE, port=self.postfix.auth_port,
            username=self.postfix.user, password=self.postfix.password,
        )  # fmt: skip
        await self.delivered(sent)
        self.assertIn(f"sasl_username={self.postfix.user}", self.postfix.log)

    async def test_each_recipient_has_its_reply(self) -> None:
        to = ["eve@elsewhere.example", "bob@example.org"]
        sent = sendmail("127.0.0.1", "ann@example.net", to, MESSAGE, port=self.postfix.port)
        count, results = await sent
        self.assertEqual((count, [code for _, code, _ in results]), (1, [554, 250]))

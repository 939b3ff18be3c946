"""
twisted.mail's names keep what applications rely on: what fires, what fails,
what is tried again. The reactor is a memory, the server a script.
"""

from __future__ import annotations

import subprocess
import sys
from email.message import EmailMessage, Message
from io import BytesIO

from attrs import define
from hypothesis import given
from hypothesis.strategies import binary, emails, lists, one_of, text
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, NotConnectingError, TCPTimedOutError
from twisted.internet.interfaces import IAddress, IConnector, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.mail import smtp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer

from pymail_tx import compat
from pymail_tx.compat import ESMTPSenderFactory, SMTPSenderFactory, sendmail
from pymail_tx.net.protocol import SMTPClient

ELSEWHERE = IPv4Address("TCP", "192.0.2.25", 25)
MESSAGE = b"Subject: Hello\n\n.It works.\n"
ON_THE_WIRE = "Subject: Hello\r\n\r\n..It works.\r\n.\r\n"
OPENS = ["220 mx.example ESMTP", "250 mx.example"]
TAKES = ["250 2.1.0 ok", "250 2.1.5 ok", "354 go on", "250 2.0.0 queued as 4711"]


_ADDRESSES = one_of(
    text('ab@.<>"\\ ,:;[]()\r\n\0é\udcff', max_size=20), text(max_size=20), binary(max_size=20), emails()
)


@implementer(IConnector)
@define
class Connector:
    """Twisted's, without the network."""

    factory: SMTPSenderFactory
    state: str = "connecting"
    attempts: int = 1

    def connect(self) -> None:
        assert self.state == "disconnected"
        self.state = "connecting"
        self.attempts += 1
        self.factory.startedConnecting(self)

    def fails(self) -> None:
        self.state = "disconnected"
        self.factory.clientConnectionFailed(self, Failure(TCPTimedOutError()))

    def stopConnecting(self) -> None:
        if self.state != "connecting":
            raise NotConnectingError
        self.fails()

    def disconnect(self) -> None: ...

    def getDestination(self) -> IAddress:
        return ELSEWHERE


class Wire(StringTransport):
    """Under TLS it is a TCP transport as well."""

    def setTcpNoDelay(self, enabled: bool) -> None: ...


class Case(SynchronousTestCase):
    """
    One sending.

    @ivar connector: C{None} for a connection that an endpoint makes.
    """

    factory: SMTPSenderFactory

    def setUp(self) -> None:
        self.clock = Clock()
        self.fired: Deferred[compat.Sent] = Deferred()
        self.connector: Connector | None = None

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def plain(self, *recipients: str, retries: int = 0, timeout: float | None = None) -> None:
        """Begin with a factory for plain SMTP."""
        to = list(recipients) or ["bob@example.org"]
        self.begin(
            SMTPSenderFactory("ann@example.net", to, BytesIO(MESSAGE), self.fired, retries, timeout, clock=self.clock)
        )

    def extended(
        self, user: str | None = "ann", password: str | None = "tiger", *, tls: bool = False, auth: bool = True,
        helo: bool = False, hostname: str | None = None, retries: int = 0,
    ) -> None:  # fmt: skip
        """Begin with a factory for ESMTP."""
        factory = ESMTPSenderFactory(
            user, password, "ann@example.net", "bob@example.org", BytesIO(MESSAGE), self.fired, retries,
            heloFallback=helo, requireAuthentication=auth, requireTransportSecurity=tls, hostname=hostname,
            clock=self.clock,
        )  # fmt: skip
        self.begin(factory)

    def begin(self, factory: SMTPSenderFactory) -> None:
        self.factory = factory
        factory.domain = b"client.example.net"
        self.connector = Connector(factory)
        factory.startedConnecting(self.connector)

    def connects(self, peer: IAddress = ELSEWHERE, *, tls: bool = False) -> None:
        self.wire = Wire(peerAddress=peer)
        if tls:
            alsoProvides(self.wire, ISSLTransport)
        client = self.factory.buildProtocol(peer)
        assert client
        self.client: SMTPClient = client
        if self.connector:
            self.connector.state = "connected"
        client.makeConnection(self.wire)

    def says(self, *replies: str) -> None:
        for reply in replies:
            self.client.dataReceived(f"{reply}\r\n".encode())

    def loses(self) -> None:
        """The connection ends, as Twisted tells it: the protocol first, then the factory."""
        reason = Failure(ConnectionDone())
        self.client.connectionLost(reason)
        if self.connector:
            self.connector.state = "disconnected"
            self.factory.clientConnectionLost(self.connector, reason)

    def wrote(self) -> str:
        written: bytes = self.wire.value()
        self.wire.clear()
        return written.decode()

    def failed(self, kind: type[smtp.SMTPClientError]) -> smtp.SMTPClientError:
        error = self.failureResultOf(self.fired).value
        self.assertIs(type(error), kind)
        assert isinstance(error, smtp.SMTPClientError)
        return error


class Sending(Case):
    def test_it_fires_with_the_count_and_the_reply_that_decided_about_each_recipient(self) -> None:
        self.plain("bob@example.org", "eve@example.org")
        self.connects()
        self.says(*OPENS, "250 ok", "250 ok", "550 5.1.1 no such user", "354 go on", "250 2.0.0 queued as 4711")
        expected = [
            (b"bob@example.org", 250, b"2.0.0 queued as 4711"),
            (b"eve@example.org", 550, b"5.1.1 no such user"),
        ]
        self.assertEqual(self.successResultOf(self.fired), (1, expected))
        self.loses()

    def test_a_message_goes_out_as_smtp_wants_it(self) -> None:
        self.plain()
        self.connects()
        self.says(*OPENS, *TAKES)
        self.assertEqual(
            self.wrote(),
            "EHLO client.example.net\r\nMAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n"
            f"{ON_THE_WIRE}QUIT\r\n",
        )
        self.loses()

    def test_a_server_that_knows_no_ehlo_gets_helo(self) -> None:
        self.plain()
        self.connects()
        self.says("220 mx.example", "502 what?", "250 mx.example", *TAKES)
        self.assertIn("HELO client.example.net\r\n", self.wrote())
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.loses()

    def test_an_address_that_cannot_be_sent_to_is_refused_here_and_harms_nobody_else(self) -> None:
        self.plain("eve@example.org>\r\nDATA", "bob@example.org")
        self.connects()
        self.says(*OPENS, *TAKES)
        sent, results = self.successResultOf(self.fired)
        self.assertEqual((sent, [(address, code) for address, code, _ in results]), (1, [
            (b"eve@example.org>\r\nDATA", 553), (b"bob@example.org", 250),
        ]))  # fmt: skip
        self.assertEqual(self.wrote().count("RCPT"), 1)
        self.loses()

    def test_nobody_to_send_to_fails_without_a_command_but_quit(self) -> None:
        self.plain("no address, this")
        self.connects()
        self.says(OPENS[0])
        error = self.failed(smtp.SMTPDeliveryError)
        self.assertEqual((error.code, error.resp[:6]), (553, b"5.1.3 "))
        self.assertEqual(self.wrote(), "QUIT\r\n")
        self.loses()

    def test_an_empty_list_of_recipients_fails(self) -> None:
        self.begin(SMTPSenderFactory("ann@example.net", [], BytesIO(MESSAGE), self.fired, 0, clock=self.clock))
        self.connects()
        self.says(OPENS[0])
        self.assertEqual(self.failed(smtp.SMTPDeliveryError).code, 554)
        self.loses()

    def test_the_factory_tells_that_it_has_finished(self) -> None:
        self.plain()
        self.connects()
        self.assertEqual((self.factory.sendFinished, self.factory.currentProtocol), (False, self.client))
        self.says(*OPENS, *TAKES)
        self.assertEqual((self.factory.sendFinished, self.factory.currentProtocol), (True, None))
        self.assertIsNone(self.factory.buildProtocol(None))
        self.loses()


class Addresses(Case):
    def envelope(self, sender: compat.Path, recipients: compat.Paths) -> list[str]:
        """What MAIL and RCPT say."""
        self.begin(SMTPSenderFactory(sender, recipients, BytesIO(MESSAGE), self.fired, 0, clock=self.clock))
        self.connects()
        self.says("220 mx.example", "250-mx.example", "250 PIPELINING")
        paths = [line for line in self.wrote().splitlines() if line.startswith(("MAIL", "RCPT"))]
        self.loses()
        self.failureResultOf(self.fired, smtp.SMTPConnectError, smtp.SMTPDeliveryError)
        return paths

    def test_text_octets_and_address_objects_are_taken(self) -> None:
        self.assertEqual(
            self.envelope(smtp.Address("ann@example.net"), [b"bob@example.org", smtp.Address("eve@example.org")]),
            ["MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>", "RCPT TO:<eve@example.org>"],
        )

    def test_one_recipient_need_not_be_in_a_list(self) -> None:
        self.assertEqual(self.envelope("", "bob@example.org"), ["MAIL FROM:<>", "RCPT TO:<bob@example.org>"])
        self.fired = Deferred()
        self.assertEqual(self.envelope("<>", b"bob@example.org"), ["MAIL FROM:<>", "RCPT TO:<bob@example.org>"])

    def test_display_names_and_angle_brackets_stay_at_home(self) -> None:
        self.assertEqual(
            self.envelope("<ann@example.net>", ['"Bob, the builder" <bob@example.org>']),
            ["MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>"],
        )

    def test_an_address_without_a_domain_gets_this_machines_name(self) -> None:
        name = smtp.DNSNAME.decode()
        self.assertEqual(
            self.envelope("cron", ["root", "postmaster"]),
            [f"MAIL FROM:<cron@{name}>", f"RCPT TO:<root@{name}>", "RCPT TO:<postmaster>"],
        )

    def test_a_sender_that_cannot_be_sent_is_an_address_error(self) -> None:
        for sender in (
            "ann@exa mple.net",
            "ann@example.net\r\nRSET",
            "a b <",
            b"\xff@example.net",
            "\udcff@example.net",
        ):
            self.assertRaises(
                smtp.AddressError, SMTPSenderFactory, sender, "bob@example.org", BytesIO(), Deferred(), clock=self.clock
            )

    @given(sender=_ADDRESSES, recipients=lists(_ADDRESSES, max_size=3))
    def test_no_address_whatever_it_is_says_more_than_a_path(
        self, sender: str | bytes, recipients: list[str | bytes]
    ) -> None:
        self.fired = Deferred()
        try:
            paths = self.envelope(sender, recipients)
        except smtp.AddressError:
            return
        self.assertLessEqual(len(paths), 1 + len(recipients))
        for path in paths:
            self.assertRegex(path, r"\A(MAIL FROM|RCPT TO):<([^<>\s]|\"[^<>\"]*\")*>\Z")


class Failing(Case):
    def test_nobody_accepted_is_a_delivery_error_with_the_replies(self) -> None:
        self.plain("bob@example.org", "eve@example.org")
        self.connects()
        self.says(*OPENS, "250 ok", "550 5.1.1 no bob", "450 4.2.1 not now", "503 no recipients")
        error = self.failed(smtp.SMTPDeliveryError)
        self.assertEqual((error.code, error.resp), (450, b"No recipients accepted"))
        self.assertEqual(error.log, b"bob@example.org: 550 5.1.1 no bob\neve@example.org: 450 4.2.1 not now")
        self.assertEqual(
            error.addresses, [(b"bob@example.org", 550, b"5.1.1 no bob"), (b"eve@example.org", 450, b"4.2.1 not now")]
        )
        self.loses()

    def test_a_refused_sender_or_content_is_a_delivery_error_with_that_reply(self) -> None:
        for replies in (["554 5.7.1 no"], [*TAKES[:2], "554 5.7.1 no", "250 reset"], [*TAKES[:3], "554 5.7.1 no"]):
            self.setUp()
            self.plain(retries=5)
            self.connects()
            self.says(*OPENS, *replies)
            error = self.failed(smtp.SMTPDeliveryError)
            self.assertEqual((error.code, error.resp), (554, b"5.7.1 no"))
            self.loses()
            self.assertEqual(self.attempts(), 1)

    def test_a_refusal_of_the_session_has_the_exception_of_its_step(self) -> None:
        for replies, kind in (
            (["554 go away"], smtp.SMTPConnectError),
            ([OPENS[0], "550 go away"], smtp.EHLORequiredError),
            ([OPENS[0], "250-mx.example\r\n250 AUTH PLAIN", "535 5.7.8 no"], smtp.AUTHDeclinedError),
            ([OPENS[0], "250-mx.example\r\n250 STARTTLS", "550 5.7.0 no"], smtp.TLSError),
        ):
            self.setUp()
            self.extended(hostname="mx.example", retries=5)
            self.connects()
            self.says(*replies)
            self.assertEqual(self.failed(kind).code, int(replies[-1][:3]))
            self.loses()
            self.assertEqual(self.attempts(), 1)

    def test_what_is_required_and_not_offered_has_its_exception(self) -> None:
        for tls, hostname, kind in (
            (False, None, smtp.AUTHRequiredError),
            (True, "mx.example", smtp.TLSRequiredError),
            (True, None, smtp.TLSRequiredError),
        ):
            self.setUp()
            self.extended(tls=tls, hostname=hostname)
            self.connects()
            self.says(*OPENS)
            self.failed(kind)
            self.assertNotIn("MAIL", self.wrote())
            self.loses()

    def test_helo_will_not_do_where_authentication_is_required(self) -> None:
        self.extended(helo=True)
        self.connects()
        self.says("220 mx.example", "502 what?")
        self.failed(smtp.EHLORequiredError)
        self.assertNotIn("HELO", self.wrote())
        self.loses()

    def test_a_reply_that_is_none_is_a_protocol_error(self) -> None:
        self.plain(retries=5)
        self.connects()
        self.says("hello!")
        self.failed(smtp.SMTPProtocolError)
        self.loses()
        self.assertEqual(self.attempts(), 1)

    def test_a_silent_server_is_a_timeout_error(self) -> None:
        self.plain(timeout=7)
        self.connects()
        self.clock.advance(6.9)
        self.assertNoResult(self.fired)
        self.clock.advance(0.1)
        self.failed(smtp.SMTPTimeoutError)
        self.loses()

    def test_an_error_carries_no_password(self) -> None:
        self.extended()
        self.connects()
        self.says(OPENS[0], "250-mx.example\r\n250 AUTH PLAIN", "535 5.7.8 wrong: tiger")
        self.assertNotIn("tiger", str(self.failed(smtp.AUTHDeclinedError)))
        self.assertNotIn("tiger", repr(vars(self.factory)))
        self.loses()

    def attempts(self) -> int:
        assert self.connector
        return self.connector.attempts


class TryingAgain(Case):
    def test_a_connection_that_does_not_come_about_is_tried_so_many_times_again(self) -> None:
        self.plain(retries=2)
        assert self.connector
        for attempts in (2, 3):
            self.connector.fails()
            self.assertEqual(self.connector.attempts, attempts)
            self.assertNoResult(self.fired)
        self.connector.fails()
        self.assertEqual(self.connector.attempts, 3)
        error = self.failed(smtp.SMTPConnectError)
        self.assertIsInstance(error.__cause__, TCPTimedOutError)

    def test_a_session_that_was_lost_is_tried_again_with_the_whole_message(self) -> None:
        self.plain(retries=1)
        self.connects()
        self.says(*OPENS, *TAKES[:2])
        self.loses()
        self.assertIsNone(self.factory.currentProtocol)
        self.connects()
        self.says(*OPENS, *TAKES)
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.assertIn(ON_THE_WIRE, self.wrote())
        self.loses()

    def test_a_session_refused_for_now_is_tried_again_after_a_good_bye(self) -> None:
        self.plain(retries=1)
        self.connects()
        self.says("421 too busy")
        self.loses()
        self.connects()
        self.says(OPENS[0], "450 not now")
        self.assertEqual(self.wrote(), "EHLO client.example.net\r\nQUIT\r\n")
        self.assertEqual(self.failed(smtp.EHLORequiredError).code, 450)
        self.loses()

    def test_a_message_that_may_have_been_delivered_is_not_sent_again(self) -> None:
        self.plain(retries=5)
        self.connects()
        self.says(*OPENS, *TAKES[:3])
        self.loses()
        self.assertIn(b"it may have been delivered", self.failed(smtp.SMTPConnectError).resp)
        assert self.connector
        self.assertEqual(self.connector.attempts, 1)

    def test_a_connection_of_an_endpoint_cannot_be_made_again_and_its_loss_is_told(self) -> None:
        self.factory = SMTPSenderFactory("", "bob@example.org", BytesIO(), self.fired, 5, clock=self.clock)
        self.connects()
        self.loses()
        self.failed(smtp.SMTPConnectError)


class Cancelling(Case):
    def test_it_ends_the_session(self) -> None:
        self.plain(retries=5)
        self.connects()
        self.says(*OPENS)
        self.fired.cancel()
        self.failureResultOf(self.fired, CancelledError)
        self.assertTrue(self.wire.disconnecting)
        self.loses()
        assert self.connector
        self.assertEqual(self.connector.attempts, 1)

    def test_it_stops_connecting_also_when_it_is_not_the_first_time(self) -> None:
        self.plain(retries=5)
        self.connects()
        self.loses()
        assert self.connector
        self.assertEqual((self.connector.state, self.connector.attempts), ("connecting", 2))
        self.fired.cancel()
        self.failureResultOf(self.fired, CancelledError)
        self.assertEqual((self.connector.state, self.connector.attempts), ("disconnected", 2))


class Credentials(Case):
    OFFER = "250-mx.example\r\n250 AUTH PLAIN LOGIN"
    PLAIN = "AUTH PLAIN AGFubgB0aWdlcg==\r\n"

    def test_they_go_out_in_plain_text_where_the_application_said_so(self) -> None:
        self.extended(tls=False)
        self.connects()
        self.says(OPENS[0], self.OFFER, "235 ok", *TAKES)
        self.assertIn(self.PLAIN, self.wrote())
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.loses()

    def test_they_go_over_tls_that_the_application_made(self) -> None:
        self.extended(tls=True)
        self.connects(tls=True)
        self.says(OPENS[0], self.OFFER, "235 ok", *TAKES)
        self.assertIn(self.PLAIN, self.wrote())
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.loses()

    def test_without_auth_on_offer_the_message_goes_without_them_unless_it_must_not(self) -> None:
        self.extended(auth=False)
        self.connects()
        self.says(*OPENS, *TAKES)
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.loses()

    def test_octets_and_text_are_taken(self) -> None:
        factory = ESMTPSenderFactory(
            b"ann", b"tiger", "", "bob@example.org", BytesIO(), self.fired, 0, requireTransportSecurity=False,
            clock=self.clock,
        )  # fmt: skip
        self.begin(factory)
        self.connects()
        self.says(OPENS[0], self.OFFER)
        self.assertIn(self.PLAIN, self.wrote())
        self.loses()
        self.failed(smtp.SMTPConnectError)


class SendMail(Case):
    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()

    def send(
        self, msg: compat.File | Message | str | bytes = MESSAGE, username: str | None = None,
        password: str | None = None,
    ) -> None:  # fmt: skip
        """Call L{sendmail}."""
        self.fired = sendmail(
            b"mx.example", b"ann@example.net", b"bob@example.org", msg, b"me.example",
            reactor=self.reactor, username=username, password=password,
        )  # fmt: skip
        host, port, factory, *_ = self.reactor.tcpClients[0]
        assert isinstance(factory, SMTPSenderFactory)
        self.factory = factory
        self.assertEqual((host, port), ("mx.example", 25))

    def test_it_connects_and_sends(self) -> None:
        self.send()
        self.connects()
        self.says(*OPENS, *TAKES)
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.assertTrue(self.wrote().startswith("EHLO me.example\r\n"))
        self.loses()

    def test_a_message_can_be_text_a_file_or_an_email_message_without_its_bcc(self) -> None:
        message = EmailMessage()
        message["Subject"], message["Bcc"] = "Hello", "eve@example.org"
        message.set_content(".It works.\n")
        for msg in (MESSAGE, MESSAGE.decode(), BytesIO(MESSAGE), message):
            self.setUp()
            self.send(msg)
            self.connects()
            self.says(*OPENS, *TAKES)
            written = self.wrote()
            self.assertIn("\r\n\r\n..It works.\r\n.\r\n", written)
            self.assertNotIn("eve", written)
            self.loses()
        self.assertEqual(message["Bcc"], "eve@example.org")

    def test_a_server_that_knows_no_ehlo_gets_helo(self) -> None:
        self.send()
        self.connects()
        self.says("220 mx.example", "502 what?", "250 mx.example", *TAKES)
        self.assertEqual(self.successResultOf(self.fired)[0], 1)
        self.loses()

    def test_credentials_are_not_sent_in_plain_text_to_another_machine(self) -> None:
        self.send(username="ann", password="tiger")
        self.connects()
        self.says(OPENS[0], Credentials.OFFER)
        self.failed(smtp.TLSRequiredError)
        self.assertEqual(self.wrote(), "EHLO me.example\r\nQUIT\r\n")
        self.loses()

    def test_credentials_are_sent_in_plain_text_to_this_machine(self) -> None:
        for peer in (IPv4Address("TCP", "127.0.0.1", 25), UNIXAddress(b"/run/smtp")):
            self.setUp()
            self.send(username="ann", password="tiger")
            self.connects(peer)
            self.says(OPENS[0], Credentials.OFFER)
            self.assertIn(Credentials.PLAIN, self.wrote())
            self.says("235 ok", *TAKES)
            self.assertEqual(self.successResultOf(self.fired)[0], 1)
            self.loses()

    def test_cancelled_it_gives_up_connecting(self) -> None:
        self.send()
        self.fired.cancel()
        self.failureResultOf(self.fired, CancelledError)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)


class Import(SynchronousTestCase):
    timeout = 60

    def test_the_exceptions_are_twisted_mails_own(self) -> None:
        self.assertIs(compat.SMTPDeliveryError, smtp.SMTPDeliveryError)
        self.assertIs(compat.TLSError, smtp.TLSError)
        self.assertRaises(AttributeError, getattr, compat, "ESMTPClient")

    def test_it_chooses_no_reactor(self) -> None:
        code = "import sys, pymail_tx.compat; print({'twisted.internet.reactor', 'twisted.mail.smtp'} & {*sys.modules})"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(run.stdout, "set()\n")

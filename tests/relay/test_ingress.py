"""
The relay's SMTP server: what it takes, what it refuses, and that nothing is
promised before it is durable.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.routes import MAX_REJECT_OCTETS, Routes
from pymail_tx.relay import incoming, ingress
from pymail_tx.relay.incoming import Content
from pymail_tx.relay.ingress import IngressFactory, SMTPServer
from pymail_tx.spool.interface import Due
from pymail_tx.spool.sqlite import SQLiteSpool
from tests.spool.turns import octets

_LOOPBACK = IPv4Address("TCP", "127.0.0.1", 40_000)
_MAIL = b"MAIL FROM:<joe@example.org>\r\n"
_RCPT = b"RCPT TO:<ann@example.com>\r\n"
_OPENING = b"EHLO client.example\r\n" + _MAIL + _RCPT + b"DATA\r\n"
_NOW = 1_700_000_000.0


class _Transport(StringTransportWithDisconnection):
    """One to whose writes the peer listens, unless it is said to be slow."""

    def unregisterProducer(self) -> None:
        if self.producer is not None:
            super().unregisterProducer()


class _Session:
    """A client's end."""

    def __init__(self, server: SMTPServer, transport: _Transport) -> None:
        self.server = server
        self.transport = transport

    def say(self, octets: bytes) -> list[str]:
        """Send, and read the replies; of a reply of several lines the last."""
        self.server.dataReceived(octets)
        return self.replies()

    def replies(self) -> list[str]:
        lines = self.transport.value().decode().split("\r\n")[:-1]
        self.transport.clear()
        return [line for line in lines if line[3:4] != "-"]

    def codes(self, octets: bytes) -> list[str]:
        """The codes, enhanced ones included where there are any."""
        return [_code(reply) for reply in self.say(octets)]

    @property
    def is_closed(self) -> bool:
        return not self.transport.connected


def _code(reply: str) -> str:
    found = re.match(r"\d{3}( \d\.\d+\.\d+)?", reply)
    assert found, reply
    return found[0]


class IngressCase(SynchronousTestCase):
    """The real spool; the test decides when its thread's word comes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wakes = 0
        self.told: list[Callable[[], None]] = []
        self.holding = False
        path = os.path.join(self.mktemp(), "spool.sqlite")
        self.spool = SQLiteSpool.open(path, run_in_thread=lambda job: job(), call_in_caller=self.tell)
        self.addCleanup(self.commit)
        self.routes = Routes.parse(["refused.example=reject:go away", "example.com=discard:", "b.example=discard:"])
        self.factory = IngressFactory(
            spool=self.spool,
            routes=self.routes,
            hostname="relay.example",
            clock=self.clock,
            wall_clock=lambda: _NOW + self.clock.seconds(),
            new_token=lambda: "T0K3N",
            accepted=self.woken,
        )

    def tell(self, call: Callable[[], None]) -> None:
        """The spool's thread has committed. Its word comes at once, or when C{commit} is called."""
        if self.holding:
            self.told.append(call)
        else:
            call()

    def commit(self) -> None:
        self.holding = False
        while self.told:
            self.told.pop(0)()

    def woken(self) -> None:
        self.wakes += 1

    def connect(self, address: IAddress = _LOOPBACK) -> _Session:
        server = self.factory.buildProtocol(address)
        transport = _Transport(peerAddress=address)
        transport.protocol = server
        server.makeConnection(transport)
        return _Session(server, transport)

    def open(self, hello: bytes = b"EHLO client.example\r\n") -> _Session:
        session = self.connect()
        session.say(hello)
        return session

    def accepted(self) -> Sequence[Due]:
        """What is in the spool and was not asked for before."""
        later = _NOW + self.clock.seconds() + 1
        return self.successResultOf(self.spool.claim(now=later, limit=1_000, max_octets=1 << 30))

    def content(self) -> bytes:
        """The one message's content without the line that the relay adds."""
        [due] = self.accepted()
        return re.sub(rb"\AReceived: .*\r\n(?:[ \t].*\r\n)*", b"", octets(due))


class Greeting(IngressCase):
    def test_the_greeting_names_host_and_protocol(self) -> None:
        self.assertEqual(self.connect().replies(), ["220 relay.example ESMTP"])

    def test_ehlo_tells_what_is_offered(self) -> None:
        session = self.connect()
        session.replies()
        session.server.dataReceived(b"EHLO client.example\r\n")
        self.assertEqual(
            session.transport.value().split(b"\r\n"),
            [
                b"250-relay.example", b"250-PIPELINING", b"250-8BITMIME", b"250-SIZE 52428800",
                b"250-ENHANCEDSTATUSCODES", b"250 SMTPUTF8", b"",
            ],
        )  # fmt: skip

    def test_helo_offers_nothing(self) -> None:
        session = self.open(b"HELO client.example\r\n")
        self.assertEqual(session.say(b"HELO client.example\r\n"), ["250 relay.example"])
        self.assertEqual(session.codes(b"MAIL FROM:<a@b.example> SIZE=1\r\n"), ["555 5.5.4"])

    def test_clients_on_this_machine_are_greeted(self) -> None:
        for address in (
            IPv4Address("TCP", "127.255.0.9", 1), IPv6Address("TCP", "::1", 1),
            IPv6Address("TCP", "::ffff:127.0.0.1", 1), UNIXAddress(None),
        ):  # fmt: skip
            self.assertEqual(self.connect(address).replies(), ["220 relay.example ESMTP"])

    def test_others_are_turned_away(self) -> None:
        for host in ("192.0.2.1", "0.0.0.0", "10.0.0.1"):
            session = self.connect(IPv4Address("TCP", host, 1))
            self.assertEqual([_code(reply) for reply in session.replies()], ["554 5.7.1"])
            self.assertTrue(session.is_closed)
            self.assertEqual(session.say(b"EHLO x\r\n"), [])
        for host in ("2001:db8::1", "::ffff:192.0.2.1", "fe80::1%eth0"):
            session = self.connect(IPv6Address("TCP", host, 1))
            self.assertEqual([_code(reply) for reply in session.replies()], ["554 5.7.1"])

    def test_500_sessions_are_served_at_a_time_and_the_next_is_told(self) -> None:
        sessions = [self.connect() for _ in range(ingress.MAX_SESSIONS)]
        self.assertEqual({tuple(session.replies()) for session in sessions}, {("220 relay.example ESMTP",)})
        self.assertEqual([_code(reply) for reply in self.connect().replies()], ["421 4.3.2"])
        sessions[0].transport.loseConnection()
        for session in sessions[:1]:
            session.say(b"QUIT\r\n")
        self.assertEqual(self.connect().replies(), ["220 relay.example ESMTP"])


class Order(IngressCase):
    def test_a_message_is_accepted(self) -> None:
        session = self.open()
        self.assertEqual(session.codes(_MAIL + _RCPT + b"DATA\r\n"), ["250 2.1.0", "250 2.1.5", "354"])
        [reply] = session.say(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        [due] = self.accepted()
        self.assertEqual(reply, f"250 2.0.0 accepted as {due.message_id}")
        self.assertEqual(due.envelope.sender, "joe@example.org")
        self.assertEqual([recipient.address for recipient in due.envelope.recipients], ["ann@example.com"])
        self.assertEqual(self.wakes, 1)

    def test_commands_out_of_order_are_503(self) -> None:
        session = self.connect()
        session.replies()
        self.assertEqual(session.codes(_MAIL + _RCPT + b"DATA\r\n"), ["503 5.5.1"] * 3)
        session.say(b"EHLO x\r\n")
        self.assertEqual(session.codes(_RCPT + b"DATA\r\n"), ["503 5.5.1"] * 2)
        session.say(_MAIL)
        self.assertEqual(session.codes(_MAIL + b"DATA\r\n"), ["503 5.5.1"] * 2)
        session.say(_RCPT)
        self.assertEqual(session.codes(_MAIL), ["503 5.5.1"])

    def test_rset_and_ehlo_drop_the_transaction(self) -> None:
        for command in (b"RSET\r\n", b"EHLO again.example\r\n", b"HELO again.example\r\n"):
            session = self.open()
            session.say(_MAIL + _RCPT + command)
            self.assertEqual(session.codes(b"DATA\r\n" + _MAIL), ["503 5.5.1", "250 2.1.0"])

    def test_rset_before_ehlo_does_not_open_the_session(self) -> None:
        session = self.connect()
        session.replies()
        self.assertEqual(session.codes(b"RSET\r\n" + _MAIL), ["250 2.0.0", "503 5.5.1"])

    def test_the_other_commands_are_answered(self) -> None:
        session = self.open()
        for command, code in {
            b"NOOP": "250 2.0.0", b"noop whatever": "250 2.0.0", b"RSET ": "250 2.0.0", b"VRFY ann": "252 2.5.0",
            b"VRFY": "501 5.5.4", b"HELP": "214 2.0.0", b"EXPN x": "502 5.5.1", b"STARTTLS": "502 5.5.1",
            b"BDAT 5": "502 5.5.1", b"XYZZY": "500 5.5.2", b"": "500 5.5.2", b"EHLO": "501 5.5.4",
            b"HELO ": "501 5.5.4", b"RSET x": "501 5.5.4", b"QUIT x": "501 5.5.4",
        }.items():  # fmt: skip
            self.assertEqual(session.codes(command + b"\r\n"), [code], command)

    def test_quit_is_answered_and_nothing_behind_it_is_heard(self) -> None:
        session = self.open()
        self.assertEqual(session.codes(b"QUIT\r\nNOOP\r\n"), ["221 2.0.0"])
        self.assertTrue(session.is_closed)
        self.assertEqual(session.say(b"NOOP\r\n"), [])

    def test_control_characters_are_no_part_of_a_command(self) -> None:
        session = self.open()
        for octet in (b"\n", b"\r", b"\0", b"\t", b"\x7f"):
            self.assertEqual(session.codes(b"MAIL FROM:<a@b.example>" + octet + b"\r\n"), ["500 5.5.2"])

    def test_a_bare_line_feed_does_not_end_a_command(self) -> None:
        session = self.open()
        self.assertEqual(session.codes(b"NOOP\nNOOP\r\n"), ["500 5.5.2"])


class Addresses(IngressCase):
    def _mail(self, argument: bytes) -> str:
        return self.open().codes(b"MAIL " + argument + b"\r\n")[0]

    def _rcpt(self, argument: bytes) -> str:
        return self.open().codes(_MAIL + b"RCPT " + argument + b"\r\n")[1]

    def test_senders(self) -> None:
        for argument, code in {
            b"FROM:<joe@example.org>": "250 2.1.0",
            b"from:<joe@example.org>": "250 2.1.0",
            b"FROM: <joe@example.org>": "250 2.1.0",
            b"FROM:<>": "250 2.1.0",
            b'FROM:<"joe x ,"@example.org>': "250 2.1.0",
            b'FROM:<"joe <x> ,"@example.org>': "501 5.1.7",  # some servers end a path at any ">"
            b"FROM:<joe@[192.0.2.1]>": "250 2.1.0",
            b"FROM:joe@example.org": "501 5.1.7",
            b"FROM:<joe@example.org": "501 5.1.7",
            b"FROM:<joe@example.org>x": "501 5.1.7",
            b"FROM:<joe>": "501 5.1.7",
            b"FROM:<postmaster>": "501 5.1.7",
            b"FROM:<joe@-example.org>": "501 5.1.7",
            b"FROM:<joe smith@example.org>": "501 5.1.7",
            b"FROM:<a@b.example><c@d.example>": "501 5.1.7",
            b"TO:<joe@example.org>": "501 5.1.7",
            b"<joe@example.org>": "501 5.1.7",
            b"": "501 5.1.7",
        }.items():
            self.assertEqual(self._mail(argument), code, argument)

    def test_recipients(self) -> None:
        for argument, code in {
            b"TO:<ann@example.com>": "250 2.1.5",
            b"to: <ann@EXAMPLE.com>": "250 2.1.5",
            b"TO:<>": "501 5.1.3",
            b"TO:<ann>": "501 5.1.3",
            b"TO:ann@example.com": "501 5.1.3",
            b"FROM:<ann@example.com>": "501 5.1.3",
            b"TO:<ann@example.com> NOTIFY=NEVER": "555 5.5.4",
        }.items():
            self.assertEqual(self._rcpt(argument), code, argument)

    def test_a_source_route_is_left_out(self) -> None:
        session = self.open()
        session.say(
            b"MAIL FROM:<@a.example,@b.example:joe@example.org>\r\n"
            b"RCPT TO:<@a.example:ann@example.com>\r\nDATA\r\n.\r\n"
        )
        [due] = self.accepted()
        self.assertEqual(due.envelope.sender, "joe@example.org")
        self.assertEqual(due.envelope.recipients[0].address, "ann@example.com")

    def test_postmaster_needs_no_domain(self) -> None:
        self.factory.routes = Routes.parse(["relay.example=discard:"])
        session = self.open()
        session.say(_MAIL + b"RCPT TO:<Postmaster>\r\nDATA\r\n.\r\n")
        [due] = self.accepted()
        self.assertEqual(due.envelope.recipients[0].address, "Postmaster@relay.example")

    def test_a_route_that_rejects_refuses_the_recipient_in_its_words(self) -> None:
        [reply] = self.open().say(_MAIL + b"RCPT TO:<x@refused.example>\r\n")[1:]
        self.assertEqual(reply, "550 5.7.1 go away")

    def test_the_longest_refusal_fits_a_reply_line(self) -> None:
        self.factory.routes = Routes.parse(["*=reject:" + "x" * MAX_REJECT_OCTETS])
        [reply] = self.open().say(_MAIL + _RCPT)[1:]
        self.assertEqual(len(reply) + 2, 512)

    def test_without_a_route_the_recipient_is_refused(self) -> None:
        self.assertEqual(self._rcpt(b"TO:<x@nowhere.example>"), "550 5.4.4")

    def test_a_refused_recipient_does_not_harm_the_others(self) -> None:
        session = self.open()
        codes = session.codes(_MAIL + b"RCPT TO:<x@refused.example>\r\n" + _RCPT + b"RCPT TO:<\r\nDATA\r\n.\r\n")
        self.assertEqual(codes, ["250 2.1.0", "550 5.7.1", "250 2.1.5", "501 5.1.3", "354", "250 2.0.0"])
        self.assertEqual([str(r.address) for r in self.accepted()[0].envelope.recipients], ["ann@example.com"])

    def test_without_an_accepted_recipient_data_is_refused(self) -> None:
        codes = self.open().codes(_MAIL + b"RCPT TO:<x@refused.example>\r\nDATA\r\nRSET\r\n")
        self.assertEqual(codes, ["250 2.1.0", "550 5.7.1", "503 5.5.1", "250 2.0.0"])

    def test_addresses_that_are_not_ascii_need_smtputf8(self) -> None:
        utf8 = "é@b.example".encode()
        session = self.open()
        self.assertEqual(session.codes(b"MAIL FROM:<" + utf8 + b">\r\n"), ["553 5.6.7"])
        self.assertEqual(session.codes(_MAIL + b"RCPT TO:<" + utf8 + b">\r\nRSET\r\n")[1], "553 5.6.7")
        self.assertEqual(session.codes(b"MAIL FROM:<\xe9@b.example> SMTPUTF8\r\n"), ["501 5.1.7"])
        codes = session.codes(b"MAIL FROM:<" + utf8 + b"> SMTPUTF8\r\nRCPT TO:<" + utf8 + b">\r\nDATA\r\n.\r\n")
        self.assertEqual(codes, ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"])
        [due] = self.accepted()
        self.assertEqual(due.envelope.sender, "é@b.example")
        self.assertIn(b" with UTF8SMTP id ", octets(due))

    def test_an_internationalized_domain_is_kept_in_a_labels(self) -> None:
        self.factory.routes = Routes.parse(["bücher.example=discard:"])
        session = self.open()
        session.say(b"MAIL FROM:<> SMTPUTF8\r\n" + "RCPT TO:<ann@Bücher.example>\r\n".encode() + b"DATA\r\n.\r\n")
        self.assertEqual(self.accepted()[0].envelope.recipients[0].address, "ann@xn--bcher-kva.example")

    def test_the_same_recipient_twice_is_one(self) -> None:
        session = self.open()
        self.assertEqual(session.codes(_MAIL + _RCPT + _RCPT + b"DATA\r\n.\r\n")[2], "250 2.1.5")
        self.assertEqual(len(self.accepted()[0].envelope.recipients), 1)


class Parameters(IngressCase):
    def test_parameters_of_mail(self) -> None:
        for parameters, code in {
            b"SIZE=0": "250 2.1.0",
            b"SIZE=52428800": "250 2.1.0",
            b"SIZE=52428801": "552 5.3.4",
            b"SIZE=99999999999999999999": "552 5.3.4",
            b"SIZE=999999999999999999999": "501 5.5.4",
            b"SIZE=": "501 5.5.4",
            b"SIZE": "501 5.5.4",
            b"SIZE=-1": "501 5.5.4",
            b"size=1 body=8bitmime smtputf8": "250 2.1.0",
            b"BODY=7BIT": "250 2.1.0",
            b"BODY=BINARYMIME": "501 5.5.4",
            b"BODY": "501 5.5.4",
            b"SMTPUTF8=1": "501 5.5.4",
            b"SIZE=1 SIZE=1": "501 5.5.4",
            b"RET=HDRS": "555 5.5.4",
            b"AUTH=<>": "555 5.5.4",
            b"=": "555 5.5.4",
        }.items():
            session = self.open()
            self.assertEqual(session.codes(b"MAIL FROM:<joe@example.org> " + parameters + b"\r\n"), [code], parameters)


class Limits(IngressCase):
    def test_a_command_line_of_2048_octets_is_taken_and_one_of_2049_is_not(self) -> None:
        fits = b"NOOP ".ljust(2_046, b"x") + b"\r\n"
        session = self.open()
        self.assertEqual(session.codes(fits), ["250 2.0.0"])
        self.assertEqual(session.codes(fits[:-2] + b"x\r\nNOOP\r\n"), ["500 5.5.2", "250 2.0.0"])

    def test_the_limit_of_a_command_line_holds_however_it_comes(self) -> None:
        octets = b"NOOP ".ljust(2_046, b"x") + b"\r\n" + b"NOOP ".ljust(2_047, b"x") + b"\r\n" + b"NOOP\r\n"
        for size in (1, 2, 3, 2_047, 2_048, 2_049, 4_095, 4_096, 4_097):
            session = self.open()
            codes = [code for at in range(0, len(octets), size) for code in session.codes(octets[at : at + size])]
            self.assertEqual(codes, ["250 2.0.0", "500 5.5.2", "250 2.0.0"], size)

    def test_a_line_without_an_end_takes_no_memory(self) -> None:
        session = self.open()
        for _ in range(256):
            self.assertEqual(session.say(b"x" * 65_536), [])
        self.assertLess(len(session.server._buffer), 2 * ingress.MAX_COMMAND_OCTETS)
        self.assertEqual(session.codes(b"\r\nNOOP\r\n"), ["500 5.5.2", "250 2.0.0"])

    def test_a_flood_of_short_lines_takes_linear_time(self) -> None:
        session = self.open()
        started = time.process_time()
        self.assertEqual(len(session.say(b"NOOP\r\n" * 200_000)), 200_000)
        self.assertLess(time.process_time() - started, 10)

    def test_1000_recipients_are_taken_and_the_next_is_told_to_wait(self) -> None:
        session = self.open()
        session.say(_MAIL)
        many = b"".join(b"RCPT TO:<u%d@example.com>\r\n" % number for number in range(1_001))
        codes = session.codes(many)
        self.assertEqual(codes, ["250 2.1.5"] * 1_000 + ["452 4.5.3"])
        session.say(b"DATA\r\n.\r\n")
        self.assertEqual(len(self.accepted()[0].envelope.recipients), 1_000)

    def test_20_bad_commands_are_borne_and_the_next_ends_the_session(self) -> None:
        session = self.open()
        self.assertEqual(session.codes(b"XYZZY\r\n" * 20), ["500 5.5.2"] * 20)
        self.assertFalse(session.is_closed)
        self.assertEqual(session.codes(b"XYZZY\r\n" * 20), ["421 4.7.0"])
        self.assertTrue(session.is_closed)

    def test_refused_recipients_are_no_bad_commands(self) -> None:
        session = self.open()
        codes = session.codes(_MAIL + b"RCPT TO:<x@refused.example>\r\n" * 50)
        self.assertEqual(codes, ["250 2.1.0"] + ["550 5.7.1"] * 50)

    def test_100_received_lines_are_taken_and_101_are_a_loop(self) -> None:
        for count, code in ((100, "250 2.0.0"), (101, "554 5.4.6")):
            header = b"RECEIVED: from x\r\n\tby y\r\n" * count
            self.assertEqual(self.open().codes(_MAIL + _RCPT + b"DATA\r\n" + header + b"\r\n\r\n.\r\n")[-1], code)

    def test_received_lines_in_the_body_are_text(self) -> None:
        body = b"Subject: x\r\n\r\n" + b"Received: from x\r\n" * 200
        self.assertEqual(self.open().codes(_MAIL + _RCPT + b"DATA\r\n" + body + b".\r\n")[-1], "250 2.0.0")

    def test_a_message_of_50_mib_is_taken_and_one_octet_more_is_not(self) -> None:
        for surplus, code in ((0, "250 2.0.0"), (1, "552 5.3.4")):
            session = self.open()
            session.say(_MAIL + _RCPT + b"DATA\r\n" + b"x" * surplus)
            for _ in range(800):
                session.say((b"y" * 62 + b"\r\n") * 1_024)
            self.assertEqual(session.codes(b".\r\nNOOP\r\n"), [code, "250 2.0.0"])

    def test_the_limit_of_a_message_counts_dots_once_however_it_comes(self) -> None:
        self.patch(incoming, "MAX_MESSAGE_OCTETS", 20)
        for surplus, problem in ((b"", None), (b"x", b"552 5.3.4")):
            wire = b"..\r\n...x\r\n..\r\nxxxxxxx" + surplus + b"\r\n.\r\nrest"
            for size in range(1, len(wire)):
                content = Content()
                rest = _feed(content, wire, size)
                self.assertEqual(rest, b"rest")
                self.assertEqual((content.problem() or b"")[:9], problem or b"", size)

    def test_what_is_too_much_is_not_kept(self) -> None:
        self.patch(incoming, "MAX_MESSAGE_OCTETS", 1_000)
        content = Content()
        for _ in range(1_000):
            content.take(b"x" * 998 + b"\r\n")
            self.assertLess(len(content._octets), 2_010)
        self.assertEqual(content.take(b".\r\nNOOP\r\n"), b"NOOP\r\n")
        self.assertEqual((content.problem() or b"")[:9], b"552 5.3.4")


def _feed(content: Content, wire: bytes, size: int) -> bytes | None:
    for at in range(0, len(wire), size):
        rest = content.take(wire[at : at + size])
        if rest is not None:
            return rest + wire[at + size :]
    return None


class ContentIn(IngressCase):
    def _send(self, octets: bytes) -> list[str]:
        return self.open().codes(_MAIL + _RCPT + b"DATA\r\n" + octets)[3:]

    def test_doubled_dots_are_single_again(self) -> None:
        self.assertEqual(self._send(b"Subject: x\r\n\r\n..\r\n...a\r\nb..\r\n.c\r\n.\r\n"), ["250 2.0.0"])
        self.assertEqual(self.content(), b"Subject: x\r\n\r\n.\r\n..a\r\nb..\r\nc\r\n")

    def test_eight_bits_and_nul_are_content(self) -> None:
        """RFC 5321 §4.5.2 has every octet delivered; RFC 5322 forbids NUL, but that is between writer and reader."""
        octets = b"Subject: x\r\n\r\n" + bytes(set(range(256)) - {10, 13}) + b"\r\n"
        self.assertEqual(self._send(octets + b".\r\n"), ["250 2.0.0"])
        self.assertEqual(self.content(), octets)

    def test_an_empty_message_is_one(self) -> None:
        self.assertEqual(self._send(b".\r\n"), ["250 2.0.0"])
        self.assertEqual(self.content(), b"\r\n")

    def test_text_without_a_header_does_not_become_part_of_ours(self) -> None:
        self._send(b"hello: world? no, hello\r\n.\r\n")
        self._send(b"hello world\r\n.\r\n")
        contents = [octets(due).partition(b"+0000\r\n")[2] for due in self.accepted()]
        self.assertEqual(contents, [b"hello: world? no, hello\r\n", b"\r\nhello world\r\n"])

    def test_only_crlf_dot_crlf_ends_a_message(self) -> None:
        for smuggled in (
            b"\n.\r\n",
            b"\r.\r\n",
            b"\n.\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r.\r",
            b"\r\r\n.\n",
            b"\n\r.\r\n",
        ):
            octets = (
                b"x" + smuggled + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\nx\r\n.\r\n"
            )
            self.assertEqual(self._send(octets + b"NOOP\r\n"), ["550 5.6.0", "250 2.0.0"], smuggled)
        self.assertEqual(self.accepted(), [])

    def test_a_cr_or_lf_alone_is_refused_anywhere(self) -> None:
        for sent in (b"\n", b"\r", b"x\n\r\n", b"\r\r\n", b"a\rb\r\n", b"a\nb\r\n", b"\n\r\n", b"a\r\n\nb\r\n"):
            ending = b"" if sent.endswith(b"\r\n") else b"\r\n"
            self.assertEqual(self._send(sent + ending + b".\r\n"), ["550 5.6.0"], sent)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\r", b"\n", b"\r\n.", b"\0", b"MAIL "]), max_size=20),
        st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=10),
    )
    @example([b"."], [1])
    @example([b"\r\n."], [3, 2])
    def test_a_message_comes_out_as_it_went_in_however_it_is_cut(self, parts: list[bytes], sizes: list[int]) -> None:
        message = b"X: " + b"".join(parts) + b"\r\n"
        wire = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n" + b".\r\nrest"
        content, at, rest = Content(), 0, None
        while rest is None:
            size = sizes[at % len(sizes)]
            rest = content.take(wire[at : at + size])
            at += size
        self.assertEqual(rest + wire[at:], b".\r\nrest")
        alone = message.replace(b"\r\n", b"")
        self.assertEqual(content.problem() is None, b"\r" not in alone and b"\n" not in alone)
        self.assertEqual(content.message(b""), message)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(min_value=1, max_value=80), min_size=1, max_size=20))
    def test_a_session_goes_the_same_way_however_it_is_cut(self, sizes: list[int]) -> None:
        wire = (
            _OPENING + b"A: 1\r\n\r\n..x\r\n.\r\n" + _MAIL + b"XYZZY\r\n" + _RCPT + b"DATA\r\nbad\n\r\n.\r\n"
            + _MAIL + _RCPT + b"RCPT TO:<c@b.example>\r\nDATA\r\nB: 2\r\n.\r\nNOOP\r\nQUIT\r\n"
        )  # fmt: skip
        session = self.connect()
        session.replies()
        codes, at, turn = [], 0, 0
        while at < len(wire):
            size = sizes[turn % len(sizes)]
            codes += session.codes(wire[at : at + size])
            at, turn = at + size, turn + 1
        opened, transaction = ["250", "250 2.1.0", "250 2.1.5"], ["250 2.1.0", "250 2.1.5"]
        expected = [
            *opened, "354", "250 2.0.0", "250 2.1.0", "500 5.5.2", "250 2.1.5", "354", "550 5.6.0",
            *transaction, "250 2.1.5", "354", "250 2.0.0", "250 2.0.0", "221 2.0.0",
        ]  # fmt: skip
        self.assertEqual(codes, expected)
        self.assertEqual([len(due.envelope.recipients) for due in self.accepted()], [1, 2])


class Received(IngressCase):
    def _received(self, hello: bytes, address: IAddress = _LOOPBACK) -> bytes:
        session = self.connect(address)
        session.say(hello + b"\r\n" + _MAIL + _RCPT + b"DATA\r\nSubject: x\r\n\r\n.\r\n")
        [due] = self.accepted()
        head, _, rest = octets(due).partition(b"Subject:")
        self.assertEqual(rest, b" x\r\n\r\n")
        return head

    def test_a_received_line_is_added_at_the_top(self) -> None:
        self.assertEqual(
            self._received(b"EHLO client.example"),
            b"Received: from client.example ([127.0.0.1])\r\n\tby relay.example with ESMTP id T0K3N;\r\n"
            b"\tTue, 14 Nov 2023 22:13:20 +0000\r\n",
        )

    def test_it_says_by_which_protocol_and_from_where(self) -> None:
        self.assertIn(b" with SMTP id ", self._received(b"HELO client.example"))
        self.assertIn(b"([IPv6:::1])", self._received(b"EHLO x", IPv6Address("TCP", "::1", 1)))
        self.assertIn(b"(local)", self._received(b"EHLO x", UNIXAddress(None)))

    def test_the_name_a_client_gives_cannot_add_anything_else(self) -> None:
        self.assertIn(b"from x??by?evil??? ([127", self._received(b"EHLO x) by evil;(("))
        self.assertIn(b"from ??? ([127", self._received("EHLO é(".encode()))
        line = self._received(b"EHLO " + b"x" * 2_000)
        self.assertLess(max(map(len, line.split(b"\r\n"))), 998)


class Durability(IngressCase):
    def test_nothing_is_said_before_the_message_is_durable(self) -> None:
        session = self.open()
        self.holding = True
        self.assertEqual(session.codes(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\n"), ["250 2.1.0", "250 2.1.5", "354"])
        self.assertEqual(self.wakes, 0)
        self.commit()
        self.assertEqual([_code(reply) for reply in session.replies()], ["250 2.0.0"])
        self.assertEqual(self.wakes, 1)

    def test_what_is_pipelined_behind_waits_its_turn(self) -> None:
        session = self.open()
        session.say(_MAIL + _RCPT + b"DATA\r\n")
        self.holding = True
        self.assertEqual(session.say(b"x: 1\r\n.\r\nNOOP\r\n" + _MAIL + _RCPT + b"DATA\r\nx: 2\r\n"), [])
        self.assertEqual(session.transport.producerState, "paused")
        self.assertEqual(session.say(b".\r\nQUIT\r\n"), [])  # had been read already
        self.commit()
        codes = [_code(reply) for reply in session.replies()]
        self.assertEqual(codes, ["250 2.0.0", "250 2.0.0", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"])
        self.assertEqual(len(self.accepted()), 2)

    def test_each_of_several_messages_waits_for_its_own_commit(self) -> None:
        session = self.open()
        self.holding = True
        session.say((_MAIL + _RCPT + b"DATA\r\nx: 1\r\n.\r\n") * 3)
        answered = 0
        while self.told:
            self.told.pop(0)()
            codes = [_code(reply) for reply in session.replies()]
            self.assertEqual(codes[0], "250 2.0.0")
            answered += 1
        self.assertEqual((answered, self.wakes), (3, 3))

    def test_a_spool_that_fails_is_451_and_the_session_goes_on(self) -> None:
        session = self.open()
        self.successResultOf(self.spool.close())
        self.assertEqual(
            session.codes(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\nNOOP\r\n")[3:], ["451 4.3.0", "250 2.0.0"]
        )
        self.assertEqual(self.wakes, 0)

    def test_a_client_that_is_gone_meanwhile_does_no_harm(self) -> None:
        session = self.open()
        self.holding = True
        session.say(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\nNOOP\r\n")
        session.transport.loseConnection()
        self.commit()
        self.assertEqual(len(self.accepted()), 1)
        self.assertEqual(self.wakes, 1)

    def test_a_message_without_its_end_is_none(self) -> None:
        session = self.open()
        session.say(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r")
        session.transport.loseConnection()
        self.assertEqual(self.accepted(), [])


class Time(IngressCase):
    def test_a_client_that_is_silent_for_5_minutes_is_told_and_left(self) -> None:
        for sent in (b"", b"NO", _MAIL + _RCPT + b"DATA\r\nx"):
            session = self.open()
            session.say(sent)
            self.clock.advance(299)
            self.assertEqual(session.replies(), [])
            self.clock.advance(1)
            self.assertEqual([_code(reply) for reply in session.replies()], ["421 4.4.2"])
            self.assertTrue(session.is_closed)

    def test_any_octet_begins_the_time_anew(self) -> None:
        session = self.open()
        for _ in range(5):
            self.clock.advance(299)
            session.say(b"x")
        self.clock.advance(299)
        self.assertFalse(session.is_closed)

    def test_a_slow_spool_is_not_the_clients_fault(self) -> None:
        session = self.open()
        self.holding = True
        session.say(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\n")
        self.clock.pump([100] * 20)
        self.assertFalse(session.is_closed)
        self.commit()
        self.clock.advance(299)
        self.assertFalse(session.is_closed)
        self.clock.pump([100] * 6)
        self.assertTrue(session.is_closed)

    def test_a_client_that_takes_no_replies_is_not_read(self) -> None:
        session = self.open()
        session.server.pauseProducing()
        self.assertEqual(session.say(b"NOOP\r\n" * 1_000), [])
        session.server.resumeProducing()
        self.assertEqual(len(session.replies()), 1_000)

    def test_the_spool_and_a_slow_client_do_not_resume_each_other(self) -> None:
        session = self.open()
        self.holding = True
        session.say(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\nNOOP\r\n")
        session.server.pauseProducing()
        session.server.resumeProducing()
        self.assertEqual(session.replies(), [])
        session.server.pauseProducing()
        self.commit()
        self.assertEqual([_code(reply) for reply in session.replies()], ["250 2.0.0"])
        session.server.resumeProducing()
        self.assertEqual([_code(reply) for reply in session.replies()], ["250 2.0.0"])

    def test_a_connection_that_does_not_end_is_cut_off(self) -> None:
        session = self.connect()
        session.replies()
        session.transport.loseConnection = lambda: None  # type: ignore[method-assign]  # its replies cannot leave
        session.say(b"QUIT\r\n")
        self.clock.advance(9)
        self.assertFalse(session.transport.disconnected)
        self.clock.advance(1)
        self.assertTrue(session.transport.disconnected)

    def test_no_timer_is_left_behind(self) -> None:
        session = self.open()
        session.say(b"QUIT\r\n")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Stopping(IngressCase):
    def test_idle_sessions_are_told_and_closed(self) -> None:
        session, other = self.open(), self.open()
        other.say(_MAIL + _RCPT + b"DATA\r\nx: half")
        stopped = self.factory.stop()
        for each in (session, other):
            self.assertEqual([_code(reply) for reply in each.replies()], ["421 4.3.2"])
            self.assertTrue(each.is_closed)
        self.assertIsNone(self.successResultOf(stopped))

    def test_one_whose_message_is_being_accepted_gets_its_250_first(self) -> None:
        session = self.open()
        self.holding = True
        session.say(_MAIL + _RCPT + b"DATA\r\nx: y\r\n.\r\nNOOP\r\n")
        stopped = self.factory.stop()
        self.assertNoResult(stopped)
        self.assertEqual(session.replies(), [])
        self.commit()
        self.assertEqual([_code(reply) for reply in session.replies()], ["250 2.0.0", "421 4.3.2"])
        self.assertIsNone(self.successResultOf(stopped))

    def test_new_sessions_are_turned_away(self) -> None:
        self.assertIsNone(self.successResultOf(self.factory.stop()))
        self.assertEqual([_code(reply) for reply in self.connect().replies()], ["421 4.3.2"])

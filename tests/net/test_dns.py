"""
What the resolver asks of whom, and when; the network is the test's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from dns.edns import EDECode, EDEOption
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import MX, Answer, RecordType, Verdict
from pymail_tx.core.dns_message import EDNS_OCTETS, FAILURE_TTL_S
from pymail_tx.core.errors import BadArgument
from pymail_tx.net.dns import MAX_AT_ONCE, MAX_SERVERS, PORT, TIMEOUTS_S, Resolver
from pymail_tx.net.dns_transport import PORT_TRIES, PORTS
from tests.net.name_servers import Asked, Network, reply

FIRST, SECOND = ("127.0.0.1", 53), ("127.0.0.2", 53)

NAME = "example.test"
RECORDS = ("example.test. 300 IN MX 10 mx.example.test.",)
SOA = "example.test. 300 IN SOA ns. hostmaster. 1 3600 600 86400 60"


class ResolverCase(SynchronousTestCase):
    """A resolver, two servers, and nothing left behind."""

    servers: Sequence[tuple[str, int]] = (FIRST, SECOND)

    def setUp(self) -> None:
        self.network = Network()
        self.resolver = Resolver(self.network, self.servers, randomness=random.Random(5))
        self.addCleanup(self.nothing_is_left)

    def nothing_is_left(self) -> None:
        """No delayed call and no port."""
        self.assertEqual(self.network.getDelayedCalls(), [])
        self.assertEqual(self.network.open_ports, [])

    def ask(self, name: str = NAME, kind: RecordType = RecordType.MX) -> Deferred[Answer]:
        return self.resolver.resolve(name, kind)

    @property
    def asked(self) -> list[Asked]:
        return self.network.asked

    def say(
        self, records: Sequence[str] = RECORDS, *, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0
    ) -> None:
        """The latest query is answered."""
        self.asked[-1].answer(reply(self.asked[-1].packet, records, rcode=rcode, flags=flags).to_wire())

    def servfail(self, *options: dns.edns.Option) -> None:
        """The latest query is answered with SERVFAIL."""
        message = reply(self.asked[-1].packet, rcode=dns.rcode.SERVFAIL)
        message.use_edns(0, options=list(options))
        self.asked[-1].answer(message.to_wire())


class Queries(ResolverCase):
    def test_a_question_is_asked_with_recursion_and_dnssec_wanted(self) -> None:
        answer = self.ask()
        (asked,) = self.asked
        query = asked.query
        self.assertEqual(asked.server, FIRST)
        self.assertEqual(query.question[0].to_text(), "example.test. IN MX")
        self.assertEqual(query.flags, dns.flags.RD | dns.flags.AD)
        self.assertEqual((query.edns, query.ednsflags, query.payload), (0, dns.flags.DO, EDNS_OCTETS))
        self.say()
        self.assertEqual(self.successResultOf(answer).mx, (MX(10, "mx.example.test"),))

    def test_ids_and_ports_are_of_chance_and_differ(self) -> None:
        answers = [self.ask(f"host{number}.test") for number in range(100)]
        self.assertGreater(len({asked.query.id for asked in self.asked}), 90)
        numbers = {asked.port.number for asked in self.asked}
        self.assertGreater(len(numbers), 90)
        self.assertLessEqual(numbers, set(PORTS))
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)

    def test_another_port_is_chosen_where_one_is_taken(self) -> None:
        self.network.taken = {random.Random(5).choice(PORTS)}
        answer = self.ask()
        self.say()
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_with_no_port_to_be_had_the_question_fails(self) -> None:
        self.network.taken = None
        self.assertEqual(self.successResultOf(self.ask()).verdict, Verdict.FAILED)

    def test_a_taken_port_is_not_tried_for_ever(self) -> None:
        tried: list[int] = []

        class Counting(Network):
            def listenUDP(self, port: int, *others: object) -> None:  # type: ignore[override]  # it only fails
                tried.append(port)
                return super().listenUDP(port, *others)  # type: ignore[arg-type, return-value]

        network = Counting()
        network.taken = None
        self.successResultOf(Resolver(network, [FIRST]).resolve(NAME, RecordType.MX))
        self.assertEqual(len(tried), PORT_TRIES * len(TIMEOUTS_S))

    def test_an_ipv6_server_is_asked_from_an_ipv6_socket(self) -> None:
        answer = Resolver(self.network, [("0:0::1", 53)]).resolve(NAME, RecordType.MX)
        self.assertEqual(self.asked[-1].port.interface, "::")
        self.assertEqual(self.asked[-1].server, ("::1", 53))
        self.asked[-1].answer(reply(self.asked[-1].packet, RECORDS, flags=dns.flags.AD).to_wire(), ("::1", 53))
        self.assertTrue(self.successResultOf(answer).authenticated)

    def test_a_name_is_asked_in_lower_case_without_its_dot(self) -> None:
        answer = self.ask("EXAMPLE.test.")
        self.say()
        self.assertEqual(self.successResultOf(answer).name, NAME)
        self.assertEqual(self.successResultOf(self.ask()).mx, (MX(10, "mx.example.test"),))

    def test_what_dns_cannot_hold_is_not_asked(self) -> None:
        for name in ("a..test", "x" * 64 + ".test", ".".join(["x" * 63] * 4), "bücher.test", "a\\999.test"):
            answer = self.successResultOf(self.ask(name))
            self.assertEqual((answer.verdict, answer.reason), (Verdict.FAILED, "no name that DNS can hold"))
        self.assertEqual(self.asked, [])

    def test_the_longest_label_and_name_are_asked(self) -> None:
        for name in ("x" * 63 + ".test", ".".join(["x" * 63] * 3 + ["x" * 61])):
            answer = self.ask(name)
            self.say([f"{name}. 300 IN MX 10 mx.example.test."])
            self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)


class Spoofing(ResolverCase):
    """A reply is believed from the server, at the port, with the id, to the question."""

    def test_other_ids_sources_and_questions_are_ignored(self) -> None:
        answer = self.ask()
        (asked,) = self.asked
        right = reply(asked.packet, RECORDS).to_wire()
        other_id = (int.from_bytes(right[:2], "big") ^ 1).to_bytes(2, "big") + right[2:]
        asked.answer(other_id)
        asked.answer(right, ("127.0.0.1", 54))
        asked.answer(right, SECOND)
        asked.answer(right.replace(b"\x07example", b"\x07exemple", 1))
        asked.answer(right.replace(b"\x00\x0f\x00\x01", b"\x00\x10\x00\x01", 1))
        asked.answer(right.replace(b"\x00\x0f\x00\x01", b"\x00\x0f\x00\x03", 1))
        asked.answer(asked.packet)
        asked.answer(right[:20])
        asked.answer(b"")
        self.assertNoResult(answer)
        asked.answer(right)
        self.assertEqual(self.successResultOf(answer).mx, (MX(10, "mx.example.test"),))

    def test_a_question_in_another_case_is_the_same(self) -> None:
        answer = self.ask()
        self.asked[0].answer(reply(self.asked[0].packet, RECORDS).to_wire().replace(b"example", b"EXAMPLE", 1))
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_a_second_reply_changes_nothing(self) -> None:
        answer = self.ask()
        asked = self.asked[0]
        self.say()
        asked.answer(reply(asked.packet).to_wire())
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)
        self.assertEqual(self.successResultOf(self.ask()).verdict, Verdict.DATA)


class Rotation(ResolverCase):
    def test_a_silent_server_costs_its_timeout_and_the_next_is_asked(self) -> None:
        answer = self.ask()
        self.network.advance(TIMEOUTS_S[0] - 0.1)
        self.assertEqual(len(self.asked), 1)
        self.network.advance(0.1)
        self.assertEqual([asked.server for asked in self.asked], [FIRST, SECOND])
        self.say()
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_later_questions_begin_with_the_server_that_answered(self) -> None:
        self.test_a_silent_server_costs_its_timeout_and_the_next_is_asked()
        answer = self.ask(kind=RecordType.A)
        self.assertEqual(self.asked[-1].server, SECOND)
        self.network.advance(TIMEOUTS_S[0])
        self.assertEqual(self.asked[-1].server, FIRST)
        self.say(["example.test. 300 IN A 127.0.0.9"])
        self.assertEqual(self.successResultOf(answer).addresses, ("127.0.0.9",))

    def test_when_all_are_silent_twice_the_question_has_failed(self) -> None:
        answer = self.ask()
        for timeout_s in (TIMEOUTS_S[0], TIMEOUTS_S[0], TIMEOUTS_S[1], TIMEOUTS_S[1]):
            self.assertNoResult(answer)
            self.network.advance(timeout_s)
        self.assertEqual([asked.server for asked in self.asked], [FIRST, SECOND, FIRST, SECOND])
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, found.authenticated), (Verdict.FAILED, False))
        self.assertIn("127.0.0.1:53: no answer within 4 s; 127.0.0.2:53: no answer within 4 s; ", found.reason)

    def test_a_server_that_refuses_is_not_asked_again_and_the_next_is(self) -> None:
        answer = self.ask()
        self.say([], rcode=dns.rcode.REFUSED)
        self.assertEqual(self.asked[-1].server, SECOND)
        self.say([], rcode=dns.rcode.REFUSED)
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, len(self.asked)), (Verdict.FAILED, 2))
        self.assertEqual(found.reason, "127.0.0.1:53: REFUSED; 127.0.0.2:53: REFUSED")

    def test_a_server_that_sends_garbage_is_not_waited_for(self) -> None:
        answer = self.ask()
        right = reply(self.asked[0].packet, RECORDS).to_wire()
        self.asked[0].answer(right[:-5])
        self.assertEqual(self.asked[-1].server, SECOND)
        self.say()
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_a_port_where_nobody_listens_is_not_waited_for(self) -> None:
        answer = self.ask()
        self.asked[0].port.protocol.connectionRefused()
        self.assertEqual(self.asked[-1].server, SECOND)
        self.say()
        self.successResultOf(answer)

    def test_a_network_that_there_is_no_way_to_is_not_waited_for(self) -> None:
        self.network.unreachable = {FIRST, SECOND}
        found = self.successResultOf(self.ask())
        self.assertEqual(found.verdict, Verdict.FAILED)
        self.assertIn("127.0.0.1:53: Network is unreachable", found.reason)

    def test_a_socket_that_breaks_is_not_waited_for(self) -> None:
        answer = self.ask()
        self.network.open_ports[0].protocol.doStop()
        self.assertEqual(self.asked[-1].server, SECOND)
        self.say()
        self.successResultOf(answer)


class ServerFailures(ResolverCase):
    """SERVFAIL or bogus."""

    servers = (FIRST,)

    def test_an_error_of_dnssec_is_bogus_at_once(self) -> None:
        answer = self.ask()
        self.servfail(EDEOption(EDECode.SIGNATURE_EXPIRED, "too old"))
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, found.authenticated), (Verdict.BOGUS, False))
        self.assertEqual(found.reason, "SERVFAIL; 7 (Signature Expired): too old")

    def test_data_when_signatures_are_not_checked_is_bogus(self) -> None:
        answer = self.ask()
        self.servfail()
        self.assertEqual(self.asked[-1].query.flags, dns.flags.RD | dns.flags.CD)
        self.say(flags=dns.flags.AD)
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, found.authenticated, found.mx), (Verdict.BOGUS, False, ()))

    def test_no_such_name_when_signatures_are_not_checked_is_bogus(self) -> None:
        answer = self.ask()
        self.servfail()
        self.say([], rcode=dns.rcode.NXDOMAIN)
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.BOGUS)

    def test_a_failure_then_as_well_is_a_failure(self) -> None:
        answer = self.ask()
        self.servfail(EDEOption(EDECode.NO_REACHABLE_AUTHORITY))
        self.servfail()
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, len(self.asked)), (Verdict.FAILED, 2))
        self.assertIn("SERVFAIL; 22 (No Reachable Authority)", found.reason)

    def test_silence_then_is_a_failure(self) -> None:
        answer = self.ask()
        self.servfail()
        self.network.advance(TIMEOUTS_S[0])
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.FAILED)

    def test_bogus_is_not_asked_of_the_next_server(self) -> None:
        self.resolver = Resolver(self.network, [FIRST, SECOND])
        answer = self.ask()
        self.servfail()
        self.say()
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.BOGUS)
        self.assertEqual([asked.server for asked in self.asked], [FIRST, FIRST])


class Truncation(ResolverCase):
    def setUp(self) -> None:
        super().setUp()
        self.answer = self.ask()
        self.say([], flags=dns.flags.TC)

    def connect(self) -> tuple[IProtocol, StringTransport, bytes]:
        """TCP is there, with the query on it."""
        protocol, transport = self.network.stream()
        sent = transport.value()
        self.assertEqual(int.from_bytes(sent[:2], "big"), len(sent) - 2)
        return protocol, transport, sent[2:]

    def test_a_truncated_reply_is_asked_for_over_tcp(self) -> None:
        self.assertEqual(self.network.tcpClients[-1][:2], FIRST)
        protocol, transport, query = self.connect()
        message = reply(query, [f"example.test. 300 IN MX {number} mx.example.test." for number in range(300)])
        packet = message.to_wire(max_size=65_535)
        for octet in len(packet).to_bytes(2, "big") + packet:
            protocol.dataReceived(bytes([octet]))
        self.assertEqual(len(self.successResultOf(self.answer).mx), 300)
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionLost()))

    def test_a_large_answer_is_not_kept(self) -> None:
        self.test_a_truncated_reply_is_asked_for_over_tcp()
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))

    def test_a_reply_to_something_else_is_none(self) -> None:
        protocol, _, query = self.connect()
        packet = bytes([query[0] ^ 1]) + reply(query, RECORDS).to_wire()[1:]
        protocol.dataReceived(len(packet).to_bytes(2, "big") + packet)
        self.assert_next_is_asked()

    def test_a_reply_that_is_truncated_again_is_none(self) -> None:
        protocol, _, query = self.connect()
        packet = reply(query, flags=dns.flags.TC).to_wire()
        protocol.dataReceived(len(packet).to_bytes(2, "big") + packet)
        self.assert_next_is_asked()

    def test_a_connection_that_breaks_or_is_not_made_is_no_reply(self) -> None:
        protocol, _, _ = self.connect()
        protocol.connectionLost(Failure(ConnectionLost()))
        self.assert_next_is_asked()

    def test_silence_over_tcp_is_no_reply(self) -> None:
        _, transport, _ = self.connect()
        self.network.advance(TIMEOUTS_S[0])
        self.assertTrue(transport.disconnecting)
        self.assert_next_is_asked()

    def test_a_connection_that_is_not_made_is_no_reply(self) -> None:
        self.network.advance(TIMEOUTS_S[0])
        self.assert_next_is_asked()

    def test_a_cancel_closes_the_connection(self) -> None:
        _, transport, _ = self.connect()
        self.answer.cancel()
        self.failureResultOf(self.answer, CancelledError)
        self.assertTrue(transport.disconnecting)

    def assert_next_is_asked(self) -> None:
        self.assertEqual(self.asked[-1].server, SECOND)
        self.say()
        self.assertEqual(self.successResultOf(self.answer).verdict, Verdict.DATA)


class Coalescing(ResolverCase):
    def test_who_asks_the_same_at_once_waits_for_one_answer(self) -> None:
        answers = [self.ask(), self.ask("Example.TEST."), self.ask()]
        self.assertEqual(len(self.asked), 1)
        self.say()
        self.assertEqual({self.successResultOf(answer).mx for answer in answers}, {(MX(10, "mx.example.test"),)})

    def test_another_type_is_another_question(self) -> None:
        answers = [self.ask(), self.ask(kind=RecordType.A)]
        self.assertEqual(len(self.asked), 2)
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)

    def test_a_cancel_harms_nobody_else(self) -> None:
        answers = [self.ask(), self.ask(), self.ask()]
        answers[0].cancel()
        self.failureResultOf(answers[0], CancelledError)
        self.say()
        for answer in answers[1:]:
            self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_when_all_have_cancelled_nothing_is_left_and_a_late_reply_is_nobodys(self) -> None:
        answers = [self.ask(), self.ask()]
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        self.nothing_is_left()
        self.say()
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))

    def test_one_answer_may_end_in_the_cancel_of_another(self) -> None:
        first, second, third = self.ask(), self.ask(), self.ask()
        first.addCallback(lambda _: second.cancel())
        self.say()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.successResultOf(third).verdict, Verdict.DATA)

    def test_one_answer_may_end_in_the_same_question(self) -> None:
        again: list[Deferred[Answer]] = []
        first, second = self.ask(), self.ask()
        first.addCallback(lambda _: again.append(self.ask()))
        self.say(["example.test. 0 IN MX 10 mx.example.test."])
        self.successResultOf(second)
        self.assertEqual(len(self.asked), 2)
        self.say()
        self.successResultOf(again[0])

    def test_so_many_are_under_way_and_the_next_waits(self) -> None:
        answers = [self.ask(f"host{number}.test") for number in range(MAX_AT_ONCE)]
        self.assertEqual(len(self.asked), MAX_AT_ONCE)
        waiting, cancelled = self.ask("one-more.test"), self.ask("another.test")
        self.assertEqual(len(self.asked), MAX_AT_ONCE)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        answers[0].cancel()
        self.failureResultOf(answers[0], CancelledError)
        self.assertEqual(self.asked[-1].query.question[0].name.to_text(), "one-more.test.")
        for answer in (*answers[1:], waiting):
            answer.cancel()
            self.failureResultOf(answer, CancelledError)


class Keeping(ResolverCase):
    def test_an_answer_is_kept_for_its_time_and_then_asked_for_again(self) -> None:
        answer = self.ask()
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))
        self.say()
        found = self.successResultOf(answer)
        self.network.advance(299.9)
        self.assertIs(self.successResultOf(self.ask()), found)
        self.assertIs(self.resolver.cached("Example.test.", RecordType.MX), found)
        self.network.advance(0.1)
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))
        again = self.ask()
        self.assertNoResult(again)
        self.say()
        self.successResultOf(again)

    def test_no_such_name_is_kept_as_long_as_its_zone_says(self) -> None:
        answer = self.ask()
        self.asked[-1].answer(reply(self.asked[-1].packet, authority=[SOA], rcode=dns.rcode.NXDOMAIN).to_wire())
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.NXDOMAIN)
        self.network.advance(59.9)
        self.assertEqual(self.successResultOf(self.ask()).verdict, Verdict.NXDOMAIN)
        self.network.advance(0.1)
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))

    def test_a_failure_is_kept_for_a_moment(self) -> None:
        self.network.unreachable = {FIRST, SECOND}
        self.successResultOf(self.ask())
        self.network.unreachable = set()
        self.network.advance(FAILURE_TTL_S - 0.1)
        self.assertEqual(self.successResultOf(self.ask()).verdict, Verdict.FAILED)
        self.network.advance(0.1)
        answer = self.ask()
        self.say()
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.DATA)

    def test_bogus_is_kept_for_a_moment(self) -> None:
        answer = self.ask()
        self.servfail()
        self.say()
        self.successResultOf(answer)
        self.assertEqual(self.successResultOf(self.ask()).verdict, Verdict.BOGUS)
        self.network.advance(FAILURE_TTL_S)
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))

    def test_what_one_server_refuses_is_not_kept_before_the_next_has_answered(self) -> None:
        answer = self.ask()
        self.say([], rcode=dns.rcode.REFUSED)
        self.assertIsNone(self.resolver.cached(NAME, RecordType.MX))
        self.say()
        self.successResultOf(answer)


class Trust(ResolverCase):
    def authenticated(self, host: str, trust_ad: bool | None = None, flags: int = dns.flags.AD) -> bool:
        """Whether an answer of that server is, which says so unless told otherwise."""
        answer = Resolver(self.network, [(host, 53)], trust_ad=trust_ad).resolve(NAME, RecordType.MX)
        self.say(flags=flags)
        return self.successResultOf(answer).authenticated

    def test_servers_on_loopback_are_believed(self) -> None:
        self.assertTrue(self.authenticated("127.0.0.1"))
        self.assertTrue(self.authenticated("127.255.0.53"))
        self.assertTrue(self.authenticated("::1"))

    def test_others_are_not(self) -> None:
        self.assertFalse(self.authenticated("192.0.2.1"))
        self.assertFalse(self.authenticated("2001:db8::1"))

    def test_others_are_if_configuration_says_so(self) -> None:
        self.assertTrue(self.authenticated("192.0.2.1", trust_ad=True))
        self.assertTrue(self.authenticated("2001:db8::1", trust_ad=True))

    def test_loopback_is_not_if_configuration_says_so(self) -> None:
        self.assertFalse(self.authenticated("127.0.0.1", trust_ad=False))

    def test_nobody_is_believed_what_he_does_not_say(self) -> None:
        self.assertFalse(self.authenticated("127.0.0.1", trust_ad=True, flags=0))


class Servers(SynchronousTestCase):
    def asked(self, text: str | None) -> list[tuple[str, int]]:
        """Who is asked with such a resolv.conf, each being silent."""
        network, path = Network(), Path(self.mktemp())
        if text is not None:
            path.write_text(text)
        answer = Resolver(network, resolv_conf=path).resolve(NAME, RecordType.MX)
        network.pump([timeout_s for timeout_s in TIMEOUTS_S for _ in range(MAX_SERVERS)])
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.FAILED)
        return list(dict.fromkeys(asked.server for asked in network.asked))

    def test_they_are_those_of_resolv_conf(self) -> None:
        text = "# nameserver 192.0.2.9\nsearch a.test\nnameserver 192.0.2.1\n nameserver 2001:db8::1 # v6\noptions x\n"
        self.assertEqual(self.asked(text), [("192.0.2.1", PORT), ("2001:db8::1", PORT)])

    def test_three_of_them_and_no_more(self) -> None:
        text = "".join(f"nameserver 192.0.2.{number}\n" for number in range(1, MAX_SERVERS + 2))
        self.assertEqual(self.asked(text), [(f"192.0.2.{number}", PORT) for number in range(1, MAX_SERVERS + 1)])

    def test_an_address_with_a_scope_is_one(self) -> None:
        self.assertEqual(self.asked("nameserver fe80::1%eth0\n"), [("fe80::1%eth0", PORT)])

    def test_without_any_it_is_this_machine(self) -> None:
        for text in (None, "", "nameserver\n", "nameserver localhost\n", "domain example.test\n"):
            self.assertEqual(self.asked(text), [("127.0.0.1", PORT)])

    def test_what_is_no_server_is_refused(self) -> None:
        for servers in ([("localhost", 53)], [("", 53)], [("127.0.0.1", 0)], [("127.0.0.1", 65_536)], []):
            self.assertRaises(BadArgument, Resolver, Network(), servers)
        self.assertRaises(BadArgument, Resolver, Network(), [FIRST] * (MAX_SERVERS + 1))
        Resolver(Network(), [FIRST] * MAX_SERVERS)


class Closing(ResolverCase):
    def test_what_is_being_asked_has_failed_and_nothing_more_is_asked(self) -> None:
        answers = [self.ask(), self.ask(), self.ask(kind=RecordType.A)]
        self.successResultOf(self.resolver.close())
        self.assertEqual({self.successResultOf(answer).reason for answer in answers}, {"the resolver was closed"})
        self.assertEqual(self.successResultOf(self.ask()).reason, "the resolver is closed")
        self.assertEqual(len(self.asked), 2)

    def test_it_waits_for_connections_to_be_gone(self) -> None:
        answer = self.ask()
        self.say([], flags=dns.flags.TC)
        protocol, _ = self.network.stream()
        closed = self.resolver.close()
        self.successResultOf(answer)
        self.assertNoResult(closed)
        protocol.connectionLost(Failure(ConnectionLost()))
        self.successResultOf(closed)


class Bugs(SynchronousTestCase):
    def test_an_error_of_ours_is_logged_and_a_failure(self) -> None:
        class Broken(random.Random):
            def getrandbits(self, k: int) -> int:
                raise ZeroDivisionError

        answer = Resolver(Network(), [FIRST], randomness=Broken()).resolve(NAME, RecordType.MX)
        found = self.successResultOf(answer)
        self.assertEqual((found.verdict, found.reason), (Verdict.FAILED, "an error of ours"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Garbage(SynchronousTestCase):
    """Whatever comes ends as an answer."""

    @given(st.binary(max_size=200), st.binary(max_size=40), st.integers(0, 300), st.booleans())
    def test_behind_the_right_question(self, garbage: bytes, patch: bytes, where: int, whole: bool) -> None:
        network = Network()
        answer = Resolver(network, [FIRST]).resolve(NAME, RecordType.MX)
        (asked,) = network.asked
        right = bytearray(
            reply(asked.packet, [*RECORDS, "mx.example.test. 300 IN A 127.0.0.2"], authority=[SOA]).to_wire()
        )
        if whole:
            right[where : where + len(patch)] = patch
            asked.answer(bytes(right))
        else:
            asked.answer(bytes(right[:12]) + asked.packet[12:30] + garbage)
        network.advance(TIMEOUTS_S[0])
        network.advance(TIMEOUTS_S[1])
        network.advance(TIMEOUTS_S[1])
        if network.tcpClients:  # it had the bit for truncation
            network.pump(TIMEOUTS_S * 2)
        self.assertIsInstance(self.successResultOf(answer).verdict, Verdict)
        self.assertEqual((network.getDelayedCalls(), network.open_ports), ([], []))

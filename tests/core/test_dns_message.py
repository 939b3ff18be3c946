"""
What a reply means, and that no octets from the network mean an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from dns.edns import EDECode, EDEOption
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import TLSA, Answer, RecordType, Verdict
from pymail_tx.core.dns_message import (
    FAILURE_TTL_S,
    MAX_ALIASES,
    MAX_NEGATIVE_TTL_S,
    MAX_REASON_CHARACTERS,
    MAX_TTL_S,
    interpret,
    question,
)
from tests.net.name_servers import reply

NAME = "example.test"
SOA = "example.test. 300 IN SOA ns. hostmaster. 1 3600 600 86400 60"
ADDRESS = "example.test. 300 IN A 127.0.0.2"


def asking(kind: RecordType = RecordType.A, name: str = NAME) -> tuple[bytes, bytes]:
    """A query, and the octets of its question."""
    asked = question(name, kind)
    assert asked
    packet = asked.query(7)
    return packet, packet[12:-11]


class Meanings(SynchronousTestCase):
    def meaning(
        self,
        answer: Sequence[str] = (),
        *,
        authority: Sequence[str] = (),
        rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
        flags: int = 0,
        without: int = 0,
        kind: RecordType = RecordType.A,
        errors: Sequence[EDEOption] = (),
    ) -> Answer:
        """Of a reply with such records, from a server that is trusted."""
        asked = question(NAME, kind)
        assert asked
        message = reply(asked.query(7), answer, authority=authority, rcode=rcode, flags=flags)
        message.flags &= ~without
        if errors:
            message.use_edns(0, options=list(errors))
        packet = message.to_wire(max_size=65_535)
        self.assertTrue(asked.is_answered_by(packet, 7))
        return interpret(asked, packet, trusted=True)

    def chain(self, length: int) -> list[str]:
        names = [NAME, *(f"link{number}.test" for number in range(1, length + 1))]
        return [f"{name}. 300 IN CNAME {after}." for name, after in pairwise(names)]

    def test_records_of_another_type_class_or_name_are_none(self) -> None:
        for other in (
            "example.test. 300 IN AAAA ::1",
            "other.test. 300 IN A 127.0.0.2",
            "example.test. 300 CH A a.test. 1",
        ):
            self.assertEqual(self.meaning([other]).verdict, Verdict.NODATA, other)

    def test_records_outside_the_answer_section_are_none(self) -> None:
        self.assertEqual(self.meaning(authority=[SOA, ADDRESS]).verdict, Verdict.NODATA)

    def test_names_are_compared_without_case_and_given_in_lower_case(self) -> None:
        answer = self.meaning(["EXAMPLE.test. 300 IN CNAME Mail.TEST.", "mail.TEST. 300 IN A 127.0.0.2"])
        self.assertEqual((answer.canonical_name, answer.addresses), ("mail.test", ("127.0.0.2",)))

    def test_a_row_of_aliases_may_be_so_long_and_no_longer(self) -> None:
        longest = self.meaning([*self.chain(MAX_ALIASES), f"link{MAX_ALIASES}.test. 300 IN A 127.0.0.2"])
        self.assertEqual((longest.verdict, longest.canonical_name), (Verdict.DATA, f"link{MAX_ALIASES}.test"))
        longer = self.meaning([*self.chain(MAX_ALIASES + 1), f"link{MAX_ALIASES + 1}.test. 300 IN A 127.0.0.2"])
        self.assertEqual(longer.verdict, Verdict.FAILED)
        self.assertIn("aliases", longer.reason)

    def test_a_circle_of_aliases_is_a_failure(self) -> None:
        circle = [f"{NAME}. 300 IN CNAME a.test.", f"a.test. 300 IN CNAME {NAME}."]
        self.assertEqual(self.meaning(circle).verdict, Verdict.FAILED)
        self.assertEqual(self.meaning([f"{NAME}. 300 IN CNAME {NAME}."]).verdict, Verdict.FAILED)

    def test_the_order_of_aliases_in_the_reply_does_not_matter(self) -> None:
        answer = self.meaning([*reversed(self.chain(3)), "link3.test. 300 IN A 127.0.0.2"])
        self.assertEqual(answer.canonical_name, "link3.test")

    def test_the_shortest_time_counts_along_a_chain(self) -> None:
        answer = self.meaning([f"{NAME}. 20 IN CNAME a.test.", "a.test. 30 IN A 127.0.0.2"])
        self.assertEqual(answer.ttl_s, 20)
        answer = self.meaning([f"{NAME}. 40 IN CNAME a.test.", "a.test. 30 IN A 127.0.0.2"])
        self.assertEqual(answer.ttl_s, 30)

    def test_no_answer_is_kept_for_more_than_a_day(self) -> None:
        for ttl_s, kept_s in ((MAX_TTL_S, MAX_TTL_S), (MAX_TTL_S + 1, MAX_TTL_S), (0, 0), (2**31 - 1, MAX_TTL_S)):
            self.assertEqual(self.meaning([f"{NAME}. {ttl_s} IN A 127.0.0.2"]).ttl_s, kept_s)

    def test_a_time_with_the_highest_bit_is_none(self) -> None:
        packet, _ = asking()
        asked = question(NAME, RecordType.A)
        assert asked
        octets = reply(packet, [f"{NAME}. 287454020 IN A 127.0.0.2"]).to_wire()
        octets = octets.replace(b"\x11\x22\x33\x44", b"\x80\x00\x00\x01")
        self.assertEqual(interpret(asked, octets, trusted=True).ttl_s, 0)

    def test_a_denial_is_kept_for_the_shorter_of_two_times_and_three_hours_at_most(self) -> None:
        for ttl_s, minimum_s, kept_s in (
            (300, 60, 60),
            (60, 300, 60),
            (99_999, 10_801, 10_800),
            (99_999, 10_799, 10_799),
        ):
            soa = f"test. {ttl_s} IN SOA ns. hostmaster. 1 3600 600 86400 {minimum_s}"
            for rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self.assertEqual(self.meaning(authority=[soa], rcode=rcode).ttl_s, kept_s)
        self.assertEqual(MAX_NEGATIVE_TTL_S, 10_800)

    def test_a_denial_without_soa_is_good_and_not_kept(self) -> None:
        for rcode, verdict in ((dns.rcode.NOERROR, Verdict.NODATA), (dns.rcode.NXDOMAIN, Verdict.NXDOMAIN)):
            answer = self.meaning(rcode=rcode)
            self.assertEqual((answer.verdict, answer.ttl_s), (verdict, 0))

    def test_a_soa_of_another_zone_is_none(self) -> None:
        self.assertEqual(self.meaning(authority=[SOA.replace("example", "other", 1)]).ttl_s, 0)

    def test_no_such_name_at_the_end_of_a_chain_is_no_such_name(self) -> None:
        soa = "test. 300 IN SOA ns. hostmaster. 1 3600 600 86400 60"
        answer = self.meaning(self.chain(1), authority=[soa], rcode=dns.rcode.NXDOMAIN)
        self.assertEqual((answer.verdict, answer.canonical_name), (Verdict.NXDOMAIN, "link1.test"))

    def test_a_referral_is_a_failure(self) -> None:
        answer = self.meaning(authority=["test. 300 IN NS ns.test."])
        self.assertEqual((answer.verdict, answer.reason), (Verdict.FAILED, "the server does not ask others"))

    def test_a_server_that_does_not_ask_others_denies_only_with_a_soa(self) -> None:
        self.assertEqual(self.meaning(without=dns.flags.RA).verdict, Verdict.FAILED)
        self.assertEqual(self.meaning(self.chain(1), without=dns.flags.RA).verdict, Verdict.FAILED)
        self.assertEqual(self.meaning(authority=[SOA], without=dns.flags.RA).verdict, Verdict.NODATA)

    def test_records_and_no_such_name_contradict_each_other(self) -> None:
        self.assertEqual(self.meaning([ADDRESS], rcode=dns.rcode.NXDOMAIN).verdict, Verdict.FAILED)

    def test_other_codes_are_failures_named(self) -> None:
        for rcode in (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.BADVERS):
            answer = self.meaning([ADDRESS], rcode=rcode, flags=dns.flags.AD)
            self.assertEqual((answer.verdict, answer.authenticated), (Verdict.FAILED, False))
            self.assertEqual((answer.reason, answer.ttl_s), (dns.rcode.to_text(rcode), FAILURE_TTL_S))

    def test_the_errors_of_a_validator_are_bogus_and_others_are_not(self) -> None:
        bogus = {EDECode(code) for code in range(6, 13)}
        for code in EDECode:
            answer = self.meaning(rcode=dns.rcode.SERVFAIL, errors=[EDEOption(code)])
            self.assertEqual(answer.verdict, Verdict.BOGUS if code in bogus else Verdict.FAILED, code)

    def test_an_error_beside_another_code_is_not_bogus(self) -> None:
        error = EDEOption(EDECode.DNSSEC_BOGUS)
        self.assertEqual(self.meaning(rcode=dns.rcode.REFUSED, errors=[error]).verdict, Verdict.FAILED)
        self.assertEqual(self.meaning([ADDRESS], errors=[error]).verdict, Verdict.DATA)

    def test_a_servers_words_are_printable_and_bounded(self) -> None:
        for length in (1, MAX_REASON_CHARACTERS, 1_000):
            answer = self.meaning(rcode=dns.rcode.SERVFAIL, errors=[EDEOption(EDECode.OTHER, "\x1b" * length)])
            self.assertNotIn("\x1b", answer.reason)
            self.assertLessEqual(len(answer.reason), MAX_REASON_CHARACTERS)

    def test_a_record_that_came_twice_is_one(self) -> None:
        self.assertEqual(self.octets(RecordType.A, b"\x7f\0\0\1", b"\x7f\0\0\1").addresses, ("127.0.0.1",))

    def test_a_tlsa_record_is_taken_as_it_comes(self) -> None:
        answer = self.octets(RecordType.TLSA, b"\3\1\1", b"\xff\xfe\xfd\0")
        self.assertEqual(answer.tlsa, (TLSA(3, 1, 1, b""), TLSA(255, 254, 253, b"\0")))

    def test_a_text_may_have_no_string_and_any_octet(self) -> None:
        self.assertEqual(self.octets(RecordType.TXT, b"", b"\0", b"\2\xff\0\1a").texts, (b"", b"\xff\0a"))

    def test_a_record_that_is_too_short_or_too_long_makes_the_reply_unreadable(self) -> None:
        for kind, data in (
            (RecordType.A, b"\x7f\0\0"), (RecordType.A, b"\x7f\0\0\1\1"), (RecordType.AAAA, b"\x7f\0\0\1"),
            (RecordType.AAAA, bytes(17)), (RecordType.MX, b"\0"), (RecordType.MX, b"\0\1"),
            (RecordType.MX, b"\0\1\1a\0\0"), (RecordType.CNAME, b""), (RecordType.CNAME, b"\1a\0\0"),
            (RecordType.CNAME, b"\xc0\xff"), (RecordType.TLSA, b"\3\1"), (RecordType.TXT, b"\2a"),
        ):  # fmt: skip
            answer = self.octets(kind, data)
            self.assertEqual(answer.verdict, Verdict.FAILED, (kind, data))
            self.assertIn("unreadable reply: ", answer.reason)

    def test_a_broken_record_that_nobody_asks_for_is_stepped_over(self) -> None:
        packet, octets = asking()
        records = self.records(46, b"broken") + self.records(1, b"\x7f\0\0\1")
        self.assertEqual(
            self.read(packet[:2] + b"\x81\x80\0\1\0\2\0\0\0\0" + octets + records).addresses, ("127.0.0.1",)
        )

    def test_octets_behind_the_last_record_make_the_reply_unreadable(self) -> None:
        packet, octets = asking()
        good = packet[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + octets + self.records(1, b"\x7f\0\0\1")
        self.assertEqual(self.read(good).verdict, Verdict.DATA)
        self.assertEqual(self.read(good + b"\0").verdict, Verdict.FAILED)
        self.assertEqual(self.read(good[:-1]).verdict, Verdict.FAILED)

    def records(self, kind: int, *data: bytes) -> bytes:
        """Of the name asked for."""
        head = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c"
        return b"".join(head + len(one).to_bytes(2, "big") + one for one in data)

    def octets(self, kind: RecordType, *data: bytes) -> Answer:
        """The meaning of such records, as octets."""
        packet, octets = asking(kind)
        counts = b"\0\1" + len(data).to_bytes(2, "big") + bytes(4)
        return self.read(packet[:2] + b"\x81\x80" + counts + octets + self.records(kind.value, *data), kind)

    def read(self, packet: bytes, kind: RecordType = RecordType.A) -> Answer:
        asked = question(NAME, kind)
        assert asked and asked.is_answered_by(packet, 7)
        return interpret(asked, packet, trusted=True)

    def test_aliases_of_an_alias_question_are_its_data(self) -> None:
        answer = self.meaning(self.chain(1), kind=RecordType.CNAME)
        self.assertEqual((answer.verdict, answer.canonical_name), (Verdict.DATA, "link1.test"))
        self.assertEqual(self.meaning(authority=[SOA], kind=RecordType.CNAME).verdict, Verdict.NODATA)


GOOD = [
    "example.test. 300 IN MX 10 mx.example.test.",
    "example.test. 300 IN RRSIG MX 13 2 300 20300101000000 20200101000000 1 example.test. AAAA",
    'example.test. 300 IN TXT "a" "b"',
    "example.test. 300 IN TLSA 3 1 1 abababababababababababababababababababababababababababababababab",
    "example.test. 300 IN CNAME mx.example.test.",
    "mx.example.test. 300 IN A 127.0.0.2",
    "mx.example.test. 300 IN AAAA ::1",
]


class Garbage(SynchronousTestCase):
    @given(
        st.sampled_from(RecordType),
        st.binary(max_size=300),
        st.integers(0, 0xFFFF),
        st.lists(st.integers(0, 9), min_size=3, max_size=3),
    )
    def test_whatever_follows_the_question_is_an_answer(
        self, kind: RecordType, garbage: bytes, flags: int, counts: list[int]
    ) -> None:
        packet, octets = asking(kind)
        head = packet[:2] + flags.to_bytes(2, "big") + b"\x00\x01" + b"".join(one.to_bytes(2, "big") for one in counts)
        self.check(kind, head + octets + garbage)

    @given(st.sampled_from(RecordType), st.data())
    def test_whatever_happens_to_a_good_reply_the_rest_is_an_answer(
        self, kind: RecordType, data: st.DataObject
    ) -> None:
        packet, octets = asking(kind)
        message = reply(packet, GOOD, authority=[SOA], rcode=data.draw(st.sampled_from(dns.rcode.Rcode)))
        message.use_edns(0, options=[EDEOption(EDECode.OTHER, "text")])
        good = bytearray(message.to_wire())
        start = 12 + len(octets)
        for _ in range(data.draw(st.integers(1, 4))):
            where = data.draw(st.integers(start, len(good) - 1))
            good[where] = data.draw(st.integers(0, 255))
        end = data.draw(st.one_of(st.just(len(good)), st.integers(start, len(good))))
        self.check(kind, bytes(good[:end]) + data.draw(st.binary(max_size=5)))

    @given(st.binary(max_size=100))
    def test_whatever_comes_is_a_reply_or_none(self, garbage: bytes) -> None:
        asked = question(NAME, RecordType.MX)
        assert asked
        self.assertFalse(asked.is_answered_by(garbage, 7) and len(garbage) < 12 + len(asking()[1]))

    def check(self, kind: RecordType, packet: bytes) -> None:
        asked = question(NAME, kind)
        assert asked
        answer = interpret(asked, packet, trusted=True)
        self.assertEqual((answer.name, answer.kind), (NAME, kind))
        self.assertTrue(0 <= answer.ttl_s <= MAX_TTL_S)
        if answer.verdict in (Verdict.FAILED, Verdict.BOGUS):
            self.assertTrue(answer.reason.isprintable() and not answer.authenticated, answer)

"""
Names on the wire: what ends, what is bounded, what is equal.
"""

from __future__ import annotations

import dns.exception
import dns.name
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns_records import MAX_LABEL_OCTETS, MAX_NAME_OCTETS, Name, Unreadable, name_at, read

LABELS = st.lists(st.binary(min_size=1, max_size=MAX_LABEL_OCTETS), max_size=4)


def wire(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


class Names(SynchronousTestCase):
    def test_a_name_ends_with_the_root(self) -> None:
        self.assertEqual(name_at(b"xx" + wire(b"MX", b"Example") + b"yy", 2), (Name(wire(b"mx", b"example")), 14))

    def test_a_pointer_leads_to_what_stands_before_it(self) -> None:
        octets = wire(b"example", b"test") + b"\2mx\xc0\0" + b"\xc0\x0e"
        self.assertEqual(name_at(octets, 14), (Name(wire(b"mx", b"example", b"test")), 19))
        self.assertEqual(name_at(octets, 19), (Name(wire(b"mx", b"example", b"test")), 21))

    def test_a_pointer_to_itself_or_to_what_follows_leads_nowhere(self) -> None:
        for octets in (b"\xc0\0", b"\xc0\2\0", b"\1a\xc0\0", b"\xc0\2\xc0\0"):
            self.assertRaises(Unreadable, name_at, octets, 0)
        self.assertRaises(Unreadable, name_at, b"\1a\xc0\0", 2)

    def test_the_longest_label_and_name_are_read_and_longer_are_not(self) -> None:
        longest = b"x" * MAX_LABEL_OCTETS
        self.assertEqual(len(name_at(wire(longest), 0)[0].wire), MAX_LABEL_OCTETS + 2)
        self.assertRaises(Unreadable, name_at, bytes([MAX_LABEL_OCTETS + 1]) + longest + b"x\0", 0)
        self.assertEqual(len(name_at(wire(longest, longest, longest, b"x" * 61), 0)[0].wire), MAX_NAME_OCTETS)
        self.assertRaises(Unreadable, name_at, wire(longest, longest, longest, b"x" * 62), 0)

    def test_a_name_that_the_message_cuts_off_is_none(self) -> None:
        for octets in (b"", b"\1", b"\1a", b"\3ab", b"\xc0"):
            self.assertRaises(IndexError, name_at, octets, 0)
            self.assertRaises(Unreadable, read, bytes(5) + b"\1" + bytes(6) + octets)

    def test_a_zone_holds_itself_and_what_is_below_it(self) -> None:
        zone = Name(wire(b"example", b"test"))
        for inside in (zone, Name(wire(b"mx", b"example", b"test")), Name(wire(b"a", b"b", b"example", b"test"))):
            self.assertTrue(inside.is_in(zone) and inside.is_in(Name(b"\0")))
        for outside in (
            Name(wire(b"test")),
            Name(b"\0"),
            Name(wire(b"xexample", b"test")),
            Name(wire(b"x\7example", b"test")),
        ):
            self.assertFalse(outside.is_in(zone))

    @given(LABELS)
    def test_as_text_it_is_what_dnspython_says(self, labels: list[bytes]) -> None:
        try:
            theirs = dns.name.Name([*labels, b""]).canonicalize()
        except dns.exception.DNSException:
            return
        ours, _ = name_at(wire(*labels), 0)
        self.assertEqual(str(ours), "" if theirs == dns.name.root else theirs.to_text(omit_final_dot=True))
        self.assertEqual(dns.name.from_text(f"{ours}.") if labels else theirs, theirs)

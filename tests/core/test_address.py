"""
Addresses: what goes out on the wire, and what never does.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.address import (
    MAX_DOMAIN_OCTETS,
    MAX_LABEL_OCTETS,
    MAX_PATH_OCTETS,
    Mailbox,
    ascii_domain,
    refuse_controls,
)
from pymail_tx.core.errors import BadArgument

LABEL = "d" * MAX_LABEL_OCTETS
LONGEST_DOMAIN = ".".join([LABEL] * 4)
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xD800, 0xDFFF)]
TROUBLE = st.sampled_from(
    [*'@<>[]"\\ ;:,%.-é。ıſ☃\u00ad\u3000＞', "\r\n", "\0", " SIZE=1", "xn--", "IPv6:", "[IPv6:::1]"]
)


def wire(address: str) -> bytes:
    return Mailbox.parse("recipient", address).path(utf8=True)


class AcceptedTests(SynchronousTestCase):
    AS_GIVEN = (
        "alice@example.org",
        "Alice.B@EXAMPLE.org",
        "alice@localhost",
        "alice@under_score.example",
        "alice@xn--bcher-kva.example",
        "a..b@example.org",
        ".a.@example.org",
        "!#$%&'*+-/=?^_`{|}~@example.org",
        "bounces+SRS=abc=de=example.net=bob@example.org",
        '"a b"@example.org',
        '"a@b"@example.org',
        '""@example.org',
        r'"a\"b\\"@example.org',
        "alice@[192.0.2.1]",
        "alice@[IPv6:2001:db8::1]",
        "alice@[ipv6:::ffff:192.0.2.1]",
        "postmaster",
        "Postmaster",
    )

    def test_addresses_that_exist_stand_in_the_path_as_they_were_given(self) -> None:
        for address in self.AS_GIVEN:
            self.assertEqual(wire(address), address.encode())
            self.assertEqual(str(Mailbox.parse("sender", address)), address)

    def test_an_internationalized_domain_becomes_a_labels(self) -> None:
        for domain, ascii_only in (
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("ex。ample", "ex.ample"),
        ):
            mailbox = Mailbox.parse("recipient", f"a@{domain}")
            self.assertEqual(mailbox.domain, ascii_only)
            self.assertFalse(mailbox.needs_smtputf8)
            self.assertEqual(mailbox.path(utf8=False), f"a@{ascii_only}".encode())

    def test_a_non_ascii_local_part_goes_out_with_smtputf8_only(self) -> None:
        mailbox = Mailbox.parse("recipient", "jürgen@bücher.example")
        self.assertTrue(mailbox.needs_smtputf8)
        self.assertEqual(mailbox.path(utf8=True), "jürgen@xn--bcher-kva.example".encode())
        with self.assertRaisesRegex(BadArgument, "SMTPUTF8"):
            mailbox.path(utf8=False)

    def test_the_bare_postmaster_has_no_domain(self) -> None:
        self.assertEqual(Mailbox.parse("recipient", "postmaster"), Mailbox("postmaster", ""))


class LimitTests(SynchronousTestCase):
    def test_a_local_part_of_65_octets_and_more_passes(self) -> None:
        for size in (64, 65, 500):
            self.assertTrue(wire("l" * size + "@example.org"))

    def test_a_label_of_63_octets_passes_and_one_of_64_does_not(self) -> None:
        self.assertEqual(ascii_domain("host", LABEL), LABEL)
        with self.assertRaisesRegex(BadArgument, "a label of more than 63 octets"):
            ascii_domain("host", LABEL + "d")

    def test_a_domain_of_255_octets_passes_and_one_of_256_does_not(self) -> None:
        self.assertEqual(len(LONGEST_DOMAIN), MAX_DOMAIN_OCTETS)
        self.assertEqual(ascii_domain("host", LONGEST_DOMAIN), LONGEST_DOMAIN)
        longer = ".".join([LABEL, LABEL, LABEL, "d" * 62, "d"])
        self.assertEqual(len(longer), MAX_DOMAIN_OCTETS + 1)
        with self.assertRaisesRegex(BadArgument, "a domain of more than 255 octets"):
            ascii_domain("host", longer)

    def test_the_limits_of_a_domain_hold_for_its_a_labels(self) -> None:
        for domain in ("ü" * 60 + ".example", ".".join(["ü" * 20] * 12)):
            with self.assertRaises(BadArgument):
                ascii_domain("host", domain)

    def test_a_path_of_1000_octets_passes_and_one_of_1001_does_not(self) -> None:
        domain = "@" + LONGEST_DOMAIN
        longest = "l" * (MAX_PATH_OCTETS - len(domain))
        self.assertEqual(len(wire(longest + domain)), MAX_PATH_OCTETS)
        with self.assertRaisesRegex(BadArgument, "longer than 1000 octets"):
            wire(longest + "l" + domain)

    def test_a_path_is_counted_in_octets_not_characters(self) -> None:
        self.assertEqual(len(wire("ü" * 499 + "@d")), MAX_PATH_OCTETS)
        with self.assertRaises(BadArgument):
            wire("ü" * 500 + "@d")


class RefusedTests(SynchronousTestCase):
    NO_ADDRESSES = (
        "",
        "@",
        "alice",
        "@example.org",
        "alice@",
        "<alice@example.org>",
        "alice@example.org>",
        "alice@example.org> SIZE=1",
        "alice@example.org SIZE=1",
        "alice> SIZE=1@example.org",
        "a b@example.org",
        "alice@exam ple.org",
        " alice@example.org",
        "alice@example.org ",
        "alice\u3000@example.org",
        "alice@bob@example.org",
        "alice,bob@example.org",
        "alice;bob@example.org",
        "alice(comment)@example.org",
        "a\\b@example.org",
        "@relay.example:alice@example.org",
        "@relay.example,@other.example:alice@example.org",
        '"alice@example.org',
        'alice"@example.org',
        '"alice"b@example.org',
        '"al"ice"@example.org',
        '"alice\\"@example.org',
        '"alice> SIZE=1"@example.org',
        '"<alice"@example.org',
        '"alice\\>"@example.org',
        "alice@.example.org",
        "alice@example..org",
        "alice@example.org.",
        "alice@-example.org",
        "alice@example-.org",
        "alice@exam/ple.org",
        "alice@bücher..example",
        "alice@bü cher.example",
        "alice@bücher> SIZE=1",
        "alice@bücher＞.example",
        "alice@\u00ad",
        "alice@[192.0.2.1",
        "alice@192.0.2.1]",
        "alice@[192.0.2.256]",
        "alice@[192.0.2]",
        "alice@[2001:db8::1]",
        "alice@[IPv6:192.0.2.1]",
        "alice@[IPv6:2001:db8::1::]",
        "alice@[IPv6:fe80::1%eth0]",
        "alice@[IPv6:fe80::1%x> SIZE=1]",
        "alice@[IPv6:fe80::1]> SIZE=1",
        "alice@[ıPv6:2001:db8::1]",
        "alice@[x400:c=de]",
        "alice@[]",
        "alice@[",
        "post master",
        "postmaſter",
    )

    def test_what_ends_a_path_early_smuggles_a_parameter_or_is_no_address_is_refused(self) -> None:
        for address in self.NO_ADDRESSES:
            with self.assertRaises(BadArgument, msg=address):
                wire(address)

    def test_no_control_character_passes_anywhere(self) -> None:
        for control in CONTROLS:
            for address in (f"a{control}b@c.example", f'"a{control}"@c.example', f"a@c{control}.example"):
                for place in (address, address + control, control + address):
                    with self.assertRaisesRegex(BadArgument, rf"U\+{ord(control):04X} at character"):
                        wire(place)

    def test_no_control_character_passes_in_other_arguments(self) -> None:
        for control in CONTROLS:
            with self.assertRaises(BadArgument):
                refuse_controls("hostname", f"a{control}")
            with self.assertRaises(BadArgument):
                ascii_domain("hostname", f"a{control}")
        refuse_controls("hostname", " ~äé€🙂")

    def test_the_error_names_the_argument_and_shows_no_control_character(self) -> None:
        with self.assertRaises(BadArgument) as caught:
            Mailbox.parse("sender", "a\r\nRSET\r\n@b")
        self.assertEqual(caught.exception.field, "sender")
        self.assertTrue(str(caught.exception).startswith("sender: U+000D"))
        self.assertTrue(str(caught.exception).isprintable())


class AnyTextTests(SynchronousTestCase):
    @given(st.lists(st.one_of(st.text(max_size=5), TROUBLE, st.just("a@b")), max_size=12).map("".join))
    def test_any_text_is_refused_or_is_one_path_without_a_parameter(self, address: str) -> None:
        try:
            mailbox = Mailbox.parse("recipient", address)
        except BadArgument as refusal:
            self.assertEqual(refusal.field, "recipient")
            return
        path = mailbox.path(utf8=True)
        self.assertNotRegex(path, rb"[\x00-\x1f\x7f<>]")
        self.assertNotIn(b" ", re.sub(rb'^"(?:[^"\\]|\\.)*"@', b"", path))
        self.assertTrue(mailbox.domain.isascii())
        self.assertLessEqual(len(path), MAX_PATH_OCTETS)

    @given(st.lists(st.one_of(st.text(max_size=5), TROUBLE), max_size=12).map("".join))
    def test_any_text_is_refused_as_a_domain_or_is_ascii_and_stays_so(self, domain: str) -> None:
        try:
            once = ascii_domain("host", domain)
        except BadArgument:
            return
        self.assertRegex(once, r"\A(?:[A-Za-z0-9._-]+|\[[A-Za-z0-9:.]+\])\Z")
        self.assertEqual(ascii_domain("host", once), once)

"""
8bit messages made 7bit: what is re-encoded, what is not touched, what is refused.
"""

from __future__ import annotations

import email
import re
from email.message import Message

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import is_7bit
from pymail_tx.core.mime import MAX_BOUNDARY_OCTETS, MAX_DEPTH, MAX_PARTS, CannotDowngrade, seven_bit

LONG = b"x" * 999
MIME = b"MIME-Version: 1.0\r\n"


def crlf(text: str) -> bytes:
    """A message from a readable text."""
    return text.encode().replace(b"\n", b"\r\n")


def payloads(content: bytes) -> list[bytes]:
    """What a reader finds in the leafs, decoded."""
    found: list[bytes] = []
    for part in email.message_from_bytes(content).walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            found.append(payload)
    return found


def shape(message: Message) -> list[tuple[str, int]]:
    """Types and numbers of parts, in order."""
    return [(part.get_content_type(), len(part.get_payload()) if part.is_multipart() else 0) for part in message.walk()]


def without_mime_fields(content: bytes) -> list[bytes]:
    """The lines that no downgrade may change, in order: fields and boundary lines."""
    return re.findall(rb"(?m)^(?:Subject|Content-Type|X-Kept|--=_).*$", content)


class LeafTests(SynchronousTestCase):
    def test_7bit_content_is_returned_as_it_is(self) -> None:
        for content in (b"", b"Subject: x\r\n\r\nbody\r\n", b"no header\n", b"a: b\r\n\r\n" + b"x" * 998):
            self.assertIs(seven_bit(content), content)

    def test_text_with_few_8bit_octets_becomes_quoted_printable(self) -> None:
        before = crlf(
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
            "Content-Transfer-Encoding: 8bit\nX-Kept:  as it\n\tis\n\nGrüße = from somewhere \n.\nend"
        )
        after = crlf(
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
            "Content-Transfer-Encoding: quoted-printable\nX-Kept:  as it\n\tis\n\n"
            "Gr=C3=BC=C3=9Fe =3D from somewhere=20\n=2E\nend"
        )
        self.assertEqual(seven_bit(before), after)

    def test_text_with_many_8bit_octets_becomes_base64(self) -> None:
        before = MIME + crlf("Content-Type: text/plain; charset=utf-8\n\nжжжж\n")
        after = MIME + crlf(
            "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n0LbQttC20LYNCg==\n"
        )
        self.assertEqual(seven_bit(before), after)

    def test_what_is_not_text_becomes_base64(self) -> None:
        for media_type in ("image/png", "application/pkcs7-mime; smime-type=signed-data", "message/global"):
            before = MIME + f"Content-Type: {media_type}\r\n\r\n".encode() + b"mostly ascii \xff\r\n"
            self.assertIn(b"Content-Transfer-Encoding: base64\r\n\r\nbW9z", seven_bit(before))

    def test_the_field_is_replaced_with_its_folds_in_any_case(self) -> None:
        before = MIME + b"cONTENT-tRANSFER-eNCODING:\r\n \t8BIT\r\nSubject: x\r\n\r\n\xe9" + b"a" * 20
        after = MIME + b"Content-Transfer-Encoding: quoted-printable\r\nSubject: x\r\n\r\n=E9" + b"a" * 20
        self.assertEqual(seven_bit(before), after)

    def test_lines_over_998_octets_are_broken_softly(self) -> None:
        before = MIME + b"\r\n" + LONG + b"\r\n" + b"x" * 998
        after = seven_bit(before)
        self.assertTrue(is_7bit(after))
        self.assertEqual(payloads(after), payloads(before))
        self.assertLessEqual(max(map(len, after.split(b"\r\n"))), 76)

    def test_a_nul_is_encoded(self) -> None:
        self.assertTrue(seven_bit(MIME + b"\r\nabcdefghi\0\r\n").endswith(b"abcdefghi=00\r\n"))

    def test_a_message_without_mime_gets_what_says_so(self) -> None:
        added = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        encoding = b"Content-Transfer-Encoding: quoted-printable\r\n"
        before = b"Subject: x\r\n\r\nhallo \xe9!\r\n"
        self.assertEqual(seven_bit(before), b"Subject: x\r\n" + added + encoding + b"\r\nhallo =E9!\r\n")
        self.assertEqual(seven_bit(b"\r\nhallo \xe9!"), added + encoding + b"\r\nhallo =E9!")

    def test_ascii_text_without_mime_is_not_said_to_be_unknown(self) -> None:
        self.assertNotIn(b"charset", seven_bit(b"Subject: x\r\n\r\n" + LONG))

    def test_every_line_ending_convention_comes_out_as_crlf(self) -> None:
        text = MIME + b"\r\ngr\xfc\xdfe an alle Leute hier\r\n"
        for line_end in (b"\n", b"\r"):
            self.assertEqual(seven_bit(text.replace(b"\r\n", line_end)), seven_bit(text))

    def test_a_binary_part_is_encoded_octet_by_octet(self) -> None:
        before = MIME + b"Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\xff\r\n\xfe"
        self.assertEqual(payloads(seven_bit(before)), [b"\0\xff\r\n\xfe"])

    def test_a_binary_part_with_a_lone_lf_is_refused_since_it_would_change(self) -> None:
        before = MIME + b"Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\xff\n\xfe"
        with self.assertRaisesRegex(CannotDowngrade, "^5.6.3 a binary part"):
            seven_bit(before)

    def test_no_soft_line_break_makes_a_boundary_line(self) -> None:
        text = b"x" * 75 + b"--b\r\n" + b"\xe9\r\n"
        before = MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + text + b"--b--\r\n"
        self.assertEqual(payloads(seven_bit(before)), payloads(before))

    @given(
        st.lists(
            st.sampled_from([b"\r\n", b" ", b"\t", b"=", b".", b"--", b"\xe9", b"\0", b"a" * 20, b"b" * 75, LONG]),
            max_size=30,
        ).map(b"".join)
    )
    def test_any_text_decodes_to_itself_from_lines_of_76_octets(self, text: bytes) -> None:
        after = seven_bit(MIME + b"\r\n" + text + b"\xe9")
        self.assertTrue(is_7bit(after))
        self.assertEqual(payloads(after), [text + b"\xe9"])
        self.assertLessEqual(max(map(len, after.split(b"\r\n"))), 76)


class CompositeTests(SynchronousTestCase):
    NESTED = (
        'Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; charset=x; BOUNDARY="b \\"(1)"\n'
        "Content-Transfer-Encoding: 8bit\n\npreamble\n"
        '--b "(1) \t\nContent-Type: text/plain; charset=utf-8\n\none é of many letters\n'
        '--b "(1)1\nno boundary\n--b "(1)\n\ntwo\n'
        '--b "(1)\nContent-Type: message/rfc822\n\nSubject: inner\n\nthree é of many letters\n'
        '--b "(1)--  \nepilogue\n'
    )

    def test_only_what_must_change_changes(self) -> None:
        after = (
            self.NESTED.replace("Encoding: 8bit", "Encoding: 7bit")
            .replace("utf-8\n", "utf-8\nContent-Transfer-Encoding: quoted-printable\n")
            .replace(
                "inner\n",
                "inner\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n"
                "Content-Transfer-Encoding: quoted-printable\n",
            )
            .replace("é", "=C3=A9")
        )
        self.assertEqual(seven_bit(crlf(self.NESTED)), crlf(after))

    def test_a_boundary_may_be_the_beginning_of_a_nested_one(self) -> None:
        before = MIME + crlf(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/alternative; boundary=bb\n\n"
            "--bb\n\none é of many\n--bb\n\ntwo é of many\n--bb--\n--b\n\nthree é of many\n--b--\n"
        )
        after = seven_bit(before)
        self.assertEqual(after.count(b"=C3=A9"), 3)
        self.assertEqual(payloads(after), payloads(before))

    def test_a_part_ends_with_what_is_around_it_if_nothing_closes_it(self) -> None:
        before = MIME + crlf(
            "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n"
            "--b\n\none é of many\n--a\n\ntwo é of many"
        )
        self.assertEqual(payloads(seven_bit(before)), payloads(before))

    def test_empty_parts_and_parts_of_a_header_alone_are_kept(self) -> None:
        before = MIME + crlf(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\n--b\n\n--b\nX-Kept: x\n--b\n\n\n--b\n\né and more\n--b--"
        )
        self.assertEqual(seven_bit(before).replace(b"=C3=A9", "é".encode()).count(b"\r\n"), before.count(b"\r\n") + 1)
        self.assertEqual(payloads(seven_bit(before)), payloads(before))

    def test_the_parts_of_a_digest_are_messages(self) -> None:
        before = MIME + crlf(
            "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\né of many letters\n--b--\n"
        )
        self.assertEqual(
            seven_bit(before),
            MIME
            + crlf(
                "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\nMIME-Version: 1.0\n"
                "Content-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n"
                "=C3=A9 of many letters\n--b--\n"
            ),
        )

    def test_a_clean_signed_part_is_not_touched_beside_one_that_is_encoded(self) -> None:
        signed = crlf(
            'Content-Type: multipart/signed; boundary="s"\nContent-Transfer-Encoding: 8bit\n\n'
            "--s\nContent-Transfer-Encoding: 8bit\n\nsigned words \n--s\nContent-Type: x/y\n\nxxx\n--s--\n"
        )
        head = MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        after = seven_bit(head + signed + b"\r\n--b\r\n\r\n\xe9 of many\r\n--b--\r\n")
        self.assertTrue(after.startswith(head + signed))
        self.assertIn(b"=E9", after)


class RefusalTests(SynchronousTestCase):
    HEADERS = (
        ("Content-Type: multipart/signed; boundary=b", "multipart/signed"),
        ("Content-Type: Multipart/Encrypted; boundary=b", "multipart/encrypted"),
        ("Content-Type: message/partial; id=x", "message/partial"),
        ("Content-Type: message/external-body", "message/external-body"),
        ("Content-Type: message/delivery-status", "message/delivery-status"),
        ("Content-Type: multipart/mixed", "boundary"),
        ('Content-Type: multipart/mixed; boundary=""', "boundary"),
        ('Content-Type: multipart/mixed; boundary="b', "boundary"),
        ('Content-Type: multipart/mixed; boundary="b "', "boundary"),
        ("Content-Type: multipart/mixed; boundary=a; boundary=b", "boundary"),
        ('Content-Type: multipart/mixed; x="; boundary=b', "boundary"),
        ("Content-Type: multipart/mixed (x); boundary=b", "boundary"),
        ("Content-Type: multipart/mixed; boundary=c", "outside of its parts"),
        ("Content-Type: multipart", "cannot be read"),
        ("Content-Type: (x) multipart/mixed; boundary=b", "cannot be read"),
        ("Content-Type:", "cannot be read"),
        (f"Content-Type: {'x' * 128}/y", "cannot be read"),
        ("Content-Transfer-Encoding: base64", "encoded already"),
        ("Content-Transfer-Encoding: quoted-printable", "encoded already"),
        ("Content-Transfer-Encoding: x-uuencode", "encoded already"),
        ("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", "encoded already"),
        ("Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64", "encoded already"),
        ("Content-Type: text/plain\r\nContent-Type: text/html", "twice"),
        ("Content-Transfer-Encoding: 8bit\r\ncontent-transfer-encoding: 8bit", "twice"),
        ("MIME-Version: 1.0", "twice"),
        ("no field", "no field"),
        ("Name : obsolete", "no field"),
        ("From alice Mon Nov  3 10:00:00 2025", "no field"),
    )  # fmt: skip
    BODY = b"\r\n\r\n--b\r\n\r\nwords %b\r\n--b--\r\n"

    def test_8bit_content_that_may_not_be_encoded_is_refused_with_the_reason(self) -> None:
        for header, reason in self.HEADERS:
            with self.assertRaises(CannotDowngrade) as caught:
                seven_bit(MIME + header.encode() + self.BODY % b"\xe9")
            self.assertEqual(caught.exception.enhanced, "5.6.3", header)
            self.assertRegex(str(caught.exception), "^5.6.3 .*" + reason, header)

    def test_ascii_content_that_may_not_be_encoded_keeps_its_long_lines(self) -> None:
        for header, _ in self.HEADERS:
            content = MIME + header.encode() + self.BODY % LONG
            self.assertEqual(seven_bit(content), content, header)

    def test_8bit_octets_in_a_header_need_smtputf8_wherever_it_stands(self) -> None:
        part = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n%b\r\n--b--\r\n"
        for content in (
            b"Subject: \xc3\xa9\r\n" + MIME + b"\r\nbody\r\n",
            b"Subject: \xc3\xa9\r\n",
            MIME + part % b"Content-Disposition: attachment; filename=\xe9\r\n\r\nbody",
            MIME + part % b"Content-Disposition: attachment; filename=\xe9",
            MIME + part % b"Content-Type: message/rfc822\r\n\r\nTo: \xe9\r\n\r\nbody",
        ):
            with self.assertRaises(CannotDowngrade) as caught:
                seven_bit(content)
            self.assertEqual(caught.exception.enhanced, "5.6.9", content)

    def test_8bit_octets_outside_of_the_parts_are_refused(self) -> None:
        around = MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n%b\r\n--b\r\n\r\nx\r\n--b--\r\n%b\r\n"
        for preamble, epilogue in ((b"\xe9", b""), (b"", b"\xe9")):
            with self.assertRaisesRegex(CannotDowngrade, "outside of its parts"):
                seven_bit(around % (preamble, epilogue))

    def test_long_lines_in_headers_and_outside_of_the_parts_stay(self) -> None:
        content = (
            b"Subject: %b\r\n" % LONG
            + MIME
            + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n%b\r\n--b\r\n\r\nx\r\n--b--\r\n%b\r\n" % (LONG, LONG)
        )
        self.assertEqual(seven_bit(content), content)

    def test_content_without_any_header_is_refused(self) -> None:
        with self.assertRaisesRegex(CannotDowngrade, "^5.6.3 a header line"):
            seven_bit(b"gr\xfc\xdfe\r\n")


class LimitTests(SynchronousTestCase):
    @staticmethod
    def nested(levels: int, body: bytes = b"\xe9") -> bytes:
        """A leaf in so many multiparts."""
        heads = [b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(levels)]
        return MIME + b"".join(heads) + b"\r\n" + body

    @staticmethod
    def parted(parts: int) -> bytes:
        head = MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        return head + b"--b\r\n\r\nx\r\n" * (parts - 1) + b"--b\r\n\r\n\xe9 and more\r\n--b--\r\n"

    def test_32_levels_are_gone_down_and_33_are_refused(self) -> None:
        self.assertTrue(is_7bit(seven_bit(self.nested(MAX_DEPTH))))
        with self.assertRaisesRegex(CannotDowngrade, "^5.6.3 nested more than 32 deep"):
            seven_bit(self.nested(MAX_DEPTH + 1))

    def test_messages_in_messages_count_too(self) -> None:
        forward = b"Content-Type: message/rfc822\r\n\r\n"
        self.assertTrue(is_7bit(seven_bit(forward * MAX_DEPTH + b"\r\n\xe9")))
        with self.assertRaisesRegex(CannotDowngrade, "deep"):
            seven_bit(forward * (MAX_DEPTH + 1) + b"\r\n\xe9")

    def test_10000_entities_are_looked_at_and_one_more_is_refused(self) -> None:
        self.assertTrue(is_7bit(seven_bit(self.parted(MAX_PARTS - 1))))
        with self.assertRaisesRegex(CannotDowngrade, "^5.6.3 more than 10000 parts"):
            seven_bit(self.parted(MAX_PARTS))

    def test_a_boundary_of_256_octets_is_used_and_one_of_257_is_not(self) -> None:
        def content(size: int) -> bytes:
            boundary = b"b" * size
            return MIME + b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n\r\n\xe9" % (boundary, boundary)

        self.assertTrue(is_7bit(seven_bit(content(MAX_BOUNDARY_OCTETS))))
        with self.assertRaisesRegex(CannotDowngrade, "boundary"):
            seven_bit(content(MAX_BOUNDARY_OCTETS + 1))

    def test_a_type_of_127_octets_on_each_side_is_read(self) -> None:
        head = MIME + b"Content-Type: %b/%b\r\n\r\n" % (b"x" * 127, b"y" * 127)
        self.assertTrue(is_7bit(seven_bit(head + b"\xe9")))

    def test_hostile_content_of_4_mib_is_done_in_time_that_grows_no_faster_than_it(self) -> None:
        size = 4 * 2**20
        boundaries_that_are_none = b"--b0x\r\n" * (size // 7) + b"\xe9"
        for content in (
            self.nested(MAX_DEPTH, boundaries_that_are_none),
            self.nested(MAX_DEPTH, b"\r\n" * (size // 2) + b"\xe9"),
            b"a:\r\n" * (size // 4) + b"\r\n\xe9",
            b"Content-Type: multipart/mixed" + b";" * size + b"\r\n\r\n\xe9",
            b'Content-Type: multipart/mixed; boundary="' + b"\\" * size + b"\r\n\r\n\xe9",
            b"Content-Type: multipart/mixed" + b";a=b" * (size // 4) + b"\r\n\r\n\xe9",
            b"Content-Type: multipart/mixed" + b";boundary=b" * (size // 11) + b"\r\n\r\n\xe9",
            b"Content-Type: x/y\r\n" * (size // 19) + b"\r\n\xe9",
            MIME + b"\r\n" + b"=" * size + b"\xe9",
            MIME + b"\r\n" + b"\xe9\r\n" * (size // 3),
        ):
            try:
                self.assertTrue(is_7bit(seven_bit(content).partition(b"\r\n\r\n")[2]))
            except CannotDowngrade:
                continue


WORDS = st.sampled_from([b"a word ", b"\xc3\xa9", b"\xff", b"=", b".", b" ", b"\t", b"\r\n", b"-", LONG])
BODIES = st.lists(WORDS, max_size=8).map(b"".join)


@frozen
class Drawn:
    """A part as hypothesis made it: its octets, and how many boundaries its inside has used."""

    octets: bytes
    level: int = 0


@st.composite
def leafs(draw: st.DrawFn) -> Drawn:
    fields = draw(st.sampled_from([b"", b"Content-Type: text/html\r\n", b"Content-Type: image/png; name=x\r\n"]))
    encoding = draw(
        st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:7BIT\r\n"])
    )
    return Drawn(encoding + b"X-Kept: x\r\n y\r\n" + fields + b"\r\n" + draw(BODIES))


@st.composite
def multiparts(draw: st.DrawFn, children: st.SearchStrategy[Drawn]) -> Drawn:
    """A multipart whose boundary begins with those of its parts' own, or is their beginning."""
    parts = draw(st.lists(children, min_size=1, max_size=3))
    level = 1 + max(part.level for part in parts)
    boundary = draw(st.sampled_from([b"%d" % level, b"=" * level, b"=%d=" % level]))
    boundary = b"=_" + boundary
    return Drawn(
        draw(st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n"]))
        + b'Content-Type: multipart/mixed;\r\n boundary="%b"\r\n\r\npreamble' % boundary
        + b"".join(b"\r\n--%b\r\n%b" % (boundary, part.octets) for part in parts)
        + b"\r\n--%b--\r\nepilogue" % boundary,
        level,
    )


def forwarded(inner: Drawn) -> Drawn:
    return Drawn(b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n" + MIME + inner.octets, inner.level)


ENTITIES = st.recursive(leafs(), lambda children: multiparts(children) | children.map(forwarded), max_leaves=8)


class NestedTests(SynchronousTestCase):
    @given(ENTITIES)
    def test_every_reader_finds_the_same_in_what_is_7bit_now(self, entity: Drawn) -> None:
        before = b"Subject: x\r\n" + MIME + entity.octets
        after = seven_bit(before)
        self.assertTrue(is_7bit(after))
        self.assertEqual(payloads(after), payloads(before))
        self.assertEqual(shape(email.message_from_bytes(after)), shape(email.message_from_bytes(before)))

    @given(ENTITIES)
    def test_fields_and_boundary_lines_stay_octet_by_octet(self, entity: Drawn) -> None:
        before = b"Subject: x\r\n" + MIME + entity.octets
        self.assertEqual(without_mime_fields(seven_bit(before)), without_mime_fields(before))

    @given(ENTITIES)
    def test_what_is_7bit_now_stays_as_it_is(self, entity: Drawn) -> None:
        once = seven_bit(MIME + entity.octets)
        self.assertIs(seven_bit(once), once)

    @given(st.lists(st.one_of(st.binary(max_size=20), WORDS, st.sampled_from([
        MIME, b"\r\n", b"\r\n\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n", b"\r\n--b\r\n", b"\r\n--b--\r\n",
        b"Content-Type: message/rfc822\r\n", b"Content-Transfer-Encoding: binary\r\n", b"a:", b'Content-Type: "',
    ])), max_size=30).map(b"".join))  # fmt: skip
    def test_of_any_octets_the_result_is_ascii_or_refused(self, content: bytes) -> None:
        try:
            self.assertTrue(seven_bit(content).isascii())
        except CannotDowngrade as refusal:
            self.assertIn(refusal.enhanced, ("5.6.3", "5.6.9"))

"""
The one header field that the way of a message depends on.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import Content
from pymail_tx.core.tlsrequired import MAX_HEADER_OCTETS, says_tls_is_optional


def _says(content: bytes) -> bool:
    return says_tls_is_optional(Content.of(content))


class TLSRequired(SynchronousTestCase):
    def test_no_is_heard_in_any_case_place_and_line_ending(self) -> None:
        for field in (b"TLS-Required: No", b"tls-required:no", b"TLS-REQUIRED :\tNO  "):
            for end in (b"\r\n", b"\n", b"\r"):
                self.assertTrue(_says(end.join([field, b"Subject: x", b"", b"body"])), field)
                self.assertTrue(_says(end.join([b"Subject: x", field, b"", b"body"])), field)
                self.assertTrue(_says(end.join([b"Subject: x", field])), field)

    def test_nothing_else_is(self) -> None:
        for header in (
            b"Subject: x",
            b"TLS-Required: Yes",
            b"TLS-Required: No, really",
            b"X-TLS-Required: No",
            b"Subject: TLS-Required: No",
            b"Subject: x\r\n TLS-Required: No",
            b"",
        ):
            self.assertFalse(_says(header + b"\r\n\r\nbody\r\n"), header)

    def test_nor_is_it_in_the_body(self) -> None:
        self.assertFalse(_says(b"Subject: x\r\n\r\nTLS-Required: No\r\n"))
        self.assertFalse(_says(b"Subject: x\n\nTLS-Required: No\n"))
        self.assertFalse(_says(b"\r\nTLS-Required: No\r\n"))

    def test_a_block_is_looked_through_and_no_more(self) -> None:
        field = b"TLS-Required: No\r\n"
        filling = b"X: " + b"y" * (MAX_HEADER_OCTETS - len(field) - 5) + b"\r\n"
        self.assertTrue(_says(filling + field + b"\r\n"))
        self.assertFalse(_says(b"XXX" + filling + field + b"\r\n"))

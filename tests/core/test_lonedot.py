"""
No line of one dot gets past the guard, whatever ends a line.
"""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.lonedot import LoneDot

_PIECES = st.lists(st.lists(st.sampled_from((b"\r", b"\n", b".", b"\0", b"x"))).map(b"".join), max_size=8)


def _found(*pieces: bytes) -> bool:
    guard = LoneDot()
    return True in [guard.found_in(piece) for piece in pieces]


class LoneDotTests(SynchronousTestCase):
    def test_a_line_of_one_dot_is_found_under_every_line_ending_convention(self) -> None:
        for before in (b"\r\n", b"\n", b"\r", b"\n\r"):
            for after in (b"\r\n", b"\n", b"\r"):
                self.assertTrue(_found(b"x" + before + b"." + after + b"x"), (before, after))

    def test_the_start_of_the_content_is_the_start_of_a_line(self) -> None:
        self.assertTrue(_found(b".\r\n"))
        self.assertTrue(_found(b".", b"\n"))

    def test_nuls_are_looked_through(self) -> None:
        self.assertTrue(_found(b"x\r\n\0.\0\r\n"))
        self.assertTrue(_found(b"x\r\n\0", b"\0", b".\0", b"\n"))

    def test_a_dot_with_company_is_no_lone_dot(self) -> None:
        for content in (b"..\r\n", b".x\r\n", b"x.\r\n", b". \r\n", b"x\r\n..\r\n"):
            self.assertFalse(_found(content), content)

    def test_at_the_end_a_last_line_of_one_dot_is_found(self) -> None:
        for content, found in (
            (b".", True),
            (b"x\r\n.", True),
            (b"x\n.\0", True),
            (b"..", False),
            (b"x.", False),
            (b"", False),
        ):
            guard = LoneDot()
            guard.found_in(content)
            self.assertEqual(guard.found_at_end(), found, content)

    @given(_PIECES)
    @example([b"\r\n", b".", b"\r"])
    def test_however_the_content_is_cut_the_same_is_found(self, pieces: list[bytes]) -> None:
        whole = b"".join(pieces)
        lines = re.split(b"[\r\n]", whole.replace(b"\0", b""))
        guard = LoneDot()
        found = [guard.found_in(piece) for piece in pieces]
        self.assertEqual(True in found, b"." in lines[:-1])
        self.assertEqual(guard.found_at_end(), lines[-1] == b".")

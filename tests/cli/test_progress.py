"""
A bar for large messages, on a terminal only.
"""

from __future__ import annotations

import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.cli.progress import FROM_OCTETS, shown_for
from tests.cli.processes import on_a_terminal

_PROGRAM = """
import sys
from pymail_tx.cli.progress import shown_for
octets = int(sys.argv[1])
with shown_for(octets) as sent:
    if sent:
        sent(octets // 2)
        sent(octets * 2)
"""


class Bar(SynchronousTestCase):
    timeout = 60

    def on_a_terminal(self, octets: int) -> str:
        status, seen = on_a_terminal(sys.executable, "-c", _PROGRAM, str(octets))
        self.assertEqual(status, 0)
        return seen

    def test_it_is_shown_above_1_mib_and_ends_full(self) -> None:
        self.assertIn("2.0/2.0 MiB", self.on_a_terminal(2 * FROM_OCTETS))

    def test_it_is_not_shown_up_to_1_mib(self) -> None:
        self.assertEqual(self.on_a_terminal(FROM_OCTETS), "")

    def test_it_is_not_shown_off_a_terminal(self) -> None:
        with open(os.devnull, "w") as nowhere:
            self.patch(sys, "stderr", nowhere)
            with shown_for(2 * FROM_OCTETS) as sent:
                self.assertIsNone(sent)

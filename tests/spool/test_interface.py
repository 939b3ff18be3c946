"""
What may be handed to a spool at all.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.spool.interface import NewMessage
from tests.spool.turns import message


class NewMessageTests(SynchronousTestCase):
    def test_a_message_without_recipients_is_refused(self) -> None:
        with self.assertRaisesRegex(BadArgument, "recipients"):
            NewMessage(envelope=Envelope("", ()), content=b"")

    def test_a_message_that_could_not_be_sent_is_refused(self) -> None:
        for sender, recipient in (("nobody", "bob@example.net"), ("", "bob@example.net>\r\nDATA")):
            with self.assertRaises(BadArgument):
                message(recipient, sender=sender)

    def test_content_does_not_show_in_a_repr(self) -> None:
        self.assertIn("<6 octets>", repr(message(content=b"secret")))
        self.assertNotIn("secret", repr(message(content=b"secret")))

"""
A message handed in twice under one key is one message, for a day behind its end.
"""

from __future__ import annotations

from hashlib import sha256

from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Peer, Status, by_reason
from pymail_tx.spool.interface import KEY_LIFE_S, MAX_KEY_CHARACTERS, IdempotencyKey, KeyTaken, NewMessage, Result
from tests.spool.turns import SpoolTestCase, message

NOW = 1_700_000_000.0


class KeyTests(SpoolTestCase):
    def hand_in(
        self,
        *recipients: str | Recipient,
        key: str = "order-17",
        sender: str = "alice@example.org",
        submitter: str = "user:alice",
        content: bytes = b"hello\r\n",
        now: float = NOW,
    ) -> Deferred[int]:
        new = NewMessage(
            envelope=Envelope(sender, recipients or ("bob@example.net",)),
            content=b"Received: now\r\n" + content,
            submitter=submitter,
            key=IdempotencyKey(text=key, digest=sha256(content).digest()),
        )
        handed_in = self.spool.accept(new, now=now)
        self.turns.run()
        return handed_in

    def end(self, now: float = NOW) -> None:
        for due in self.got(self.spool.claim(now=now, limit=100, max_octets=10_000)):
            outcome = by_reason("bob@example.net", Status.DELIVERED, "2.0.0 ok", Peer())
            results = [Result(delivery_id=one.id, outcome=outcome, next_attempt_at=None) for one in due.deliveries]
            self.got(self.spool.record(results, now=now))

    def waiting(self) -> int:
        return len(self.got(self.spool.claim(now=NOW, limit=100, max_octets=10_000)))

    def test_the_same_again_is_the_message_that_was_accepted_before(self) -> None:
        first = self.successResultOf(self.hand_in())
        self.assertEqual(self.successResultOf(self.hand_in(now=NOW + 60)), first)
        self.assertEqual(self.waiting(), 1)

    def test_both_in_one_commit_are_one_message(self) -> None:
        new = NewMessage(
            envelope=Envelope("", ["b@example.net"]), content=b"", key=IdempotencyKey(text="k", digest=b"")
        )
        numbers = [self.spool.accept(new, now=NOW) for _ in range(3)]
        self.turns.run()
        self.assertEqual({self.successResultOf(one) for one in numbers}, {1})

    def test_anything_else_under_the_key_is_refused_and_nothing_stored(self) -> None:
        self.successResultOf(self.hand_in())
        for other in (
            self.hand_in(content=b"another\r\n"),
            self.hand_in("eve@example.net"),
            self.hand_in("bob@example.net", "eve@example.net"),
            self.hand_in(Recipient("bob@example.net", notify="NEVER")),
            self.hand_in(sender="mallory@example.org"),
        ):
            self.assertIn("'order-17'", str(self.failureResultOf(other, KeyTaken).value))
        self.assertEqual(self.waiting(), 1)

    def test_a_refusal_harms_nobody_in_the_same_commit(self) -> None:
        self.successResultOf(self.hand_in())
        self.spool.accept(message("eve@example.net"), now=NOW)
        self.failureResultOf(self.hand_in(content=b"another\r\n"), KeyTaken)
        self.assertEqual(self.waiting(), 2)

    def test_the_keys_of_others_are_their_own(self) -> None:
        self.assertNotEqual(
            self.successResultOf(self.hand_in()), self.successResultOf(self.hand_in(submitter="user:bob"))
        )

    def test_a_key_outlives_its_message_by_a_day(self) -> None:
        first = self.successResultOf(self.hand_in())
        self.end(now=NOW + 5)
        repeated = self.hand_in(now=NOW + 5 + KEY_LIFE_S - 1)
        self.assertEqual(self.successResultOf(repeated), first)
        self.assertGreater(self.successResultOf(self.hand_in(now=NOW + 5 + KEY_LIFE_S)), first)

    def test_a_key_lives_as_long_as_its_message_however_long_that_is(self) -> None:
        first = self.successResultOf(self.hand_in())
        self.assertEqual(self.successResultOf(self.hand_in(now=NOW + 100 * KEY_LIFE_S)), first)

    def test_keys_that_have_expired_are_forgotten(self) -> None:
        self.hand_in()
        self.end()
        self.got(self.spool.claim(now=NOW + KEY_LIFE_S, limit=1, max_octets=1))
        self.assertEqual(self.spool._tables._database.execute("SELECT * FROM keys").fetchall(), [])

    def test_content_that_was_written_for_nothing_is_dropped(self) -> None:
        def new() -> NewMessage:
            writer = self.spool.begin_content()
            self.got(writer.write(bytes(100_000)))
            key = IdempotencyKey(text="k", digest=b"zeros")
            return NewMessage(envelope=Envelope("", ["bob@example.net"]), content=writer, key=key)

        first, again = (self.got(self.spool.accept_and_claim(new(), now=NOW)) for _ in range(2))
        self.assertEqual([again.message_id, again.due], [first.message_id, None])
        self.assertEqual(self.spool._tables._database.execute("SELECT count(*) FROM parts").fetchall(), [(2,)])

    def test_the_longest_key_is_taken_and_one_character_more_is_not(self) -> None:
        self.successResultOf(self.hand_in(key="k" * MAX_KEY_CHARACTERS))
        for key in ("", "k" * (MAX_KEY_CHARACTERS + 1)):
            with self.assertRaises(BadArgument):
                self.hand_in(key=key)

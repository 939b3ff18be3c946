"""
Each route's target has its courier, and what cannot be delivered to is said at
the start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Status
from pymail_tx.core.routes import Routes
from pymail_tx.core.routing import Ourselves
from pymail_tx.net.internet import Asked
from pymail_tx.relay.couriers import AgentCourier, BadRoutes, Couriers, Surroundings
from pymail_tx.relay.maildir import MaildirCourier
from tests.net.scripted_dns import ScriptedDNS, ScriptedPolicies

_ENVELOPE = Envelope("joe@example.org", ["ann@example.com", "bob@example.com"])


def _at_once(function: Callable[[], None]) -> Deferred[None]:
    return execute(function)


class CouriersCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.environment = {"RELAY_PASSWORD": "Zq7"}
        self.asked: Asked | None = None

    def couriers(self, *routes: str, kept: Couriers | None = None) -> Couriers:
        surroundings = Surroundings(
            reactor=self.reactor,
            hostname="relay.example",
            wall_clock=lambda: 1_700_000_000.0,
            new_token=lambda: "T0K3N",
            run_in_thread=_at_once,
            environment=self.environment,
            asked=partial(evolve, self.asked) if self.asked else None,
        )
        return Couriers.of(Routes.parse(routes), surroundings, kept)

    def verdict(self, route: str) -> list[tuple[str, Status, str]]:
        sending = self.couriers(route).courier_for("example.com").send(_ENVELOPE, b"Subject: x\r\n\r\n")
        report = self.successResultOf(sending)
        return [(outcome.recipient, outcome.status, outcome.reason) for outcome in report.outcomes]


class Delivering(CouriersCase):
    def test_discard_says_delivered(self) -> None:
        reason = "2.0.0 discarded, as its route says"
        self.assertEqual(
            self.verdict("*=discard:"),
            [("ann@example.com", Status.DELIVERED, reason), ("bob@example.com", Status.DELIVERED, reason)],
        )

    def test_reject_fails_what_was_accepted_under_another_route(self) -> None:
        self.assertEqual(self.verdict("*=reject:go away")[0], ("ann@example.com", Status.FAILED, "5.7.1 go away"))

    def test_mail_whose_route_is_gone_waits(self) -> None:
        [(_, status, reason), _] = self.verdict("example.org=discard:")
        self.assertEqual((status, reason[:5]), (Status.DEFERRED, "4.4.4"))

    def test_maildir_delivers(self) -> None:
        path = self.mktemp()
        self.assertIs(self.verdict(f"*=maildir:{path}")[0][1], Status.DELIVERED)
        self.assertEqual(len(list(Path(path, "new").iterdir())), 1)

    def test_smtp_connects_to_its_server(self) -> None:
        self.couriers("*=smtp://127.0.0.1:2526").courier_for("example.com").send(_ENVELOPE, b"x\r\n")
        self.assertEqual(self.reactor.tcpClients[0][:2], ("127.0.0.1", 2526))


class ByDNS(CouriersCase):
    def test_mx_and_dane_ask_whom_the_relay_asks(self) -> None:
        dns = ScriptedDNS(self.reactor)
        dns.has_mx("example.com", "relay.example")
        self.asked = Asked(dns, ScriptedPolicies(), Ourselves(names=["relay.example"]))
        for route, status, code in (
            ("*=mx:", Status.FAILED, "5.4.6"),
            ("*=smtp://relay.example?tls=dane", Status.DEFERRED, "4.4.4"),
            ("*=lmtp://relay.example:24?tls=dane", Status.DEFERRED, "4.4.4"),
        ):
            found = [(found, reason[:5]) for _, found, reason in self.verdict(route)]
            self.assertEqual(found, [(status, code)] * 2)

    def test_without_anybody_to_ask_it_finds_its_own(self) -> None:
        for route in ("*=mx:", "*=smtp://h?tls=dane"):
            couriers = self.couriers(route)
            self.assertIsInstance(couriers.courier_for("example.com"), AgentCourier)
            self.successResultOf(couriers.close())
            self.assertEqual(self.reactor.getDelayedCalls(), [])


class Picking(CouriersCase):
    def test_routes_with_the_same_target_share_a_courier(self) -> None:
        couriers = self.couriers("example.org=smtp://h", "example.net=smtp://h:25", "*=smtp://other")
        self.assertIs(couriers.courier_for("example.org"), couriers.courier_for("example.net"))
        self.assertIsNot(couriers.courier_for("example.org"), couriers.courier_for("example.com"))

    def test_the_first_route_that_matches_decides(self) -> None:
        couriers = self.couriers("example.org=maildir:m", "*=smtp://h")
        self.assertIsInstance(couriers.courier_for("example.org"), MaildirCourier)
        self.assertIsInstance(couriers.courier_for("example.com"), AgentCourier)

    def test_a_courier_is_named_by_its_target_without_its_password(self) -> None:
        for route, key in {
            "*=smtp://joe:Zq7@h": "smtp://joe:<secret>@h:25?tls=verified",
            "*=maildir:var/mail": "maildir:var/mail",
            "*=mx:": "mx:?port=25",
            "*=mx:?tls=dane": "mx:?port=25&tls=dane",
            "*=discard:": "discard:",
            "*=reject:no": "reject:no",
        }.items():
            courier = self.couriers(route).courier_for("example.org")
            self.assertEqual(courier.key, key)
            self.assertNotIn("Zq7", repr(courier))

    def test_closing_closes_them_all(self) -> None:
        couriers = self.couriers("a.example=smtp://h", "b.example=maildir:m", "*=discard:")
        self.assertIsNone(self.successResultOf(couriers.close()))
        sending = couriers.courier_for("a.example").send(_ENVELOPE, b"")
        self.assertIn("closed", self.failureResultOf(sending).getErrorMessage())


class Changing(CouriersCase):
    def test_a_courier_whose_target_is_still_there_serves_on(self) -> None:
        before = self.couriers("*=smtp://h")
        after = self.couriers("example.org=smtp://h", "*=smtp://other", kept=before)
        self.assertIs(after.courier_for("example.org"), before.courier_for("example.org"))
        self.assertEqual(before.without(after), [])

    def test_those_that_serve_no_more_are_told(self) -> None:
        before = self.couriers("example.org=smtp://h", "*=smtp://other")
        after = self.couriers("*=smtp://h", kept=before)
        self.assertEqual(before.without(after), [before.courier_for("example.com")])

    def test_a_password_that_is_kept_elsewhere_is_read_again(self) -> None:
        before = self.couriers("*=smtp://joe@h?password_env=RELAY_PASSWORD")
        after = self.couriers("*=smtp://joe@h?password_env=RELAY_PASSWORD", kept=before)
        self.assertIsNot(after.courier_for("example.org"), before.courier_for("example.org"))

    def test_all_targets_that_cannot_be_delivered_to_are_told_at_once(self) -> None:
        no_password = "smtp://joe@{}?password_env=OTHER"
        routes = (f"a.example={no_password.format('a')}", "b.example=discard:", f"*={no_password.format('b')}")
        wrong = self.assertRaises(BadRoutes, self.couriers, *routes)
        self.assertEqual(list(wrong.problems), [0, 2])


class Named(CouriersCase):
    def test_an_operators_target_has_its_courier_made_once(self) -> None:
        couriers = self.couriers("*=maildir:m")
        named = couriers.courier_to("smtp://backup.example.net:2525")
        self.assertIsInstance(named, AgentCourier)
        self.assertIs(couriers.courier_to("smtp://backup.example.net:2525"), named)

    def test_a_target_that_a_route_has_too_shares_its_courier(self) -> None:
        couriers = self.couriers("example.org=smtp://h", "*=discard:")
        self.assertIs(couriers.courier_to("smtp://h:25"), couriers.courier_for("example.org"))

    def test_what_is_no_target_is_refused(self) -> None:
        with self.assertRaises(BadArgument):
            self.couriers("*=discard:").courier_to("nowhere")

    def test_closing_closes_it_too(self) -> None:
        couriers = self.couriers("*=discard:")
        named = couriers.courier_to("smtp://h")
        self.assertIsNone(self.successResultOf(couriers.close()))
        self.assertIn("closed", self.failureResultOf(named.send(_ENVELOPE, b"")).getErrorMessage())

    def test_one_that_an_operator_named_is_told_among_those_that_serve_no_more(self) -> None:
        before = self.couriers("*=discard:")
        named = before.courier_to("smtp://h")
        self.assertEqual(before.without(self.couriers("*=discard:", kept=before)), [named])


class Passwords(CouriersCase):
    def test_a_password_is_read_from_the_environment(self) -> None:
        self.assertIsNotNone(self.couriers("*=smtp://joe@h?password_env=RELAY_PASSWORD"))
        self._refused("*=smtp://joe@h?password_env=OTHER", "there is no password in OTHER")

    def test_a_password_is_the_first_line_of_its_file(self) -> None:
        path = Path(self.mktemp())
        for octets in (b"Zq7", b"Zq7\n", b"Zq7\r\nmore\n", "pä ß\n".encode()):
            path.write_bytes(octets)
            self.assertIsNotNone(self.couriers(f"*=smtp://joe@h?password_file={path}"))
        for octets, words in ((b"", "there is no password in"), (b"\nZq7\n", "there is no"), (b"\xff\n", "not UTF-8")):
            path.write_bytes(octets)
            self._refused(f"*=smtp://joe@h?password_file={path}", words)

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        self._refused("*=smtp://joe@h?password_file=/nowhere", "cannot read /nowhere: No such file or directory")

    def _refused(self, route: str, words: str) -> None:
        error = self.assertRaises(BadArgument, self.couriers, route)
        self.assertIn(words, str(error))
        self.assertIn(route[:6], str(error))
        self.assertNotIn("Zq7", str(error))

"""
The internet's way: host after host, until each recipient has a verdict.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SkipTest

from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.core.routing import Ourselves
from pymail_tx.net import internet
from tests.net.internet_case import InternetCase
from tests.net.loopback import HANG_UP, SILENCE, Script, Server
from tests.net.scripted_dns import ScriptedDNS
from tests.net.test_eyeballs import has_ipv6

BOB, CAT, DAN = "bob@example.org", "cat@example.org", "dan@example.org"
DELIVERED = "EHLO MAIL RCPT DATA . QUIT"


class TwoHostsCase(InternetCase):
    def setUp(self) -> None:
        super().setUp()
        self.dns.has_mx("example.org", "mx1.example", "mx2.example")

    def two_hosts(self, first: Script | None = None, second: Script | None = None) -> tuple[Server, Server]:
        return self.host("mx1.example", "127.0.0.2", first), self.host("mx2.example", "127.0.0.3", second)


class HostAfterHost(TwoHostsCase):
    async def test_the_host_that_the_domain_prefers_gets_the_message(self) -> None:
        first, second = self.two_hosts()
        outcomes = await self.send(BOB)
        self.is_found(outcomes, ("delivered", "2.0.0 queued", "mx1.example"))
        self.assertEqual(outcomes[0].port, self.port)
        self.assertEqual((first.conversations, second.conversations), ([DELIVERED], []))

    async def test_a_host_that_refuses_the_connection_is_passed_over(self) -> None:
        self.nobody_at("mx1.example", "127.0.0.2")
        second = self.host("mx2.example", "127.0.0.3")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx2.example"))
        self.assertEqual(second.conversations, [DELIVERED])

    async def test_all_addresses_of_a_host_are_tried_before_the_next_host(self) -> None:
        first, second = self.two_hosts()
        self.dns.has_addresses("mx1.example", "127.0.0.9", "127.0.0.2")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx1.example"))
        self.assertEqual((first.conversations, second.conversations), ([DELIVERED], []))

    async def test_a_host_has_addresses_of_both_families(self) -> None:
        if not has_ipv6():
            raise SkipTest("NOT TESTED: this machine has no IPv6, not even on loopback")
        self.nobody_at("mx1.example", "127.0.0.9")
        first = self.host("mx1.example", "::1")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx1.example"))
        self.assertEqual(first.conversations, [DELIVERED])
        self.uses(us=Ourselves(addresses=["::1"]))
        self.is_found(await self.send(BOB), ("failed", "5.4.6", None))

    async def test_a_host_that_will_not_talk_is_passed_over_whatever_its_digit(self) -> None:
        first, second = self.two_hosts()
        for greeting in (b"421 busy", b"554 not you", b"521 no mail here", b"556 nor here", b"nonsense", HANG_UP):
            first.script.greeting = greeting
            self.uses()
            self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx2.example"))
        self.assertEqual(second.conversations, [DELIVERED] * 6)

    async def test_a_4xx_goes_on_to_the_next_host_wherever_it_was_said(self) -> None:
        first, _ = self.two_hosts()
        for verb in ("EHLO", "MAIL", "RCPT", "DATA", "."):
            first.script.replies = {verb: b"451 4.3.0 later"}
            self.uses()
            self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx2.example"))

    async def test_a_5xx_is_the_domains_word(self) -> None:
        first, second = self.two_hosts()
        for verb in ("MAIL", "RCPT", "DATA", "."):
            first.script.replies = {verb: b"550 5.7.1 no"}
            self.uses()
            self.is_found(await self.send(BOB), ("failed", "5.7.1 no", "mx1.example"))
        self.assertEqual(second.conversations, [])

    async def test_each_recipient_has_a_way_of_its_own(self) -> None:
        replies = [b"250 ok", b"450 4.2.0 greylisted", b"550 5.1.1 unknown"]
        _, second = self.two_hosts(Script({"RCPT": replies}))
        outcomes = await self.send(BOB, CAT, DAN)
        self.is_found(
            outcomes,
            ("delivered", "2.0.0", "mx1.example"),
            ("delivered", "2.0.0", "mx2.example"),
            ("failed", "5.1.1", "mx1.example"),
        )
        self.assertEqual([line for line in second.lines if line.startswith(b"RCPT")], [b"RCPT TO:<cat@example.org>"])

    async def test_what_may_have_been_delivered_is_not_tried_at_the_next_host(self) -> None:
        _, second = self.two_hosts(Script({".": HANG_UP}))
        (outcome,) = await self.send(BOB)
        self.is_found((outcome,), ("deferred", "4.4.2", "mx1.example"))
        self.assertTrue(outcome.uncertain)
        self.assertEqual(second.conversations, [])

    async def test_a_session_lost_before_the_content_goes_on(self) -> None:
        self.two_hosts(Script({"RCPT": HANG_UP}))
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", "mx2.example"))

    async def test_equals_are_tried_in_an_order_of_chance_for_each_message_anew(self) -> None:
        self.two_hosts()
        self.dns.has_mx("example.org", "10 mx1.example", "10 mx2.example")
        draws = iter([0.1, 0.2, 0.1, 0.2, 0.2, 0.1])
        self.uses(random=draws.__next__)
        for host in ("mx2.example", "mx1.example"):
            self.is_found(await self.send(BOB, closes=False), ("delivered", "2.0.0", host))
        await self.agent.close()


class AtTheLastHost(TwoHostsCase):
    async def test_a_reply_tells_more_than_a_host_that_is_down(self) -> None:
        self.host("mx1.example", "127.0.0.2", Script({"RCPT": b"450 4.2.0 greylisted"}))
        self.nobody_at("mx2.example", "127.0.0.3")
        (outcome,) = await self.send(BOB)
        self.is_found((outcome,), ("deferred", "4.2.0 greylisted", "mx1.example"))
        self.assertIsNotNone(outcome.reply)

    async def test_of_two_replies_the_preferred_hosts_is_told(self) -> None:
        self.two_hosts(Script({"RCPT": b"450 4.2.0 one"}), Script({"RCPT": b"450 4.2.0 two"}))
        self.is_found(await self.send(BOB), ("deferred", "4.2.0 one", "mx1.example"))

    async def test_if_all_are_down_the_first_is_told(self) -> None:
        self.nobody_at("mx1.example", "127.0.0.2")
        self.nobody_at("mx2.example", "127.0.0.3")
        self.is_found(await self.send(BOB), ("deferred", "4.4.1 no connection to mx1.example", "mx1.example"))

    async def test_hosts_that_take_no_mail_at_all_fail_it_and_one_that_may_does_not(self) -> None:
        first, second = self.two_hosts(Script(greeting=b"521 5.3.2 none"), Script(greeting=b"556 none"))
        self.is_found(await self.send(BOB), ("failed", "5.3.2", "mx1.example"))
        first.script.greeting, second.script.greeting = b"521 none", b"554 not you"
        self.uses()
        self.is_found(await self.send(BOB), ("deferred", "4.", "mx2.example"))


class WithoutHosts(InternetCase):
    async def test_what_dns_says_is_the_verdict(self) -> None:
        self.dns.has_mx("null.example", "0 ")
        self.dns.has_mx("nowhere.example", "gone.example")
        self.dns.fails("broken.example", RecordType.MX)
        self.dns.fails("bogus.example", RecordType.MX, Verdict.BOGUS)
        domains = ("none.example", "null.example", "nowhere.example", "broken.example", "bogus.example")
        self.is_found(
            await self.send(*(f"bob@{domain}" for domain in domains), "postmaster"),
            ("failed", "5.1.2 none.example does not exist", None),
            ("failed", "5.1.10", None),
            ("failed", "5.4.4", None),
            ("deferred", "4.4.3", None),
            ("deferred", "4.4.3", None),
            ("failed", "5.1.3", None),
        )

    async def test_a_domain_without_mx_gets_it_at_its_own_address(self) -> None:
        self.host("example.org", "127.0.0.2")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", "example.org"))

    async def test_an_address_literal_needs_no_dns(self) -> None:
        self.host("any.example", "127.0.0.2")
        self.is_found(await self.send("bob@[127.0.0.2]"), ("delivered", "2.0.0", "127.0.0.2"))
        self.assertEqual(self.dns.asked, [])

    async def test_what_would_come_back_to_us_fails(self) -> None:
        self.dns.has_mx("example.org", "relay.example")
        self.dns.has_mx("example.com", "alias.example")
        self.nobody_at("alias.example", "127.0.0.2")
        self.uses(us=Ourselves(names=["relay.example"], addresses=["127.0.0.2"]))
        outcomes = await self.send(BOB, "bob@example.com", "bob@[127.0.0.2]")
        self.is_found(outcomes, *[("failed", "5.4.6", None)] * 3)

    async def test_an_international_domain_is_asked_for_in_a_labels(self) -> None:
        self.dns.has_mx("xn--bcher-kva.example", "mx.example")
        self.host("mx.example", "127.0.0.2")
        self.is_found(await self.send("bob@Bücher.example"), ("delivered", "2.0.0", "mx.example"))


class BrokenDNS(ScriptedDNS):
    """It does what no resolver may do."""

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        if name == "broken.example":
            raise RuntimeError("a bug")
        return super().resolve(name, kind)


class Broken(InternetCase):
    async def test_a_bug_defers_whom_it_concerns_and_is_logged(self) -> None:
        self.dns = BrokenDNS(self.clock)
        self.host("example.org", "127.0.0.2")
        self.uses()
        outcomes = await self.send("ann@broken.example", BOB)
        self.is_found(outcomes, ("deferred", "4.3.0", None), ("delivered", "2.0.0", "example.org"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class Together(InternetCase):
    async def test_recipients_of_one_domain_travel_in_one_transaction_and_domains_apart(self) -> None:
        host = self.host("mx.example", "127.0.0.2")
        for domain in ("example.org", "example.com"):
            self.dns.has_mx(domain, "mx.example")
        self.uses(max_connections=1)
        outcomes = await self.send(BOB, "ann@example.com", "Cat@EXAMPLE.ORG")
        self.is_found(outcomes, *[("delivered", "2.0.0", "mx.example")] * 3)
        self.assertEqual(
            [line for line in host.lines if line.startswith((b"MAIL", b"RCPT"))],
            [
                b"MAIL FROM:<ann@example.net>", b"RCPT TO:<bob@example.org>", b"RCPT TO:<Cat@EXAMPLE.ORG>",
                b"MAIL FROM:<ann@example.net>", b"RCPT TO:<ann@example.com>",
            ],
        )  # fmt: skip

    async def test_domains_with_the_same_host_share_its_connection(self) -> None:
        host = self.host("mx.example", "127.0.0.2")
        for domain in ("example.org", "example.com"):
            self.dns.has_mx(domain, "mx.example")
        await self.send(BOB, closes=False)
        await self.send("ann@example.com")
        self.assertEqual(host.conversations, ["EHLO MAIL RCPT DATA . MAIL RCPT DATA . QUIT"])

    async def test_a_hundred_go_together_and_one_more_apart(self) -> None:
        host = self.host("example.org", "127.0.0.2")
        self.uses(max_connections=1)
        await self.send(*(f"r{number}@example.org" for number in range(101)))
        verbs = [line.partition(b" ")[0] for line in host.lines]
        self.assertEqual(verbs[: verbs.index(b"DATA")].count(b"RCPT"), 100)
        self.assertEqual((verbs.count(b"MAIL"), verbs.count(b"RCPT")), (2, 101))

    async def test_no_more_than_so_many_deliveries_are_under_way(self) -> None:
        self.patch(internet, "MAX_UNDER_WAY", 2)
        self.uses()
        self.dns.silent = {(f"d{number}.example", RecordType.MX) for number in range(3)}
        sent = [self.letter(f"bob@d{number}.example") for number in range(3)]
        self.assertEqual(len(self.dns.asked), 2)
        self.assertEqual(self.agent.statistics().waiting, 3)
        sent[0].addErrback(lambda failure: failure.trap(CancelledError))
        sent[0].cancel()
        self.assertEqual(len(self.dns.asked), 3)
        for one in sent[1:]:
            one.addErrback(lambda failure: failure.trap(CancelledError))
            one.cancel()
        await self.agent.close()


class Remembered(InternetCase):
    async def test_a_decision_holds_as_long_as_the_shortest_answer_and_is_made_anew_then(self) -> None:
        self.host("mx.example", "127.0.0.2")
        self.dns.has_mx("example.org", "mx.example", ttl_s=600)
        self.dns.has_addresses("mx.example", "127.0.0.2", ttl_s=60)
        await self.send(BOB, closes=False)
        asked = len(self.dns.asked)
        self.clock.advance(59)
        await self.send(BOB, closes=False)
        self.assertEqual(len(self.dns.asked), asked)
        self.clock.advance(1)
        await self.send(BOB)
        self.assertGreater(len(self.dns.asked), asked)

    async def test_what_could_not_be_found_out_is_not_asked_for_each_message(self) -> None:
        self.dns.fails("example.org", RecordType.MX)
        for pause_s, times in ((0, 1), (29, 1), (1, 2)):
            self.clock.advance(pause_s)
            await self.send(BOB, closes=False)
            self.assertEqual(len(self.dns.asked), times)
        await self.agent.close()

    async def test_hosts_that_were_not_used_for_longest_are_let_go_of(self) -> None:
        self.patch(internet, "MAX_KEPT_SERVERS", 2)
        hosts = [self.host(f"d{number}.example", f"127.0.0.{number + 2}") for number in range(3)]
        for number in (0, 1, 0, 2):
            await self.send(f"bob@d{number}.example", closes=False)
        await hosts[1].is_left()
        self.assertEqual(
            [host.conversations for host in hosts],
            [["EHLO MAIL RCPT DATA . MAIL RCPT DATA ."], [DELIVERED], ["EHLO MAIL RCPT DATA ."]],
        )
        self.assertEqual((self.agent.statistics().idle, self.agent.statistics().opened), (2, 3))
        await self.agent.close()

    async def test_so_are_those_beyond_the_connections_that_are_kept(self) -> None:
        self.patch(internet, "MAX_IDLE_CONNECTIONS", 1)
        hosts = [self.host(f"d{number}.example", f"127.0.0.{number + 2}") for number in range(3)]
        for number in range(3):
            await self.send(f"bob@d{number}.example", closes=False)
        await hosts[0].is_left()
        self.assertEqual(hosts[0].conversations, [DELIVERED])
        self.assertEqual(self.agent.statistics().idle, 2)
        await self.agent.close()


class TheEnd(TwoHostsCase):
    async def test_cancelled_while_dns_is_asked_nothing_is_sent(self) -> None:
        self.dns.silent = {("example.org", RecordType.MX)}
        sent = self.letter(BOB)
        sent.cancel()
        await self.assertFailure(sent, CancelledError)
        await self.agent.close()

    async def test_cancelled_at_a_host_the_next_is_not_tried(self) -> None:
        first, second = self.two_hosts(Script({"RCPT": SILENCE}))
        sent = self.letter(BOB)
        await first.hears("RCPT")
        sent.cancel()
        await self.assertFailure(sent, CancelledError)
        await self.agent.close()
        self.assertEqual(second.conversations, [])

    async def test_closing_finishes_what_is_under_way_at_further_hosts_too(self) -> None:
        first, second = self.two_hosts(Script({"RCPT": b"450 later"}))
        sent = self.letter(BOB)
        await first.hears("EHLO")
        closing = self.agent.close()
        self.is_found((await sent).outcomes, ("delivered", "2.0.0", "mx2.example"))
        await closing
        self.assertEqual(second.conversations, [DELIVERED])

    async def test_what_the_agent_does_and_has_done_is_counted_over_all_hosts(self) -> None:
        self.two_hosts(Script({"RCPT": b"450 later"}))
        await self.send(BOB, closes=False)
        found = self.agent.statistics()
        self.assertEqual((found.opened, found.idle, found.busy, found.waiting, found.delivered), (2, 2, 0, 0, 1))
        await self.agent.close()

"""
From what DNS says to the hosts in their order.
"""

from __future__ import annotations

from itertools import count
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import MX, Answer, RecordType, Verdict
from pymail_tx.core.outcome import Status
from pymail_tx.core.routing import (
    MAX_ADDRESSES,
    MAX_HOSTS,
    NOBODY,
    Exchangers,
    Host,
    MailRoute,
    NoRoute,
    Ourselves,
    exchangers,
    in_order,
    literal,
    route,
)

DOMAIN = "example.org"
A, AAAA = RecordType.A, RecordType.AAAA


def mx(*listed: tuple[int, str], authenticated: bool = False, ttl_s: float = 300) -> Answer:
    """The domain's MX."""
    return Answer(
        name=DOMAIN, kind=RecordType.MX, verdict=Verdict.DATA, authenticated=authenticated, canonical_name=DOMAIN,
        mx=tuple(MX(*one) for one in listed), ttl_s=ttl_s,
    )  # fmt: skip


def no_mx(verdict: Verdict, *, reason: str = "", authenticated: bool = False) -> Answer:
    """The domain has none, or nobody knows."""
    return Answer(
        name=DOMAIN, kind=RecordType.MX, verdict=verdict, authenticated=authenticated, canonical_name=DOMAIN,
        ttl_s=60, reason=reason,
    )  # fmt: skip


def has(kind: RecordType, *addresses: str, authenticated: bool = False, alias: str = "", ttl_s: float = 300) -> Answer:
    """A host's addresses of one family, if it has any."""
    verdict = Verdict.DATA if addresses else Verdict.NODATA
    return Answer(
        name="a.example", kind=kind, verdict=verdict, authenticated=authenticated,
        canonical_name=alias or "a.example", addresses=addresses, ttl_s=ttl_s,
    )  # fmt: skip


def unknown(kind: RecordType, verdict: Verdict = Verdict.FAILED) -> Answer:
    """Nobody can say which addresses a host has."""
    return Answer(name="a.example", kind=kind, verdict=verdict, canonical_name="a.example", reason="timeout")


def names(found: Exchangers | NoRoute) -> list[str]:
    """Of the hosts in question."""
    assert isinstance(found, Exchangers), found
    return [one.host for one in found.mx]


class RoutingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self._numbers = count()

    def in_listed_order(self) -> float:
        """Numbers that rise: equals stay in the order in which they are looked at."""
        return next(self._numbers)

    def asks(self, answer: Answer, us: Ourselves = NOBODY) -> Exchangers | NoRoute:
        return exchangers(answer, us, random=self.in_listed_order)

    def goes(self, answer: Answer, *hosts: list[Answer], us: Ourselves = NOBODY) -> MailRoute | NoRoute:
        """Where the mail goes, with each host's addresses in the order of the list."""
        found = self.asks(answer, us)
        assert isinstance(found, Exchangers)
        return route(found, hosts, us)

    def hosts(self, answer: Answer, *hosts: list[Answer], us: Ourselves = NOBODY) -> dict[str, tuple[str, ...]]:
        """Names and addresses of where it goes."""
        found = self.goes(answer, *hosts, us=us)
        assert isinstance(found, MailRoute), found
        return {host.name: host.addresses for host in found.hosts}

    def refused(self, found: object, status: Status, code: str, *words: str) -> None:
        assert isinstance(found, NoRoute), found
        self.assertEqual((found.status, found.reason.split(" ")[0]), (status, code), found.reason)
        for word in words:
            self.assertIn(word, found.reason)


class WhoIsAsked(RoutingCase):
    def test_the_lowest_preference_goes_first(self) -> None:
        self.assertEqual(names(self.asks(mx((20, "b.example"), (5, "a.example"), (30, "c.example")))), [
            "a.example", "b.example", "c.example",
        ])  # fmt: skip

    def test_chance_orders_equals_and_nobody_else(self) -> None:
        answer = mx((10, "a.example"), (10, "b.example"), (5, "c.example"), (20, "d.example"))
        orders = {
            "".join(host[0] for host in names(exchangers(answer, random=iter(draws).__next__)))
            for draws in ((0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1))
        }
        self.assertEqual(orders, {"cabd", "cbad"})

    def test_a_domain_without_mx_stands_for_itself(self) -> None:
        found = self.asks(no_mx(Verdict.NODATA, authenticated=True))
        self.assertEqual(names(found), [DOMAIN])
        assert isinstance(found, Exchangers)
        self.assertEqual((found.implicit, found.authenticated, found.ttl_s), (True, True, 60))

    def test_whatever_else_dns_says_it_never_does(self) -> None:
        failed, deferred = Status.FAILED, Status.DEFERRED
        for verdict, status, code in (
            (Verdict.NXDOMAIN, failed, "5.1.2"),
            (Verdict.FAILED, deferred, "4.4.3"),
            (Verdict.BOGUS, deferred, "4.4.3"),
        ):
            found = self.asks(no_mx(verdict, reason="the signature expired"))
            self.refused(found, status, code, DOMAIN, *(["expired"] if status is deferred else []))
        for nothing_usable in (mx((0, "")), mx((0, "192.0.2.1"))):
            assert isinstance(self.asks(nothing_usable), NoRoute)

    def test_a_null_mx_says_that_the_domain_takes_no_mail(self) -> None:
        for answer in (mx((0, "")), mx((10, "")), mx((0, ""), (10, ""))):
            self.refused(self.asks(answer), Status.FAILED, "5.1.10", "null MX")

    def test_a_null_mx_beside_others_is_passed_over(self) -> None:
        self.assertEqual(names(self.asks(mx((0, ""), (10, "a.example")))), ["a.example"])

    def test_what_cannot_be_a_hosts_name_is_passed_over(self) -> None:
        for nonsense in ("192.0.2.1", "2001:db8::1", "[192.0.2.1]", "a b", "-x", "a..b", "x" * 64, "a\r\nQUIT", "é@"):
            self.assertEqual(names(self.asks(mx((0, nonsense), (10, "a.example")))), ["a.example"], nonsense)
            self.refused(self.asks(mx((0, nonsense))), Status.FAILED, "5.4.4")

    def test_five_hosts_are_asked_and_a_sixth_is_not(self) -> None:
        listed = [(preference, f"mx{preference}.example") for preference in range(MAX_HOSTS + 1)]
        for answer in (mx(*listed[:-1]), mx(*listed)):
            self.assertEqual(names(self.asks(answer)), [name for _, name in listed[:-1]])

    def test_a_host_is_asked_once_with_its_best_preference(self) -> None:
        found = self.asks(mx((30, "a.example"), (20, "b.example"), (10, "a.example"), (10, "a.example")))
        assert isinstance(found, Exchangers)
        self.assertEqual(found.mx, (MX(10, "a.example"), MX(20, "b.example")))

    def test_our_own_name_cuts_the_list_there(self) -> None:
        us = Ourselves(names=["Relay.Example."])
        for listed, left in {
            ((5, "a.example"), (10, "relay.example"), (10, "b.example"), (20, "c.example")): ["a.example"],
            ((5, "a.example"), (6, "b.example"), (10, "relay.example")): ["a.example", "b.example"],
        }.items():
            self.assertEqual(names(self.asks(mx(*listed), us)), left)

    def test_if_nothing_is_left_of_it_mail_would_go_in_circles(self) -> None:
        for answer in (mx((10, "relay.example"), (20, "a.example")), mx((10, "a.example"), (10, "relay.example"))):
            self.refused(self.asks(answer, Ourselves(names=["relay.example"])), Status.FAILED, "5.4.6", DOMAIN)
        self.refused(self.asks(no_mx(Verdict.NODATA), Ourselves(names=[DOMAIN])), Status.FAILED, "5.4.6")

    @given(
        listed=st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["a.example", "b.example", "us.example", "", "192.0.2.1"])),
            max_size=12,
        ),
        draws=st.randoms(),
    )
    def test_whatever_is_listed_preferences_rise_and_we_are_not_among_them(
        self, listed: list[tuple[int, str]], draws: Random
    ) -> None:
        found = exchangers(mx(*listed), Ourselves(names=["us.example"]), random=draws.random)
        if isinstance(found, NoRoute):
            return
        preferences = [one.preference for one in found.mx]
        self.assertEqual(preferences, sorted(preferences))
        ours = min((preference for preference, host in listed if host == "us.example"), default=9)
        self.assertTrue(all(preference < ours for preference in preferences))
        self.assertEqual(len(found.mx), len({one.host for one in found.mx}))


class WhereItGoes(RoutingCase):
    def test_both_families_by_turns_ipv6_first(self) -> None:
        both = [has(A, "192.0.2.1", "192.0.2.2"), has(AAAA, "2001:db8::1")]
        self.assertEqual(
            self.hosts(mx((10, "a.example")), both), {"a.example": ("2001:db8::1", "192.0.2.1", "192.0.2.2")}
        )

    def test_one_family_is_enough(self) -> None:
        for pair, addresses in (
            ([has(A, "192.0.2.1"), has(AAAA)], ("192.0.2.1",)),
            ([has(A), has(AAAA, "2001:db8::1")], ("2001:db8::1",)),
            ([has(A, "192.0.2.1"), unknown(AAAA)], ("192.0.2.1",)),
            ([unknown(A, Verdict.BOGUS), has(AAAA, "2001:db8::1")], ("2001:db8::1",)),
        ):
            self.assertEqual(self.hosts(mx((10, "a.example")), pair), {"a.example": addresses})

    def test_a_host_without_address_is_passed_over(self) -> None:
        found = self.hosts(mx((1, "a.example"), (2, "b.example")), [has(A), has(AAAA)], [has(A, "192.0.2.2")])
        self.assertEqual(found, {"b.example": ("192.0.2.2",)})

    def test_a_host_that_cannot_be_looked_up_is_passed_over_as_well(self) -> None:
        found = self.hosts(
            mx((1, "a.example"), (2, "b.example")), [unknown(A), unknown(AAAA)], [has(A, "192.0.2.2"), has(AAAA)]
        )
        self.assertEqual(found, {"b.example": ("192.0.2.2",)})

    def test_without_any_address_it_fails(self) -> None:
        for answer in (mx((1, "a.example")), no_mx(Verdict.NODATA)):
            self.refused(self.goes(answer, [has(A), has(AAAA)]), Status.FAILED, "5.4.4", DOMAIN)

    def test_as_long_as_one_may_have_an_address_it_waits(self) -> None:
        none, lost = [has(A), has(AAAA)], [has(A), unknown(AAAA)]
        bogus = [unknown(A, Verdict.BOGUS), has(AAAA)]
        for hosts in ((none, lost), (lost, none), (bogus, none)):
            found = self.goes(mx((1, "a.example"), (2, "b.example")), *hosts)
            self.refused(found, Status.DEFERRED, "4.4.3", "a.example", "timeout")

    def test_our_own_address_cuts_the_list_there(self) -> None:
        us = Ourselves(addresses=["192.0.2.9", "2001:db8:0::9"])
        for ours in ([has(A, "192.0.2.9")], [has(AAAA, "2001:DB8::9")], [has(AAAA, "::ffff:192.0.2.9")]):
            found = self.hosts(
                mx((1, "a.example"), (2, "b.example"), (2, "c.example"), (3, "d.example")),
                [has(A, "192.0.2.1")], [has(A, "192.0.2.2")], ours, [has(A, "192.0.2.4")],
                us=us,
            )  # fmt: skip
            self.assertEqual(found, {"a.example": ("192.0.2.1",)})
            self.refused(self.goes(mx((1, "a.example")), ours, us=us), Status.FAILED, "5.4.6")

    def test_a_host_behind_us_whose_address_is_unknown_keeps_nothing_waiting(self) -> None:
        us = Ourselves(addresses=["192.0.2.9"])
        found = self.goes(
            mx((1, "a.example"), (2, "b.example"), (3, "c.example")),
            [has(A), has(AAAA)], [has(A, "192.0.2.9")], [unknown(A), unknown(AAAA)],
            us=us,
        )  # fmt: skip
        self.refused(found, Status.FAILED, "5.4.4")

    def test_addresses_that_nobody_can_have_are_passed_over(self) -> None:
        for nonsense in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:0.0.0.0", "1.2.3", "x"):
            kind = AAAA if ":" in nonsense else A
            self.assertEqual(
                self.hosts(mx((1, "a.example")), [has(kind, nonsense, "192.0.2.1")]), {"a.example": ("192.0.2.1",)}
            )
            self.refused(self.goes(mx((1, "a.example")), [has(kind, nonsense)]), Status.FAILED, "5.4.4")

    def test_twenty_addresses_are_tried_and_each_host_keeps_one(self) -> None:
        many = [f"192.0.2.{number}" for number in range(1, MAX_ADDRESSES + 2)]
        self.assertEqual(self.hosts(mx((1, "a.example")), [has(A, *many[:-1])]), {"a.example": tuple(many[:-1])})
        self.assertEqual(self.hosts(mx((1, "a.example")), [has(A, *many)]), {"a.example": tuple(many[:-1])})
        three = self.hosts(
            mx((1, "a.example"), (2, "b.example"), (3, "c.example")), [has(A, *many)], [has(A, *many)], [has(A, *many)]
        )
        self.assertEqual([len(addresses) for addresses in three.values()], [18, 1, 1])

    def test_an_alias_of_a_host_is_followed_and_told(self) -> None:
        found = self.goes(mx((1, "a.example")), [has(A, "192.0.2.1", alias="real.example"), has(AAAA)])
        assert isinstance(found, MailRoute)
        self.assertEqual((found.hosts[0].name, found.hosts[0].canonical_name), ("a.example", "real.example"))

    def test_what_is_authenticated_is_told_of_the_list_and_of_each_host(self) -> None:
        signed, unsigned = has(A, "192.0.2.1", authenticated=True), has(A, "192.0.2.1")
        for of_list in (True, False):
            for pair, of_host in (
                ([signed, has(AAAA)], True),
                ([unsigned, has(AAAA, authenticated=True)], False),
                ([signed, has(AAAA, "2001:db8::1")], False),
                ([signed, unknown(AAAA)], True),
            ):
                found = self.goes(mx((1, "a.example"), authenticated=of_list), pair)
                assert isinstance(found, MailRoute)
                self.assertEqual((found.authenticated, found.hosts[0].authenticated), (of_list, of_host))

    def test_the_shortest_life_of_an_answer_is_the_routes(self) -> None:
        for mx_ttl_s, a_ttl_s in ((300, 20), (20, 300)):
            found = self.goes(mx((1, "a.example"), ttl_s=mx_ttl_s), [has(A, "192.0.2.1", ttl_s=a_ttl_s), has(AAAA)])
            assert isinstance(found, MailRoute)
            self.assertEqual(found.ttl_s, 20)

    def test_each_delivery_has_its_own_order_among_equals(self) -> None:
        hosts = [
            Host(name=name, preference=preference, addresses=("192.0.2.1",), canonical_name=name)
            for preference, name in ((1, "a"), (2, "b"), (2, "c"))
        ]
        for draws, order in (((0.5, 0.1, 0.2), "abc"), ((0.5, 0.2, 0.1), "acb")):
            self.assertEqual("".join(host.name for host in in_order(hosts, iter(draws).__next__)), order)


class Literals(RoutingCase):
    def test_an_address_is_where_it_goes(self) -> None:
        for domain, address in {
            "[192.0.2.1]": "192.0.2.1",
            "[IPv6:2001:db8::1]": "2001:db8::1",
            "[ipv6:2001:DB8:0::1]": "2001:db8::1",
        }.items():
            found = literal(domain)
            assert isinstance(found, MailRoute)
            self.assertEqual([(host.name, host.addresses) for host in found.hosts], [(address, (address,))])
            self.assertFalse(found.authenticated or found.hosts[0].authenticated)

    def test_our_own_is_a_circle(self) -> None:
        us = Ourselves(addresses=["192.0.2.1"])
        self.refused(literal("[192.0.2.1]", us), Status.FAILED, "5.4.6", "[192.0.2.1]")
        self.refused(literal("[IPv6:::ffff:192.0.2.1]", us), Status.FAILED, "5.4.6")

    def test_an_address_that_nobody_can_have_fails(self) -> None:
        for domain in ("[0.0.0.0]", "[IPv6:::]", "[224.0.0.1]"):
            self.refused(literal(domain), Status.FAILED, "5.4.4")

    def test_the_bare_postmaster_has_no_domain_to_look_up(self) -> None:
        self.refused(literal(""), Status.FAILED, "5.1.3")

    def test_a_name_is_none(self) -> None:
        self.assertIsNone(literal(DOMAIN))

"""
How much TLS a host must offer: every combination of what operator, domain and message ask for.
"""

from __future__ import annotations

import itertools

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import MX, TLSA, Answer, RecordType, Verdict
from pymail_tx.core.outcome import Status
from pymail_tx.core.routes import TLSPolicy
from pymail_tx.core.tlspolicy import (
    DANEState,
    HostFound,
    PolicySource,
    Question,
    STSFound,
    TLSDecision,
    TLSLevel,
    Wishes,
    decide,
    host_found,
    next_question,
)
from tests.project.tls_page import explains

HOST, DOMAIN, RECORDS = "mx.example.net", "example.org", "_25._tcp.mx.example.net"
GOOD, AUTHORITY, ALIEN = (TLSA(usage, 1, 1, bytes(32)) for usage in (3, 2, 1))


@frozen
class Policy:
    """A policy of MTA-STS that lists one host."""

    mode: str
    host: str

    def matches(self, host: str) -> bool:
        """See L{STSPolicy <pymail_tx.core.tlspolicy.STSPolicy>}."""
        return host == self.host


def answer(
    kind: RecordType, name: str, *, secure: bool = True, alias_of: str = "", tlsa: tuple[TLSA, ...] = ()
) -> Answer:
    """There is data."""
    return Answer(
        name=name, kind=kind, verdict=Verdict.DATA, authenticated=secure, canonical_name=alias_of or name, tlsa=tlsa
    )


def nothing(kind: RecordType, name: str, verdict: Verdict = Verdict.NODATA, *, secure: bool = True) -> Answer:
    """There is none, or nobody could say."""
    secure = secure and verdict in (Verdict.NODATA, Verdict.NXDOMAIN)
    return Answer(name=name, kind=kind, verdict=verdict, authenticated=secure, canonical_name=name, reason="of a test")


SECURE_MX = Answer(
    name=DOMAIN, kind=RecordType.MX, verdict=Verdict.DATA, authenticated=True, canonical_name=DOMAIN, mx=(MX(10, HOST),)
)
INSECURE_MX = answer(RecordType.MX, DOMAIN, secure=False)
SECURE_A = answer(RecordType.A, HOST)
INSECURE_A = answer(RecordType.A, HOST, secure=False)


def found(mx: Answer | None, *answers: Answer) -> HostFound:
    """What the answers say of the host."""
    return host_found(HOST, DOMAIN if mx else HOST, mx, answers)


DANE = {
    "none": found(SECURE_MX, SECURE_A, nothing(RecordType.TLSA, RECORDS)),
    "insecure MX": found(INSECURE_MX, SECURE_A),
    "insecure host": found(SECURE_MX, INSECURE_A),
    "usable": found(SECURE_MX, SECURE_A, answer(RecordType.TLSA, RECORDS, tlsa=(GOOD, ALIEN))),
    "unusable": found(SECURE_MX, SECURE_A, answer(RecordType.TLSA, RECORDS, tlsa=(ALIEN,))),
    "bogus": found(SECURE_MX, SECURE_A, nothing(RecordType.TLSA, RECORDS, Verdict.BOGUS)),
    "failed": found(SECURE_MX, SECURE_A, nothing(RecordType.TLSA, RECORDS, Verdict.FAILED)),
}

MTA_STS = {
    "none": STSFound(),
    "testing, listed": STSFound(Policy("testing", HOST)),
    "testing, not listed": STSFound(Policy("testing", "elsewhere.example")),
    "enforce, listed": STSFound(Policy("enforce", HOST)),
    "enforce, not listed": STSFound(Policy("enforce", "elsewhere.example")),
    "mode none": STSFound(Policy("none", HOST)),
    "fetch failed": STSFound(problem="no answer"),
}
"""The columns of the tables below, in this order."""

MEANINGS = {
    "p": (TLSLevel.NONE, None),
    "o": (TLSLevel.OPPORTUNISTIC, None),
    "e": (TLSLevel.ENCRYPTED, None),
    "v": (TLSLevel.VERIFIED, None),
    "d": (TLSLevel.DANE, None),
    "W": (None, Status.DEFERRED),
    "F": (None, Status.FAILED),
}
"""What a letter says: the level; or that the host is skipped, and what follows if all are: W waits, F fails."""

BY_DOMAIN = {
    "none": "ooovWoo",
    "insecure MX": "ooovWoo",
    "insecure host": "ooovWoo",
    "usable": "ddddddd",
    "unusable": "eeevWee",
    "bogus": "WWWWWWW",
    "failed": "WWWWWWW",
}
"""RFC 7672 §2.1.2, 2.2; RFC 8461 §5."""

BY_DANE_ONLY = {
    "none": "WWWWWWW",
    "insecure MX": "WWWWWWW",
    "insecure host": "WWWWWWW",
    "usable": "ddddddd",
    "unusable": "WWWWWWW",
    "bogus": "WWWWWWW",
    "failed": "WWWWWWW",
}
"""RFC 7672 §6."""

REQUIRED_BY_MESSAGE = {
    "none": "vvvvFvv",
    "insecure MX": "FvFvFFW",
    "insecure host": "vvvvFvv",
    "usable": "ddddddd",
    "unusable": "vvvvFvv",
    "bogus": "WWWWWWW",
    "failed": "WWWWWWW",
}
"""RFC 8689 §4.2.1."""

REQUIRED_BY_MESSAGE_BY_NAME = REQUIRED_BY_MESSAGE | dict.fromkeys(("usable", "bogus", "failed"), "vvvvFvv")

REQUIRED_BY_MESSAGE_BY_DANE = {state: row.replace("W", "F") for state, row in BY_DANE_ONLY.items()} | {
    "bogus": "WWWWWWW",
    "failed": "WWWWWWW",
}


def always(letter: str) -> dict[str, str]:
    """Whatever the domain says."""
    return dict.fromkeys(DANE, letter * len(MTA_STS))


TABLE: dict[tuple[bool, TLSPolicy | None], dict[str, str]] = {
    (False, None): BY_DOMAIN,
    (False, TLSPolicy.NONE): always("p"),
    (False, TLSPolicy.OPPORTUNISTIC): always("o"),
    (False, TLSPolicy.REQUIRED): always("e"),
    (False, TLSPolicy.VERIFIED): always("v"),
    (False, TLSPolicy.DANE): BY_DANE_ONLY,
    (True, None): REQUIRED_BY_MESSAGE,
    (True, TLSPolicy.NONE): always("F"),
    (True, TLSPolicy.OPPORTUNISTIC): REQUIRED_BY_MESSAGE,
    (True, TLSPolicy.REQUIRED): REQUIRED_BY_MESSAGE,
    (True, TLSPolicy.VERIFIED): REQUIRED_BY_MESSAGE_BY_NAME,
    (True, TLSPolicy.DANE): REQUIRED_BY_MESSAGE_BY_DANE,
}
"""By whether the message has REQUIRETLS, and by the route's word. C{TLS-Required: No} has a test of its own."""


def said(decision: TLSDecision) -> tuple[TLSLevel | None, Status | None]:
    """In the terms of L{MEANINGS}."""
    return (None, decision.status) if decision.skip else (decision.level, None)


class Combinations(SynchronousTestCase):
    def test_each_is_decided_as_the_table_says(self) -> None:
        for (requiretls, route), rows in TABLE.items():
            for (state, host), (column, (name, sts)) in itertools.product(DANE.items(), enumerate(MTA_STS.items())):
                decision = decide(host, sts, Wishes(route=route, requiretls=requiretls))
                self.assertEqual(said(decision), MEANINGS[rows[state][column]], (requiretls, route, state, name))

    def test_the_table_has_them_all(self) -> None:
        self.assertEqual(set(TABLE), set(itertools.product((False, True), (None, *TLSPolicy))))
        self.assertEqual({host.dane for host in DANE.values()}, set(DANEState))
        for rows in TABLE.values():
            self.assertEqual({state: len(row) for state, row in rows.items()}, dict.fromkeys(DANE, len(MTA_STS)))

    def test_tls_required_no_makes_tls_a_try_unless_route_or_requiretls_say_otherwise(self) -> None:
        """RFC 8689 §4.2.2; it is the domain's policy that the sender sets aside, not the operator's (§3)."""
        for (requiretls, route), host, sts in itertools.product(TABLE, DANE.values(), MTA_STS.values()):
            decision = decide(host, sts, Wishes(route=route, requiretls=requiretls, tls_optional=True))
            if requiretls or route:
                self.assertEqual(decision, decide(host, sts, Wishes(route=route, requiretls=requiretls)))
            else:
                self.assertEqual(said(decision), MEANINGS["o"])
                self.assertIs(decision.source, PolicySource.TLS_OPTIONAL)

    def test_each_has_words_names_and_a_code_that_fits_its_status(self) -> None:
        for (requiretls, route), host, sts in itertools.product(TABLE, DANE.values(), MTA_STS.values()):
            decision = decide(host, sts, Wishes(route=route, requiretls=requiretls))
            self.assertTrue(decision.reason.startswith(f"{decision.source.value}: "), decision.reason)
            self.assertTrue(decision.names)
            self.assertEqual(bool(decision.records), decision.level is TLSLevel.DANE)
            self.assertIn((decision.unmet, decision.status), (("4.7.5", Status.DEFERRED), ("5.7.30", Status.FAILED)))
            if not decision.skip:
                self.assertEqual(decision.unmet, "5.7.30" if requiretls else "4.7.5")

    def test_what_is_worth_asking_for_is_what_can_change_the_decision(self) -> None:
        known = [host for host in DANE.values() if host.name_authenticated]
        for (requiretls, route), tls_optional in itertools.product(TABLE, (False, True)):
            wishes = Wishes(route=route, requiretls=requiretls, tls_optional=tls_optional)
            by_records = [{said(decide(host, sts, wishes)) for host in known} for sts in MTA_STS.values()]
            by_policy = [{said(decide(host, sts, wishes)) for sts in MTA_STS.values()} for host in DANE.values()]
            self.assertEqual(wishes.need_dane, any(len(different) > 1 for different in by_records), wishes)
            self.assertEqual(wishes.need_mta_sts, any(len(different) > 1 for different in by_policy), wishes)

    def test_a_host_and_a_message_of_which_nothing_is_known_ask_for_nothing(self) -> None:
        decision = decide(HostFound(name=HOST, domain=DOMAIN), STSFound(), Wishes())
        self.assertEqual((said(decision), decision.reason), (MEANINGS["o"], "default: nothing asks for more"))
        self.assertEqual(
            said(decide(HostFound(name=HOST, domain=DOMAIN), STSFound(), Wishes(requiretls=True))), MEANINGS["F"]
        )


class Words(SynchronousTestCase):
    """What the reason of an outcome says."""

    def reason(self, state: str, sts: str = "none", *, requiretls: bool = False) -> str:
        return decide(DANE[state], MTA_STS[sts], Wishes(requiretls=requiretls)).reason

    def test_each_rule_has_its_own(self) -> None:
        self.assertEqual(self.reason("usable"), f"DANE: TLSA records at {RECORDS}")
        self.assertEqual(self.reason("unusable"), f"DANE: no usable TLSA record at {RECORDS}, only {ALIEN}")
        self.assertEqual(self.reason("bogus"), f"DANE: look-up of TLSA {RECORDS}: bogus, of a test")
        self.assertEqual(self.reason("failed"), f"DANE: look-up of TLSA {RECORDS}: failed, of a test")
        self.assertEqual(
            self.reason("none", "enforce, listed"), f"MTA-STS: the policy of {DOMAIN} is enforced and lists the host"
        )
        self.assertEqual(
            self.reason("none", "enforce, not listed"),
            f"MTA-STS: the policy of {DOMAIN} is enforced and does not list the host",
        )

    def test_the_page_explains_why_a_host_is_skipped(self) -> None:
        for (requiretls, route), host, sts in itertools.product(TABLE, DANE.values(), MTA_STS.values()):
            decision = decide(host, sts, Wishes(route=route, requiretls=requiretls))
            if decision.skip:
                self.assertTrue(explains(decision.reason), decision.reason)

    def test_a_policy_that_is_being_tested_is_told_with_what_it_would_have_meant(self) -> None:
        self.assertIn("is being tested and lists the host", self.reason("none", "testing, listed"))
        self.assertIn("is being tested and does not list the host", self.reason("none", "testing, not listed"))

    def test_where_nothing_asks_for_more_it_says_what_was_missing(self) -> None:
        expected = f"default: nothing asks for more: no TLSA records at {RECORDS}"
        self.assertEqual(self.reason("none"), expected)
        self.assertEqual(self.reason("none", "fetch failed"), f"{expected}; no answer")
        self.assertIn(f"the MX records of {DOMAIN} are not authenticated", self.reason("insecure MX"))
        self.assertIn(f"the addresses of {HOST} are not authenticated", self.reason("insecure host"))

    def test_a_message_that_requires_tls_is_told_what_is_missing(self) -> None:
        self.assertIn(
            "neither DNSSEC nor MTA-STS vouches for the name: no answer",
            self.reason("insecure MX", "fetch failed", requiretls=True),
        )
        self.assertIn("does not list", self.reason("none", "enforce, not listed", requiretls=True))


class Names(SynchronousTestCase):
    """Reference names; the first is indicated to the server."""

    def names(
        self, host: HostFound, sts: str = "none", *, route: TLSPolicy | None = None, requiretls: bool = False
    ) -> tuple[str, ...]:
        return decide(host, MTA_STS[sts], Wishes(route=route, requiretls=requiretls)).names

    def test_mta_sts_and_requiretls_take_the_hosts(self) -> None:
        self.assertEqual(self.names(DANE["none"], "enforce, listed"), (HOST,))
        self.assertEqual(self.names(DANE["none"], requiretls=True), (HOST,))

    def test_a_route_takes_the_domains_as_well(self) -> None:
        self.assertEqual(self.names(DANE["none"], route=TLSPolicy.VERIFIED), (HOST, DOMAIN))

    def test_dane_takes_the_base_domain_the_domain_and_what_the_domain_is_an_alias_of(self) -> None:
        """RFC 7672 §3.2.2."""
        tlsa = answer(RecordType.TLSA, RECORDS, tlsa=(AUTHORITY, GOOD))
        self.assertEqual(self.names(found(SECURE_MX, SECURE_A, tlsa)), (HOST, DOMAIN))
        alias = answer(RecordType.MX, DOMAIN, alias_of="example.com")
        self.assertEqual(self.names(found(alias, SECURE_A, tlsa)), (HOST, DOMAIN, "example.com"))

    def test_without_a_record_of_usage_2_the_base_domain_is_enough(self) -> None:
        self.assertEqual(self.names(DANE["usable"]), (HOST,))

    def test_of_a_configured_host_that_is_an_alias_both_names_are_taken(self) -> None:
        alias = answer(RecordType.A, HOST, alias_of="real.example.net")
        tlsa = answer(RecordType.TLSA, "_25._tcp.real.example.net", tlsa=(AUTHORITY,))
        self.assertEqual(self.names(found(None, alias, tlsa)), ("real.example.net", HOST))


class Sharing(SynchronousTestCase):
    """Of a connection, by messages of whose decisions the demand is equal."""

    def demands(self, *hosts: HostFound, sts: str = "none") -> int:
        """How many different ones."""
        return len({decide(host, MTA_STS[sts], Wishes()).demand for host in hosts})

    def for_domain(self, domain: str, mx: Answer, *answers: Answer) -> HostFound:
        return host_found(HOST, domain, mx, answers)

    def test_domains_with_the_same_host_share_it_unless_their_names_count(self) -> None:
        at_host, below = (answer(RecordType.TLSA, RECORDS, tlsa=(record,)) for record in (GOOD, AUTHORITY))
        domains = ("a.example", "b.example")
        secure, insecure = (
            [answer(RecordType.MX, domain, secure=is_secure) for domain in domains] for is_secure in (True, False)
        )
        for mx, answers, expected in (
            (insecure, (SECURE_A,), 1),
            (secure, (INSECURE_A,), 1),
            (secure, (SECURE_A, at_host), 1),
            (secure, (SECURE_A, below), 2),
        ):
            hosts = [self.for_domain(domain, one, *answers) for domain, one in zip(domains, mx, strict=True)]
            self.assertEqual(self.demands(*hosts), expected)
            self.assertEqual(self.demands(*hosts, sts="enforce, listed"), expected)

    def test_a_message_that_requires_tls_shares_what_is_as_good(self) -> None:
        usable = DANE["usable"]
        self.assertEqual(*(decide(usable, STSFound(), Wishes(requiretls=one)).demand for one in (False, True)))
        self.assertNotEqual(*(decide(DANE["none"], STSFound(), Wishes(requiretls=one)).demand for one in (False, True)))

    def test_records_in_another_order_make_the_same_decision(self) -> None:
        more = TLSA(3, 1, 1, b"\1" * 32), TLSA(0, 0, 1, bytes(32))
        for records in ((GOOD, *more), (ALIEN, *more[1:])):
            decisions = {
                decide(found(SECURE_MX, SECURE_A, answer(RecordType.TLSA, RECORDS, tlsa=order)), STSFound(), Wishes())
                for order in itertools.permutations(records)
            }
            self.assertEqual(len(decisions), 1)


class Questions(SynchronousTestCase):
    """On the way to the TLSA records (RFC 7672 §2.2.2-2.2.3)."""

    ALIAS = answer(RecordType.A, HOST, alias_of="real.example.net")
    UNPROVED_ALIAS = answer(RecordType.A, HOST, secure=False, alias_of="real.example.net")
    AT_HOST = Question(RECORDS, RecordType.TLSA)
    AT_REAL = Question("_25._tcp.real.example.net", RecordType.TLSA)
    THE_ALIAS = Question(HOST, RecordType.CNAME)

    def asked(self, *answers: Answer, mx: Answer | None = SECURE_MX) -> Question | None:
        return next_question(HOST, 25, mx, answers)

    def test_a_host_is_asked_for_its_records_at_its_port(self) -> None:
        self.assertEqual(self.asked(SECURE_A), self.AT_HOST)
        self.assertEqual(self.asked(SECURE_A, mx=None), self.AT_HOST)
        self.assertEqual(
            next_question(HOST, 2525, SECURE_MX, [SECURE_A]), Question(f"_2525._tcp.{HOST}", RecordType.TLSA)
        )

    def test_nothing_is_asked_where_dnssec_does_not_lead(self) -> None:
        """Servers in unsigned zones often cannot answer such a question at all (RFC 7672 §2.2.2)."""
        self.assertIsNone(self.asked(SECURE_A, mx=INSECURE_MX))
        self.assertIsNone(self.asked(INSECURE_A))
        self.assertIsNone(self.asked(SECURE_A, answer(RecordType.AAAA, HOST, secure=False)))
        self.assertIsNone(self.asked(nothing(RecordType.A, HOST), nothing(RecordType.AAAA, HOST)))

    def test_one_family_of_addresses_is_enough(self) -> None:
        for verdict in (Verdict.NODATA, Verdict.FAILED):
            self.assertEqual(
                self.asked(nothing(RecordType.A, HOST, verdict), answer(RecordType.AAAA, HOST)), self.AT_HOST
            )

    def test_an_authenticated_answer_is_the_last(self) -> None:
        self.assertIsNone(self.asked(SECURE_A, answer(RecordType.TLSA, RECORDS, tlsa=(GOOD,))))
        self.assertIsNone(self.asked(SECURE_A, nothing(RecordType.TLSA, RECORDS)))

    def test_an_alias_is_asked_at_its_end_and_then_at_itself(self) -> None:
        self.assertEqual(self.asked(self.ALIAS), self.AT_REAL)
        for answered in (
            nothing(RecordType.TLSA, self.AT_REAL.name),
            nothing(RecordType.TLSA, self.AT_REAL.name, Verdict.NXDOMAIN),
            answer(RecordType.TLSA, self.AT_REAL.name, secure=False, tlsa=(GOOD,)),
        ):
            self.assertEqual(self.asked(self.ALIAS, answered), self.AT_HOST)
        for decisive in (
            answer(RecordType.TLSA, self.AT_REAL.name, tlsa=(GOOD,)),
            nothing(RecordType.TLSA, self.AT_REAL.name, Verdict.FAILED),
            nothing(RecordType.TLSA, self.AT_REAL.name, Verdict.BOGUS),
        ):
            self.assertIsNone(self.asked(self.ALIAS, decisive))

    def test_an_alias_that_leads_out_of_dnssec_is_asked_at_itself_if_it_is_signed(self) -> None:
        self.assertEqual(self.asked(self.UNPROVED_ALIAS), self.THE_ALIAS)
        signed, unsigned = (answer(RecordType.CNAME, HOST, secure=secure) for secure in (True, False))
        self.assertEqual(self.asked(self.UNPROVED_ALIAS, signed), self.AT_HOST)
        self.assertIsNone(self.asked(self.UNPROVED_ALIAS, unsigned))
        tlsa = answer(RecordType.TLSA, RECORDS, tlsa=(GOOD,))
        self.assertIsNone(self.asked(self.UNPROVED_ALIAS, signed, tlsa))
        self.assertIs(found(SECURE_MX, self.UNPROVED_ALIAS, signed, tlsa).dane, DANEState.USABLE)
        self.assertIs(found(SECURE_MX, self.UNPROVED_ALIAS, unsigned).dane, DANEState.INSECURE)

    def test_an_alias_that_nobody_can_tell_about_makes_the_host_unusable(self) -> None:
        for verdict in (Verdict.FAILED, Verdict.BOGUS):
            cname = nothing(RecordType.CNAME, HOST, verdict)
            self.assertIsNone(self.asked(self.UNPROVED_ALIAS, cname))
            self.assertIs(found(SECURE_MX, self.UNPROVED_ALIAS, cname).dane, DANEState.BROKEN)

    def test_records_that_dnssec_does_not_prove_do_not_count(self) -> None:
        host = found(SECURE_MX, SECURE_A, answer(RecordType.TLSA, RECORDS, secure=False, tlsa=(GOOD,)))
        self.assertEqual((host.dane, host.records), (DANEState.INSECURE, ()))
        host = found(SECURE_MX, SECURE_A, nothing(RecordType.TLSA, RECORDS, secure=False))
        self.assertIs(host.dane, DANEState.INSECURE)

    def test_what_was_not_asked_is_not_known(self) -> None:
        """As where the wishes need no DANE."""
        host = found(SECURE_MX, SECURE_A)
        self.assertEqual((host.dane, host.words), (DANEState.INSECURE, "nobody asked for TLSA records"))

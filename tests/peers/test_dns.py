"""
The resolver against a real unbound before a real bind9: every kind of zone.
"""

from __future__ import annotations

import gc

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import TestCase

from pymail_tx.core.dns import MX, TLSA, Answer, RecordType, Verdict
from pymail_tx.net.dns import Resolver
from tests.peers.zones import Signing, Zone, Zones

DIGEST = "ab" * 32

RECORDS = f"""
@ MX 20 backup
@ MX 10 Mail
mail A 127.0.0.2
mail A 127.0.0.3
mail AAAA ::1
_25._tcp.mail TLSA 3 1 1 {DIGEST}
_25._tcp.mail TLSA 2 0 2 {DIGEST * 2}
_25._tcp.backup CNAME _25._tcp.mail
alias CNAME other
other CNAME mail
dangling CNAME nobody
circle CNAME around
around CNAME circle
outside CNAME mail.unsigned.test.
null MX 0 .
_mta-sts TXT "v=STSv1; " "id=1;"
escaped MX 10 a\\.b
"""

LARGE = "\n".join(f"large MX {number} a-mail-exchanger-with-a-long-name-{number}" for number in range(90))
CHAIN = "\n".join(f"link{number} CNAME link{number + 1}" for number in range(20))

ZONES = (
    *(Zone(f"{signing.value}.test", RECORDS, signing) for signing in Signing),
    Zone(
        "more.test",
        f"{LARGE}\n{CHAIN}\nlink20 A 127.0.0.2\ngood A 127.0.0.2\nbad A 127.0.0.3",
        tampered=frozenset({"bad.more.test"}),
    ),
)


class RealZones(TestCase):
    timeout = 30
    says_why = False

    def setUp(self) -> None:
        self.zones = Zones.shared(*ZONES, says_why=self.says_why)
        self.resolver = Resolver(IReactorTime(reactor), [self.zones.resolver])
        self.addCleanup(self.resolver.close)

    def ask(self, name: str, kind: RecordType = RecordType.A) -> Deferred[Answer]:
        return self.resolver.resolve(name, kind)

    async def test_the_records_of_a_signed_zone_are_authenticated(self) -> None:
        exchangers = await self.ask("signed.test", RecordType.MX)
        self.assertEqual(sorted(exchangers.mx), [MX(10, "mail.signed.test"), MX(20, "backup.signed.test")])
        self.assertEqual((exchangers.verdict, exchangers.authenticated), (Verdict.DATA, True))
        self.assertTrue(0 < exchangers.ttl_s <= 300)
        addresses = await self.ask("mail.signed.test")
        self.assertEqual((sorted(addresses.addresses), addresses.authenticated), (["127.0.0.2", "127.0.0.3"], True))
        self.assertEqual((await self.ask("mail.signed.test", RecordType.AAAA)).addresses, ("::1",))

    async def test_tlsa_records_come_as_they_are_and_through_an_alias(self) -> None:
        records = {TLSA(3, 1, 1, bytes.fromhex(DIGEST)), TLSA(2, 0, 2, bytes.fromhex(DIGEST * 2))}
        direct = await self.ask("_25._tcp.mail.signed.test", RecordType.TLSA)
        self.assertEqual((set(direct.tlsa), direct.authenticated), (records, True))
        alias = await self.ask("_25._tcp.backup.signed.test", RecordType.TLSA)
        self.assertEqual((set(alias.tlsa), alias.authenticated), (records, True))
        self.assertEqual(alias.canonical_name, "_25._tcp.mail.signed.test")

    async def test_the_strings_of_a_text_are_joined(self) -> None:
        self.assertEqual((await self.ask("_mta-sts.signed.test", RecordType.TXT)).texts, (b"v=STSv1; id=1;",))

    async def test_a_null_mx_has_an_empty_host(self) -> None:
        self.assertEqual((await self.ask("null.signed.test", RecordType.MX)).mx, (MX(0, ""),))

    async def test_a_name_with_odd_octets_can_be_asked_for_as_it_came(self) -> None:
        (odd,) = (await self.ask("escaped.signed.test", RecordType.MX)).mx
        self.assertEqual(odd.host, "a\\.b.signed.test")
        self.assertEqual((await self.ask(odd.host)).verdict, Verdict.NXDOMAIN)

    async def test_aliases_lead_to_their_end(self) -> None:
        answer = await self.ask("alias.signed.test", RecordType.AAAA)
        self.assertEqual((answer.addresses, answer.authenticated), (("::1",), True))
        self.assertEqual(answer.canonical_name, "mail.signed.test")
        alias = await self.ask("alias.signed.test", RecordType.CNAME)
        self.assertEqual((alias.verdict, alias.canonical_name), (Verdict.DATA, "other.signed.test"))

    async def test_an_alias_to_nobody_is_no_such_name_and_one_to_less_is_no_data(self) -> None:
        self.assertEqual((await self.ask("dangling.signed.test")).verdict, Verdict.NXDOMAIN)
        answer = await self.ask("alias.signed.test", RecordType.MX)
        self.assertEqual((answer.verdict, answer.authenticated), (Verdict.NODATA, True))
        self.assertEqual(answer.canonical_name, "mail.signed.test")

    async def test_an_alias_into_an_unsigned_zone_is_not_authenticated(self) -> None:
        answer = await self.ask("outside.signed.test", RecordType.AAAA)
        self.assertEqual((answer.addresses, answer.authenticated), (("::1",), False))

    async def test_a_circle_of_aliases_and_a_very_long_row_are_failures(self) -> None:
        self.assertEqual((await self.ask("circle.signed.test")).verdict, Verdict.FAILED)
        self.assertEqual((await self.ask("link0.more.test")).verdict, Verdict.FAILED)

    async def test_denials_of_a_signed_zone_are_authenticated(self) -> None:
        nobody = await self.ask("nobody.signed.test", RecordType.MX)
        self.assertEqual((nobody.verdict, nobody.authenticated), (Verdict.NXDOMAIN, True))
        self.assertTrue(0 < nobody.ttl_s <= 60)
        nothing = await self.ask("mail.signed.test", RecordType.MX)
        self.assertEqual((nothing.verdict, nothing.authenticated), (Verdict.NODATA, True))

    async def test_an_unsigned_zone_is_not_authenticated(self) -> None:
        for name, verdict in (("unsigned.test", Verdict.DATA), ("nobody.unsigned.test", Verdict.NXDOMAIN),
                              ("mail.unsigned.test", Verdict.NODATA)):  # fmt: skip
            answer = await self.ask(name, RecordType.MX)
            self.assertEqual((answer.verdict, answer.authenticated), (verdict, False))

    async def test_expired_and_tampered_zones_are_bogus_their_denials_too(self) -> None:
        for zone in ("expired.test", "tampered.test"):
            for name in (zone, f"nobody.{zone}", f"mail.{zone}"):
                answer = await self.ask(name, RecordType.MX)
                self.assertEqual((answer.verdict, answer.authenticated, answer.mx), (Verdict.BOGUS, False, ()), name)
                self.assertIn("SERVFAIL", answer.reason)

    async def test_bogus_stays_bogus_when_the_server_has_it_in_its_cache(self) -> None:
        for _ in range(2):
            other = Resolver(IReactorTime(reactor), [self.zones.resolver])
            self.assertEqual((await other.resolve("expired.test", RecordType.MX)).verdict, Verdict.BOGUS)
            await other.close()

    async def test_one_bogus_name_harms_no_other_of_its_zone(self) -> None:
        self.assertEqual((await self.ask("bad.more.test")).verdict, Verdict.BOGUS)
        self.assertEqual((await self.ask("good.more.test")).authenticated, True)

    async def test_a_zone_whose_authority_is_broken_is_a_failure(self) -> None:
        answer = await self.ask("broken.test", RecordType.MX)
        self.assertEqual((answer.verdict, answer.authenticated), (Verdict.FAILED, False))
        self.assertIn("SERVFAIL", answer.reason)

    async def test_more_than_fits_into_a_datagram_comes_over_tcp(self) -> None:
        answer = await self.ask("large.more.test", RecordType.MX)
        self.assertEqual((len(answer.mx), answer.authenticated), (90, True))

    async def test_who_is_not_trusted_authenticates_nothing(self) -> None:
        other = Resolver(IReactorTime(reactor), [self.zones.resolver], trust_ad=False)
        answer = await other.resolve("signed.test", RecordType.MX)
        self.assertEqual((answer.verdict, answer.authenticated), (Verdict.DATA, False))
        await other.close()

    async def test_an_authority_authenticates_nothing_and_says_nothing_about_others(self) -> None:
        other = Resolver(IReactorTime(reactor), [self.zones.authority])
        answer = await other.resolve("signed.test", RecordType.MX)
        self.assertEqual((answer.verdict, answer.authenticated), (Verdict.DATA, False))
        await other.close()

    async def test_a_server_that_is_not_there_costs_no_time(self) -> None:
        other = Resolver(IReactorTime(reactor), [("127.0.0.1", 9), self.zones.resolver])
        self.assertEqual((await other.resolve("signed.test", RecordType.MX)).verdict, Verdict.DATA)
        await other.close()

    async def test_a_cancel_leaves_nothing_behind(self) -> None:
        answers = [self.ask(f"host{number}.signed.test") for number in range(50)]
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        await self.resolver.close()
        gc.collect()  # a Deferred that failed and was not heard would be told now


class RealZonesAndReasons(RealZones):
    """With an unbound that was told C{ede: yes}."""

    says_why = True

    async def test_the_reason_is_in_its_words(self) -> None:
        answer = await self.ask("mail.expired.test")
        self.assertRegex(answer.reason, "SERVFAIL; .*(Signature Expired|DNSSEC Bogus)")

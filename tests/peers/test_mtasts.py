"""
MTA-STS from end to end: records in a real bind9, asked for through a validating
unbound and our resolver; policies over real HTTPS.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime

from pymail_tx.core.mtasts import read_policy
from pymail_tx.core.tlspolicy import STSFound
from pymail_tx.net.dns import Resolver
from pymail_tx.net.mtasts import LOOK_INTERVAL_S, PolicyKeeper
from pymail_tx.net.policy_store import MemoryPolicyStore
from tests.net.policy_server import POLICY, PolicyTestCase
from tests.net.test_mtasts import NOW, cached
from tests.peers.zones import Signing, Zone, Zones

RECORDS = """\
_mta-sts TXT "v=STSv1; " "id=20160831" "085700Z;"
mta-sts A 127.0.0.1
_mta-sts.alias CNAME _mta-sts
mta-sts.alias CNAME mta-sts
_mta-sts.two TXT "v=STSv1; id=1;"
_mta-sts.two TXT "v=STSv1; id=2;"
_mta-sts.other TXT "v=spf1 -all"
_mta-sts.other TXT "v=STSv1; id=3;"
mta-sts.other A 127.0.0.1
_mta-sts.homeless TXT "v=STSv1; id=4;"
"""

ENFORCE = STSFound(read_policy(POLICY))


class Domains(PolicyTestCase):
    """A signed zone, one that is not, and one whose signatures have expired."""

    def setUp(self) -> None:
        super().setUp()
        zones = Zones.shared(
            Zone("sts.test", RECORDS),
            Zone("unsigned.test", RECORDS, Signing.UNSIGNED),
            Zone("bogus.test", RECORDS, Signing.EXPIRED),
        )
        resolver = Resolver(IReactorTime(reactor), servers=[zones.resolver])
        self.addCleanup(resolver.close)
        self.store = MemoryPolicyStore()
        names = ("sts.test", "alias.sts.test", "other.sts.test", "homeless.sts.test", "unsigned.test", "bogus.test")
        certificate = self.authority.issue(*(f"mta-sts.{name}" for name in names))
        self.host, port = self.serve_policy(certificate)
        self.keeper = PolicyKeeper(
            self.reactor,
            resolver,
            wall_clock=lambda: NOW + self.clock.seconds(),
            store=self.store,
            trust_root=self.trust_root,
            port=port,
        )
        self.addCleanup(self.keeper.close)

    async def test_a_record_in_several_strings_announces_a_policy(self) -> None:
        self.assertEqual(await self.keeper.find("sts.test"), ENFORCE)
        kept = await self.store.load("sts.test")
        self.assertEqual(kept and kept.id, "20160831085700Z")

    async def test_dnssec_is_not_needed(self) -> None:
        self.assertEqual(await self.keeper.find("unsigned.test"), ENFORCE)

    async def test_record_and_policy_host_may_be_aliases_and_the_certificate_is_for_the_domain_s_own_name(self) -> None:
        self.assertEqual(await self.keeper.find("alias.sts.test"), ENFORCE)
        self.assertEqual(self.host.requests, ["GET /.well-known/mta-sts.txt mta-sts.alias.sts.test"])

    async def test_two_records_count_as_none(self) -> None:
        found = await self.keeper.find("two.sts.test")
        self.assertEqual(found.policy, None)
        self.assertIn("2 TXT records", found.problem)

    async def test_another_record_beside_it_does_not_matter(self) -> None:
        self.assertEqual(await self.keeper.find("other.sts.test"), ENFORCE)

    async def test_a_domain_without_a_record_has_no_policy(self) -> None:
        for domain in ("none.sts.test", "nothing.example"):
            self.assertEqual(await self.keeper.find(domain), STSFound())

    async def test_a_policy_host_without_an_address_is_a_problem(self) -> None:
        found = await self.keeper.find("homeless.sts.test")
        self.assertEqual(
            found, STSFound(problem="https://mta-sts.homeless.sts.test/.well-known/mta-sts.txt: no address")
        )

    async def test_records_that_are_bogus_announce_nothing(self) -> None:
        found = await self.keeper.find("bogus.test")
        self.assertIsNone(found.policy)
        self.assertTrue(found.problem.startswith("_mta-sts.bogus.test: "), found)
        self.assertEqual(self.host.requests, [])

    async def test_records_that_are_bogus_leave_a_policy_in_force(self) -> None:
        self.store.save(cached("bogus.test"))
        for _ in range(2):
            self.assertEqual(await self.keeper.find("bogus.test"), ENFORCE)
            await self.turns()
            self.clock.advance(LOOK_INTERVAL_S)

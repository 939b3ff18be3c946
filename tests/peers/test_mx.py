"""
By MX and DANE to a real Postfix and a real Exim, asking a real, validating
unbound before a real bind9.
"""

from __future__ import annotations

import hashlib
import smtplib
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.dns import Resolver
from pymail_tx.net.transcript import Transcript
from tests.peers.deliveries import DeliveryCase, letter
from tests.peers.exim import Exim
from tests.peers.postfix import Postfix
from tests.peers.relay import Relay
from tests.peers.zones import Signing, Zone, Zones

_MX = "@ MX 10 mx\nmx A 127.0.0.1\n"
_OTHER_KEY = "00" * 32


def tlsa(port: int, digest: str) -> str:
    """A record for an end entity's key: 3 1 1."""
    return f"_{port}._tcp.mx TLSA 3 1 1 {digest}\n"


def key_of(certificate: Path) -> str:
    """The digest of a certificate's key."""
    key = load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class MXCase(DeliveryCase):
    def internet(self, port: int, *zones: Zone, query: str = "", root: str | None = None) -> SMTPAgent:
        """An agent for the internet that these zones are."""
        resolver = Resolver(IReactorTime(reactor), [Zones.start(self, *zones).resolver])
        self.addCleanup(resolver.close)
        self.transcript = Transcript()
        agent = SMTPAgent(
            IReactorTime(reactor), f"mx:?port={port}{query}", hostname="client.example.net", resolver=resolver,
            max_connections=1, trust_root=root, transcript=self.transcript,
        )  # fmt: skip
        self.addCleanup(agent.close)
        return agent

    async def outcome(self, agent: SMTPAgent, to: str = "bob@example.org", *, requiretls: bool = False) -> Outcome:
        report = await agent.send(Envelope("ann@example.net", [to], requiretls=requiretls), letter(1))
        return report.outcomes[0]

    def waits(self, outcome: Outcome, *words: str) -> None:
        self.assertEqual(outcome.status.value, "deferred", outcome)
        for word in words:
            self.assertIn(word, outcome.reason)


class ToPostfix(MXCase):
    def setUp(self) -> None:
        self.postfix = Postfix.start(self)
        self.port = self.postfix.starttls_port
        self.key = key_of(self.postfix.root / "certificate.pem")

    async def test_a_certificate_that_dane_vouches_for_is_the_proof(self) -> None:
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, self.key)))
        report = await self.one_is_delivered(agent, self.postfix)
        (outcome,) = report.outcomes
        assert outcome.tls
        self.assertEqual((outcome.tls.policy, outcome.tls.proof), ("DANE", f"TLSA 3 1 1 {self.key}"))
        self.assertEqual((outcome.host, outcome.port), ("mx.example.org", self.port))

    async def test_one_that_it_does_not_vouch_for_gets_nothing(self) -> None:
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, _OTHER_KEY)))
        self.waits(await self.outcome(agent), "4.7.5 mx.example.org", "matches none of TLSA 3 1 1 0000")
        self.assertEqual(self.said("MAIL"), 0)

    async def test_nor_does_a_host_without_starttls(self) -> None:
        port = self.postfix.port
        agent = self.internet(port, Zone("example.org", _MX + tlsa(port, self.key)))
        self.waits(await self.outcome(agent), "4.7.5", "STARTTLS is not offered", f"TLSA records at _{port}._tcp.mx")
        self.assertEqual(self.said("MAIL"), 0)

    async def test_records_whose_signature_is_wrong_close_the_way(self) -> None:
        bogus = frozenset({f"_{self.port}._tcp.mx.example.org"})
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, self.key), tampered=bogus))
        self.waits(await self.outcome(agent), "4.7.5 mx.example.org is not used", "bogus")
        self.assertEqual(list(self.transcript), [])

    async def test_in_a_zone_that_is_not_signed_they_do_not_count(self) -> None:
        zone = Zone("example.org", _MX + tlsa(self.port, _OTHER_KEY), Signing.UNSIGNED)
        report = await self.one_is_delivered(self.internet(self.port, zone), self.postfix)
        tls = report.outcomes[0].tls
        self.assertEqual((tls and tls.policy, tls and tls.level), ("default", "opportunistic"))

    async def test_a_host_that_is_down_and_one_that_does_not_prove_itself_are_passed_over(self) -> None:
        zone = Zone(
            "example.org",
            "@ MX 10 down\n@ MX 20 wrong\n@ MX 30 mx\ndown A 127.0.0.9\nwrong A 127.0.0.1\nmx A 127.0.0.1\n"
            + tlsa(self.port, _OTHER_KEY).replace(".mx ", ".wrong ")
            + tlsa(self.port, self.key),
        )
        report = await self.one_is_delivered(self.internet(self.port, zone), self.postfix)
        self.assertEqual(report.outcomes[0].host, "mx.example.org")

    async def test_requiretls_fails_where_the_host_does_not_promise_the_same(self) -> None:
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, self.key)))
        outcome = await self.outcome(agent, requiretls=True)
        self.assertEqual((outcome.status.value, outcome.reason[:6]), ("failed", "5.7.30"), outcome)

    async def test_what_dns_says_of_a_domain_is_the_verdict(self) -> None:
        agent = self.internet(
            self.port,
            Zone("null.test", "@ MX 0 ."),
            Zone("expired.test", _MX, Signing.EXPIRED),
            Zone("broken.test", _MX, Signing.BROKEN),
            Zone("nowhere.test", "@ MX 10 gone"),
            Zone("alone.test", "@ TXT v=none"),
        )
        for domain, status, code in (
            ("null.test", "failed", "5.1.10"),
            ("expired.test", "deferred", "4.4.3"),
            ("broken.test", "deferred", "4.4.3"),
            ("nowhere.test", "failed", "5.4.4"),
            ("alone.test", "failed", "5.4.4"),
            ("none.test", "failed", "5.1.2"),
        ):
            outcome = await self.outcome(agent, f"bob@{domain}")
            self.assertEqual((outcome.status.value, outcome.reason.split(" ")[0]), (status, code), outcome)

    async def test_mail_for_an_alias_of_a_domain_follows_it(self) -> None:
        zones = (
            Zone("example.org", "@ MX 10 host.elsewhere.test."),
            Zone("elsewhere.test", f"host CNAME mx\nmx A 127.0.0.1\n{tlsa(self.port, self.key)}"),
        )
        report = await self.one_is_delivered(self.internet(self.port, *zones), self.postfix)
        (outcome,) = report.outcomes
        self.assertEqual((outcome.host, outcome.tls and outcome.tls.policy), ("host.elsewhere.test", "DANE"))


class ToExim(MXCase):
    def setUp(self) -> None:
        self.exim = Exim.start(self)
        self.port = self.exim.starttls_port
        self.key = key_of(self.exim.root / "etc" / "certificate.pem")

    async def test_fifty_over_a_session_that_dane_proves(self) -> None:
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, self.key)))
        sent = [agent.send(Envelope("ann@example.net", ["bob@example.org"]), letter(number)) for number in range(50)]
        for one in sent:
            (outcome,) = (await one).outcomes
            self.assertEqual((outcome.status.value, outcome.tls and outcome.tls.policy), ("delivered", "DANE"))
        self.are_found(self.exim, [letter(number) for number in range(50)])
        self.assertEqual(self.said("STARTTLS"), 1)

    async def test_a_key_that_no_record_names_gets_nothing(self) -> None:
        agent = self.internet(self.port, Zone("example.org", _MX + tlsa(self.port, _OTHER_KEY)))
        self.waits(await self.outcome(agent), "4.7.5 mx.example.org", "matches none of TLSA")
        self.assertEqual(self.said("MAIL"), 0)


class RelayByMX(SynchronousTestCase):
    timeout = 120

    def test_mail_finds_the_host_of_its_domain_and_has_its_proof(self) -> None:
        postfix = Postfix.start(self)
        port = postfix.starttls_port
        records = _MX + tlsa(port, key_of(postfix.root / "certificate.pem"))
        zones = Zones.start(self, Zone("example.org", records))
        relay = Relay.start(self, f"*=mx:?port={port}&tls=dane", host="127.0.0.2", dns=zones.resolver)
        with smtplib.SMTP(relay.host, relay.port) as session:
            session.sendmail("ann@example.net", ["bob@example.org"], b"Subject: Hello\r\n\r\nIt works.\r\n")
        (message,) = postfix.await_messages(1)
        self.assertIn(b"using TLS", message)

"""
TLSA records judge a certificate inside the handshake: what they do not vouch for is refused there.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dane import shown
from pymail_tx.core.dns import TLSA
from pymail_tx.core.errors import TLSFailed
from pymail_tx.core.tlspolicy import PolicySource, TLSDecision, TLSLevel
from pymail_tx.net.opening import greet, secure
from pymail_tx.net.protocol import SMTPClient, SMTPClientFactory
from pymail_tx.net.tls import ClientTLS
from tests.net.certificates import Authority, Certificate, self_signed
from tests.net.loopback import HOST, LoopbackTestCase, Script
from tests.net.test_tls import Handshake, Shaking, carry, step
from tests.project.tls_page import explains

DOMAIN = "example.org"
TA, EE = 2, 3
WHOLE, KEY = 0, 1
KINDS = tuple(itertools.product((WHOLE, KEY), (0, 1, 2)))
"""Every selector with every matching type."""

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


def tlsa(usage: int, of: Certificate, selector: int = KEY, matching_type: int = 1) -> TLSA:
    """The record that the owner of a certificate publishes."""
    spki = of.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    octets = of.certificate.public_bytes(Encoding.DER) if selector == WHOLE else spki
    digests = {0: octets, 1: hashlib.sha256(octets).digest(), 2: hashlib.sha512(octets).digest()}
    return TLSA(usage, selector, matching_type, digests[matching_type])


def by_records(*records: TLSA, names: Sequence[str] = (HOST, DOMAIN)) -> TLSDecision:
    """What is decided for a host with such records."""
    return TLSDecision(
        host=HOST, level=TLSLevel.DANE, source=PolicySource.DANE, names=tuple(names), records=records,
        reason=f"DANE: TLSA records at _25._tcp.{HOST}",
    )  # fmt: skip


def shake(certificate: Certificate, decision: TLSDecision, version: int = SSL.TLS1_3_VERSION) -> Handshake:
    """Without any trusted authority but those of the records."""
    context = certificate.context()
    context.set_max_proto_version(version)
    return Shaking(ClientTLS(HOST, decision=decision), context).run()


def sending(certificate: Certificate, *above: Certificate) -> Certificate:
    """A server's, with what it sends along."""
    return evolve(certificate, above=tuple(one.certificate for one in above))


class DANETestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.authority = Authority()

    def is_good(self, certificate: Certificate, decision: TLSDecision, proof: TLSA, version: int = 0) -> None:
        """It is vouched for, by that record."""
        shaken = shake(certificate, decision, version or SSL.TLS1_3_VERSION)
        self.assertEqual((shaken.error, shaken.server_finished), (None, True))
        assert shaken.facts
        facts = shaken.facts
        self.assertEqual((facts.verified, facts.problem, facts.proof), (True, "", f"TLSA {shown([proof])}"))
        self.assertEqual((facts.policy, facts.level, facts.policy_reason), ("DANE", "dane", decision.reason))

    def is_bad(self, certificate: Certificate, decision: TLSDecision, problem: str) -> None:
        """The handshake breaks, in either version of TLS, with those words."""
        for version in VERSIONS:
            shaken = shake(certificate, decision, version)
            assert shaken.error, "vouched for"
            self.assertTrue(shaken.error.unverified)
            self.assertFalse(shaken.server_finished)
            self.assertIn(problem, str(shaken.error))
            self.assertTrue(explains(str(shaken.error)), str(shaken.error))
            self.assertIn(f"({decision.reason})", str(shaken.error))


class EndEntity(DANETestCase):
    """Usage 3 (RFC 7672 §3.1.1)."""

    def test_every_selector_and_matching_type_vouches_for_a_certificate_that_is_wrong_in_all_else(self) -> None:
        certificate = self_signed("elsewhere.example")
        for (selector, matching_type), version in itertools.product(KINDS, VERSIONS):
            record = tlsa(EE, certificate, selector, matching_type)
            self.is_good(certificate, by_records(record), record, version)

    def test_an_expired_one_and_one_that_is_not_valid_yet_are_good(self) -> None:
        for valid in ((-2, -1), (1, 2)):
            certificate = self.authority.issue(HOST, valid=valid)
            self.is_good(certificate, by_records(tlsa(EE, certificate)), tlsa(EE, certificate))

    def test_one_without_names_or_with_unreadable_ones_is_good(self) -> None:
        for certificate in (self.authority.issue(), self.authority.issue(san=b"garbage")):
            self.is_good(certificate, by_records(tlsa(EE, certificate)), tlsa(EE, certificate))

    def test_another_does_not_match_and_the_words_say_what_was_found(self) -> None:
        wanted, found = self.authority.issue(HOST), self.authority.issue(HOST)
        for selector, matching_type in KINDS:
            record = tlsa(EE, wanted, selector, matching_type)
            words = f"certificate of {HOST} matches none of TLSA {shown([record])}; it is {tlsa(EE, found)} (DANE"
            self.is_bad(found, by_records(record), words)

    def test_pkix_does_not_help_one_that_does_not_match(self) -> None:
        trust_root = os.path.abspath(self.mktemp())
        Path(trust_root).write_bytes(self.authority.root.pem)
        decision = by_records(tlsa(EE, self_signed(HOST)))
        creator = ClientTLS(HOST, trust_root=trust_root, decision=decision)
        shaken = Shaking(creator, self.authority.issue(HOST).context()).run()
        self.assertTrue(shaken.error and shaken.error.unverified)

    def test_a_certificate_sent_along_does_not_match(self) -> None:
        """Only the server's own has a key that the handshake proves."""
        good = self.authority.issue(HOST)
        bad = self_signed(HOST)
        self.is_bad(sending(bad, good), by_records(tlsa(EE, good)), f"it is {tlsa(EE, bad)} (DANE")

    def test_while_keys_roll_over_old_and_new_are_good(self) -> None:
        old, new = self.authority.issue(HOST), self.authority.issue(HOST)
        decision = by_records(tlsa(EE, old), tlsa(EE, new))
        for certificate in (old, new):
            self.is_good(certificate, decision, tlsa(EE, certificate))

    def test_of_many_records_the_words_show_some(self) -> None:
        records = [tlsa(EE, self_signed(HOST)) for _ in range(5)]
        decision = by_records(*records)
        shown = f"{records[0]}, {records[1]}, {records[2]} and 2 more; it is"
        self.is_bad(self_signed(HOST), decision, shown)

    def test_the_base_domain_is_indicated_to_the_server(self) -> None:
        certificate = self_signed(HOST)
        shaken = shake(certificate, by_records(tlsa(EE, certificate), names=("expanded.example.net", DOMAIN)))
        self.assertEqual(shaken.server_name, b"expanded.example.net")


class TrustAnchor(DANETestCase):
    """Usage 2 (RFC 7672 §3.1.2)."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.authority.root
        self.middle = self.authority.below("Intermediate")
        self.leaf = self.middle.issue(HOST)
        self.sent = sending(self.leaf, self.middle.root, self.root)

    def test_every_selector_and_matching_type_names_an_authority_that_is_sent(self) -> None:
        for (selector, matching_type), version in itertools.product(KINDS, VERSIONS):
            record = tlsa(TA, self.root, selector, matching_type)
            self.is_good(self.sent, by_records(record), record, version)

    def test_an_intermediate_authority_can_be_the_anchor_with_and_without_those_above(self) -> None:
        for selector, matching_type in KINDS:
            record = tlsa(TA, self.middle.root, selector, matching_type)
            self.is_good(self.sent, by_records(record), record)
            self.is_good(sending(self.leaf, self.middle.root), by_records(record), record)

    def test_one_that_a_record_holds_whole_need_not_be_sent(self) -> None:
        for selector in (WHOLE, KEY):
            record = tlsa(TA, self.root, selector, 0)
            self.is_good(sending(self.leaf, self.middle.root), by_records(record), record)
            above_leaf = tlsa(TA, self.middle.root, selector, 0)
            self.is_good(sending(self.leaf), by_records(above_leaf), above_leaf)

    def test_one_of_which_a_record_holds_a_digest_must_be_sent(self) -> None:
        for selector, matching_type in itertools.product((WHOLE, KEY), (1, 2)):
            record = tlsa(TA, self.root, selector, matching_type)
            leaf, middle = tlsa(EE, self.leaf), tlsa(TA, self.middle.root)
            words = f"matches none of TLSA {record}; it is {leaf}, sent with {middle} (DANE"
            self.is_bad(sending(self.leaf, self.middle.root), by_records(record), words)

    def test_without_the_certificates_between_there_is_no_chain(self) -> None:
        record = tlsa(TA, self.root)
        words = f"has no chain to the authority of TLSA {record}: unable to get local issuer certificate"
        self.is_bad(sending(self.leaf, self.root), by_records(record), words)

    def test_an_authority_sent_beside_a_certificate_that_it_did_not_sign_vouches_for_nothing(self) -> None:
        for selector, matching_type in KINDS:
            decision = by_records(tlsa(TA, self.root, selector, matching_type))
            self.is_bad(sending(self_signed(HOST), self.root), decision, "certificate of")
            borrowed = Authority().issue(HOST)  # whose issuer has the same name
            self.is_bad(sending(borrowed, self.root), decision, "certificate of")

    def test_a_certificate_that_may_not_sign_vouches_for_nothing(self) -> None:
        server = self.middle.issue("evil.example", common_name="evil.example")
        leaf = Authority.by(server).issue(HOST)
        record = tlsa(TA, self.root)
        self.is_bad(sending(leaf, server, self.middle.root, self.root), by_records(record), "has no chain to")

    def test_the_servers_own_certificate_is_no_authority(self) -> None:
        self.is_bad(self.sent, by_records(tlsa(TA, self.leaf)), "matches none of")

    def test_an_expired_certificate_is_bad(self) -> None:
        leaf = sending(self.authority.issue(HOST, valid=(-2, -1)), self.root)
        self.is_bad(leaf, by_records(tlsa(TA, self.root)), "certificate has expired")

    def test_an_expired_authority_is_bad(self) -> None:
        expired = Authority(valid=(-2, -1))
        for selector, matching_type in KINDS:
            decision = by_records(tlsa(TA, expired.root, selector, matching_type))
            self.is_bad(sending(expired.issue(HOST), expired.root), decision, "certificate has expired")

    def test_while_authorities_roll_over_old_and_new_are_good(self) -> None:
        new = Authority("The new one")
        decision = by_records(tlsa(TA, self.root), tlsa(TA, new.root))
        self.is_good(self.sent, decision, tlsa(TA, self.root))
        self.is_good(sending(new.issue(HOST), new.root), decision, tlsa(TA, new.root))

    def test_a_record_of_usage_3_that_does_not_match_does_not_spoil_one_of_usage_2(self) -> None:
        self.is_good(self.sent, by_records(tlsa(EE, self_signed(HOST)), tlsa(TA, self.root)), tlsa(TA, self.root))

    def test_one_that_is_for_clients_is_bad(self) -> None:
        client = sending(self.authority.issue(HOST, purpose=ExtendedKeyUsageOID.CLIENT_AUTH), self.root)
        self.is_bad(client, by_records(tlsa(TA, self.root)), "may not be used by a server")
        server = sending(self.authority.issue(HOST, purpose=ExtendedKeyUsageOID.SERVER_AUTH), self.root)
        self.is_good(server, by_records(tlsa(TA, self.root)), tlsa(TA, self.root))


class TrustAnchorNames(DANETestCase):
    """Which names count below an authority (RFC 7672 §3.2.2-3.2.3)."""

    def setUp(self) -> None:
        super().setUp()
        self.record = tlsa(TA, self.authority.root)

    def for_names(self, *names: str, common_name: str = "a server") -> Certificate:
        return sending(self.authority.issue(*names, common_name=common_name), self.authority.root)

    def test_any_of_the_reference_names_will_do(self) -> None:
        for name in (HOST, DOMAIN, "*.example.org"):
            self.is_good(self.for_names("elsewhere.example", name), by_records(self.record), self.record)

    def test_another_will_not(self) -> None:
        for names in (["elsewhere.example"], ["a.mx.example.org", "example.com"]):
            self.is_bad(
                self.for_names(*names), by_records(self.record), f"certificate is not for {HOST} or {DOMAIN} (DANE"
            )

    def test_the_common_name_counts_where_there_is_no_other(self) -> None:
        self.is_good(self.for_names(common_name=HOST), by_records(self.record), self.record)
        self.is_good(self.for_names("192.0.2.1", common_name=HOST), by_records(self.record), self.record)
        self.is_bad(self.for_names("elsewhere.example", common_name=HOST), by_records(self.record), "is not for")

    def test_a_common_name_that_is_no_hosts_does_not_count(self) -> None:
        for common_name in ("a server", "mx.exämple.org", "m*.example.org", "*"):
            self.is_bad(self.for_names(common_name=common_name), by_records(self.record), "certificate ")

    def test_names_that_cannot_be_read_do_not_verify(self) -> None:
        """OpenSSL serves none such in TLS 1.2."""
        for san in (b"garbage", b"", b"\x30\x00"):
            leaf = sending(self.authority.issue(san=san), self.authority.root)
            shaken = shake(leaf, by_records(self.record))
            assert shaken.error
            self.assertTrue(shaken.error.unverified)


class OtherLevels(DANETestCase):
    def decision(self, level: TLSLevel, *names: str) -> TLSDecision:
        return TLSDecision(host=HOST, level=level, source=PolicySource.MTA_STS, names=names, reason="MTA-STS: listed")

    def verified(self, certificate: Certificate, *names: str) -> Handshake:
        trust_root = os.path.abspath(self.mktemp())
        Path(trust_root).write_bytes(self.authority.root.pem)
        decision = self.decision(TLSLevel.VERIFIED, *names)
        return Shaking(ClientTLS(HOST, trust_root=trust_root, decision=decision), certificate.context()).run()

    def test_encrypted_and_opportunistic_take_any_certificate_and_tell_what_is_wrong_with_it(self) -> None:
        for level in (TLSLevel.ENCRYPTED, TLSLevel.OPPORTUNISTIC):
            shaken = shake(self_signed("elsewhere.example"), self.decision(level, HOST))
            assert shaken.facts
            facts = shaken.facts
            self.assertEqual((facts.verified, facts.proof, facts.level), (False, "", level.value))
            self.assertIn("depth zero self signed cert", facts.problem)

    def test_verified_takes_any_of_its_names_and_indicates_the_first(self) -> None:
        for name in (HOST, DOMAIN):
            shaken = self.verified(self.authority.issue(name), HOST, DOMAIN)
            assert shaken.facts
            self.assertEqual((shaken.facts.verified, shaken.facts.proof), (True, "PKIX"))
            self.assertEqual(shaken.server_name, HOST.encode())

    def test_verified_refuses_another_name_and_another_authority_and_says_who_asked(self) -> None:
        for certificate in (self.authority.issue("elsewhere.example"), self_signed(HOST)):
            shaken = self.verified(certificate, HOST)
            assert shaken.error
            self.assertTrue(shaken.error.unverified)
            self.assertTrue(str(shaken.error).endswith("(MTA-STS: listed)"))

    def test_a_handshake_that_breaks_says_who_asked(self) -> None:
        context = self_signed(HOST).context()
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")  # of no use with a key of another kind
        shaking = Shaking(ClientTLS(HOST, decision=self.decision(TLSLevel.ENCRYPTED, HOST)), context)
        step(shaking.client)
        carry(shaking.client, shaking.server)
        self.assertRaises(SSL.Error, step, shaking.server)
        carry(shaking.server, shaking.client)
        refusal = self.assertRaises(SSL.Error, step, shaking.client)
        words = str(shaking.creator.failure(Failure(refusal)))
        self.assertRegex(words, r"^TLS handshake: .*alert.* \(MTA-STS: listed\)$")


class Limits(DANETestCase):
    def test_ten_certificates_of_a_chain_are_looked_at(self) -> None:
        chain = [self.authority]
        for number in range(9):
            chain.append(chain[-1].below(f"Intermediate {number}"))
        record = tlsa(TA, self.authority.root)
        above = [one.root for one in reversed(chain)]
        self.is_good(sending(chain[-2].issue(HOST), *above[1:]), by_records(record), record)
        self.is_bad(sending(chain[-1].issue(HOST), *above), by_records(record), "matches none of")


class Sessions(LoopbackTestCase):
    """Behind STARTTLS, over a socket."""

    async def secured(self, certificate: Certificate, *records: TLSA) -> SMTPClient:
        """The client, before STARTTLS or with it; what a test leaves open, it closes."""
        _, port = self.serve(Script(offers=["STARTTLS"], certificate=certificate))
        client = await TCP4ClientEndpoint(self.reactor, "127.0.0.1", port).connect(SMTPClientFactory(self.reactor))
        assert isinstance(client, SMTPClient)
        self.addCleanup(client.abort)
        await greet(client, "client.example.net", helo=False)
        await secure(client, "client.example.net", ClientTLS(HOST, decision=by_records(*records)))
        return client

    async def test_a_session_tells_which_record_vouches_for_the_server(self) -> None:
        certificate = self_signed("elsewhere.example")
        client = await self.secured(certificate, tlsa(EE, certificate))
        assert client.tls
        self.assertEqual(client.tls.proof, f"TLSA {tlsa(EE, certificate)}")
        await client.quit()

    async def test_a_server_that_no_record_vouches_for_hears_no_ehlo_in_tls(self) -> None:
        certificate = self_signed(HOST)
        with self.assertRaises(TLSFailed) as caught:
            await self.secured(certificate, tlsa(EE, self_signed(HOST)))
        self.assertIn(f"it is {tlsa(EE, certificate)}", str(caught.exception))

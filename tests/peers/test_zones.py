"""
The zones that a test gives mean to a validating server what their signing says.
"""

from __future__ import annotations

import dns.flags
import dns.message
import dns.query
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.zones import Signing, Zone, Zones

RECORDS = "@ MX 10 mx\nmx A 127.0.0.2\nother A 127.0.0.3"

ZONES = (
    *(Zone(f"{signing.value}.test", RECORDS, signing) for signing in Signing),
    Zone("partly.test", RECORDS, tampered=frozenset({"other.partly.test"})),
)


class Validation(SynchronousTestCase):
    def setUp(self) -> None:
        self.zones = Zones.shared(*ZONES)

    def ask(self, name: str, kind: str = "A") -> tuple[str, bool]:
        """The response code, and whether the answer is authenticated."""
        host, port = self.zones.resolver
        question = dns.message.make_query(name, kind, want_dnssec=True)
        answer = dns.query.udp(question, host, port=port, timeout=10)
        return dns.rcode.to_text(answer.rcode()), bool(answer.flags & dns.flags.AD)

    def test_a_signed_zone_is_authenticated_its_denials_too(self) -> None:
        self.assertEqual(self.ask("signed.test", "MX"), ("NOERROR", True))
        self.assertEqual(self.ask("mx.signed.test", "AAAA"), ("NOERROR", True))
        self.assertEqual(self.ask("nobody.signed.test"), ("NXDOMAIN", True))

    def test_an_unsigned_zone_is_good_and_not_authenticated(self) -> None:
        self.assertEqual(self.ask("unsigned.test", "MX"), ("NOERROR", False))
        self.assertEqual(self.ask("nobody.unsigned.test"), ("NXDOMAIN", False))

    def test_expired_tampered_and_broken_zones_are_failures(self) -> None:
        for zone in ("expired.test", "tampered.test", "broken.test"):
            self.assertEqual(self.ask(zone, "MX"), ("SERVFAIL", False))
            self.assertEqual(self.ask(f"nobody.{zone}"), ("SERVFAIL", False))

    def test_one_name_alone_can_be_tampered_with(self) -> None:
        self.assertEqual(self.ask("mx.partly.test"), ("NOERROR", True))
        self.assertEqual(self.ask("other.partly.test"), ("SERVFAIL", False))

    def test_what_is_in_no_zone_does_not_exist(self) -> None:
        self.assertEqual(self.ask("example.org", "MX"), ("NXDOMAIN", True))

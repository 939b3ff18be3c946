"""
On the internet's way a host proves what its domain, the route or the message
asks for, or it does not get the message.
"""

from __future__ import annotations

from pymail_tx.core.dns import TLSA, RecordType, Verdict
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Outcome
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.core.tlspolicy import STSFound
from pymail_tx.net.agent import SMTPAgent
from tests.net.certificates import Certificate, self_signed
from tests.net.internet_case import CONTENT, OTHER_RECORD, InternetCase, record_of
from tests.net.loopback import HANG_UP, Script, Server
from tests.net.scripted_dns import ScriptedPolicy

BOB = "bob@example.org"
MX1, MX2 = "mx1.example", "mx2.example"
IN_PLAIN_TEXT = "EHLO MAIL RCPT DATA . QUIT"
IN_TLS = "EHLO STARTTLS (TLS) EHLO MAIL RCPT DATA . QUIT"
OPTIONAL = b"TLS-Required: No\r\n" + CONTENT


class TLSCase(InternetCase):
    def setUp(self) -> None:
        super().setUp()
        self.dns.has_mx("example.org", MX1)

    def tls_host(
        self, name: str = MX1, address: str = "127.0.0.2", *, certificate: Certificate | None = None, offers: str = ""
    ) -> Server:
        """A host with STARTTLS, and by default a certificate that verifies."""
        certificate = certificate or self.authority.issue(name)
        return self.host(name, address, Script(offers=["STARTTLS"], offers_in_tls=[offers], certificate=certificate))

    def has_tlsa(self, *records: TLSA, host: str = MX1) -> None:
        """All of DNS is signed, and the host has these records."""
        self.dns.forgets()
        self.dns.signed = True
        self.dns.has_mx("example.org", MX1)
        self.dns.has_addresses(MX1, "127.0.0.2")
        self.dns.has_tlsa(self.tlsa_name(host), *records)

    def waits(self, outcome: Outcome, *words: str, code: str = "4.7.5") -> None:
        """Deferred for want of TLS, in these words."""
        self.assertEqual((outcome.status.value, outcome.reason.split(" ")[0]), ("deferred", code), outcome.reason)
        for word in words:
            self.assertIn(word, outcome.reason)

    def heard_no_mail(self, server: Server) -> None:
        self.assertNotIn("MAIL", " ".join(server.conversations))


class Opportunistic(TLSCase):
    async def test_tls_with_any_certificate_where_nothing_asks_for_more(self) -> None:
        server = self.tls_host(certificate=self_signed("somebody.example"))
        (outcome,) = await self.send(BOB)
        self.assertEqual(server.conversations, [IN_TLS])
        assert outcome.tls
        self.assertEqual(
            (outcome.tls.verified, outcome.tls.policy, outcome.tls.level), (False, "default", "opportunistic")
        )
        self.assertIn("MX records of example.org are not authenticated", outcome.tls.policy_reason)

    async def test_a_broken_handshake_or_a_refused_starttls_never_strands_mail(self) -> None:
        server = self.host(MX1, "127.0.0.2", Script({"ClientHello": HANG_UP}, offers=["STARTTLS"]))
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX1))
        server.script.replies = {"STARTTLS": b"454 4.7.0 not now"}
        self.uses()
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX1))
        self.assertEqual(
            server.conversations, ["EHLO STARTTLS ClientHello", IN_PLAIN_TEXT, "EHLO STARTTLS QUIT", IN_PLAIN_TEXT]
        )

    async def test_each_domain_hears_its_own_words_over_the_connection_that_they_share(self) -> None:
        self.dns.has_mx("example.com", MX1)
        server = self.tls_host()
        await self.send(BOB, closes=False)
        (outcome,) = await self.send("ann@example.com")
        assert outcome.tls
        self.assertIn("MX records of example.com are not", outcome.tls.policy_reason)
        self.assertEqual(len(server.sessions), 1)


class ByDANE(TLSCase):
    async def test_a_certificate_that_a_record_names_is_enough_whoever_signed_it(self) -> None:
        certificate = self_signed("somebody.example")
        self.tls_host(certificate=certificate)
        self.has_tlsa(OTHER_RECORD, record_of(certificate))
        (outcome,) = await self.send(BOB)
        self.is_found((outcome,), ("delivered", "2.0.0", MX1))
        assert outcome.tls
        self.assertEqual((outcome.tls.verified, outcome.tls.policy, outcome.tls.level), (True, "DANE", "dane"))
        self.assertEqual(outcome.tls.proof, f"TLSA {record_of(certificate)}")

    async def test_one_that_none_names_is_not_even_if_it_verifies(self) -> None:
        server = self.tls_host()
        self.has_tlsa(OTHER_RECORD)
        (outcome,) = await self.send(BOB)
        self.waits(outcome, MX1, "matches none of TLSA 3 1 1 0000", f"DANE: TLSA records at {self.tlsa_name(MX1)}")
        self.heard_no_mail(server)

    async def test_where_records_are_plain_text_is_not_spoken(self) -> None:
        server = self.host(MX1, "127.0.0.2")
        self.has_tlsa(OTHER_RECORD)
        for script, words in (
            (Script(), "STARTTLS is not offered"),
            (Script({"STARTTLS": b"454 4.7.0 not now"}, offers=["STARTTLS"]), "STARTTLS refused: 454"),
            (Script({"ClientHello": HANG_UP}, offers=["STARTTLS"]), "TLS handshake"),
        ):
            server.script = script
            self.uses()
            (outcome,) = await self.send(BOB)
            self.waits(outcome, words, MX1, "DANE: TLSA records at")
        self.heard_no_mail(server)

    async def test_a_host_that_does_not_prove_itself_is_passed_over_for_one_that_does(self) -> None:
        certificate = self_signed(MX2)
        first = self.tls_host()
        self.tls_host(MX2, "127.0.0.3", certificate=certificate)
        self.has_tlsa(OTHER_RECORD)
        self.dns.has_mx("example.org", MX1, MX2)
        self.dns.has_addresses(MX2, "127.0.0.3")
        self.dns.has_tlsa(self.tlsa_name(MX2), record_of(certificate))
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX2))
        self.heard_no_mail(first)

    async def test_a_host_whose_records_are_in_doubt_is_not_connected_to(self) -> None:
        server = self.tls_host()
        for verdict, words in ((Verdict.BOGUS, "bogus"), (Verdict.FAILED, "failed")):
            self.has_tlsa()
            self.dns.fails(self.tlsa_name(MX1), RecordType.TLSA, verdict)
            self.uses()
            (outcome,) = await self.send(BOB)
            self.waits(outcome, f"{MX1} is not used", f"look-up of TLSA {self.tlsa_name(MX1)}: {words}")
            self.assertEqual((outcome.host, outcome.port), (MX1, self.port))
        self.assertEqual(server.conversations, [])

    async def test_new_records_are_heeded_when_the_old_ones_time_is_over(self) -> None:
        certificate = self_signed(MX1)
        server = self.tls_host(certificate=certificate)
        self.has_tlsa(record_of(certificate))
        await self.send(BOB, closes=False)
        self.dns.has_tlsa(self.tlsa_name(MX1), OTHER_RECORD)
        self.clock.advance(301)
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "matches none of TLSA")
        self.assertEqual(" ".join(server.conversations).count("MAIL"), 1)


class ByMTASTS(TLSCase):
    def has_policy(self, mode: str, *hosts: str) -> None:
        self.policies.found["example.org"] = STSFound(ScriptedPolicy(mode, hosts))

    async def test_a_host_that_an_enforced_policy_lists_needs_a_certificate_that_verifies(self) -> None:
        server = self.tls_host()
        self.has_policy("enforce", MX1)
        (outcome,) = await self.send(BOB, closes=False)
        assert outcome.tls
        self.assertEqual((outcome.tls.verified, outcome.tls.policy), (True, "MTA-STS"))
        await self.agent.close()
        server.script.certificate = self_signed(MX1)
        self.uses()
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "self signed", MX1, "MTA-STS: the policy of example.org is enforced")

    async def test_one_that_it_does_not_list_is_not_connected_to(self) -> None:
        server = self.tls_host()
        self.has_policy("enforce", MX2)
        (outcome,) = await self.send(BOB)
        self.waits(outcome, f"{MX1} is not used", "does not list the host")
        self.assertEqual(server.conversations, [])

    async def test_a_policy_that_is_tested_is_told_and_stops_nothing(self) -> None:
        self.tls_host(certificate=self_signed(MX1))
        self.has_policy("testing", MX2)
        (outcome,) = await self.send(BOB)
        assert outcome.tls
        self.assertEqual((outcome.status.value, outcome.tls.policy), ("delivered", "MTA-STS"))
        self.assertIn("does not list", outcome.tls.policy_reason)

    async def test_nobody_is_asked_for_a_policy_that_could_change_nothing(self) -> None:
        certificate = self_signed(MX1)
        self.tls_host(certificate=certificate)
        self.has_tlsa(record_of(certificate))
        await self.send(BOB)
        self.uses("&tls=required")
        await self.send(BOB)
        self.uses()
        await self.send("bob@[127.0.0.2]")
        self.assertEqual(self.policies.asked, [])

    async def test_a_policy_is_looked_at_again_after_five_minutes(self) -> None:
        self.tls_host()
        for pause_s, times in ((0, 1), (299, 1), (1, 2)):
            self.clock.advance(pause_s)
            self.dns.has_mx("example.org", MX1, ttl_s=10_000)
            await self.send(BOB, closes=False)
            self.assertEqual(len(self.policies.asked), times)
        await self.agent.close()


class ByRoute(TLSCase):
    async def test_none_speaks_plain_text(self) -> None:
        server = self.tls_host()
        self.uses("&tls=none")
        await self.send(BOB)
        self.assertEqual(server.conversations, [IN_PLAIN_TEXT])

    async def test_opportunistic_sets_aside_what_the_domain_asks_for(self) -> None:
        self.host(MX1, "127.0.0.2")
        self.has_tlsa(OTHER_RECORD)
        self.uses("&tls=opportunistic")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX1))

    async def test_required_takes_any_certificate_and_no_plain_text(self) -> None:
        server = self.tls_host(certificate=self_signed("somebody.example"))
        self.uses("&tls=required")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX1))
        server.script = Script()
        self.uses("&tls=required")
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "STARTTLS is not offered", "route: tls=required")

    async def test_verified_takes_none_that_does_not_verify(self) -> None:
        self.tls_host(certificate=self_signed(MX1))
        self.uses("&tls=verified")
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "self signed", "route: tls=verified")

    async def test_dane_takes_no_host_without(self) -> None:
        server = self.tls_host()
        self.uses("&tls=dane")
        (outcome,) = await self.send(BOB)
        self.waits(outcome, f"{MX1} is not used", "route: tls=dane")
        self.assertEqual(server.conversations, [])


class ByMessage(TLSCase):
    async def test_requiretls_goes_to_a_host_that_is_proved_and_promises_the_same(self) -> None:
        certificate = self_signed(MX1)
        server = self.tls_host(certificate=certificate, offers="REQUIRETLS")
        self.has_tlsa(record_of(certificate))
        self.is_found(await self.send(BOB, requiretls=True), ("delivered", "2.0.0", MX1))
        self.assertIn(b"MAIL FROM:<ann@example.net> REQUIRETLS", server.lines)

    async def test_unmet_on_every_host_it_fails(self) -> None:
        certificate = self_signed(MX1)
        servers = [self.tls_host(certificate=certificate), self.tls_host(MX2, "127.0.0.3")]
        self.has_tlsa(record_of(certificate))
        self.dns.has_mx("example.org", MX1, MX2)
        self.dns.has_addresses(MX2, "127.0.0.3")
        self.is_found(await self.send(BOB, requiretls=True), ("failed", "5.7.30", MX1))
        for server in servers:
            self.heard_no_mail(server)

    async def test_as_long_as_one_host_may_meet_it_another_day_it_waits(self) -> None:
        certificate = self_signed(MX1)
        self.tls_host(certificate=certificate)
        self.has_tlsa(record_of(certificate))
        self.dns.has_mx("example.org", MX1, MX2)
        self.nobody_at(MX2, "127.0.0.3")
        self.is_found(await self.send(BOB, requiretls=True), ("deferred", "4.4.1", MX2))

    async def test_where_nothing_vouches_for_the_host_it_fails(self) -> None:
        server = self.tls_host(offers="REQUIRETLS")
        (outcome,) = await self.send(BOB, requiretls=True)
        self.is_found((outcome,), ("failed", "5.7.30", MX1))
        self.assertIn("neither DNSSEC nor MTA-STS vouches", outcome.reason)
        self.assertEqual(server.conversations, [])

    async def test_a_host_that_does_not_reach_it_fails_it_over_a_connection_of_others_too(self) -> None:
        self.tls_host(certificate=self_signed(MX1), offers="REQUIRETLS")
        self.policies.found["example.org"] = STSFound(ScriptedPolicy("enforce", (MX1,)))
        for requiretls, status, code in ((False, "deferred", "4.7.5"), (True, "failed", "5.7.30")):
            found = await self.send(BOB, requiretls=requiretls, closes=False)
            self.is_found(found, (status, code, MX1))
        await self.agent.close()

    async def test_tls_required_no_puts_delivery_first(self) -> None:
        self.host(MX1, "127.0.0.2")
        self.has_tlsa(OTHER_RECORD)
        self.is_found(await self.send(BOB, content=OPTIONAL), ("delivered", "2.0.0", MX1))

    async def test_requiretls_counts_more_than_that(self) -> None:
        self.tls_host(offers="REQUIRETLS")
        self.has_tlsa(OTHER_RECORD)
        self.is_found(await self.send(BOB, content=OPTIONAL, requiretls=True), ("failed", "5.7.30", MX1))


class OneServer(TLSCase):
    def uses_dane(self) -> None:
        self.uses(target=f"smtp://{MX1}:{self.port}?tls=dane")

    async def test_it_is_proved_by_its_records(self) -> None:
        certificate = self_signed(MX1)
        self.tls_host(certificate=certificate)
        self.has_tlsa(record_of(certificate))
        self.uses_dane()
        found = await self.send(BOB, "ann@example.com")
        self.is_found(found, *[("delivered", "2.0.0", MX1)] * 2)
        self.assertNotIn(RecordType.MX, [kind for _, kind in self.dns.asked])

    async def test_without_records_that_can_be_used_its_mail_waits(self) -> None:
        server = self.tls_host()
        self.uses_dane()
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "tls=dane")
        self.has_tlsa(TLSA(0, 0, 1, bytes(32)))
        self.uses_dane()
        (outcome,) = await self.send(BOB)
        self.waits(outcome, "no usable TLSA record", "0 0 1")
        self.assertEqual(server.conversations, [])

    async def test_without_an_address_its_mail_waits_as_well(self) -> None:
        self.uses_dane()
        self.is_found(await self.send(BOB), ("deferred", "4.4.4", None))

    async def test_credentials_go_to_a_server_so_proved(self) -> None:
        certificate = self_signed(MX1)
        server = self.tls_host(certificate=certificate, offers="AUTH PLAIN")
        self.has_tlsa(record_of(certificate))
        self.uses(target=f"smtp://ann:fever@{MX1}:{self.port}?tls=dane")
        self.is_found(await self.send(BOB), ("delivered", "2.0.0", MX1))
        self.assertIn("AUTH", server.conversations[0])

    async def test_so_is_one_that_speaks_tls_from_the_first_octet(self) -> None:
        certificate = self_signed(MX1)
        self.serve(Script(certificate=certificate), implicit_tls=True, address="127.0.0.2", port=self.port)
        for records, status in (((record_of(certificate),), "delivered"), ((OTHER_RECORD,), "deferred")):
            self.has_tlsa(*records)
            self.uses(target=f"smtps://{MX1}:{self.port}?tls=dane")
            (outcome,) = await self.send(BOB)
            self.assertEqual(outcome.status.value, status, outcome)
        self.waits(outcome, "matches none of TLSA", f"TLSA records at {self.tlsa_name(MX1)}")

    async def test_an_address_has_no_records(self) -> None:
        for target in ("smtp://127.0.0.2?tls=dane", "smtp://[::1]?tls=dane"):
            with self.assertRaises(BadArgument) as caught:
                self.uses(target=target)
            self.assertIn("belong to a name", str(caught.exception))

    async def test_mx_has_no_credentials_and_no_file_that_cannot_be_read(self) -> None:
        with self.assertRaises(BadArgument) as caught:
            SMTPAgent(self.reactor, "mx:", resolver=self.dns, credentials=Credentials("ann", Secret("fever")))
        self.assertEqual(caught.exception.field, "credentials")
        with self.assertRaises(BadArgument) as caught:
            SMTPAgent(self.reactor, "mx:", resolver=self.dns, policies=self.policies, trust_root="/nowhere")
        self.assertEqual(caught.exception.field, "trust_root")

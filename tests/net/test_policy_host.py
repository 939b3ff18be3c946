"""
Policies fetched over HTTPS (RFC 8461 §3.3): real TLS and HTTP over loopback,
and a time that a test turns.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from pymail_tx.core.dns import RecordType, Verdict
from pymail_tx.core.mtasts import MAX_POLICY_OCTETS, Mode, Policy
from pymail_tx.net.policy_host import FETCH_TIMEOUT_S, MAX_ADDRESSES, MAX_WIRE_OCTETS, FetchFailed, PolicyHosts
from tests.net.certificates import Certificate, self_signed
from tests.net.policy_server import DOMAIN, POLICY, POLICY_HOST, PolicyTestCase

ENFORCE = Policy(mode=Mode.ENFORCE, mx=("mail.example.org",), max_age_s=604_800)
URL = "https://mta-sts.example.org/.well-known/mta-sts.txt"


class Fetching(PolicyTestCase):
    def fetch(self, port: int, trust_root: str | None = None) -> Deferred[Policy]:
        """The domain's policy, from that port."""
        hosts = PolicyHosts(self.reactor, self.records, trust_root=trust_root or self.trust_root, port=port)
        return hosts.fetch(DOMAIN)

    async def problem(self, fetching: Deferred[Policy]) -> str:
        """Why it fails, without the URL."""
        failed = await self.assertFailure(fetching, FetchFailed)
        url, _, problem = str(failed).partition(": ")
        self.assertEqual(url, URL)
        return problem

    async def test_the_policy_comes_from_the_well_known_place_on_the_policy_host(self) -> None:
        resource, port = self.serve_policy()
        self.assertEqual(await self.fetch(port), ENFORCE)
        self.assertEqual(resource.requests, [f"GET /.well-known/mta-sts.txt {POLICY_HOST}"])

    async def test_nothing_is_asked_for_that_would_come_out_of_a_cache_or_encoded(self) -> None:
        resource, port = self.serve_policy()
        await self.fetch(port)
        self.assertEqual(resource.heard, [{b"host", b"user-agent", b"connection"}])

    async def test_each_fetch_asks_again(self) -> None:
        resource, port = self.serve_policy()
        resource.fields |= {"Cache-Control": "max-age=3600", "ETag": '"1"'}
        await self.fetch(port)
        await self.fetch(port)
        self.assertEqual(len(resource.requests), 2)

    async def test_a_policy_in_chunks_is_read(self) -> None:
        resource, port = self.serve_policy()
        resource.chunks = len(POLICY)
        self.assertEqual(await self.fetch(port), ENFORCE)

    async def test_the_media_type_is_text_plain_in_any_case_and_with_parameters(self) -> None:
        resource, port = self.serve_policy()
        for stated in ("text/plain; charset=utf-8", "TEXT/Plain", "text/plain;charset=us-ascii"):
            resource.fields = {"Content-Type": stated}
            self.assertEqual(await self.fetch(port), ENFORCE, stated)

    async def test_another_media_type_is_refused(self) -> None:
        resource, port = self.serve_policy()
        for stated in ("text/html", "text/plainer", "application/octet-stream"):
            resource.fields = {"Content-Type": stated}
            problem = await self.problem(self.fetch(port))
            self.assertEqual(problem, f"media type {stated!r} instead of text/plain")

    async def test_no_media_type_is_refused(self) -> None:
        port = self.serve_octets(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(POLICY), POLICY))
        self.assertEqual(await self.problem(self.fetch(port)), "media type '' instead of text/plain")

    async def test_a_redirect_is_not_followed(self) -> None:
        resource, port = self.serve_policy()
        resource.fields["Location"] = f"https://{POLICY_HOST}/elsewhere"
        for status in (301, 302, 303, 307, 308):
            resource.status = status
            problem = await self.problem(self.fetch(port))
            self.assertEqual(problem, f"status {status}: redirects are not followed")
        self.assertEqual(len(resource.requests), 5)

    async def test_any_other_status_than_200_is_refused(self) -> None:
        resource, port = self.serve_policy()
        for status in (201, 203, 206, 400, 401, 404, 410, 500, 503):
            resource.status = status
            self.assertEqual(await self.problem(self.fetch(port)), f"status {status}")

    async def test_64_kib_are_taken_and_an_octet_more_is_not(self) -> None:
        resource, port = self.serve_policy()
        whole = (POLICY + b"x: ").ljust(MAX_POLICY_OCTETS, b"x")
        for chunks in (0, 7):
            resource.chunks = chunks
            resource.body = whole
            self.assertEqual(await self.fetch(port), ENFORCE)
            resource.body = whole + b"x"
            self.assertEqual(await self.problem(self.fetch(port)), "a policy of more than 65536 octets")

    async def test_a_mebibyte_of_header_fields_is_given_up_and_a_little_less_is_read(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(POLICY)
        field = b"X-More: " + b"x" * 10_000 + b"\r\n"
        most = MAX_WIRE_OCTETS // len(field)
        port = self.serve_octets(head + field * (most - 1) + b"\r\n" + POLICY)
        self.assertEqual(await self.fetch(port), ENFORCE)
        port = self.serve_octets(head + field * (most + 1) + b"\r\n" + POLICY)
        self.assertEqual(await self.problem(self.fetch(port)), "more than 1048576 octets")

    async def test_what_is_no_policy_is_refused(self) -> None:
        resource, port = self.serve_policy()
        resource.body = b"<html>"
        self.assertEqual(await self.problem(self.fetch(port)), "line 1 of the policy is no field: '<html>'")

    async def test_half_a_body_is_refused(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        for length in (b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n", b""):
            start = b"fff\r\n" if b"chunked" in length else b""
            port = self.serve_octets(head + length + b"\r\n" + start + POLICY, hangs_up=True)
            problem = await self.problem(self.fetch(port))
            self.assertEqual(problem, "the connection was lost before the policy's end", length)

    async def test_what_is_no_http_is_refused(self) -> None:
        for octets in (b"220 mail.example.org ESMTP\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"):
            self.assertTrue(await self.problem(self.fetch(self.serve_octets(octets, hangs_up=True))))

    async def refused(self, certificate: Certificate) -> str:
        """Why that certificate is, before a request is made."""
        resource, port = self.serve_policy(certificate)
        problem = await self.problem(self.fetch(port))
        self.assertEqual(resource.requests, [])
        return problem

    async def test_a_certificate_for_another_name_is_refused(self) -> None:
        for name in (DOMAIN, "mail.example.org", "*.mta-sts.example.org", "127.0.0.1"):
            problem = await self.refused(self.authority.issue(name))
            self.assertEqual(problem, "certificate is not for mta-sts.example.org", name)

    async def test_a_name_in_the_subject_alone_does_not_count(self) -> None:
        problem = await self.refused(self.authority.issue(common_name=POLICY_HOST))
        self.assertIn("certificate of mta-sts.example.org cannot be read", problem)

    async def test_a_certificate_that_signed_itself_is_refused(self) -> None:
        problem = await self.refused(self_signed(POLICY_HOST))
        self.assertIn("certificate of mta-sts.example.org: ", problem)

    async def test_an_expired_certificate_is_refused(self) -> None:
        problem = await self.refused(self.authority.issue(POLICY_HOST, valid=(-2, -1)))
        self.assertEqual(problem, "certificate of mta-sts.example.org: cert has expired")

    async def test_a_wildcard_for_the_first_label_is_accepted(self) -> None:
        _, port = self.serve_policy(self.authority.issue("*.example.org"))
        self.assertEqual(await self.fetch(port), ENFORCE)

    async def test_plain_http_is_refused(self) -> None:
        port = self.serve_octets(b"HTTP/1.1 400 Bad Request\r\n\r\n", tls=False)
        self.assertIn("TLS handshake: ", await self.problem(self.fetch(port)))

    async def test_a_host_that_hangs_up_is_given_up(self) -> None:
        for tls in (True, False):
            port = self.serve_octets(b"", hangs_up=True, tls=tls)
            self.assertTrue(await self.problem(self.fetch(port)))

    async def test_a_port_that_nobody_listens_on_is_given_up(self) -> None:
        self.assertIn("refused", await self.problem(self.fetch(1)))

    async def test_the_next_address_is_tried(self) -> None:
        _, port = self.serve_policy()
        self.records.addresses(POLICY_HOST, "127.0.0.2", "127.0.0.3", "127.0.0.1")
        self.assertEqual(await self.fetch(port), ENFORCE)

    async def test_ten_addresses_are_tried_and_an_eleventh_is_not(self) -> None:
        _, port = self.serve_policy()
        dead = [f"127.0.0.{number}" for number in range(2, 2 + MAX_ADDRESSES)]
        self.records.addresses(POLICY_HOST, *dead[1:], "127.0.0.1")
        self.assertEqual(await self.fetch(port), ENFORCE)
        self.records.addresses(POLICY_HOST, *dead, "127.0.0.1")
        self.assertIn("refused", await self.problem(self.fetch(port)))

    async def test_both_families_of_addresses_are_asked_for(self) -> None:
        _, port = self.serve_policy()
        await self.fetch(port)
        self.assertEqual(self.records.asked, [(POLICY_HOST, RecordType.AAAA), (POLICY_HOST, RecordType.A)])

    async def test_without_an_address_there_is_no_policy(self) -> None:
        self.records.answers.clear()
        self.assertEqual(await self.problem(self.fetch(443)), "no address")

    async def test_why_there_is_no_address_is_told(self) -> None:
        self.records.fail(POLICY_HOST, RecordType.A, Verdict.BOGUS, "signature expired")
        self.assertEqual(await self.problem(self.fetch(443)), "no address: signature expired")

    async def test_a_trust_root_that_cannot_be_read_is_told(self) -> None:
        self.assertIn("trust_root: ", await self.problem(self.fetch(443, trust_root=self.mktemp())))

    async def in_time(self, port: int) -> None:
        """It goes on for 60 s, and not longer."""
        fetching = self.fetch(port)
        await self.turns()
        self.clock.advance(FETCH_TIMEOUT_S - 0.1)
        await self.turns()
        self.assertNoResult(fetching)
        self.clock.advance(0.1)
        self.assertEqual(await self.problem(fetching), "no policy within 60 s")

    async def test_a_handshake_that_stalls_ends_after_60_s(self) -> None:
        await self.in_time(self.serve_octets(b"", tls=False))

    async def test_a_response_that_does_not_begin_ends_after_60_s(self) -> None:
        await self.in_time(self.serve_octets(b""))

    async def test_a_body_that_does_not_end_ends_after_60_s(self) -> None:
        resource, port = self.serve_policy()
        resource.body = None
        await self.in_time(port)

    async def test_a_question_without_an_answer_ends_after_60_s(self) -> None:
        self.records.silent.add(POLICY_HOST)
        await self.in_time(443)

    async def test_cancelled_it_leaves_nothing_behind_wherever_it_stands(self) -> None:
        resource, slow = self.serve_policy()
        resource.body = None
        for port in (slow, self.serve_octets(b""), self.serve_octets(b"", tls=False)):
            fetching = self.fetch(port)
            await self.turns()
            fetching.cancel()
            await self.assertFailure(fetching, CancelledError)
        self.records.silent.add(POLICY_HOST)
        fetching = self.fetch(443)
        fetching.cancel()
        await self.assertFailure(fetching, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.records.given_up, 2)

"""
Whole sessions, as their transcripts tell them.
"""

from __future__ import annotations

from base64 import b64encode

from pymail_tx.core.mechanisms import BearerToken, Identity
from pymail_tx.core.secret import Secret
from pymail_tx.net.transcript import Transcript
from tests.net.loopback import HOST, Script
from tests.net.scripted import ScriptedCase, ehlo_lines, envelope, settled
from tests.net.scripted_agent import ANN, BOB, HELLO, AgentCase
from tests.net.test_agent import CONTENT, LETTER
from tests.net.test_login import ANN as PASSWORD
from tests.net.test_login import YES, LoginTestCase, Sasl, cram_md5, login, plain, scram, taking

OPENED = [
    "*: connected to 192.0.2.25 port 25",
    "S: 220 mx.example ESMTP",
    "C: EHLO me.example",
]


class TranscribedCase(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.transcript = Transcript()
        self.has(transcript=self.transcript)

    def shows(self, *lines: str) -> None:
        self.assertEqual(str(self.transcript).split("\n"), [*OPENED, *lines])


class InPlainText(TranscribedCase):
    def test_a_pipelined_group_its_content_and_the_end_are_shown(self) -> None:
        self.sends(ANN, BOB)
        server = self.connected("PIPELINING")
        server.says("250 2.1.0 joe", "250 2.1.5 ann", "550-5.1.1 no", "550 5.1.1 bob", "354 go ahead")
        server.says("250 2.0.0 queued")
        self.agent.close()
        server.says("221 2.0.0 bye")
        self.shows(
            "S: 250-mx.example",
            "S: 250 PIPELINING",
            "C: MAIL FROM:<joe@example.org>",
            f"C: RCPT TO:<{ANN}>",
            f"C: RCPT TO:<{BOB}>",
            "C: DATA",
            "S: 250 2.1.0 joe",
            "S: 250 2.1.5 ann",
            "S: 550-5.1.1 no",
            "S: 550 5.1.1 bob",
            "S: 354 go ahead",
            f"C: <{len(HELLO)} octets of content>",
            "S: 250 2.0.0 queued",
            "C: QUIT",
            "S: 221 2.0.0 bye",
            "*: over",
        )

    def test_chunks_are_shown_without_their_content(self) -> None:
        self.sends()
        self.sends()
        server = self.connected("PIPELINING", "CHUNKING")
        server.says("250 m1", "250 r1", "250 b1", "250 reset", "250 m2", "250 r2", "550 b2", *ehlo_lines("PIPELINING"))
        one = ["C: MAIL FROM:<joe@example.org>", f"C: RCPT TO:<{ANN}>", f"C: BDAT {len(HELLO)} LAST"]
        counted = f"C: <{len(HELLO)} octets of content>"
        self.shows(
            "S: 250-mx.example", "S: 250-PIPELINING", "S: 250 CHUNKING",
            *one, counted, "C: RSET", *one, counted, "C: EHLO me.example",
            "S: 250 m1", "S: 250 r1", "S: 250 b1", "S: 250 reset", "S: 250 m2", "S: 250 r2", "S: 550 b2",
            "S: 250-mx.example", "S: 250 PIPELINING",
        )  # fmt: skip

    def test_long_content_is_counted_as_a_whole(self) -> None:
        for offers in (("PIPELINING",), ("PIPELINING", "CHUNKING")):
            self.setUp()
            content = b"x" * 62 + b"\r\n"
            self.sends(content=content * 3_000)
            server = self.connected(*offers)
            server.says("250 ok", "250 ok", *(["354 go ahead"] if len(offers) == 1 else []))
            server.says("250 2.0.0 queued", *(ehlo_lines(*offers) if len(offers) == 2 else []))
            shown = str(self.transcript).split("\n")
            self.assertEqual([line for line in shown if "octets of" in line], ["C: <192000 octets of content>"])
            self.assertLess(shown.index("C: <192000 octets of content>"), shown.index("S: 250 2.0.0 queued"))

    def test_the_reason_of_an_early_end_is_shown(self) -> None:
        self.sends()
        server = self.connected("PIPELINING")
        server.says("250 ok", "nonsense")
        shown = str(self.transcript).split("\n")
        self.assertIn("S: 250 ok", shown)
        self.assertTrue(shown[-1].startswith("*: over: "), shown)
        self.assertIn("nonsense", shown[-1])

    def test_content_that_was_cut_short_is_counted(self) -> None:
        self.sends(content=b"x" * 62 + b"\r\n" + (b"y" * 62 + b"\r\n") * 3_000)
        server = self.connected("PIPELINING")
        server.wire.window = 1
        server.says("250 ok", "250 ok", "354 go ahead")
        server.says("552 5.3.4 too big")
        shown = str(self.transcript).split("\n")
        self.assertEqual(shown[-3:-1], ["C: <65536 octets of content>", "S: 552 5.3.4 too big"])


class OfAClient(ScriptedCase):
    """That is used without an agent."""

    def of(self, transcript: Transcript | None) -> bytes:
        """A session; what was written in it."""
        server = self.server("PIPELINING", transcript=transcript)
        settled(server.client.send(envelope(), HELLO))
        server.says("250 ok", "250 ok", "354 go ahead")
        server.says("250 queued")
        settled(server.client.quit())
        server.says("221 bye")
        return bytes(server.wire.value())

    def test_its_session_is_shown(self) -> None:
        transcript = Transcript()
        self.of(transcript)
        self.assertEqual(str(transcript).split("\n"), [
            *OPENED, "S: 250-mx.example", "S: 250 PIPELINING",
            "C: MAIL FROM:<joe@example.org>", f"C: RCPT TO:<{ANN}>", "C: DATA", "S: 250 ok", "S: 250 ok",
            "S: 354 go ahead", f"C: <{len(HELLO)} octets of content>", "S: 250 queued",
            "C: QUIT", "S: 221 bye", "*: over",
        ])  # fmt: skip

    def test_the_same_is_written_with_a_transcript_and_without(self) -> None:
        self.assertEqual(self.of(Transcript()), self.of(None))


class InTLS(LoginTestCase):
    async def test_a_session_with_starttls_and_auth(self) -> None:
        transcript = await self.transcribed("PLAIN", plain, PASSWORD)
        lines = str(transcript).split("\n")
        self.assertRegex(lines[0], r"^\*: connected to 127.0.0.1 port \d+$")
        self.assertEqual(lines[1:6], [
            "S: 220 mx.example.org ESMTP", "C: EHLO localhost", f"S: 250-{HOST}", "S: 250 STARTTLS", "C: STARTTLS",
        ])  # fmt: skip
        self.assertEqual(lines[6], "S: 220 2.0.0 go ahead")
        self.assertRegex(lines[7], r"^\*: TLSv1\.3 with \w+; the certificate verified$")
        self.assertEqual(lines[8:], [
            "C: EHLO localhost", f"S: 250-{HOST}", "S: 250 AUTH PLAIN", "C: AUTH PLAIN <secret>", f"S: {YES.decode()}",
            "C: MAIL FROM:<ann@example.net>", "S: 250 2.0.0 ok", "C: RCPT TO:<bob@example.org>", "S: 250 2.0.0 ok",
            "C: DATA", "S: 354 go on", f"C: <{len(CONTENT)} octets of content>", "S: 250 2.0.0 queued",
            "C: QUIT", "S: 221 2.0.0 bye", "*: over",
        ])  # fmt: skip

    async def test_no_secret_stands_in_it_nor_its_base64_whatever_the_mechanism(self) -> None:
        for mechanism, sasl in (
            ("PLAIN", plain), ("LOGIN", login), ("CRAM-MD5", cram_md5), ("SCRAM-SHA-256", scram("SCRAM-SHA-256")),
            ("SCRAM-SHA-1", scram("SCRAM-SHA-1")),
        ):  # fmt: skip
            transcript = await self.transcribed(mechanism, sasl, PASSWORD)
            self.holds_nothing_of(transcript, b"tulip fever", b"\0ann\0tulip fever", b"ann")
            self.assertIn(f"C: AUTH {mechanism}", str(transcript))
            self.assertIn("S: 235 2.7.0 welcome", str(transcript))
        token = BearerToken("ann", Secret("ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"))
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            transcript = await self.transcribed(mechanism, taking(token.token.reveal()), token)
            self.holds_nothing_of(transcript, token.token.reveal().encode())
            self.assertIn(f"C: AUTH {mechanism} <secret>", str(transcript))

    async def test_a_server_that_repeats_what_it_was_told_gives_nothing_away(self) -> None:
        response = b64encode(b"\0ann\0tulip fever")
        script = self.script("PLAIN")
        script.replies["AUTH"] = b"535 5.7.8 tulip fever, or " + response + b"?"
        transcript = await self.of_script(script, PASSWORD)
        self.holds_nothing_of(transcript, b"tulip fever", b"\0ann\0tulip fever")
        self.assertIn("S: 535 5.7.8", str(transcript))

    def holds_nothing_of(self, transcript: Transcript, *secrets: bytes) -> None:
        shown = "\n".join(repr(event) for event in transcript)
        for secret in secrets:
            encoded = b64encode(secret).decode().rstrip("=")
            self.assertNotIn(encoded, shown)
            if len(secret) > 3:  # a name stands in the envelope as well
                self.assertNotIn(secret.decode(), shown)

    async def transcribed(self, mechanism: str, sasl: Sasl, credentials: Identity) -> Transcript:
        """A message over a session of its own."""
        return await self.of_script(self.script(mechanism, sasl=sasl), credentials)

    async def of_script(self, script: Script, credentials: Identity) -> Transcript:
        _, port = self.serve(script)
        transcript = Transcript()
        agent = self.agent(port, credentials, transcript=transcript)
        await agent.send(LETTER, CONTENT)
        await agent.close()
        return transcript

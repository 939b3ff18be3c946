"""
Who an agent is to its server: over real TLS, with every mechanism's other side.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Coroutine
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from scramp import ScramMechanism  # type: ignore[import-untyped]  # it has no types
from scramp.core import CbName, ScramException, ScramServer  # type: ignore[import-untyped]  # it has no types
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.python.threadpool import ThreadPool

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.mechanisms import BearerToken, External, Identity
from pymail_tx.core.outcome import Outcome
from pymail_tx.core.pool import IDLE_TIMEOUT_S
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.login import CREDENTIALS_PAUSE_S, TOKEN_TIMEOUT_S, TokenSource
from pymail_tx.net.tls import ClientCertificate
from pymail_tx.net.transcript import Transcript
from tests.net.loopback import HOST, Conversation, LoopbackTestCase, Script
from tests.net.test_agent import CONTENT, LETTER

ANN = Credentials("ann", Secret("tulip fever"))
YES, NO = b"235 2.7.0 welcome", b"535 5.7.8 no"
STALE = b'{"status":"401","schemes":"bearer"}'


Sasl = Callable[[SSL.Connection], Conversation]
Channel = Callable[[SSL.Connection], tuple[str, bytes]]


def challenge(octets: bytes) -> bytes:
    """As a reply."""
    return b"334 " + b64encode(octets)


def plain(_: SSL.Connection) -> Conversation:
    line = yield b""
    yield YES if b64decode(line.split(b" ")[2]) == b"\0ann\0tulip fever" else NO


def login(_: SSL.Connection) -> Conversation:
    yield b""
    user = yield challenge(b"Username:")
    password = yield challenge(b"Password:")
    yield YES if (b64decode(user), b64decode(password)) == (b"ann", b"tulip fever") else NO


def cram_md5(_: SSL.Connection) -> Conversation:
    yield b""
    nonce = b"<1@mx.example.org>"
    proof = yield challenge(nonce)
    expected = hmac.digest(b"tulip fever", nonce, "md5").hex()
    yield YES if b64decode(proof) == f"ann {expected}".encode() else NO


def external(connection: SSL.Connection) -> Conversation:
    line = yield b""
    certificate = connection.get_peer_certificate()
    yield YES if line == b"AUTH EXTERNAL =" and certificate and certificate.get_subject().CN == "ann" else NO


def taking(token: str) -> Sasl:
    """Takes this token and calls any other stale."""

    def conversation(_: SSL.Connection) -> Conversation:
        line = yield b""
        if token.encode() in b64decode(line.split(b" ")[2]):
            yield YES
        yield challenge(STALE)
        yield NO

    return conversation


def scram(
    form: str, channel: Channel | None = None, *, forged: bool = False, known: tuple[bytes, ...] | None = None
) -> Sasl:
    """
    scramp's side of it.

    @param channel: what it binds.
    @param forged: whether its signature is another's.
    @param known: what it knows of the password, with a salt; by default another in each session.
    """

    def conversation(connection: SSL.Connection) -> Conversation:
        server = scramp_server(form, channel(connection) if channel else None, known)
        line = yield b""
        server.set_client_first(b64decode(line.split(b" ")[2]).decode())
        proof = yield challenge(server.get_server_first().encode())
        try:
            server.set_client_final(b64decode(proof).decode())
        except ScramException:
            yield NO
            return
        signature = b"v=" + b64encode(bytes(32)) if forged else server.get_server_final().encode()
        yield challenge(signature)
        yield YES

    return conversation


def scramp_server(form: str, channel: tuple[str, bytes] | None, known: tuple[bytes, ...] | None) -> ScramServer:
    mechanism = ScramMechanism(form)
    known = known or mechanism.make_auth_info("tulip fever", iteration_count=4_096)
    return mechanism.make_server(lambda _: known, channel_binding=channel)


def this_session(connection: SSL.Connection) -> tuple[str, bytes]:
    """What the server knows of it."""
    if connection.get_protocol_version_name() == "TLSv1.3":
        return "tls-exporter", connection.export_keying_material(b"EXPORTER-Channel-Binding", 32)
    certificate = connection.get_certificate(as_cryptography=True)
    assert certificate
    return "tls-server-end-point", hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


class LoginTestCase(LoopbackTestCase):
    def script(self, *mechanisms: str, sasl: Sasl | None = None) -> Script:
        """A server that authenticates inside TLS."""
        offers = [f"AUTH {' '.join(mechanisms)}"]
        return Script(offers=["STARTTLS"], offers_in_tls=offers, certificate=self.authority.issue(HOST), sasl=sasl)

    def agent(
        self,
        port: int,
        credentials: Identity | TokenSource,
        *,
        minimum: str | None = None,
        certificate: ClientCertificate | None = None,
        url: str = "smtp://{}:{}",
        transcript: Transcript | None = None,
    ) -> SMTPAgent:
        """Its C{close} belongs to the test."""
        return SMTPAgent(
            self.reactor, url.format(HOST, port), trust_root=self.trust_root, credentials=credentials,
            minimum_mechanism=minimum, client_certificate=certificate, transcript=transcript,
        )  # fmt: skip

    async def send(
        self,
        script: Script,
        credentials: Identity | TokenSource = ANN,
        *,
        minimum: str | None = None,
        certificate: ClientCertificate | None = None,
        url: str = "smtp://{}:{}",
    ) -> Outcome:
        """One message to a server of its own, and good-bye; what the server heard is in C{self.server}."""
        self.server, port = self.serve(script)
        agent = self.agent(port, credentials, minimum=minimum, certificate=certificate, url=url)
        return await self.outcome(agent, closes=True)

    async def outcome(self, agent: SMTPAgent, *, closes: bool = False) -> Outcome:
        """Of one message."""
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        if closes:
            await agent.close()
        return outcome

    def used(self, *mechanisms: str) -> None:
        """The server was asked for these, in this order."""
        lines = [line.decode().split(" ") for line in self.server.lines if line.startswith(b"AUTH ")]
        self.assertEqual([line[1] for line in lines], list(mechanisms))

    def is_delivered(self, outcome: Outcome) -> None:
        self.assertEqual(outcome.status.value, "delivered", outcome)

    def is_deferred(self, outcome: Outcome, words: str) -> None:
        self.assertEqual(outcome.status.value, "deferred", outcome)
        self.assertTrue(outcome.reason.startswith(words), outcome.reason)


class WithAPassword(LoginTestCase):
    def setUp(self) -> None:
        super().setUp()
        # To scramp a binding is a name and octets, as it is here; but it takes no name that Python's ssl cannot fill.
        self.patch(CbName, "UNSUPPORTED_TYPES", frozenset())
        self.patch(CbName, "SUPPORTED_TYPES", frozenset({"tls-exporter", "tls-server-end-point"}))

    async def test_plain_login_and_cram_md5(self) -> None:
        for mechanism, sasl in (("PLAIN", plain), ("LOGIN", login), ("CRAM-MD5", cram_md5)):
            self.is_delivered(await self.send(self.script(mechanism, sasl=sasl)))
            self.used(mechanism)
            self.is_deferred(
                await self.send(self.script(mechanism, sasl=sasl), Credentials("ann", Secret("wrong"))), "4.7.8 AUTH"
            )

    async def test_scram(self) -> None:
        for form in ("SCRAM-SHA-256", "SCRAM-SHA-1"):
            self.is_delivered(await self.send(self.script(form, "PLAIN", "LOGIN", sasl=scram(form))))
            self.used(form)

    async def test_scram_is_computed_in_a_thread_once_for_all_sessions(self) -> None:
        pools, get_thread_pool = list[ThreadPool](), self.reactor.getThreadPool

        def counting() -> ThreadPool:
            pools.append(get_thread_pool())
            return pools[-1]

        self.patch(self.reactor, "getThreadPool", counting)
        known = ScramMechanism("SCRAM-SHA-256").make_auth_info("tulip fever", iteration_count=4_096)
        self.server, port = self.serve(self.script("SCRAM-SHA-256", sasl=scram("SCRAM-SHA-256", known=known)))
        agent = self.agent(port, ANN)
        for _ in range(2):
            self.is_delivered(await self.outcome(agent))
            self.clock.advance(IDLE_TIMEOUT_S)
        await agent.close()
        self.assertEqual((len(self.server.sessions), len(pools)), (2, 1))

    async def test_scram_is_computed_anew_for_another_salt(self) -> None:
        self.server, port = self.serve(self.script("SCRAM-SHA-256", sasl=scram("SCRAM-SHA-256")))
        agent = self.agent(port, ANN)
        for _ in range(2):
            self.is_delivered(await self.outcome(agent))
            self.clock.advance(IDLE_TIMEOUT_S)
        await agent.close()
        self.assertEqual(len(self.server.sessions), 2)

    async def test_scram_with_a_wrong_password(self) -> None:
        script = self.script("SCRAM-SHA-256", sasl=scram("SCRAM-SHA-256"))
        outcome = await self.send(script, Credentials("ann", Secret("wrong")))
        self.is_deferred(outcome, "4.7.8 AUTH refused: 535 5.7.8 no")

    async def test_scram_bound_to_the_session_in_either_version_of_tls(self) -> None:
        for form in ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"):
            for version in (SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION):
                script = self.script(form, form.removesuffix("-PLUS"), sasl=scram(form, this_session))
                script.newest_tls = version
                self.is_delivered(await self.send(script))
                self.used(form)

    async def test_a_server_that_bound_another_session_does_not_take_the_proof(self) -> None:
        sasl = scram("SCRAM-SHA-256-PLUS", lambda _: ("tls-exporter", bytes(32)))
        self.is_deferred(await self.send(self.script("SCRAM-SHA-256-PLUS", sasl=sasl)), "4.7.8 AUTH refused")

    async def test_a_server_whose_signature_is_wrong_gets_no_message(self) -> None:
        outcome = await self.send(self.script("SCRAM-SHA-256", sasl=scram("SCRAM-SHA-256", forged=True)))
        self.is_deferred(outcome, "4.5.0 SCRAM-SHA-256: the server does not know the password")
        self.assertNotIn("MAIL", " ".join(self.server.conversations))

    async def test_a_minimum_is_kept(self) -> None:
        outcome = await self.send(self.script("PLAIN", "CRAM-MD5", sasl=plain), minimum="SCRAM-SHA-256")
        self.is_deferred(outcome, "4.7.4 no AUTH mechanism is offered that will do, only CRAM-MD5, PLAIN")
        self.used()

    async def test_they_go_before_those_of_the_url(self) -> None:
        self.is_delivered(await self.send(self.script("PLAIN", sasl=plain), url="smtp://bob:wrong@{}:{}"))

    async def test_whatever_the_url_says_about_tls_the_certificate_must_verify(self) -> None:
        for policy in ("none", "opportunistic", "required"):
            script = self.script("PLAIN", sasl=plain)
            script.certificate = self.authority.issue("elsewhere.example")
            url = f"smtp://{{}}:{{}}?tls={policy}"
            self.is_deferred(await self.send(script, url=url), f"4.7.5 certificate is not for {HOST}")
            self.used()

    async def test_no_secret_is_told_whatever_the_server_repeats(self) -> None:
        def repeats(_: SSL.Connection) -> Conversation:
            line = yield b""
            proof = yield challenge(server_first(line))
            yield b"535 5.7.8 " + proof + b" " + b64decode(proof)

        def server_first(line: bytes) -> bytes:
            nonce = b64decode(line.split(b" ")[2]).partition(b",r=")[2]
            return b"r=" + nonce + b"more,s=" + b64encode(b"salt") + b",i=4096"

        outcome = await self.send(self.script("SCRAM-SHA-256", sasl=repeats))
        self.is_deferred(outcome, "4.7.8 AUTH refused: 535 5.7.8 (words that hold a secret are withheld)")
        for line in self.server.lines:
            self.assertNotIn(line.decode(), repr(outcome))


class WithAToken(LoginTestCase):
    def source(self, *tokens: str | Deferred[str] | Exception) -> TokenSource:
        """Gives one after the other; how many are left is in C{self.left}."""
        self.left = list(tokens)

        def token() -> str | Deferred[str]:
            following = self.left.pop(0)
            if isinstance(following, Exception):
                raise following
            return following

        return TokenSource("ann@example.net", token)

    async def test_it_is_told_with_either_mechanism(self) -> None:
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            bearer = BearerToken("ann@example.net", Secret("good"))
            self.is_delivered(await self.send(self.script(mechanism, "PLAIN", sasl=taking("good")), bearer))
            self.used(mechanism)

    async def test_a_source_gives_it_at_once_or_later(self) -> None:
        async def coroutine() -> str:
            return "good"

        kinds: tuple[Callable[[], str | Deferred[str] | Coroutine[Deferred[str], object, str]], ...] = (
            lambda: "good", lambda: succeed("good"), coroutine,
        )  # fmt: skip
        for token in kinds:
            source = TokenSource("ann@example.net", token)
            self.is_delivered(await self.send(self.script("XOAUTH2", sasl=taking("good")), source))

    async def test_a_stale_one_is_replaced_once_in_the_same_session(self) -> None:
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            source = self.source("stale", "good", "another")
            self.is_delivered(await self.send(self.script(mechanism, sasl=taking("good")), source))
            self.used(mechanism, mechanism)
            self.assertEqual((self.left, len(self.server.sessions)), (["another"], 1))

    async def test_a_second_stale_one_is_a_refusal(self) -> None:
        outcome = await self.send(self.script("XOAUTH2", sasl=taking("good")), self.source("stale", "too", "good"))
        words = "4.7.8 AUTH refused: 535 5.7.8 no (the token was not taken: status 401)"
        self.is_deferred(outcome, words)
        self.assertEqual(self.left, ["good"])

    async def test_the_same_one_again_is_not_tried_again(self) -> None:
        outcome = await self.send(self.script("XOAUTH2", sasl=taking("good")), self.source("stale", "stale"))
        self.is_deferred(outcome, "4.7.8 AUTH refused")
        self.used("XOAUTH2")

    async def test_one_without_a_source_is_not_replaced(self) -> None:
        bearer = BearerToken("ann@example.net", Secret("stale"))
        self.is_deferred(await self.send(self.script("XOAUTH2", sasl=taking("good")), bearer), "4.7.8 AUTH refused")
        self.used("XOAUTH2")

    async def test_another_refusal_than_a_stale_one_asks_for_no_other(self) -> None:
        script = self.script("XOAUTH2")
        script.replies["AUTH"] = b"454 4.7.0 later"
        self.is_deferred(await self.send(script, self.source("good", "another")), "4.7.0 AUTH refused: 454")
        self.assertEqual(self.left, ["another"])

    async def test_a_refused_one_is_left_in_peace_for_5_minutes_and_another_is_tried_at_once(self) -> None:
        self.server, port = self.serve(self.script("XOAUTH2", sasl=taking("good")))
        agent = self.agent(port, self.source("stale", "stale", "stale", "good"))
        self.is_deferred(await self.outcome(agent), "4.7.8 AUTH refused")
        self.clock.advance(CREDENTIALS_PAUSE_S - 1)
        self.is_deferred(await self.outcome(agent), "4.7.8 AUTH, last tried 299 s ago, refused")
        self.assertEqual(len(self.server.sessions), 1)
        self.is_delivered(await self.outcome(agent, closes=True))

    async def test_a_source_that_fails_defers_without_a_word_of_it(self) -> None:
        for failing in (RuntimeError("good"), ValueError("good")):
            outcome = await self.send(self.script("XOAUTH2"), self.source(failing))
            self.assertEqual(outcome.reason, f"4.7.0 no token: {type(failing).__name__}")
            self.assertEqual(self.server.sessions, [])

    async def test_a_token_that_cannot_be_sent_defers(self) -> None:
        outcome = await self.send(self.script("XOAUTH2"), self.source("two words"))
        self.is_deferred(outcome, "4.7.0 token: not 1 to 8192 printable ASCII characters")

    async def test_a_source_that_does_not_answer_defers_after_a_minute(self) -> None:
        agent = self.agent(25, self.source(Deferred()))
        sending = agent.send(LETTER, CONTENT)
        self.clock.advance(TOKEN_TIMEOUT_S - 1)
        self.assertNoResult(sending)
        self.clock.advance(1)
        self.is_deferred((await sending).outcomes[0], "4.7.0 no token within 60 s")
        await agent.close()

    async def test_a_cancel_while_the_source_is_asked_leaves_nothing_behind(self) -> None:
        asked: Deferred[str] = Deferred()
        agent = self.agent(25, self.source(asked))
        sending = agent.send(LETTER, CONTENT)
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.assertTrue(asked.called)
        await agent.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_neither_token_nor_source_is_shown(self) -> None:
        self.assertEqual(repr(TokenSource("ann", lambda: "good")), "TokenSource(user='ann')")

    def test_a_user_that_cannot_be_sent_is_refused(self) -> None:
        for user in ("", "a\1b"):
            with self.assertRaises(BadArgument):
                TokenSource(user, lambda: "good")


class WithACertificate(LoginTestCase):
    def setUp(self) -> None:
        super().setUp()
        ours = self.authority.issue(common_name="ann", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.certificate = ClientCertificate(self.mktemp(), self.mktemp())
        Path(self.certificate.certificate_path).write_bytes(ours.pem)
        Path(self.certificate.key_path).write_bytes(ours.key_pem)

    def wanting(self) -> Script:
        """A server that believes the same authority."""
        script = self.script("PLAIN", "EXTERNAL", sasl=external)
        script.wants_certificate = True
        script.trusts = self.authority.root
        return script

    async def test_external_is_whoever_it_names(self) -> None:
        self.is_delivered(await self.send(self.wanting(), External(), certificate=self.certificate))
        self.used("EXTERNAL")

    async def test_with_credentials_it_is_shown_as_well(self) -> None:
        script = self.wanting()
        script.sasl = plain
        self.is_delivered(await self.send(script, certificate=self.certificate))
        self.used("PLAIN")

    async def test_a_server_that_wants_one_and_gets_none_defers(self) -> None:
        self.is_deferred(await self.send(self.wanting()), "4.7.5 STARTTLS: connection lost")

    async def test_a_server_without_external_gets_no_message(self) -> None:
        outcome = await self.send(self.script("PLAIN"), External(), certificate=self.certificate)
        self.is_deferred(outcome, "4.7.4 no AUTH mechanism is offered that will do, only PLAIN")


class Making(LoginTestCase):
    def refused(self, field: str, **arguments: object) -> None:
        with self.assertRaises(BadArgument) as caught:
            SMTPAgent(MemoryReactorClock(), "smtp://mx.example.org", **arguments)  # type: ignore[arg-type]  # any of them
        self.assertEqual(caught.exception.field, field)

    def test_a_minimum_that_is_none_or_for_nothing_is_refused(self) -> None:
        self.refused("minimum mechanism", credentials=ANN, minimum_mechanism="SCRAM")
        self.refused("minimum mechanism", credentials=TokenSource("ann", str), minimum_mechanism="OAUTH")
        self.refused("minimum_mechanism", minimum_mechanism="PLAIN")

    def test_external_without_a_certificate_is_refused(self) -> None:
        self.refused("credentials", credentials=External())

    def test_a_certificate_that_is_not_there_is_refused(self) -> None:
        self.refused("client_certificate", client_certificate=ClientCertificate("missing.pem", "missing.key"))

"""
Certificates are verified for the host they are for; whatever cannot be verified is not.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from attrs import frozen
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.command import COMMANDS, Verb
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, SessionLost, TLSFailed
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.scram import ChannelBinding
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.protocol import SMTPClient, SMTPClientFactory
from pymail_tx.net.tls import MAX_PEER_NAMES, ClientCertificate, ClientTLS, channel_binding
from tests.net.certificates import Authority, Certificate, self_signed, signed_with
from tests.net.loopback import HOST, LoopbackTestCase, Script
from tests.project import ROOT
from tests.project.tls_page import explains

OCTETS_AT_A_TIME = 65_536


@frozen
class Handshake:
    """
    How a handshake in memory went.

    @ivar facts: C{None} if it broke.
    @ivar error: C{None} if it did not.
    @ivar server_name: that the client indicated.
    @ivar server_finished: whether the server was content, too, and could have read what came next.
    """

    facts: TLSFacts | None
    error: TLSFailed | None
    server_name: bytes | None
    server_finished: bool


class Shaking:
    """Both ends of a TLS connection, and the octets between them."""

    def __init__(self, creator: ClientTLS, context: SSL.Context) -> None:
        names: list[bytes | None] = []
        context.set_tlsext_servername_callback(lambda connection: names.append(connection.get_servername()))
        self.names = names
        self.creator = creator
        self.client = creator.clientConnectionForTLS(None)  # type: ignore[arg-type]  # it is not asked
        self.client.set_connect_state()
        self.server = SSL.Connection(context, None)
        self.server.set_accept_state()

    def run(self) -> Handshake:
        """Shake hands."""
        facts, error, server_finished = None, None, False
        for _ in range(8):
            try:
                if step(self.client):
                    facts = self.creator.facts(self.client)
            except SSL.Error:
                error = self.creator.failure(Failure())
            carry(self.client, self.server)
            try:
                server_finished = step(self.server)
            except SSL.Error:
                server_finished = False
            carry(self.server, self.client)
        return Handshake(None if error else facts, error, self.names[0] if self.names else None, server_finished)


def step(connection: SSL.Connection) -> bool:
    """Go on with the handshake; whether it is over."""
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def carry(sender: SSL.Connection, receiver: SSL.Connection) -> None:
    """Bring over whatever was sent."""
    try:
        receiver.bio_write(sender.bio_read(OCTETS_AT_A_TIME))
    except SSL.WantReadError:
        return


class TLSTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.authority = Authority()
        self.trust_root = os.path.abspath(self.mktemp())
        Path(self.trust_root).write_bytes(self.authority.root.pem)

    def creator(self, host: str = HOST, *, must_verify: bool = True) -> ClientTLS:
        return ClientTLS(host, must_verify=must_verify, trust_root=self.trust_root)

    def shake(self, certificate: Certificate, host: str = HOST, *, must_verify: bool = True) -> Handshake:
        return Shaking(self.creator(host, must_verify=must_verify), certificate.context()).run()

    def is_good(self, certificate: Certificate, host: str = HOST) -> None:
        """It verifies."""
        shaken = self.shake(certificate, host)
        self.assertEqual((shaken.error, shaken.server_finished), (None, True))
        assert shaken.facts
        self.assertEqual((shaken.facts.verified, shaken.facts.problem), (True, ""))

    def is_bad(self, certificate: Certificate, problem: str, host: str = HOST) -> None:
        """It breaks the handshake where it must verify, and is told of where it need not."""
        must = self.shake(certificate, host)
        assert must.error, "verified"
        self.assertTrue(must.error.unverified)
        self.assertTrue(explains(str(must.error)), str(must.error))
        self.assertIn(problem, str(must.error))
        self.assertFalse(must.server_finished)
        need_not = self.shake(certificate, host, must_verify=False)
        self.assertTrue(need_not.server_finished)
        assert need_not.facts
        self.assertFalse(need_not.facts.verified)
        self.assertEqual(need_not.facts.problem, str(must.error))


class Bindings(TLSTestCase):
    """What only the two ends of one session know of it."""

    def shaken(self, certificate: Certificate, version: int) -> Shaking:
        context = certificate.context()
        context.set_max_proto_version(version)
        shaking = Shaking(self.creator(must_verify=False), context)
        self.assertTrue(shaking.run().server_finished)
        return shaking

    def test_in_tls_1_3_it_is_what_both_ends_export(self) -> None:
        shaking = self.shaken(self.authority.issue(HOST), SSL.TLS1_3_VERSION)
        exported = shaking.server.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        self.assertEqual(channel_binding(shaking.client), ChannelBinding("tls-exporter", exported))

    def test_another_session_has_another(self) -> None:
        certificate = self.authority.issue(HOST)
        first, second = (channel_binding(self.shaken(certificate, SSL.TLS1_3_VERSION).client) for _ in range(2))
        self.assertNotEqual(first, second)

    def test_in_tls_1_2_it_is_the_hash_of_the_certificate(self) -> None:
        for algorithm in (hashes.SHA256(), hashes.SHA384()):
            certificate = signed_with(algorithm)
            der = certificate.certificate.public_bytes(serialization.Encoding.DER)
            binding = channel_binding(self.shaken(certificate, SSL.TLS1_2_VERSION).client)
            digest = hashlib.new(algorithm.name, der).digest()
            self.assertEqual(binding, ChannelBinding("tls-server-end-point", digest))

    def test_a_signature_without_a_hash_of_its_own_has_none_in_tls_1_2(self) -> None:
        self.assertIsNone(channel_binding(self.shaken(signed_with(None), SSL.TLS1_2_VERSION).client))


class OurCertificate(TLSTestCase):
    """Shown to who asks for it."""

    def setUp(self) -> None:
        super().setUp()
        self.ours = self.authority.issue(common_name="ann", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)

    def files(self, *pems: bytes) -> ClientCertificate:
        paths = [os.path.abspath(self.mktemp()) for _ in pems]
        for path, pem in zip(paths, pems, strict=True):
            Path(path).write_bytes(pem)
        return ClientCertificate(*paths)

    def seen(self, certificate: ClientCertificate | None) -> str | None:
        """Whom the server sees."""
        context = self.authority.issue(HOST).context()
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        creator = ClientTLS(HOST, must_verify=True, trust_root=self.trust_root, certificate=certificate)
        shaking = Shaking(creator, context)
        self.assertTrue(shaking.run().server_finished)
        shown = shaking.server.get_peer_certificate()
        return shown.get_subject().CN if shown else None

    def refused(self, certificate: ClientCertificate) -> str:
        with self.assertRaises(BadArgument) as caught:
            ClientTLS(HOST, must_verify=True, certificate=certificate)
        self.assertEqual(caught.exception.field, "client_certificate")
        return str(caught.exception)

    def test_it_is_shown(self) -> None:
        self.assertEqual(self.seen(self.files(self.ours.pem, self.ours.key_pem)), "ann")

    def test_without_one_the_server_sees_nobody(self) -> None:
        self.assertIsNone(self.seen(None))

    def test_one_that_was_renewed_is_read_again(self) -> None:
        files = self.files(self.ours.pem, self.ours.key_pem)
        self.seen(files)
        renewed = self.authority.issue(common_name="ann the second", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        Path(files.certificate_path).write_bytes(renewed.pem)
        Path(files.key_path).write_bytes(renewed.key_pem)
        os.utime(files.key_path, ns=(0, 0))
        self.assertEqual(self.seen(files), "ann the second")

    def test_one_that_is_none_or_has_another_key_is_refused_at_once(self) -> None:
        another = self.authority.issue(common_name="bob").key_pem
        self.assertIn("No such file", self.refused(ClientCertificate("missing.pem", "missing.key")))
        for pems in ((b"", self.ours.key_pem), (self.ours.pem, b""), (self.ours.pem, another)):
            self.assertIn("are not a certificate and its key in PEM", self.refused(self.files(*pems)))

    def test_nobody_is_asked_for_a_passphrase(self) -> None:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        locked = self.ours.key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret"))
        self.assertIn("without a passphrase", self.refused(self.files(self.ours.pem, locked)))


class Names(TLSTestCase):
    def test_a_certificate_for_the_host_verifies(self) -> None:
        self.is_good(self.authority.issue(HOST))

    def test_one_for_the_host_among_others_verifies(self) -> None:
        self.is_good(self.authority.issue("a.example.org", "192.0.2.1", HOST))

    def test_case_does_not_matter(self) -> None:
        self.is_good(self.authority.issue("MX.example.ORG"), "mx.EXAMPLE.org")

    def test_a_certificate_for_another_host_does_not_verify(self) -> None:
        self.is_bad(self.authority.issue("elsewhere.example"), f"certificate is not for {HOST}")

    def test_a_name_that_only_begins_or_ends_like_the_hosts_does_not_verify(self) -> None:
        for name in ("example.org", "a.mx.example.org", "mx.example.org.evil.example", "xmx.example.org"):
            self.is_bad(self.authority.issue(name), f"certificate is not for {HOST}")

    def test_a_trailing_dot_of_the_host_is_left_out(self) -> None:
        self.is_good(self.authority.issue(HOST), HOST + ".")

    def test_an_internationalized_host_is_met_in_a_labels(self) -> None:
        self.is_good(self.authority.issue("mx.xn--bcher-kva.example"), "mx.bücher.example")

    def test_the_common_name_is_no_name(self) -> None:
        self.is_bad(self.authority.issue(common_name=HOST), f"certificate of {HOST} cannot be read: CertificateError")

    def test_the_common_name_does_not_help_where_other_names_stand(self) -> None:
        self.is_bad(self.authority.issue("elsewhere.example", common_name=HOST), "is not for")

    def test_a_host_that_is_no_name_is_refused(self) -> None:
        for host in ("", ".", "a b", "mx..example.org", "a\0b"):
            self.assertRaises(BadArgument, self.creator, host)


class PeerNames(TLSTestCase):
    def names(self, certificate: Certificate) -> tuple[str, ...]:
        facts = self.shake(certificate, must_verify=False).facts
        assert facts
        return facts.peer_names

    def test_those_of_the_certificate_are_told_verified_or_not(self) -> None:
        names = ("*.example.org", HOST, "192.0.2.1", "2001:db8::1")
        self.assertEqual(self.names(self.authority.issue(*names)), names)
        self.assertEqual(self.names(self_signed("elsewhere.example")), ("elsewhere.example",))

    def test_a_certificate_without_names_or_with_unreadable_ones_has_none(self) -> None:
        self.assertEqual(self.names(self.authority.issue(common_name=HOST)), ())
        for san in (b"", b"\x30", b"\xff" * 9):
            self.assertEqual(self.names(self.authority.issue(san=san)), ())

    def test_of_very_many_the_first_are_kept(self) -> None:
        names = [f"mx{number}.example.org" for number in range(MAX_PEER_NAMES + 1)]
        self.assertEqual(self.names(self.authority.issue(*names[:-1])), tuple(names[:-1]))
        self.assertEqual(self.names(self.authority.issue(*names)), tuple(names[:-1]))


class Wildcards(TLSTestCase):
    def test_one_stands_for_the_leftmost_label(self) -> None:
        self.is_good(self.authority.issue("*.example.org"))

    def test_it_does_not_stand_for_no_label(self) -> None:
        self.is_bad(self.authority.issue("*.example.org"), "is not for example.org", "example.org")

    def test_it_does_not_stand_for_two_labels(self) -> None:
        self.is_bad(self.authority.issue("*.example.org"), "is not for a.mx.example.org", "a.mx.example.org")

    def test_it_stands_nowhere_else(self) -> None:
        for pattern in ("mx.*.org", "*.*.org", "m*.example.org", "*x.example.org", "*.org", "*"):
            self.is_bad(self.authority.issue(pattern), "certificate ")

    def test_it_does_not_stand_for_an_address(self) -> None:
        self.is_bad(self.authority.issue("*.0.2.25"), "cannot be read", "192.0.2.25")


class Addresses(TLSTestCase):
    def test_a_certificate_for_the_address_verifies(self) -> None:
        for address in ("192.0.2.25", "2001:db8::25"):
            self.is_good(self.authority.issue(address), address)

    def test_another_spelling_of_the_address_is_the_same(self) -> None:
        self.is_good(self.authority.issue("2001:db8::25"), "2001:0DB8:0:0::0025")

    def test_one_for_another_address_does_not_verify(self) -> None:
        self.is_bad(self.authority.issue("192.0.2.26", "2001:db8::25"), "is not for 192.0.2.25", "192.0.2.25")

    def test_one_for_names_only_does_not_verify_for_an_address(self) -> None:
        self.is_bad(self.authority.issue(HOST), "is not for 192.0.2.25", "192.0.2.25")

    def test_one_for_addresses_only_does_not_verify_for_a_name(self) -> None:
        self.is_bad(self.authority.issue("192.0.2.25"), f"is not for {HOST}")

    def test_an_address_that_stands_as_a_name_does_not_verify(self) -> None:
        text = b"192.0.2.25"
        self.is_bad(self.authority.issue(san=der(b"\x82", text)), "cannot be read", "192.0.2.25")


class Chains(TLSTestCase):
    def test_an_expired_certificate_does_not_verify(self) -> None:
        self.is_bad(self.authority.issue(HOST, valid=(-2, -1)), f"certificate of {HOST}: cert has expired")

    def test_one_that_is_not_valid_yet_does_not_verify(self) -> None:
        self.is_bad(self.authority.issue(HOST, valid=(1, 2)), f"certificate of {HOST}: cert not yet valid")

    def test_a_self_signed_one_does_not_verify(self) -> None:
        self.is_bad(self_signed(HOST), f"certificate of {HOST}: depth zero self signed cert")

    def test_one_of_an_unknown_authority_does_not_verify(self) -> None:
        stranger = Authority("Nobody you know")
        self.is_bad(stranger.issue(HOST), f"certificate of {HOST}: unable to get issuer cert locally")

    def test_one_of_an_authority_that_borrows_a_trusted_name_does_not_verify(self) -> None:
        self.is_bad(Authority().issue(HOST), f"certificate of {HOST}: ")

    def test_one_that_is_for_clients_does_not_verify(self) -> None:
        client = self.authority.issue(HOST, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.is_bad(client, f"certificate of {HOST}: invalid purpose")

    def test_one_with_two_faults_does_not_verify(self) -> None:
        self.is_bad(self.authority.issue("elsewhere.example", valid=(-2, -1)), "cert has expired")

    def test_one_signed_by_a_certificate_that_is_no_authoritys_does_not_verify(self) -> None:
        impostor = Authority.by(self.authority.issue("evil.example", common_name="evil.example"))
        self.is_bad(impostor.issue(HOST), f"certificate of {HOST}: invalid ca")


def der(tag: bytes, value: bytes) -> bytes:
    """A subjectAltName with one entry."""
    entry = tag + bytes([len(value)]) + value
    return b"\x30" + bytes([len(entry)]) + entry


MALFORMED = {
    "no DER": b"garbage",
    "nothing": b"",
    "no entry": b"\x30\x00",
    "longer than itself": b"\x30\x7f\x82\x01a",
    "octets behind the end": der(b"\x82", HOST.encode()) + b"\x00",
    "an empty name": der(b"\x82", b""),
    "a name that is not ASCII": der(b"\x82", b"\xff\xfe"),
    "a name with NUL": der(b"\x82", HOST.encode() + b"\0.evil.example"),
    "an address of 0 octets": der(b"\x87", b""),
    "an address of 3 octets": der(b"\x87", b"\x7f\x00\x00"),
    "an address of 5 octets": der(b"\x87", b"\x7f\x00\x00\x01\x00"),
    "an unknown kind of name": der(b"\x9e", b"mx"),
}


class MalformedNames(TLSTestCase):
    """What service_identity or OpenSSL makes of it does not matter, as long as it is no yes."""

    def test_none_verifies_for_a_name(self) -> None:
        for what, san in MALFORMED.items():
            with self.subTest(what):
                self.is_bad(self.authority.issue(san=san), "certificate ")

    def test_none_verifies_for_an_address(self) -> None:
        for what, san in MALFORMED.items():
            with self.subTest(what):
                self.is_bad(self.authority.issue(san=san), "certificate ", "127.0.0.1")

    def test_a_good_name_does_not_save_what_cannot_be_read(self) -> None:
        good, bad = der(b"\x82", HOST.encode())[2:], der(b"\x87", b"\x7f\x00\x00")[2:]
        san = b"\x30" + bytes([len(good + bad)]) + good + bad
        self.is_bad(self.authority.issue(san=san), f"certificate of {HOST}")

    @settings(max_examples=50, deadline=None)
    @given(st.binary(max_size=40))
    def test_no_octets_at_all_verify(self, san: bytes) -> None:
        shaken = self.shake(self.authority.issue(san=san))
        self.assertIsNotNone(shaken.error)
        self.assertFalse(shaken.server_finished)


class ServerNames(TLSTestCase):
    def test_a_name_is_indicated(self) -> None:
        self.assertEqual(self.shake(self.authority.issue(HOST)).server_name, HOST.encode())

    def test_it_is_indicated_without_verification_as_well(self) -> None:
        self.assertEqual(self.shake(self_signed(HOST), must_verify=False).server_name, HOST.encode())

    def test_without_its_trailing_dot(self) -> None:
        self.assertEqual(self.shake(self.authority.issue(HOST), HOST + ".").server_name, HOST.encode())

    def test_in_a_labels(self) -> None:
        shaken = self.shake(self.authority.issue(HOST), "bücher.example", must_verify=False)
        self.assertEqual(shaken.server_name, b"xn--bcher-kva.example")

    def test_an_address_never_is(self) -> None:
        for address in ("192.0.2.25", "2001:db8::25"):
            self.assertIsNone(self.shake(self.authority.issue(address), address).server_name)


class Versions(TLSTestCase):
    def context(self, version: int) -> SSL.Context:
        """A server that speaks one version of TLS only."""
        context = self.authority.issue(HOST).context()
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        return context

    def test_tls_1_2_and_1_3_are_spoken(self) -> None:
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")):
            shaken = Shaking(self.creator(), self.context(version)).run()
            assert shaken.facts
            self.assertEqual((shaken.facts.version, shaken.facts.verified), (name, True))
            self.assertTrue(shaken.facts.cipher)

    def test_a_server_that_chooses_tls_1_1_is_refused(self) -> None:
        # The server's side by hand: a library may not speak it any more.
        for must_verify in (True, False):
            creator = self.creator(must_verify=must_verify)
            shaking = Shaking(creator, self.context(SSL.TLS1_2_VERSION))
            step(shaking.client)
            shaking.client.bio_write(SERVER_HELLO_OF_TLS_1_1)
            refusal = self.assertRaises(SSL.Error, step, shaking.client)
            self.assertEqual(str(creator.failure(Failure(refusal))), "TLS handshake: unsupported protocol")

    def test_a_server_cannot_renegotiate(self) -> None:
        shaking = Shaking(self.creator(), self.context(SSL.TLS1_2_VERSION))
        shaking.run()
        shaking.server.renegotiate()
        step(shaking.server)
        carry(shaking.server, shaking.client)
        self.assertRaises(SSL.WantReadError, shaking.client.recv, 1)
        carry(shaking.client, shaking.server)
        refusal = self.assertRaises(SSL.Error, shaking.server.recv, 1)
        self.assertIn("no renegotiation", str(refusal))
        self.assertEqual(shaking.client.total_renegotiations(), 0)


# Record: handshake, TLS 1.1. ServerHello: TLS 1.1, a random, no session,
# TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, no compression (RFC 4346 §7.4.1.3).
_BODY = b"\x03\x02" + bytes(range(32)) + b"\x00" + b"\xc0\x09" + b"\x00"
SERVER_HELLO_OF_TLS_1_1 = b"\x16\x03\x02\x00\x2a" + b"\x02\x00\x00\x26" + _BODY


class TrustRoots(TLSTestCase):
    def test_a_file_that_is_not_there_is_refused(self) -> None:
        self.assertRaises(BadArgument, ClientTLS, HOST, must_verify=True, trust_root="missing.pem")

    def test_a_file_without_a_certificate_is_refused(self) -> None:
        Path(self.trust_root).write_text("no certificate")
        error = self.assertRaises(BadArgument, self.creator)
        self.assertIn("holds no certificate in PEM", str(error))

    def test_ssl_cert_file_is_the_store_without_one(self) -> None:
        self.assertEqual(self.verdict(SSL_CERT_FILE=self.trust_root), "verified")

    def test_ssl_cert_dir_is_the_store_without_one(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / f"{subject_hash(self.authority):08x}.0").write_bytes(self.authority.root.pem)
        self.assertEqual(self.verdict(SSL_CERT_DIR=str(directory)), "verified")

    def test_the_machines_store_knows_nothing_of_the_tests_authority(self) -> None:
        self.assertIn("unable to get issuer cert locally", self.verdict())

    def test_the_environment_is_read_when_the_connection_is_made(self) -> None:
        certificate = self.authority.issue(HOST)
        before = Shaking(ClientTLS(HOST, must_verify=True), certificate.context()).run()
        self.assertTrue(before.error and before.error.unverified)
        with patch.dict(os.environ, {"SSL_CERT_FILE": self.trust_root}):
            self.assertIsNone(Shaking(ClientTLS(HOST, must_verify=True), certificate.context()).run().error)

    def verdict(self, **environment: str) -> str:
        """Of a process with that environment, on a certificate of the tests' authority."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
        certificate = self.authority.issue(HOST)
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import tell; tell()"],
            input=certificate.with_key, env=clean | environment, cwd=ROOT, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout.decode().strip()


def tell() -> None:
    """In a process of its own: say what the default store makes of the certificate on the standard input."""
    certificate = Certificate.read(sys.stdin.buffer.read())
    shaken = Shaking(ClientTLS(HOST, must_verify=True), certificate.context()).run()
    sys.stdout.write(str(shaken.error) if shaken.error else "verified")


def subject_hash(authority: Authority) -> int:
    """What a file in a directory of CA certificates is named for."""
    return crypto.X509.from_cryptography(authority.root.certificate).subject_name_hash()


class Sessions(LoopbackTestCase):
    async def test_a_server_that_never_answers_the_client_hello_is_given_30_s(self) -> None:
        _, port = self.serve(Script(greeting=b""))
        client = await self.connected(port)
        greeting = client.greeting()
        self.clock.advance(COMMANDS[Verb.HANDSHAKE].timeout_s - 1)
        self.assertNoResult(greeting)
        self.clock.advance(1)
        failure = self.failureResultOf(greeting, TLSFailed)
        self.assertEqual(str(failure.value), "30 s passed shaking hands for TLS")
        await client.when_gone()

    async def test_half_a_reply_is_none_when_tls_ends_without_close_notify(self) -> None:
        async with self.hangs_up_behind(b"220 mx\r\n", b"250-mx\r\n250-SIZE 1000\r\n250 AUTH PLA") as port:
            client = await self.connected(port)
            await client.greeting()
            with self.assertRaises(SessionLost) as caught:
                await client.ehlo("client.example.net")
            self.assertIn("connection lost while saying EHLO", str(caught.exception))
            self.assertEqual(client.extensions.keywords, {})
            await client.when_gone()

    async def test_half_a_verdict_is_none_when_tls_ends_without_close_notify(self) -> None:
        replies = (b"220 mx\r\n", b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n", b"250 2.0.0 queued")
        async with self.hangs_up_behind(*replies) as port:
            agent = SMTPAgent(self.reactor, f"smtps://{HOST}:{port}", trust_root=self.trust_root)
            report = await agent.send(Envelope("ann@example.net", ["bob@example.org"]), b"Subject: Hello\r\n\r\n")
            await agent.close()
        (outcome,) = report.outcomes
        self.assertEqual((outcome.status.value, outcome.uncertain, outcome.reply), ("deferred", True, None))
        self.assertTrue(outcome.tls and outcome.tls.verified)

    async def connected(self, port: int) -> SMTPClient:
        """A client that begins with TLS."""
        factory = SMTPClientFactory(
            self.reactor, implicit_tls=lambda: ClientTLS(HOST, must_verify=True, trust_root=self.trust_root)
        )
        client = await TCP4ClientEndpoint(self.reactor, "127.0.0.1", port).connect(factory)
        assert isinstance(client, SMTPClient)
        return client

    @asynccontextmanager
    async def hangs_up_behind(self, *replies: bytes) -> AsyncIterator[int]:
        """
        A server of the ssl module in a thread: it answers line for line, and
        closes without a word behind the last reply.
        """
        pem = Path(self.mktemp())
        pem.write_bytes(self.authority.issue(HOST).with_key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(self.timeout)
            serving = deferToThread(answer_lines, listener, context, replies)
            yield listener.getsockname()[1]
            await serving


def answer_lines(listener: socket.socket, context: ssl.SSLContext, replies: Sequence[bytes]) -> None:
    """The server's side, in its thread. The content of the tests is read as one line."""
    connection, _ = listener.accept()
    connection.settimeout(LoopbackTestCase.timeout)
    with context.wrap_socket(connection, server_side=True) as session:
        for reply in replies[:-1]:
            session.sendall(reply)
            session.recv(OCTETS_AT_A_TIME)
        session.sendall(replies[-1])

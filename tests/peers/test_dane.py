"""
OpenSSL knows DANE as well: it comes to the same verdict on the same server and records.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import TLSA
from tests import peers
from tests.net.certificates import Authority, Certificate, self_signed
from tests.net.loopback import HOST
from tests.net.test_dane_verify import EE, KINDS, TA, by_records, sending, shake, tlsa

LIMIT_S = 20


class Verdicts(SynchronousTestCase):
    timeout = 300

    def setUp(self) -> None:
        peers.require("openssl")
        self.authority = Authority()
        self.root = self.authority.root
        self.middle = self.authority.below("Intermediate")
        self.leaf = self.middle.issue(HOST)

    def are_equal(self, certificate: Certificate, *wanted: tuple[int, Certificate], good: bool | None = None) -> None:
        """
        For every selector and matching type.

        @param wanted: usage and certificate of each record.
        @param good: what the verdict is; C{None} where it depends on the kind.
        """
        for selector, matching_type in KINDS:
            records = [tlsa(usage, one, selector, matching_type) for usage, one in wanted]
            ours = shake(certificate, by_records(*records, names=(HOST,))).error is None
            self.assertEqual(ours, self.is_good(certificate, records), f"{selector} {matching_type}")
            if good is not None:
                self.assertEqual(ours, good)

    def is_good(self, certificate: Certificate, records: Sequence[TLSA]) -> bool:
        """What OpenSSL says."""
        with self.served(certificate) as port:
            command = [peers.command("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-brief"]
            command += ["-verify_return_error", "-dane_ee_no_namechecks", "-dane_tlsa_domain", HOST]
            command += itertools.chain.from_iterable(("-dane_tlsa_rrdata", str(record)) for record in records)
            client = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
            )
        return client.returncode == 0

    @contextmanager
    def served(self, certificate: Certificate) -> Iterator[int]:
        """A server that shakes hands with one client and leaves; its port."""
        pem = Path(self.mktemp())
        above = b"".join(one.public_bytes(Encoding.PEM) for one in certificate.above)
        pem.write_bytes(certificate.pem + above + certificate.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(LIMIT_S)
            serving = Thread(target=shake_hands, args=(listener, context))
            serving.start()
            yield listener.getsockname()[1]
            serving.join()

    def test_on_a_certificate_that_a_record_names(self) -> None:
        for certificate in (self_signed("elsewhere.example"), self.authority.issue(HOST, valid=(-2, -1)), self.leaf):
            self.are_equal(certificate, (EE, certificate), good=True)
            self.are_equal(certificate, (EE, self_signed(HOST)), good=False)
            self.are_equal(certificate, (EE, self_signed(HOST)), (EE, certificate), good=True)

    def test_on_an_authority_that_is_sent_whole_in_part_or_not(self) -> None:
        whole = sending(self.leaf, self.middle.root, self.root)
        self.are_equal(whole, (TA, self.root), good=True)
        self.are_equal(whole, (TA, self.middle.root), good=True)
        self.are_equal(whole, (EE, self.root), (TA, self.root), good=True)
        self.are_equal(sending(self.leaf, self.middle.root), (TA, self.middle.root), good=True)
        self.are_equal(sending(self.leaf, self.middle.root), (TA, self.root))
        self.are_equal(sending(self.leaf), (TA, self.middle.root))
        self.are_equal(sending(self.leaf, self.root), (TA, self.root), good=False)

    def test_on_the_servers_own_certificate_as_an_authority(self) -> None:
        self.are_equal(sending(self.leaf, self.middle.root, self.root), (TA, self.leaf), good=False)
        alone = self_signed(HOST)
        self.are_equal(alone, (TA, alone))

    def test_on_dates(self) -> None:
        self.are_equal(sending(self.authority.issue(HOST, valid=(-2, -1)), self.root), (TA, self.root), good=False)
        expired = Authority(valid=(-2, -1))
        self.are_equal(sending(expired.issue(HOST), expired.root), (TA, expired.root), good=False)

    def test_on_names(self) -> None:
        for names, common_name, good in (
            (["elsewhere.example"], HOST, False),
            ([], HOST, True),
            (["*.example.org"], "a server", True),
            (["*.mx.example.org"], "a server", False),
            (["elsewhere.example", HOST], "a server", True),
        ):
            certificate = sending(self.authority.issue(*names, common_name=common_name), self.root)
            self.are_equal(certificate, (TA, self.root), good=good)

    def test_on_certificates_that_nobody_may_vouch_for(self) -> None:
        self.are_equal(sending(self_signed(HOST), self.root), (TA, self.root), good=False)
        self.are_equal(sending(Authority().issue(HOST), self.root), (TA, self.root), good=False)
        server = self.middle.issue("evil.example", common_name="evil.example")
        below_server = sending(Authority.by(server).issue(HOST), server, self.middle.root, self.root)
        self.are_equal(below_server, (TA, self.root), good=False)
        client = self.authority.issue(HOST, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.are_equal(sending(client, self.root), (TA, self.root), good=False)


def shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    """The server's side, in its thread. A client that is not content tells it by an alert."""
    connection, _ = listener.accept()
    connection.settimeout(LIMIT_S)
    try:
        with context.wrap_socket(connection, server_side=True) as session:
            session.recv(1)
    except OSError:
        connection.close()

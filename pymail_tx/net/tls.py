"""
TLS as an SMTP client needs it: name indication with or without verification,
the verdict taken inside the handshake, and words for it afterwards.

Twisted's C{optionsForClientTLS} always verifies, and opportunistic TLS must
not; so L{ClientTLS} is a connection creator of our own over Twisted's
C{CertificateOptions}. Chains are OpenSSL's to judge, names service_identity's.
Whatever exception either raises, of whichever class, is a refusal: a
certificate that cannot be read has not verified. Where a L{TLSDecision
<pymail_tx.core.tlspolicy.TLSDecision>} asks for DANE, TLSA records judge instead
(L{pymail_tx.net.dane_verify}), and OpenSSL's word on the chain is not heard.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Sequence
from functools import lru_cache

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from service_identity.exceptions import VerificationError
from service_identity.hazmat import (
    DNS_ID,
    CertificatePattern,
    DNSPattern,
    IPAddress_ID,
    ServiceID,
    verify_service_identity,
)
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pymail_tx.core import dane
from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument, TLSFailed
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.reply import printable
from pymail_tx.core.scram import ChannelBinding
from pymail_tx.core.tlspolicy import TLSDecision, TLSLevel
from pymail_tx.net import dane_verify

MAX_PEER_NAMES = 100
"""Names of a certificate that are kept with each outcome. Those of large mail hosts have about 100."""

_VERIFY_ERRORS = {
    number: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, number in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}


_VERIFYING = frozenset({TLSLevel.VERIFIED, TLSLevel.DANE})

_WEAK_HASHES = frozenset({"md5", "sha1"})
"""SHA-256 stands in for them (RFC 5929 §4.1)."""


@frozen
class ClientCertificate:
    """
    Who we are, for servers that ask in the handshake. The files are read when
    an agent is made, and again when they have changed.

    @ivar certificate_path: our certificate in PEM, followed by those between it
        and the authority.
    @ivar key_path: its private key in PEM, without a passphrase.
    """

    certificate_path: str
    key_path: str

    def changed_at_ns(self) -> tuple[int, int]:
        """
        @raise BadArgument: one of the files is not there.
        """
        try:
            return os.stat(self.certificate_path).st_mtime_ns, os.stat(self.key_path).st_mtime_ns
        except OSError as problem:
            raise BadArgument("client_certificate", str(problem)) from None


def channel_binding(connection: SSL.Connection) -> ChannelBinding | None:
    """
    What a mechanism can bind itself to, of a session whose handshake is done:
    C{tls-exporter} (RFC 9266) in TLS 1.3, where it is safe whatever else was
    negotiated; C{tls-server-end-point} (RFC 5929 §4) before.

    @return: C{None} for a certificate whose signature has no single hash.
    """
    if connection.get_protocol_version_name() == "TLSv1.3":
        exported = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        return ChannelBinding("tls-exporter", exported)
    certificate = connection.get_peer_certificate(as_cryptography=True)
    try:
        algorithm = certificate.signature_hash_algorithm if certificate else None
    except UnsupportedAlgorithm:
        algorithm = None
    if certificate is None or algorithm is None:
        return None
    name = "sha256" if algorithm.name in _WEAK_HASHES else algorithm.name
    return ChannelBinding("tls-server-end-point", hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest())


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """
    The TLS of one connection to one host. Not to be used for a second one: it
    keeps the verdict.

    @ivar problem: why the certificate did not verify; C{""} if it did, and as
        long as no handshake took place.
    """

    def __init__(
        self,
        host: str,
        *,
        must_verify: bool = False,
        trust_root: str | None = None,
        certificate: ClientCertificate | None = None,
        decision: TLSDecision | None = None,
    ) -> None:
        """
        @param host: the name, or the address, that the certificate must be for.
            A trailing dot is the resolver's business and is left out.
        @param must_verify: whether a certificate that does not verify breaks
            the handshake. If not, it is only noted.
        @param trust_root: a file of CA certificates in PEM; by default OpenSSL's
            store, C{SSL_CERT_FILE} and C{SSL_CERT_DIR} included.
        @param certificate: ours, for a server that asks for one.
        @param decision: what the host's policy asks for. It says what must
            verify and for which names, of which the first is indicated to the
            server (RFC 7672 §8.1, RFC 8461 §4.2); C{must_verify} counts no more.
        @raise BadArgument: C{host} is no name, or a file cannot be read or
            holds no certificate or key.
        """
        self.problem = ""
        self._decision = decision
        self._must_verify = decision.level in _VERIFYING if decision else must_verify
        self._host = _reference_name(host)
        self._names = tuple(map(_reference_name, decision.names)) if decision and decision.names else (self._host,)
        environment = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        changed_at_ns = certificate.changed_at_ns() if certificate else None
        self._context = _context(trust_root, environment, certificate, changed_at_ns)
        self._proof = ""

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See L{IOpenSSLClientConnectionCreator <twisted.internet.interfaces.IOpenSSLClientConnectionCreator>}."""
        connection = SSL.Connection(self._context, None)
        if not _as_address(self._names[0]):
            connection.set_tlsext_host_name(self._names[0].encode("ascii"))  # RFC 6066 §3: never an address
        by_records = self._decision is not None and self._decision.level is TLSLevel.DANE
        connection.set_verify(SSL.VERIFY_PEER, self._judge_by_records if by_records else self._judge)
        return connection

    def facts(self, connection: SSL.Connection) -> TLSFacts:
        """What a handshake that succeeded agreed on."""
        decision = self._decision
        return TLSFacts(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            verified=bool(self._proof) and not self.problem,
            problem=self.problem,
            peer_names=_names(connection.get_peer_certificate()),
            policy=decision.source.value if decision else "",
            level=decision.level.value if decision else "",
            policy_reason=decision.reason if decision else "",
            proof="" if self.problem else self._proof,
        )

    def failure(self, reason: Failure) -> TLSFailed:
        """Words for a handshake that failed with C{reason}."""
        asked = f" ({self._decision.reason})" if self._decision and self._decision.reason else ""
        if self._must_verify and self.problem:
            return TLSFailed(self.problem + asked, unverified=True)
        return TLSFailed(f"TLS handshake: {_words(reason)}{asked}")

    def _judge(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, accepted: int
    ) -> bool:
        """OpenSSL asks for each certificate of the chain, the leaf (depth 0) last."""
        if not accepted and not self.problem:
            self.problem = f"certificate of {self._host}: {_VERIFY_ERRORS.get(error, f'OpenSSL error {error}')}"
        if depth == 0:
            self.problem = self.problem or self._name_problem(certificate)
            self._proof = "" if self.problem else "PKIX"
        return not (self._must_verify and self.problem)

    def _judge_by_records(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, accepted: int
    ) -> bool:
        """OpenSSL asks as before; the records' answer is the same each time."""
        if not self.problem and not self._proof:
            try:
                self._look_for_proof(connection)
            except dane_verify.Unproved as unproved:
                self.problem = f"certificate of {self._host} {unproved}"
            except Exception as unreadable:  # noqa: BLE001  # lost in OpenSSL's C code it would count as a yes
                self.problem = self._unreadable(unreadable)
        return bool(self._proof)

    def _look_for_proof(self, connection: SSL.Connection) -> None:
        """
        @raise dane_verify.Unproved: there is none.
        """
        chain = connection.get_peer_cert_chain()
        assert self._decision and chain
        record = dane_verify.proof(self._decision.records, chain)
        if record.usage == dane.DANE_TA:
            self.problem = self._name_problem(chain[0], common_name=True)
        self._proof = "" if self.problem else f"TLSA {dane.shown([record])}"

    def _name_problem(self, certificate: crypto.X509, *, common_name: bool = False) -> str:
        try:
            patterns = list(extract_patterns(certificate))
            if common_name and not any(isinstance(pattern, DNSPattern) for pattern in patterns):
                patterns = _common_names(certificate)
            if not any(_is_for(name, patterns) for name in self._names):
                return f"certificate is not for {' or '.join(self._names)}"
        except Exception as unreadable:  # noqa: BLE001  # lost in OpenSSL's C code it would count as a yes
            return self._unreadable(unreadable)
        return ""

    def _unreadable(self, problem: Exception) -> str:
        return f"certificate of {self._host} cannot be read: {type(problem).__name__}: {problem}"


def _is_for(name: str, patterns: Sequence[CertificatePattern]) -> bool:
    identity: ServiceID = (IPAddress_ID if _as_address(name) else DNS_ID)(name)
    try:
        verify_service_identity(patterns, [identity], [])
    except VerificationError:
        return False
    return True


def _common_names(certificate: crypto.X509) -> list[CertificatePattern]:
    """What counts, with DANE, where the subjectAltName has no host's name (RFC 7672 §3.2.3)."""
    names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [DNSPattern.from_bytes(str(name.value).encode("ascii", "replace")) for name in names]


@lru_cache(maxsize=16)
def _context(
    trust_root: str | None,
    _environment: tuple[str | None, str | None],
    certificate: ClientCertificate | None,
    _changed_at_ns: tuple[int, int] | None,
) -> SSL.Context:
    """Loading a store of 150 certificates takes 10 ms and more: contexts are shared, connections set verification."""
    context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    if trust_root is None:
        context.set_default_verify_paths()
    else:
        _trust(context, trust_root)
    if certificate:
        _present(context, certificate)
    return context


def _trust(context: SSL.Context, path: str) -> None:
    try:
        with open(path, "rb"):
            context.load_verify_locations(path)
    except OSError as problem:
        raise BadArgument("trust_root", str(problem)) from None
    except SSL.Error:
        raise BadArgument("trust_root", f"{path!r} holds no certificate in PEM") from None


def _names(certificate: crypto.X509 | None) -> tuple[str, ...]:
    """Those that a certificate is for, the first L{MAX_PEER_NAMES}: what it says, nothing that was verified."""
    if certificate is None:
        return ()
    try:
        extensions = certificate.to_cryptography().extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        stated = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
    except Exception:  # noqa: BLE001  # a certificate may hold anything; a session that has one goes on
        return ()
    return tuple(printable(name) for name in stated[:MAX_PEER_NAMES])


def _present(context: SSL.Context, certificate: ClientCertificate) -> None:
    context.set_passwd_cb(lambda *_: b"")  # OpenSSL would ask at the terminal
    try:
        context.use_certificate_chain_file(certificate.certificate_path)
        context.use_privatekey_file(certificate.key_path)
        context.check_privatekey()
    except SSL.Error:
        paths = f"{certificate.certificate_path!r} and {certificate.key_path!r}"
        problem = f"{paths} are not a certificate and its key in PEM, the key without a passphrase"
        raise BadArgument("client_certificate", problem) from None


def _words(reason: Failure) -> str:
    """What OpenSSL says about a failure is a list of (library, function, words)."""
    entries = reason.value.args[0] if isinstance(reason.value, SSL.Error) and reason.value.args else None
    return "; ".join(str(entry[-1]) for entry in entries) if isinstance(entries, list) else reason.getErrorMessage()


def _reference_name(host: str) -> str:
    return _as_address(host) or ascii_domain("host", host.removesuffix("."))


def _as_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""

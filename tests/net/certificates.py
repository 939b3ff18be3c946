"""
Certificates for the tests, good and bad, made when they are needed.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtensionOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions

YESTERDAY, TOMORROW = -1, 1
"""Days from now; a certificate is valid from one to the other."""


@frozen(eq=False)
class Certificate:
    """
    A certificate with its key.

    @ivar above: certificates that a server sends along.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate alone, as a trust root."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """The subject's common name."""
        (attribute,) = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(attribute.value)

    @property
    def is_self_signed(self) -> bool:
        """Whether it is its own issuer."""
        return self.certificate.issuer == self.certificate.subject

    @property
    def with_key(self) -> bytes:
        """The certificate and its key, for L{read} and for the ssl module."""
        return self.pem + self.key_pem

    @property
    def key_pem(self) -> bytes:
        """The key alone."""
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.key.private_bytes(*form)

    @classmethod
    def read(cls, pem: bytes) -> Certificate:
        """What L{with_key} wrote."""
        key = serialization.load_pem_private_key(pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(pem), key)

    def options(self) -> CertificateOptions:
        """For a Twisted server."""
        return CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(self.key),
            certificate=crypto.X509.from_cryptography(self.certificate),
            extraCertChain=[crypto.X509.from_cryptography(one) for one in self.above],
        )

    def context(self) -> SSL.Context:
        """For a server in memory."""
        context: SSL.Context = self.options().getContext()
        return context


class Authority:
    """
    A certificate authority.

    @ivar root: its own certificate, to be trusted or not.
    """

    def __init__(
        self, name: str = "Authority of the tests", *, valid: tuple[float, float] = (YESTERDAY, TOMORROW)
    ) -> None:
        key = _new_key()
        self.root = Certificate(_signed(name, (), issuer=name, key=key, signer=key, is_ca=True, valid=valid), key)
        self._name = name

    def below(self, name: str) -> Authority:
        """One that this one vouches for."""
        key = _new_key()
        certificate = _signed(name, (), issuer=self._name, key=key, signer=self.root.key, is_ca=True)
        return Authority.by(Certificate(certificate, key))

    def issue(
        self,
        *names: str,
        common_name: str = "a server",
        san: bytes | None = None,
        valid: tuple[float, float] = (YESTERDAY, TOMORROW),
        purpose: x509.ObjectIdentifier | None = None,
    ) -> Certificate:
        """
        @param names: host names and addresses, for the subjectAltName.
        @param san: that extension's octets instead, however wrong.
        @param valid: from when to when, in days from now.
        @param purpose: the only one that the key may be used for.
        """
        key = _new_key()
        extensions: list[x509.ExtensionType] = [_san(names)] if names else []
        if san is not None:
            extensions.append(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, san))
        if purpose:
            extensions.append(x509.ExtendedKeyUsage([purpose]))
        certificate = _signed(common_name, extensions, issuer=self._name, key=key, signer=self.root.key, valid=valid)
        above = () if self.root.is_self_signed else (self.root.certificate,)
        return Certificate(certificate, key, above)

    @classmethod
    def by(cls, signer: Certificate) -> Authority:
        """One that signs with a certificate, whether that may sign or not."""
        authority = cls(signer.name)
        authority.root = signer
        return authority


def self_signed(name: str) -> Certificate:
    """Nobody vouches for it but itself."""
    key = _new_key()
    return Certificate(_signed(name, [_san([name])], issuer=name, key=key, signer=key), key)


def signed_with(algorithm: hashes.SHA256 | hashes.SHA384 | None) -> Certificate:
    """One whose signature uses that hash; without any, as Ed25519 does."""
    key = _new_key()
    builder = _builder("a server", "somebody", key)
    if algorithm:
        return Certificate(builder.sign(_new_key(), algorithm), key)
    return Certificate(builder.sign(ed25519.Ed25519PrivateKey.generate(), None), key)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _san(names: Sequence[str]) -> x509.ExtensionType:
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _signed(
    name: str,
    extensions: Sequence[x509.ExtensionType],
    *,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    valid: tuple[float, float] = (YESTERDAY, TOMORROW),
    is_ca: bool = False,
) -> x509.Certificate:
    builder = _builder(name, issuer, key, valid)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _builder(
    name: str, issuer: str, key: ec.EllipticCurvePrivateKey, valid: tuple[float, float] = (YESTERDAY, TOMORROW)
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_distinguished(name))
        .issuer_name(_distinguished(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=valid[0]))
        .not_valid_after(now + datetime.timedelta(days=valid[1]))
    )


def _distinguished(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

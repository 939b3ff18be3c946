"""
What TLSA records say about a chain of certificates, for SMTP (RFC 6698, 7671,
7672).

Certificates and keys are compared as the octets that came, in DER: whether a
library can read them is not asked where it need not. Whether a chain from the
server's certificate to an authority found here holds, with its signatures and
dates, is for OpenSSL to say (L{pymail_tx.net.dane_verify}).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pymail_tx.core.dns import TLSA

MAX_RECORDS = 50
"""Of one host that are looked at. Four, for two keys of two algorithms, is many."""

MAX_CHAIN = 10
"""Certificates of one server that are looked at; three are usual. It bounds what one handshake can cost."""

MAX_SHOWN = 3
"""Records in one reason, which people read."""

MAX_TEXT_OCTETS = len("3 255 255 ") + 2 * 64
"""Of each; a record that holds a whole certificate has thousands."""

DANE_TA = 2
"""The record names an authority, trusted for this host (RFC 7671 §5.2)."""

DANE_EE = 3
"""The record names the server's own certificate or key (RFC 7671 §5.1)."""

_WHOLE, _KEY = 0, 1
_FULL = 0
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}
"""By matching type; the higher number is the stronger digest."""

_READERS = {_WHOLE: x509.load_der_x509_certificate, _KEY: load_der_public_key}


@frozen
class Anchor:
    """
    A certificate that a record of usage 2 makes trusted.

    @ivar certificate: in DER.
    @ivar record: the record that names it, or names the key that signed it.
    """

    certificate: bytes
    record: TLSA


def usable(records: Iterable[TLSA]) -> tuple[TLSA, ...]:
    """
    Those to hold against a certificate, in one order whatever order they came
    in: usages 2 and 3 (RFC 7672 §3.1.3), what is known and well-formed, and of
    several digests the strongest (RFC 7671 §9).
    """
    known = sorted({record for record in records if _is_known(record)}, key=str)
    well_formed = [record for record in known[:MAX_RECORDS] if _is_well_formed(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in well_formed:
        kind = (record.usage, record.selector)
        strongest[kind] = max(strongest.get(kind, _FULL), record.matching_type)
    return tuple(one for one in well_formed if one.matching_type in (_FULL, strongest[one.usage, one.selector]))


def leaf_record(records: Iterable[TLSA], leaf: bytes) -> TLSA | None:
    """The record of usage 3 that matches the server's certificate, in DER."""
    return next((record for record in records if record.usage == DANE_EE and _matches(record, leaf)), None)


def anchors(records: Iterable[TLSA], chain: Sequence[bytes]) -> tuple[Anchor, ...]:
    """
    What records of usage 2 make trusted, given the certificates that the server
    sent, in DER, its own first: those sent above its own that match; those that
    a record holds whole; and those that a key signed which a record holds whole
    (RFC 7671 §5.2.2: such need not be sent).
    """
    found = (anchor for record in records if record.usage == DANE_TA for anchor in _anchors(record, chain[:MAX_CHAIN]))
    return tuple(found)


def fingerprint(certificate: bytes, usage: int = DANE_EE) -> TLSA:
    """The record to publish for a certificate in DER (RFC 7672 §3.1.1-3.1.2)."""
    return TLSA(usage, _KEY, 1, hashlib.sha256(_public_key(certificate)).digest())


def shown(records: Iterable[TLSA]) -> str:
    """For people: the first L{MAX_SHOWN} records, each cut to what the longest digest takes."""
    texts = list(dict.fromkeys(map(_text, records)))
    more = f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return ", ".join(texts[:MAX_SHOWN]) + more


def _text(record: TLSA) -> str:
    text = str(record)
    return text if len(text) <= MAX_TEXT_OCTETS else text[: MAX_TEXT_OCTETS - 3] + "..."


def _is_known(record: TLSA) -> bool:
    digest = _DIGESTS.get(record.matching_type)
    has_length = len(record.data) == digest().digest_size if digest else record.matching_type == _FULL
    return has_length and record.usage in (DANE_TA, DANE_EE) and record.selector in _READERS


def _is_well_formed(record: TLSA) -> bool:
    if record.matching_type != _FULL:
        return True
    try:
        _READERS[record.selector](record.data)
    except UnsupportedAlgorithm:
        return record.usage == DANE_EE  # octets can be compared all the same, signatures not checked
    except Exception:  # noqa: BLE001  # the data may be anything, and so may be what a parser makes of it
        return False
    return True


def _matches(record: TLSA, certificate: bytes) -> bool:
    selected = certificate if record.selector == _WHOLE else _public_key(certificate)
    digest = _DIGESTS.get(record.matching_type)
    return (digest(selected).digest() if digest else selected) == record.data


def _anchors(record: TLSA, chain: Sequence[bytes]) -> Iterator[Anchor]:
    yield from (Anchor(certificate, record) for certificate in chain[1:] if _matches(record, certificate))
    if record.matching_type == _FULL and record.selector == _WHOLE and record.data not in chain:
        yield Anchor(record.data, record)
    elif record.matching_type == _FULL and record.selector == _KEY:
        yield from (Anchor(certificate, record) for certificate in chain if _is_signed_by(certificate, record.data))


def _is_signed_by(certificate: bytes, public_key: bytes) -> bool:
    try:
        _verify(x509.load_der_x509_certificate(certificate), public_key)
    except Exception:  # noqa: BLE001  # whatever is wrong with key or certificate, it has not been shown to be so
        return False
    return True


def _verify(certificate: x509.Certificate, public_key: bytes) -> None:
    """
    @raise Exception: the key did not sign the certificate; of which class
        depends on what is wrong.
    """
    key = load_der_public_key(public_key)
    signed, signature, how = (
        certificate.tbs_certificate_bytes,
        certificate.signature,
        certificate.signature_algorithm_parameters,
    )
    match key, how:
        case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS():
            assert certificate.signature_hash_algorithm
            key.verify(signature, signed, how, certificate.signature_hash_algorithm)
        case ec.EllipticCurvePublicKey(), ec.ECDSA():
            key.verify(signature, signed, how)
        case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), _):
            key.verify(signature, signed)
        case _:
            raise UnsupportedAlgorithm("key of another kind than the signature's")


_EXPLICIT_VERSION = 0xA0
_FIELDS_BEFORE_KEY = 5
"""serialNumber, signature, issuer, validity, subject (RFC 5280 §4.1)."""


def _public_key(certificate: bytes) -> bytes:
    """
    The SubjectPublicKeyInfo as it stands in the certificate. A library would
    encode it anew, and cannot where it does not know the algorithm.

    @return: empty if that is no certificate.
    """
    try:
        to_be_signed = _first(_content(certificate))
        fields = list(_elements(_content(to_be_signed)))
        return fields[_FIELDS_BEFORE_KEY + (fields[0][0] == _EXPLICIT_VERSION)]
    except IndexError:
        return b""


def _first(octets: bytes) -> bytes:
    return next(_elements(octets), b"")


def _content(element: bytes) -> bytes:
    start, end = _extent(element)
    return element[start:end]


def _elements(octets: bytes) -> Iterator[bytes]:
    """Each element of DER in a row."""
    while octets:
        end = _extent(octets)[1]
        yield octets[:end]
        octets = octets[end:]


def _extent(octets: bytes) -> tuple[int, int]:
    """Where an element's content begins and ends (X.690 §8.1)."""
    length = octets[1]
    if length < 0x80:
        return 2, 2 + length
    start = 2 + length - 0x80
    return start, start + int.from_bytes(octets[2:start], "big")

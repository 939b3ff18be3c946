"""
Whether a chain of certificates is what TLSA records ask for, with OpenSSL for
what takes signatures and dates.

A certificate named by a record of usage 3 is good whatever it says: names,
dates and issuer do not count (RFC 7672 §3.1.1). One below an authority named by
a record of usage 2 needs a chain to it that holds now; and one of the reference
names, which is the caller's to check (RFC 7672 §3.1.2, 3.2.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from pymail_tx.core import dane
from pymail_tx.core.dns import TLSA

_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


class Unproved(Exception):
    """
    No record vouches for the certificate; the text says what was found instead.
    """


def proof(records: Sequence[TLSA], chain: Sequence[crypto.X509]) -> TLSA:
    """
    The record that vouches for a server.

    @param records: all usable (L{pymail_tx.core.dane.usable}).
    @param chain: as the server sent it, its own certificate first.
    @raise Unproved: none does.
    """
    sent = [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain[: dane.MAX_CHAIN]]
    record = dane.leaf_record(records, sent[0])
    if record:
        return record
    anchors = dane.anchors(records, sent)
    if not anchors:
        raise Unproved(f"matches none of TLSA {dane.shown(records)}; {_found(records, sent)}")
    return _anchored(anchors, chain[: dane.MAX_CHAIN])


def _anchored(anchors: Sequence[dane.Anchor], chain: Sequence[crypto.X509]) -> TLSA:
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an authority need not be a root (RFC 7671 §5.2.1)
    for anchor in anchors:
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, anchor.certificate))
    try:
        verified = crypto.X509StoreContext(store, chain[0], chain=chain[1:]).get_verified_chain()
    except crypto.X509StoreContextError as error:
        words = f"has no chain to the authority of TLSA {dane.shown(anchor.record for anchor in anchors)}: {error}"
        raise Unproved(words) from None
    if not _is_for_servers(chain[0].to_cryptography()):
        raise Unproved("may not be used by a server, says its extended key usage")
    trusted = crypto.dump_certificate(crypto.FILETYPE_ASN1, verified[-1])
    return next(anchor.record for anchor in anchors if anchor.certificate == trusted)


def _is_for_servers(certificate: x509.Certificate) -> bool:
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool(_FOR_SERVERS.intersection(purposes))


def _found(records: Sequence[TLSA], sent: Sequence[bytes]) -> str:
    """In the terms of what was wanted, for those who compare."""
    above = [dane.fingerprint(certificate, dane.DANE_TA) for certificate in sent[1:]]
    below = f", sent with {dane.shown(above)}" if above and any(one.usage == dane.DANE_TA for one in records) else ""
    return f"it is {dane.fingerprint(sent[0])}{below}"

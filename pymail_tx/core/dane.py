"""
What TLSA records say about a certificate, for SMTP (RFC 6698, 7671, 7672).
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pymail_tx.core.dns import TLSA

DANE_TA = 2
"""The record names an authority that is to be trusted for this host (RFC 7671 §5.2)."""

DANE_EE = 3
"""The record names the server's own certificate or key (RFC 7671 §5.1)."""

_DIGEST_OCTETS = {1: 32, 2: 64}
_READERS = {0: x509.load_der_x509_certificate, 1: load_der_public_key}


def usable(records: Iterable[TLSA]) -> tuple[TLSA, ...]:
    """
    Those that a certificate can be held against, in one order whatever order
    they came in. Usages 0 and 1 are not among them (RFC 7672 §3.1.3).
    """
    return tuple(sorted({record for record in records if _is_usable(record)}, key=str))


def _is_usable(record: TLSA) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in _READERS:
        return False
    if record.matching_type != 0:
        return len(record.data) == _DIGEST_OCTETS.get(record.matching_type)
    try:
        _READERS[record.selector](record.data)
    except Exception:  # noqa: BLE001  # the data may be anything, and so may be what a parser makes of it
        return False
    return True

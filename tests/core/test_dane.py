"""
Which TLSA records count, and what they say of octets.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dane import MAX_RECORDS, Anchor, anchors, fingerprint, leaf_record, shown, usable
from pymail_tx.core.dns import TLSA

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_EC, _OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
_RSA = rsa.generate_private_key(65_537, 2_048)
_SHA256, _SHA512 = bytes(32), bytes(64)


def spki(key: Key | dsa.DSAPrivateKey) -> bytes:
    """The public key, as a record holds it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(key: Key, signer: Key, *, scheme: padding.PSS | None = None) -> bytes:
    """A certificate for C{key}, in DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a name")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    )  # fmt: skip
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm, rsa_padding=scheme).public_bytes(Encoding.DER)


class Usable(SynchronousTestCase):
    """RFC 7672 §3.1, RFC 7671 §9."""

    def are_usable(self, *records: TLSA) -> None:
        """Each of them, for itself."""
        for record in records:
            self.assertEqual(usable([record]), (record,))

    def are_not(self, *records: TLSA) -> None:
        for record in records:
            self.assertEqual(usable([record]), ())

    def test_usages_2_and_3_with_every_selector_and_matching_type_are(self) -> None:
        der, key = certificate(_EC, _EC), spki(_EC)
        for usage in (2, 3):
            self.are_usable(TLSA(usage, 0, 0, der), TLSA(usage, 1, 0, key))
            self.are_usable(*(TLSA(usage, selector, 1, _SHA256) for selector in (0, 1)))
            self.are_usable(*(TLSA(usage, selector, 2, _SHA512) for selector in (0, 1)))

    def test_usages_0_and_1_and_unknown_numbers_are_not(self) -> None:
        self.are_not(*(TLSA(usage, 1, 1, _SHA256) for usage in (0, 1, 4, 255)))
        self.are_not(*(TLSA(3, selector, 1, _SHA256) for selector in (2, 255)))
        self.are_not(*(TLSA(3, 1, matching_type, _SHA256) for matching_type in (3, 255)))

    def test_a_digest_of_another_length_is_not(self) -> None:
        for length in (0, 31, 33, 64):
            self.are_not(TLSA(3, 1, 1, bytes(length)))
        for length in (0, 32, 63, 65):
            self.are_not(TLSA(3, 1, 2, bytes(length)))

    def test_whole_certificates_and_keys_that_cannot_be_read_are_not(self) -> None:
        der, key = certificate(_EC, _EC), spki(_EC)
        for usage, selector in itertools.product((2, 3), (0, 1)):
            good, other = (der, key) if selector == 0 else (key, der)
            self.are_not(*(TLSA(usage, selector, 0, data) for data in (b"", good[:-1], good + b"\0", other)))

    def test_a_key_of_an_unknown_algorithm_can_be_compared_but_signs_nothing(self) -> None:
        key = spki(_EC).replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030163"))  # no known curve
        self.are_usable(TLSA(3, 1, 0, key))
        self.are_not(TLSA(2, 1, 0, key))

    def test_the_strongest_digest_of_a_usage_and_selector_counts_and_whole_ones_always(self) -> None:
        weak, strong, whole = TLSA(3, 1, 1, _SHA256), TLSA(3, 1, 2, _SHA512), TLSA(3, 1, 0, spki(_EC))
        others = (TLSA(2, 1, 1, _SHA256), TLSA(3, 0, 1, _SHA256))
        for records in itertools.permutations((weak, strong, whole, *others)):
            self.assertEqual(set(usable(records)), {strong, whole, *others})

    def test_a_strong_digest_that_is_malformed_hides_no_weak_one(self) -> None:
        self.assertEqual(usable([TLSA(3, 1, 1, _SHA256), TLSA(3, 1, 2, _SHA256)]), (TLSA(3, 1, 1, _SHA256),))

    def test_they_are_told_once_and_in_one_order(self) -> None:
        records = [
            TLSA(usage, selector, 1, bytes([fill]) * 32) for usage in (3, 2) for selector in (1, 0) for fill in (1, 2)
        ]
        self.assertEqual(usable(records + records), usable(reversed(records)))
        self.assertEqual(len(usable(records + records)), len(records))

    def test_fifty_are_looked_at(self) -> None:
        records = [TLSA(3, 1, 1, number.to_bytes(32, "big")) for number in range(MAX_RECORDS + 1)]
        self.assertEqual(usable(records[:-1]), tuple(records[:-1]))
        self.assertEqual(usable(records), tuple(records[:-1]))

    @given(st.builds(TLSA, *[st.integers(0, 4)] * 3, st.binary(max_size=100)))
    def test_any_record_can_be_looked_at(self, record: TLSA) -> None:
        self.assertIn(usable([record]), ((), (record,)))


class Matching(SynchronousTestCase):
    def test_a_key_is_compared_as_it_stands_in_the_certificate(self) -> None:
        for key in (_EC, _RSA, ed25519.Ed25519PrivateKey.generate()):
            der, digest = certificate(key, key), hashlib.sha256(spki(key)).digest()
            record = TLSA(3, 1, 1, digest)
            self.assertEqual(fingerprint(der), record)
            self.assertEqual(leaf_record([record], der), record)

    def test_one_octet_makes_another(self) -> None:
        der = certificate(_EC, _EC)
        for position in range(32):
            digest = bytearray(fingerprint(der).data)
            digest[position] ^= 1
            self.assertIsNone(leaf_record([TLSA(3, 1, 1, bytes(digest))], der))

    def test_usage_2_is_not_for_the_leaf(self) -> None:
        der = certificate(_EC, _EC)
        self.assertIsNone(leaf_record([TLSA(2, 0, 0, der)], der))
        for record in (TLSA(2, 0, 0, der), TLSA(2, 0, 1, hashlib.sha256(der).digest())):
            self.assertEqual(anchors([record], [der]), ())

    def test_usage_3_makes_nothing_trusted(self) -> None:
        der = certificate(_EC, _EC)
        self.assertEqual(anchors([TLSA(3, 0, 0, der)], [der, der]), ())

    @given(st.binary(max_size=60))
    def test_octets_that_are_no_certificate_match_nothing(self, octets: bytes) -> None:
        self.assertIsNone(leaf_record([TLSA(3, 1, 1, _SHA256), TLSA(3, 0, 2, _SHA512)], octets))
        self.assertEqual(anchors([TLSA(2, 1, 0, spki(_EC))], [octets, octets]), ())

    def test_a_certificate_cut_anywhere_has_no_key(self) -> None:
        der = certificate(_EC, _EC)
        whole = TLSA(3, 1, 0, spki(_EC))
        end_of_key = der.index(spki(_EC)) + len(spki(_EC))
        for length in range(end_of_key):
            self.assertIsNone(leaf_record([whole], der[:length]))


class Shown(SynchronousTestCase):
    def test_digests_are_shown_whole_and_what_is_longer_is_cut(self) -> None:
        longest = TLSA(3, 255, 255, _SHA512)
        self.assertEqual(shown([longest]), str(longest))
        self.assertEqual(shown([TLSA(3, 255, 255, _SHA512 + b"\0")]), str(longest)[:-3] + "...")

    def test_three_are_shown_and_each_once(self) -> None:
        one, two, three, four = (TLSA(3, 1, 1, bytes([number])) for number in range(4))
        self.assertEqual(shown([one, one, two, three]), "3 1 1 00, 3 1 1 01, 3 1 1 02")
        self.assertEqual(shown([one, two, three, four]), "3 1 1 00, 3 1 1 01, 3 1 1 02 and 1 more")


class BareKeys(SynchronousTestCase):
    """An authority's key in a record, without a certificate for it (RFC 7671 §5.2.2)."""

    def signs(self, signer: Key, *, scheme: padding.PSS | None = None) -> None:
        """It makes what it signed trusted, and nothing else."""
        record = TLSA(2, 1, 0, spki(signer))
        signed, other = certificate(_OTHER, signer, scheme=scheme), certificate(_OTHER, _OTHER)
        self.assertEqual(anchors([record], [signed]), (Anchor(signed, record),))
        self.assertEqual(anchors([record], [other, signed]), (Anchor(signed, record),))
        self.assertEqual(anchors([record], [other]), ())

    def test_of_every_kind_that_certificates_are_signed_with(self) -> None:
        for signer in (_EC, _RSA, ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()):
            self.signs(signer)

    def test_with_probabilistic_signatures(self) -> None:
        self.signs(_RSA, scheme=padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH))

    def test_a_key_that_signs_no_certificates_makes_nothing_trusted(self) -> None:
        record = TLSA(2, 1, 0, spki(dsa.generate_private_key(1_024)))
        self.assertEqual(anchors([record], [certificate(_EC, _EC)]), ())

"""
What is kept of a password: against the vectors of the RFCs, and against scramp,
which made verifiers before us.
"""

from __future__ import annotations

import contextlib
from base64 import b64decode, b64encode

from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism  # type: ignore[import-untyped]  # it has no types
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.secret import Secret
from pymail_tx.core.verifier import ScramVerifier, ScryptVerifier, read

PASSWORD = Secret("pencil")
SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")  # RFC 7677 §3

LIGHT = ScryptVerifier(log_cost=10, parallelism=1, salt=SALT, key=bytes(32)).reveal()


def _unpadded(octets: bytes) -> str:
    return b64encode(octets).decode().rstrip("=")


class Scrypt(SynchronousTestCase):
    def test_the_vector_of_rfc_7914(self) -> None:
        key = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")  # its first 32 octets
        text = f"$scrypt$ln=14,r=8,p=1${_unpadded(b'SodiumChloride')}${_unpadded(key)}"
        self.assertTrue(read(text).check(Secret("pleaseletmein")))
        self.assertFalse(read(text).check(Secret("pleaseletmeout")))

    def test_what_is_made_knows_its_password_and_no_other(self) -> None:
        made = read(ScryptVerifier.of(PASSWORD, SALT).reveal())
        self.assertTrue(made.check(PASSWORD))
        self.assertFalse(made.check(Secret("Pencil")))
        self.assertTrue(made.reveal().startswith("$scrypt$ln=15,r=8,p=3$"))

    def test_costs_that_take_the_machine_are_refused(self) -> None:
        for costs in ("ln=24,r=8,p=1", "ln=9,r=8,p=1", "ln=14,r=0,p=1", "ln=14,r=8,p=0", "ln=14,r=8,p=17"):
            text = LIGHT.replace("ln=10,r=8,p=1", costs)
            self.assertIn("costs", str(self.assertRaises(BadArgument, read, text)), costs)


class Scram(SynchronousTestCase):
    def test_the_keys_are_those_that_scramp_makes(self) -> None:
        salt, stored_key, server_key, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(
            "pencil", iteration_count=4_096, salt=SALT
        )
        made = ScramVerifier.of(PASSWORD, SALT, iterations=4_096)
        self.assertEqual((made.salt, made.stored_key, made.server_key), (salt, stored_key, server_key))
        self.assertEqual(made.iterations, iterations)

    def test_the_form_is_that_of_rfc_5803_and_of_postgresql(self) -> None:
        text = ScramVerifier.of(PASSWORD, SALT, iterations=4_096).reveal()
        self.assertEqual(
            text,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
            "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        )
        self.assertEqual(read(text).reveal(), text)

    def test_it_answers_plain_too(self) -> None:
        made = ScramVerifier.of(PASSWORD, SALT, iterations=4_096)
        self.assertTrue(made.check(PASSWORD))
        self.assertFalse(made.check(Secret("pencils")))

    def test_iterations_beyond_what_clients_do_are_refused(self) -> None:
        text = ScramVerifier.of(PASSWORD, SALT, iterations=4_096).reveal()
        for iterations in ("4095", "600001"):
            self.assertRaises(BadArgument, read, text.replace("4096", iterations))


class Reading(SynchronousTestCase):
    def test_a_password_in_its_place_is_not_quoted(self) -> None:
        error = str(self.assertRaises(BadArgument, read, "Zq7-secret"))
        self.assertIn("pymail-tx user add", error)
        self.assertNotIn("Zq7", error)

    @given(st.text() | st.text("$scryptSCRAM-HA256:=,lnrp0123456789ABab+/", max_size=60))
    def test_whatever_is_read_is_a_verifier_or_refused(self, text: str) -> None:
        with contextlib.suppress(BadArgument):
            read(text)

    @given(st.integers(0, len(LIGHT)), st.text(max_size=2))
    def test_a_text_with_characters_amiss_never_fails_otherwise(self, where: int, what: str) -> None:
        with contextlib.suppress(BadArgument):
            read(LIGHT[:where] + what + LIGHT[where + 1 :])

    def test_one_spelling_of_a_password_is_as_good_as_another(self) -> None:
        made = ScramVerifier.of(Secret("I\u00adX"), SALT, iterations=4_096)
        self.assertTrue(made.check(Secret("\u2168")))  # RFC 4013 §3

    def test_a_password_that_sasl_prohibits_cannot_be_set_and_is_never_right(self) -> None:
        self.assertRaises(BadArgument, ScryptVerifier.of, Secret("a\x07"), SALT)
        self.assertRaises(BadArgument, ScramVerifier.of, Secret(""), SALT)
        self.assertFalse(read(LIGHT).check(Secret("a\x07")))
        self.assertFalse(read(ScramVerifier.of(PASSWORD, SALT, iterations=4_096).reveal()).check(Secret("")))

    def test_no_repr_shows_what_could_be_guessed_against(self) -> None:
        for made in (ScramVerifier.of(PASSWORD, SALT, iterations=4_096), read(LIGHT)):
            self.assertNotIn("salt", repr(made))
            self.assertNotIn("key", repr(made))

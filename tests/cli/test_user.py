"""
C{pymail-tx user add} prints what the configuration needs, and no password.
"""

from __future__ import annotations

import os
import pty
import subprocess

from pymail_tx.config.reading import read
from pymail_tx.config.settings import User
from pymail_tx.core.secret import Secret
from pymail_tx.core.verifier import ScramVerifier, ScryptVerifier
from tests.cli.processes import COMMAND, LIMIT_S, ProcessCase

_PASSWORD = "Zq7 xyz"


def _user(text: str) -> User:
    [found] = read(text.encode(), file="f", hostname=lambda: "x.example").settings.smtp.user
    return found


class Adding(ProcessCase):
    def test_the_password_is_the_first_line_of_standard_input(self) -> None:
        ended = self.run_command("user", "add", "ann", text=f"{_PASSWORD}\nmore\n")
        self.assertEqual((ended.status, ended.err), (0, ""))
        user = _user(ended.out)
        self.assertEqual(user.name, "ann")
        self.assertIsInstance(user.verifier, ScryptVerifier)
        self.assertTrue(user.verifier.check(Secret(_PASSWORD)))
        self.assertNotIn("Zq7", ended.out)

    def test_it_makes_scram_verifiers_too(self) -> None:
        user = _user(self.run_command("user", "add", "--scram", "ann@example.org", text=_PASSWORD).out)
        self.assertEqual(user.name, "ann@example.org")
        self.assertIsInstance(user.verifier, ScramVerifier)
        self.assertTrue(user.verifier.check(Secret(_PASSWORD)))

    def test_a_password_may_have_a_thousand_octets(self) -> None:
        user = _user(self.run_command("user", "add", "ann", text="x" * 1_000 + "\r\n").out)
        self.assertTrue(user.verifier.check(Secret("x" * 1_000)))

    def test_the_same_password_is_never_kept_twice_alike(self) -> None:
        made = {self.run_command("user", "add", "ann", text=_PASSWORD).out for _ in range(2)}
        self.assertEqual(len(made), 2)

    def test_on_a_terminal_it_is_asked_for_twice_and_not_shown(self) -> None:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "user", "add", "ann"], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        seen = ""
        for question in ("Password: ", "confirmation: "):
            while question not in seen:
                seen += os.read(ours, 4_096).decode()
            os.write(ours, f"{_PASSWORD}\n".encode())
        out, _ = process.communicate(timeout=LIMIT_S)
        os.close(ours)
        self.assertEqual(process.returncode, 0)
        self.assertTrue(_user(out.decode()).verifier.check(Secret(_PASSWORD)))
        self.assertNotIn("Zq7", seen)

    def test_what_cannot_be_kept_gets_one_line(self) -> None:
        for name, password, status, expected in (
            ("ann", "", 64, "password: is empty"),
            ("ann", "a\x07", 64, "password: holds a character that SASL prohibits"),
            ("a\x07", "x", 64, "NAME: holds a character that SASL prohibits"),
            ("ann", "x" * 1_001, 1, "password: more than 1000 octets"),
            ("ann", b"\xff", 1, "password: standard input is not UTF-8"),
        ):
            ended = self.run_command("user", "add", name, text=password)
            self.assertEqual((ended.status, ended.out), (status, ""), ended.err)
            self.assertRegex(ended.err, r"\Apymail-tx: [^\n]+\n\Z")
            self.assertIn(expected, ended.err)

"""
What is not tested is said loudly, and in CI it is a failure.
"""

from __future__ import annotations

import os
import subprocess
from unittest.mock import patch

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests import peers
from tests.project import ROOT

INSTALL = (ROOT / "tests" / "peers" / "install").read_text()

NOBODY = "no-such-mail-server"


class Requirements(SynchronousTestCase):
    def test_what_is_there_is_no_reason_to_skip(self) -> None:
        peers.require("sh")

    def test_elsewhere_what_is_missing_skips_the_test_and_is_named(self) -> None:
        with patch.dict(os.environ, {"CI": ""}):
            skip = self.assertRaises(SkipTest, peers.require, NOBODY)
        self.assertRegex(str(skip), f"NOT TESTED: {NOBODY} is not installed")

    def test_in_ci_what_is_missing_fails_the_test(self) -> None:
        with patch.dict(os.environ, {"CI": "true"}):
            failure = self.assertRaises(AssertionError, peers.require, NOBODY)
        self.assertRegex(str(failure), f"NOT TESTED, and CI has to: {NOBODY}")

    def test_servers_are_missing_to_whoever_is_not_root(self) -> None:
        with patch.object(os, "geteuid", lambda: 1_000), patch.dict(os.environ, {"CI": "true"}):
            for peer in ("postfix", "dovecot", "exim4-daemon-light", "opensmtpd"):
                self.assertRaises(AssertionError, peers.require, peer)

    def test_make_test_says_to_whoever_is_not_root_what_is_left_out(self) -> None:
        self.assertIn(
            "Only root can start Postfix, Dovecot, Exim and OpenSMTPD: the tests with them are skipped.",
            self.said(INSTALL),
        )
        without_swaks = self.said(INSTALL.replace("swaks:", f"{NOBODY}:"))
        self.assertIn("Only root can install Debian packages.", without_swaks)
        self.assertRegex(without_swaks, "NOT TESTED for that reason: delivery to and from .*swaks")

    def said(self, program: str) -> str:
        """What the script says to somebody who is not root; it must not fail."""
        user = "nobody" if os.geteuid() == 0 else None
        run = subprocess.run(["/bin/sh", "-c", program], user=user, cwd="/", check=True, capture_output=True, text=True)
        return run.stderr

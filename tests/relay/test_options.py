"""
The command line, and what is said about mistakes in it.
"""

from __future__ import annotations

import io
import sys
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.relay.options import Options, Settings, machine_name


def _settings(*options: str) -> Settings:
    parsed = Options()
    parsed.parseOptions(options)
    return parsed.settings


class CommandLine(SynchronousTestCase):
    def test_without_a_word_it_delivers_the_internets_way(self) -> None:
        settings = _settings()
        self.assertEqual([str(route) for route in settings.routes.routes], ["*=mx:?port=25"])
        self.assertEqual(settings.spool_path, "var/spool.sqlite")
        self.assertEqual(settings.smtp, ("tcp:2525:interface=127.0.0.1",))
        self.assertIn(".", settings.hostname)

    def test_all_can_be_said(self) -> None:
        settings = _settings(
            "--spool", "sqlite:/a:b", "--smtp", "tcp:1", "--smtp=unix:s", "--hostname", "bücher.example",
            "--route", "example.org=discard:", "--route=*=reject:no",
        )  # fmt: skip
        self.assertEqual(settings.spool_path, "/a:b")
        self.assertEqual(settings.smtp, ("tcp:1", "unix:s"))
        self.assertEqual(settings.hostname, "xn--bcher-kva.example")
        self.assertEqual([str(route) for route in settings.routes.routes], ["example.org=discard:", "*=reject:no"])

    def test_a_mistake_is_one_line_and_status_1(self) -> None:
        for options in (["--route", "x\ny"], ["--nonsense"], ["--spool", "a\nb", "--route", "*=discard:"]):
            error = self.assertRaises(SystemExit, _settings, *options)
            self.assertRegex(str(error.code), r"\Apymail-tx: [^\n]+\Z")

    def test_no_mistake_shows_a_password(self) -> None:
        for options in (
            ["smtp://joe:Zq7@h"],
            ["--route", "smtp://joe:Zq7@h"],
            ["--route", "*=smtp://joe:Zq7@h?x=y"],
            ["--route", "*=discard:", "--spool", "postgresql://joe:Zq7@h/d"],
        ):
            self.assertNotIn("Zq7", str(self.assertRaises(SystemExit, _settings, *options).code))

    def test_the_version_can_be_asked_for(self) -> None:
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        self.assertEqual(self.assertRaises(SystemExit, _settings, "--version").code, 0)
        self.assertRegex(out.getvalue(), r"\Apymail-tx [0-9]+\.[0-9]+")


class Names(SynchronousTestCase):
    def test_the_machines_name_is_a_domain(self) -> None:
        for name, expected in {
            "relay.example.org": "relay.example.org",
            "relay.example.org.": "relay.example.org",
            "relay": "relay.localdomain",
            "": "localhost.localdomain",
            "-no name-": "localhost.localdomain",
            "x" * 64: "localhost.localdomain",
        }.items():
            self.assertEqual(machine_name(partial(str, name)), expected)

"""
The command line, and what is said about mistakes in it.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.config.settings import Settings
from pymail_tx.relay.options import Options, machine_name


def _settings(*options: str) -> Settings:
    parsed = Options()
    parsed.parseOptions(options)
    return parsed.configuration.settings


class CommandLine(SynchronousTestCase):
    def test_a_route_is_all_it_needs(self) -> None:
        settings = _settings("--route", "*=discard:")
        self.assertEqual(settings.spool.path, "var/spool.sqlite")
        self.assertEqual(settings.smtp.listen, ("tcp:2525:interface=127.0.0.1",))
        self.assertIn(".", settings.hostname)

    def test_all_can_be_said(self) -> None:
        settings = _settings(
            "--spool", "sqlite:/a:b", "--smtp", "tcp:1", "--smtp=unix:s", "--hostname", "bücher.example",
            "--route", "example.org=discard:", "--route=*=reject:no",
        )  # fmt: skip
        self.assertEqual(settings.spool.path, "/a:b")
        self.assertEqual(settings.smtp.listen, ("tcp:1", "unix:s"))
        self.assertEqual(settings.hostname, "xn--bcher-kva.example")
        self.assertEqual([str(route) for route in settings.routes.routes], ["example.org=discard:", "*=reject:no"])

    def test_options_go_before_the_file(self) -> None:
        file = Path(self.mktemp())
        file.write_text(
            'hostname = "a.example"\n[spool]\nurl = "sqlite:b"\n[smtp]\nmax_connections = 7\nlisten = ["tcp:1"]\n'
            '[[route]]\nmatch = "*"\nto = "discard:"\n'
        )
        settings = _settings("--config", str(file), "--smtp", "tcp:2", "--smtp", "tcp:3", "--http", "tcp:4")
        self.assertEqual((settings.hostname, settings.spool.path, settings.smtp.max_connections), ("a.example", "b", 7))
        self.assertEqual((settings.smtp.listen, settings.http.listen), (("tcp:2", "tcp:3"), "tcp:4"))
        self.assertEqual([str(route) for route in settings.routes.routes], ["*=discard:"])
        settings = _settings("--config", str(file), "--route", "*=smtp://joe:Zq7@h", "--spool", "sqlite:c")
        self.assertEqual(
            [route.target.reveal() for route in settings.routes.routes], ["smtp://joe:Zq7@h:25?tls=verified"]
        )
        self.assertEqual(settings.spool.path, "c")

    def test_all_that_is_wrong_in_the_file_is_told_a_line_each(self) -> None:
        file = Path(self.mktemp())
        file.write_text("hostnam = 1\n[smtp]\nlisten = 5\n")
        error = str(self.assertRaises(SystemExit, _settings, "--config", str(file), "--route", "*=discard:").code)
        first, second = error.splitlines()
        self.assertRegex(first, r"\Apymail-tx: /.*:1: hostnam: there is no such key; did you mean hostname\?")
        self.assertRegex(second, r"\Apymail-tx: /.*:3: smtp.listen: is a whole number, not a list of texts")

    def test_all_wrong_routes_are_told_each_by_its_option(self) -> None:
        error = self.assertRaises(SystemExit, _settings, "--route", "*=fax:", "--route", "a b=discard:", "--route", "x")
        lines = str(error.code).splitlines()
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.assertRegex(line, r"\Apymail-tx: --route: '")

    def test_the_file_is_read_again_on_request(self) -> None:
        file = Path(self.mktemp())
        file.write_text('hostname = "a.example"')
        options = Options()
        options.parseOptions(["--config", str(file), "--route", "*=discard:"])
        file.write_text('hostname = "b.example"')
        self.assertEqual(options.read().settings.hostname, "b.example")

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

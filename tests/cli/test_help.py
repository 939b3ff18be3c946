"""
Every help has examples, and they do what they say.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from click.testing import CliRunner

from pymail_tx.cli.main import program
from tests.cli.processes import LIMIT_S, Ended, ProcessCase
from tests.peers import eventually, is_listening

_MESSAGE = "From: joe@example.org\nTo: ann@example.com\nSubject: x\n\nhi\n"
_PASSWORD = "Zq7-xyz"


def _help(*words: str) -> str:
    result = CliRunner().invoke(program, [*words, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def _examples(help_text: str) -> list[str]:
    """Each a script, without its comments."""
    [block] = re.findall(r"^Examples:\n((?:  .*\n|\n)+)", help_text, re.MULTILINE)
    scripts = [re.sub(r"^ *#.*\n", "", one, flags=re.MULTILINE).strip() for one in str(block).split("\n\n")]
    return [script for script in scripts if script]


def _commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """All, those within others too."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, *above, name)
        else:
            yield (*above, name)


class Helps(ProcessCase):
    def test_every_help_has_examples_of_its_command(self) -> None:
        for words in _commands(program):
            for example in _examples(_help(*words)):
                self.assertIn(" ".join(["pymail-tx", *words]), example)

    def test_the_examples_of_send_send(self) -> None:
        (self.directory / "message.eml").write_text(_MESSAGE)
        server, provider = self.server(), self.provider()
        for count, example in enumerate(_examples(_help("send")), 1):
            script = example.replace("mail.example.org", f"127.0.0.1:{provider.port}")
            ended = self.run_script(script, PYMAIL_TX_SERVER=server.url, MAIL_PASSWORD=_PASSWORD)
            self.assertEqual((ended.status, "C: MAIL FROM" in ended.err), (0, "--trace" in example), ended.err)
            self.assertIn("ann@example.com", ended.out)
            self.assertNotIn(_PASSWORD, ended.out + ended.err)
            self.assertEqual(len(server.contents) + len(provider.contents), count)
        self.assertEqual(len(provider.contents), 1)

    def test_the_examples_of_sink_listen(self) -> None:
        sink = self.sink()
        sink.stop()
        for example in _examples(_help("sink")):
            script = re.sub(r"sink(?=$| --listen)", f"sink --listen tcp:{sink.port}:interface=127.0.0.1", example)
            script = script.replace(" --listen tcp:2526:interface=127.0.0.1", "")
            with subprocess.Popen(
                ["bash", "-c", f"exec {script}"], cwd=self.directory, env=self.environment(), stderr=subprocess.DEVNULL
            ) as process:
                eventually(example, lambda: is_listening(sink.port), within_s=LIMIT_S)
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(LIMIT_S), 0)

    def test_the_example_of_both_goes_from_one_to_the_other(self) -> None:
        receiving, sending = _examples(_help())
        self.assertEqual(receiving, "pymail-tx sink")
        sink = self.sink()
        ended = self.run_script(sending.replace("2526", str(sink.port)))
        self.assertEqual((ended.status, ended.err), (0, ""))
        eventually("it is shown", lambda: "Subject: Hello\n" in sink.out)

    def environment(self, **variables: str) -> Mapping[str, str]:
        """With C{pymail-tx} of the environment that runs the tests."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return os.environ | {"PATH": path, "SSL_CERT_FILE": str((self.directory / "ca.pem").absolute()), **variables}

    def run_script(self, script: str, **variables: str) -> Ended:
        """Run it in a shell, to its end."""
        ended = subprocess.run(
            ["bash", "-c", script], cwd=self.directory, env=self.environment(**variables), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout, ended.stderr)

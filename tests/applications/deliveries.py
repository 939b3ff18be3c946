"""
Buildbot, Scrapy and Synapse deliver to a Postfix, over each kind of connection that they know.

Not among the tests that C{trial tests} finds: C{make test-applications} runs them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.peers.postfix import Postfix
from tests.project import ROOT

ENVIRONMENT = ROOT / ".venv-applications"
HERE = Path(__file__).parent

PROTOCOLS = {"none": b" with ESMTP id", "implicit": b" with ESMTPS id", "starttls": b" with ESMTPSA id"}
"""What a Received line says for each way of TLS (RFC 3848); credentials are used with STARTTLS."""


def require_environment() -> None:
    """
    @raise SkipTest: the applications are not installed, and this is not CI.
    """
    if (ENVIRONMENT / ".installed").exists():
        return
    problem = "NOT TESTED: .venv-applications is not there (tests/applications/install makes it)"
    raise AssertionError(problem) if os.environ.get("CI") == "true" else SkipTest(problem)


class Application:
    """
    An application's process can be started, and its messages awaited.

    @cvar recipients: to whom it sends its message.
    @cvar part: what the message holds.
    """

    recipients: ClassVar[tuple[str, ...]] = ("bob@example.org", "carol@example.org")
    part: ClassVar[bytes]

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment

    def deliver(self, arrived: Callable[[], object]) -> None:
        """Have it send its message; C{arrived} returns when that is there."""
        raise NotImplementedError

    def run(self, script: str, *arguments: str) -> str:
        """
        Run one of our scripts to its end.

        @return: what it printed.
        """
        run = subprocess.run(
            [ENVIRONMENT / "bin" / "python", HERE / script, *arguments],
            cwd=self.directory, env=self.environment, timeout=60, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return f"{run.stdout}\n{script} ended with {run.returncode}"


class Buildbot(Application):
    """A master, made and started as its operator does."""

    part = b"Build pending."

    def deliver(self, arrived: Callable[[], object]) -> None:
        made = self.run("buildbot_command.py", "create-master", "--relocatable", "master")
        if not made.endswith(" 0"):
            raise AssertionError(made)
        shutil.copy(HERE / "master.cfg", self.directory / "master")
        log = self.directory / "log"
        master = subprocess.Popen(
            [ENVIRONMENT / "bin" / "python", HERE / "buildbot_command.py", "start", "--nodaemon", "master"],
            cwd=self.directory, env=self.environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log.open("wb"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            arrived()
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{(self.directory / 'master' / 'twistd.log').read_text()}") from None
        finally:
            os.killpg(master.pid, signal.SIGKILL)  # its shutdown is not our concern
            master.wait()


class Scrapy(Application):
    """A crawl with the StatsMailer extension."""

    part = b"downloader/response_status_count/200"

    def deliver(self, arrived: Callable[[], object]) -> None:
        printed = self.run("scrapy_crawl.py")
        if "Mail sent OK" not in printed:
            raise AssertionError(printed)
        arrived()


class Synapse(Application):
    """The handler that all of Synapse sends mail through."""

    recipients = ("bob@example.org",)
    part = b"SXQgd29ya3Mu"

    def deliver(self, arrived: Callable[[], object]) -> None:
        printed = self.run("synapse_email.py")
        if not printed.endswith(" 0"):
            raise AssertionError(printed)
        arrived()


class Deliveries(SynchronousTestCase):
    timeout = 120

    def setUp(self) -> None:
        require_environment()
        self.postfix = Postfix.start(self)

    def deliver(self, application: type[Application], tls: str) -> None:
        count = len(application.recipients)
        self.make(application, tls).deliver(lambda: self.postfix.await_messages(count))
        messages = self.postfix.messages()
        self.assertEqual(len(messages), count)
        for message in messages:
            self.assertIn(b"\nReturn-Path: <ann@example.net>\n", b"\n" + message)
            self.assertIn(PROTOCOLS[tls], message)
            self.assertIn(application.part, message)

    def make(self, application: type[Application], tls: str, *, password: str = "") -> Application:
        directory = Path(tempfile.mkdtemp(prefix="application-of-a-test-"))
        self.addCleanup(shutil.rmtree, directory)
        ports = {"none": self.postfix.port, "implicit": self.postfix.tls_port, "starttls": self.postfix.auth_port}
        variables = {"SMTP_TLS": tls, "SMTP_PORT": str(ports[tls])}
        if tls == "starttls":
            variables |= {"SMTP_USER": self.postfix.user, "SMTP_PASSWORD": password or self.postfix.password}
        places = {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": str(self.postfix.ca_file)}
        return application(directory, os.environ | variables | places)

    def test_buildbot_in_plain_text(self) -> None:
        self.deliver(Buildbot, "none")

    def test_buildbot_with_starttls_and_credentials(self) -> None:
        self.deliver(Buildbot, "starttls")

    def test_buildbot_over_smtps(self) -> None:
        self.deliver(Buildbot, "implicit")

    def test_scrapy_in_plain_text(self) -> None:
        self.deliver(Scrapy, "none")

    def test_scrapy_with_starttls_and_credentials(self) -> None:
        self.deliver(Scrapy, "starttls")

    def test_scrapy_over_smtps(self) -> None:
        self.deliver(Scrapy, "implicit")

    def test_synapse_in_plain_text(self) -> None:
        self.deliver(Synapse, "none")

    def test_synapse_with_starttls_and_credentials(self) -> None:
        self.deliver(Synapse, "starttls")

    def test_synapse_over_smtps(self) -> None:
        self.deliver(Synapse, "implicit")

    def test_a_wrong_password_reaches_the_application_as_the_exception_that_it_knows(self) -> None:
        printed = self.make(Synapse, "starttls", password="wrong").run("synapse_email.py")
        self.assertIn("AUTHDeclinedError: 535 5.7.8", printed)
        self.assertTrue(printed.endswith(" 1"), printed)

    def test_an_application_tells_of_a_failure_in_its_own_words(self) -> None:
        printed = self.make(Scrapy, "starttls", password="wrong").run("scrapy_crawl.py")
        self.assertIn("Unable to send mail: To=['bob@example.org', 'carol@example.org']", printed)
        self.assertIn("- 535 5.7.8", printed)

"""
Our relay as a process of its own, started as a user starts it.

    relay = Relay.start(self, "*=smtp://127.0.0.1:10025?tls=none")     # stopped when the test ends
    smtplib.SMTP(relay.host, relay.port)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from attrs import Factory, define, field
from twisted.trial.unittest import SynchronousTestCase

from tests import peers

_STOP_WITHIN_S = 15
"""The relay gives itself 10 s for what is under way."""


@define(kw_only=True)
class Relay:
    """
    See the module's head.

    @ivar root: its working directory, with its spool in C{var/spool.sqlite}.
    """

    root: Path
    routes: tuple[str, ...]
    environment: dict[str, str]
    host: str = "127.0.0.1"
    port: int = Factory(peers.free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @classmethod
    def start(
        cls,
        test: SynchronousTestCase,
        *routes: str,
        host: str = "127.0.0.1",
        dns: tuple[str, int] | None = None,
        **variables: str,
    ) -> Relay:
        """
        Start one for this test.

        @param routes: C{PATTERN=TARGET} each.
        @param host: where it listens, which no mail is sent to by C{mx:}.
        @param dns: the name server to ask, not the machine's.
        @param variables: for its environment, besides ours.
        """
        root = Path(tempfile.mkdtemp(prefix="relay-of-a-test-"))
        relay = cls(root=root, routes=routes, environment=os.environ | variables, host=host)
        test.addCleanup(shutil.rmtree, relay.root)
        test.addCleanup(relay.stop)
        (relay.root / "var").mkdir()
        relay.configuration.write_text(f'[dns]\nservers = ["{dns[0]}:{dns[1]}"]\n' if dns else "")
        relay.run()
        return relay

    def run(self) -> None:
        """Start the process, on the spool that is there, and wait until it listens."""
        twistd = Path(sysconfig.get_path("scripts")) / "twistd"
        routes = [word for route in self.routes for word in ("--route", route)]
        self._process = subprocess.Popen(
            [
                twistd, "--nodaemon", "--pidfile=", "pymail-tx", "--hostname", "relay.example.net",
                "--config", self.configuration, "--smtp", f"tcp:{self.port}:interface={self.host}", *routes,
            ],
            cwd=self.root, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=self._log.open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        peers.eventually("the relay listening", self._is_up)

    @property
    def configuration(self) -> Path:
        """Its file; options go before it."""
        return self.root / "relay.toml"

    def stop(self) -> None:
        """End it as an operator does."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.root / "log"

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"the relay ended\n{self.log}")
        return peers.is_listening(self.port, self.host)

"""
A Dovecot of the test's own that takes mail by LMTP, over TCP and over a Unix
socket, into a maildir for each user.

    dovecot = Dovecot.start(self)          # stopped when the test ends
    dovecot.url, dovecot.unix_url          # as a target
    dovecot.messages("ann")                # what is in ann's mailbox

It knows C{ann} and C{bob}, whatever the domain. Anybody else it refuses (550
5.1.1).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from attrs import Factory, define
from twisted.trial.unittest import SynchronousTestCase

from tests import peers

USERS = ("ann", "bob")

_CONF = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
protocols = lmtp
ssl = no
default_internal_user = dovecot
mail_location = maildir:{root}/mail/%n
first_valid_uid = 1
postmaster_address = postmaster@example.com
auth_username_format = %n
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  unix_listener {root}/lmtp {{
    mode = 0666
  }}
}}
"""


@define(kw_only=True)
class Dovecot:
    """See the module's head."""

    root: Path
    port: int = Factory(peers.free_port)
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, test: SynchronousTestCase) -> Dovecot:
        """
        Start one for this test.

        @raise SkipTest: it cannot be started here.
        """
        peers.require("dovecot", "lmtp")
        dovecot = cls(root=Path(tempfile.mkdtemp(prefix="dovecot-")))
        test.addCleanup(dovecot.stop)
        dovecot._configure()
        dovecot._run()
        return dovecot

    def stop(self) -> None:
        """End it with the processes that it started, and remove the files."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def url(self) -> str:
        """As a target, over TCP."""
        return f"lmtp://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """As a target, over the Unix socket."""
        return f"lmtp+unix://{self.root}/lmtp"

    @property
    def log(self) -> str:
        """What it logged so far."""
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    def messages(self, user: str) -> list[bytes]:
        """In this user's mailbox, oldest first, with the lines that Dovecot adds to the header."""
        files = sorted((self.root / "mail" / user / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes() for path in files]

    def _configure(self) -> None:
        self.root.chmod(0o755)
        nobody = pwd.getpwnam("nobody")
        mail = self.root / "mail"
        mail.mkdir()
        os.chown(mail, nobody.pw_uid, nobody.pw_gid)
        (self.root / "run").mkdir()
        lines = [f"{user}::{nobody.pw_uid}:{nobody.pw_gid}::{mail}/{user}::\n" for user in USERS]
        (self.root / "users").write_text("".join(lines))
        (self.root / "conf").write_text(_CONF.format(root=self.root, port=self.port))

    def _run(self) -> None:
        # setpriv ends it with its parent, should that be killed before stop().
        words = [peers.command("setpriv"), "--pdeathsig", "TERM", peers.command("dovecot"), "-F"]
        self._process = subprocess.Popen(
            [*words, "-c", str(self.root / "conf")], start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=(self.root / "stderr").open("ab"),
        )  # fmt: skip
        peers.eventually("Dovecot up", self._is_up)

    def _is_up(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise AssertionError(f"Dovecot ended\n{(self.root / 'stderr').read_text()}{self.log}")
        return (self.root / "lmtp").exists() and peers.is_listening(self.port)

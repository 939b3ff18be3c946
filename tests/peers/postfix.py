"""
A Postfix of the test's own: real smtpd, real queue, real delivery.

    postfix = Postfix.start(self)          # stopped when the test ends
    smtplib.SMTP(postfix.host, postfix.port)
    postfix.await_messages(1)              # what virtual(8) put into its maildir
    postfix.await_queue(1)                 # what `postqueue -j` lists

It takes mail for C{anyone@example.org}, into one maildir, and for
C{anyone@held.example}, which stays in its queue, on hold. Any other domain it
refuses (554 5.7.1), and it has no smtp(8) with which anything could leave.

It listens at four ports, one for each way in:

  - C{port}: plain text, TLS not offered.
  - C{starttls_port}: STARTTLS offered, the certificate as below.
  - C{tls_port}: TLS from the first octet (RFC 8314).
  - C{auth_port}: STARTTLS, then AUTH (PLAIN, LOGIN, or the mechanisms it is
    started with), asked of a Dovecot of its own; without AUTH no recipient is
    taken. Dovecot takes the password, and the tokens that L{Postfix.token} signs.

The certificate is for C{localhost} and C{127.0.0.1}, of the authority whose
certificate stands in the file C{ca_file}.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NotRequired, TypedDict

from attrs import Factory, define, field
from twisted.trial.unittest import SynchronousTestCase

from tests import peers

MAX_LIFE_S = 600
"""Postfix ends itself then, whatever became of the test."""

_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {root}/log
maillog_file_prefixes = {root}
myhostname = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
mynetworks =
alias_maps =
alias_database =
local_recipient_maps =
notify_classes =
biff = no
smtpd_peername_lookup = no
smtpd_error_sleep_time = 0
default_transport = error:nothing leaves this server
relay_transport = error:nothing leaves this server
virtual_mailbox_domains = example.org, held.example
virtual_mailbox_maps = static:inbox/
virtual_mailbox_base = {root}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
relay_domains =
smtpd_recipient_restrictions = reject_unauth_destination, check_recipient_access inline:{{ held.example=HOLD }}
smtpd_relay_restrictions =
smtpd_tls_received_header = yes
smtpd_tls_security_level = none
smtpd_tls_cert_file = {root}/certificate.pem
smtpd_tls_key_file = {root}/key.pem
smtpd_sasl_type = dovecot
smtpd_sasl_path = {root}/dovecot/auth
smtpd_sasl_security_options = noanonymous
"""

_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{starttls_port} inet n - n - - smtpd
  -o smtpd_tls_security_level=may
127.0.0.1:{tls_port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
127.0.0.1:{auth_port} inet n - n - - smtpd
  -o smtpd_tls_security_level=may
  -o smtpd_tls_auth_only=yes
  -o smtpd_sasl_auth_enable=yes
  -o {{ smtpd_recipient_restrictions = reject_unauth_destination, permit_sasl_authenticated, reject }}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

# Without a state_dir of its own it would wait for a lock of all on the machine, which a killed one leaves behind.
_DOVECOT_CONF = """\
base_dir = {root}/dovecot/run
state_dir = {root}/dovecot/run
log_path = {root}/dovecot/log
protocols =
ssl = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {root}/dovecot/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {root}/dovecot/oauth2
}}
service auth {{
  unix_listener {root}/dovecot/auth {{
    mode = 0666
  }}
}}
"""

_OAUTH2_CONF = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={root}/dovecot/keys/
"""
"""Dovecot judges tokens by the key with which they are signed, without asking anybody."""

_TOKEN_KEY = b"a key of the tests, as long as SHA-256 wants it"
_TOKEN_KEY_DIRECTORIES = ("dovecot/keys", "dovecot/keys/default", "dovecot/keys/default/HS256")

_FILES = {
    "etc/main.cf": _MAIN_CF,
    "etc/master.cf": _MASTER_CF,
    "dovecot/conf": _DOVECOT_CONF,
    "dovecot/oauth2": _OAUTH2_CONF,
}

_QUEUE = {
    **dict.fromkeys(("active", "bounce", "corrupt", "defer", "deferred", "flush"), ("postfix", 0o700)),
    **dict.fromkeys(("hold", "incoming", "private", "saved", "trace"), ("postfix", 0o700)),
    "maildrop": ("postfix", 0o730),
    "public": ("postfix", 0o710),
    "pid": ("root", 0o755),
}
"""The queue's directories, their owners and modes. As C{postfix check} makes them."""


class Queued(TypedDict):
    """One line of C{postqueue -j}, as far as tests look at it."""

    queue_name: str
    queue_id: str
    sender: str
    recipients: list[dict[str, str]]
    message_size: NotRequired[int]


@define(kw_only=True)
class Postfix:
    """See the module's head."""

    root: Path
    host: str = "127.0.0.1"
    port: int = Factory(peers.free_port)
    starttls_port: int = Factory(peers.free_port)
    tls_port: int = Factory(peers.free_port)
    auth_port: int = Factory(peers.free_port)
    user: str = "ann"
    password: str = "correct horse"
    mechanisms: str = "plain login"
    _processes: list[subprocess.Popen[bytes]] = field(factory=list)

    @classmethod
    def start(cls, test: SynchronousTestCase, *, mechanisms: str = "plain login") -> Postfix:
        """
        Start one for this test.

        @param mechanisms: of SASL, as Dovecot's C{auth_mechanisms} has them.
        @raise SkipTest: Postfix or Dovecot cannot be started here.
        """
        peers.require("postfix", "dovecot")
        postfix = cls(root=Path(tempfile.mkdtemp(prefix="postfix-of-a-test-")), mechanisms=mechanisms)
        test.addCleanup(postfix.stop)
        postfix._configure()
        postfix._run()
        return postfix

    def stop(self) -> None:
        """End what was started, each process with those that it started, and remove the files."""
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)  # none of their files outlives the test; SIGTERM takes Dovecot 1 s
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def ca_file(self) -> Path:
        """The authority's certificate, for SSL_CERT_FILE."""
        return self.root / "ca.pem"

    @property
    def log(self) -> str:
        """What Postfix and Dovecot logged so far."""
        paths = [self.root / "log", self.root / "dovecot" / "log"]
        return "".join(path.read_text() for path in paths if path.exists())

    def token(self, *, valid_s: float = 3_600) -> str:
        """A token for C{user} (RFC 7519), expired if C{valid_s} is negative."""
        now = int(time.time())
        claims = {"sub": self.user, "email": self.user, "iat": now - 7_200, "exp": now + int(valid_s)}
        signed = ".".join(_part(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "HS256"}, claims))
        return f"{signed}.{_part(hmac.digest(_TOKEN_KEY, signed.encode(), 'sha256'))}"

    def messages(self) -> list[bytes]:
        """The messages in the mailbox, oldest first, lines ending in LF as virtual(8) writes them."""
        return peers.maildir_messages(self.root / "mail" / "inbox")

    def queue(self) -> list[Queued]:
        """The messages in the queue, held ones included."""
        asked = [peers.command("postqueue"), "-c", str(self.root / "etc"), "-j"]
        listed = subprocess.run(asked, capture_output=True, check=True, timeout=30)
        return [json.loads(line) for line in listed.stdout.splitlines()]

    def await_messages(self, count: int) -> list[bytes]:
        """Wait until so many messages are in the mailbox."""
        try:
            return peers.eventually(f"{count} messages", lambda: len(here := self.messages()) >= count and here) or []
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log}") from None

    def await_queue(self, count: int) -> list[Queued]:
        """Wait until so many messages are in the queue."""
        try:
            return peers.eventually(f"{count} queued", lambda: len(here := self.queue()) >= count and here) or []
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log}") from None

    def _configure(self) -> None:
        self.root.chmod(0o755)  # Postfix's processes run as other users
        for directory in ("etc", "queue", "dovecot", "dovecot/run", *_TOKEN_KEY_DIRECTORIES):
            (self.root / directory).mkdir()
        _make_directory(self.root / "data", "postfix", 0o700)
        _make_directory(self.root / "mail", "nobody", 0o755)
        for directory, (owner, mode) in _QUEUE.items():
            _make_directory(self.root / "queue" / directory, owner, mode)
        self._write_configuration()
        peers.write_certificate(self.root)

    def _write_configuration(self) -> None:
        nobody = pwd.getpwnam("nobody")
        facts = {name: getattr(self, name) for name in ("root", "port", "starttls_port", "tls_port", "auth_port")}
        facts |= {"uid": nobody.pw_uid, "gid": nobody.pw_gid, "mechanisms": self.mechanisms}
        for path, text in _FILES.items():
            (self.root / path).write_text(text.format_map(facts))
            os.utime(self.root / path, (0, 0))  # Postfix waits 2 s before it believes a file as young as this
        (self.root / _TOKEN_KEY_DIRECTORIES[-1] / "default").write_bytes(base64.b64encode(_TOKEN_KEY))
        users = self.root / "dovecot" / "users"
        users.write_text(f"{self.user}:{self.password}\n")
        users.chmod(0o644)

    def _run(self) -> None:
        etc = str(self.root / "etc")
        asked = [peers.command("postconf"), "-c", etc, "-h", "daemon_directory"]
        master = Path(subprocess.run(asked, capture_output=True, check=True, timeout=30, text=True).stdout.strip())
        self._spawn(peers.command("dovecot"), "-F", "-c", str(self.root / "dovecot" / "conf"))
        self._spawn(str(master / "master"), "-c", etc, "-d", "-e", str(MAX_LIFE_S))
        peers.eventually("Postfix and Dovecot up", self._is_up)

    def _spawn(self, *words: str) -> None:
        # setpriv ends it with its parent, should that be killed before stop().
        self._processes.append(
            subprocess.Popen(
                [peers.command("setpriv"), "--pdeathsig", "TERM", *words], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.root / "stderr").open("ab"),
            )
        )  # fmt: skip

    def _is_up(self) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended\n{(self.root / 'stderr').read_text()}{self.log}")
        return (self.root / "dovecot" / "auth").exists() and peers.is_listening(self.auth_port)


def _part(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def _make_directory(path: Path, owner: str, mode: int) -> None:
    path.mkdir()
    user = pwd.getpwnam(owner)
    os.chown(path, user.pw_uid, user.pw_gid)
    path.chmod(mode)

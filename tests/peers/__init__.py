"""
Real mail servers and clients for the tests, as Debian packages them.

Each runs on loopback, with a configuration, files and ports of its own, and
ends with the test that started it. `tests/peers/install` installs the
packages. Without them a test is skipped and says why; where everything must
be tested (C{CI=true}) it fails instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trustme
from twisted.trial.unittest import SkipTest

_T = TypeVar("_T")

_SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/dovecot"

UNPACKED = Path("/var/lib/pymail-tx-peers")
"""Where C{tests/peers/install} unpacks what cannot be installed beside Postfix; a folder for each package."""

_UNPACKED = frozenset({"exim4-daemon-light", "opensmtpd"})

_NEEDS_ROOT = frozenset({"postfix", "dovecot", "lmtp"}) | _UNPACKED
"""They start as root and give the right up themselves."""


def require(*peers: str) -> None:
    """
    Skip the running test unless every peer can be used here.

    @param peers: names of commands: C{"postfix"}, C{"dovecot"}, C{"swaks"}; or
        of packages: C{"exim4-daemon-light"}, C{"opensmtpd"}.
    @raise SkipTest: one cannot, and this is not CI.
    """
    for peer in peers:
        problem = _problem(peer)
        if problem and os.environ.get("CI") == "true":
            raise AssertionError(f"NOT TESTED, and CI has to: {problem}")
        if problem:
            raise SkipTest(f"NOT TESTED: {problem}")


def command(peer: str) -> str:
    """The path of a peer's command."""
    path = shutil.which(peer, path=_SYSTEM_PATH)
    if path is None:
        raise FileNotFoundError(peer)
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server takes connections at that port."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def eventually(what: str, look: Callable[[], _T], *, within_s: float = 20) -> _T:
    """
    Look until there is something true to see, and return it.

    @param what: what is waited for, for the error.
    @raise AssertionError: not within that time.
    """
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(0.02)
    return seen


def maildir_messages(maildir: Path) -> list[bytes]:
    """The new messages in a maildir, oldest first."""
    files = sorted((maildir / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return [path.read_bytes() for path in files]


def write_certificate(directory: Path) -> None:
    """
    Make a certificate for C{localhost} and C{127.0.0.1}: C{certificate.pem} and
    C{key.pem}, of the authority in C{ca.pem}.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(directory / "certificate.pem"), append=True)


def _is_here(peer: str) -> bool:
    if peer in _UNPACKED:
        return (UNPACKED / peer).is_dir()
    return shutil.which(peer, path=_SYSTEM_PATH) is not None


def _problem(peer: str) -> str:
    if not _is_here(peer):
        return f"{peer} is not installed (as root on Debian, tests/peers/install does it)"
    if peer in _NEEDS_ROOT and os.geteuid() != 0:
        return f"{peer} can only be started by root"
    return ""

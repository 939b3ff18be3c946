"""
An OpenSMTPD of the test's own: real smtpd, real queue, real delivery.

    server = OpenSMTPD.start(self)    # stopped when the test ends
    server.await_messages(1)          # what it put into its maildir

It takes mail for C{anyone@example.org}, up to 100 KiB a message, and refuses
every other domain (550). It offers neither PIPELINING nor CHUNKING, and no TLS:
Debian's 6.8 does not find its key with OpenSSL 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from attrs import define

from tests.peers.jail import Jailed

_DAEMON, _QUEUE, _BOB = 60_001, 60_002, 60_003

_CONFIGURATION = """\
smtp max-message-size "100K"
table users {{ "@" = "bob" }}
listen on 127.0.0.1 port {port} hostname mx.example.org
action "inbox" maildir "/mail" virtual <users>
match from any for domain "example.org" action "inbox"
"""


@define(kw_only=True)
class OpenSMTPD(Jailed):
    """See the module's head."""

    package: ClassVar[str] = "opensmtpd"
    words: ClassVar[tuple[str, ...]] = ("/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")
    files: ClassVar[Mapping[str, str]] = {"etc/smtpd.conf": _CONFIGURATION, "etc/mailname": "mx.example.org\n"}
    users: ClassVar[Mapping[str, int]] = {"opensmtpd": _DAEMON, "opensmtpq": _QUEUE, "bob": _BOB}
    directories: ClassVar[Mapping[str, tuple[int, int]]] = {
        "run": (0, 0o755),
        "var/run": (0, 0o755),
        "tmp": (0, 0o1777),
        "var/spool/smtpd": (0, 0o711),
        "var/lib/opensmtpd/empty": (0, 0o755),
        "mail": (_BOB, 0o700),
    }

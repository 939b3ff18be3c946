"""
An Exim of the test's own: real smtpd, real delivery.

    exim = Exim.start(self)          # stopped when the test ends
    exim.await_messages(1)           # what it put into its maildir

It takes mail for C{anyone@example.org}, up to 100 KiB a message, and refuses
every other domain (550). Where it does not say otherwise, it offers PIPELINING,
PIPECONNECT, CHUNKING and 8BITMIME. It listens at three ports:

  - C{port}: plain text, TLS not offered.
  - C{data_port}: the same without CHUNKING and PIPECONNECT.
  - C{starttls_port}: STARTTLS offered, PIPECONNECT not; its certificate is of
    the authority in the file C{ca_file}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from attrs import Factory, define

from tests import peers
from tests.peers.jail import Jailed

_EXIM = 60_001

_CONFIGURATION = """\
primary_hostname = mx.example.org
exim_path = /usr/sbin/exim4
spool_directory = /spool
log_file_path = /log/%s
pid_file_path = /spool/pid
never_users =
deliver_drop_privilege = true
keep_environment =
timezone = UTC
disable_ipv6 = true
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {data_port} : {starttls_port}
smtp_accept_queue_per_connection = 0
rfc1413_query_timeout = 0s
message_size_limit = 100K
pipelining_connect_advertise_hosts = ${{if eq{{$received_port}}{{{port}}}{{*}}{{}}}}
chunking_advertise_hosts = ${{if eq{{$received_port}}{{{data_port}}}{{}}{{*}}}}
tls_advertise_hosts = ${{if eq{{$received_port}}{{{starttls_port}}}{{*}}{{}}}}
tls_certificate = /etc/certificate.pem
tls_privatekey = /etc/key.pem
acl_smtp_rcpt = recipients
acl_smtp_data = accept

begin acl
recipients:
  accept domains = example.org
  deny message = nobody here

begin routers
everybody:
  driver = accept
  transport = mailbox

begin transports
mailbox:
  driver = appendfile
  directory = /mail
  maildir_format
  message_prefix =
  message_suffix =
  user = Debian-exim
"""


@define(kw_only=True)
class Exim(Jailed):
    """See the module's head."""

    package: ClassVar[str] = "exim4-daemon-light"
    words: ClassVar[tuple[str, ...]] = ("/usr/sbin/exim4", "-C", "/etc/exim4.conf", "-bdf")
    files: ClassVar[Mapping[str, str]] = {"etc/exim4.conf": _CONFIGURATION}
    users: ClassVar[Mapping[str, int]] = {"Debian-exim": _EXIM}
    directories: ClassVar[Mapping[str, tuple[int, int]]] = {"spool": (_EXIM, 0o750), "mail": (_EXIM, 0o700)}

    data_port: int = Factory(peers.free_port)
    starttls_port: int = Factory(peers.free_port)

    @property
    def ca_file(self) -> Path:
        """The authority's certificate."""
        return self.root / "etc" / "ca.pem"

    def _write_files(self) -> None:
        super()._write_files()
        peers.write_certificate(self.root / "etc")

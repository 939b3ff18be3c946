"""
DNS of the test's own: a real bind9 that is the authority for every name there
is, the root included, and a real unbound before it that validates from the
root's key.

    zones = Zones.start(self, Zone("example.test", "@ MX 10 mx\\nmx A 127.0.0.2"))
    resolver = Resolver(reactor, servers=[zones.resolver])

A test gives the zones, as text in the form of RFC 1035 §5, without SOA and NS:
names are relative to the zone's, C{@} is the zone, and TTLs are 300 s where none
is written. L{Signing} says how each is signed. A name in none of them does not
exist, and that is proved as well; nothing is asked outside of loopback.

A TLSA record for a certificate of the test:

    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    Zone("example.test", f"@ MX 10 mx\\nmx A 127.0.0.2\\n_25._tcp.mx TLSA 3 1 1 {digest}")

With the name of the port that the server really has, such as C{_2525._tcp.mx},
if it is asked for under that.

To start takes about half a second. Tests that ask for the same zones can share
one (L{Zones.shared}), which ends with the process; trial has nothing that
belongs to a class of tests.
"""

from __future__ import annotations

import atexit
import enum
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
from attrs import Factory, define, field, frozen
from twisted.trial.unittest import SynchronousTestCase

from tests import peers

HOST = "127.0.0.1"

_SERIAL = 1


class Signing(enum.Enum):
    """
    What DNSSEC makes of a zone, through the validating server:

    C{SIGNED}: answers are authenticated, denials too. C{UNSIGNED}: its parent
    proves that it is not signed, so answers are good and not authenticated.
    C{EXPIRED}: it was signed for January 2020 only; every answer is bogus.
    C{TAMPERED}: no signature in it fits but those of its keys; every answer is
    bogus. C{BROKEN}: its authority answers SERVFAIL.
    """

    SIGNED = "signed"
    UNSIGNED = "unsigned"
    EXPIRED = "expired"
    TAMPERED = "tampered"
    BROKEN = "broken"


@frozen
class Zone:
    """
    @ivar name: without a trailing dot.
    @ivar records: see the module's head.
    @ivar tampered: names in it, written out in full without a trailing dot,
        whose signatures alone do not fit.
    """

    name: str
    records: str
    signing: Signing = Signing.SIGNED
    tampered: frozenset[str] = frozenset()

    @property
    def is_signed(self) -> bool:
        """Whether its parent has a DS record for it."""
        return self.signing not in (Signing.UNSIGNED, Signing.BROKEN)

    @property
    def text(self) -> str:
        """The zone's file, before it is signed."""
        if self.signing is Signing.BROKEN:
            return "a zone file that cannot be read\n"
        head = f"$ORIGIN {self.name.strip('.')}.\n$TTL 300\n@ SOA ns. hostmaster. {_SERIAL} 3600 600 86400 60\n"
        return f"{head}@ NS ns.\n{self.records}\n"


_NAMED = """\
options {{
    directory "{directory}"; pid-file none; lock-file none; session-keyfile none;
    listen-on port {authority_port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; empty-zones-enable no; notify no;
    max-udp-size 1232; minimal-responses yes;
    check-names primary ignore; check-mx-cname ignore; check-integrity no;
}};
controls {{ }};
"""

_UNBOUND = """\
server:
    directory: "{directory}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    interface: 127.0.0.1
    port: {resolver_port}
    do-ip6: no
    do-not-query-localhost: no
    local-zone: "test." nodefault
    module-config: "validator iterator"
    trust-anchor-file: "{directory}/anchor"
    trust-anchor-signaling: no
    qname-minimisation: no
    val-log-level: 2
    ede: {ede}
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: 127.0.0.1@{authority_port}
"""


@define(kw_only=True)
class Zones:
    """
    See the module's head.

    @ivar zones: what was asked for.
    @ivar says_why: the resolver's SERVFAIL carries an Extended DNS Error (RFC
        8914), which Debian's unbound does only when told to.
    """

    _shared: ClassVar[dict[tuple[tuple[Zone, ...], bool], Zones]] = {}

    zones: Sequence[Zone]
    says_why: bool = False
    _directory: Path = Factory(lambda: Path(tempfile.mkdtemp(prefix="dns-of-a-test-")))
    _authority_port: int = Factory(lambda: _free_port())
    _resolver_port: int = Factory(lambda: _free_port())
    _processes: list[subprocess.Popen[bytes]] = field(factory=list)

    @classmethod
    def start(cls, test: SynchronousTestCase, *zones: Zone, says_why: bool = False) -> Zones:
        """
        Start one for this test; it is stopped when the test ends.

        @raise SkipTest: it cannot be started here.
        """
        peers.require("named", "dnssec-signzone", "unbound", "setpriv")
        started = cls(zones=zones, says_why=says_why)
        test.addCleanup(started.stop)
        started._run()
        return started

    @classmethod
    def shared(cls, *zones: Zone, says_why: bool = False) -> Zones:
        """
        One with these zones, started if there is none; it ends with the process.

        @raise SkipTest: it cannot be started here.
        """
        peers.require("named", "dnssec-signzone", "unbound", "setpriv")
        if (zones, says_why) not in cls._shared:
            started = cls(zones=zones, says_why=says_why)
            atexit.register(started.stop)
            started._run()
            cls._shared[zones, says_why] = started
        return cls._shared[zones, says_why]

    @property
    def resolver(self) -> tuple[str, int]:
        """Host and port of the validating resolver, UDP and TCP."""
        return HOST, self._resolver_port

    @property
    def authority(self) -> tuple[str, int]:
        """Host and port of the authority, which neither validates nor asks others."""
        return HOST, self._authority_port

    @property
    def log(self) -> str:
        """What the servers said so far."""
        return "".join(path.read_text(errors="backslashreplace") for path in sorted(self._directory.glob("*.log")))

    def stop(self) -> None:
        """End the servers and remove the files."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self) -> None:
        self._write_zones()
        ports = {"authority_port": self._authority_port, "resolver_port": self._resolver_port}
        values = {**ports, "directory": self._directory, "ede": "yes" if self.says_why else "no"}
        listed = "".join(
            f'zone "{name or "."}" {{ type primary; file "{_file(name)}.zone"; }};\n' for name in self._names()
        )
        (self._directory / "named.conf").write_text(_NAMED.format_map(values) + listed)
        (self._directory / "unbound.conf").write_text(_UNBOUND.format_map(values))
        self._start("named", "-g", "-n", "1", "-c", str(self._directory / "named.conf"), port=self._authority_port)
        self._start("unbound", "-d", "-c", str(self._directory / "unbound.conf"), port=self._resolver_port)

    def _names(self) -> list[str]:
        return ["", *(zone.name for zone in self.zones)]

    def _write_zones(self) -> None:
        with ThreadPoolExecutor() as pool:
            secured = list(pool.map(self._write_zone, self.zones))
        delegations = [f"{zone.name}. NS ns.\n{ds}" for zone, ds in zip(self.zones, secured, strict=True)]
        self._write_zone(Zone("", f"ns. A {HOST}\n" + "".join(delegations)))
        (self._directory / "anchor").write_text((self._directory / "root.ds").read_text())

    def _write_zone(self, zone: Zone) -> str:
        """
        @return: the DS records for its parent.
        """
        path = self._directory / f"{_file(zone.name)}.zone"
        path.write_text(zone.text)
        if not zone.is_signed:
            return ""
        origin = f"{zone.name}."
        key = self._tool("dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", origin).strip()
        path.write_text(zone.text + (self._directory / f"{key}.key").read_text())
        when = ["-s", "20200101000000", "-e", "20200201000000"] if zone.signing is Signing.EXPIRED else []
        self._tool(
            "dnssec-signzone", "-q", "-z", "-P", "-O", "full", "-o", origin, *when, "-f", str(path), str(path), key
        )
        path.write_text("".join(_tampered(line, zone) for line in path.read_text().splitlines(keepends=True)))
        ds = self._tool("dnssec-dsfromkey", "-2", f"{key}.key")
        (self._directory / f"{_file(zone.name)}.ds").write_text(ds)
        return ds

    def _tool(self, name: str, *arguments: str) -> str:
        run = subprocess.run(
            [peers.command(name), *arguments],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if run.returncode:
            raise AssertionError(f"{name}: {run.stderr}")
        return run.stdout

    def _start(self, name: str, *arguments: str, port: int) -> None:
        # setpriv ends it with its parent, should that be killed before stop().
        words = [peers.command("setpriv"), "--pdeathsig", "KILL", peers.command(name), *arguments]
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(words, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)
        try:
            peers.eventually(f"{name} up", lambda: process.poll() is not None or self._answers(port))
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log}") from None
        if process.poll() is not None:
            raise AssertionError(f"{name} ended\n{self.log}")

    def _answers(self, port: int) -> bool:
        question = dns.message.make_query(".", "SOA", want_dnssec=True)
        try:
            answer = dns.query.udp(question, HOST, port=port, timeout=0.2)
        except (dns.exception.DNSException, OSError):
            return False
        return answer.rcode() == dns.rcode.NOERROR and bool(answer.flags & (dns.flags.AD | dns.flags.AA))


def _file(name: str) -> str:
    return name or "root"


def _tampered(line: str, zone: Zone) -> str:
    """The line of a signed zone's file, its signature spoilt if it is to be."""
    words = line.split()
    if "RRSIG" not in words[3:4] or words[4] == "DNSKEY":
        return line
    if zone.signing is not Signing.TAMPERED and words[0].rstrip(".") not in zone.tampered:
        return line
    signature = words[-1]
    return line.replace(signature, ("B" if signature.startswith("A") else "A") + signature[1:])


def _free_port() -> int:
    """A port of loopback that is free in UDP and in TCP."""
    while True:
        port = peers.free_port()
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port

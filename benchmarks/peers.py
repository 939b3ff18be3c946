"""
The processes of a benchmark: servers that run while it measures, senders that it measures.

Everything listens on 127.0.0.1 at a free port, is ended by its own process id, and ends with the benchmark should that
be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, TypedDict

import trustme
from attrs import frozen
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests import peers
from tests.peers.exim import Exim
from tests.peers.postfix import Postfix

HERE = Path(__file__).parent
BENCH_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
"""With aiosmtplib and uvloop; C{make bench} makes it."""

LIMIT_S = 300
"""For one measurement."""

NEXT_STEP = "The benchmark needs Postfix's smtp-sink and smtp-source: as root on Debian or Ubuntu, apt install postfix"

_HEADER = (
    b"From: <ann@example.net>\r\nTo: <bob@example.org>\r\n"
    b"Date: Tue, 24 Nov 2026 05:01:25 +0000 (UTC)\r\nMessage-Id: <4cef.0003.0002@example.net>\r\n\r\n"
)
"""The fields that smtp-source writes."""

_LINE = b"X" * 78 + b"\r\n"


def message(octets: int) -> bytes:
    """A message with a body of so many octets, as C{smtp-source -l} sends it."""
    body = _LINE * (octets // len(_LINE) + 1)
    return _HEADER + body[: octets - 2] + b"\r\n"


class NotHere(Exception):
    """A peer cannot be used on this machine; the text says why."""


class Measured(TypedDict):
    """What a sender says of itself, in seconds and KiB."""

    elapsed_s: float
    cpu_s: float
    peak_kib: int


@frozen
class Server:
    """
    A running server.

    @ivar output: what it prints after its port.
    """

    port: int
    pid: int
    output: IO[bytes]


def require_postfix_tools() -> None:
    """
    @raise NotHere: smtp-sink or smtp-source is missing.
    """
    try:
        for tool in ("smtp-sink", "smtp-source", "postconf", "setpriv"):
            peers.command(tool)
    except FileNotFoundError:
        raise NotHere(NEXT_STEP) from None


def versions() -> str:
    """Of what is measured beside."""
    asked = [peers.command("postconf"), "-d", "-h", "mail_version"]
    postfix_version = subprocess.run(asked, capture_output=True, check=True, timeout=30, text=True).stdout.strip()
    path = [str(packages) for packages in BENCH_PYTHON.parents[1].glob("lib/python*/site-packages")]
    found = [distributions(name=name, path=path) for name in ("aiosmtplib", "uvloop")]
    others = [f"{one.name} {one.version}" for several in found for one in several]
    return ", ".join([f"Postfix {postfix_version}", *others])


# Servers


@contextlib.contextmanager
def smtp_sink() -> Iterator[Server]:
    """
    Postfix's sink. It announces PIPELINING by itself, writes nothing down, and takes more sessions than it will see.
    """
    port = peers.free_port()
    user = ("--reuid", "nobody", "--regid", "nogroup", "--clear-groups") if os.geteuid() == 0 else ()
    words = [peers.command("smtp-sink"), "-4", "-m", "1024", f"127.0.0.1:{port}", "1024"]
    with _running(words, user=user) as process:
        peers.eventually("smtp-sink listening", lambda: peers.is_listening(port))
        yield Server(port, process.pid, _output(process))


@contextlib.contextmanager
def delay_proxy(to_port: int, delay_ms: float) -> Iterator[Server]:
    """See C{delay_proxy.py}."""
    with _own_server("delay_proxy", "--to", str(to_port), "--delay-ms", str(delay_ms)) as server:
        yield server


@contextlib.contextmanager
def receiver(*options: str) -> Iterator[Server]:
    """See C{receiver.py}."""
    with _own_server("receiver", *options) as server:
        yield server


@contextlib.contextmanager
def of_tests(server: type[Exim] | type[Postfix]) -> Iterator[int]:
    """
    A real server, one of the tests'; gives its port for plain text.

    @raise NotHere: it cannot be started.
    """
    owner = SynchronousTestCase()
    try:
        yield server.start(owner).port
    except SkipTest as problem:
        raise NotHere(str(problem)) from None
    finally:
        owner.doCleanups()


@contextlib.contextmanager
def certificate() -> Iterator[Path]:
    """A file with a key and a certificate for localhost."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = Path(directory) / "certificate.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
        yield path


@contextlib.contextmanager
def _own_server(name: str, *options: str) -> Iterator[Server]:
    with _running(_python(name, *options)) as process:
        output = _output(process)
        yield Server(int(output.readline()), process.pid, output)


@contextlib.contextmanager
def _running(
    words: Sequence[str], *, user: Sequence[str] = (), content: bytes = b""
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts, C{LIMIT_S} at most: whoever reads its output is not kept for ever."""
    with tempfile.TemporaryFile() as given:
        given.write(content)
        given.seek(0)
        setpriv = [peers.command("setpriv"), *user, "--pdeathsig", "TERM"]
        process = subprocess.Popen([*setpriv, *words], cwd=HERE.parent, stdin=given, stdout=subprocess.PIPE)
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        _output(process).close()
        process.wait(10)


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout
    return process.stdout


def _python(name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}", *options]


# Senders


def agent(port: int, messages: int, connections: int, content: bytes) -> Measured:
    """Our agent. See C{sender.py}."""
    return _measured(_agent(port, messages, connections), content)


def agent_known(port: int, content: bytes) -> Measured:
    """The same, for one message to a server that it has sent one before."""
    return _measured([*_agent(port, 1, 2), "--known"], content)


def agent_with_file(port: int, path: Path) -> Measured:
    """Our agent, with one message in a file."""
    return _measured([*_agent(port, 1, 1), "--file", str(path)])


@contextlib.contextmanager
def waiting_agent(port: int, messages: int, *, tls: str) -> Iterator[int]:
    """Our agent with as many connections as messages, for as long as the block lasts; gives its process id."""
    with _running(_agent(port, messages, messages, f"?tls={tls}"), content=message(1_024)) as process:
        yield process.pid


def smtp_source(port: int, messages: int, connections: int, octets: int) -> Measured:
    """Postfix's load generator, in C; C{-d} keeps connections."""
    counts = ["-s", str(connections), "-l", str(octets), "-m", str(messages)]
    words = [peers.command("smtp-source"), "-4", "-d", *counts, f"127.0.0.1:{port}"]
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, timeout=LIMIT_S)
    elapsed_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(elapsed_s=elapsed_s, cpu_s=used_s, peak_kib=0)


def aiosmtplib(port: int, messages: int, connections: int, content: bytes) -> Measured:
    """aiosmtplib on uvloop. See C{aiosmtplib_sender.py}."""
    words = [str(BENCH_PYTHON), "-m", "benchmarks.aiosmtplib_sender", *map(str, (port, messages, connections))]
    return _measured(words, content)


def require_aiosmtplib() -> None:
    """
    @raise NotHere: it is not installed.
    """
    if not BENCH_PYTHON.exists():
        raise NotHere("aiosmtplib is not installed; make bench does it")


def by_smtplib(port: int, messages: int, content: bytes) -> Measured:
    """The standard library's client, which sends one command after the other."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    with smtplib.SMTP("127.0.0.1", port, "client.example.net", timeout=30) as server:
        for _ in range(messages):
            server.sendmail("ann@example.net", ["bob@example.org"], content)
        elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return Measured(elapsed_s=elapsed_s, cpu_s=used_s, peak_kib=0)


def _agent(port: int, messages: int, connections: int, query: str = "") -> list[str]:
    counts = ("--messages", str(messages), "--connections", str(connections))
    return _python("sender", f"smtp://127.0.0.1:{port}{query}", *counts)


def _measured(words: Sequence[str], content: bytes = b"") -> Measured:
    ran = subprocess.run(words, cwd=HERE.parent, input=content, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
    measured: Measured = json.loads(ran.stdout)
    return measured

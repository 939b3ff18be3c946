"""
Where a Session runs: beside threads, forks and reactors, with none of its own, and in little memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pymail_tx.client import Session
from tests.client.scripted import HOST, LIMIT_S, Act, Peer, Script, Server
from tests.net.certificates import Authority
from tests.project import ROOT

CONTENT = b"Subject: Hello\r\n\r\nHow are you?\r\n"

MIB = 1 << 20
LARGE_MIB = 300
READER_OCTETS_PER_S = 60 * MIB
PEAK_KIB = 120_000_000 // 1_024

PROGRAM = """
import json, os, sys, threading
from pymail_tx.client import Session

threads = []
def count_threads():
    threads.append([threading.active_count(), len(os.listdir("/proc/self/task"))])

way, port, mib = sys.argv[1:]
session = Session(["localhost"], "client.example.net", "a test", "", "bob@example.org")
getattr(session, way)(int(port))
count_threads()
for line in ("MAIL FROM:<>", "RCPT TO:<bob@example.org>"):
    session.sendLine(line)
    session.read()
session.startData()
piece = (b"x" * 62 + b"\\r\\n") * 16_384
for _ in range(int(mib)):
    session.sendData(piece)
count_threads()
session.endData()
session.close()
count_threads()
with open("/proc/self/status") as status:
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(json.dumps([threads, "twisted.internet.reactor" in sys.modules, session.dataSize, peak_kib]))
"""
"""A process with a Session and nothing else, which tells of itself. Its arguments: how, to which port, how many MiB."""


@frozen
class Told:
    """
    What a process with a Session tells of itself.

    @ivar threads: while the session lasts and after it: Python's, the system's.
    @ivar has_reactor: whether the module that installs one was imported.
    """

    threads: list[list[int]]
    has_reactor: bool
    octets: int
    peak_kib: int


def send(port: int) -> None:
    """A message over STARTTLS, whose library has state of its own."""
    session = Session([HOST], "client.example.net", "a test", "ann@example.net", "bob@example.org")
    session.starttls(port)
    for line in ("MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>"):
        session.sendLine(line)
        session.read()
    session.startData()
    session.sendData(CONTENT)
    session.endData()
    session.close()


def serve(case: SynchronousTestCase, **replies: bytes | Act) -> Server:
    """A server with STARTTLS."""
    return Server.start(case, Script(replies, offers=("STARTTLS",), certificate=Authority().issue(HOST)))


def serve_slowly(case: SynchronousTestCase, *, implicit_tls: bool) -> Server:
    """One that reads the content at C{READER_OCTETS_PER_S}."""
    certificate = Authority().issue(HOST)
    return Server.start(case, Script({"DATA": _read_slowly}, certificate=certificate, implicit_tls=implicit_tls))


def told(way: str, port: int, *, mib: int) -> Told:
    """What a process of its own tells of its session."""
    words = [sys.executable, "-c", PROGRAM, way, str(port), str(mib)]
    run = subprocess.run(words, cwd=ROOT, check=True, timeout=100, stdout=subprocess.PIPE)
    return Told(*json.loads(run.stdout))


def status_in_a_fork(work: Callable[[], None]) -> int:
    """The exit status of a forked child: 0 if the work was done without an exception."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # nothing of the parent's may run in the child
        traceback.print_exc()
    finally:
        os._exit(status)


def _read_slowly(peer: Peer) -> None:
    peer.say(b"354 go on\r\n")
    began, octets, last = time.monotonic(), 0, b""
    while last != b"\r\n.\r\n":
        came = peer.socket.recv(65_536)
        if not came:
            return
        octets += len(came)
        last = (last + came)[-5:]
        time.sleep(max(0, began + octets / READER_OCTETS_PER_S - time.monotonic()))
    peer.say(b"250 2.0.0 queued\r\n")


class ThreadsAndForks(SynchronousTestCase):
    timeout = 60

    def test_eight_threads_have_a_session_each_at_the_same_time(self) -> None:
        all_are_here = threading.Barrier(8)

        def wait_for_all(peer: Peer) -> None:
            all_are_here.wait(LIMIT_S)
            peer.say(b"250 2.1.0 ok\r\n")

        server = serve(self, MAIL=wait_for_all)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, [server.port] * 8))
        self.assertEqual([(peer.content, peer.accepted) for peer in server.peers], [(CONTENT, True)] * 8)

    def test_a_forked_child_has_a_session_though_its_parent_has_had_one(self) -> None:
        server = serve(self)
        send(server.port)
        self.assertEqual(status_in_a_fork(lambda: send(server.port)), 0)
        send(server.port)
        self.assertEqual([peer.accepted for peer in server.peers], [True] * 3)


class BesideAReactor(TestCase):
    """The reactor is trial's, which runs while a Deferred is waited for."""

    timeout = 60

    def test_a_worker_thread_has_a_session_while_the_reactor_goes_on(self) -> Deferred[None]:
        reactor_went_on = threading.Event()
        in_session = threading.Event()

        def wait_for_the_reactor(peer: Peer) -> None:
            in_session.set()
            peer.say(
                b"250 2.1.0 ok\r\n" if reactor_went_on.wait(LIMIT_S) else b"451 4.3.0 the reactor stands still\r\n"
            )

        def look() -> None:
            if in_session.is_set():
                reactor_went_on.set()
                looking.stop()

        looking = LoopingCall(look)
        looking.start(0.01)
        return deferToThread(send, serve(self, MAIL=wait_for_the_reactor).port)

    def test_the_reactors_own_thread_has_a_session_while_the_reactor_waits(self) -> Deferred[None]:
        return self.in_the_reactor(send)

    def test_a_child_forked_in_the_reactors_thread_has_a_session(self) -> Deferred[None]:
        return self.in_the_reactor(lambda port: self.assertEqual(status_in_a_fork(lambda: send(port)), 0))

    def in_the_reactor(self, work: Callable[[int], None]) -> Deferred[None]:
        """Called by the running reactor, with the port of a server; a message must have come there then."""
        server = serve(self)

        def call() -> None:
            self.assertTrue(IReactorCore(reactor).running)
            work(server.port)
            self.assertEqual([(peer.content, peer.accepted) for peer in server.peers], [(CONTENT, True)])

        return deferLater(IReactorTime(reactor), 0, call)


class Alone(SynchronousTestCase):
    timeout = 120

    def test_a_session_needs_neither_a_thread_nor_a_reactor(self) -> None:
        for way, server in (
            ("plain", serve(self)),
            ("starttls", serve(self)),
            ("tls", serve_slowly(self, implicit_tls=True)),
        ):
            its = told(way, server.port, mib=1)
            self.assertEqual((its.threads, its.has_reactor), ([[1, 1]] * 3, False), way)

    def test_300_mib_to_a_slow_reader_stay_below_120_mb(self) -> None:
        self.assert_small("plain")

    def test_300_mib_over_tls_to_a_slow_reader_stay_below_120_mb(self) -> None:
        self.assert_small("tls")

    def assert_small(self, way: str) -> None:
        server = serve_slowly(self, implicit_tls=way == "tls")
        began = time.monotonic()
        its = told(way, server.port, mib=LARGE_MIB)
        self.assertGreater(time.monotonic() - began, LARGE_MIB * MIB / READER_OCTETS_PER_S)
        self.assertEqual(its.octets, LARGE_MIB * MIB)
        self.assertLess(its.peak_kib, PEAK_KIB)

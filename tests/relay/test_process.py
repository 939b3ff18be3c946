"""
The relay as its operator and its clients have it: a process, killed and stopped
at bad moments, started wrongly, with real sockets on the loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import mailbox
import os
import random
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_START_TIMEOUT_S = 20
_KILL_ROUNDS = 8
_SEED = 5321

_RELAY = [
    sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "pymail-tx"
]  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class _Relay:
    """A relay's directory, and its process, if one runs."""

    def __init__(self, directory: str, *options: str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.options = ["--smtp", f"tcp:{self.port}:interface=127.0.0.1", "--hostname", "relay.example", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self.spawn()
        if not _until(self._greets, seconds=_START_TIMEOUT_S):
            raise AssertionError(f"no relay: {self.log()}")

    def spawn(self) -> subprocess.Popen[bytes]:
        with (self.directory / "out").open("ab") as out, (self.directory / "err").open("ab") as err:
            return subprocess.Popen([*_RELAY, *self.options], cwd=self.directory, stdout=out, stderr=err)

    def end(self, number: signal.Signals, *, seconds: float) -> int:
        """Send a signal; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def clean_up(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def log(self) -> str:
        return "".join((self.directory / name).read_text() for name in ("out", "err"))

    def subjects(self) -> set[str]:
        """Of what was delivered into the maildir."""
        found: set[str] = set()
        for file in (self.directory / "mail" / "new").glob("*"):
            found.update(line[9:] for line in file.read_text().splitlines() if line.startswith("Subject: "))
        return found

    def _greets(self) -> bool:
        assert self.process is not None
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                return client.recv(4) == b"220 "
        except OSError:
            if self.process.poll() is not None:
                raise AssertionError(f"the relay ended: {self.log()}") from None
            return False


class _Client(threading.Thread):
    """Sends one message after the other until the relay is gone, and remembers what was answered 250."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.label = name
        self.answered: list[str] = []

    def run(self) -> None:
        with (
            contextlib.suppress(OSError, smtplib.SMTPException),
            smtplib.SMTP("127.0.0.1", self.port, timeout=10) as session,
        ):
            for number in itertools.count():
                subject = f"{self.label}-{number}"
                session.sendmail("joe@example.org", ["ann@example.com"], f"Subject: {subject}\r\n\r\nhello\r\n")
                self.answered.append(subject)


class _Receiver(threading.Thread):
    """
    A server that answers as it is told, and end of data only if it is C{willing}.

    @ivar replies: to verbs that do not get 250.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.replies = {b"DATA": b"354 go on", b"QUIT": b"221 bye"}
        self.willing = False
        self.contents: list[bytes] = []
        self.delivered = 0
        self._waiting: list[socket.socket] = []

    def answer(self) -> None:
        """Take what waits for its reply."""
        for connection in self._waiting:
            connection.sendall(b"250 2.0.0 taken\r\n")

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 slow.example\r\n")
            for line in lines:
                verb = line[:4].upper().strip()
                connection.sendall(self.replies.get(verb, b"250 ok") + b"\r\n")
                if verb == b"DATA":
                    self.contents.append(b"".join(iter(lines.readline, b".\r\n")))
                    self._waiting.append(connection)
                    if self.willing:
                        self.delivered += 1
                        connection.sendall(b"250 2.0.0 taken\r\n")


class ProcessCase(SynchronousTestCase):
    def relay(self, *options: str) -> _Relay:
        relay = _Relay(self.mktemp(), *options)
        self.addCleanup(relay.clean_up)
        return relay

    def receiver(self) -> _Receiver:
        receiver = _Receiver()
        receiver.start()
        self.addCleanup(receiver.close)
        return receiver

    def send(self, relay: _Relay, content: str = "Subject: hello\r\n\r\nworld\r\n") -> None:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as session:
            session.sendmail("joe@example.org", ["ann@example.com"], content)


class Processes(ProcessCase):
    def test_a_message_goes_into_the_maildir(self) -> None:
        relay = self.relay("--route", "*=maildir:mail")
        relay.start()
        self.send(relay, "Subject: hello\r\n\r\n.\r\n..\r\nworld\r\n")
        self.assertTrue(_until(lambda: relay.subjects() == {"hello"}, seconds=10), relay.log())
        [message] = mailbox.Maildir(relay.directory / "mail", create=False)
        self.assertEqual(message["Delivered-To"], "ann@example.com")
        self.assertEqual(message["Return-Path"], "<joe@example.org>")
        self.assertEqual(message.get_payload(), ".\n..\nworld\n")
        self.assertEqual(relay.end(signal.SIGTERM, seconds=5), 0)
        self.assertEqual((relay.directory / "err").read_text(), "")

    def test_what_was_answered_250_outlives_kill_9(self) -> None:
        chance = random.Random(_SEED)
        relay = self.relay("--route", "*=maildir:mail")
        answered: set[str] = set()
        for turn in range(_KILL_ROUNDS):
            relay.start()
            clients = [_Client(relay.port, f"{turn}-{number}") for number in range(4)]
            for client in clients:
                client.start()
            time.sleep(chance.uniform(0.05, 0.8))
            self.assertEqual(relay.end(signal.SIGKILL, seconds=10), -signal.SIGKILL)
            for client in clients:
                client.join(15)
                answered.update(client.answered)
        self.assertGreater(len(answered), _KILL_ROUNDS)
        relay.start()
        self.assertTrue(_until(lambda: answered <= relay.subjects(), seconds=60), answered - relay.subjects())

    def test_sigterm_under_load_loses_nothing_either(self) -> None:
        relay = self.relay("--route", "*=maildir:mail")
        relay.start()
        clients = [_Client(relay.port, str(number)) for number in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.7)
        self.assertEqual(relay.end(signal.SIGTERM, seconds=11.5), 0)
        for client in clients:
            client.join(15)
        answered = {subject for client in clients for subject in client.answered}
        self.assertGreater(len(answered), 4)
        relay.start()
        self.assertTrue(_until(lambda: answered <= relay.subjects(), seconds=20), answered - relay.subjects())

    def test_sigterm_waits_10_s_for_a_slow_receiver_and_the_next_start_takes_it_up_within_10_s(self) -> None:
        receiver = self.receiver()
        relay = self.relay("--route", f"*=smtp://127.0.0.1:{receiver.port}?tls=none")
        relay.start()
        self.send(relay)
        self.assertTrue(_until(lambda: len(receiver.contents) == 1, seconds=10), relay.log())
        asked = time.monotonic()
        self.assertEqual(relay.end(signal.SIGTERM, seconds=12), 0, relay.log())
        self.assertGreater(time.monotonic() - asked, 9)
        receiver.willing = True
        relay.start()
        self.assertTrue(_until(lambda: receiver.delivered == 1, seconds=10.5), relay.log())
        self.assertIn(b"Subject: hello\r\n", receiver.contents[-1])

    def test_a_refused_message_comes_back_as_a_bounce(self) -> None:
        receiver = self.receiver()
        receiver.replies[b"RCPT"] = b"550 5.1.1 nobody of that name"
        relay = self.relay(
            "--route", "example.org=maildir:mail", "--route", f"*=smtp://127.0.0.1:{receiver.port}?tls=none"
        )  # fmt: skip
        relay.start()
        self.send(relay)
        self.assertTrue(_until(lambda: bool(relay.subjects()), seconds=10), relay.log())
        [bounce] = mailbox.Maildir(relay.directory / "mail", create=False)
        self.assertEqual((bounce["Return-Path"], bounce["Delivered-To"]), ("<>", "joe@example.org"))
        self.assertEqual(bounce.get_content_type(), "multipart/report")
        self.assertIn("nobody of that name", bounce.as_string())
        self.assertEqual(relay.end(signal.SIGTERM, seconds=5), 0)


class Reloading(ProcessCase):
    """SIGHUP, with a client in the middle of its session."""

    def setUp(self) -> None:
        self.running = self.relay("--config", "relay.toml")
        self.running.options = self.running.options[4:]
        self.configure(to="maildir:first")
        self.running.start()

    def configure(self, *, to: str, listen: str = "", more: str = "") -> None:
        listen = listen or f'"tcp:{self.running.port}:interface=127.0.0.1"'
        text = f'hostname = "relay.example"\n{more}[smtp]\nlisten = [{listen}]\n[[route]]\nmatch = "*"\nto = "{to}"\n'
        (self.running.directory / "relay.toml").write_text(text)

    def hang_up(self, *, until: str) -> None:
        """Send SIGHUP, and wait for those words in the log."""
        assert self.running.process is not None
        count = self.running.log().count(until)
        self.running.process.send_signal(signal.SIGHUP)
        self.assertTrue(_until(lambda: self.running.log().count(until) > count, seconds=10), self.running.log())

    def delivered(self, maildir: str) -> bool:
        return any((self.running.directory / maildir / "new").glob("*"))

    def test_a_session_goes_on_and_its_message_takes_the_new_route(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.running.port, timeout=10) as session:
            session.ehlo()
            session.mail("joe@example.org")
            self.configure(to="maildir:second")
            self.hang_up(until="changed: route")
            self.assertEqual(session.rcpt("ann@example.com")[0], 250)
            self.assertEqual(session.data("Subject: hello\r\n\r\nworld\r\n")[0], 250)
        self.assertTrue(_until(lambda: self.delivered("second"), seconds=10), self.running.log())
        self.assertFalse(self.delivered("first"))
        self.assertEqual(self.running.end(signal.SIGTERM, seconds=5), 0)

    def test_a_place_to_listen_comes_and_another_goes_and_connections_stay(self) -> None:
        old, new = self.running.port, _free_port()
        with smtplib.SMTP("127.0.0.1", old, timeout=10) as session:
            self.configure(to="maildir:first", listen=f'"tcp:{new}:interface=127.0.0.1"')
            self.hang_up(until="changed: smtp.listen")
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", old), timeout=10)
            self.assertEqual(session.noop()[0], 250)
            with smtplib.SMTP("127.0.0.1", new, timeout=10) as other:
                self.assertEqual(other.noop()[0], 250)

    def test_a_wrong_file_leaves_all_as_it_was_with_one_event_that_says_why(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.running.port, timeout=10) as session:
            self.configure(to="fax:", more="nonsense = 1\n")
            self.hang_up(until="the configuration is wrong")
            [line] = [line for line in self.running.log().splitlines() if "the configuration is wrong" in line]
            self.assertRegex(line, r"relay.toml:2: nonsense: .*; .*relay.toml:7: route.to: 'fax")
            self.assertEqual(session.noop()[0], 250)
            session.sendmail("joe@example.org", ["ann@example.com"], "Subject: hello\r\n\r\nworld\r\n")
        self.assertTrue(_until(lambda: self.delivered("first"), seconds=10), self.running.log())
        self.configure(to="maildir:second")
        self.hang_up(until="changed: route")

    def test_a_place_that_is_taken_leaves_all_as_it_was(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.configure(to="maildir:second", listen=f'"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"')
            self.hang_up(until="cannot listen at")
        with smtplib.SMTP("127.0.0.1", self.running.port, timeout=10) as session:
            session.sendmail("joe@example.org", ["ann@example.com"], "Subject: hello\r\n\r\nworld\r\n")
        self.assertTrue(_until(lambda: self.delivered("first"), seconds=10), self.running.log())

    def test_a_delivery_that_is_under_way_ends_where_it_began(self) -> None:
        receiver = self.receiver()
        self.configure(to=f"smtp://127.0.0.1:{receiver.port}?tls=none")
        self.hang_up(until="changed: route")
        self.send(self.running)
        self.assertTrue(_until(lambda: len(receiver.contents) == 1, seconds=10), self.running.log())
        self.configure(to="maildir:second")
        self.hang_up(until="changed: route")
        receiver.answer()
        self.assertTrue(_until(lambda: "delivered" in self.running.log(), seconds=10), self.running.log())
        self.assertFalse(self.delivered("second"))
        self.assertEqual(self.running.end(signal.SIGTERM, seconds=5), 0)

    def test_a_new_name_greets_new_clients(self) -> None:
        self.configure(to="maildir:first")
        file = self.running.directory / "relay.toml"
        file.write_text(file.read_text().replace("relay.example", "other.example"))
        self.hang_up(until="changed: hostname")
        with socket.create_connection(("127.0.0.1", self.running.port), timeout=10) as client:
            self.assertTrue(client.recv(100).startswith(b"220 other.example"))

    def test_many_at_once_are_taken_one_by_one(self) -> None:
        assert self.running.process is not None
        for _ in range(20):
            self.running.process.send_signal(signal.SIGHUP)
        self.hang_up(until="changed: nothing")
        self.assertEqual(self.running.end(signal.SIGTERM, seconds=5), 0)

    def test_another_spool_needs_a_restart_and_the_log_says_so(self) -> None:
        self.configure(to="maildir:first", more='spool = {url = "sqlite:other.sqlite"}\n')
        self.hang_up(until="spool.url cannot change while the relay runs: it stays sqlite:var/spool.sqlite")
        self.assertFalse((self.running.directory / "other.sqlite").exists())


class Mistakes(SynchronousTestCase):
    def test_each_gets_one_line_that_names_it_and_status_1(self) -> None:
        everything = ["--route", "*=discard:"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            mistakes = {
                (): "--route '*=maildir:var/mail'",
                ("--spol", "x"): "--spol",
                ("surplus",): "'surplus'",
                ("--spool",): "--spool",
                ("--route", "example.org"): "'example.org' is no PATTERN=TARGET",
                ("--route", "*=mx:"): "mx: is not built yet",
                ("--route", "*=smtp://h?tls=dane"): "is not built yet",
                ("--route", "/(/=discard:"): "'/(/' is no regular expression",
                ("--route", "*=smtp://joe:Zq7@h?tls=none"): "verified certificate only",
                ("--route", "*=smtp://joe@h?password_env=PYMAIL_TX_NOT_SET"): "PYMAIL_TX_NOT_SET",
                ("--route", "*=smtp://joe@h?password_file=/nowhere/at/all"): "/nowhere/at/all: No such file",
                (*everything, "--hostname", "a b"): "'a b' is no domain",
                ("--config", "/nowhere/relay.toml"): "/nowhere/relay.toml: cannot be read: No such file",
                (*everything, "--smtp", "2525"): "'2525' is no endpoint",
                (*everything, "--smtp", "tcp:x"): "'tcp:x' is no endpoint",
                (*everything, "--smtp", "tcp:70000"): "'tcp:70000'",
                (*everything, "--smtp", f"tcp:{port}:interface=127.0.0.1"): f"'tcp:{port}:interface=127.0.0.1'",
                (*everything, "--smtp", "unix:/nowhere/at/all"): "/nowhere/at/all",
                (*everything, "--spool", "var/spool.sqlite"): "sqlite:/var/spool",
                (*everything, "--spool", "postgresql://joe:Zq7@h/x"): "PostgreSQL is not built yet",
                (*everything, "--spool", "sqlite:no database"): "no database",
                (*everything, "--spool", "sqlite:a directory"): "a directory",
                (*everything, "--spool", "sqlite:no database/spool"): "no database",
            }
            with ThreadPoolExecutor(4) as pool:
                ended = list(pool.map(self.ended, map(self.directory, range(len(mistakes))), mistakes))
        for (options, words), (status, out, err) in zip(mistakes.items(), ended, strict=True):
            with self.subTest(options):
                self.assertEqual(status, 1)
                self.assertRegex(err, r"\Apymail-tx: [^\n]+\n\Z")
                self.assertIn(words, err)
                self.assertNotIn(".;", err)
                self.assertNotIn("Traceback", out)
                self.assertNotIn("Options:", out)
                self.assertNotIn("Zq7", out + err)

    def directory(self, number: int) -> Path:
        """One for each relay, since none may have another's spool."""
        directory = Path(self.mktemp()) / str(number)
        (directory / "a directory").mkdir(parents=True)
        (directory / "no database").write_text("To: ann\n" * 1_000)
        return directory

    def ended(self, directory: Path, options: Sequence[str]) -> tuple[int, str, str]:
        ended = subprocess.run(
            [*_RELAY, *options], cwd=directory, capture_output=True, text=True, timeout=60, check=False
        )
        return ended.returncode, ended.stdout, ended.stderr

    def test_a_second_relay_on_the_same_spool_is_told_who_has_it(self) -> None:
        relay = _Relay(self.mktemp(), "--route", "*=discard:")
        self.addCleanup(relay.clean_up)
        relay.start()
        assert relay.process is not None
        status, _, err = self.ended(relay.directory, ["--smtp", "tcp:0:interface=127.0.0.1", "--route", "*=discard:"])
        self.assertEqual(status, 1)
        self.assertRegex(err, rf"\Apymail-tx: [^\n]*\b{relay.process.pid}\b[^\n]*\n\Z")

    def test_help_explains_each_option_with_an_example(self) -> None:
        status, out, err = self.ended(Path(os.getcwd()), ["--help"])
        self.assertEqual((status, err), (0, ""))
        for line in out.split("\n\n")[0].splitlines():
            self.assertNotIn("  ", line[19:].strip(), line)  # behind the column of names
        words = " ".join(out.split())
        for option in ("--config", "--spool", "--smtp", "--http", "--route", "--hostname"):
            self.assertRegex(words, rf"Example: {option} \S+")
        self.assertGreaterEqual(out.count("twistd --nodaemon --pidfile= pymail-tx"), 3)

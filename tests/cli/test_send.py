"""
C{pymail-tx send}, as a process that sends to servers on loopback.
"""

from __future__ import annotations

import base64
import json
import mailbox
import os
import signal
import subprocess

from pymail_tx.cli.progress import FROM_OCTETS
from tests.cli.processes import COMMAND, LIMIT_S, ProcessCase, on_a_terminal
from tests.peers import eventually, free_port

_MESSAGE = "From: joe@example.org\nTo: ann@example.com\nCc: bob@example.com\nBcc: carol@example.com\nSubject: x\n\nhi\n"

_TO_ANN = ("--from", "joe@example.org", "--to", "ann@example.com", "--body", "hello")


class Sending(ProcessCase):
    def test_a_written_message_reaches_the_sink(self) -> None:
        sink = self.sink("--maildir", "mail")
        ended = self.run_command("send", "--server", sink.url, *_TO_ANN, "--header", "Subject: Dinner")
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertRegex(ended.out, r"\Aann@example\.com: delivered, 2\.0\.0 [^\n]+\(reply 250\)\n\Z")
        [message] = mailbox.Maildir(self.directory / "mail", create=False)
        self.assertEqual(
            (message["Subject"], message["From"], message["To"]), ("Dinner", "joe@example.org", "ann@example.com")
        )
        self.assertEqual(message.get_payload(), "hello\n")

    def test_a_message_from_standard_input_goes_to_whom_its_header_names(self) -> None:
        server = self.server()
        ended = self.run_command("send", "--server", server.url, "--hostname", "me.example", text=_MESSAGE)
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertEqual([line.partition(":")[0] for line in ended.out.splitlines()], [
            "ann@example.com", "bob@example.com", "carol@example.com",
        ])  # fmt: skip
        self.assertEqual(server.lines[:2], ["EHLO me.example", "MAIL FROM:<joe@example.org>"])
        self.assertEqual(
            server.contents, [_MESSAGE.replace("Bcc: carol@example.com\n", "").replace("\n", "\r\n").encode()]
        )

    def test_a_message_comes_from_a_file_and_a_text_from_standard_input(self) -> None:
        server = self.server()
        (self.directory / "message.eml").write_text(_MESSAGE)
        self.assertEqual(self.run_command("send", "--server", server.url, "--data", "message.eml").status, 0)
        written = ("--from", "joe@example.org", "--to", "ann@example.com", "--header", "Subject: x")
        self.assertEqual(self.run_command("send", "--server", server.url, *written, text="Good day\n").status, 0)
        self.assertTrue(server.contents[0].endswith(b"\r\n\r\nhi\r\n"))
        self.assertTrue(server.contents[1].endswith(b"\r\n\r\nGood day\r\n"))

    def test_the_environment_can_name_the_server(self) -> None:
        server = self.server()
        self.assertEqual(self.run_command("send", *_TO_ANN, environment={"PYMAIL_TX_SERVER": server.url}).status, 0)
        self.assertEqual(len(server.contents), 1)

    def test_the_status_says_the_worst_that_happened(self) -> None:
        server = self.server(
            {"RCPT TO:<late@example.com>": "450 4.2.1 not now", "RCPT TO:<never@example.com>": "550 5.1.1 nobody"}
        )
        for recipients, status, words in (
            (["ann"], 0, ["delivered, 2.0.0"]),
            (["ann", "late"], 75, ["delivered, 2.0.0", "deferred, 4.2.1 not now (reply 450)"]),
            (["late", "never"], 69, ["deferred, 4.2.1", "failed, 5.1.1 nobody (reply 550)"]),
            (["never"], 69, ["failed, 5.1.1"]),
        ):
            to = [word for name in recipients for word in ("--to", f"{name}@example.com")]
            ended = self.run_command("send", "--server", server.url, "--from", "joe@example.org", *to, "--body", "x")
            self.assertEqual((ended.status, ended.err), (status, ""))
            lines = [f"{name}@example.com: {word}" for name, word in zip(recipients, words, strict=True)]
            for line, expected in zip(ended.out.splitlines(), lines, strict=True):
                self.assertTrue(line.startswith(expected), line)

    def test_nobody_there_is_worth_another_try(self) -> None:
        ended = self.run_command("send", "--server", f"smtp://127.0.0.1:{free_port()}", *_TO_ANN)
        self.assertEqual((ended.status, ended.err), (75, ""))
        self.assertIn("ann@example.com: deferred, 4.4.1 no connection", ended.out)

    def test_a_loss_behind_the_end_of_data_is_said_to_be_uncertain(self) -> None:
        server = self.server({".": "421 4.3.2 stopping"})
        lost = self.server({".": "nonsense"})
        self.assertNotIn("may have arrived", self.run_command("send", "--server", server.url, *_TO_ANN).out)
        self.assertIn(
            "deferred (it may have arrived all the same), ",
            self.run_command("send", "--server", lost.url, *_TO_ANN).out,
        )

    def test_json_has_all_that_is_known(self) -> None:
        server = self.server({"RCPT TO:<never@example.com>": "550 5.1.1 nobody"})
        ended = self.run_command("send", "--server", server.url, *_TO_ANN, "--to", "never@example.com", "--json")
        self.assertEqual((ended.status, ended.err), (69, ""))
        ann, never = json.loads(ended.out)["outcomes"]
        self.assertEqual(never, {
            "recipient": "never@example.com", "status": "failed", "reason": "5.1.1 nobody (reply 550)",
            "reply": {"code": 550, "enhanced": "5.1.1", "lines": ["5.1.1 nobody"]},
            "uncertain": False, "host": "127.0.0.1", "port": server.port, "tls": None,
        })  # fmt: skip
        self.assertEqual((ann["recipient"], ann["status"]), ("ann@example.com", "delivered"))

    def test_the_trace_shows_what_is_said_without_secrets(self) -> None:
        server = self.server({"EHLO": "250-mx.example\r\n250 SIZE 1000"})
        ended = self.run_command("send", "--server", server.url, "--hostname", "me.example", "--trace", text=_MESSAGE)
        self.assertEqual((ended.status, ended.out.count("\n")), (0, 3))
        lines = ended.err.splitlines()
        self.assertEqual(lines[:4], [
            f"*: connected to 127.0.0.1 port {server.port}", "S: 220 mx.example ESMTP", "C: EHLO me.example",
            "S: 250-mx.example",
        ])  # fmt: skip
        [content] = [line for line in lines if "octets of content" in line]
        self.assertRegex(content, r"\AC: <\d+ octets of content>\Z")
        self.assertEqual(lines[-3:], ["C: QUIT", "S: 221 bye", "*: over"])

    def test_no_trace_shows_a_password_even_if_the_server_does(self) -> None:
        response = base64.b64encode(b"\0joe\0Zq7-xyz").decode()
        for answer in ("235 2.7.0 welcome", f"535 5.7.8 not Zq7-xyz: {response}"):
            url = f"smtps://joe@127.0.0.1:{self.provider(answer).port}?password_env=MAIL_PASSWORD"
            ended = self.run_command(
                "send",
                "--server",
                url,
                *_TO_ANN,
                "--trace",
                "--tls-ca",
                "ca.pem",
                environment={"MAIL_PASSWORD": "Zq7-xyz"},
            )
            self.assertIn("\nC: AUTH PLAIN <secret>\n", ended.err)
            for secret in ("Zq7-xyz", response):
                self.assertNotIn(secret, ended.out + ended.err)

    def test_a_large_message_has_a_bar_on_a_terminal_and_none_in_a_pipe(self) -> None:
        server = self.server()
        for octets, bar in ((FROM_OCTETS // 2, ""), (2 * FROM_OCTETS, "2.0/2.0 MiB")):
            (self.directory / "message.eml").write_text(_MESSAGE + f"{'x' * 77}\n" * (octets // 78))
            words = ("send", "--server", server.url, "--data", str((self.directory / "message.eml").absolute()))
            status, seen = on_a_terminal(*COMMAND, *words)
            self.assertEqual((status, bar in seen), (0, True), seen)
            self.assertEqual(bool(seen), bool(bar))
            self.assertEqual(self.run_command(*words).err, "")

    def test_ctrl_c_ends_it_with_one_line(self) -> None:
        server = self.server({"EHLO": "250-mx.example\r\n250-"})
        process = subprocess.Popen(
            [*COMMAND, "send", "--server", server.url, *_TO_ANN], cwd=self.directory, stderr=subprocess.PIPE, text=True
        )
        eventually("EHLO comes", lambda: server.lines, within_s=LIMIT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
        self.assertEqual(
            (process.returncode, err), (130, "pymail-tx: interrupted; what was not sent yet is not sent\n")
        )


class Mistakes(ProcessCase):
    def test_each_gets_one_line_that_names_the_option(self) -> None:
        (self.directory / "message.eml").write_text(_MESSAGE)
        (self.directory / "no message").write_text("hello\n")
        message = ("send", "--data", "message.eml")
        for words, status, option in (
            ((), 64, "pymail-tx --help"),
            (("fax",), 64, "'fax'"),
            (("--colour",), 64, "--colour"),
            (("send", "--sever", "x"), 64, "--sever"),
            (("send", "surplus"), 64, "surplus"),
            (("send", "--data"), 64, "--data"),
            ((*message, "--server", "fax:1"), 64, "--server: 'fax…'"),
            ((*message, "--server", "discard:"), 64, "--server: "),
            ((*message, "--server", "smtp://joe:Zq7@h?tls=none"), 64, "--server: "),
            ((*message, "--server", "smtp://joe@h?password_env=PYMAIL_TX_NOT_SET"), 64, "PYMAIL_TX_NOT_SET"),
            ((*message, "--server", "smtp://joe@h?password_file=/nowhere/at/all"), 64, "/nowhere/at/all: No such file"),
            ((*message, "--hostname", "a b"), 64, "--hostname: 'a b'"),
            ((*message, "--tls-ca", "/nowhere/at/all"), 64, "--tls-ca: "),
            ((*message, "--from", "joe"), 64, "--from: 'joe' has no domain"),
            ((*message, "--to", "ann"), 64, "--to: 'ann' has no domain"),
            ((*message, "--to", "a\nb@example.com"), 64, "--to: "),
            ((*message, "--header", "Subject: x"), 64, "--data: "),
            (("send", "--body", "x", "--from", "joe@example.org"), 64, "--to: "),
            (("send", "--body", "x", "--to", "ann@example.com"), 64, "--from: "),
            (("send", *_TO_ANN, "--header", "Subject"), 64, "--header: 'Subject'"),
            (("send", "--data", "no message"), 64, "--data: that is no message"),
            (("send", "--data", "/nowhere/at/all"), 1, "--data: cannot read /nowhere/at/all: No such file"),
            (("send", "--data", "."), 1, "--data: cannot read .: Is a directory"),
        ):
            ended = self.run_command(*words)
            with self.subTest(words):
                self.assertEqual((ended.status, ended.out), (status, ""))
                self.assertRegex(ended.err, r"\Apymail-tx: [^\n]+\n\Z")
                self.assertIn(option, ended.err)
                self.assertNotIn("Zq7", ended.err)

    def test_a_text_that_is_not_utf_8_is_one(self) -> None:
        ended = self.run_command("send", "--header", "Subject: x", *_TO_ANN[:4], text=b"\xff")
        self.assertEqual((ended.status, ended.out), (64, ""))
        self.assertRegex(ended.err, r"\Apymail-tx: --body: [^\n]+\n\Z")

    def test_a_standard_input_that_is_closed_is_one(self) -> None:
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "send"], capture_output=True, text=True, timeout=LIMIT_S,
            check=False, env=os.environ,
        )  # fmt: skip
        self.assertEqual(ended.returncode, 1)
        self.assertRegex(ended.stderr, r"\Apymail-tx: --data: [^\n]+\n\Z")

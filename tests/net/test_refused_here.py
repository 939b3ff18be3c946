"""
What cannot go out is refused here, with not one octet sent: whatever is given to a public argument, a control
character, a second command or a parameter that nobody gave never goes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.errors import BadArgument, Misuse
from pymail_tx.core.routes import Target
from pymail_tx.net.agent import SMTPAgent
from tests.net.scripted import ScriptedCase, settled

_ODD = '\0\t\n\r\x0b\x1b\x1f\x7f\x85\u2028\udc0a <>=+@"\\;,.:[]()äÄ你aB1-'
_TEXT = st.text(st.sampled_from(_ODD) | st.characters(), max_size=24)
_TAIL = st.sampled_from(
    ("", "@example.org", "@b.example> SIZE=1", "@b.example>\r\nQUIT", "@b.example\nRSET", "\r\n.\r\n")
)
_ARGUMENT = st.builds("{}{}".format, _TEXT, _TAIL) | _TAIL
_CLEAN = st.sampled_from(("joe@example.org", "", "a b", "SIZE=1", "SMTPUTF8", "FULL", "NEVER", "jürgen@example.org"))
_ANYTHING = _ARGUMENT | _CLEAN

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PATH = re.compile(rb"(?:MAIL FROM|RCPT TO):<[^<>]*>((?: [A-Za-z0-9-]+(?:=[!-<>-~]+)?)*)")
_OFFERS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS")


def _parameters(line: bytes) -> list[bytes]:
    """Those of MAIL or RCPT."""
    found = _PATH.fullmatch(line)
    assert found, line
    return found[1].split()


class WireCase(ScriptedCase):
    def lines(self, written: bytes) -> list[bytes]:
        """Whole lines, without a control character in any."""
        *lines, rest = written.split(b"\r\n")
        self.assertEqual(rest, b"")
        for line in lines:
            self.assertIsNone(_CONTROL.search(line), line)
        return lines

    def line_of(self, command: Callable[[], object]) -> list[bytes]:
        """What one command wrote: one line, or nothing if it was refused."""
        self.smtp.wrote()
        try:
            command()
        except Misuse:
            self.assertEqual(self.smtp.wrote(), b"")
            return []
        lines = self.lines(self.smtp.wrote())
        self.assertEqual(len(lines), 1)
        return lines

    def connect(self) -> None:
        self.smtp = self.server(*_OFFERS)
        self.client = self.smtp.client


class Commands(WireCase):
    @given(_ANYTHING)
    @example("me.example\r\nNOOP")
    def test_ehlo(self, name: str) -> None:
        self.connect()
        for line in self.line_of(lambda: settled(self.client.ehlo(name))):
            self.assertRegex(line, rb"\AEHLO [!-~]+\Z")

    @given(_ANYTHING)
    def test_helo(self, name: str) -> None:
        self.connect()
        for line in self.line_of(lambda: settled(self.client.helo(name))):
            self.assertRegex(line, rb"\AHELO [!-~]+\Z")

    @given(_ANYTHING, st.lists(_ANYTHING, max_size=3))
    @example("joe@example.org> SIZE=1", [])
    @example("joe@example.org", ["SIZE=1 BODY=8BITMIME"])
    @example('"joe> SIZE=1"@example.org', [])
    def test_mail(self, sender: str, parameters: list[str]) -> None:
        self.connect()
        for line in self.line_of(lambda: settled(self.client.mail(sender, *parameters))):
            self.assertEqual([one.decode() for one in _parameters(line)], parameters)
            self.assertTrue("SMTPUTF8" in parameters or line.isascii())

    @given(_ANYTHING, st.lists(_ANYTHING, max_size=3), st.booleans())
    @example("bob@example.org", ["NOTIFY=NEVER\r\nDATA"], False)
    def test_rcpt(self, recipient: str, parameters: list[str], smtputf8: bool) -> None:
        self.connect()
        settled(self.client.mail("", *(("SMTPUTF8",) if smtputf8 else ())))
        for line in self.line_of(lambda: settled(self.client.rcpt(recipient, *parameters))):
            self.assertEqual([one.decode() for one in _parameters(line)], parameters)
            self.assertTrue(smtputf8 or line.isascii())

    @given(_ANYTHING)
    @example("NOOP\r\nQUIT")
    @example("NOOP\nQUIT")
    def test_by_hand(self, line: str) -> None:
        self.connect()
        self.line_of(lambda: settled(self.client.by_hand(line)))


class Messages(WireCase):
    @given(
        _ANYTHING,
        st.lists(st.tuples(_ANYTHING, st.none() | _ANYTHING, st.none() | _ANYTHING), max_size=3),
        st.none() | _ANYTHING,
        st.none() | _ANYTHING,
    )
    @example("joe@example.org", [("bob@example.org", "SUCCESS,DELAY", "rob@example.org")], "x y=z", "FULL")
    @example("joe@example.org", [("bob@example.org", None, "rfc822;rob NOTIFY=NEVER")], "x RET=FULL", "HDRS")
    def test_the_envelope(
        self,
        sender: str,
        recipients: list[tuple[str, str | None, str | None]],
        envid: str | None,
        ret: str | None,
    ) -> None:
        try:
            to = [Recipient(address, notify=notify, orcpt=orcpt) for address, notify, orcpt in recipients]
            envelope = Envelope(sender, to, envid=envid, ret=ret)
        except BadArgument:
            return
        self.connect()
        self.smtp.wrote()
        settled(self.client.send(envelope, b"Subject: x\r\n\r\n"))
        mail, *rcpts, data = self.lines(self.smtp.wrote())
        self.keywords_are_among(mail, b"SIZE", b"SMTPUTF8", b"RET", b"ENVID")
        self.assertEqual(len(rcpts), len(recipients))
        for rcpt in rcpts:
            self.keywords_are_among(rcpt, b"NOTIFY", b"ORCPT")
        self.assertEqual(data, b"DATA")

    def keywords_are_among(self, line: bytes, *known: bytes) -> None:
        """Each of them stands there once at most."""
        keywords = [parameter.partition(b"=")[0] for parameter in _parameters(line)]
        self.assertEqual(sorted(set(keywords)), sorted(keywords))
        self.assertLessEqual(set(keywords), set(known))


class Servers(ScriptedCase):
    @given(st.sampled_from(("", "smtp://", "smtps://", "lmtp://", "mx:", "smtp://user:password@")), _ANYTHING)
    @example("smtp://", "mx.example.org\r\nQUIT")
    @example("smtp://", "mx.example.org%0D%0AQUIT")
    def test_a_target_is_refused_or_has_a_host_that_is_a_name(self, scheme: str, rest: str) -> None:
        try:
            target = Target.parse(scheme + rest)
        except BadArgument:
            return
        self.assertRegex(target.host, r"\A[!-~]*\Z")

    @given(_ANYTHING)
    @example("bücher.example")
    @example("me.example\r\nNOOP")
    def test_an_agents_hostname_is_refused_or_a_domain(self, hostname: str) -> None:
        try:
            SMTPAgent(MemoryReactorClock(), "smtp://mx.example.org?tls=none", hostname=hostname)
        except BadArgument:
            return
        self.assertNotRegex(hostname, r"[\x00-\x20\x7f]")

"""
The bounce: a delivery status notification that says who did not get a message,
and why (RFC 3461 §6, RFC 3464, in the report of RFC 6522).

It has three parts: words for people, fields for programs, and the header of
the message that failed. Everything in it that came from outside is bounded and
stands in a line of ours, indented or behind a field's name, so that no
server's words can begin a header field or end a part.

The result is 7-bit, so that any server on the way back takes it: words beyond
ASCII are encoded as quoted-printable in the text and as C{\\x{...}} in the
fields, as RFC 6533 §3 has it for addresses. The one exception is a sender whose
address is not ASCII: it stands in To as it is (RFC 6532 §3.2), and only
servers with SMTPUTF8 lead to that mailbox anyway.
"""

from __future__ import annotations

import binascii
import re
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime

from attrs import frozen

from pymail_tx.core.address import Mailbox
from pymail_tx.core.outcome import Outcome
from pymail_tx.core.reply import printable

MAX_HEADER_OCTETS = 50_000
"""Of the returned header. Far above any honest one, and small against a spool."""

MAX_WORDS = 800
"""Characters of a server's words for one recipient: more than a person reads, times 1,000 recipients still small."""

MAX_WORD = 200
"""Characters of one word before it is broken. A longer URL is rare, and lines end at 998 octets (RFC 5322 §2.1.1)."""

_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?=\s|\Z)")
_DOMAIN = re.compile(r"[A-Za-z0-9._\[\]:-]{1,255}\Z")
_SEVEN_BIT = re.compile(rb"(?:[\t -~]{0,998}\r\n)*\Z")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n|\A\r?\n")


@frozen
class _Part:
    """
    @ivar headers: the part's header fields.
    @ivar body: with its line ends in CRLF.
    """

    headers: tuple[str, ...]
    body: bytes


@frozen(kw_only=True)
class Undelivered:
    """
    What a bounce tells of.

    @ivar sender: to whom it goes; not C{""}, since nobody is told then
        (RFC 5321 §4.5.5).
    @ivar failed: the outcomes of the recipients given up.
    @ivar content: of the message that failed; its header is returned.
    @ivar accepted_at: when it was accepted, in seconds since the epoch.
    """

    sender: str
    failed: tuple[Outcome, ...]
    content: bytes
    accepted_at: float


def bounce(undelivered: Undelivered, *, hostname: str, now: float, token: str) -> bytes:
    """
    The content of the message that tells a sender whom the mail did not reach.

    @param hostname: ours; the bounce comes from MAILER-DAEMON there.
    @param now: the time to stand in Date, in seconds since the epoch.
    @param token: unguessable, of letters and digits; makes Message-ID and the
        boundary between the parts unique.
    @return: lines ending in CRLF.
    """
    boundary = f"report-{token}"
    head = [
        f"From: Mail delivery <MAILER-DAEMON@{hostname}>",
        f"To: <{Mailbox.parse('sender', undelivered.sender)}>",
        "Subject: Undelivered mail",
        f"Date: {_date(now)}",
        f"Message-ID: <{token}@{hostname}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 §5
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
    ]
    parts = (
        _for_people(hostname, undelivered),
        _for_programs(hostname, undelivered, now),
        _returned_header(undelivered.content),
    )
    return _lines(head) + b"\r\n" + b"".join(_framed(part, boundary) for part in parts) + f"--{boundary}--\r\n".encode()


def _framed(part: _Part, boundary: str) -> bytes:
    return _lines([f"--{boundary}", *part.headers, ""]) + part.body + b"\r\n"


def _for_people(hostname: str, undelivered: Undelivered) -> _Part:
    lines = [
        f"This is the mail relay at {hostname}. The message that it took from you on",
        f"{_date(undelivered.accepted_at)} could not be delivered to everyone.",
        "It will not be tried again for:",
    ]
    for outcome in undelivered.failed:
        lines += ["", f"  <{printable(outcome.recipient)}>", *_wrapped(_told(outcome), indent="      ")]
    lines += ["", "The header of your message is attached."]
    text = _lines(lines)
    if text.isascii():
        return _Part(("Content-Type: text/plain; charset=us-ascii",), text)
    return _Part(
        ("Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable"),
        _quoted_printable(text),
    )


def _told(outcome: Outcome) -> str:
    """What happened to one recipient; the reason holds the server's words, if it said any."""
    return _bounded(f"{outcome.host}: {outcome.reason}" if outcome.host else outcome.reason)


def _for_programs(hostname: str, undelivered: Undelivered, now: float) -> _Part:
    """RFC 3464 §2: fields of the message, then a group of fields for each recipient."""
    lines = [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {_date(undelivered.accepted_at)}"]
    for outcome in undelivered.failed:
        lines += ["", *_fields(outcome, now)]
    return _Part(("Content-Type: message/delivery-status",), _lines(lines))


def _fields(outcome: Outcome, now: float) -> Iterable[str]:
    yield f"Final-Recipient: {_final_recipient(outcome.recipient)}"
    yield "Action: failed"
    yield f"Status: {_status(outcome)}"
    if outcome.host and _DOMAIN.match(outcome.host):
        yield f"Remote-MTA: dns; {outcome.host}"
    yield from _wrapped(_diagnostic(outcome), indent=" ", first="Diagnostic-Code: ")
    yield f"Last-Attempt-Date: {_date(now)}"


def _final_recipient(address: str) -> str:
    """RFC 3464 §2.3.2, RFC 6533 §3."""
    mailbox = Mailbox.parse("recipient", address)
    if mailbox.needs_smtputf8:
        return f"utf-8; {_escaped(str(mailbox), also='+=')}"
    return f"rfc822; {mailbox}"


def _status(outcome: Outcome) -> str:
    found = _STATUS.match(outcome.reason)
    return found[0] if found else "5.0.0"


def _diagnostic(outcome: Outcome) -> str:
    """A reply is of type smtp (RFC 3464 §2.3.6); words of our own must not pass for one."""
    if outcome.reply is None:
        return f"x-pymail-tx; {_escaped(_bounded(outcome.reason))}"
    return f"smtp; {_escaped(_bounded(str(outcome.reply)))}"


def _returned_header(content: bytes) -> _Part:
    """RFC 6522 §4, or RFC 6533 §5 where the header holds UTF-8."""
    end = _END_OF_HEADER.search(content)
    header = _LINE_END.sub(b"\r\n", _bounded_header(content[: end.start()] if end else content)) + b"\r\n"
    if _SEVEN_BIT.match(header):
        return _Part(("Content-Type: text/rfc822-headers",), header)
    return _Part(
        (f"Content-Type: {_kind_of(header)}", "Content-Transfer-Encoding: quoted-printable"),
        _quoted_printable(header),
    )


def _bounded_header(header: bytes) -> bytes:
    """At most L{MAX_HEADER_OCTETS}, cut behind a line."""
    if len(header) <= MAX_HEADER_OCTETS:
        return header
    kept = header[:MAX_HEADER_OCTETS]
    return kept.rpartition(b"\r\n")[0] or kept


def _kind_of(header: bytes) -> str:
    if header.isascii():
        return "text/rfc822-headers"
    try:
        header.decode()
    except UnicodeDecodeError:
        return "text/rfc822-headers; charset=unknown-8bit"
    return "message/global-headers"


def _quoted_printable(text: bytes) -> bytes:
    return binascii.b2a_qp(text, istext=True)


def _escaped(text: str, also: str = "") -> str:
    """ASCII: whatever is not, the backslash and C{also} become C{\\x{...}} (RFC 6533 §3)."""
    return "".join(
        character if character.isascii() and character not in also + "\\" else f"\\x{{{ord(character):02X}}}"
        for character in text
    )


def _bounded(words: str) -> str:
    words = printable(words)
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]} [...]"


def _wrapped(text: str, *, indent: str, first: str = "") -> list[str]:
    """Lines of 76 characters where the words allow; each is indented, or the first begins with C{first}."""
    lines = textwrap.wrap(text, 76 - len(indent), break_on_hyphens=False, break_long_words=False)
    pieces = [piece for line in lines for piece in textwrap.wrap(line, MAX_WORD)]
    return [f"{indent if number or not first else first}{piece}" for number, piece in enumerate(pieces)]


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "backslashreplace")


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))

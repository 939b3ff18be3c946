"""
The message to send: read from a file, or written from a text and a few header
fields; and the envelope that follows from it.

Of a message that is read, not an octet changes, but for its Bcc fields: these
name recipients that the others are not to see, and are left out (RFC 5322
§3.6.3).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from email import message_from_string, policy
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from attrs import frozen

from pymail_tx.core.address import Mailbox
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.message import correspondents, has_utf8_addresses, message_octets

MAX_HEADER_OCTETS = 1_048_576
"""Of a message that is read. Servers take less: Postfix 100 kB, Exim 1 MiB."""

IN_MEMORY_OCTETS = 1_048_576
"""A message that comes through a pipe is kept until it is sent: in memory up to here, then in a temporary file."""

_FIELD = re.compile(rb".+?(?:\n(?![ \t])|\Z)", re.DOTALL)
"""A field with the lines that go on with it (RFC 5322 §2.2.3), or the empty line at the end."""

_BEGINNING = re.compile(rb"[!-9;-~]+[ \t]*:|\r?\n|\Z")
"""A field's name (RFC 5322 §2.2, §4.5.3), or a header without fields."""

_BLANKS = re.compile(r"^([!-9;-~]+)[ \t]+:", re.MULTILINE)
"""Old programs put them between name and colon (RFC 5322 §4.5.3); the parser takes them for a part of the name."""

_NOT_SHOWN = re.compile(rb"(?:resent-)?bcc[ \t]*:", re.IGNORECASE)

_WRITTEN_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)\Z", re.DOTALL)

_OURS = frozenset({"mime-version", "content-type", "content-transfer-encoding"})

_POLICY = policy.SMTP.clone(cte_type="7bit")  # any server takes it


@frozen
class Message:
    """
    @ivar content: at its beginning.
    """

    envelope: Envelope
    content: BinaryIO
    size_bytes: int


def read(file: IO[bytes], *, sender: str | None, recipients: Sequence[str]) -> Message:
    """
    @param sender: if not whom Sender or From names; C{"<>"} for the null
        reverse-path.
    @param recipients: if not those whom To, Cc and Bcc name.
    @raise BadArgument: it is no message, or an address is missing or wrong.
    @raise OSError: it cannot be read.
    """
    head = _head(file)
    envelope = _envelope(_parsed(head), sender, recipients)
    content = SpooledTemporaryFile(IN_MEMORY_OCTETS)  # noqa: SIM115 - lives as long as the message
    content.write(b"".join(field for field in _FIELD.findall(head) if not _NOT_SHOWN.match(field)))
    shutil.copyfileobj(file, content)
    size_bytes = content.tell()
    content.seek(0)
    return Message(envelope, cast(BinaryIO, content), size_bytes)


def write(text: str, fields: Iterable[str], *, sender: str | None, recipients: Sequence[str], hostname: str) -> Message:
    """
    @param fields: each a C{"Name: value"}, without folding.
    @param recipients: beside those whom the fields name.
    @param hostname: for the Message-ID.
    @raise BadArgument: a field is none, or an address is missing or wrong.
    """
    for address in recipients:
        Mailbox.parse("recipient", address)
    mailbox = _mailbox(sender)
    if mailbox:
        Mailbox.parse("sender", mailbox)
    message = EmailMessage(policy=_POLICY)
    message.set_content(text)
    for field in fields:
        _add(message, field)
    if not mailbox and "From" not in message:
        raise BadArgument("sender", "the message has to say who it is from; write for example --from joe@example.org")
    _complete(message, mailbox, recipients, hostname)
    with _blaming("header"):
        named = correspondents(message).recipients
        envelope = _envelope(message, sender, [*recipients, *named])
        octets = message_octets(message, smtputf8=envelope.smtputf8)
    return Message(envelope, BytesIO(octets), len(octets))


def _envelope(message: EmailMessage, sender: str | None, recipients: Iterable[str]) -> Envelope:
    to = tuple(dict.fromkeys(recipients))
    mailbox = _mailbox(sender)
    if sender is None or not to:
        with _blaming("recipients" if sender is not None else "sender"):
            found = correspondents(message)
        mailbox = found.sender if sender is None else mailbox
        to = to or found.recipients
    if not to:
        raise BadArgument("recipients", "the message has no To, Cc or Bcc; write for example --to ann@example.com")
    return Envelope(mailbox, to, smtputf8=has_utf8_addresses(message))


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    """
    @param field: what was given that makes the message what it is.
    @raise BadArgument: about that, in the place of one about the message.
    """
    try:
        yield
    except BadArgument as problem:
        if problem.field not in ("message", "content"):
            raise
        raise BadArgument(field, f"the message will not do: {problem.words}") from None
    except ValueError as problem:  # of Python's writer of messages
        raise BadArgument(field, f"the message cannot be written: {problem}") from None


def _mailbox(sender: str | None) -> str:
    return "" if sender in (None, "<>") else sender


# What is read


def _head(file: IO[bytes]) -> bytes:
    """The header, with the empty line behind it if there is one."""
    head = bytearray()
    for line in iter(lambda: file.readline(MAX_HEADER_OCTETS), b""):
        if not head and not _BEGINNING.match(line):
            raise BadArgument(
                "data", "that is no message, it begins without a header; to have one written around a text, "
                "write for example --header 'Subject: Hello'",
            )  # fmt: skip
        head += line
        if line in (b"\n", b"\r\n"):
            break
        if len(head) > MAX_HEADER_OCTETS:
            raise BadArgument("data", f"the message's header has more than {MAX_HEADER_OCTETS} octets")
    return bytes(head)


def _parsed(head: bytes) -> EmailMessage:
    text = _BLANKS.sub(r"\1:", head.decode("utf-8", "surrogateescape"))
    return message_from_string(text, _class=EmailMessage, policy=_POLICY)


# What is written


def _add(message: EmailMessage, field: str) -> None:
    found = _WRITTEN_FIELD.match(field)
    if not found:
        raise BadArgument("header", f"{field!r} is no header field; write for example --header 'Subject: Hello'")
    name, value = found.groups()
    if name.lower() in _OURS:
        raise BadArgument("header", f"{name} is written for you; with a message of your own, write --data FILE")
    try:
        message[name] = value
    except Exception as problem:  # noqa: BLE001 - Python's parser of fields raises what it likes
        raise BadArgument("header", f"{field!r} cannot be written: {problem}") from None


def _complete(message: EmailMessage, sender: str, recipients: Sequence[str], hostname: str) -> None:
    """Add what a message has to have (RFC 5322 §3.6) or should have, and has not."""
    standard = {
        "From": sender,
        "To": ", ".join(recipients),
        "Date": format_datetime(localtime()),
        "Message-ID": make_msgid(domain=hostname),
    }
    for name, value in standard.items():
        if value and name not in message:
            message[name] = value

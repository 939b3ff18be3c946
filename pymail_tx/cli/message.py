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
from collections.abc import Iterable, Sequence
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, localtime, make_msgid
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO

from attrs import frozen

from pymail_tx.core.address import Mailbox
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument

MAX_HEADER_OCTETS = 1_048_576
"""Of a message that is read. Servers take less: Postfix 100 kB, Exim 1 MiB."""

IN_MEMORY_OCTETS = 1_048_576
"""A message that comes through a pipe is kept until it is sent: in memory up to here, then in a temporary file."""

_TO = (b"to", b"cc", b"bcc")

_FIELD = re.compile(rb".+?(?:\n(?![ \t])|\Z)", re.DOTALL)
"""A field with the lines that go on with it (RFC 5322 §2.2.3), or the empty line at the end."""

_BEGINNING = re.compile(rb"[!-9;-~]+[ \t]*:|\r?\n|\Z")
"""A field's name (RFC 5322 §2.2, §4.5.3), or a header without fields."""

_WRITTEN_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)\Z", re.DOTALL)

_OURS = frozenset({"mime-version", "content-type", "content-transfer-encoding"})

_POLICY = policy.SMTP.clone(cte_type="7bit")  # any server takes it


@frozen
class Message:
    """
    @ivar content: at its beginning.
    """

    envelope: Envelope
    content: IO[bytes]
    size_bytes: int


def read(file: IO[bytes], *, sender: str | None, recipients: Sequence[str]) -> Message:
    """
    @param sender: if not whom From names; C{"<>"} for the null reverse-path.
    @param recipients: if not those whom To, Cc and Bcc name.
    @raise BadArgument: it is no message, or an address is missing or wrong.
    @raise OSError: it cannot be read.
    """
    head = _head(file)
    to = recipients or _named(head, _TO)
    return _message(head, file, sender=sender, recipients=to)


def write(text: str, fields: Iterable[str], *, sender: str | None, recipients: Sequence[str], hostname: str) -> Message:
    """
    @param fields: each a C{"Name: value"}, without folding.
    @param recipients: beside those whom the fields name.
    @param hostname: for the Message-ID.
    @raise BadArgument: a field is none, or an address is missing or wrong.
    """
    for address in recipients:
        Mailbox.parse("recipient", address)
    mailbox = _mailbox(sender or "")
    if mailbox:
        Mailbox.parse("sender", mailbox)
    message = EmailMessage(policy=_POLICY)
    message.set_content(text)
    for field in fields:
        _add(message, field)
    if not mailbox and "From" not in message:
        raise BadArgument("sender", "the message has to say who it is from; write for example --from joe@example.org")
    _complete(message, mailbox, recipients, hostname)
    file = BytesIO(_octets(message))
    head = _head(file)
    return _message(head, file, sender=sender, recipients=[*recipients, *_named(head, _TO)])


def _message(head: bytes, rest: IO[bytes], *, sender: str | None, recipients: Iterable[str]) -> Message:
    if sender is None:
        sender = next(iter(_named(head, (b"from",))), None)
    if sender is None:
        raise BadArgument("sender", "the message has no From; write for example --from joe@example.org")
    to = list(dict.fromkeys(recipients))
    if not to:
        raise BadArgument("recipients", "the message has no To, Cc or Bcc; write for example --to ann@example.com")
    return _with_content(Envelope(_mailbox(sender), to), head, rest)


def _with_content(envelope: Envelope, head: bytes, rest: IO[bytes]) -> Message:
    content = SpooledTemporaryFile(IN_MEMORY_OCTETS)  # noqa: SIM115 - lives as long as the message
    content.write(b"".join(field for field in _FIELD.findall(head) if _name(field) != b"bcc"))
    shutil.copyfileobj(rest, content)
    size_bytes = content.tell()
    content.seek(0)
    return Message(envelope, content, size_bytes)


def _mailbox(sender: str) -> str:
    return "" if sender == "<>" else sender


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


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].strip().lower()


def _named(head: bytes, names: Sequence[bytes]) -> list[str]:
    """The addresses in these fields."""
    found = []
    for field in _FIELD.findall(head):
        if _name(field) in names:
            found += _addresses(_name(field).decode().capitalize(), field.partition(b":")[2])
    return found


def _addresses(name: str, value: bytes) -> list[str]:
    text = "".join(value.decode("utf-8", "surrogateescape").splitlines()).strip()
    addresses = [address for _, address in getaddresses([text])]
    if text and not text.endswith(";") and not all(addresses):
        raise BadArgument("recipients" if name != "From" else "sender", f"{name} cannot be read: {text[:80]!r}")
    return [address for address in addresses if address]


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
    except ValueError as problem:
        raise BadArgument("header", f"{field!r}: {problem}") from None


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


def _octets(message: EmailMessage) -> bytes:
    """Addresses that are not ASCII are written as they are (RFC 6532); what else is not is encoded."""
    people = [address for name in ("From", "To", "Cc", "Bcc") for address in message.get_all(name, ())]
    utf8 = any(not one.addr_spec.isascii() for value in people for one in value.addresses)
    try:
        return message.as_bytes(policy=_POLICY.clone(utf8=utf8))
    except ValueError as problem:
        raise BadArgument("header", f"it cannot be written: {problem}") from None

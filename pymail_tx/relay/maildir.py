"""
Delivery into a maildir: a directory with C{tmp}, C{new} and C{cur}, a file a
message, no locks (https://cr.yp.to/proto/maildir.html).

A message is written in C{tmp}, made durable, and only then renamed into C{new}:
a reader never sees half of one. Delivered is said when the rename is durable
too. All recipients of one attempt share one file, which names each of them.

Lines end in LF, as in every mailbox that a local program reads; CRLF belongs to
the wire (RFC 5321 §2.3.8).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

from attrs import frozen
from twisted.internet.defer import Deferred, succeed

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome, Peer, Report, Status, by_reason
from pymail_tx.relay.courier import Content

RunInThread = Callable[[Callable[[], None]], Deferred[None]]
"""Runs a function that blocks, away from the caller's thread; fires with its result in the caller's."""

_NOBODY = Peer()


@frozen(kw_only=True)
class MaildirCourier:
    """
    Delivers into one maildir, which is made when it is missing.

    @ivar key: see L{Courier<pymail_tx.relay.courier.Courier>}.
    @ivar path: the maildir.
    @ivar hostname: part of the files' names: other hosts may deliver here too.
    @ivar wall_clock: seconds since the epoch.
    @ivar new_token: makes a text of letters and digits that no other delivery
        of this host has.
    """

    key: str
    path: str
    hostname: str
    wall_clock: Callable[[], float]
    new_token: Callable[[], str]
    run_in_thread: RunInThread

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        """
        Deliver. A disk that is full or a directory that cannot be written
        defers: somebody will see to it. Cancelled, the delivery goes on.
        """
        return Deferred.fromCoroutine(self._send(envelope, content))

    def close(self) -> Deferred[None]:
        """There is nothing to close."""
        return succeed(None)

    async def _send(self, envelope: Envelope, content: Content) -> Report:
        name = _file_name(self.wall_clock(), self.new_token(), self.hostname)
        blocks = chain([_head(envelope)], _as_lines(content))
        try:
            await self.run_in_thread(partial(_deliver, self.path, name, blocks))
        except OSError as problem:
            status, reason = Status.DEFERRED, _reason(problem, self.path)
        else:
            status, reason = Status.DELIVERED, f"2.0.0 delivered to maildir {self.path}"
        return Report(tuple(_outcome(recipient.address, status, reason) for recipient in envelope.recipients))


def _outcome(address: str, status: Status, reason: str) -> Outcome:
    return by_reason(address, status, reason, _NOBODY)


def _file_name(now: float, token: str, hostname: str) -> str:
    """Slash and colon have a meaning there, in the file system and behind the name."""
    host = hostname.replace("/", "\\057").replace(":", "\\072")
    return f"{int(now)}.{token}.{host}"


def _head(envelope: Envelope) -> bytes:
    """What only the final delivery knows: RFC 5321 §4.4 wants the reverse-path; the recipients would be lost."""
    lines = [f"Return-Path: <{envelope.sender}>"]
    lines += [f"Delivered-To: {recipient.address}" for recipient in envelope.recipients]
    return "".join(f"{line}\n" for line in lines).encode()


_REASONS = {
    errno.ENOSPC: "4.3.1",
    errno.EDQUOT: "4.2.2",
}


def _reason(problem: OSError, path: str) -> str:
    code = _REASONS.get(problem.errno or 0, "4.2.0")
    return f"{code} cannot write into maildir {path}: {problem.strerror or problem}"


def _as_lines(content: Content) -> Iterator[bytes]:
    """The content with lines that end in LF, a block at a time; a CR at a block's end waits for what follows."""
    if isinstance(content, bytes):
        yield content.replace(b"\r\n", b"\n")
        return
    rest = b""
    while block := content.read(BLOCK_OCTETS):
        block = rest + block
        rest = b"\r" if block.endswith(b"\r") else b""
        yield block[: len(block) - len(rest)].replace(b"\r\n", b"\n")
    yield rest


def _deliver(path: str, name: str, blocks: Iterable[bytes]) -> None:
    """
    Blocks until the message is on the disk.

    @raise OSError: it is not there, not even half of it.
    """
    _make(path)
    partly, whole = os.path.join(path, "tmp", name), os.path.join(path, "new", name)
    with open(partly, "xb", opener=partial(os.open, mode=0o600)) as file:
        try:
            file.writelines(blocks)
            file.flush()
            os.fsync(file.fileno())
            os.rename(partly, whole)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partly)
            raise
    _sync_directory(os.path.dirname(whole))


def _make(path: str) -> None:
    if os.path.isdir(os.path.join(path, "new")):  # made last
        return
    os.makedirs(path, mode=0o700, exist_ok=True)
    for part in ("tmp", "cur", "new"):
        os.makedirs(os.path.join(path, part), mode=0o700, exist_ok=True)
    _sync_directory(path)
    _sync_directory(os.path.dirname(os.path.abspath(path)))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

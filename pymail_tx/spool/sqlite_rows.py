"""
Values of the interface as rows of SQLite's tables, and back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from attrs import frozen

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.outcome import Outcome, Status, TLSFacts
from pymail_tx.spool.interface import IdempotencyKey, Result
from pymail_tx.spool.queries import Value

MAX_NOTED_CHARACTERS = 500
"""Of the reason in an event. The whole reply stands in the log and in the bounce."""

Row = dict[str, Value]


def envelope_row(envelope: Envelope) -> Row:
    """What is said of a message as a whole."""
    return {
        "sender": envelope.sender,
        "envid": envelope.envid,
        "ret": envelope.ret,
        "requiretls": envelope.requiretls,
        "smtputf8": envelope.smtputf8,
    }


def recipient_row(recipient: Recipient) -> Row:
    """What is said of one delivery."""
    return {
        "recipient": recipient.address,
        "domain": recipient.mailbox.domain,
        "notify": ",".join(recipient.notify) if recipient.notify else None,
        "orcpt": recipient.orcpt,
    }


@frozen
class StoredEnvelope:
    """The first five columns of a message."""

    sender: str
    envid: str | None
    ret: str | None
    requiretls: int
    smtputf8: int

    def to(self, recipients: Iterable[Recipient]) -> Envelope:
        """The envelope that was accepted, for these recipients."""
        return Envelope(
            self.sender,
            tuple(recipients),
            envid=self.envid,
            ret=self.ret,
            requiretls=bool(self.requiretls),
            smtputf8=bool(self.smtputf8),
        )


def stored_recipient(address: str, notify: str | None, orcpt: str | None) -> Recipient:
    """The recipient that was accepted."""
    return Recipient(address, notify=notify, orcpt=orcpt)


def fingerprint(envelope: Envelope, key: IdempotencyKey) -> bytes:
    """Of all that must be the same again under a key."""
    told = (envelope_row(envelope), [recipient_row(one) for one in envelope.recipients], key.digest)
    return hashlib.sha256(repr(told).encode(errors="surrogatepass")).digest()


def is_deferred(result: Result) -> bool:
    """Whether the delivery waits for another attempt."""
    return result.outcome.status is Status.DEFERRED and result.next_attempt_at is not None


def end_state(result: Result) -> str:
    """How a delivery ended: also one deferred ends as failed, without a next time."""
    return "delivered" if result.outcome.status is Status.DELIVERED else "failed"


def noted(words: str) -> str:
    """As much of them as is kept, and nothing that is no Unicode."""
    return words[:MAX_NOTED_CHARACTERS].encode(errors="backslashreplace").decode()


def outcome_row(outcome: Outcome) -> Row:
    """What is kept of how an attempt ended."""
    return {
        "host": outcome.host,
        "port": outcome.port,
        "tls": _tls_in_words(outcome.tls),
        "why": noted(outcome.reason),
        "uncertain": outcome.uncertain,
    }


def _tls_in_words(tls: TLSFacts | None) -> str:
    if tls is None:
        return ""
    return f"{tls.version}, {'verified' if tls.verified else 'not verified'}"

"""
The failure policy of a mail transaction, apart from the protocol.

Replies and failures go into L{Verdicts} as they come; what each means for each
recipient comes out (RFC 5321 §4.2.5, §6.1). A verdict once given stands,
whatever happens to the connection afterwards.

Two refusals are not what their digit says (RFC 5321 §4.5.3.1.10): 552 to RCPT
without an enhanced code that says otherwise counts as 452, and 452 "too many
recipients" behind an accepted recipient only asks for another transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, evolve, field

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import SessionError
from pymail_tx.core.outcome import Outcome, Peer, Report, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply


@define
class Verdicts:
    """
    @ivar envelope: whose recipients are judged; they go by their index.
    @ivar peer: whom the transaction is with.
    """

    envelope: Envelope
    peer: Peer
    _given: dict[int, Outcome] = field(factory=dict)
    _accepted: list[int] = field(factory=list)
    _too_many: list[tuple[int, Reply]] = field(factory=list)

    @property
    def open(self) -> list[int]:
        """Recipients without a verdict."""
        return [index for index in range(len(self.envelope.recipients)) if self.is_open(index)]

    @property
    def complete(self) -> bool:
        """Whether every recipient has a verdict."""
        return len(self._given) == len(self.envelope.recipients)

    def is_open(self, index: int) -> bool:
        """Whether the recipient has no verdict."""
        return index not in self._given

    def rcpt(self, index: int, reply: Reply) -> None:
        """The reply to a recipient's RCPT came."""
        if reply.severity == 2:
            self._accepted.append(index)
        elif _means_too_many(reply):
            self._too_many.append((index, reply))
        else:
            self._reply(index, reply)

    def transaction_over(self) -> bool:
        """
        Every recipient of the transaction has its reply. Fix what 452 meant.

        @return: whether recipients are left that another transaction, at
            once, has a chance to deliver: the server took some before them, or
            they were not named yet.
        """
        for index, reply in self._too_many:
            if not self._accepted:
                self._given[index] = self._own(index, Status.DEFERRED, f"4.5.3 {reply}", reply)
        self._accepted, self._too_many = [], []
        return bool(self.open)

    @property
    def accepted(self) -> int:
        """How many recipients were accepted in the transaction."""
        return len(self._accepted)

    def suppose_accepted(self, places: Iterable[int]) -> None:
        """The replies to these recipients are not known."""
        self._accepted.extend(places)

    def end(self, reply: Reply) -> None:
        """The reply to end of data came: it is for the accepted recipients only."""
        for index in self._accepted:
            if self.is_open(index):
                self._reply(index, reply)

    def end_for_next(self, reply: Reply) -> None:
        """One of LMTP's replies to end of data came: they are for the accepted recipients in order (RFC 2033 §4.2)."""
        index = next((index for index in self._accepted if self.is_open(index)), None)
        if index is not None:
            self._reply(index, reply)

    def all(self, reply: Reply) -> None:
        """A reply to MAIL, DATA or anything before refused whoever is left."""
        for index in self.open:
            self._reply(index, reply)

    def refuse(self, reasons: Mapping[int, str], status: Status = Status.FAILED) -> None:
        """Verdicts of our own, before anything was sent."""
        for index, reason in reasons.items():
            self._given[index] = by_reason(self._address(index), status, reason, self.peer)

    def lost(self, error: SessionError, *, uncertain: bool) -> None:
        """
        The session ended, or none came about. Whoever is left is deferred, the
        accepted ones perhaps in vain, or failed if the server takes no mail.

        @param uncertain: end of data was written and its reply did not come.
        """
        doubtful = frozenset(self._accepted if uncertain else ())
        for index in self.open:
            doubt = index in doubtful
            reason = f"{error.enhanced} {error}" + ("; it may have been delivered" if doubt else "")
            status = Status.FAILED if error.final else Status.DEFERRED
            self._given[index] = self._own(index, status, reason, error.reply, uncertain=doubt)

    def report(self) -> Report:
        """One outcome for each recipient, in order; to be asked when none is left open."""
        return Report(tuple(self._given[index] for index in range(len(self.envelope.recipients))))

    def _reply(self, index: int, reply: Reply) -> None:
        self._given[index] = by_reply(self._address(index), reply, self.peer)

    def _own(self, index: int, status: Status, reason: str, reply: Reply | None, *, uncertain: bool = False) -> Outcome:
        outcome = by_reason(self._address(index), status, reason, self.peer, uncertain=uncertain)
        return evolve(outcome, reply=reply)

    def _address(self, index: int) -> str:
        return self.envelope.recipients[index].address


def _means_too_many(reply: Reply) -> bool:
    """Another enhanced code than x.5.3, such as 5.2.2, is about the one mailbox."""
    return reply.code in (452, 552) and (reply.enhanced is None or reply.enhanced[2:] == "5.3")

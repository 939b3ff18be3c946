"""
One message in one mail transaction (RFC 5321 §3.3): what is said for it, and
what was answered.

A L{Transaction} only takes notes. Answers wait in it until L{Transaction.settle},
when they are known to be in step, and count then; what waits when the session
ends is forgotten (L{pymail_tx.net.pipeline}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import define, field
from twisted.logger import Logger

from pymail_tx.core.command import Verb, known_path_command
from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import SessionError
from pymail_tx.core.outcome import Peer, Report, Status
from pymail_tx.core.plan import Plan
from pymail_tx.core.reply import Reply
from pymail_tx.core.verdicts import Verdicts
from pymail_tx.net.exchange import Answer, Exchange

_log = Logger()


@define(eq=False)
class Sending:
    """
    One message on its way.

    @ivar done: hears what became of it, once.
    @ivar progress: hears how many octets of the content were sent so far.
    @ivar verdicts: what is sure so far.
    @ivar cancelled: nobody wants it sent any more.
    @ivar returned: it came back from one session unsent already.
    """

    envelope: Envelope
    content: Content
    done: Callable[[Sending, Report], object]
    progress: Callable[[int], object] | None = None
    verdicts: Verdicts = field(init=False)
    cancelled: bool = False
    returned: bool = False

    def __attrs_post_init__(self) -> None:
        self.verdicts = Verdicts(self.envelope, Peer())

    def sent(self, octets: int) -> None:
        """So many octets of the content, in all."""
        if self.progress:
            self._tell(self.progress, octets)

    def _tell(self, progress: Callable[[int], object], octets: int) -> None:
        try:
            progress(octets)
        except Exception:  # noqa: BLE001 - the application's function may raise what it likes
            self.progress = None
            _log.failure("a function that was to hear of progress failed, and is not called again")

    def end(self) -> None:
        """Every recipient has a verdict: say so."""
        self.done(self, self.verdicts.report())

    def defer(self, reason: str) -> None:
        """Whoever is left has to wait, for a reason of ours."""
        self.verdicts.refuse(dict.fromkeys(self.verdicts.open, reason), Status.DEFERRED)
        self.end()

    def lost(self, error: SessionError) -> None:
        """No session, or none any more, and nothing of the message was sent that could count."""
        self.verdicts.lost(error, uncertain=False)
        self.end()


@define(eq=False)
class Transaction:
    """
    @ivar places: the recipients that are named in it, by their index.
    @ivar by_chunk: the content goes with BDAT.
    @ivar content_flows: it is being sent, block by block.
    @ivar content_sent: all of it is, with whatever says that this is all.
    @ivar over: no more answers come.
    @ivar chunk_refusal: the reply that refused a chunk before the last.
    @ivar is_answered: whether it is known that the server has heard of it.
    """

    sending: Sending
    planned: Plan
    places: Sequence[int]
    by_chunk: bool
    content_flows: bool = False
    content_sent: bool = False
    over: bool = False
    is_answered: bool = False
    chunk_refusal: Reply | None = None
    _mail: list[Answer] = field(factory=list)
    _recipients: list[Answer] = field(factory=list)
    _deliveries: list[Answer] = field(factory=list)
    _mail_reply: Reply | None = None
    _final: Reply | None = None
    _settled_recipients: int = 0

    # What is said

    def envelope(self) -> list[Exchange]:
        """MAIL and each RCPT."""
        mail = Exchange(Verb.MAIL, self._mail_command() + b"\r\n", self._mail.append)
        lines = [self._rcpt_command(place) + b"\r\n" for place in self.places]
        return [mail, *[Exchange(Verb.RCPT, line, self._recipients.append) for line in lines]]

    def lines(self) -> bytes:
        """The same as octets."""
        return b"\r\n".join((self._mail_command(), *map(self._rcpt_command, self.places), b""))

    def _mail_command(self) -> bytes:
        reverse_path = self.sending.envelope.reverse_path
        path = reverse_path.path(utf8=self._utf8) if reverse_path else b""
        return known_path_command(Verb.MAIL, path, self.planned.mail_parameters)

    def _rcpt_command(self, place: int) -> bytes:
        mailbox = self.sending.envelope.recipients[place].mailbox
        parameters = self.planned.rcpt_parameters.get(place, ())
        return known_path_command(Verb.RCPT, mailbox.path(utf8=self._utf8), parameters)

    @property
    def _utf8(self) -> bool:
        return "SMTPUTF8" in self.planned.mail_parameters

    # What was answered

    def recipient_answered(self, answer: Answer) -> None:
        """To RCPT; for who wants to hear of it as well."""
        self._recipients.append(answer)

    def envelope_accepted(self, mail: Reply, recipients: Iterable[Reply]) -> None:
        """What L{envelope} would have noted down."""
        self._mail.append(mail)
        self._recipients.extend(recipients)

    def deliveries(self) -> list[Exchange]:
        """LMTP's replies to the end of data, one for each accepted recipient, but the last (RFC 2033 §4.2)."""
        return [Exchange(Verb.DELIVERY, b"", self._deliveries.append) for _ in range(self.accepted - 1)]

    def first_chunk_answered(self, answer: Answer) -> None:
        """To a chunk that is not the last."""
        if isinstance(answer, Reply) and answer.severity != 2:
            self.chunk_refusal = answer

    def finally_answered(self, reply: Reply | None) -> None:
        """
        The last reply: to the end of data, the last chunk, or the DATA that was
        refused; C{None} if DATA was not sent.
        """
        self._final, self.over = reply, True

    def is_answered_by(self, reply: Reply | None) -> bool:
        """Whether this is all that was ever answered: the reply to MAIL."""
        return reply is not None and self._mail_reply is reply

    @property
    def accepted(self) -> int:
        """How many recipients were accepted, if the answers are in step."""
        waiting = [answer for answer in self._recipients if isinstance(answer, Reply) and answer.severity == 2]
        return self.sending.verdicts.accepted + len(waiting)

    # What counts

    def settle(self) -> None:
        """Every answer so far was in step. One that is no reply says that there is none."""
        verdicts = self.sending.verdicts
        if self._mail:
            self._settle_mail(self._mail.pop())
        for answer in self._recipients:
            self._settle_recipient(answer)
        self._recipients.clear()
        for answer in self._deliveries:
            if isinstance(answer, Reply):
                verdicts.end_for_next(answer)
        self._deliveries.clear()
        if self._final:
            verdicts.end(self._final)
            self._final = None

    def _settle_mail(self, answer: Answer) -> None:
        if not isinstance(answer, Reply):
            return
        self.is_answered, self._mail_reply = True, answer
        if answer.severity != 2:
            self.sending.verdicts.all(answer)

    def _settle_recipient(self, answer: Answer) -> None:
        place = self.places[self._settled_recipients]
        self._settled_recipients += 1
        if isinstance(answer, Reply) and self.sending.verdicts.is_open(place):
            self.sending.verdicts.rcpt(place, answer)

    def finish(self) -> bool:
        """
        It is over and settled.

        @return: whether recipients are left for another transaction.
        """
        verdicts = self.sending.verdicts
        return not verdicts.complete and verdicts.transaction_over()

    def lost(self, error: SessionError) -> None:
        """The session ended; what waits here does not count."""
        sending, verdicts = self.sending, self.sending.verdicts
        if self.content_sent:
            verdicts.suppose_accepted(self.places[self._settled_recipients :])
        verdicts.lost(error, uncertain=self.content_sent)
        sending.end()

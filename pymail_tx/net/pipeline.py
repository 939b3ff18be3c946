"""
Mail transactions over one session, one behind the other.

MAIL, every RCPT and DATA go out in one write where the server pipelines, and so
do the end of one message's data and the envelope of the next (RFC 2920 §3.1
allows it). Where it takes chunks (RFC 3030), whole transactions do. That saves
round trips, and has one danger: a single reply too many shifts all that follow,
and a refused message looks accepted. So a L{Pipeline} believes nothing that is
not proved to be in step:

  - 354 comes to DATA only. In its place it proves whatever was said before.
  - Each message behind another begins with RSET, which nobody refuses: replies
    that changed places across the border of two messages are found out, and no
    recipient of one joins the sender of another that was refused in its middle.
  - Messages in a row end with EHLO, whose reply is known by its shape. So does
    a single message that goes by BDAT: no 354 stands before its verdict.
  - A single message that goes by DATA, with nothing behind it, needs no proof:
    it is as safe as with any client.

If a session ends before the proof, none of the unproved replies counts, good
or bad: the message is deferred, and uncertain if its content was sent.

One message's way::

    start, or taken behind another
      -> MAIL, RCPT…, DATA      _begin
      -> 354                    _data_answered: proves what came before
      -> content, dot           _send_content, and the next message or the EHLO in the same write
      -> 250                    _content_answered
      -> proved                 _prove: the report goes out

    or, with chunks
      -> MAIL, RCPT…, BDAT and content, and the next messages or the EHLO in the same write
      -> 250                    _chunk_answered
      -> proved
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IConsumer

from pymail_tx.core.command import Verb
from pymail_tx.core.errors import ContentUnreadable, ProtocolViolation, SessionError
from pymail_tx.core.limits import ServerLimits, domains_of, transaction_of
from pymail_tx.core.plan import plan
from pymail_tx.core.reply import Reply
from pymail_tx.core.state import State
from pymail_tx.net.exchange import Answer, Exchange, Volley
from pymail_tx.net.flow import Flow
from pymail_tx.net.transaction import Sending, Transaction

if TYPE_CHECKING:
    from pymail_tx.net.protocol import SMTPClient

MAX_BURST_MESSAGES = 50
"""Whole transactions in one write. What is lost with the session is uncertain, so that there should not be too many."""

MAX_BURST_OCTETS = 262_144
"""Content in one write, which waits in memory."""

_CLOSES_THE_SESSION = 421

_KNOWS_NO_BDAT = frozenset({500, 502})


class Owner(Protocol):
    """Where a pipeline gets its messages from."""

    def take(self) -> Sending | None:
        """The next message to go out behind the present one, if there is one."""
        ...

    def has_more(self) -> bool:
        """Whether L{take} has one now, as far as is known."""
        ...

    def give_back(self, sending: Sending) -> None:
        """The session ended before anything of this message was sent: it can go over another."""
        ...

    def at_rest(self, *, reusable: bool) -> None:
        """Everything is sent and proved; the session may not be good for further messages."""
        ...

    def ended(self) -> None:
        """The session ended early, and whatever was under way has been told."""
        ...


class Pipeline:
    """
    See the module's head.

    @ivar out_of_step: the session ended in a way that unproved replies may
        explain; its host should not get messages in a row again.
    @ivar knows_no_bdat: the host offered CHUNKING and does not know BDAT.
    """

    def __init__(
        self, client: SMTPClient, *, owner: Owner | None = None, ehlo: bytes = b"", chunking: bool = False
    ) -> None:
        """
        @param owner: where more messages come from; none without.
        @param ehlo: the EHLO or LHLO line that proves messages in a row;
            without it, and without PIPELINING, each waits for the one before.
        @param chunking: whether BDAT may be used where it is offered.
        """
        self.out_of_step = False
        self.knows_no_bdat = False
        self._client = client
        self._owner = owner
        self._peer = client.peer()
        offers = client.extensions
        self._ehlo = ehlo if "PIPELINING" in offers else b""
        self._by_chunk = chunking and bool(self._ehlo) and "CHUNKING" in offers and not client.lmtp
        self._row: deque[Transaction] = deque()
        self._again: list[Sending] = []
        self._is_row = False
        self._proving = False
        self._begun = 0
        self._burst_messages = self._burst_octets = 0
        self._limits = ServerLimits.of(offers)
        self._domains: frozenset[str] = frozenset()
        self._is_worn_out = False
        client.on_end = self._session_ended

    def start(self, sending: Sending) -> None:
        """Send a message. Nothing else may be under way."""
        if not self._begin(sending):
            self._go_on()

    def cancel(self, sending: Sending) -> None:
        """
        Do not send it if that can be helped: the session ends without its dot,
        once the messages before it are proved. If its content is sent and
        others are behind it, it is too late.
        """
        sending.cancelled = True
        if sending in self._again:
            self._again.remove(sending)
        if not self._row or self._row[-1].sending is not sending:
            return
        if self._row[-1].content_flows or len(self._row) == 1:
            self._client.abort("cancelled")

    # One message, from MAIL to its last reply

    def _go_on(self) -> None:
        """Nothing is under way: take the next, or prove what was sent, or rest."""
        if self._client.ended_by:
            return
        while sending := self._take():
            if self._begin(sending):
                return
        if self._is_row:
            self._say_proof()
            return
        if self._client.hopes() in (State.TRANSACTION, State.ADDRESSED):
            self._client.say(self._reset())
        if self._owner:
            self._owner.at_rest(reusable=not (self._is_worn_out or self._is_spent))

    def _take(self) -> Sending | None:
        if self._again:
            return self._again.pop(0)
        return self._owner.take() if self._owner and not self._is_worn_out else None

    def _begin(self, sending: Sending) -> bool:
        """
        @return: whether it is under way; else its report is out already.
        """
        client, verdicts = self._client, sending.verdicts
        verdicts.peer = self._peer
        envelope = sending.envelope
        try:
            planned = plan(envelope, sending.content, client.extensions, chunking=self._by_chunk, tls=self._peer.tls)
        except OSError as problem:  # what is to be re-encoded is read here
            sending.lost(_unreadable(str(problem)))
            return False
        if planned.refused and client.assumed is not None:
            self._ask_in_another(Transaction(sending, planned, (), by_chunk=False))
            return True
        verdicts.refuse(planned.refused)
        if client.ended_by:
            verdicts.lost(client.ended_by, uncertain=False)
        if verdicts.complete:
            sending.end()
            return False
        places = transaction_of(verdicts.open, envelope, self._limits, domains=self._domains)
        if not places or self._is_spent:
            self._leave_to_another(sending)
            return False
        if self._limits.rcpt_domain_max is not None:
            self._domains |= domains_of(places, envelope)
        self._begun += 1
        self._say_transaction(Transaction(sending, planned, places, by_chunk=self._by_chunk))
        return True

    @property
    def _is_spent(self) -> bool:
        """Whether the server takes no further transaction in this session (RFC 9422 §4.1)."""
        return self._limits.mail_max is not None and self._begun >= self._limits.mail_max

    def _leave_to_another(self, sending: Sending) -> None:
        """The server said that it takes no more of this in one session."""
        self._is_worn_out = True
        if self._owner:
            self._owner.give_back(sending)
        else:
            sending.defer("4.5.3 the server takes no more in this session")

    def _ask_in_another(self, transaction: Transaction) -> None:
        """What the server is only assumed to offer fails nobody."""
        self._row.append(transaction)
        self._client.abort("a message needs what the server did not offer before")

    def _say_transaction(self, transaction: Transaction) -> None:
        client = self._client
        reset = bool(self._row) or client.hopes() is not State.READY
        self._row.append(transaction)
        if not transaction.by_chunk:
            client.say_all(self._data_volley(transaction, reset=reset))
        elif client.assumed is not None or not transaction.planned.content.is_short:
            exchanges = self._envelope(transaction, reset=reset)
            exchanges[-1].answered = partial(self._last_recipient_answered, transaction)
            client.say(*exchanges)
        else:
            with client.group():
                client.say_all(self._chunk_volley(transaction, reset=reset))
                self._follow()

    def _data_volley(self, transaction: Transaction, *, reset: bool) -> Volley:
        return Volley(
            _verbs(len(transaction.places), reset, Verb.DATA),
            b"".join((b"RSET\r\n" if reset else b"", transaction.lines(), b"DATA\r\n")),
            partial(self._envelope_accepted, transaction, reset),
            partial(self._envelope_and_data, transaction, reset=reset),
        )

    def _envelope_accepted(self, transaction: Transaction, reset: bool, replies: Sequence[Reply]) -> None:
        transaction.envelope_accepted(replies[reset], replies[reset + 1 : -1])
        self._go_ahead(transaction)

    def _envelope_and_data(self, transaction: Transaction, *, reset: bool) -> list[Exchange]:
        data = Exchange(Verb.DATA, b"DATA\r\n", partial(self._data_answered, transaction))
        return [*self._envelope(transaction, reset=reset), data]

    def _envelope(self, transaction: Transaction, *, reset: bool) -> list[Exchange]:
        return [self._reset(), *transaction.envelope()] if reset else transaction.envelope()

    def _reset(self) -> Exchange:
        return Exchange(Verb.RSET, b"RSET\r\n", self._reset_answered)

    def _reset_answered(self, answer: Answer) -> None:
        if isinstance(answer, Reply) and answer.severity != 2:
            self._violated(f"a refusal of RSET: {answer}")

    # The content, by DATA

    def _data_answered(self, transaction: Transaction, answer: Answer) -> None:
        if isinstance(answer, SessionError):
            return
        if isinstance(answer, Reply) and answer.severity == 3:
            self._go_ahead(transaction)
        else:
            self._transaction_over(transaction, answer if isinstance(answer, Reply) else None)

    def _go_ahead(self, transaction: Transaction) -> None:
        """
        A 354 in its place: send the content, and report what it proves. Which
        comes first changes nothing but the time: if there is more to send than
        this, the server can get to work while we report.
        """
        certain = transaction.planned.content.is_short and not transaction.sending.cancelled
        if certain and self._client.state is State.CONTENT and self._owner and self._owner.has_more():
            self._send_content(transaction)
            self._prove()
        else:
            self._prove()
            self._send_content(transaction)

    def _send_content(self, transaction: Transaction) -> None:
        client, content = self._client, transaction.planned.content
        client.when_content_answered(partial(self._content_answered, transaction))
        if client.ended_by:
            return  # it was refused together with the 354
        if transaction.sending.cancelled:
            client.abort("cancelled")
        elif client.state is State.NOTHING_TO_SEND:
            self._send_lone_dot()
        elif content.is_short:
            self._end_content(transaction, transaction.planned.octets(double_dots=True))
        else:
            self._start_flow(transaction, partial(self._put, transaction))

    def _send_lone_dot(self) -> None:
        """
        Everybody was refused, and still the server wants content. A lone dot
        is the way out; its reply is nobody's delivery (RFC 2920 §3.1). LMTP
        has no reply for nobody (RFC 2033 §4.2).
        """
        if self._client.lmtp:
            self._client.violated("content is asked for, and there is no recipient")
        else:
            self._client.end_of_data()

    def _put(self, transaction: Transaction, block: bytes) -> bool:
        if self._client.state is not State.CONTENT:
            return False
        self._client.send_content(block)
        return True

    def _end_content(self, transaction: Transaction, last: bytes) -> None:
        client = self._client
        with client.group():
            client.end_of_data(last, deliveries=transaction.deliveries() if client.lmtp else ())
            if not client.ended_by:
                self._content_sent(transaction)
                self._follow()

    def _content_answered(self, transaction: Transaction, answer: Answer) -> None:
        if isinstance(answer, Reply):
            self._transaction_over(transaction, answer)

    # The content, by BDAT

    def _chunk_volley(self, transaction: Transaction, *, reset: bool) -> Volley:
        chunks = self._chunks(transaction)
        verbs = [chunk.verb for chunk in chunks]
        return Volley(
            _verbs(len(transaction.places), reset, *verbs),
            b"".join((b"RSET\r\n" if reset else b"", transaction.lines(), *[chunk.line for chunk in chunks])),
            partial(self._all_accepted, transaction, reset, len(chunks)),
            lambda: [*self._envelope(transaction, reset=reset), *chunks],
        )

    def _all_accepted(self, transaction: Transaction, reset: bool, chunks: int, replies: Sequence[Reply]) -> None:
        transaction.envelope_accepted(replies[reset], replies[reset + 1 : -chunks])
        self._chunk_answered(transaction, replies[-1])

    def _chunks(self, transaction: Transaction) -> list[Exchange]:
        """
        The whole content as the last chunk; it is as good as sent. If there are
        several recipients, an empty last chunk follows it: were the replies to
        the last RCPT and to the only chunk to change places, nothing would show it.
        """
        content = transaction.planned.octets(double_dots=False)
        self._burst_messages += 1
        self._burst_octets += len(content)
        self._content_sent(transaction)
        answered = partial(self._chunk_answered, transaction)
        if len(transaction.places) == 1:
            return [Exchange(Verb.BDAT, b"BDAT %d LAST\r\n%b" % (len(content), content), answered)]
        first = Exchange(Verb.CHUNK, b"BDAT %d\r\n%b" % (len(content), content), transaction.first_chunk_answered)
        return [first, Exchange(Verb.BDAT, b"BDAT 0 LAST\r\n", answered)]

    def _last_recipient_answered(self, transaction: Transaction, answer: Answer) -> None:
        """Content of more than a block, or before the greeting, waits until it is known that somebody wants it."""
        transaction.recipient_answered(answer)
        if not isinstance(answer, Reply):
            return
        client, planned = self._client, transaction.planned
        if transaction.sending.cancelled:
            client.abort("cancelled")
        elif not transaction.accepted:
            self._transaction_over(transaction, None)
        else:
            line = b"BDAT %d LAST\r\n" % planned.chunk_octets
            client.say(Exchange(Verb.BDAT, line, partial(self._chunk_answered, transaction)))
            self._start_flow(transaction, partial(self._put_chunk, transaction))

    def _put_chunk(self, transaction: Transaction, block: bytes) -> bool:
        if transaction.over or self._client.ended_by:
            return False
        self._client.send_of_chunk(block)
        return True

    def _chunk_answered(self, transaction: Transaction, answer: Answer) -> None:
        if not isinstance(answer, Reply):
            return
        verdict = transaction.chunk_refusal or answer
        if verdict.code in _KNOWS_NO_BDAT and transaction.accepted:
            # Octets of the content may be running as commands. Nor is it known
            # whether this is the reply to BDAT: the message is in doubt.
            self.knows_no_bdat = True
            self._client.violated(f"CHUNKING was offered, and BDAT is not known: {verdict}")
        elif answer.severity == 2 and transaction.chunk_refusal:
            self._violated(f"a yes behind the refusal of a chunk: {answer}")
        elif not transaction.content_flows:
            self._transaction_over(transaction, verdict)
        elif answer.severity == 2:
            self._violated(f"a yes to a chunk that is not sent yet: {answer}")
        else:
            transaction.finally_answered(answer)
            if self._row[0] is transaction:
                self._prove()  # not all of it is sent, so that at worst a message is refused by words for another
            self._client.abort(f"the server refused the content: {answer}")

    # The content, however it goes

    def _start_flow(self, transaction: Transaction, put: Callable[[bytes], bool]) -> None:
        transaction.content_flows = True
        flow = Flow(IConsumer(self._client.transport), self._blocks(transaction), put, self._cannot_go_on)
        flow.start(partial(self._all_put, transaction))

    def _blocks(self, transaction: Transaction) -> Iterator[bytes]:
        sent, size = 0, transaction.planned.content.survey.size_bytes
        for block in transaction.planned.blocks(double_dots=not transaction.by_chunk):
            yield block
            sent += len(block)  # with the dots that were doubled
            transaction.sending.sent(min(sent, size))

    def _all_put(self, transaction: Transaction) -> None:
        transaction.content_flows = False
        if transaction.by_chunk:
            self._client.end_of_chunk()
            self._content_sent(transaction)
            self._follow()
        else:
            self._end_content(transaction, b"")

    def _cannot_go_on(self, problem: str) -> None:
        self._client.fail(_unreadable(problem))

    def _content_sent(self, transaction: Transaction) -> None:
        transaction.content_sent = True
        self._is_row = self._is_row or transaction.by_chunk
        transaction.sending.sent(transaction.planned.content.survey.size_bytes)

    def _follow(self) -> None:
        """Behind the content, in the same write: the next message, or what proves those in a row."""
        if not self._ehlo:
            return
        while self._has_room() and (sending := self._take()):
            was_row, self._is_row = self._is_row, True
            if self._begin(sending):
                return
            self._is_row = was_row
        if self._is_row:
            self._say_proof()

    def _has_room(self) -> bool:
        if self._is_spent:
            return False
        return self._burst_messages < MAX_BURST_MESSAGES and self._burst_octets < MAX_BURST_OCTETS

    def _transaction_over(self, transaction: Transaction, final: Reply | None) -> None:
        transaction.finally_answered(final)
        is_last = self._row[-1] is transaction
        if not self._is_row or self._client.content_refusal:
            self._prove()
        if is_last and not self._proving:
            self._go_on()

    # Proof

    def _say_proof(self) -> None:
        self._proving = True
        verb = Verb.LHLO if self._client.lmtp else Verb.EHLO
        self._client.say(Exchange(verb, self._ehlo, self._proof_answered))

    def _proof_answered(self, answer: Answer) -> None:
        if isinstance(answer, SessionError) or self.out_of_step:
            return  # what is out of step already is not put right by what came in the same packet
        if not (isinstance(answer, Reply) and answer.code == 250 and "PIPELINING" in self._client.extensions):
            self._violated(f"replies out of step: {answer} to the EHLO behind messages in a row")
            return
        self._is_row = self._proving = False
        self._burst_messages = self._burst_octets = 0
        self._prove()
        self._go_on()

    def _violated(self, problem: str) -> None:
        """No reply counts that is not proved, nor proves what is behind it."""
        self.out_of_step = self._is_row
        self._client.violated(problem)

    def _prove(self) -> None:
        """Every reply so far was in step."""
        if self.out_of_step:
            return
        for transaction in self._row:
            transaction.settle()
        while self._row and self._row[0].over:
            self._report(self._row.popleft())

    def _report(self, transaction: Transaction) -> None:
        sending = transaction.sending
        if not transaction.finish():
            sending.end()
        elif self._client.ended_by:
            sending.lost(self._client.ended_by)
        elif not sending.cancelled:
            self._again.append(sending)

    def _session_ended(self, error: SessionError) -> None:
        self.out_of_step = self._is_row and isinstance(error, ProtocolViolation) and not self.knows_no_bdat
        row, self._row = self._row, deque()
        again, self._again = self._again, []
        returned: list[Sending] = []
        for transaction in row:
            if not self._is_row:
                transaction.settle()
            if self._can_go_elsewhere(transaction, error):
                transaction.sending.returned = True
                returned.append(transaction.sending)
            else:
                transaction.lost(error)
        for sending in again:
            sending.lost(error)
        if self._owner:
            for sending in reversed(returned):
                self._owner.give_back(sending)
            self._owner.ended()

    def _can_go_elsewhere(self, transaction: Transaction, error: SessionError) -> bool:
        """
        Over another session, at once: the server has not heard of it, or closed
        the session when it did.
        """
        sending = transaction.sending
        if self._owner is None or sending.returned or sending.cancelled:
            return False
        is_good_bye = error.reply is not None and error.reply.code == _CLOSES_THE_SESSION
        untouched = not transaction.is_answered or (is_good_bye and transaction.is_answered_by(error.reply))
        another_may_do = self._begun > 1 or self._client.assumed is not None
        return another_may_do and not transaction.content_sent and untouched


@lru_cache(maxsize=256)
def _verbs(recipients: int, reset: bool, *content: Verb) -> tuple[Verb, ...]:
    """Of a volley that names so many recipients."""
    return (*[Verb.RSET] * reset, Verb.MAIL, *[Verb.RCPT] * recipients, *content)


def _unreadable(problem: str) -> ContentUnreadable:
    return ContentUnreadable(f"the content cannot be read: {problem}")

"""
Mail transactions over one session, one behind the other (RFC 5321 §3.3).

MAIL, every RCPT and DATA go out in one write where the server pipelines, and so
do the end of one message's data and the envelope of the next (RFC 2920 §3.1
allows it). That saves a round trip a message, and has one danger: a single
reply too many shifts all that follow, and a refused message looks accepted. So
a L{Pipeline} believes nothing that is not proved to be in step:

  - 354 comes to DATA only. In its place it proves whatever was said before.
  - Messages in a row end with EHLO, whose reply is known by its shape.
  - A single message, with nothing behind it, needs no proof: it is as safe as
    with any client.

If a session ends before the proof, none of the unproved replies counts, good
or bad: the message is deferred, and uncertain if its content was sent.

One message's way::

    start, or taken behind another
      -> MAIL, RCPT…, DATA      _begin
      -> 354                    _data_answered: proves what came before
      -> content, dot           _send_content, and the next message or the EHLO in the same write
      -> 250                    _content_answered
      -> proved                 _prove: the report goes out
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from attrs import define, field
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

from pymail_tx.core.command import Verb, path_command
from pymail_tx.core.content import encoded
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import ProtocolViolation, SessionError
from pymail_tx.core.outcome import Peer, Report
from pymail_tx.core.plan import Plan, plan
from pymail_tx.core.reply import Reply
from pymail_tx.core.state import State
from pymail_tx.core.verdicts import Verdicts
from pymail_tx.net.dialogue import Exchange

if TYPE_CHECKING:
    from pymail_tx.net.protocol import SMTPClient

BLOCK_OCTETS = 65_536
"""What is encoded and handed to the transport at a time; a transport asks to pause at about this much."""


@define(eq=False)
class Sending:
    """
    One message on its way.

    @ivar done: hears what became of it, once.
    @ivar verdicts: what is sure so far.
    @ivar cancelled: nobody wants it sent any more.
    @ivar returned: it came back from one session unsent already.
    """

    envelope: Envelope
    content: bytes = field(repr=lambda content: f"<{len(content)} octets>")
    done: Callable[[Report], object]
    verdicts: Verdicts = field(init=False)
    cancelled: bool = False
    returned: bool = False

    def __attrs_post_init__(self) -> None:
        self.verdicts = Verdicts(self.envelope, Peer())


class Owner(Protocol):
    """Where a pipeline gets its messages from."""

    def take(self) -> Sending | None:
        """The next message to go out behind the present one, if there is one."""
        ...

    def give_back(self, sending: Sending) -> None:
        """The session ended before anything of this message was sent: it can go over another."""
        ...

    def at_rest(self) -> None:
        """Everything is sent and proved."""
        ...

    def ended(self) -> None:
        """The session ended early, and whatever was under way has been told."""
        ...


@define(eq=False)
class _Message:
    """
    A message in its transaction.

    @ivar draft: its verdicts with what the server said since; C{sending}'s own
        as soon as that is proved.
    @ivar places: recipients whose RCPT was not answered yet.
    @ivar final: the reply that ended the transaction.
    """

    sending: Sending
    planned: Plan
    draft: Verdicts
    places: Iterator[int]
    heard: bool = False
    content_sent: bool = False
    over: bool = False
    final: Reply | None = None

    @property
    def proved(self) -> bool:
        """Whether what the server said of it is known to be in step."""
        return self.draft is self.sending.verdicts

    def mail_answered(self, answer: object) -> None:
        self.heard = True
        if isinstance(answer, Reply) and answer.severity != 2:
            self.draft.all(answer)

    def rcpt_answered(self, answer: object) -> None:
        place = next(self.places)
        if isinstance(answer, Reply) and self.draft.is_open(place):
            self.draft.rcpt(place, answer)

    def prove(self) -> None:
        self.sending.verdicts = self.draft


class Pipeline:
    """
    See the module's head.

    @ivar out_of_step: the session ended in a way that unproved replies may
        explain; its host should not get messages in a row again.
    """

    def __init__(self, client: SMTPClient, *, owner: Owner | None = None, ehlo: bytes = b"") -> None:
        """
        @param owner: where more messages come from; none without.
        @param ehlo: the EHLO line that proves messages in a row; without it,
            and without PIPELINING, each waits for the one before.
        """
        self.out_of_step = False
        self._client = client
        self._owner = owner
        self._ehlo = ehlo
        self._peer = client.peer()
        self._row: deque[_Message] = deque()
        self._again: deque[Sending] = deque()
        self._is_row = False
        self._proving = False
        self._begun = 0
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
        if not self._row or self._row[-1].sending is not sending:
            return
        flows = self._client.state is State.CONTENT and not self._row[-1].content_sent
        if flows or len(self._row) == 1:
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
            self._reset()
        if self._owner:
            self._owner.at_rest()

    def _take(self) -> Sending | None:
        if self._again:
            return self._again.popleft()
        return self._owner.take() if self._owner else None

    def _begin(self, sending: Sending) -> bool:
        """
        @return: whether it is under way; else its report is out already.
        """
        client, verdicts = self._client, sending.verdicts
        verdicts.peer = self._peer
        planned = plan(sending.envelope, sending.content, client.extensions)
        verdicts.refuse(planned.refused)
        if client.ended_by:
            verdicts.lost(client.ended_by, uncertain=False)
        places = verdicts.open
        if not places:
            sending.done(verdicts.report())
            return False
        draft = verdicts.copy() if self._is_row else verdicts
        message = _Message(sending, planned, draft, iter(places))
        self._row.append(message)
        self._begun += 1
        self._say_envelope(message, places)
        return True

    def _say_envelope(self, message: _Message, places: list[int]) -> None:
        client, envelope = self._client, message.sending.envelope
        utf8 = "SMTPUTF8" in message.planned.parameters
        sender = envelope.reverse_path.path(utf8=utf8) if envelope.reverse_path else b""
        mail = path_command(Verb.MAIL, sender, message.planned.parameters)
        with client.group():
            if client.hopes() is not State.READY:
                self._reset()
            client.say(Exchange(Verb.MAIL, mail + b"\r\n", message.mail_answered))
            for place in places:
                rcpt = path_command(Verb.RCPT, envelope.recipients[place].mailbox.path(utf8=utf8), ())
                client.say(Exchange(Verb.RCPT, rcpt + b"\r\n", message.rcpt_answered))
            client.say(Exchange(Verb.DATA, b"DATA\r\n", partial(self._data_answered, message)))

    def _reset(self) -> None:
        """The transaction before was refused in the middle: the server is still in it."""
        self._client.say(Exchange(Verb.RSET, b"RSET\r\n", self._reset_answered))

    def _reset_answered(self, answer: object) -> None:
        if isinstance(answer, Reply) and answer.severity != 2:
            self._client.violated(f"a refusal of RSET: {answer}")

    def _data_answered(self, message: _Message, answer: object) -> None:
        if isinstance(answer, SessionError):
            return
        if isinstance(answer, Reply) and answer.severity == 3:
            self._prove()
            self._send_content(message)
        else:
            self._transaction_over(message, answer if isinstance(answer, Reply) else None)

    def _send_content(self, message: _Message) -> None:
        client = self._client
        client.when_content_answered(partial(self._content_answered, message))
        if client.ended_by:
            return  # it was refused together with the 354
        if message.sending.cancelled:
            client.abort("cancelled")
        elif client.state is State.NOTHING_TO_SEND:
            # Everybody was refused, and still the server wants content. A lone
            # dot is the way out; its reply is nobody's delivery (RFC 2920 §3.1).
            client.end_of_data()
        elif len(message.planned.content) <= BLOCK_OCTETS:
            self._end_content(message, b"".join(encoded([message.planned.content])))
        else:
            _Flow(client, encoded(_blocks(message.planned.content)), partial(self._end_content, message, b"")).start()

    def _end_content(self, message: _Message, last: bytes) -> None:
        with self._client.group():
            self._client.end_of_data(last)
            if self._client.ended_by:
                return
            message.content_sent = True
            self._follow()

    def _follow(self) -> None:
        """Behind the dot, in the same write: the next message, or what proves those in a row."""
        if not self._ehlo or "PIPELINING" not in self._client.extensions:
            return
        while sending := self._take():
            was_row, self._is_row = self._is_row, True
            if self._begin(sending):
                return
            self._is_row = was_row
        if self._is_row:
            self._say_proof()

    def _content_answered(self, message: _Message, answer: object) -> None:
        if isinstance(answer, Reply):
            self._transaction_over(message, answer)

    def _transaction_over(self, message: _Message, final: Reply | None) -> None:
        message.final, message.over = final, True
        is_last = self._row[-1] is message
        if not self._is_row or self._client.content_refusal:
            self._prove()
        if is_last and not self._proving:
            self._go_on()

    # Proof

    def _say_proof(self) -> None:
        self._proving = True
        self._client.say(Exchange(Verb.EHLO, self._ehlo, self._proof_answered))

    def _proof_answered(self, answer: object) -> None:
        if isinstance(answer, SessionError):
            return
        if not (isinstance(answer, Reply) and answer.code == 250 and "PIPELINING" in self._client.extensions):
            self._client.violated(f"replies out of step: {answer} to the EHLO behind messages in a row")
            return
        self._is_row = self._proving = False
        self._prove()
        self._go_on()

    def _prove(self) -> None:
        """Every reply so far was in step."""
        proved = list(self._row)
        while self._row and self._row[0].over:
            self._row.popleft()
        for message in proved:
            message.prove()
            if message.over:
                self._report(message)

    def _report(self, message: _Message) -> None:
        sending, verdicts = message.sending, message.sending.verdicts
        if message.final:
            verdicts.end(message.final)
        if not verdicts.transaction_over():
            sending.done(verdicts.report())
        elif self._client.ended_by:
            verdicts.lost(self._client.ended_by, uncertain=False)
            sending.done(verdicts.report())
        else:
            self._again.append(sending)

    def _session_ended(self, error: SessionError) -> None:
        self.out_of_step = self._is_row and isinstance(error, ProtocolViolation)
        row, self._row = self._row, deque()
        again, self._again = self._again, deque()
        for message in row:
            sending = message.sending
            untouched = not message.content_sent and not (message.proved and message.heard)
            if untouched and self._owner and self._begun > 1 and not (sending.returned or sending.cancelled):
                sending.returned = True
                self._owner.give_back(sending)
            else:
                sending.verdicts.lost(error, uncertain=message.content_sent)
                sending.done(sending.verdicts.report())
        for sending in again:
            sending.verdicts.lost(error, uncertain=False)
            sending.done(sending.verdicts.report())
        if self._owner:
            self._owner.ended()


def _blocks(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(content), BLOCK_OCTETS):
        yield bytes(view[start : start + BLOCK_OCTETS])


@implementer(IPushProducer)
class _Flow:
    """Sends blocks as fast as the transport takes them."""

    def __init__(self, client: SMTPClient, blocks: Iterator[bytes], sent: Callable[[], None]) -> None:
        self._client = client
        self._blocks = blocks
        self._sent = sent
        self._paused = True

    def start(self) -> None:
        """Begin."""
        IConsumer(self._client.transport).registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        while not self._paused and self._client.state is State.CONTENT:
            block = next(self._blocks, None)
            if block is None:
                self._paused = True
                IConsumer(self._client.transport).unregisterProducer()
                self._sent()
                return
            self._client.send_content(block)

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

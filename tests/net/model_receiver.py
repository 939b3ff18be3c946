"""
A receiver that knows what it stored, and replies that are not what it said.

A L{ModelReceiver} is a correct SMTP server (RFC 5321, 2920, 3030) without any
I/O: octets go into a L{ModelSession}, and what it says comes out as a list of
L{Said}. What becomes of each message is its L{Fate}. A L{Fault} spoils one
reply of that list on its way, as a broken server or something in between may;
what was stored is not touched by it. So a test can hold what a client believes
against what is true.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

from attrs import define, evolve, field, frozen

_WORDS = {
    220: b"mx.example ESMTP",
    221: b"2.0.0 bye",
    250: b"2.0.0 ok",
    354: b"go ahead",
    500: b"5.5.2 what?",
    503: b"5.5.1 not now",
    554: b"5.5.1 no valid recipients",
}

OPENING_REPLIES = 2
"""The greeting, and the reply to the first EHLO."""

CONTENT = "content"
"""As the verb of what is L{Said}: to the end of data, be it a dot or BDAT's LAST."""


def reply(code: int, *lines: bytes) -> bytes:
    """A reply's octets."""
    texts = lines or (_WORDS.get(code, b"as a test wants it"),)
    before = [b"%d-%s\r\n" % (code, text) for text in texts[:-1]]
    return b"".join([*before, b"%d %s\r\n" % (code, texts[-1])])


@frozen(kw_only=True)
class Fate:
    """
    What the receiver does with one message.

    @ivar mail: the code that answers MAIL.
    @ivar rcpt: those that answer RCPT, in the envelope's order.
    @ivar data: that for DATA if a recipient was accepted.
    @ivar data_for_nobody: that for DATA if none was: pipelining servers answer
        354 as well (RFC 2920 §3.1).
    @ivar content: that for the end of data; the message is stored if it is a yes.
    @ivar deliveries: with LMTP, those for each accepted recipient; C{content}
        for whom there is none.
    @ivar hangs_up: this is not said: the connection is closed instead.
    """

    mail: int = 250
    rcpt: tuple[int, ...] = (250,)
    data: int = 354
    data_for_nobody: int = 554
    content: int = 250
    deliveries: tuple[int, ...] = ()
    hangs_up: bool = False

    def delivery(self, accepted: int) -> int:
        """The code for an accepted recipient, by its place among them, with LMTP."""
        return self.deliveries[accepted] if accepted < len(self.deliveries) else self.content


@frozen
class Stored:
    """One message as it was stored, for one recipient of it."""

    sender: bytes
    recipient: bytes
    content: bytes


@frozen
class Said:
    """
    One reply.

    @ivar verb: what it answers.
    @ivar sender: the message that it is about, if it is about one.
    @ivar recipient: of RCPT, and with LMTP of the content.
    """

    octets: bytes
    verb: str
    sender: bytes = b""
    recipient: bytes = b""


class Kind(enum.Enum):
    """How a reply is spoilt."""

    SURPLUS = "another one comes before it"
    DUPLICATE = "it comes twice"
    MISSING = "it does not come"
    SWAPPED = "it comes after the next one"
    MULTILINE = "it comes as a reply of two lines, which means the same"
    BROKEN_UP = "it comes as two replies of one line"
    TORN = "it has a CRLF in the middle, and what is behind is no reply"
    CHANGED = "it has another code"


HARMLESS = frozenset({Kind.MULTILINE})


@frozen
class Fault:
    """
    What happens to one reply, the session's opening not counted.

    @ivar code: of what is surplus, or what it is changed to.
    """

    kind: Kind
    position: int
    code: int = 250

    def spoil(self, said: Sequence[Said]) -> list[bytes]:
        """
        What arrives instead of C{said}. More said means more that arrives, and
        nothing else: the end of what was said may be held back until more is.
        """
        octets = [one.octets for one in said]
        place = OPENING_REPLIES + self.position
        if place >= len(octets):
            return octets
        if self.kind is Kind.SWAPPED:
            next_one = octets[place + 1 : place + 2]
            return octets[:place] + next_one + (octets[place : place + 1] if next_one else []) + octets[place + 2 :]
        return octets[:place] + _SPOILT[self.kind](octets[place], self.code) + octets[place + 1 :]


def _multiline(octets: bytes, _: int) -> list[bytes]:
    return [octets[:3] + b"-first of all\r\n" + octets]


def _broken_up(octets: bytes, _: int) -> list[bytes]:
    lines = octets.splitlines(keepends=True)
    if len(lines) == 1:
        lines = [octets[:3] + b" first of all\r\n", octets]
    return [line[:3] + b" " + line[4:] for line in lines]


def _torn(octets: bytes, _: int) -> list[bytes]:
    return [octets[:6] + b"\r\n" + octets[6:]]


def _changed(octets: bytes, code: int) -> list[bytes]:
    return [b"".join(b"%d%s" % (code, line[3:]) for line in octets.splitlines(keepends=True))]


_SPOILT: Mapping[Kind, Callable[[bytes, int], list[bytes]]] = {
    Kind.SURPLUS: lambda octets, code: [reply(code), octets],
    Kind.DUPLICATE: lambda octets, _: [octets, octets],
    Kind.MISSING: lambda octets, _: [],
    Kind.MULTILINE: _multiline,
    Kind.BROKEN_UP: _broken_up,
    Kind.TORN: _torn,
    Kind.CHANGED: _changed,
}


@define(eq=False)
class ModelReceiver:
    """
    @ivar fates: by the sender; a message without one is stored.
    @ivar offers: its extensions.
    @ivar lmtp: whether it speaks LMTP (RFC 2033).
    @ivar greeting: the code of its greeting.
    @ivar stored: what it took, in order.
    @ivar sessions: one for each connection there was.
    """

    fates: Mapping[bytes, Fate] = field(factory=dict)
    offers: Sequence[bytes] = (b"PIPELINING",)
    lmtp: bool = False
    greeting: int = 220
    stored: list[Stored] = field(factory=list)
    sessions: list[ModelSession] = field(factory=list)

    def session(self) -> ModelSession:
        """A client has connected."""
        session = ModelSession(self)
        self.sessions.append(session)
        return session


@define
class _Transaction:
    sender: bytes = b""
    fate: Fate = Fate()
    asked: int = 0
    accepted: list[bytes] = field(factory=list)
    content: list[bytes] = field(factory=list)


@define(eq=False)
class ModelSession:
    """
    One connection.

    @ivar said: all replies, the greeting included.
    @ivar alone: places in it of replies to an end of data behind which nothing
        had come.
    @ivar verbs: what was heard, the end of data as a dot.
    @ivar hung_up: it has closed the connection, behind what it said.
    """

    receiver: ModelReceiver
    said: list[Said] = field(init=False)
    alone: set[int] = field(factory=set)
    verbs: list[str] = field(factory=list)
    hung_up: bool = False
    _heard: bytes = b""
    _transaction: _Transaction | None = None
    _in_data: bool = False
    _chunk_octets: int | None = None
    _is_last_chunk: bool = False

    def __attrs_post_init__(self) -> None:
        self.said = [Said(reply(self.receiver.greeting), "greeting")]

    def hears(self, octets: bytes) -> None:
        """All that the client wrote up to now."""
        self._heard += octets
        while not self.hung_up and self._step():
            pass
        if not self._heard and self.said[-1].verb == CONTENT:
            last = self.said[-1].sender
            self.alone |= {place for place, one in enumerate(self.said) if (one.verb, one.sender) == (CONTENT, last)}

    def _step(self) -> bool:
        """Take one line or chunk, if it is there."""
        if self._chunk_octets is not None:
            return self._take_chunk(self._chunk_octets)
        line, end, rest = self._heard.partition(b"\r\n")
        if not end:
            return False
        self._heard = rest
        if self._in_data:
            self._take_line(line)
        else:
            self._take_command(line)
        return True

    def _take_command(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        name = verb.decode("ascii", "replace").upper()
        self.verbs.append(name)
        command = _COMMANDS.get(name)
        if command:
            command(self, argument)
        else:
            self._say(500, name)

    def _say(self, code: int, verb: str, recipient: bytes = b"") -> None:
        sender = self._transaction.sender if self._transaction else b""
        self.said.append(Said(reply(code), verb, sender, recipient))

    # Commands

    def _hello(self, _: bytes) -> None:
        self._transaction = None
        self.said.append(Said(reply(250, b"mx.example", *self.receiver.offers), "EHLO"))

    def _mail(self, argument: bytes) -> None:
        if self._transaction:
            self._say(503, "MAIL")
            return
        sender = _path(argument)
        fate = self.receiver.fates.get(sender, Fate())
        self._transaction = _Transaction(sender, fate)
        self._say(fate.mail, "MAIL")
        if fate.mail != 250:
            self._transaction = None

    def _rcpt(self, argument: bytes) -> None:
        transaction, recipient = self._transaction, _path(argument)
        if not transaction:
            self._say(503, "RCPT", recipient)
            return
        code = transaction.fate.rcpt[transaction.asked % len(transaction.fate.rcpt)]
        transaction.asked += 1
        if code == 250:
            transaction.accepted.append(recipient)
        self._say(code, "RCPT", recipient)

    def _data(self, _: bytes) -> None:
        transaction = self._transaction
        if not transaction:
            self._say(503, "DATA")
            return
        code = transaction.fate.data if transaction.accepted else transaction.fate.data_for_nobody
        self._in_data = code == 354
        self._say(code, "DATA")

    def _bdat(self, argument: bytes) -> None:
        size, _, last = argument.partition(b" ")
        self._chunk_octets, self._is_last_chunk = int(size), last.upper() == b"LAST"

    def _rset(self, _: bytes) -> None:
        self._transaction = None
        self._say(250, "RSET")

    def _noop(self, _: bytes) -> None:
        self._say(250, "NOOP")

    def _quit(self, _: bytes) -> None:
        self._say(221, "QUIT")
        self.hung_up = True

    # Content

    def _take_line(self, line: bytes) -> None:
        assert self._transaction
        if line == b".":
            self._in_data = False
            self._end_of_data(self._transaction)
        else:
            self._transaction.content.append(line.removeprefix(b".") + b"\r\n")

    def _take_chunk(self, octets: int) -> bool:
        """RFC 3030 §2: what follows BDAT is taken as a chunk whatever the answer will be."""
        if len(self._heard) < octets:
            return False
        chunk, self._heard, self._chunk_octets = self._heard[:octets], self._heard[octets:], None
        transaction = self._transaction
        if not transaction or not transaction.accepted:
            self._say(554 if transaction else 503, "BDAT")
            return True
        transaction.content.append(chunk)
        if self._is_last_chunk:
            self._end_of_data(transaction)
        else:
            self._say(250, "BDAT")
        return True

    def _end_of_data(self, transaction: _Transaction) -> None:
        self.verbs.append(".")
        if self.receiver.lmtp:
            self._deliver(transaction)
            return
        fate = transaction.fate if transaction.accepted else evolve(transaction.fate, content=554)
        if fate.content == 250:
            content = b"".join(transaction.content)
            self.receiver.stored += [Stored(transaction.sender, one, content) for one in transaction.accepted]
        if fate.hangs_up:
            self.hung_up = True
        else:
            self._say(fate.content, CONTENT)
        self._transaction = None

    def _deliver(self, transaction: _Transaction) -> None:
        """LMTP's end of data (RFC 2033 §4.2)."""
        content = b"".join(transaction.content)
        for place, recipient in enumerate(transaction.accepted):
            code = transaction.fate.delivery(place)
            if code == 250:
                self.receiver.stored.append(Stored(transaction.sender, recipient, content))
            if not transaction.fate.hangs_up:
                self._say(code, CONTENT, recipient)
        self.hung_up = transaction.fate.hangs_up
        self._transaction = None


_COMMANDS: Mapping[str, Callable[[ModelSession, bytes], None]] = {
    "EHLO": ModelSession._hello,
    "HELO": ModelSession._hello,
    "LHLO": ModelSession._hello,
    "MAIL": ModelSession._mail,
    "RCPT": ModelSession._rcpt,
    "DATA": ModelSession._data,
    "BDAT": ModelSession._bdat,
    "RSET": ModelSession._rset,
    "NOOP": ModelSession._noop,
    "QUIT": ModelSession._quit,
}


def _path(argument: bytes) -> bytes:
    return argument.partition(b"<")[2].partition(b">")[0]

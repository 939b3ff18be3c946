"""
What was said in the sessions of an agent, for people who look for a fault.

A L{Transcript} keeps the last events of all sessions that it was given to and
hands each to a listener as it happens. The protocol tells a L{SessionTranscript},
one for each connection, what goes in and out, under these rules:

  1. A secret never gets in. The lines of an authentication are known by their
     verb, and of them nothing but the name of the mechanism is kept. Whatever
     else is said, by either side, is withheld if it gives away one of the
     L{Secret}s that the session was told to keep.
  2. Content is counted, not kept.
  3. There is a limit to the events that are kept. The oldest make way, and how
     many did is counted.
  4. A transcript never harms a session: a listener that raises is not called
     again.

It looks like this::

    C: EHLO me.example
    S: 250-mx.example
    S: 250 AUTH PLAIN
    C: AUTH PLAIN <secret>
    S: 235 2.7.0 welcome
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field, frozen
from twisted.logger import Logger

from pymail_tx.core import sasl
from pymail_tx.core.command import Verb
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.reply import Reply, printable
from pymail_tx.core.secret import Secret

MAX_EVENTS = 10_000
"""A few hundred messages' worth, in about 2 MB."""

_HIDDEN = str(Secret(""))

_log = Logger()


class Direction(enum.Enum):
    """Who speaks: the client, the server, or neither, about the connection."""

    CLIENT = ">"
    SERVER = "<"
    NOTE = "*"


_SPEAKER = {Direction.CLIENT: "C", Direction.SERVER: "S", Direction.NOTE: "*"}


@frozen
class Event:
    """
    One line of a transcript.

    @ivar at_s: when, in seconds, as the clock of the session counts them.
    @ivar session: which session of the transcript, from 1.
    @ivar text: printable, on one line, without secrets.
    """

    at_s: float
    session: int
    direction: Direction
    text: str

    def __str__(self) -> str:
        return f"{_SPEAKER[self.direction]}: {self.text}"


Listener = Callable[[Event], object]


class Transcript:
    """
    The events of one or more sessions, oldest first. As a text, the lines of
    further sessions are numbered.

    @ivar evicted: how many events had to make way for later ones.
    """

    def __init__(self, *, max_events: int = MAX_EVENTS, listener: Listener | None = None) -> None:
        """
        @param max_events: how many are kept; with 0, only the listener gets
            them.
        @param listener: hears each event as it happens.
        """
        self.evicted = 0
        self._events: deque[Event] = deque(maxlen=max_events)
        self._listener = listener
        self._sessions = 0

    def session(self, seconds: Callable[[], float]) -> SessionTranscript:
        """
        For a protocol: begin the transcript of one more session.

        @param seconds: the session's clock.
        """
        self._sessions += 1
        return SessionTranscript(self, self._sessions, seconds)

    def add(self, event: Event) -> None:
        """For a L{SessionTranscript}: something happened."""
        self.evicted += len(self._events) == self._events.maxlen
        self._events.append(event)
        if self._listener:
            self._tell(self._listener, event)

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __str__(self) -> str:
        several = self._sessions > 1
        lines = [f"[{event.session}] {event}" if several else str(event) for event in self._events]
        if self.evicted:
            lines.insert(0, f"*: {self.evicted} earlier events are left out")
        return "\n".join(lines)

    def _tell(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:  # noqa: BLE001 - the application's function may raise what it likes
            self._listener = None
            _log.failure("the listener of a transcript failed, and is not called again")


@define(eq=False)
class SessionTranscript:
    """
    What a protocol tells of one session. See the module's head.
    """

    _transcript: Transcript = field(repr=False)
    _number: int
    _seconds: Callable[[], float] = field(repr=False)
    _secrets: tuple[Secret, ...] = field(default=(), init=False)
    _content_octets: int = field(default=0, init=False)

    def connected(self, host: str, port: int) -> None:
        """
        There is a connection.

        @param port: 0 for a Unix socket, whose path is the host.
        """
        self._note(f"connected to {host} port {port}" if port else f"connected to {host}")

    def confides(self, secrets: Sequence[Secret]) -> None:
        """From now on nothing is shown that gives one of these away."""
        self._secrets += tuple(secrets)

    def said(self, verb: Verb, line: bytes) -> None:
        """
        We sent a command, or a response within an authentication.

        @param line: with or without its CRLF.
        """
        text = _in_confidence(line) if verb in _CONFIDENTIAL else _text(line)
        self._add(Direction.CLIENT, text)

    def content(self, octets: int) -> None:
        """We sent so many octets of a message's content; they are added up until something else is said."""
        self._content_octets += octets

    def heard(self, verb: Verb, reply: Reply) -> None:
        """The server replied to this verb."""
        if verb in _CONFIDENTIAL and reply.severity == 3:
            self._add(Direction.SERVER, f"{reply.code} {_HIDDEN}")
            return
        *lines, last = sasl.without_secrets(reply, self._secrets).lines
        for line in lines:
            self._add(Direction.SERVER, f"{reply.code}-{line}")
        self._add(Direction.SERVER, f"{reply.code} {last}".rstrip())

    def secured(self, tls: TLSFacts) -> None:
        """The TLS handshake is over."""
        verdict = "the certificate verified" if tls.verified else f"the certificate did not verify: {tls.problem}"
        self._note(f"{tls.version} with {tls.cipher}; {verdict}")

    def ended(self, error: Exception | None) -> None:
        """The session is over, in good order or because of an error."""
        self._note(f"over: {error}" if error else "over")

    def _note(self, text: str) -> None:
        self._add(Direction.NOTE, text)

    def _add(self, direction: Direction, text: str) -> None:
        octets, self._content_octets = self._content_octets, 0
        if octets:
            self._add(Direction.CLIENT, f"<{octets} octets of content>")
        shown = sasl.WITHHELD if sasl.gives_away(text, self._secrets) else printable(text)
        self._transcript.add(Event(self._seconds(), self._number, direction, shown))


_CONFIDENTIAL = frozenset({Verb.AUTH})
"""Verbs whose lines, and whose challenges, are secrets."""


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r\n").decode("utf-8", "backslashreplace")


def _in_confidence(line: bytes) -> str:
    """
    A line of an authentication. Only AUTH itself has blanks in it: a response
    is base64 or a star (RFC 4954 §4), and is not looked at any further.
    """
    command, blank, rest = _text(line).partition(" ")
    if not blank:
        return _HIDDEN
    mechanism, blank, _ = rest.partition(" ")
    return f"{command} {mechanism} {_HIDDEN}" if blank else f"{command} {mechanism}"

"""
One authentication, from the AUTH command to its last reply, without I/O
(RFC 4954 §4).

A mechanism is a generator. It yields steps and is sent what each brings:

  - a L{Response} goes to the server, and brings its next challenge;
  - a L{Computation} is for a thread, since it takes a while, and brings its
    result;
  - C{None}, as the first step only, lets the server speak first, and brings
    its first challenge.

A mechanism that ends has no answer to a further challenge, and a challenge that
it cannot take it refuses with L{ProtocolViolation}, never another exception.
L{Authentication} is what a shell drives: it makes lines of the steps, gives up
where it must, and believes a yes only from a server that was asked everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator

from attrs import field, frozen

from pymail_tx.core.errors import ProtocolViolation
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import MAX_INITIAL_LINE_OCTETS, MAX_ROUNDS, decode, encode, told_in
from pymail_tx.core.secret import Secret

GIVE_UP = b"*"
"""The line that ends an authentication from our side (RFC 4954 §4)."""


@frozen
class Refusal:
    """
    Why the server is about to refuse, told within the mechanism. The reply that
    counts, mostly 535, follows it.

    @ivar words: for people, from a known vocabulary: a server's own could
        quote what it was told in confidence.
    @ivar stale_token: another token may do better.
    """

    words: str
    stale_token: bool = False


@frozen
class Response:
    """
    @ivar octets: without base64; not in the repr, for they may be a secret.
    @ivar complete: whether the mechanism is done with this, so that the server
        may say yes to it. A yes to any other response is a lie.
    @ivar refusal: what the challenge before told, if it was an error.
    @ivar secrets: what nobody but the server may be shown of it.
    """

    octets: bytes = field(repr=False)
    complete: bool = False
    refusal: Refusal | None = None
    secrets: tuple[Secret, ...] = field(default=(), eq=False)


@frozen
class Computation:
    """
    A salted password (RFC 5802 §3's SaltedPassword). With many iterations it
    takes a good part of a second: it is for a thread, and Python's other
    threads run meanwhile. Equal computations have equal results, so that
    these may be kept as the password is.

    @ivar hash_name: as C{hashlib} knows it.
    """

    hash_name: str
    password: Secret
    salt: bytes
    iterations: int

    def run(self) -> bytes:
        """The result, for the mechanism."""
        return hashlib.pbkdf2_hmac(self.hash_name, self.password.reveal().encode(), self.salt, self.iterations)


Mechanism = Generator[Response | Computation | None, bytes, None]


class Authentication:
    """
    The shell sends L{command}; answers each 334 with L{answer}, and with
    L{computed} as long as that asks for a computation; and gives the reply that
    is no 334 to L{verdict}.

    @ivar name: the mechanism's.
    @ivar refusal: why the server refused, if it said so within the mechanism.
    @ivar secrets: what gives away the responses so far, for
        L{gives_away <pymail_tx.core.sasl.gives_away>}.
    """

    def __init__(self, name: str, mechanism: Mechanism) -> None:
        self.name = name
        self.refusal: Refusal | None = None
        self.secrets: tuple[Secret, ...] = ()
        self._mechanism = mechanism
        self._held_back: Response | None = None
        self._complete = False
        self._rounds = 0
        self._problem = ""

    def command(self) -> bytes:
        """
        The AUTH command, with the initial response if there is one and the
        line takes it.
        """
        line = b"AUTH " + self.name.encode("ascii")
        first = next(self._mechanism)
        if first is None:
            return line
        assert isinstance(first, Response)
        whole = line + b" " + (encode(first.octets) or b"=")  # an empty one is not the same as none (RFC 4954 §4)
        if len(whole) + len(b"\r\n") > MAX_INITIAL_LINE_OCTETS:
            self._held_back = first
            return line
        self._note(first)
        return whole

    def answer(self, challenge: str) -> bytes | Computation:
        """
        @param challenge: a 334's text.
        @return: the line to send, C{*} to a bad challenge; or a computation,
            whose result L{computed} wants.
        @raise ProtocolViolation: a challenge after C{*}.
        """
        if self._problem:
            raise ProtocolViolation(self._problem)
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            return self._give_up(f"more than {MAX_ROUNDS} challenges")
        try:
            octets = decode(challenge)
        except ProtocolViolation as violation:
            return self._give_up(str(violation))
        held_back, self._held_back = self._held_back, None
        return self._line(held_back) if held_back else self._go_on(octets)

    def computed(self, result: bytes) -> bytes | Computation:
        """
        Go on with a computation's result.

        @return: as L{answer} does.
        """
        return self._go_on(result)

    def verdict(self, reply: Reply) -> Reply:
        """
        The reply that ends it, 2yz for a yes, if it may be believed.

        @raise ProtocolViolation: it was we who gave up, or the server says yes
            before the mechanism is done, with its own part unproved: the
            session must not be used.
        """
        if not self._problem and reply.severity == 2 and not self._complete:
            self._problem = f"{self.name}: a yes before its time"
        if self._problem:
            raise ProtocolViolation(self._problem, reply)
        return reply

    def _go_on(self, brought: bytes) -> bytes | Computation:
        try:
            return self._line(self._mechanism.send(brought))
        except StopIteration:
            return self._give_up("a challenge too many")
        except ProtocolViolation as violation:
            return self._give_up(str(violation))

    def _line(self, step: Response | Computation | None) -> bytes | Computation:
        assert step is not None
        if isinstance(step, Computation):
            return step
        self._note(step)
        return encode(step.octets)

    def _note(self, response: Response) -> None:
        self._complete = response.complete
        self.secrets += told_in(response.octets, response.secrets)
        self.refusal = response.refusal

    def _give_up(self, problem: str) -> bytes:
        self._problem = f"{self.name}: {problem}"
        return GIVE_UP

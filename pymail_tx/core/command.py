"""
Everything that is known about a verb, one row each.

A row says which reply a command hopes for, how long the reply may take, whether
more may be written behind the command before it (RFC 2920 §3.1), and in which
words an error tells what was going on. The steps of a session that are no
command, its greeting, the TLS handshake and the content, have their row too,
so that no number stands anywhere else.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection

from attrs import frozen

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.reply import Reply


class Verb(enum.Enum):
    """What the client says or does next; the value is the word on the wire, if there is one."""

    __hash__ = object.__hash__  # each member is one object, and Enum's own, in Python, shows in profiles

    HANDSHAKE = "TLS handshake"
    GREETING = "greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "content"
    END_OF_DATA = "end of data"
    DELIVERY = "delivery"
    CHUNK = "chunk"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"
    OTHER = "other"


class Answer(enum.Enum):
    """What a reply says, by its first digit (RFC 5321 §4.2.1)."""

    __hash__ = object.__hash__  # each member is one object, and Enum's own, in Python, shows in profiles

    DONE = "2yz"
    GO_ON = "3yz"
    REFUSED = "4yz, 5yz"


@frozen
class Command:
    """
    @ivar hopes_for: the answers that are no refusal; another is a violation.
    @ivar timeout_s: how long the whole reply may take, from the reply before.
    @ivar doing: what is going on meanwhile, for errors.
    @ivar pipelined: whether a command may follow before the reply is there.
    """

    hopes_for: frozenset[Answer]
    timeout_s: float
    doing: str
    pipelined: bool = False


_DONE = frozenset({Answer.DONE})
_GO_ON = frozenset({Answer.GO_ON})
_EITHER = _DONE | _GO_ON

# The timeouts are those of RFC 5321 §4.5.3.2. It names none for the verbs that
# set a session up; they get what MAIL gets. QUIT gets little: by then all is
# decided. A handshake is computed, not delivered, and gets 30 s.
COMMANDS = {
    Verb.HANDSHAKE: Command(_DONE, 30, "shaking hands for TLS"),
    Verb.GREETING: Command(_DONE, 300, "waiting for the greeting"),
    Verb.EHLO: Command(_DONE, 300, "saying EHLO"),
    Verb.HELO: Command(_DONE, 300, "saying HELO"),
    Verb.LHLO: Command(_DONE, 300, "saying LHLO"),
    Verb.STARTTLS: Command(_DONE, 300, "asking for TLS"),
    Verb.AUTH: Command(_EITHER, 300, "authenticating"),
    Verb.MAIL: Command(_DONE, 300, "sending MAIL FROM", pipelined=True),
    Verb.RCPT: Command(_DONE, 300, "sending RCPT TO", pipelined=True),
    Verb.DATA: Command(_GO_ON, 120, "sending DATA"),
    Verb.CONTENT: Command(_DONE, 180, "sending the content"),
    Verb.END_OF_DATA: Command(_DONE, 600, "sending end of data", pipelined=True),
    Verb.DELIVERY: Command(_DONE, 600, "waiting for LMTP's reply for a recipient"),
    Verb.CHUNK: Command(_DONE, 180, "sending a chunk", pipelined=True),
    Verb.BDAT: Command(_DONE, 600, "sending the last chunk", pipelined=True),
    Verb.RSET: Command(_DONE, 300, "resetting the session", pipelined=True),
    Verb.NOOP: Command(_DONE, 300, "asking for a sign of life"),
    Verb.QUIT: Command(_DONE, 5, "saying QUIT"),
    Verb.OTHER: Command(_EITHER, 300, "waiting for a reply"),
}

PIPELINED = frozenset(verb for verb, command in COMMANDS.items() if command.pipelined)
"""Verbs that another command may follow before their reply is there."""

ANSWERS = {2: Answer.DONE, 3: Answer.GO_ON, 4: Answer.REFUSED, 5: Answer.REFUSED}
"""By a reply code's first digit."""


def answer_to(verb: Verb, reply: Reply) -> Answer:
    """
    What C{reply} says to C{verb}. A code that no RFC defines counts by its
    first digit.

    @raise ProtocolViolation: it fits the verb neither as a yes nor as a no.
    """
    answer = ANSWERS[reply.severity]
    if answer is not Answer.REFUSED and answer not in COMMANDS[verb].hopes_for:
        raise ProtocolViolation(f"{reply} is no reply to {verb.value}")
    return answer


def hello_command(verb: Verb, name: str) -> bytes:
    """
    EHLO, HELO or LMTP's LHLO (RFC 5321 §4.1.1.1, RFC 2033 §4.1).

    @param name: our domain or address literal.
    @raise BadArgument: it is neither.
    """
    return f"{verb.value} {ascii_domain('name', name)}".encode("ascii")


_PATH_COMMANDS = {Verb.MAIL: b"MAIL FROM", Verb.RCPT: b"RCPT TO"}
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:=[!-<>-~]+)?\Z")


def path_command(verb: Verb, path: bytes, parameters: Collection[str]) -> bytes:
    """
    MAIL or RCPT with its path and ESMTP parameters (RFC 5321 §4.1.2).

    @param path: the mailbox in octets, empty for the null reverse-path.
    @raise BadArgument: a parameter is none.
    """
    for parameter in parameters:
        if not _PARAMETER.match(parameter):
            raise BadArgument("parameters", f"{parameter!r} is no ESMTP parameter")
    return known_path_command(verb, path, parameters)


def known_path_command(verb: Verb, path: bytes, parameters: Collection[str]) -> bytes:
    """The same, of parameters that are known to be some."""
    words = " ".join(("", *parameters)).encode("ascii") if parameters else b""
    return b"%b:<%b>%b" % (_PATH_COMMANDS[verb], path, words)

"""
An SMTP session as a table (RFC 5321 §4.1.4).

L{TRANSITIONS} says for each state which replies may come and where each leads.
It also says what the client may send: a verb for which the state has a row
with a yes. Rows that hold only a refusal are there because commands are
pipelined: behind a refused MAIL, its RCPTs and DATA still get their answers.

Above the table stand two rules that hold in every state: a 421 and the loss of
the connection lead to L{State.CLOSED} (RFC 5321 §3.8).

The page docs/reference/session-states.md is drawn from this table.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import cache

from pymail_tx.core.command import ANSWERS, COMMANDS, Answer, Verb, answer_to
from pymail_tx.core.errors import ProtocolViolation
from pymail_tx.core.reply import Reply, whole_reply


class State(enum.Enum):
    """Where a session is, by the replies that came; the value is for people."""

    __hash__ = object.__hash__  # each member is one object, and Enum's own, in Python, shows in profiles

    HANDSHAKE = "TLS handshake of an implicit TLS port"
    GREETING = "waiting for the greeting"
    CONNECTED = "greeted, neither EHLO nor HELO said"
    TURNED_AWAY = "greeting refused"
    SECURING = "TLS handshake after STARTTLS"
    READY = "open, no mail transaction"
    SASL = "authentication under way"
    TRANSACTION = "MAIL accepted, no recipient yet"
    ADDRESSED = "at least one recipient accepted"
    CONTENT = "content may flow"
    NOTHING_TO_SEND = "content asked for, but no recipient accepted"
    CLOSED = "over"


Event = tuple[Verb, Answer]

_YES, _MORE, _NO = Answer.DONE, Answer.GO_ON, Answer.REFUSED


def _stays(state: State, *verbs: Verb) -> dict[Event, State]:
    return {(verb, answer): state for verb in verbs for answer in (_YES, _NO)}


def _open(state: State) -> dict[Event, State]:
    """What every state of an open session allows besides its own rows."""
    return {
        (Verb.RSET, _YES): State.READY,
        (Verb.RSET, _NO): state,
        (Verb.EHLO, _YES): State.READY,
        (Verb.EHLO, _NO): state,
        (Verb.HELO, _YES): State.READY,
        (Verb.HELO, _NO): state,
        (Verb.LHLO, _YES): State.READY,
        (Verb.LHLO, _NO): state,
        (Verb.OTHER, _MORE): state,
        **_stays(state, Verb.NOOP, Verb.OTHER),
        **_LEAVING,
    }


_LEAVING: dict[Event, State] = {(Verb.QUIT, _YES): State.CLOSED, (Verb.QUIT, _NO): State.CLOSED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.HANDSHAKE: {(Verb.HANDSHAKE, _YES): State.GREETING},
    State.GREETING: {
        (Verb.GREETING, _YES): State.CONNECTED,
        (Verb.GREETING, _NO): State.TURNED_AWAY,
    },
    State.TURNED_AWAY: _LEAVING,
    State.CONNECTED: {
        (Verb.EHLO, _YES): State.READY,
        (Verb.EHLO, _NO): State.CONNECTED,
        (Verb.HELO, _YES): State.READY,
        (Verb.HELO, _NO): State.CONNECTED,
        (Verb.LHLO, _YES): State.READY,
        (Verb.LHLO, _NO): State.CONNECTED,
        **_stays(State.CONNECTED, Verb.NOOP, Verb.RSET, Verb.OTHER),
        **_LEAVING,
    },
    State.READY: {
        **_open(State.READY),
        (Verb.STARTTLS, _YES): State.SECURING,
        (Verb.STARTTLS, _NO): State.READY,
        (Verb.AUTH, _YES): State.READY,
        (Verb.AUTH, _MORE): State.SASL,
        (Verb.AUTH, _NO): State.READY,
        (Verb.MAIL, _YES): State.TRANSACTION,
        (Verb.MAIL, _NO): State.READY,
        (Verb.RCPT, _NO): State.READY,
        (Verb.DATA, _NO): State.READY,
        (Verb.CHUNK, _NO): State.READY,
        (Verb.BDAT, _NO): State.READY,
    },
    State.SECURING: {(Verb.HANDSHAKE, _YES): State.CONNECTED},
    State.SASL: {
        (Verb.AUTH, _YES): State.READY,
        (Verb.AUTH, _MORE): State.SASL,
        (Verb.AUTH, _NO): State.READY,
    },
    State.TRANSACTION: {
        **_open(State.TRANSACTION),
        (Verb.MAIL, _NO): State.TRANSACTION,
        (Verb.RCPT, _YES): State.ADDRESSED,
        (Verb.RCPT, _NO): State.TRANSACTION,
        (Verb.DATA, _MORE): State.NOTHING_TO_SEND,
        (Verb.DATA, _NO): State.TRANSACTION,
        (Verb.CHUNK, _NO): State.TRANSACTION,
        (Verb.BDAT, _NO): State.TRANSACTION,
    },
    State.ADDRESSED: {
        **_open(State.ADDRESSED),
        (Verb.RCPT, _YES): State.ADDRESSED,
        (Verb.RCPT, _NO): State.ADDRESSED,
        (Verb.DATA, _MORE): State.CONTENT,
        (Verb.DATA, _NO): State.ADDRESSED,
        **_stays(State.ADDRESSED, Verb.CHUNK),
        (Verb.BDAT, _YES): State.READY,
        (Verb.BDAT, _NO): State.ADDRESSED,
    },
    State.CONTENT: {
        **_stays(State.CONTENT, Verb.DELIVERY),
        (Verb.END_OF_DATA, _YES): State.READY,
        (Verb.END_OF_DATA, _NO): State.READY,
    },
    State.NOTHING_TO_SEND: {
        (Verb.END_OF_DATA, _YES): State.READY,
        (Verb.END_OF_DATA, _NO): State.READY,
    },
    State.CLOSED: {},
}


def after(state: State, verb: Verb, answer: Answer) -> State:
    """
    The state that an answer leads to.

    @raise ProtocolViolation: the table has no such row.
    """
    try:
        return TRANSITIONS[state][verb, answer]
    except KeyError:
        raise ProtocolViolation(f"{answer.value} to {verb.value} while {state.value}") from None


def after_reply(state: State, verb: Verb, reply: Reply) -> State:
    """
    The state that a reply leads to.

    @raise ProtocolViolation: it fits the verb neither as a yes nor as a no, or
        the table has no such row.
    """
    return after_severity(state, verb, reply.severity) or after(state, verb, answer_to(verb, reply))


@cache
def after_severity(state: State, verb: Verb, severity: int) -> State | None:
    """The same by the first digit; C{None} where L{after_reply} raises."""
    return TRANSITIONS[state].get((verb, ANSWERS[severity]))


@cache
def hoped_after(state: State, verb: Verb) -> State | None:
    """
    The state that C{verb} leads to if the server says yes; C{None} if the verb
    does not fit the state and must not be sent.
    """
    row = TRANSITIONS[state]
    hoped = row.get((verb, _YES)) or row.get((verb, _MORE))
    return None if hoped is State.NOTHING_TO_SEND else hoped


@cache
def hoped_after_all(state: State, verbs: tuple[Verb, ...]) -> State | None:
    """L{hoped_after} for one verb behind the other."""
    hoped: State | None = state
    for verb in verbs:
        hoped = hoped and hoped_after(hoped, verb)
    return hoped


_HOPED_SEVERITY = {verb: 2 if _YES in row.hopes_for else 3 for verb, row in COMMANDS.items()}


def hoped_replies(verbs: tuple[Verb, ...], lines: Sequence[bytes]) -> list[Reply] | None:
    """
    The replies, if every verb has one of a single line that is the yes hoped
    for, so that all of them lead where L{hoped_after_all} says.

    @param lines: what came, without CRLF; as many as verbs are looked at.
    @return: C{None} for anything else: then look at one line after the other.
    """
    if len(lines) < len(verbs):
        return None
    replies = []
    for verb, line in zip(verbs, lines, strict=False):
        reply = whole_reply(line)
        if reply is None or reply.severity != _HOPED_SEVERITY[verb]:
            return None
        replies.append(reply)
    return replies

"""
Draws docs/reference/session-states.md from the table that the protocol runs on.

    python -m docs.session_states > docs/reference/session-states.md

The tests say when that has to be done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pymail_tx.core.command import COMMANDS, Answer, Verb
from pymail_tx.core.state import TRANSITIONS, State

_HEAD = """\
# The states of a session

What an SMTP session may do, by the replies that came. The protocol runs on this table, `TRANSITIONS` in
`pymail_tx.core.state`, and this page is drawn from it by `python -m docs.session_states`.

Left out, because it holds in every state: a 421, a lost connection, a deadline that passed, a cancelled command, a
reply that nobody asked for and one for which there is no row or an empty field below lead to *over*, and the
connection is closed.

A command is sent only where its row has a *yes* or a *go on*, and DATA only while a recipient is accepted or may still
be. Rows with nothing but a *no* are there because commands are pipelined: behind a refused MAIL, its RCPTs and DATA
still get their answers.

## The picture

Replies that leave the state as it is are not drawn.

"""

_DEADLINES = """\
A deadline is for the whole reply, however slowly its octets come. In a pipelined group the next one starts when the
reply before came. Commands that may be followed go out together with the next one, where the server offers PIPELINING.
"""

_ANSWERS = {Answer.DONE: "yes", Answer.GO_ON: "go on", Answer.REFUSED: "no"}


def page() -> str:
    """The whole page."""
    parts = [*_picture(), "", "## The table", "", *_table(), "", "## The deadlines", "", _DEADLINES, *_deadlines()]
    return _HEAD + "\n".join(parts) + "\n"


def _picture() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    for state in State:
        yield f"    {state.name}: {state.value}"
    for state, row in TRANSITIONS.items():
        ways: dict[State, dict[Verb, list[str]]] = {}
        for (verb, answer), following in row.items():
            if following is not state:
                ways.setdefault(following, {}).setdefault(verb, []).append(_ANSWERS[answer])
        for following, verbs in ways.items():
            label = ", ".join(f"{verb.value} {' or '.join(answers)}" for verb, answers in verbs.items())
            yield f"    {state.name} --> {following.name}: {label}"
    yield "```"


def _table() -> Iterator[str]:
    words = {answer: f"{_ANSWERS[answer]} ({answer.value})" for answer in Answer}
    yield f"| in this state | to this | {' | '.join(words.values())} |"
    yield "|---|---|---|---|---|"
    for state, row in TRANSITIONS.items():
        name = f"**{state.value}**"
        for verb in dict.fromkeys(verb for verb, _ in row):
            leads = [_led_to(state, row.get((verb, answer))) for answer in Answer]
            yield f"| {name} | {verb.value} | {' | '.join(leads)} |"
            name = ""


def _deadlines() -> Iterator[str]:
    yield "| step | seconds | may be followed before its reply |"
    yield "|---|---|---|"
    for verb, command in COMMANDS.items():
        yield f"| {verb.value} | {command.timeout_s:g} | {'yes' if command.pipelined else ''} |"


def _led_to(state: State, following: State | None) -> str:
    if following is None:
        return ""
    return "stays" if following is state else following.value


if __name__ == "__main__":
    sys.stdout.write(page())

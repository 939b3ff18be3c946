"""
Draws docs/reference/session-states.md from the table that the protocol runs on.

    python -m docs.session_states > docs/reference/session-states.md

The tests say when that has to be done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pymail_tx.core.command import Answer, Verb
from pymail_tx.core.state import TRANSITIONS, State

_HEAD = """\
# The states of a session

What an SMTP session may do, by the replies that came. The protocol runs on this table, `TRANSITIONS` in
`pymail_tx.core.state`, and this page is drawn from it by `python -m docs.session_states`. A reply for which the
session's state has no row breaks the protocol and closes the connection; so does one in an empty field below. Left
out, because it holds everywhere: a 421, or a lost connection, leads to *over*.

## The picture

Replies that leave the state as it is are not drawn.

"""

_ANSWERS = {Answer.DONE: "yes", Answer.GO_ON: "go on", Answer.REFUSED: "no"}


def page() -> str:
    """The whole page."""
    return _HEAD + "\n".join([*_picture(), "", "## The table", "", *_table()]) + "\n"


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


def _led_to(state: State, following: State | None) -> str:
    if following is None:
        return ""
    return "stays" if following is state else following.value


if __name__ == "__main__":
    sys.stdout.write(page())

"""
How a report is shown: a line for each recipient, one JSON object, an exit
status.
"""

from __future__ import annotations

import enum
import json

import attrs

from pymail_tx.core.outcome import Outcome, Report, Status

EX_UNAVAILABLE = 69
"""Somebody will never get it."""

EX_TEMPFAIL = 75
"""Somebody has not got it yet; another try may do."""

COLOURS = {Status.DELIVERED: "green", Status.DEFERRED: "yellow", Status.FAILED: "red"}


def line(outcome: Outcome) -> str:
    """What became of one recipient."""
    uncertain = " (it may have arrived all the same)" if outcome.uncertain else ""
    return f"{outcome.recipient}: {outcome.status.value}{uncertain}, {outcome.reason}"


def as_json(report: Report) -> str:
    """All that is known, as one object on one line."""
    return json.dumps({"outcomes": [_facts(outcome) for outcome in report.outcomes]}, ensure_ascii=False)


def exit_status(report: Report) -> int:
    """0, L{EX_TEMPFAIL} or, whatever else there is, L{EX_UNAVAILABLE}."""
    found = {outcome.status for outcome in report.outcomes}
    if Status.FAILED in found:
        return EX_UNAVAILABLE
    return EX_TEMPFAIL if Status.DEFERRED in found else 0


def _facts(outcome: Outcome) -> dict[str, object]:
    facts: dict[str, object] = attrs.asdict(outcome, value_serializer=_plain)
    if outcome.reply:
        facts["reply"] = {"code": outcome.reply.code, "enhanced": outcome.reply.enhanced, "lines": outcome.reply.lines}
    return facts


def _plain(instance: object, attribute: object, value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else value

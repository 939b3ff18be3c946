"""
Lengths of time as people write them: C{90s}, C{30m}, C{4h}, C{5d}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pymail_tx.core.errors import BadArgument

UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds of each."""

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")


def parse(field: str, text: str, *, most_s: int) -> int:
    """
    @param field: what it is to the caller, for the error.
    @param most_s: the longest that will do, in seconds.
    @return: seconds.
    @raise BadArgument: it is no length of time, or longer.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise BadArgument(field, f"{text!r} is no length of time, such as 90s, 30m, 4h or 5d")
    seconds = int(found[1]) * UNITS[found[2]]
    if seconds > most_s:
        raise BadArgument(field, f"{text!r} is longer than {written(most_s)}")
    return seconds


def written(seconds: int) -> str:
    """In the largest unit that leaves nothing over; L{parse} reads it."""
    unit, length = next((unit, length) for unit, length in reversed(list(UNITS.items())) if seconds % length == 0)
    return f"{seconds // length}{unit}"

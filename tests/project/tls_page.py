"""
The table in docs/explanation/tls-policy.md that says what each reason means.
"""

from __future__ import annotations

import re

from tests.project import ROOT

_PAGE = (ROOT / "docs" / "explanation" / "tls-policy.md").read_text()
_TABLE = _PAGE.partition("| the reason says |")[2].partition("\n\n")[0]
_FIRST_CELL = re.compile(r"^\| (`.*?`) \|", re.MULTILINE)

WORDS = [words for cell in _FIRST_CELL.findall(_TABLE) for words in re.findall(r"`(.+?)`", cell)]
"""As quoted there; an ellipsis (…) stands for any text."""

_PATTERNS = [re.compile(".*".join(map(re.escape, words.split("…")))) for words in WORDS]


def explains(reason: str) -> bool:
    """Whether a reason is in the table."""
    return any(pattern.search(reason) for pattern in _PATTERNS)

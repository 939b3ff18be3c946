"""
SASLprep (RFC 4013): one spelling for user names and passwords that look the
same, so that both sides hash the same octets.

The tables are Unicode 3.2's, as RFC 3454 fixes them; Python's C{stringprep}
holds them. Printable ASCII comes out as it went in.
"""

from __future__ import annotations

import stringprep
from unicodedata import ucd_3_2_0

from pymail_tx.core.errors import BadArgument

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
"""RFC 4013 §2.3."""


def saslprep(field: str, text: str, *, stored: bool) -> str:
    """
    The text in its one spelling.

    @param field: what it is, for the error's words: they never quote it.
    @param stored: whether it is a stored string, in which characters that
        Unicode 3.2 does not know are prohibited, and not a query, in which
        they stand (RFC 3454 §7).
    @raise BadArgument: it has no such spelling, or nothing is left of it.
    """
    mapped = "".join(_mapped(character) for character in text)
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared:
        raise BadArgument(field, "is empty once prepared (RFC 4013)")
    if any(prohibited(character) for character in prepared for prohibited in _PROHIBITED):
        raise BadArgument(field, "holds a character that SASL prohibits (RFC 4013 §2.3)")
    if stored and any(stringprep.in_table_a1(character) for character in prepared):
        raise BadArgument(field, "holds a character newer than SASL's tables (RFC 4013 §2.5)")
    if not _runs_one_way(prepared):
        raise BadArgument(field, "mixes right-to-left and left-to-right letters (RFC 4013 §2.4)")
    return prepared


def _mapped(character: str) -> str:
    """RFC 4013 §2.1: every space is one, and soft hyphens and their like vanish."""
    if stringprep.in_table_c12(character):
        return " "
    return "" if stringprep.in_table_b1(character) else character


def _runs_one_way(text: str) -> bool:
    """RFC 3454 §6: a text with a right-to-left letter begins and ends with one and has no other letters."""
    if not any(stringprep.in_table_d1(character) for character in text):
        return True
    at_both_ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return at_both_ends and not any(stringprep.in_table_d2(character) for character in text)

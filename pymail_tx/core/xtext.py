"""
Free text as the value of an ESMTP parameter, which must not hold a space, an
equals sign or anything outside of printable ASCII (RFC 5321 §4.1.2).

C{xtext} (RFC 3461 §4) writes such a character as C{+} and two hexadecimal
digits. Addresses beyond ASCII have a form of their own, which is C{xtext} as
well and can go to any server (RFC 6533 §3).
"""

from __future__ import annotations

import re

from pymail_tx.core.errors import BadArgument

_TO_ENCODE = re.compile(r"[^!-*,-<>-~]")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXADECIMAL = re.compile(r"\+([0-9A-F]{2})")
_TO_EMBED = re.compile(r"[^!-*,-<>-\[\]-~]")


def encode(text: str) -> str:
    """
    @param text: ASCII.
    @raise BadArgument: it is not.
    """
    if not text.isascii():
        raise BadArgument("xtext", f"{text!r} is not ASCII")
    return _TO_ENCODE.sub(lambda found: f"+{ord(found[0]):02X}", text)


def decode(xtext: str) -> str:
    """
    What was encoded. It may hold any octet, as an ASCII or Latin-1 character:
    whoever uses it has to look at it.

    @raise BadArgument: it is no C{xtext}.
    """
    if not _XTEXT.fullmatch(xtext):
        raise BadArgument("xtext", f"{xtext!r} is none")
    return _HEXADECIMAL.sub(lambda found: chr(int(found[1], 16)), xtext)


def encode_internationalized(address: str) -> str:
    """An address of the type C{utf-8}, for servers with and without SMTPUTF8: RFC 6533's C{utf-8-addr-xtext}."""
    return _TO_EMBED.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)

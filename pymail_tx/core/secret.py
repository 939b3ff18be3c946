"""
A text that no log, exception, repr or transcript may show.
"""

from __future__ import annotations


class Secret:
    """
    Holds a password or token. Whoever needs it asks for it by name, with
    L{reveal}; whatever formats it gets C{<secret>}.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

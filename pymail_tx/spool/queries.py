"""
The .sql files of this package, and the named queries in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

Value = str | bytes | int | float | None
"""What SQLite can store."""


def sql(name: str) -> str:
    """The text of one of this package's .sql files."""
    return files("pymail_tx.spool").joinpath(name).read_text(encoding="utf-8")


def named_queries(name: str) -> Mapping[str, str]:
    """The queries of a file, each behind a line C{-- name: …}."""
    names_and_queries = re.split(r"^-- name: (\w+)\n", sql(name), flags=re.MULTILINE)[1:]
    return dict(zip(names_and_queries[::2], names_and_queries[1::2], strict=True))

"""
The command C{buildbot}, with all its arguments.
"""

from __future__ import annotations

from tests.applications import changed_import

changed_import.load("buildbot.reporters.mail")

from buildbot.scripts.runner import run  # type: ignore[import-not-found]  # noqa: E402  # there where this runs

run()

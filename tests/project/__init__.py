"""Tests of the project as a whole: its imports, its wheel, its documents."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

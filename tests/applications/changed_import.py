"""
Changes the one import of an application, as its authors would.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

THEIRS = "from twisted.mail.smtp import ESMTPSenderFactory"
OURS = "from pymail_tx.compat import ESMTPSenderFactory"


def load(name: str) -> ModuleType:
    """
    Load a module, its text as installed but for that line; whoever imports it afterwards gets this one.

    @raise AssertionError: the line is not there.
    """
    assert name not in sys.modules, f"{name} has been imported before"
    spec = find_spec(name)
    assert spec and spec.origin, f"{name} is not installed"
    text = Path(spec.origin).read_text()
    assert THEIRS in text, f"{name} does not import what this is about"
    module = sys.modules[name] = module_from_spec(spec)
    exec(compile(text.replace(THEIRS, OURS), spec.origin, "exec"), module.__dict__)
    return module

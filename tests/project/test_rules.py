"""
Each rule of docs/reference/protocol-rules.md names tests, and they are there.
"""

from __future__ import annotations

import re
from types import ModuleType

from twisted.python.reflect import namedAny
from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase

from tests.project import ROOT

PAGE = (ROOT / "docs" / "reference" / "protocol-rules.md").read_text()

_RULE = re.compile(r"^- .*(?:\n  .*)*", re.MULTILINE)
_TEST = re.compile(r"`(tests\.[\w.]+)`")


def is_test(name: str) -> bool:
    """Whether that is a test, a class of tests or a module of them."""
    try:
        found = namedAny(name)
    except (AttributeError, ImportError):
        return False
    if isinstance(found, ModuleType):
        return bool(TestLoader().loadModule(found).countTestCases())
    if isinstance(found, type) and issubclass(found, SynchronousTestCase):
        return bool(TestLoader().loadClass(found).countTestCases())
    return name.rpartition(".")[2].startswith("test_") and callable(found)


class Rules(SynchronousTestCase):
    def test_every_rule_names_tests(self) -> None:
        rules = _RULE.findall(PAGE)
        self.assertGreater(len(rules), 30)
        self.assertEqual([rule for rule in rules if not _TEST.search(rule)], [])

    def test_every_test_that_is_named_is_there(self) -> None:
        self.assertEqual([name for name in _TEST.findall(PAGE) if not is_test(name)], [])

    def test_a_name_of_no_test_is_noticed(self) -> None:
        for name in (
            "tests.project.test_rules.Rules.test_nothing",
            "tests.nothing",
            "tests.project.ROOT",
            "tests.peers",
        ):
            self.assertFalse(is_test(name), name)

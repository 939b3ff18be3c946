"""
The pages that say what the client does name tests for it, and they are there.
"""

from __future__ import annotations

import re
from types import ModuleType

from twisted.python.reflect import namedAny
from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase

from tests.project import ROOT

PAGES = {name: (ROOT / "docs" / "reference" / name).read_text() for name in ("protocol-rules.md", "features.md")}

_RULE = re.compile(r"^- .*(?:\n  .*)*", re.MULTILINE)
_TEST = re.compile(r"`(tests\.[\w.]+)`")
_NOT_YET = re.compile(r"^- \*\*[^*]+\*\*: not yet\b")


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


def is_proved(rule: str) -> bool:
    """Whether a rule names tests, or says that it is not built."""
    return bool(_TEST.search(rule)) is not bool(_NOT_YET.match(rule))


class Rules(SynchronousTestCase):
    def test_every_rule_names_tests_or_is_not_built_yet(self) -> None:
        for name, page in PAGES.items():
            rules = _RULE.findall(page)
            self.assertGreater(len(rules), 30, name)
            self.assertEqual([rule for rule in rules if not is_proved(rule)], [], name)

    def test_every_test_that_is_named_is_there(self) -> None:
        for name, page in PAGES.items():
            self.assertEqual([test for test in _TEST.findall(page) if not is_test(test)], [], name)

    def test_a_name_of_no_test_is_noticed(self) -> None:
        for name in (
            "tests.project.test_rules.Rules.test_nothing",
            "tests.nothing",
            "tests.project.ROOT",
            "tests.peers",
        ):
            self.assertFalse(is_test(name), name)

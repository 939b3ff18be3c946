"""
A secret is shown by nothing that formats it.
"""

from __future__ import annotations

import traceback
from pprint import pformat

from attrs import asdict
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret

_SECRET = Secret("correct horse")


class SecretTests(SynchronousTestCase):
    def test_it_is_revealed_by_name(self) -> None:
        self.assertEqual(_SECRET.reveal(), "correct horse")

    def test_whatever_formats_it_gets_a_placeholder(self) -> None:
        for shown in (str(_SECRET), repr(_SECRET), f"{_SECRET}", f"{_SECRET!r}", "%s %r" % (_SECRET, _SECRET)):  # noqa: UP031
            self.assertNotIn("correct", shown)
            self.assertIn("<secret>", shown)

    def test_a_container_does_not_show_it(self) -> None:
        credentials = Credentials("joe", _SECRET)
        for shown in (repr([_SECRET]), pformat({"password": _SECRET}), repr(credentials), repr(asdict(credentials))):
            self.assertNotIn("correct", shown)

    def test_a_traceback_with_local_variables_does_not_show_it(self) -> None:
        password = _SECRET
        try:
            raise ValueError(password)
        except ValueError as error:
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.assertNotIn("correct", "".join(shown.format()))

    def test_it_has_no_attribute_that_vars_would_show(self) -> None:
        self.assertRaises(TypeError, vars, _SECRET)

    def test_equal_texts_are_equal_secrets_and_no_text_is_one(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertEqual(hash(Secret("a")), hash(Secret("a")))
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")

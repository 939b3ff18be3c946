"""
What README.md and docs/ say is so: the examples run, the links lead somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pymail_tx
from docs import command_line, configuration, session_states
from tests.project import ROOT, examples

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]

_LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")


class Examples(SynchronousTestCase):
    """A test for each page with examples is added below."""

    timeout = 300


def _test_of(page: Path) -> Callable[[Examples], None]:
    def test(self: Examples) -> None:
        examples.run(page.read_text())

    return test


for _page in PAGES:
    if not examples.RUN.intersection(block.language for block in examples.blocks(_page.read_text())):
        continue
    _name = re.sub(r"\W+", "_", str(_page.relative_to(ROOT).with_suffix("")))
    setattr(Examples, f"test_the_examples_in_{_name}_run", _test_of(_page))


class Form(SynchronousTestCase):
    def test_every_block_says_its_language(self) -> None:
        for page in PAGES:
            text = page.read_text()
            found = examples.blocks(text)
            self.assertEqual(text.count("\n```"), 2 * len(found), f"{page}: a fence without an end, or indented")
            known = examples.RUN | examples.SHOWN
            strange = [block for block in found if block.language not in known and not block.language.startswith("{")]
            self.assertEqual(strange, [], str(page))

    def test_every_relative_link_leads_to_a_file(self) -> None:
        for page in PAGES:
            broken = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
            self.assertEqual(broken, [], str(page))


class Reference(SynchronousTestCase):
    def test_every_public_name_has_its_place(self) -> None:
        page = (ROOT / "docs" / "reference" / "names.md").read_text()
        self.assertEqual([name for name in pymail_tx.__all__ if f"/pymail_tx.{name}.html" not in page], [])

    def test_the_picture_of_the_states_is_that_of_the_table(self) -> None:
        drawn = (ROOT / "docs" / "reference" / "session-states.md").read_text()
        renew = "python -m docs.session_states > docs/reference/session-states.md"
        self.assertEqual(drawn, session_states.page(), f"the table has changed: {renew}")

    def test_the_page_of_the_command_line_is_what_the_helps_say(self) -> None:
        written = (ROOT / "docs" / "reference" / "command-line.md").read_text()
        renew = "python -m docs.command_line > docs/reference/command-line.md"
        self.assertEqual(written, command_line.page(), f"a help has changed: {renew}")

    def test_the_page_of_the_configuration_is_what_the_table_of_keys_says(self) -> None:
        written = (ROOT / "docs" / "reference" / "configuration.md").read_text()
        renew = "python -m docs.configuration > docs/reference/configuration.md"
        self.assertEqual(written, configuration.page(), f"a key has changed: {renew}")


class TheRunner(SynchronousTestCase):
    timeout = 60

    def test_output_that_differs_is_an_error_that_names_the_line(self) -> None:
        page = "Text.\n\n```console\n$ echo one\none\n$ echo two\nthree\n```\n"
        self.assertIn("line 3", str(self.assertRaises(examples.WrongExample, examples.run, page)))

    def test_output_that_is_not_shown_is_an_error(self) -> None:
        self.assertRaises(examples.WrongExample, examples.run, "```console\n$ echo one\n```\n")

    def test_an_exit_status_other_than_0_is_an_error(self) -> None:
        self.assertRaises(examples.WrongExample, examples.run, "```console\n$ false\n```\n")

    def test_an_ellipsis_stands_for_any_text(self) -> None:
        examples.run("```console\n$ seq 9\n1\n…\n9\n$ echo a big fish\na … fish\n```\n")

    def test_a_command_goes_on_in_lines_after_an_angle_bracket(self) -> None:
        examples.run("```console\n$ cat <<END\n> one\n> END\none\n```\n")

    def test_a_program_prints_what_the_output_block_says(self) -> None:
        page = "```python\nprint(1 + 1)\n```\n\n```output\n{}\n```\n"
        examples.run(page.format(2))
        self.assertRaises(examples.WrongExample, examples.run, page.format(3))

    def test_blocks_of_a_page_share_a_directory(self) -> None:
        page = "```python\nopen('note', 'w').write('here')\n```\n```console\n$ cat note\nhere\n```\n"
        examples.run(page)

    def test_a_block_is_left_out_with_a_reason_only(self) -> None:
        examples.run("<!-- not run: it fails -->\n```console\n$ false\n```\n")
        self.assertRaises(examples.WrongExample, examples.run, "<!-- not run -->\n```console\n$ false\n```\n")

    def test_a_reason_covers_the_next_block_only(self) -> None:
        page = "<!-- not run: it fails -->\n```console\n$ false\n```\n```console\n$ false\n```\n"
        self.assertIn("line 5", str(self.assertRaises(examples.WrongExample, examples.run, page)))

    def test_a_server_that_ends_at_once_is_an_error(self) -> None:
        page = "```console\n$ twistd --no-such-option\n```\n"
        self.assertIn("ended", str(self.assertRaises(examples.WrongExample, examples.run, page)))

"""
The benchmarks still run: each part once and short, whatever figures come out; and what they measure with is right.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import measure
from benchmarks.delay_proxy import MAX_HELD_OCTETS, DelayLine
from benchmarks.measure import Mark, Row
from tests import peers
from tests.project import ROOT

SHORT = ("--messages", "40", "--repeat", "1", "--sessions", "20", "--file-mib", "2")


class Client(SynchronousTestCase):
    """Whether marks hold is not asked here: other tests run beside this one."""

    timeout = 120

    def setUp(self) -> None:
        peers.require("smtp-sink", "smtp-source")

    def test_part_a_measures_beside_smtp_source(self) -> None:
        table = self.run_part("a")
        self.assertRegex(table, r"20 connections, beside smtp-source -d +messages/s +[\d,.]+ +[\d,.]+ +[\d.e+]+ ")
        self.assertRegex(table, r"\n1 connection, beside smtp-source -d +messages/s +[\d,.]+ +[\d,.]+ +[\d.e+]+ ")

    def test_part_b_measures_beside_smtplib(self) -> None:
        peers.require("postfix", "dovecot", "exim4-daemon-light")
        table = self.run_part("b", "--messages", "3")
        self.assertRegex(table, r"cold message to Postfix, beside smtplib +round trips +[\d.]+ +[\d.]+ +[\d.]+ ")
        self.assertRegex(table, r"cold message to Exim that offered PIPECONNECT before, .* trips +[\d.]+ +[\d.]+ ")
        self.assertRegex(table, r"each of 3 messages to Postfix, .*, beside smtplib +round trips +[\d.]+ +[\d.]+ ")

    def test_part_c_measures_memory(self) -> None:
        table = self.run_part("c")
        self.assertRegex(table, r"2 MiB from a file by DATA to a slow reader, above 1 KiB +MiB +[-\d.]+ ")
        self.assertRegex(table, r"a session that waits, plain text +KiB +[-\d.]+ ")
        self.assertRegex(table, r"a session that waits, TLS +KiB +[-\d.]+ ")

    def test_figures_of_some_parts_are_not_written_down(self) -> None:
        run = self.run_client("--only", "a", "--write", "--date", "2026-11-24")
        self.assertEqual(run.returncode, 2)
        self.assertIn("--write needs --date and all parts", run.stderr)

    def run_part(self, part: str, *options: str) -> str:
        """The table that it prints. Exit status 1 is a mark missed, with nothing on standard error."""
        run = self.run_client("--only", part, *SHORT, *options)
        self.assertIn(run.returncode, (0, 1))
        self.assertEqual(run.stderr, "")
        return run.stdout

    def run_client(self, *options: str) -> subprocess.CompletedProcess[str]:
        """As a reader would run it."""
        words = [sys.executable, "benchmarks/client.py", *options]
        return subprocess.run(words, cwd=ROOT, check=False, timeout=100, capture_output=True, text=True)


class Session(SynchronousTestCase):
    timeout = 120

    def test_import_and_message_are_measured_beside_smtplib(self) -> None:
        words = [sys.executable, "benchmarks/session.py", "--pairs", "2", "--messages", "2"]
        run = subprocess.run(words, cwd=ROOT, check=False, timeout=100, capture_output=True, text=True)
        self.assertIn(run.returncode, (0, 1))
        self.assertEqual(run.stderr, "")
        self.assertRegex(run.stdout, r"import, beside smtplib and .* +us of CPU +[-\d.,]+ +[-\d.,]+ +[-\d.e+]+ +2 ")
        self.assertRegex(run.stdout, r"message of 1 KiB, beside smtplib +us of CPU +[\d.,]+ +[\d.,]+ +[\d.e+]+ +2 ")


class DNS(SynchronousTestCase):
    timeout = 120

    def test_unknown_and_known_answers_are_measured(self) -> None:
        peers.require("named", "dnssec-signzone", "unbound")
        words = [sys.executable, "benchmarks/dns.py", "--domains", "20", "--repeat", "1"]
        run = subprocess.run(words, cwd=ROOT, check=False, timeout=100, capture_output=True, text=True)
        self.assertIn(run.returncode, (0, 1))
        self.assertEqual(run.stderr, "")
        self.assertRegex(run.stdout, r"20 domains that the server does not know either +domains/s +[\d,.]+ +500 ")
        self.assertRegex(run.stdout, r"20 domains that the server knows +domains/s +[\d,.]+ +500 ")
        self.assertRegex(run.stdout, r"a known answer, by Resolver.cached +us +[\d.]+ ")


class DelayLines(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.source, self.sink = StringTransport(), StringTransport()
        self.line = DelayLine(self.clock, 0.05, self.source, self.sink)

    def test_each_block_comes_as_late_as_every_other(self) -> None:
        self.line.put(b"one")
        self.clock.advance(0.03)
        self.line.put(b"two")
        self.clock.advance(0.01)
        self.assertEqual(self.sink.value(), b"")
        self.clock.advance(0.01)
        self.assertEqual(self.sink.value(), b"one")
        self.clock.advance(0.02)
        self.assertEqual(self.sink.value(), b"one")
        self.clock.advance(0.01)
        self.assertEqual(self.sink.value(), b"onetwo")

    def test_the_end_of_the_connection_is_as_late_as_the_octets(self) -> None:
        self.line.put(b"one")
        self.line.put(None)
        self.assertFalse(self.sink.disconnecting)
        self.clock.advance(0.05)
        self.assertEqual((self.sink.value(), self.sink.disconnecting), (b"one", True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_sender_that_fills_the_line_is_stopped_until_it_drains(self) -> None:
        self.line.put(b"x" * MAX_HELD_OCTETS)
        self.assertEqual(self.source.producerState, "producing")
        self.line.put(b"x")
        self.assertEqual(self.source.producerState, "paused")
        self.clock.advance(0.05)
        self.assertEqual(self.source.producerState, "producing")


class Marks(SynchronousTestCase):
    def test_a_ratio_has_to_reach_its_mark(self) -> None:
        mark = Mark(1, 1.5, at_least=True)
        self.assertEqual([mark.verdict(ratio) for ratio in (0.99, 1, 1.5)], ["MISSED", "holds", "aim reached"])

    def test_a_cost_has_to_stay_below_its_mark(self) -> None:
        mark = Mark(4.2, 3.7)
        self.assertEqual([mark.verdict(cost) for cost in (4.21, 4.2, 3.7)], ["MISSED", "holds", "aim reached"])

    def test_a_cost_beside_a_peers_has_to_stay_below_its_mark_times_that(self) -> None:
        rows = [Row(what="", unit="", ours=500, ratio=ratio, mark=Mark(2, of_ratio=True)) for ratio in (2, 2.1)]
        self.assertEqual([row.verdict for row in rows], ["holds", "MISSED"])

    def test_a_row_without_a_figure_misses_no_mark(self) -> None:
        self.assertEqual(Row(what="", unit="", mark=Mark(1)).verdict, "not measured")

    def test_rounds_begin_with_each_side_in_turn(self) -> None:
        order: list[str] = []
        measure.rounds(3, {name: partial(order.append, name) for name in "ab"})
        self.assertEqual("".join(order), "abbaab")

    def test_figures_replace_those_of_the_run_before_and_nothing_else(self) -> None:
        page = "before\n<!-- client: begin -->\n\nold\n\n<!-- client: end -->\nafter\n"
        written = measure.with_section(page, "client", "new")
        self.assertEqual(written, page.replace("old", "new"))

    def test_a_page_without_the_markers_is_not_written(self) -> None:
        with self.assertRaises(ValueError):
            measure.with_section("<!-- client: begin -->", "client", "new")

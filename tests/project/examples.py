"""
Runs the examples of a page of documentation, as a reader would: top to bottom, in one directory, copied and pasted.

What runs, and what it must show:

  - C{console}: each C{$ command} (C{> } continues it), in a shell. Below it stands everything that it prints. A
    command that goes on serving (C{make run}; C{pymail-tx sink}; C{twistd} without C{--help} or a further command
    behind it) is left running until the page ends.
  - C{python}: a whole program, which prints what stands in the C{output} block that follows it, or nothing.

An ellipsis (…) stands for any text. The page is run in an empty directory with C{.venv} in it; C{make} is the
project's, with its files in that directory. Pages say port 2525; a free one is put in its place.

A block is left out only by a comment above it, which says why: C{<!-- not run: reason -->}.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import Factory, define, field, frozen

from tests import peers
from tests.project import ROOT

RUN = frozenset({"console", "python"})

SHOWN = frozenset({"output", "text", "mermaid", "toml", "ini", "sql"})
"""Languages of blocks that are there to be read."""

STATED_PORT = "2525"

_SERVES = re.compile(r"make run\b|pymail-tx sink\b|(\.venv/bin/)?twistd(?!.*(--help|;))")
_LOOKS = re.compile(r"(cat|find|grep|head|ls)\b")
"""Commands that a reader would repeat until there is something to see."""

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LIMIT_S = 60


class WrongExample(AssertionError):
    """An example does not do what the page says."""


@frozen
class Block:
    """
    A fenced block.

    @ivar line: where it begins, from 1.
    @ivar reason: why it is not run; C{""} if it is.
    """

    language: str
    text: str
    line: int
    reason: str


@frozen
class Command:
    """A line for the shell and what it prints."""

    words: str
    expected: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    return [
        Block(found["language"], found["text"], page.count("\n", 0, found.start()) + 1, found["reason"] or "")
        for found in _FENCE.finditer(page)
    ]


def commands(console: str) -> list[Command]:
    """The commands of a console block."""
    found: list[tuple[list[str], list[str]]] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            raise WrongExample(f"a console block begins with a command, not with {line!r}")
        elif line.startswith("> ") and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            found[-1][1].append(line)
    return [Command("\n".join(words), "\n".join(expected)) for words, expected in found]


def matches(expected: str, printed: str) -> bool:
    """Whether that was printed, ellipses standing for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@define
class Run:
    """
    One page being run.

    @ivar directory: the reader's, with C{.venv} in it.
    """

    directory: Path
    _port: int = Factory(peers.free_port)
    _servers: list[subprocess.Popen[bytes]] = field(factory=list)

    def page(self, page: str) -> None:
        """
        @raise WrongExample: naming the line of the first block that does something else.
        """
        found = blocks(page.replace(STATED_PORT, str(self._port)))
        try:
            for block, following in zip(found, [*found[1:], None], strict=True):
                if block.language in RUN and not block.reason:
                    self._block(block, following)
        finally:
            self._stop()

    def _block(self, block: Block, following: Block | None) -> None:
        try:
            if block.language == "python":
                shown = following.text if following and following.language == "output" else ""
                self._run(Command(shlex.join([sys.executable, "-c", block.text]), shown))
                return
            for command in commands(block.text):
                (self._serve if _SERVES.match(command.words) else self._run)(command)
        except (WrongExample, subprocess.TimeoutExpired) as problem:
            raise WrongExample(f"line {block.line}: {problem}") from None

    def _run(self, command: Command) -> None:
        if _LOOKS.match(command.words):
            try:
                peers.eventually("seen", lambda: matches(command.expected, self._printed(command)[1]), within_s=10)
                return
            except AssertionError:
                pass  # what is wrong is said below
        status, printed = self._printed(command)
        if status or not matches(command.expected, printed):
            raise WrongExample(f"{command.words}\nshould print\n{command.expected}\nand printed\n{printed}({status})")

    def _printed(self, command: Command) -> tuple[int, str]:
        run = subprocess.run(
            ["bash", "-c", command.words], cwd=self.directory, env=self._environment(), timeout=_LIMIT_S, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return run.returncode, run.stdout.decode()

    def _serve(self, command: Command) -> None:
        log = self.directory / f".server-{len(self._servers)}"
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command.words}"], cwd=self.directory, env=self._environment(),
            stdin=subprocess.DEVNULL, stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._servers.append(server)

        def is_up() -> bool:
            if server.poll() is not None:
                raise WrongExample(f"{command.words}\nended ({server.returncode}) and printed\n{log.read_text()}")
            return peers.is_listening(self._port) and matches(f"{command.expected}…", log.read_text())

        try:
            peers.eventually(f"{command.words} listening and printing what the page says", is_up, within_s=_LIMIT_S)
        except WrongExample:
            raise
        except AssertionError as problem:
            raise WrongExample(f"{problem}\nIt printed\n{log.read_text()}") from None

    def _stop(self) -> None:
        for server in self._servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        self._servers.clear()

    def _environment(self) -> dict[str, str]:
        foreign = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        path = f"{self.directory / '.bin'}:{self.directory / '.venv' / 'bin'}:{kept.get('PATH', os.defpath)}"
        return kept | {"PATH": path, "SMTP_PORT": str(self._port), "VAR": str(self.directory / "var")}


def run(page: str) -> None:
    """
    Run a page's examples in a directory of their own.

    @raise WrongExample: naming the line of the first block that does something else.
    """
    directory = Path(tempfile.mkdtemp(prefix="page-of-a-test-"))
    try:
        (directory / ".venv").symlink_to(sys.prefix)
        (directory / ".bin").mkdir()
        make = directory / ".bin" / "make"
        words = shlex.join([shutil.which("make") or "make", "--no-print-directory", "-C", str(ROOT)])
        make.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        make.chmod(0o755)
        Run(directory).page(page)
    finally:
        shutil.rmtree(directory)

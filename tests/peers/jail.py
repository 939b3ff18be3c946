"""
Mail servers that Debian does not let stand beside Postfix, each in a root
directory of its own (chroot(2)): their programs unpacked, with the libraries
and the users that they need, and a configuration of the tests'.

A server is a table of what it is made of, see L{Jailed}. It delivers into one
maildir.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from attrs import Factory, asdict, define, field
from twisted.trial.unittest import SynchronousTestCase

from tests import peers

_Server = TypeVar("_Server", bound="Jailed")

_NULL_DEVICE = os.makedev(1, 3)


@define(kw_only=True)
class Jailed:
    """
    One server.

    @cvar package: it is unpacked from this one of Debian's.
    @cvar words: its command line, inside.
    @cvar files: what else it reads, inside. They are formatted with its ports.
    @cvar users: their names and ids, inside.
    @cvar directories: what it writes to, the owners' ids, and the modes.
    @ivar port: where it takes mail in plain text, without TLS.
    """

    package: ClassVar[str]
    words: ClassVar[tuple[str, ...]]
    files: ClassVar[Mapping[str, str]]
    users: ClassVar[Mapping[str, int]]
    directories: ClassVar[Mapping[str, tuple[int, int]]]

    root: Path = Factory(lambda: Path(tempfile.mkdtemp(prefix="mail-server-of-a-test-")))
    host: str = "127.0.0.1"
    port: int = Factory(peers.free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @classmethod
    def start(cls: type[_Server], test: SynchronousTestCase) -> _Server:
        """
        Start one for this test.

        @raise SkipTest: it cannot be started here.
        """
        peers.require(cls.package, "setpriv", "chroot")
        server = cls()
        test.addCleanup(server.stop)
        server._furnish()
        server._run()
        return server

    def stop(self) -> None:
        """End it, with the processes that it started, and remove the files."""
        process, self._process = self._process, None
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it said so far."""
        return "".join(path.read_text(errors="backslashreplace") for path in (self.root / "log").glob("*"))

    def messages(self) -> list[bytes]:
        """The messages in the mailbox, oldest first, lines ending in LF."""
        return peers.maildir_messages(self.root / "mail")

    def await_messages(self, count: int) -> list[bytes]:
        """Wait until so many messages are in the mailbox."""
        try:
            return peers.eventually(f"{count} messages", lambda: len(here := self.messages()) >= count and here) or []
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log}") from None

    def _furnish(self) -> None:
        self.root.chmod(0o755)
        shutil.copytree(peers.UNPACKED / self.package, self.root, symlinks=True, dirs_exist_ok=True)
        for directory, (owner, mode) in {
            "etc": (0, 0o755),
            "dev": (0, 0o755),
            "log": (0, 0o1777),
            **self.directories,
        }.items():
            (self.root / directory).mkdir(parents=True, exist_ok=True)
            os.chown(self.root / directory, owner, owner)
            (self.root / directory).chmod(mode)
        self._add_libraries()
        os.mknod(self.root / "dev" / "null", stat.S_IFCHR, _NULL_DEVICE)
        (self.root / "dev" / "null").chmod(0o666)
        self._write_files()

    def _add_libraries(self) -> None:
        """What the programs are linked with, by ldd(1); and a shell, for those that start others."""
        (self.root / "bin").mkdir(exist_ok=True)
        shutil.copy("/bin/sh", self.root / "bin" / "sh")
        programs = [str(path) for path in self.root.rglob("*bin/*") if path.is_file() and os.access(path, os.X_OK)]
        asked = [peers.command("ldd"), *programs, *map(str, self.root.glob("usr/libexec/*/*"))]
        listed = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=30).stdout
        for path in sorted({Path(word) for word in listed.split() if word.startswith("/") and ".so" in word}):
            inside = self.root / path.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, inside)

    def _write_files(self) -> None:
        users = {"root": 0, **self.users}
        passwd = "".join(f"{name}:x:{number}:{number}::/:/bin/sh\n" for name, number in users.items())
        group = "".join(f"{name}:x:{number}:\n" for name, number in users.items())
        ports = {name: number for name, number in asdict(self, recurse=False).items() if name.endswith("port")}
        for path, text in {"etc/passwd": passwd, "etc/group": group, **self.files}.items():
            (self.root / path).write_text(text.format_map(ports))

    def _run(self) -> None:
        jailed = [peers.command("chroot"), str(self.root), *self.words]
        with (self.root / "log" / "output").open("ab") as log:
            # setpriv ends it with its parent, should that be killed before stop().
            self._process = subprocess.Popen(
                [peers.command("setpriv"), "--pdeathsig", "TERM", *jailed], start_new_session=True, cwd="/",
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        peers.eventually(f"{self.package} up", self._is_up)

    def _is_up(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise AssertionError(f"{self.package} ended\n{self.log}")
        return peers.is_listening(self.port)

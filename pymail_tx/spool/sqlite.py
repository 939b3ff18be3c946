"""
The spool in one SQLite file, for one relay on one machine.

Durability is SQLite's: write-ahead log, and C{synchronous=FULL}, so that a
commit has reached the disk when it returns. Both are checked at opening, not
only asked for. A lock on a file beside it keeps a second relay out, since two
would release each other's claims; readers are welcome at any time.

The file holds other people's mail: it is made with mode 0600, its directory,
if it has to be made, with 0700.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail

from pymail_tx.spool.group_commit import GroupCommit, Runner
from pymail_tx.spool.interface import Due, NewMessage, Result, SpoolError
from pymail_tx.spool.sqlite_tables import SCHEMA_VERSION, Tables, new_epoch, sql

APPLICATION_ID = 0x504D5458
"""C{PMTX} in the file's header, as sqlite.sql writes it."""

_MAGIC = b"SQLite format 3\0"

BUSY_TIMEOUT_S = 5
"""How long to wait for somebody else's write, such as an operator's at a prompt."""

_PRAGMAS = (
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("foreign_keys", "ON", 1),
    ("journal_size_limit", "67108864", 67_108_864),  # 64 MiB: a log swollen by one large batch shrinks again
)

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked; end that one",
    sqlite3.SQLITE_CANTOPEN: "check the path and the permissions of its directory",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; move it away, or restore it with sqlite3's .recover",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look at its disk: full, over quota or failing",
    sqlite3.SQLITE_NOTADB: "name another file, or move this one away",
    sqlite3.SQLITE_READONLY: "make it and its directory writable for this user",
}


T = TypeVar("T")


@define(eq=False)
class SQLiteSpool:
    """
    Implements L{Spool<pymail_tx.spool.interface.Spool>}; what each method
    promises is told there.
    """

    _tables: Tables
    _writer: GroupCommit
    _files: ExitStack
    _run_in_thread: Runner
    _call_in_caller: Runner
    _path: str
    _closed: bool = field(init=False, default=False)

    @classmethod
    def open(cls, path: str, *, run_in_thread: Runner, call_in_caller: Runner) -> SQLiteSpool:
        """
        Open the spool, making file and directory if they are not there. This
        blocks; afterwards only C{run_in_thread} touches the file.

        @param run_in_thread: runs a call in one thread, always the same.
        @param call_in_caller: runs a call where this spool's methods are
            called, such as the reactor's C{callFromThread}.
        @raise SpoolError: it cannot be opened; one line says why.
        """
        with ExitStack() as opening:
            try:
                _make_file(path)
                _refuse_foreign(path)
                opening.enter_context(_only_relay(path))
                database = opening.enter_context(_connected(path))
                tables = Tables(database, new_epoch(database))
            except sqlite3.Error as problem:
                raise _explained(path, problem) from problem
            except OSError as problem:
                raise SpoolError(f"spool {path}: {problem.strerror} ({problem.filename})") from problem
            writer = GroupCommit(database, run_in_thread, call_in_caller, partial(_explained, path))
            return cls(tables, writer, opening.pop_all(), run_in_thread, call_in_caller, path)

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        return self._submit(partial(self._tables.accept, message, now))

    def claim(self, *, now: float, limit: int, max_octets: int, busy: Collection[str] = ()) -> Deferred[Sequence[Due]]:
        return self._submit(partial(self._tables.claim, now, limit, max_octets, busy))

    def record(
        self, results: Sequence[Result], *, now: float, lane: str = "", bounce: NewMessage | None = None
    ) -> Deferred[None]:
        return self._submit(partial(self._tables.record, results, now, lane, bounce))

    def give_back(self, due: Due, *, lane: str) -> Deferred[None]:
        return self._submit(partial(self._tables.give_back, due, lane))

    def release(self, *, now: float) -> Deferred[int]:
        return self._submit(partial(self._tables.release, now))

    def next_due_at(self, *, busy: Collection[str] = ()) -> Deferred[float | None]:
        return self._submit(partial(self._tables.next_due_at, busy))

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._closed:
            return
        last = self._submit(lambda: None)
        self._closed = True
        with suppress(SpoolError):  # a broken spool is closed like any other
            await last
        shut: Deferred[None] = Deferred()
        self._run_in_thread(partial(self._shut, shut))
        await shut

    def _shut(self, shut: Deferred[None]) -> None:
        try:
            self._files.close()
        finally:
            self._call_in_caller(partial(shut.callback, None))

    def _submit(self, work: Callable[[], T]) -> Deferred[T]:
        if self._closed:
            return fail(SpoolError(f"spool {self._path}: closed"))
        return self._writer.submit(work)


def _explained(path: str, problem: sqlite3.Error) -> SpoolError:
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the rest tells variants of the same
    advice = _ADVICE.get(code)
    return SpoolError(f"spool {path}: {problem}; {advice}" if advice else f"spool {path}: {problem}")


@contextmanager
def _only_relay(path: str) -> Iterator[None]:
    """Hold the lock that says that a relay runs on this spool. It ends with the process, however that ends."""
    lock_path = f"{os.path.realpath(path)}.lock"
    with os.fdopen(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read(20).strip() or "unknown"
            raise SpoolError(
                f"spool {path}: in use by the relay with process id {holder}; stop that one, or name another spool"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _make_file(path: str) -> None:
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would ask the umask, and open read-only


def _refuse_foreign(path: str) -> None:
    """
    Before anything is put beside it: C{/etc/passwd.lock} would keep users from being added.

    @raise SpoolError: the file is no database.
    """
    with open(path, "rb") as file:
        magic = file.read(len(_MAGIC))
    if magic not in (b"", _MAGIC):
        raise SpoolError(f"spool {path}: file is not a database; {_ADVICE[sqlite3.SQLITE_NOTADB]}")


@contextmanager
def _connected(path: str) -> Iterator[sqlite3.Connection]:
    with closing(
        sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    ) as database:
        if _is_new(path, database):
            database.executescript(sql("sqlite.sql"))
        for pragma, wanted, answer in _PRAGMAS:
            database.execute(f"PRAGMA {pragma} = {wanted}")
            [(found,)] = database.execute(f"PRAGMA {pragma}").fetchall()
            if found != answer:
                raise SpoolError(f"spool {path}: SQLite cannot do {pragma} = {wanted} there; use a local disk")
        yield database


def _is_new(path: str, database: sqlite3.Connection) -> bool:
    """
    @raise SpoolError: the file is another program's, or a newer version's.
    """
    [(tables,)] = database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    [(application_id,)] = database.execute("PRAGMA application_id").fetchall()
    [(version,)] = database.execute("PRAGMA user_version").fetchall()
    if not tables:
        return True
    if application_id != APPLICATION_ID:
        raise SpoolError(f"spool {path}: the database of another program; name another file")
    if version > SCHEMA_VERSION:
        raise SpoolError(f"spool {path}: of schema {version}, this pymail-tx knows {SCHEMA_VERSION}; run a newer one")
    return False

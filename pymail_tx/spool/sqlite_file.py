"""
The spool's file: making it, opening it, bringing it to the present schema, and
saying in words what is wrong with it.

Durability is SQLite's: write-ahead log, and C{synchronous=FULL}, so that a
commit has reached the disk when it returns. Both are checked at opening, not
only asked for.

The file holds other people's mail: it is made with mode 0600, its directory,
if it has to be made, with 0700.

Free pages can be given back to the disk (C{auto_vacuum=INCREMENTAL}), so that
the file shrinks after a burst. That is decided when a file is made; one of an
earlier schema is written anew for it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pymail_tx.spool.interface import SpoolError, SpoolLost
from pymail_tx.spool.queries import sql

SCHEMA_VERSION = 2
"""The highest number of a sqlite_….sql. A file of schema N is brought here by those behind N, in turn."""

APPLICATION_ID = 0x504D5458
"""C{PMTX} in the file's header, as sqlite_1.sql writes it."""

BUSY_TIMEOUT_S = 5
"""How long to wait for somebody else's write, such as an operator's at a prompt."""

_MAGIC = b"SQLite format 3\0"
_INCREMENTAL = 2

_PRAGMAS = (
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("foreign_keys", "ON", 1),
    ("journal_size_limit", "67108864", 67_108_864),  # 64 MiB: a log swollen by one large batch shrinks again
)

_LOST = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked; end that one",
    sqlite3.SQLITE_CANTOPEN: "check the path and the permissions of its directory",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; move it away, or restore it with sqlite3's .recover",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look at its disk: full, over quota or failing",
    sqlite3.SQLITE_NOTADB: "name another file, or move this one away",
    sqlite3.SQLITE_READONLY: "make it and its directory writable for this user",
}


def explained(path: str, problem: sqlite3.Error) -> SpoolError:
    """What SQLite complained about, in words, with what can be done."""
    code = getattr(problem, "sqlite_errorcode", 0)
    if code in _LOST:
        return SpoolLost(
            f"spool {path}: the disk failed to keep what was written (fsync); look at it, then start the relay again"
        )
    advice = _ADVICE.get(code & 0xFF)  # the rest tells variants of the same
    return SpoolError(f"spool {path}: {problem}; {advice}" if advice else f"spool {path}: {problem}")


@contextmanager
def explaining(path: str) -> Iterator[None]:
    """
    @raise SpoolError: instead of what SQLite or the system raise.
    """
    try:
        yield
    except sqlite3.Error as problem:
        raise explained(path, problem) from problem
    except OSError as problem:
        raise SpoolError(f"spool {path}: {problem.strerror} ({problem.filename})") from problem


@contextmanager
def only_relay(path: str) -> Iterator[None]:
    """
    Make the file if it is not there, and hold the lock that says that a relay
    runs on this spool. It ends with the process, however that ends.

    @raise SpoolError: another relay does.
    """
    _make_file(path)
    _refuse_foreign(path)
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


@contextmanager
def relays_connection(path: str) -> Iterator[sqlite3.Connection]:
    """
    The connection of the one relay: brings the file to the present schema. To
    be used within L{only_relay}.

    @raise SpoolError: the file is another program's, or a newer version's.
    """
    with _connected(path) as database:
        _migrate(path, database)
        _set_pragmas(path, database)
        yield database


@contextmanager
def another_connection(path: str) -> Iterator[sqlite3.Connection]:
    """
    Beside a relay, or without one.

    @raise SpoolError: there is no spool of the present schema.
    """
    if not os.path.exists(path):
        raise SpoolError(f"spool {path}: is not there; name the one that the relay uses")
    _refuse_foreign(path)
    with _connected(path) as database:
        version = _version(path, database)
        if version != SCHEMA_VERSION:
            raise SpoolError(
                f"spool {path}: of schema {version}; start the relay on it once, which brings it to this one's"
            )
        _set_pragmas(path, database)
        yield database


def _connected(path: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False))


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


def _version(path: str, database: sqlite3.Connection) -> int:
    """
    @return: 0 for a file in which nothing is yet.
    @raise SpoolError: the file is another program's, or a newer version's.
    """
    tables, application_id, version = (
        _number(database, question)
        for question in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
    )
    if not tables:
        return 0
    if application_id != APPLICATION_ID:
        raise SpoolError(f"spool {path}: the database of another program; name another file")
    if version > SCHEMA_VERSION:
        raise SpoolError(f"spool {path}: of schema {version}, this pymail-tx knows {SCHEMA_VERSION}; run a newer one")
    return version


def _migrate(path: str, database: sqlite3.Connection) -> None:
    """Each step is a transaction; a crash between two leaves a file of the schema before."""
    version = _version(path, database)
    if not version:
        database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    for number in range(version + 1, SCHEMA_VERSION + 1):
        database.executescript(sql(f"sqlite_{number}.sql"))
    if 0 < version < SCHEMA_VERSION and _number(database, "PRAGMA auto_vacuum") != _INCREMENTAL:
        _write_anew(database)


def _write_anew(database: sqlite3.Connection) -> None:
    """It takes as much room again for a while. Where there is none the file works all the same, but does not shrink."""
    database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    with suppress(sqlite3.OperationalError):
        database.execute("VACUUM")


def _set_pragmas(path: str, database: sqlite3.Connection) -> None:
    for pragma, wanted, answer in _PRAGMAS:
        database.execute(f"PRAGMA {pragma} = {wanted}")
        [(found,)] = database.execute(f"PRAGMA {pragma}").fetchall()
        if found != answer:
            raise SpoolError(f"spool {path}: SQLite cannot do {pragma} = {wanted} there; use a local disk")


def _number(database: sqlite3.Connection, question: str) -> int:
    [(number,)] = database.execute(question).fetchall()
    return int(number)

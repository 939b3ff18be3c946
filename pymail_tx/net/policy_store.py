"""
Where the policies of MTA-STS are kept between mails: in memory or, so that they
outlive the process, in a file. A relay may have a store of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.mtasts import BadPolicy, CachedPolicy, read_policy

MAX_KEPT_POLICIES = 2_000
"""Few domains have a policy. At 300 octets each these are 600 kB; at the 26 kB of the longest possible, 52 MB."""

_VERSION = 1


class PolicyStoreError(Exception):
    """The store cannot be read or written; the text says which, and why."""


class PolicyStore(Protocol):
    """
    What a L{PolicyKeeper <pymail_tx.net.mtasts.PolicyKeeper>} needs: a policy
    for each domain. In a database it is a row, C{policy.text()} the policy's
    column, C{refresh_at} the one with an index.

    Each Deferred fails with L{PolicyStoreError}; the keeper then goes on with
    what it has in memory. None need be cancellable.
    """

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """The domain's policy, expired or not; C{None} if there is none."""
        ...

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """Keep a policy, in the place of the one that was its domain's; fires when it is kept."""
        ...

    def forget(self, domain: str) -> Deferred[None]:
        """Keep the domain's policy no longer; there may be none."""
        ...

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """The domains whose policy is to be refreshed (C{refresh_at <= now}), the longest due first."""
        ...


@define(eq=False)
class MemoryPolicyStore:
    """
    Keeps the policies of L{MAX_KEPT_POLICIES} domains, those that were asked for
    or saved last, for as long as the process lives. A L{PolicyStore}.
    """

    _kept: OrderedDict[str, CachedPolicy] = field(factory=OrderedDict, init=False)

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """See L{PolicyStore.load}."""
        if domain in self._kept:
            self._kept.move_to_end(domain)
        return succeed(self._kept.get(domain))

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """See L{PolicyStore.save}."""
        self._kept[cached.domain] = cached
        self._kept.move_to_end(cached.domain)
        if len(self._kept) > MAX_KEPT_POLICIES:
            self._kept.popitem(last=False)
        return succeed(None)

    def forget(self, domain: str) -> Deferred[None]:
        """See L{PolicyStore.forget}."""
        self._kept.pop(domain, None)
        return succeed(None)

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """See L{PolicyStore.due}."""
        due = [cached for cached in self._kept.values() if cached.refresh_at <= now]
        return succeed([cached.domain for cached in sorted(due, key=lambda cached: cached.refresh_at)])

    def all(self) -> list[CachedPolicy]:
        """All of them, that which will be forgotten first at the beginning."""
        return list(self._kept.values())


class FilePolicyStore:
    """
    The same in a file, in JSON, for one process at a time. A L{PolicyStore}.

    The file is always replaced as a whole: whoever reads it sees it before or
    after a change. So one that cannot be read is not of our making, and is not
    overwritten: making the store fails, and the text names the file.
    """

    def __init__(self, reactor: IReactorTime, path: str) -> None:
        """
        Reads the file, which blocks.

        @param reactor: has the threads in which the file is written.
        @param path: of the file; it is made when there is something to keep.
        @raise BadArgument: the file cannot be read, or holds something else.
        """
        self._threads = IReactorThreads(reactor)
        self._path = path
        self._memory = MemoryPolicyStore()
        self._waiting: list[Deferred[None]] = []
        self._is_writing = False
        for cached in _read(path):
            self._memory.save(cached)

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """See L{PolicyStore.load}."""
        return self._memory.load(domain)

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """See L{PolicyStore.save}; it fires when the file is on the disk."""
        self._memory.save(cached)
        return self._changed()

    def forget(self, domain: str) -> Deferred[None]:
        """See L{PolicyStore.forget}."""
        self._memory.forget(domain)
        return self._changed()

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """See L{PolicyStore.due}."""
        return self._memory.due(now)

    def _changed(self) -> Deferred[None]:
        """Changes that come while the file is written go into it together."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if not self._is_writing:
            self._write()
        return done

    def _write(self) -> None:
        self._is_writing = True
        waiting, self._waiting = self._waiting, []
        octets = _to_json(self._memory.all())
        writing: Deferred[None] = deferToThreadPool(
            self._threads, self._threads.getThreadPool(), partial(_replace, self._path, octets)
        )
        writing.addBoth(self._end_write, waiting)

    def _end_write(self, result: Failure | None, waiting: list[Deferred[None]]) -> None:
        self._is_writing = False
        if self._waiting:
            self._write()
        for done in waiting:
            done.callback(result)


def _to_json(policies: Iterable[CachedPolicy]) -> bytes:
    kept = [
        {
            "domain": cached.domain,
            "id": cached.id,
            "fetched_at": cached.fetched_at,
            "used_at": cached.used_at,
            "policy": cached.policy.text(),
        }
        for cached in policies
    ]
    return json.dumps({"version": _VERSION, "policies": kept}, indent=1).encode()


def _read(path: str) -> list[CachedPolicy]:
    """
    @raise BadArgument: see L{FilePolicyStore}.
    """
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        if content["version"] != _VERSION:
            raise BadPolicy(f"version {content['version']!r}")
        return [_from_json(one) for one in content["policies"]]
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise BadArgument("path", f"cannot read {path!r}: {problem.strerror or problem}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        words = f"{path!r} is not a file of MTA-STS policies ({type(problem).__name__}: {problem}); move it away"
        raise BadArgument("path", words) from None


def _from_json(one: dict[str, str | float]) -> CachedPolicy:
    return CachedPolicy(
        domain=str(one["domain"]),
        id=str(one["id"]),
        fetched_at=float(one["fetched_at"]),
        used_at=float(one["used_at"]),
        policy=read_policy(str(one["policy"]).encode()),
    )


def _replace(path: str, octets: bytes) -> None:
    """
    Blocks until the file is on the disk.

    @raise PolicyStoreError: the file is as it was.
    """
    partly = f"{path}.new"
    try:
        with open(partly, "wb", opener=partial(os.open, mode=0o600)) as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partly, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.unlink(partly)
        raise PolicyStoreError(f"cannot write {path!r}: {problem.strerror or problem}") from None

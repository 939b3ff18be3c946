"""
Where policies are kept: what both stores promise, and what a file is worth.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SkipTest, TestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.mtasts import REFRESH_AFTER_S, CachedPolicy, Mode, Policy
from pymail_tx.net.policy_store import (
    MAX_KEPT_POLICIES,
    FilePolicyStore,
    MemoryPolicyStore,
    PolicyStore,
    PolicyStoreError,
)

NOW = 1_800_000_000.5
POLICY = Policy(mode=Mode.TESTING, mx=("mail.example.org", "*.example.net"), max_age_s=604_800)


def cached(domain: str = "example.org", *, at: float = NOW, policy: Policy = POLICY) -> CachedPolicy:
    """A policy."""
    return CachedPolicy(domain=domain, id="20160831085700Z", fetched_at=at, used_at=at - 1, policy=policy)


class InMemory(TestCase):
    """Each test holds for L{InFile} too."""

    timeout = 60

    def new_store(self) -> PolicyStore:
        """An empty one."""
        return MemoryPolicyStore()

    async def test_what_was_saved_is_loaded(self) -> None:
        store = self.new_store()
        for one in (cached(), cached("example.net", policy=Policy(mode=Mode.NONE, max_age_s=0))):
            await store.save(one)
            self.assertEqual(await store.load(one.domain), one)

    async def test_what_was_not_saved_is_not_there(self) -> None:
        self.assertIsNone(await self.new_store().load("example.org"))

    async def test_a_domain_has_one_policy(self) -> None:
        store = self.new_store()
        await store.save(cached())
        later = evolve(cached(at=NOW + 1), id="2")
        await store.save(later)
        self.assertEqual(await store.load("example.org"), later)

    async def test_what_is_forgotten_is_gone(self) -> None:
        store = self.new_store()
        await store.save(cached())
        await store.forget("example.org")
        await store.forget("example.net")
        self.assertIsNone(await store.load("example.org"))

    async def test_those_that_are_due_are_told_the_longest_due_first(self) -> None:
        store = self.new_store()
        for name, at in (("later", NOW), ("not", NOW + 1), ("first", NOW - 1)):
            await store.save(cached(name, at=at))
        self.assertEqual(await store.due(NOW + REFRESH_AFTER_S), ["first", "later"])

    async def test_of_2001_policies_the_one_is_gone_that_nobody_asked_for_the_longest(self) -> None:
        store = self.new_store()
        saving = [store.save(cached(f"d{number}")) for number in range(MAX_KEPT_POLICIES)]
        for one in saving:
            await one
        self.assertIsNotNone(await store.load("d0"))
        await store.save(cached("another"))
        self.assertIsNotNone(await store.load("d0"))
        self.assertIsNone(await store.load("d1"))
        self.assertIsNotNone(await store.load("d2"))


class InFile(InMemory):
    def setUp(self) -> None:
        self.path = self.mktemp()

    def new_store(self) -> FilePolicyStore:
        """One in the file."""
        return FilePolicyStore(IReactorTime(reactor), self.path)

    async def problem(self, saving: Deferred[None]) -> str:
        """Why it fails."""
        try:
            await saving
        except PolicyStoreError as problem:
            return str(problem)
        return "it does not"

    async def test_what_was_saved_outlives_the_store(self) -> None:
        first = self.new_store()
        await first.save(cached())
        await first.save(cached("example.net"))
        await first.forget("example.net")
        second = self.new_store()
        self.assertEqual(await second.load("example.org"), cached())
        self.assertIsNone(await second.load("example.net"))

    async def test_saved_is_said_when_the_file_is_there(self) -> None:
        store = self.new_store()
        self.assertFalse(os.path.exists(self.path))
        saving = store.save(cached())
        self.assertNoResult(saving)
        await saving
        content = json.loads(Path(self.path).read_text())
        self.assertEqual(content["version"], 1)
        self.assertEqual(content["policies"][0]["domain"], "example.org")
        self.assertEqual(content["policies"][0]["policy"], POLICY.text())
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        self.assertFalse(os.path.exists(f"{self.path}.new"))

    async def test_changes_that_come_while_the_file_is_written_are_written_together(self) -> None:
        store = self.new_store()
        saving = [store.save(cached(f"d{number}")) for number in range(100)]
        files = set()
        for one in saving:
            await one
            files.add(os.stat(self.path).st_ino)
        self.assertLessEqual(len(files), 2)
        self.assertEqual(await self.new_store().load("d99"), cached("d99"))

    BROKEN = (
        b"",
        b"root:x:0:0",
        b"{}",
        b"[]",
        b"1",
        b"\xff\xfe",
        b'{"version": 2, "policies": []}',
        b'{"version": 1}',
        b'{"version": 1, "policies": 1}',
        b'{"version": 1, "policies": [1]}',
        b'{"version": 1, "policies": [{"domain": "example.org"}]}',
        b'{"version": 1, "policies": [{"domain":"a","id":"1","fetched_at":"x","used_at":1,"policy":""}]}',
        b'{"version": 1, "policies": [{"domain":"a","id":"1","fetched_at":1,"used_at":1,"policy":"mode: none"}]}',
        b"[" * 100_000,
    )

    def test_a_file_of_something_else_is_named_and_left_as_it_is(self) -> None:
        for content in self.BROKEN:
            Path(self.path).write_bytes(content)
            with self.assertRaises(BadArgument, msg=content) as caught:
                self.new_store()
            self.assertIn(f"path: {self.path!r} is not a file of MTA-STS policies", str(caught.exception))
            self.assertEqual(Path(self.path).read_bytes(), content)

    def test_what_cannot_be_read_is_named(self) -> None:
        os.mkdir(self.path)
        with self.assertRaises(BadArgument) as caught:
            self.new_store()
        self.assertEqual(str(caught.exception), f"path: cannot read {self.path!r}: Is a directory")

    async def test_a_file_that_cannot_be_written_is_an_error_and_stays_as_it_was(self) -> None:
        store = self.new_store()
        await store.save(cached())
        os.mkdir(f"{self.path}.new")
        self.assertEqual(
            await self.problem(store.save(cached("example.net"))), f"cannot write {self.path!r}: Is a directory"
        )
        os.rmdir(f"{self.path}.new")
        self.assertIsNone(await self.new_store().load("example.net"))
        await store.save(cached("example.com"))
        self.assertEqual(await self.new_store().load("example.net"), cached("example.net"))

    async def test_a_full_disk_is_an_error(self) -> None:
        if not os.path.exists("/dev/full"):
            raise SkipTest("NOT TESTED: this system has no /dev/full")
        store = self.new_store()
        os.symlink("/dev/full", f"{self.path}.new")
        self.assertEqual(
            await self.problem(store.save(cached())), f"cannot write {self.path!r}: No space left on device"
        )
        self.assertFalse(os.path.lexists(f"{self.path}.new"))

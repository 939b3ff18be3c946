"""
What is kept of DNS, for how long and how much.
"""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.core.dns_cache import MAX_NAMES, MAX_OCTETS, DNSCache

ANSWER = Answer(name="a.test", kind=RecordType.MX, verdict=Verdict.NODATA, canonical_name="a.test", ttl_s=10)


class Cache(SynchronousTestCase):
    def setUp(self) -> None:
        self.cache = DNSCache()

    def get(self, name: str = "a.test", kind: RecordType = RecordType.MX, now_s: float = 100) -> Answer | None:
        return self.cache.get(name, kind, now_s)

    def test_an_answer_is_kept_for_its_time(self) -> None:
        self.cache.keep(ANSWER, 100, 100)
        self.assertIs(self.get(now_s=109.9), ANSWER)
        self.assertIsNone(self.get(now_s=110))

    def test_one_without_time_is_not_kept(self) -> None:
        self.cache.keep(evolve(ANSWER, ttl_s=0), 100, 100)
        self.assertIsNone(self.get())

    def test_the_types_of_a_name_are_kept_apart(self) -> None:
        other = evolve(ANSWER, kind=RecordType.A)
        self.cache.keep(ANSWER, 100, 100)
        self.cache.keep(other, 100, 100)
        self.assertIs(self.get(), ANSWER)
        self.assertIs(self.get(kind=RecordType.A), other)
        self.assertIsNone(self.get(kind=RecordType.TLSA))

    def test_a_newer_answer_replaces_the_older(self) -> None:
        self.cache.keep(ANSWER, 100, 100)
        newer = evolve(ANSWER, verdict=Verdict.NXDOMAIN)
        self.cache.keep(newer, 100, 111)
        self.assertIs(self.get(now_s=112), newer)

    def test_a_large_answer_is_kept_and_a_larger_is_not(self) -> None:
        self.cache.keep(ANSWER, MAX_OCTETS, 100)
        self.assertIs(self.get(), ANSWER)
        self.cache.keep(evolve(ANSWER, name="b.test"), MAX_OCTETS + 1, 100)
        self.assertIsNone(self.get("b.test"))

    def test_so_many_names_are_kept_and_of_one_more_the_oldest_goes(self) -> None:
        for number in range(MAX_NAMES):
            self.cache.keep(evolve(ANSWER, name=f"{number}.test"), 100, 100)
        self.assertIsNotNone(self.get("0.test"))
        self.cache.keep(evolve(ANSWER, name="0.test", kind=RecordType.A), 100, 100)
        self.cache.keep(ANSWER, 100, 100)
        self.assertIsNotNone(self.get())
        self.assertIsNotNone(self.get("0.test"), "it was used last")
        self.assertIsNone(self.get("1.test"))
        self.assertIsNotNone(self.get("2.test"))

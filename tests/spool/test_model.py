"""
Whatever is done to a spool in whichever order, by the relay, by an operator from
outside and by crashes: it says the same as a simple model of what it promises.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeVar

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Peer, Status, by_reason
from pymail_tx.spool.administration import Action, Entry, Selection
from pymail_tx.spool.interface import (
    FIRST_INTERRUPTION_S,
    KEY_LIFE_S,
    LONGEST_INTERRUPTION_S,
    Accepted,
    Due,
    IdempotencyKey,
    KeyTaken,
    NewMessage,
    Result,
)
from pymail_tx.spool.sqlite import SQLiteSpool
from pymail_tx.spool.sqlite_administration import SQLiteAdministration
from tests.spool.turns import octets

RETRY_S = 1_800
DOMAINS = ("a.example", "b.example")
CONTENT = st.binary(max_size=40)
OPEN = ("waiting", "claimed", "held")

ACTIONS = {
    Action.RETRY: {"waiting": "waiting"},
    Action.HOLD: {"waiting": "held"},
    Action.RELEASE: {"held": "waiting"},
    Action.CANCEL: {"waiting": "cancelled", "held": "cancelled"},
    Action.BOUNCE: {"waiting": "waiting", "held": "waiting"},
    Action.ROUTE: {"waiting": "waiting", "held": "held"},
}
"""From which state to which."""

T = TypeVar("T")


@define
class Kept:
    """What the model knows of one delivery."""

    message_id: int
    recipient: str
    due_at: float | None
    state: str = "waiting"
    attempt: int = 0
    interruptions: int = 0
    lane: str = ""
    wish: Action | None = None
    epoch: int = 0

    def interrupted_at(self, now: float) -> float:
        return now + min(FIRST_INTERRUPTION_S << self.interruptions, LONGEST_INTERRUPTION_S)

    def leave(self, due_at: float) -> None:
        """It is under way no more; what an operator wished meanwhile comes first."""
        self.state, self.due_at = "waiting", due_at
        if self.wish is Action.HOLD:
            self.state, self.wish = "held", None
        elif self.wish is Action.CANCEL:
            self.state, self.due_at, self.wish = "cancelled", None, None


@define
class Claimed:
    """A claim that the relay remembers, even if it lost it."""

    due: Due
    epoch: int


@define
class Model:
    now: float = 1_700_000_000.0
    epoch: int = 1
    deliveries: dict[int, Kept] = field(factory=dict)
    contents: dict[int, bytes] = field(factory=dict)
    claims: list[Claimed] = field(factory=list)
    keys: dict[str, tuple[bytes, int]] = field(factory=dict)
    ended_at: dict[int, float] = field(factory=dict)

    def tidy(self) -> None:
        """Finished messages are gone."""
        living = {one.message_id for one in self.deliveries.values() if one.state in OPEN}
        for gone in {one.message_id for one in self.deliveries.values()} - living:
            self.ended_at[gone] = self.now
        self.deliveries = {number: one for number, one in self.deliveries.items() if one.message_id in living}

    def known(self, key: str) -> tuple[bytes, int] | None:
        """What a key stands for, until a day behind the end of its message."""
        content, message_id = self.keys.get(key, (b"", 0))
        expires_at = self.ended_at.get(message_id, self.now) + KEY_LIFE_S
        return (content, message_id) if message_id and self.now < expires_at else None

    def due(self, busy: tuple[str, ...]) -> dict[int, Kept]:
        return {
            number: one
            for number, one in self.deliveries.items()
            if one.state == "waiting" and one.due_at is not None and one.due_at <= self.now and one.lane not in busy
        }


class Spools(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # it is not the disk that is tried
        self.directory = tempfile.mkdtemp(dir=in_memory)
        self.model = Model()

    def got(self, deferred: Deferred[T]) -> T:
        return SynchronousTestCase().successResultOf(deferred)

    def opened(self) -> SQLiteSpool:
        def at_once(job: Callable[[], None]) -> None:
            job()

        return SQLiteSpool.open(f"{self.directory}/spool.sqlite", run_in_thread=at_once, call_in_caller=at_once)

    @initialize()
    def begin(self) -> None:
        self.spool = self.opened()
        self.operator = SQLiteAdministration.open(f"{self.directory}/spool.sqlite", pause=lambda seconds: None)

    def teardown(self) -> None:
        self.got(self.operator.close())
        self.got(self.spool.close())
        shutil.rmtree(self.directory)

    # The relay

    @rule(
        domains=st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=3),
        content=CONTENT,
        at_once=st.booleans(),
    )
    def accept(self, domains: list[str], content: bytes, at_once: bool) -> None:
        recipients = [f"r{number}@{domain}" for number, domain in enumerate(domains)]
        message = NewMessage(envelope=Envelope("sender@example.org", recipients, envid="e1"), content=content)
        if at_once:
            accepted = self.got(self.spool.accept_and_claim(message, now=self.model.now, lanes=domains))
            self.learn(accepted.message_id, recipients, domains, content)
            assert accepted.due
            self.claimed(accepted.due, self.model.now + FIRST_INTERRUPTION_S)
        else:
            message_id = self.got(self.spool.accept(message, now=self.model.now, lanes=domains))
            self.learn(message_id, recipients, domains, content)

    @rule(key=st.sampled_from(["k1", "k2"]), content=st.sampled_from([b"one", b"two"]), at_once=st.booleans())
    def accept_under_a_key(self, key: str, content: bytes, at_once: bool) -> None:
        recipients = ["r@a.example"]
        message = NewMessage(
            envelope=Envelope("", recipients), content=content, key=IdempotencyKey(text=key, digest=content)
        )
        accept = self.spool.accept_and_claim if at_once else self.spool.accept
        known = self.model.known(key)
        answer: Deferred[Accepted | int] = accept(message, now=self.model.now)  # type: ignore[assignment]
        if known and known[0] != content:
            SynchronousTestCase().failureResultOf(answer, KeyTaken)
            return
        accepted = self.got(answer)
        message_id = accepted if isinstance(accepted, int) else accepted.message_id
        if known:
            assert message_id == known[1]
            assert isinstance(accepted, int) or accepted.due is None
            return
        self.model.keys[key] = (content, message_id)
        self.learn(message_id, recipients, [""], content)
        if isinstance(accepted, Accepted) and accepted.due:
            self.claimed(accepted.due, self.model.now + FIRST_INTERRUPTION_S)

    @rule(limit=st.integers(1, 4), busy=st.sampled_from([(), ("a.example",), ("", "b.example")]))
    def claim(self, limit: int, busy: tuple[str, ...]) -> None:
        expected = self.model.due(busy)
        claimed = self.got(self.spool.claim(now=self.model.now, limit=limit, max_octets=1_000, busy=busy))
        assert bool(claimed) == bool(expected) and len(claimed) <= limit
        if claimed:
            assert claimed[0].due_at == min(one.due_at or 0 for one in expected.values())
        for due in claimed:
            of_message = [number for number, one in expected.items() if one.message_id == due.message_id]
            assert [delivery.id for delivery in due.deliveries] == sorted(of_message)
            for number in of_message:
                assert bool(self.model.deliveries[number].wish) == bool(
                    next(one.returned for one in due.deliveries if one.id == number)
                )
            assert octets(due) == self.model.contents[due.message_id]
            self.claimed(due, None)

    @precondition(lambda self: self.model.claims)
    @rule(data=st.data(), next_in_s=st.sampled_from([None, RETRY_S]), notice=st.booleans())
    def record(self, data: st.DataObject, next_in_s: int | None, notice: bool) -> None:
        claim = data.draw(st.sampled_from(self.model.claims))
        statuses = [data.draw(st.sampled_from(Status)) for _ in claim.due.deliveries]
        next_at = None if next_in_s is None else self.model.now + next_in_s
        results = [
            Result(
                delivery_id=delivery.id,
                outcome=by_reason("r@a.example", status, "4.0.0 said so", Peer()),
                next_attempt_at=next_at if status is Status.DEFERRED else None,
            )
            for delivery, status in zip(claim.due.deliveries, statuses, strict=True)
        ]
        bounce = NewMessage(envelope=Envelope("", ["sender@a.example"]), content=b"sorry")
        self.got(self.spool.record(results, now=self.model.now, lane="a.example", notices=[bounce] if notice else []))
        ours = [result for result in results if self.is_ours(claim, result.delivery_id)]
        for result in ours:
            one = self.model.deliveries[result.delivery_id]
            if result.next_attempt_at is not None:
                one.lane, one.interruptions = "a.example", 0
                one.leave(self.model.now if one.wish is Action.BOUNCE else result.next_attempt_at)
            else:
                one.state = "delivered" if result.outcome.status is Status.DELIVERED else "failed"
                one.due_at, one.wish = None, None
        if ours and notice:
            [entry] = [one for one in self.entries().values() if one.message_id not in self.model.contents]
            self.learn(entry.message_id, ["sender@a.example"], [""], b"sorry")

    @precondition(lambda self: self.model.claims)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.model.claims))
        self.got(self.spool.give_back(claim.due, now=self.model.now, lane="b.example"))
        for delivery in claim.due.deliveries:
            if self.is_ours(claim, delivery.id):
                one = self.model.deliveries[delivery.id]
                one.attempt, one.lane = one.attempt - 1, "b.example"
                one.leave(claim.due.due_at)

    @rule(released=st.booleans())
    def crash(self, released: bool) -> None:
        """The process ends; the next one begins, and releases what was left, as the scheduler does first."""
        self.got(self.spool.close())
        self.spool = self.opened()
        self.model.epoch += 1
        if released:
            self.release()

    def release(self) -> None:
        left = [one for one in self.model.deliveries.values() if one.state == "claimed"]
        assert self.got(self.spool.release(now=self.model.now)) == len(left)
        for one in left:
            at = one.interrupted_at(self.model.now)
            one.attempt, one.interruptions = one.attempt - 1, one.interruptions + 1
            one.leave(at)

    @rule(seconds=st.sampled_from([0.5, 10, RETRY_S, 90_000]))
    def pass_time(self, seconds: float) -> None:
        self.model.now += seconds

    # An operator

    @rule(action=st.sampled_from(Action), domain=st.sampled_from([None, *DOMAINS]))
    def administer(self, action: Action, domain: str | None) -> None:
        words = "discard:" if action is Action.ROUTE else "an operator's reason"
        changed = self.got(self.operator.apply(action, Selection(domain=domain), now=self.model.now, words=words))
        chosen = [
            one for one in self.model.deliveries.values() if domain is None or one.recipient.endswith(f"@{domain}")
        ]
        counts = [self.act(action, one) for one in chosen]
        assert [changed.done, changed.under_way] == [counts.count("done"), counts.count("under way")]

    def act(self, action: Action, one: Kept) -> str:
        if one.state == "claimed":
            return self.act_under_way(action, one)
        new_states = ACTIONS[action]
        if one.state not in new_states:
            return "nothing"
        one.state = new_states[one.state]
        if action is Action.CANCEL:
            one.due_at = None
        elif one.state == "waiting":
            one.due_at = self.model.now
        if action is Action.RETRY:
            one.interruptions = 0
        if action in (Action.BOUNCE, Action.ROUTE):
            one.lane, one.wish = "", action if action is Action.BOUNCE else one.wish
        return "done"

    def act_under_way(self, action: Action, one: Kept) -> str:
        if action is Action.RETRY or (action is Action.RELEASE and one.wish is not Action.HOLD):
            return "nothing"
        if action is Action.RELEASE:
            one.wish = None
        elif action is not Action.ROUTE:
            one.wish = action
        return "under way"

    # What must hold

    @invariant()
    def it_says_what_the_model_says(self) -> None:
        self.model.tidy()
        stored = {
            number: (
                one.message_id,
                one.recipient,
                one.state.value,
                one.due_at,
                one.attempt,
                one.lane,
                one.wish,
            )
            for number, one in self.entries().items()
        }
        expected = {
            number: (one.message_id, one.recipient, one.state, one.due_at, one.attempt, one.lane, one.wish)
            for number, one in self.model.deliveries.items()
        }
        assert stored == expected

    def entries(self) -> dict[int, Entry]:
        return {one.delivery_id: one for one in self.got(self.operator.entries(Selection(), limit=10_000))}

    def learn(self, message_id: int, recipients: list[str], lanes: list[str], content: bytes) -> None:
        numbers = sorted(number for number, one in self.entries().items() if one.message_id == message_id)
        for number, recipient, lane in zip(numbers, recipients, lanes, strict=True):
            self.model.deliveries[number] = Kept(message_id, recipient, self.model.now, lane=lane)
        self.model.contents[message_id] = content

    def claimed(self, due: Due, interrupted_at: float | None) -> None:
        for delivery in due.deliveries:
            one = self.model.deliveries[delivery.id]
            one.due_at = interrupted_at or one.interrupted_at(self.model.now)
            one.state, one.attempt, one.epoch = "claimed", one.attempt + 1, self.model.epoch
            assert delivery.attempt == one.attempt
        self.model.claims.append(Claimed(due, self.model.epoch))

    def is_ours(self, claim: Claimed, delivery_id: int) -> bool:
        one = self.model.deliveries.get(delivery_id)
        return one is not None and one.state == "claimed" and one.epoch == self.model.epoch


class ModelTests(SynchronousTestCase):
    timeout = 120

    def test_a_spool_says_what_the_model_says_whatever_is_done_to_it(self) -> None:
        run_state_machine_as_test(
            Spools,
            settings=settings(max_examples=40, stateful_step_count=25, deadline=None),
        )

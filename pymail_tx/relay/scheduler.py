"""
The scheduler: claims what is due, has couriers carry it, records what became of it::

    NEW --start--> RUNNING --stop--> STOPPING --all attempts over--> STOPPED

Whoever hands messages in does so here, L{Scheduler.accept}: while there is room,
the commit that makes a message durable claims it too, and it goes out from
memory. For the rest one loop looks for due deliveries, lines them up by courier,
and rests until the next is due or somebody wakes it: an accept without room, an
attempt when it ends. Each attempt is a coroutine of its own::

    send (the courier's part) -> settle (relay.attempt) -> record, with the bounce

The rules of the house:

  1. What is claimed is recorded, given back or released. While the spool is
     broken, the attempt keeps its results and tries again.
  2. A courier's failure is a bug. It is logged once, and the mail deferred.
  3. A bounce is never answered by a bounce (RFC 5321 §6.1): whatever has no
     sender ends in the log.
  4. Mail that is held in memory is bounded, see L{pymail_tx.relay.lines}.

Time comes twice: C{clock} counts and fires timers, C{wall_clock} says when a
delivery is due, and may be set by an operator at any moment.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core.dsn import Undelivered, bounce
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Peer, Report, Status, by_reason
from pymail_tx.core.retry import RetryPlan
from pymail_tx.relay.attempt import failures, settle
from pymail_tx.relay.courier import Content, Courier
from pymail_tx.relay.lines import Group, Lines
from pymail_tx.spool.interface import (
    PART_OCTETS,
    Accepted,
    ContentWriter,
    Delivery,
    Due,
    NewMessage,
    Result,
    Spool,
    SpoolError,
)

STOP_GRACE_S = 10
"""For sends under way when the relay stops: most end within it, and service managers kill after 90 s or less."""

SPOOL_RETRY_S = 5
"""Between tries at a broken spool: soon after the operator mended it, and no storm on a full disk."""

LONGEST_REST_S = 5
"""While the loop rests, an operator may change what is due, or set the wall clock; it is noticed then."""

T = TypeVar("T")

_log = Logger(namespace="pymail_tx.relay")


class _Phase(enum.Enum):
    NEW = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()
    STOPPED = enum.auto()


@define(eq=False)
class Scheduler:
    """
    @ivar _courier_for: picks the courier for a recipient's domain, which is
        C{""} for the bare C{postmaster}.
    @ivar _courier_to: makes the courier to a target that an operator named.
    @ivar _hostname: in whose name bounces are sent.
    @ivar _new_token: makes unguessable tokens of letters and digits.
    """

    _spool: Spool
    _courier_for: Callable[[str], Courier]
    _courier_to: Callable[[str], Courier] = field(kw_only=True)
    _clock: IReactorTime = field(kw_only=True)
    _wall_clock: Callable[[], float] = field(kw_only=True)
    _plan: RetryPlan = field(kw_only=True)
    _hostname: str = field(kw_only=True)
    _new_token: Callable[[], str] = field(kw_only=True)

    _phase: _Phase = field(init=False, default=_Phase.NEW)
    _lines: Lines = field(init=False, factory=Lines)
    _loop: Deferred[None] | None = field(init=False, default=None)
    _rest: Deferred[None] | None = field(init=False, default=None)
    _woken: bool = field(init=False, default=False)
    _starting: bool = field(init=False, default=False)
    _attempts: set[Deferred[None]] = field(init=False, factory=set)
    _cancellable: set[Callable[[], None]] = field(init=False, factory=set)
    _spool_broken: bool = field(init=False, default=False)

    def start(self) -> None:
        """Release what an earlier process left claimed, then deliver. To be called once."""
        assert self._phase is _Phase.NEW
        self._phase = _Phase.RUNNING
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(lambda failure: _log.failure("the scheduler's loop ended", failure))

    def change(self, *, plan: RetryPlan, hostname: str) -> None:
        """From now on; attempts under way are settled by what holds when they end."""
        self._plan, self._hostname = plan, hostname

    def begin_content(self) -> ContentWriter:
        """See L{Acceptor <pymail_tx.spool.interface.Acceptor>}."""
        return self._spool.begin_content()

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        """
        See L{Acceptor <pymail_tx.spool.interface.Acceptor>}: fires when the
        message is durable; then it is also on its way. Callbacks, since it is
        run for every message.
        """
        lanes = tuple(self._courier(one.mailbox.domain).key for one in message.envelope.recipients)
        if self._phase is not _Phase.RUNNING or not self._lines.promise(lanes):
            accepted = self._spool.accept(message, now=now, lanes=lanes)
            return accepted.addCallbacks(self._accepted, self._not_accepted)
        claimed = self._spool.accept_and_claim(message, now=now, lanes=lanes)
        return claimed.addBoth(self._redeem).addCallbacks(self._accepted_and_claimed, self._not_accepted)

    def _redeem(self, answer: T) -> T:
        self._lines.redeem()
        return answer

    def _accepted(self, message_id: int) -> int:
        self._spool_works()
        self.wake()
        return message_id

    def _accepted_and_claimed(self, accepted: Accepted) -> int:
        self._spool_works()
        if accepted.due and self._phase is _Phase.RUNNING:  # else it is released, as all that is claimed
            surplus = self._line_up((accepted.due,))
            if surplus:
                self._follow(self._give_back(surplus))
        return accepted.message_id

    def _not_accepted(self, failure: Failure) -> Failure:
        if isinstance(failure.value, SpoolError):
            self._spool_failed(failure.value)
        return failure

    def wake(self) -> None:
        """There may be work: look now, not only when the timer says so."""
        self._woken = True
        if self._rest:
            self._rest.cancel()

    def stop(self) -> Deferred[None]:
        """
        Claim no more, let sends under way end, give the rest back. To be called
        once; the couriers are closed afterwards by whoever made them.

        @return: fires when nothing is under way any more, after
            L{STOP_GRACE_S} and what cancelling takes. It cannot be cancelled.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _run(self) -> None:
        await self._persist(self._release)
        while self._phase is _Phase.RUNNING:
            self._woken = False
            await self._rest_for(await self._look())

    async def _rest_for(self, seconds: float) -> None:
        if self._woken or seconds <= 0:
            return
        self._rest = deferLater(self._clock, seconds)
        with suppress(CancelledError):
            await self._rest
        self._rest = None

    async def _look(self) -> float:
        """
        Take what is due, as far as there is room.

        @return: how long to rest, in seconds, if nobody wakes us.
        """
        if not self._lines.room:
            return LONGEST_REST_S
        try:
            claimed = await self._claim()
            next_due_at = None if claimed else await self._spool.next_due_at(busy=self._lines.busy)
        except SpoolError as problem:
            self._spool_failed(problem)
            return SPOOL_RETRY_S
        except Exception:  # noqa: BLE001 - a bug, or a spool that somebody tampered with: told, and no reason to end
            _log.failure("what is due cannot be claimed", event="claim_broken")
            return LONGEST_REST_S
        self._spool_works()
        if claimed:
            await self._take(claimed)
            return 0
        return LONGEST_REST_S if next_due_at is None else min(next_due_at - self._wall_clock(), LONGEST_REST_S)

    def _claim(self) -> Deferred[Sequence[Due]]:
        return self._spool.claim(
            now=self._wall_clock(),
            limit=self._lines.room,
            max_octets=self._lines.room_octets,
            busy=self._lines.busy,
        )

    async def _take(self, claimed: Sequence[Due]) -> None:
        """Line up what was claimed. What finds no room goes back into its courier's lane, out of the others' way."""
        await self._give_back(self._line_up(claimed))

    def _line_up(self, claimed: Sequence[Due]) -> list[Group]:
        """
        @return: those for which there is no room.
        """
        groups = [group for due in claimed for group in self._grouped(due)]
        surplus = [group for group in groups if not self._lines.join(group)]
        self._begin()
        return surplus

    def _grouped(self, due: Due) -> Iterator[Group]:
        couriers: dict[str, Courier] = {}
        places: dict[str, list[int]] = {}
        for place, (recipient, delivery) in enumerate(zip(due.envelope.recipients, due.deliveries, strict=True)):
            courier = self._courier_of(delivery, recipient.mailbox.domain)
            couriers[courier.key] = courier
            places.setdefault(courier.key, []).append(place)
        for key, courier in couriers.items():
            yield Group(due=_part(due, places[key]), courier=courier)

    def _courier_of(self, delivery: Delivery, domain: str) -> Courier:
        """What an operator wants of a delivery goes before the routes."""
        if delivery.returned:
            return _Returned(delivery.returned)
        return self._picked(self._courier_to, delivery.target) if delivery.target else self._courier(domain)

    def _courier(self, domain: str) -> Courier:
        return self._picked(self._courier_for, domain)

    def _picked(self, pick: Callable[[str], Courier], name: str) -> Courier:
        try:
            return pick(name)
        except Exception as problem:  # noqa: BLE001 - rule 2: it is told with the attempt
            return _NoCourier(problem)

    def _begin(self) -> None:
        """Begin whatever may be under way. An attempt that ends at once comes back here; the loop outside goes on."""
        if self._starting:
            return
        self._starting = True
        while self._phase is _Phase.RUNNING and (group := self._lines.next()):
            self._follow(self._attempt(group))
        self._starting = False

    def _follow(self, work: Coroutine[Deferred[None], None, None]) -> None:
        """Have it done, and know of it until it is over."""
        attempt = Deferred.fromCoroutine(work)
        self._attempts.add(attempt)
        attempt.addCallback(lambda _: self._attempts.discard(attempt))

    async def _attempt(self, group: Group) -> None:
        report = await self._send(group)
        self._lines.sent(group)
        self._begin()
        if report:
            await self._record(group, report)
        self._lines.leave(group)
        self.wake()

    async def _send(self, group: Group) -> Report | None:
        """The courier's report; C{None} if we interrupted it."""
        try:
            with _opened(group.due) as content:
                report = await self._interruptible(group.courier.send(group.due.envelope, content))
            assert len(report.outcomes) == len(group.due.deliveries), "an outcome for each recipient"
        except Exception as problem:  # noqa: BLE001 - rule 2
            if isinstance(problem, CancelledError) and self._phase is _Phase.STOPPING:
                return None
            _log.failure(
                "message {message_id}: courier {courier} is broken",
                event="courier_broken", message_id=group.due.message_id, courier=group.courier.key,
            )  # fmt: skip
            return _deferred_by_bug(group.due)
        return report

    async def _record(self, group: Group, report: Report) -> None:
        now = self._wall_clock()
        results = settle(group.due, report, self._plan, now=now)
        try:
            notices = self._notices(group.due, results, now)
            work = partial(self._spool.record, results, now=now, lane=group.courier.key, notices=notices)
            if await self._persist(work):
                _log_results(group.due, results, notices)
        except Exception:  # noqa: BLE001 - a bug of ours; the next start releases what it left claimed
            _log.failure(
                "message {message_id}: what became of it could not be recorded",
                event="record_broken", message_id=group.due.message_id,
            )  # fmt: skip

    def _notices(self, due: Due, results: tuple[Result, ...], now: float) -> tuple[NewMessage, ...]:
        """The bounce, if one is due."""
        sender, failed = due.envelope.sender, failures(results)
        if not sender or not failed:
            return ()
        undelivered = Undelivered(sender=sender, failed=failed, content=_beginning(due), accepted_at=due.accepted_at)
        content = bounce(undelivered, hostname=self._hostname, now=now, token=self._new_token())
        return (NewMessage(envelope=Envelope("", (sender,)), content=content),)

    async def _give_back(self, groups: Sequence[Group]) -> None:
        """Together, so that they share a commit."""
        give_back = partial(self._spool.give_back, now=self._wall_clock())
        await DeferredList(
            [
                Deferred.fromCoroutine(self._persist(partial(give_back, group.due, lane=group.courier.key)))
                for group in groups
            ]
        )

    async def _release(self) -> None:
        count = await self._spool.release(now=self._wall_clock())
        if count:
            _log.info("{count} interrupted deliveries released", event="released", count=count)

    async def _persist(self, work: Callable[[], Awaitable[object]]) -> bool:
        """
        Have the spool do it, again and again while it is broken; once only while
        we stop, since what is left claimed is released at the next start.

        @return: whether it is done.
        """
        while True:
            try:
                await work()
            except SpoolError as problem:
                self._spool_failed(problem)
            else:
                self._spool_works()
                return True
            if self._phase is not _Phase.RUNNING:
                return False
            with suppress(CancelledError):
                await self._interruptible(deferLater(self._clock, SPOOL_RETRY_S))

    def _spool_failed(self, problem: SpoolError) -> None:
        if not self._spool_broken:
            _log.error("{problem}; trying again", event="spool_failed", problem=str(problem))
        self._spool_broken = True

    def _spool_works(self) -> None:
        if self._spool_broken:
            _log.info("the spool works again", event="spool_works")
        self._spool_broken = False

    async def _interruptible(self, waiting: Deferred[T]) -> T:
        """Wait for something that L{_interrupt} may cancel. What the spool does is never cancelled."""
        self._cancellable.add(waiting.cancel)
        try:
            return await waiting
        finally:
            self._cancellable.discard(waiting.cancel)

    def _interrupt(self) -> None:
        for cancel in tuple(self._cancellable):
            cancel()

    async def _stop(self) -> None:
        self._phase = _Phase.STOPPING
        self.wake()
        grace = self._clock.callLater(STOP_GRACE_S, self._interrupt)
        await DeferredList([*self._attempts, *([self._loop] if self._loop else [])])
        if grace.active():
            grace.cancel()
        await self._give_back(self._lines.clear())
        await self._persist(self._release)
        self._phase = _Phase.STOPPED


@define
class _NoCourier:
    """Stands in where no courier could be picked, so that the failure takes the way of all others."""

    _problem: Exception
    key: str = ""

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        return fail(self._problem)

    def close(self) -> Deferred[None]:
        return succeed(None)


@define
class _Returned:
    """Fails what an operator sends back, so that it takes the way of all failures."""

    _words: str
    key: str = ""

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        return succeed(_same_for_all(envelope, Status.FAILED, f"5.7.1 {self._words}"))

    def close(self) -> Deferred[None]:
        return succeed(None)


def _part(due: Due, places: Sequence[int]) -> Due:
    """Those deliveries of a message that stand at C{places}."""
    if len(places) == len(due.deliveries):
        return due
    recipients = tuple(due.envelope.recipients[place] for place in places)
    deliveries = tuple(due.deliveries[place] for place in places)
    return evolve(due, envelope=evolve(due.envelope, recipients=recipients), deliveries=deliveries)


def _opened(due: Due) -> AbstractContextManager[Content]:
    return nullcontext(due.content) if isinstance(due.content, bytes) else due.content.open()


def _beginning(due: Due) -> bytes:
    """As much of the content as a bounce may need: its header, mostly."""
    with _opened(due) as content:
        return content if isinstance(content, bytes) else content.read(PART_OCTETS)


def _deferred_by_bug(due: Due) -> Report:
    return _same_for_all(due.envelope, Status.DEFERRED, "4.3.0 an error in the relay, see its log")


def _same_for_all(envelope: Envelope, status: Status, reason: str) -> Report:
    return Report(tuple(by_reason(one.address, status, reason, Peer()) for one in envelope.recipients))


def _log_results(due: Due, results: tuple[Result, ...], notices: tuple[NewMessage, ...]) -> None:
    for delivery, result in zip(due.deliveries, results, strict=True):
        _log.info(
            "message {message_id} to {recipient}: {status}, {reason}",
            event="attempt_ended", message_id=due.message_id, recipient=result.outcome.recipient,
            status=result.outcome.status.value, reason=result.outcome.reason, uncertain=result.outcome.uncertain,
            attempt=delivery.attempt, next_attempt_at=result.next_attempt_at,
        )  # fmt: skip
    for notice in notices:
        _log.info(
            "message {message_id}: bounced to {recipient}",
            event="bounced", message_id=due.message_id, recipient=notice.envelope.recipients[0].address,
        )  # fmt: skip
    if failures(results) and not notices:
        _log.warn(
            "message {message_id}: failed, and has no sender to tell", event="bounce_dropped", message_id=due.message_id
        )

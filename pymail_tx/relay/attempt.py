"""
What an attempt's report means for the spool: who is done, who waits and until when, who is given up.
"""

from __future__ import annotations

from attrs import evolve

from pymail_tx.core.outcome import Outcome, Report, Status
from pymail_tx.core.retry import RetryPlan, in_words
from pymail_tx.spool.interface import Due, Result


def settle(due: Due, report: Report, plan: RetryPlan, *, now: float) -> tuple[Result, ...]:
    """
    One result for each outcome. A deferral behind the plan's end becomes a
    failure, with the last word kept.

    @param now: when the attempt ended.
    """
    results = []
    for delivery, outcome in zip(due.deliveries, report.outcomes, strict=True):
        deferred = outcome.status is Status.DEFERRED
        delay_s = plan.delay_after(delivery.attempt) if deferred else None
        final = outcome if delay_s or not deferred else _given_up(outcome, delivery.attempt, now - due.accepted_at)
        next_attempt_at = now + delay_s if delay_s else None
        results.append(Result(delivery_id=delivery.id, outcome=final, next_attempt_at=next_attempt_at))
    return tuple(results)


def failures(results: tuple[Result, ...]) -> tuple[Outcome, ...]:
    """What a bounce has to tell of."""
    return tuple(result.outcome for result in results if result.outcome.status is Status.FAILED)


def _given_up(outcome: Outcome, attempt: int, age_s: float) -> Outcome:
    """RFC 3463 §3.5: X.4.7 is "delivery time expired"; of class 4, since sending later may still succeed (§2)."""
    tried = "1 attempt" if attempt == 1 else f"{attempt} attempts"
    reason = f"4.4.7 given up after {tried} in {in_words(age_s)}; at last: {outcome.reason}"
    return evolve(outcome, status=Status.FAILED, reason=reason)

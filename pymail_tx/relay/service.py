"""
The composition root: settings become a running relay::

    clients -> ingress -> spool <-> scheduler -> couriers -> servers, maildirs

The reactor, the clocks, randomness and threads enter here and are handed down.

What starts has an end: on SIGTERM the relay takes no new connections, tells its
clients that it stops, gives sends under way L{STOP_GRACE_S
<pymail_tx.relay.scheduler.STOP_GRACE_S>} seconds, releases the rest, and exits
with status 0. The next start takes up what was left.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TypeVar, cast

from twisted.application.service import Service
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.retry import RetryPlan
from pymail_tx.net.policy_store import FilePolicyStore
from pymail_tx.relay.couriers import Couriers, Surroundings
from pymail_tx.relay.ingress import IngressFactory
from pymail_tx.relay.listening import Endpoint, where
from pymail_tx.relay.lookups import LookUps
from pymail_tx.relay.options import DEFAULT_SMTP, Options, Settings, complaint
from pymail_tx.relay.ourselves import of_this_machine, ourselves
from pymail_tx.relay.scheduler import STOP_GRACE_S, Scheduler
from pymail_tx.spool.interface import SpoolError
from pymail_tx.spool.sqlite import SQLiteSpool

__all__ = ["Options", "RelayService", "makeService"]

RETRY_PLAN = "4*30m 22*1h 4*1d"
"""Half an hour four times, then hourly for a day, then daily: five days in all (RFC 5321 §4.5.4.1)."""

CLOSING_GRACE_S = 1
"""Behind L{STOP_GRACE_S}: for cancelled sends to end, and for couriers to say QUIT."""

POLICIES = "mta-sts.json"
"""Beside the spool: the policies of MTA-STS that domains want remembered (RFC 8461 §5.1)."""

T = TypeVar("T")

_log = Logger(namespace="pymail_tx.relay")


class RelayService(Service):
    """
    The relay as a service of Twisted.
    """

    name = "pymail-tx"

    def __init__(self, reactor: ReactorBase, settings: Settings) -> None:
        """
        @raise BadArgument: a target or an endpoint is not what it should be.
        """
        self._reactor = reactor
        self._settings = settings
        self._look_ups = LookUps(
            reactor=reactor,
            wall_clock=time.time,
            us=ourselves(settings.hostname, settings.smtp, of_this_machine),
            store=partial(FilePolicyStore, reactor, os.path.join(os.path.dirname(settings.spool_path), POLICIES)),
        )
        self._couriers = Couriers.of(
            settings.routes,
            Surroundings(
                reactor=reactor,
                hostname=settings.hostname,
                wall_clock=time.time,
                new_token=_new_token,
                run_in_thread=self._run_in_thread,
                environment=os.environ,
                asked=self._look_ups,
            ),
        )
        self._endpoints = [Endpoint.parse(reactor, text, option="smtp", example=DEFAULT_SMTP) for text in settings.smtp]
        self._ports: list[IListeningPort] = []
        self._spool_thread = ThreadPool(minthreads=1, maxthreads=1, name="spool")

    def startService(self) -> None:
        """
        Open the spool, listen, deliver. It blocks until all of it stands.

        @raise SystemExit: it cannot stand; one line says why.
        """
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types here
        try:
            self._start()
        except (SpoolError, BadArgument) as problem:
            sys.stderr = sys.__stderr__  # twistd has turned it into a log by now
            raise complaint(str(problem)) from None

    def stopService(self) -> Deferred[None]:
        """Fires when everything is closed, L{STOP_GRACE_S} and little more from now."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types here
        return Deferred.fromCoroutine(self._stop())

    def _start(self) -> None:
        self._spool = SQLiteSpool.open(
            self._settings.spool_path,
            run_in_thread=self._spool_thread.callInThread,
            call_in_caller=self._reactor.callFromThread,
        )
        self._scheduler = Scheduler(
            self._spool,
            self._couriers.courier_for,
            clock=self._reactor,
            wall_clock=time.time,
            plan=RetryPlan.parse(RETRY_PLAN),
            hostname=self._settings.hostname,
            new_token=_new_token,
        )
        self._ingress = IngressFactory(
            spool=self._spool,
            routes=self._settings.routes,
            hostname=self._settings.hostname,
            clock=self._reactor,
            wall_clock=time.time,
            new_token=_new_token,
            accepted=self._scheduler.wake,
        )
        self._ports = [endpoint.listen(self._ingress) for endpoint in self._endpoints]
        self._spool_thread.start()
        self._scheduler.start()
        _log.info(
            "{hostname} takes mail at {listening}, keeps it in {spool}, and delivers by {routes}",
            event="started", hostname=self._settings.hostname, spool=self._settings.spool_path,
            listening=", ".join(where(port.getHost()) for port in self._ports),
            routes=", ".join(str(route) for route in self._settings.routes.routes),
        )  # fmt: skip

    async def _stop(self) -> None:
        closing = [port.stopListening() for port in self._ports]
        ending = [*filter(None, closing), self._ingress.stop(), self._scheduler.stop()]
        await self._at_most(STOP_GRACE_S + CLOSING_GRACE_S, DeferredList(ending, consumeErrors=True))
        await self._at_most(CLOSING_GRACE_S, self._couriers.close())
        await self._at_most(CLOSING_GRACE_S, self._look_ups.close())
        await self._spool.close()
        self._spool_thread.stop()
        _log.info("stopped", event="stopped")

    async def _at_most(self, seconds: float, waiting: Deferred[T]) -> None:
        """Wait, but not longer; what is waited for is not cancelled."""
        timer: Deferred[None] = deferLater(self._reactor, seconds)
        await DeferredList([waiting.addCallback(lambda _: None), timer], fireOnOneCallback=True, consumeErrors=True)
        timer.cancel()

    def _run_in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)


def makeService(options: Options) -> RelayService:
    """
    What C{twistd pymail-tx} runs. Twisted dictates the name.

    @raise SystemExit: the settings are not what they should be; one line says why.
    """
    from twisted.internet import reactor

    relay = cast(ReactorBase, reactor)
    try:
        service = RelayService(relay, options.settings)
    except BadArgument as problem:
        raise complaint(str(problem)) from None
    relay.callWhenRunning(_exit_0_on_sigterm, relay)
    return service


def _exit_0_on_sigterm(reactor: ReactorBase) -> None:
    """Twisted would end the process with the signal itself, as if it had not stopped in an orderly way."""

    def stop() -> None:
        with suppress(ReactorNotRunning):  # a second signal
            reactor.stop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(stop)

    signal.signal(signal.SIGTERM, on_signal)


def _new_token() -> str:
    return secrets.token_hex(8)

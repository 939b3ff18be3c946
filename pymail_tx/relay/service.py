"""
The composition root: settings become a running relay::

    clients -> ingress -> spool <-> scheduler -> couriers -> servers, maildirs

The reactor, the clocks, randomness and threads enter here and are handed down.

On SIGHUP it reads its configuration again and applies what has changed; no
connection is dropped for that, and what is wrong leaves all as it was.

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
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TypeVar, cast
from weakref import ReferenceType, ref

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from pymail_tx.config.keys import changes
from pymail_tx.config.reading import Configuration, WrongConfiguration
from pymail_tx.config.settings import Settings
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.reply import printable
from pymail_tx.relay.courier import Courier
from pymail_tx.relay.couriers import Couriers, Surroundings
from pymail_tx.relay.ingress import IngressFactory
from pymail_tx.relay.listeners import Listeners
from pymail_tx.relay.lookups import LookUps
from pymail_tx.relay.making import make
from pymail_tx.relay.options import Options, complaint
from pymail_tx.relay.ourselves import of_this_machine, ourselves
from pymail_tx.relay.policies import SpooledPolicies
from pymail_tx.relay.scheduler import STOP_GRACE_S, Scheduler
from pymail_tx.spool.interface import SpoolError, SpoolLost
from pymail_tx.spool.sqlite import SQLiteSpool

__all__ = ["Options", "RelayService", "makeService"]

CLOSING_GRACE_S = 1
"""Behind L{STOP_GRACE_S}: for cancelled sends to end, and for couriers to say QUIT."""

T = TypeVar("T")

_log = Logger(namespace="pymail_tx.relay")


class RelayService(Service):
    """
    The relay as a service of Twisted.
    """

    name = "pymail-tx"

    def __init__(self, reactor: ReactorBase, configuration: Configuration) -> None:
        """
        @raise WrongConfiguration: a target or an endpoint is not what it should
            be.
        """
        self._reactor = reactor
        self._look_ups: list[LookUps] = []
        made = make(configuration, reactor, self._surroundings(configuration.settings))
        self._settings, self._couriers, self._endpoints = made.settings, made.couriers, made.endpoints
        self._retired: list[ReferenceType[Courier]] = []
        self._changing = DeferredLock()
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
            self._settings.spool.path,
            run_in_thread=self._spool_thread.callInThread,
            call_in_caller=self._reactor.callFromThread,
            relay=self._settings.hostname,
            on_lost=_end_now,
        )
        self._scheduler = Scheduler(
            self._spool,
            self._courier_for,
            courier_to=self._courier_to,
            clock=self._reactor,
            wall_clock=time.time,
            plan=self._settings.retry.plan,
            hostname=self._settings.hostname,
            new_token=_new_token,
        )
        self._ingress = IngressFactory(
            spool=self._scheduler,
            routes=self._settings.routes,
            hostname=self._settings.hostname,
            clock=self._reactor,
            wall_clock=time.time,
            new_token=_new_token,
            accepted=lambda: None,  # the scheduler has it already
        )
        self._listeners = Listeners(lambda endpoint: self._ingress)
        self._listeners.open(self._endpoints)
        self._spool_thread.start()
        self._scheduler.start()
        _log.info(
            "{hostname} takes mail at {listening}, keeps it in {spool}, and delivers by {routes}",
            event="started", hostname=self._settings.hostname, spool=self._settings.spool.path,
            listening=", ".join(self._listeners.places),
            routes=", ".join(str(route) for route in self._settings.routes.routes),
        )  # fmt: skip

    def reload(self, read: Callable[[], Configuration]) -> Deferred[None]:
        """
        Have the configuration read again, and apply what has changed: routes,
        the retry plan, our name, where we listen. Connections stay. What is
        wrong is logged and leaves all as it was.

        @return: fires when it is done, whatever came of it. It cannot be
            cancelled.
        """
        return Deferred.fromCoroutine(self._reload(read))

    async def _reload(self, read: Callable[[], Configuration]) -> None:
        await self._changing.acquire()
        try:
            await self._change(read())
        except (WrongConfiguration, BadArgument) as problem:
            _log.error(
                "the configuration is wrong, and the relay goes on as it was: {problem}",
                event="reload_refused", problem=printable(str(problem).replace("\n", "; ")),
            )  # fmt: skip
        except Exception:  # noqa: BLE001 - a bug of ours, and no reason to stop taking mail
            _log.failure("the configuration could not be applied", event="reload_broken")
        finally:
            self._changing.release()

    async def _change(self, configuration: Configuration) -> None:
        """
        @raise WrongConfiguration: it cannot be applied.
        @raise BadArgument: it cannot be listened there.
        """
        wanted = configuration.settings
        made = make(configuration, self._reactor, self._surroundings(wanted), self._kept_couriers(wanted))
        await self._listeners.move(made.endpoints)
        self._retire(self._couriers.without(made.couriers))
        self._couriers = made.couriers
        self._scheduler.change(plan=wanted.retry.plan, hostname=wanted.hostname)
        self._ingress.routes = wanted.routes
        self._ingress.hostname = wanted.hostname  # type: ignore[assignment]  # attrs runs the converter, mypy does not
        self._tell(wanted)

    def _kept_couriers(self, wanted: Settings) -> Couriers | None:
        """They greet by our name, and know whom to ask and what not to send to us."""
        before = self._settings
        same = (wanted.hostname, wanted.dns, wanted.smtp.listen) == (before.hostname, before.dns, before.smtp.listen)
        return self._couriers if same else None

    def _tell(self, wanted: Settings) -> None:
        """Log what is different now, and remember it."""
        if wanted.spool != self._settings.spool:
            _log.error(
                "spool.url cannot change while the relay runs: it stays {url} until a restart",
                event="reload_kept", key="spool.url", url=self._settings.spool.url,
            )  # fmt: skip
            wanted = evolve(wanted, spool=self._settings.spool)
        names = changes(self._settings, wanted)
        self._settings = wanted
        _log.info(
            "the configuration was read again; changed: {changed}",
            event="reloaded", changed=", ".join(names) or "nothing",
        )  # fmt: skip

    def _retire(self, couriers: Iterable[Courier]) -> None:
        """
        They get no new mail. What was lined up for them may still come, so they
        are not closed; the connections that they keep close when nothing comes.
        """
        self._retired = [reference for reference in self._retired if reference()]
        self._retired += map(ref, couriers)

    def _courier_for(self, domain: str) -> Courier:
        return self._couriers.courier_for(domain)

    def _courier_to(self, target: str) -> Courier:
        return self._couriers.courier_to(target)

    async def _stop(self) -> None:
        await self._changing.acquire()  # for good: what stops is not changed any more
        ending = [self._listeners.close(), self._ingress.stop(), self._scheduler.stop()]
        await self._at_most(STOP_GRACE_S + CLOSING_GRACE_S, DeferredList(ending, consumeErrors=True))
        retired = [courier.close() for courier in (reference() for reference in self._retired) if courier]
        await self._at_most(CLOSING_GRACE_S, DeferredList([self._couriers.close(), *retired], consumeErrors=True))
        await self._at_most(CLOSING_GRACE_S, DeferredList([one.close() for one in self._look_ups], consumeErrors=True))
        await self._spool.close()
        self._spool_thread.stop()
        _log.info("stopped", event="stopped")

    async def _at_most(self, seconds: float, waiting: Deferred[T]) -> None:
        """Wait, but not longer; what is waited for is not cancelled."""
        timer: Deferred[None] = deferLater(self._reactor, seconds)
        await DeferredList([waiting.addCallback(lambda _: None), timer], fireOnOneCallback=True, consumeErrors=True)
        timer.cancel()

    def _surroundings(self, settings: Settings) -> Surroundings:
        return Surroundings(
            reactor=self._reactor,
            hostname=settings.hostname,
            wall_clock=time.time,
            new_token=_new_token,
            run_in_thread=self._run_in_thread,
            environment=os.environ,
            asked=self._look_ups_by(settings),
        )

    def _look_ups_by(self, settings: Settings) -> LookUps:
        """Those of the configuration before, if they are the same; they serve couriers of both."""
        wanted = LookUps(
            reactor=self._reactor,
            wall_clock=time.time,
            servers=[(server.host, server.port) for server in settings.dns.servers],
            trust_ad=settings.dns.trust_ad,
            us=ourselves(settings.hostname, settings.smtp.listen, of_this_machine),
            store=SpooledPolicies(lambda: self._spool),
        )
        if wanted not in self._look_ups:
            self._look_ups.append(wanted)
        return self._look_ups[self._look_ups.index(wanted)]

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
        service = RelayService(relay, options.configuration)
    except WrongConfiguration as wrong:
        raise complaint(*map(str, wrong.problems)) from None
    relay.callWhenRunning(_on_signal, relay, signal.SIGTERM, partial(_exit_0, relay))
    relay.callWhenRunning(_on_signal, relay, signal.SIGHUP, partial(service.reload, options.read))
    return service


def _on_signal(reactor: ReactorBase, number: signal.Signals, function: Callable[[], object]) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(function)

    signal.signal(number, handle)


def _exit_0(reactor: ReactorBase) -> None:
    """Twisted would end the process with SIGTERM itself, as if it had not stopped in an orderly way."""
    with suppress(ReactorNotRunning):  # a second signal
        reactor.stop()


def _end_now(problem: SpoolLost) -> None:
    """Without another reply to anybody: whatever the disk does not hold was never accepted."""
    _log.critical("{problem}", event="spool_lost", problem=str(problem))
    sys.stdout.flush()
    os._exit(os.EX_IOERR)


def _new_token() -> str:
    return secrets.token_hex(8)

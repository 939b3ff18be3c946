"""
Who delivers: for each target of a route its courier.

One courier serves all routes that name the same target, so that its limits and
connections are shared. All are made at the start: what is wrong with a target
shows then, not with the first message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Peer, Report, Status, by_reason
from pymail_tx.core.routes import PasswordSource, Route, Routes, Scheme, Target, TLSPolicy
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.internet import Asked
from pymail_tx.relay.courier import Content, Courier
from pymail_tx.relay.maildir import MaildirCourier, RunInThread
from pymail_tx.relay.passwords import with_password

_NOBODY = Peer()


@frozen(kw_only=True)
class Surroundings:
    """
    What couriers need of the world.

    @ivar hostname: our name, in ASCII.
    @ivar wall_clock: seconds since the epoch.
    @ivar new_token: makes unguessable texts of letters and digits.
    @ivar run_in_thread: for what blocks.
    @ivar environment: where C{password_env} looks.
    @ivar asked: makes whom the internet's way asks, or returns those that there
        are; without it each agent makes its own.
    """

    reactor: IReactorTime
    hostname: str
    wall_clock: Callable[[], float]
    new_token: Callable[[], str]
    run_in_thread: RunInThread
    environment: Mapping[str, str] = field(repr=False)
    asked: Callable[[], Asked] | None = None


@frozen
class SameVerdict:
    """A courier that says the same of all mail and sends none."""

    key: str
    status: Status
    reason: str

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        """See L{Courier}."""
        verdicts = (by_reason(to.address, self.status, self.reason, _NOBODY) for to in envelope.recipients)
        return succeed(Report(tuple(verdicts)))

    def close(self) -> Deferred[None]:
        """See L{Courier}."""
        return succeed(None)


@frozen
class AgentCourier:
    """A courier that has an L{SMTPAgent} do it."""

    key: str
    _agent: SMTPAgent

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        """See L{Courier}."""
        return self._agent.send(envelope, content)

    def close(self) -> Deferred[None]:
        """See L{Courier}."""
        return self._agent.close()


NO_ROUTE = SameVerdict("", Status.DEFERRED, "4.4.4 no route leads to that domain any more")
"""For mail that was accepted when there was one: its operator may only have made a slip."""


class BadRoutes(BadArgument):
    """
    Some targets cannot be delivered to.

    @ivar problems: what is wrong, by the route's place, from 0.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__("route", "; ".join(problems.values()))
        self.problems = problems


@define
class Couriers:
    """The couriers of all routes."""

    _routes: Routes
    _couriers: Mapping[Target, Courier]
    _surroundings: Surroundings
    _named: dict[Target, Courier] = field(init=False, factory=dict)

    @classmethod
    def of(cls, routes: Routes, surroundings: Surroundings, kept: Couriers | None = None) -> Couriers:
        """
        @param kept: couriers of a time before. Those for the same targets serve
            on, with their connections; one whose password is kept elsewhere
            does not, since it may have changed there.
        @raise BadRoutes: a target cannot be delivered to.
        """
        before = kept._couriers if kept else {}
        couriers: dict[Target, Courier] = {}
        problems: dict[int, str] = {}
        for place, route in enumerate(routes.routes):
            target = route.target
            has_own_password = not isinstance(target.password, PasswordSource)
            try:
                serving = couriers.get(target) or (before.get(target) if has_own_password else None)
                couriers[target] = serving or _courier(route, surroundings)
            except BadArgument as problem:
                problems[place] = problem.words
        if problems:
            raise BadRoutes(problems)
        return cls(routes, couriers, surroundings)

    def without(self, others: Couriers) -> list[Courier]:
        """Those that do not serve among the others."""
        serving = {id(courier) for courier in others._couriers.values()}
        return [courier for courier in self._all() if id(courier) not in serving]

    def courier_for(self, domain: str) -> Courier:
        """
        @param domain: of a recipient, in A-labels.
        """
        route = self._routes.find(domain)
        return self._couriers[route.target] if route else NO_ROUTE

    def courier_to(self, text: str) -> Courier:
        """
        The courier to a target that an operator named, which is made when it is
        first asked for.

        @raise BadArgument: it cannot be delivered to.
        """
        route = Route.parse(f"*={text}")
        courier = self._couriers.get(route.target) or self._named.get(route.target)
        if courier is None:
            courier = self._named[route.target] = _courier(route, self._surroundings)
        return courier

    def close(self) -> Deferred[None]:
        """Close all of them; fires when the last is."""
        return DeferredList([courier.close() for courier in self._all()]).addCallback(lambda _: None)

    def _all(self) -> list[Courier]:
        return [*self._couriers.values(), *self._named.values()]


def _courier(route: Route, surroundings: Surroundings) -> Courier:
    try:
        maker = _by_dns if route.target.tls is TLSPolicy.DANE else _MAKERS[route.target.scheme]
        return maker(route.target, surroundings)
    except BadArgument as problem:
        raise BadArgument("route", f"{str(route)!r}: {problem}") from None


def _smtp(target: Target, surroundings: Surroundings) -> Courier:
    server = with_password(target, surroundings.environment).reveal()
    return AgentCourier(str(target), SMTPAgent(surroundings.reactor, server, hostname=surroundings.hostname))


def _by_dns(target: Target, surroundings: Surroundings) -> Courier:
    """For a target whose servers are to be asked for."""
    if surroundings.asked is None:
        return _smtp(target, surroundings)
    asked = surroundings.asked()
    agent = SMTPAgent(
        surroundings.reactor,
        with_password(target, surroundings.environment).reveal(),
        hostname=surroundings.hostname,
        resolver=asked.resolver,
        policies=asked.policies,
        ourselves=asked.us,
    )
    return AgentCourier(str(target), agent)


def _maildir(target: Target, surroundings: Surroundings) -> Courier:
    return MaildirCourier(
        key=str(target),
        path=target.path,
        hostname=surroundings.hostname,
        wall_clock=surroundings.wall_clock,
        new_token=surroundings.new_token,
        run_in_thread=surroundings.run_in_thread,
    )


def _discard(target: Target, surroundings: Surroundings) -> Courier:
    return SameVerdict(str(target), Status.DELIVERED, "2.0.0 discarded, as its route says")


def _reject(target: Target, surroundings: Surroundings) -> Courier:
    """Most mail for it is refused at RCPT; this is for what was accepted under another route."""
    return SameVerdict(str(target), Status.FAILED, f"5.7.1 {target.text}")


_MAKERS: Mapping[Scheme, Callable[[Target, Surroundings], Courier]] = {
    Scheme.SMTP: _smtp,
    Scheme.SMTPS: _smtp,
    Scheme.LMTP: _smtp,
    Scheme.LMTP_UNIX: _smtp,
    Scheme.MX: _by_dns,
    Scheme.MAILDIR: _maildir,
    Scheme.DISCARD: _discard,
    Scheme.REJECT: _reject,
}

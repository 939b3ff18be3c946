"""
The internet's way of a message: to the hosts of its recipients' domains, each
with the TLS that is asked for::

    submit -> by domain, up to 100 recipients at a time
           -> Router: which hosts, and how much TLS      pymail_tx.net.router
           -> host after host, each a Server             pymail_tx.net.server
           -> Tries: who is done, who goes on            pymail_tx.core.nexthost
           -> one report, in the envelope's order

Hosts are shared: what leads to the same host and asks for the same TLS uses the
same connections, whichever the domain. Those not used for longest are let go of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, SessionError
from pymail_tx.core.nexthost import Tries
from pymail_tx.core.outcome import Outcome, Peer, Report, Status, by_reason
from pymail_tx.core.routes import Scheme, Target, TLSPolicy
from pymail_tx.core.routing import NoRoute, Ourselves
from pymail_tx.core.tlspolicy import REQUIRETLS_UNMET, TLSDecision, Wishes
from pymail_tx.core.tlsrequired import says_tls_is_optional
from pymail_tx.net.eyeballs import is_address
from pymail_tx.net.resolves import FindsPolicies, Knows
from pymail_tx.net.router import ByMX, Hop, Router, ToOneHost, Way
from pymail_tx.net.server import Load, Server, Serving
from pymail_tx.net.transaction import Sending

MAX_RECIPIENTS = 100
"""In one transaction: what every server must take (RFC 5321 §4.5.3.1.8), strangers' servers too."""

MAX_UNDER_WAY = 200
"""
Deliveries at a time; the others wait. Each may hold a connection and its files
are few: 1,024 for a process by default.
"""

MAX_KEPT_SERVERS = 100
"""Hosts without a message whose connections and ways are remembered."""

MAX_IDLE_CONNECTIONS = 200
"""Kept to all hosts together, also to be well within the files that a process may have."""

_NOBODY = Peer()

_log = Logger()


@frozen
class Asked:
    """
    Who knows the internet.

    @ivar resolver: asks DNS.
    @ivar policies: knows those of MTA-STS, which C{mx:} needs.
    @ivar us: where C{mx:} must not lead.
    """

    resolver: Knows
    policies: FindsPolicies | None
    us: Ourselves

    def router(self, target: Target, clock: IReactorTime, random: Callable[[], float]) -> Router:
        """
        For C{mx:} or one server.

        @raise BadArgument: a server without a name.
        """
        if target.scheme is not Scheme.MX:
            if is_address(target.host):
                raise BadArgument("server", f"{target} has an address, and records of DANE belong to a name")
            return ToOneHost(clock, self.resolver, host=target.host, port=target.port)
        assert self.policies
        return ByMX(clock, self.resolver, self.policies, port=target.port, random=random, us=self.us)


class Internet:
    """
    See the module's head.
    """

    def __init__(
        self,
        target: Target,
        serving: Serving,
        asked: Asked,
        *,
        random: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """
        @param target: C{mx:}, or one server that must be proved by DANE.
        @param random: makes numbers from 0 to 1.
        @param changed: called whenever less may be left of it than before.
        @raise BadArgument: as L{Serving.server} and L{Asked.router} do.
        """
        self._target = target
        self._serving = serving
        self._serve("localhost", None)  # what is wrong with a file is wrong now, and not with a message later
        self._router = asked.router(target, serving.reactor, random)
        self._random = random
        self._changed = changed
        self._servers: OrderedDict[Hashable, Server] = OrderedDict()
        self._leaving: list[Server] = []
        self._opened_by_others = 0
        self._under_way: dict[Sending, Deferred[None]] = {}
        self._places = DeferredSemaphore(MAX_UNDER_WAY)
        self._looking = 0
        self._keeps = True

    def submit(self, sending: Sending) -> None:
        """Send a message; its C{done} hears what became of it."""
        sent = Deferred.fromCoroutine(self._send(sending))
        self._under_way[sending] = sent
        sent.addErrback(_unless_cancelled)
        sent.addBoth(lambda _: self._under_way.pop(sending))

    def cancel(self, sending: Sending) -> None:
        """Do not send it if that can be helped."""
        self._under_way[sending].cancel()

    def keep_no_more(self) -> None:
        """From now on say good-bye to each connection that has nothing to send."""
        self._keeps = False
        for server in list(self._servers.values()):
            server.keep_no_more()
        self._changed()

    def end(self) -> bool:
        """See L{Server.end}."""
        ended = [server.end() for server in (*self._servers.values(), *self._leaving)]
        return all(ended)

    def load(self) -> Load:
        """What all servers do together, and have done."""
        servers = (*self._servers.values(), *self._leaving)
        own = Load(waiting=len(self._places.waiting) + self._looking, opened=self._opened_by_others)
        return Load.sum((own, *(server.load() for server in servers)))

    def _server_changed(self) -> None:
        for server in list(self._leaving):
            if server.end() and server in self._leaving:
                self._leaving.remove(server)
                self._opened_by_others += server.load().opened
        self._changed()

    # One message

    async def _send(self, sending: Sending) -> None:
        parts = list(self._parts(sending.envelope))
        try:
            wishes = self._wishes(sending)
        except OSError as problem:
            sending.defer(f"4.3.0 the content cannot be read: {problem}")
            return
        if len(parts) == 1:
            found = [await self._settle(parts[0], sending, wishes)]
        else:
            settling = [Deferred.fromCoroutine(self._settle(part, sending, wishes)) for part in parts]
            found = await gatherResults(settling, consumeErrors=True)
        outcomes: dict[int, Outcome] = {}
        for part, of_part in zip(parts, found, strict=True):
            outcomes.update(zip(part.places, of_part, strict=True))
        sending.done(sending, Report(tuple(outcomes[place] for place in range(len(outcomes)))))

    async def _settle(self, part: _Part, sending: Sending, wishes: Wishes) -> tuple[Outcome, ...]:
        """Whatever becomes of one part, the others have their outcomes."""
        try:
            return await self._deliver(part, sending, wishes)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # a bug of ours, and no reason to lose mail
            _log.failure("a message was not sent for a reason that nobody thought of")
            return tuple(_everybody(part.envelope, Status.DEFERRED, "4.3.0 an error of ours, see the log"))

    def _wishes(self, sending: Sending) -> Wishes:
        envelope = sending.envelope
        return Wishes(
            route=self._target.tls,
            requiretls=envelope.requiretls and bool(envelope.sender),  # RFC 8689 §5: a bounce only tries
            tls_optional=self._target.tls is None and says_tls_is_optional(sending.content),
        )

    def _parts(self, envelope: Envelope) -> Iterator[_Part]:
        """Those who travel together."""
        together: dict[str, list[int]] = {}
        for place, recipient in enumerate(envelope.recipients):
            together.setdefault(self._router.next_hop(recipient.mailbox.domain), []).append(place)
        for next_hop, places in together.items():
            for start in range(0, len(places), MAX_RECIPIENTS):
                some = places[start : start + MAX_RECIPIENTS]
                yield _Part(next_hop, some, _only(envelope, some))

    async def _deliver(self, part: _Part, sending: Sending, wishes: Wishes) -> tuple[Outcome, ...]:
        await self._places.acquire()
        try:
            way = await self._way(part.next_hop, wishes)
            if isinstance(way, NoRoute):
                return tuple(_everybody(part.envelope, way.status, way.reason))
            tries = Tries(len(part.places))
            for hop in way.in_order(self._random):
                places = tries.left
                if places:
                    await self._try(hop, _only(part.envelope, places), sending, tries)
            return tries.outcomes()
        finally:
            self._places.release()

    async def _way(self, next_hop: str, wishes: Wishes) -> Way | NoRoute:
        known = self._router.known(next_hop, wishes)
        if known is not None:
            return known
        self._looking += 1
        try:
            return await self._router.find(next_hop, wishes)
        finally:
            self._looking -= 1

    # One host

    async def _try(self, hop: Hop, envelope: Envelope, sending: Sending, tries: Tries) -> None:
        places, decision = tries.left, hop.decision
        if decision.skip:
            reason = f"{decision.unmet} {decision.host} is not used; {decision.reason}"
            peer = Peer(host=decision.host, port=self._target.port)
            outcomes = list(_everybody(envelope, decision.status, reason, peer))
            tries.heard(places, outcomes, about_host=range(len(places)))
            return
        server = self._server(hop)
        heard: Deferred[Report] = Deferred(lambda _: _give_up(one, server))
        one = _Try(
            envelope, sending.content, lambda _, report: heard.callback(report), sending.progress, decision=decision
        )
        server.submit(one)
        report = await heard
        about_host = one.about_host | {place for place, outcome in enumerate(report.outcomes) if _lacks(outcome)}
        tries.heard(places, [_in_words_of(decision, outcome) for outcome in report.outcomes], about_host=about_host)

    def _server(self, hop: Hop) -> Server:
        key = hop.decision.demand
        server = self._servers.get(key)
        if server is None:
            self._make_room()
            whoever_asks = evolve(hop.decision, reason="")
            server = self._servers[key] = self._serve(hop.host.name, whoever_asks)
            if not self._keeps:
                server.keep_no_more()
        self._servers.move_to_end(key)
        server.is_at(hop.host.addresses)
        return server

    def _serve(self, host: str, decision: TLSDecision | None) -> Server:
        scheme = Scheme.SMTP if self._target.scheme is Scheme.MX else self._target.scheme
        target = evolve(self._target, scheme=scheme, host=host, tls=TLSPolicy.OPPORTUNISTIC)
        return self._serving.server(target, decision=decision, changed=self._server_changed)

    def _make_room(self) -> None:
        """Of those without a message, whoever was not used for longest goes first."""
        at_rest = [(key, server) for key, server in self._servers.items() if server.is_at_rest]
        idle = sum(server.idle for _, server in at_rest)
        surplus = len(at_rest) - MAX_KEPT_SERVERS + 1
        for key, server in at_rest:
            if surplus <= 0 and idle <= MAX_IDLE_CONNECTIONS:
                return
            surplus -= 1
            idle -= server.idle
            del self._servers[key]
            self._leaving.append(server)
            server.keep_no_more()
        self._server_changed()


@frozen
class _Part:
    """
    Recipients who travel together.

    @ivar places: their index in the message's envelope.
    @ivar envelope: for them alone.
    """

    next_hop: str
    places: Sequence[int]
    envelope: Envelope


@define(eq=False)
class _Try(Sending):
    """
    A message and one host.

    @ivar decision: the TLS that the host must have.
    @ivar about_host: whose outcome is about the host alone, since no session
        came about.
    """

    decision: TLSDecision = field(kw_only=True)
    about_host: frozenset[int] = frozenset()

    def lost(self, error: SessionError) -> None:
        """See L{Sending.lost}."""
        self.about_host = frozenset(self.verdicts.open)
        super().lost(_with_policy(error, self.decision))


def _with_policy(error: SessionError, decision: TLSDecision) -> SessionError:
    """A host that did not do as its policy asks; who asked says what becomes of the message."""
    if not error.without_tls:
        return error
    told = SessionError(f"{decision.host}: {error}; {decision.reason}", error.reply)
    told.enhanced, told.final = decision.unmet, decision.status is Status.FAILED
    return told


def _in_words_of(decision: TLSDecision, outcome: Outcome) -> Outcome:
    """The session may have been opened for another domain, whose policy asked for the same."""
    if outcome.tls is None:
        return outcome
    tls = evolve(outcome.tls, policy=decision.source.value, policy_reason=decision.reason)
    return evolve(outcome, tls=tls)


def _lacks(outcome: Outcome) -> bool:
    """Whether the host lacks what the message must have (RFC 8689 §4.2.1): our word, not a server's."""
    return outcome.reply is None and outcome.reason.startswith(REQUIRETLS_UNMET)


def _only(envelope: Envelope, places: Sequence[int]) -> Envelope:
    if len(places) == len(envelope.recipients):
        return envelope
    return evolve(envelope, recipients=tuple(envelope.recipients[place] for place in places))


def _everybody(envelope: Envelope, status: Status, reason: str, peer: Peer = _NOBODY) -> Iterator[Outcome]:
    return (by_reason(recipient.address, status, reason, peer) for recipient in envelope.recipients)


def _give_up(one: _Try, server: Server) -> None:
    one.done = lambda _, report: None
    server.cancel(one)


def _unless_cancelled(failure: Failure) -> None:
    """Whoever cancelled it knows."""
    failure.trap(CancelledError)

"""
Messages to one server, over connections that are kept for the next.

A L{Server} does what L{pymail_tx.core.pool} decides: opens connections
(L{pymail_tx.net.connector}), has each send messages in a row
(L{pymail_tx.net.pipeline}), and lets go of them. What was learnt of the server
on one connection is heeded on the others.

One message's way::

    submit -> pool -> an idle connection, or one being opened
           -> its pipeline, first or behind another message -> Sending.done
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core.command import Verb, hello_command
from pymail_tx.core.errors import SessionError
from pymail_tx.core.pool import Limits, Pool
from pymail_tx.core.routes import Target
from pymail_tx.core.tlspolicy import TLSDecision
from pymail_tx.net.at_once import TurnEnd
from pymail_tx.net.connector import Connector, has_unread, leave
from pymail_tx.net.login import Login
from pymail_tx.net.pipeline import Pipeline
from pymail_tx.net.protocol import SMTPClient
from pymail_tx.net.tls import ClientCertificate
from pymail_tx.net.transaction import Sending
from pymail_tx.net.transcript import Transcript

_log = Logger()


@frozen(kw_only=True)
class Load:
    """
    @ivar waiting: messages that wait for a connection.
    @ivar opening: connections being opened.
    @ivar idle: connections without a message.
    @ivar busy: connections that send.
    @ivar opened: connections opened so far.
    """

    waiting: int = 0
    opening: int = 0
    idle: int = 0
    busy: int = 0
    opened: int = 0

    @classmethod
    def sum(cls, loads: Iterable[Load]) -> Load:
        """Of several servers."""
        total = cls()
        for load in loads:
            total = cls(
                waiting=total.waiting + load.waiting,
                opening=total.opening + load.opening,
                idle=total.idle + load.idle,
                busy=total.busy + load.busy,
                opened=total.opened + load.opened,
            )
        return total


@frozen(kw_only=True)
class Serving:
    """
    How one agent treats servers, all of them alike.

    @ivar hostname: our name, for EHLO.
    @ivar trust_root: see L{ClientTLS <pymail_tx.net.tls.ClientTLS>}.
    @ivar login: who we are to the server, if it is one that knows us.
    @ivar certificate: ours, for a server that asks for one.
    @ivar source_address: of ours, to connect from.
    @ivar transcript: keeps what is said in each session.
    """

    reactor: IReactorTime
    hostname: str
    limits: Limits
    trust_root: str | None = None
    login: Login | None = None
    certificate: ClientCertificate | None = None
    source_address: str | None = None
    transcript: Transcript | None = None

    def server(self, target: Target, *, decision: TLSDecision | None = None, changed: Callable[[], object]) -> Server:
        """
        One server.

        @param decision: see L{Connector}.
        @param changed: see L{Server}.
        @raise BadArgument: as L{Connector} does.
        """
        connector = Connector(
            self.reactor,
            target,
            hostname=self.hostname,
            trust_root=self.trust_root,
            decision=decision,
            login=self.login,
            certificate=self.certificate,
            source_address=self.source_address,
            transcript=self.transcript,
        )
        return Server(self.reactor, connector, hostname=self.hostname, limits=self.limits, changed=changed)


class Server:
    """
    One server, its connections and the messages for it.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        connector: Connector,
        *,
        hostname: str,
        limits: Limits,
        changed: Callable[[], object],
    ) -> None:
        """
        @param connector: opens sessions with it.
        @param hostname: our name, for EHLO.
        @param changed: called whenever less may be left of it than before.
        """
        self._reactor = reactor
        self._connector = connector
        self._changed = changed
        self._pool: Pool[_Connection, Sending] = Pool(limits)
        self._turn_end = TurnEnd(lambda: self._pool.busy <= 1)
        self._clients: set[SMTPClient] = set()
        self._openings: list[Deferred[None]] = []
        self._ehlo = hello_command(Verb.LHLO if connector.lmtp else Verb.EHLO, hostname) + b"\r\n"
        self._chunking = True
        self._look_again: IDelayedCall | None = None
        self._opened_so_far = 0

    def is_at(self, addresses: Sequence[str]) -> None:
        """From now on it is connected to at these, in their order, and its name is not looked up."""
        self._connector.addresses = addresses

    def submit(self, sending: Sending) -> None:
        """Send a message; its C{done} hears what became of it."""
        if self._pool.submit(sending):
            self._act()

    def cancel(self, sending: Sending) -> None:
        """Do not send it if that can be helped; its C{done} may still be called."""
        if not self._pool.withdraw(sending):
            for connection in self._pool.connections:
                connection.pipeline.cancel(sending)
        for opening in self._openings[len(self._openings) - self._pool.surplus :]:
            opening.cancel()

    def keep_no_more(self) -> None:
        """From now on say good-bye to each connection that has nothing to send."""
        self._pool.limits = evolve(self._pool.limits, idle_timeout_s=0)
        self._act()

    def end(self) -> bool:
        """
        No message is under way, and none will come: no connection that is being
        opened is wanted.

        @return: whether nothing is left, not even a connection that says
            good-bye.
        """
        for opening in list(self._openings):
            opening.cancel()
        if self._clients:
            return False
        self._look_again_in(None)
        return True

    @property
    def is_at_rest(self) -> bool:
        """Whether it has no message, and no connection is being opened."""
        return not (self._pool.waiting or self._pool.opening or self._pool.busy)

    @property
    def idle(self) -> int:
        """Connections without a message."""
        return self._pool.idle

    def load(self) -> Load:
        """What it does, and has done."""
        pool = self._pool
        return Load(
            waiting=pool.waiting, opening=pool.opening, idle=pool.idle, busy=pool.busy, opened=self._opened_so_far
        )

    # What the pool decides is done here

    def _act(self) -> None:
        decisions = self._pool.decide(self._reactor.seconds())
        for connection in decisions.close:
            leave(connection.client)
        for _ in range(decisions.open):
            self._open()
        self._look_again_in(decisions.look_again_s)
        stale = [pair for pair in decisions.use if pair[0].is_stale()]
        for _, sending in reversed(stale):
            self._pool.resubmit(sending)
        for connection, _ in stale:
            connection.client.abort("something came on an idle connection")
        for connection, sending in decisions.use:
            if (connection, sending) not in stale:
                connection.start(sending)
        self._changed()

    def _look_again_in(self, seconds: float | None) -> None:
        if self._look_again and self._look_again.active():
            self._look_again.cancel()
        self._look_again = None if seconds is None else self._reactor.callLater(seconds, self._act)

    def _open(self) -> None:
        first = self._pool.first
        helo = first is None or not (first.envelope.needs_smtputf8 or first.envelope.requiretls)
        opening = Deferred.fromCoroutine(self._connector.open(self._connected, helo=helo))
        wanted = opening.addCallbacks(self._opened, self._not_opened)
        self._openings.append(wanted)
        wanted.addBoth(lambda _: self._openings.remove(wanted) if wanted in self._openings else None)

    def _connected(self, client: SMTPClient) -> None:
        self._clients.add(client)
        client.when_gone().addCallback(lambda _: self._gone(client))

    def _opened(self, client: SMTPClient) -> None:
        self._opened_so_far += 1
        connection = _Connection(self, client)
        self._pool.opened(connection, self._reactor.seconds())
        client.when_gone().addCallback(lambda _: self._forget(connection))
        self._act()

    def _forget(self, connection: _Connection) -> None:
        self._pool.gone(connection)
        self._act()

    def _not_opened(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            self._pool.abandoned()
        else:
            self._unserved(failure.value if isinstance(failure.value, SessionError) else _bug(failure))
        self._act()

    def _unserved(self, error: SessionError) -> None:
        for sending in self._pool.not_opened():
            sending.verdicts.peer = error.peer or self._connector.peer
            sending.lost(error)

    def _gone(self, client: SMTPClient) -> None:
        self._clients.discard(client)
        self._changed()


def _bug(failure: Failure) -> SessionError:
    _log.failure("opening a session failed in a way that nobody thought of", failure)
    return SessionError("an error of ours, see the log")


class _Connection:
    """One connection, and where its pipeline gets messages from."""

    def __init__(self, server: Server, client: SMTPClient) -> None:
        self.client = client
        client.write_with_others(server._turn_end)
        self.pipeline = Pipeline(client, owner=self, ehlo=server._ehlo, chunking=server._chunking)
        self._server = server
        self._is_fresh = True

    def is_stale(self) -> bool:
        """
        Whether the server has said or done something since the last message. A
        fresh connection never is: a server that spoils each at once would be
        connected to for ever.
        """
        return not self._is_fresh and has_unread(self.client)

    def start(self, sending: Sending) -> None:
        """Send a message. None may be under way."""
        self._is_fresh = False
        self.pipeline.start(sending)

    def take(self) -> Sending | None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        return self._server._pool.take(self, self._server._reactor.seconds())

    def has_more(self) -> bool:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        return self._server._pool.waiting > 0

    def give_back(self, sending: Sending) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        self._server._pool.resubmit(sending)

    def at_rest(self, *, reusable: bool) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        self._server._pool.free(self, self._server._reactor.seconds(), reusable=reusable)
        self._server._act()

    def ended(self) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        if self.pipeline.out_of_step:
            self._server._ehlo = b""  # this host gets no more messages in a row
        if self.client.assumed is not None:
            self._server._connector.forget()
        if self.pipeline.knows_no_bdat:
            self._server._chunking = False
        self._server._forget(self)

"""
Who an agent is to its server: credentials, or where they come from, and what
the server thought of them last.

Credentials that the server refused (535) are not tried again for five minutes:
one rotated password must neither bounce a queue nor lock an account. Another
token is other credentials, and may be tried at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

from pymail_tx.core.authentication import Computation
from pymail_tx.core.errors import BadArgument, NoToken, Refused
from pymail_tx.core.mechanisms import BearerToken, Identity, choose
from pymail_tx.core.reply import Reply
from pymail_tx.core.secret import Secret
from pymail_tx.net import opening
from pymail_tx.net.protocol import SMTPClient

CREDENTIALS_PAUSE_S = 300
"""How long refused credentials are left in peace at their server."""

TOKEN_TIMEOUT_S = 60
"""How long a source of tokens may take: several round trips to an authorization server that is busy."""

_INVALID_CREDENTIALS = 535


@frozen
class TokenSource:
    """
    OAuth's tokens (RFC 6750), asked for when a session needs one.

    @ivar user: whose mailbox they are for.
    @ivar token: returns one, or a Deferred or a coroutine that does. It is
        called for each session; and once more, without a pause, when the server
        says that the token is stale. What it raises defers the message, without
        a word of it told: such words may hold secrets.
    @raise BadArgument: C{user} cannot be sent.
    """

    user: str
    token: Callable[[], str | Awaitable[str]] = field(repr=False)

    def __attrs_post_init__(self) -> None:
        BearerToken(self.user, Secret("any"))

    async def ask(self) -> BearerToken:
        """
        @raise Exception: whatever the callable raises.
        @raise BadArgument: it returned what cannot be sent.
        """
        token = self.token()
        return BearerToken(self.user, Secret(token if isinstance(token, str) else await token))


@frozen
class _Refusal:
    """When the server refused which credentials, and in which words."""

    identity: Identity
    at_s: float
    reply: Reply


@frozen
class _Salted:
    """The salted password of the last session: a server asks each for the same one (RFC 5802 §5.1)."""

    computation: Computation
    result: bytes = field(repr=False)


class Login:
    """
    Authenticates the sessions with one server.
    """

    def __init__(
        self, reactor: IReactorTime, given: Identity | TokenSource, *, nonce: Callable[[], str], minimum: str | None
    ) -> None:
        """
        @param reactor: keeps the time, and has threads for SCRAM's computation.
        @param nonce: makes one, see L{Circumstances
            <pymail_tx.core.mechanisms.Circumstances>}.
        @param minimum: the weakest mechanism that will do; by default any.
        @raise BadArgument: C{minimum} is no mechanism.
        """
        self._reactor = reactor
        self._given = given
        self._nonce = nonce
        self._minimum = minimum
        self._refusal: _Refusal | None = None
        self._salted: _Salted | None = None
        if not isinstance(given, TokenSource):
            choose(frozenset(), given, minimum=minimum)
        else:
            choose(frozenset(), BearerToken(given.user, Secret("any")), minimum=minimum)

    async def identity(self) -> Identity:
        """
        What to authenticate with; to be asked before there is a connection.

        @raise NoToken: there is none at present.
        @raise Refused: the server refused it a short while ago.
        """
        identity = await self._ask(self._given) if isinstance(self._given, TokenSource) else self._given
        self._heed_refusal(identity)
        return identity

    async def authenticate(self, client: SMTPClient, identity: Identity) -> None:
        """
        AUTH; with a stale token, once more with another.

        @raise SessionError: see L{pymail_tx.net.opening.authenticate}.
        """
        try:
            await self._try(client, identity)
        except Refused:
            is_stale = client.refusal is not None and client.refusal.stale_token
            if not is_stale or not isinstance(self._given, TokenSource):
                raise
            another = await self._ask(self._given)
            if another == identity:
                raise
            await self._try(client, another)

    async def _try(self, client: SMTPClient, identity: Identity) -> None:
        self._heed_refusal(identity)  # another session may have met it since
        try:
            await opening.authenticate(
                client, identity, nonce=self._nonce(), minimum=self._minimum, run=self._run_in_a_thread
            )
        except Refused as refused:
            if refused.reply and refused.reply.code == _INVALID_CREDENTIALS:
                self._refusal = _Refusal(identity, self._reactor.seconds(), refused.reply)
            raise

    async def _ask(self, source: TokenSource) -> BearerToken:
        try:
            return await Deferred.fromCoroutine(source.ask()).addTimeout(TOKEN_TIMEOUT_S, self._reactor)
        except DeferredTimeout:
            raise NoToken(f"no token within {TOKEN_TIMEOUT_S} s") from None
        except CancelledError:
            raise
        except BadArgument as problem:
            raise NoToken(str(problem)) from None
        except Exception as problem:  # noqa: BLE001  # the application's, of whichever class
            raise NoToken(f"no token: {type(problem).__name__}") from None

    def _heed_refusal(self, identity: Identity) -> None:
        refusal = self._refusal
        if refusal is None or refusal.identity != identity:
            return
        age_s = self._reactor.seconds() - refusal.at_s
        if age_s < CREDENTIALS_PAUSE_S:
            raise Refused(f"AUTH, last tried {age_s:.0f} s ago,", refusal.reply)

    def _run_in_a_thread(self, computation: Computation) -> Deferred[bytes]:
        if self._salted and self._salted.computation == computation:
            return succeed(self._salted.result)
        threads = IReactorThreads(self._reactor)
        computing: Deferred[bytes] = deferToThreadPool(threads, threads.getThreadPool(), computation.run)
        return computing.addCallback(self._keep, computation)

    def _keep(self, result: bytes, computation: Computation) -> bytes:
        self._salted = _Salted(computation, result)
        return result

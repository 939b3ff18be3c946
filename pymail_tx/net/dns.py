"""
Asks the name servers of this machine, or those given (a stub resolver).

L{Resolver.resolve} gives every question an L{Answer <pymail_tx.core.dns.Answer>}
and never fails for anything that DNS or the network does. The servers are to
resolve for others and, for DANE, to validate; whether one is believed that it did
is for configuration to say, and without a word only of those on loopback: on any
longer way the bit that says so could have been set by anybody (RFC 4035 §4.9.3,
RFC 7672 §2.1.1).

A server that is silent or cannot be reached is asked once more, after the others
and with more patience; questions to come begin with the one that answered last.
A server that answers with a failure is not asked again, but the others are.

B{SERVFAIL or bogus.} To a validating server both are SERVFAIL. An Extended DNS
Error (RFC 8914) tells, but unbound sends one only with C{ede: yes}, which is not
its default, and then for a failure from its cache as well (code 6). So where
there is none that tells, the server is asked once more with the CD bit: unbound,
like every validator (RFC 4035 §3.2.2), then gives out the very data that it
rejected, and says SERVFAIL again if it got none. What comes so is used for
nothing else. A server that recovers in between makes a failure look bogus for
L{FAILURE_TTL_S <pymail_tx.core.dns_message.FAILURE_TTL_S>}; mail waits either
way.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attrs import Factory, define
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core import dns_message
from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.core.dns_cache import DNSCache
from pymail_tx.core.dns_message import Question
from pymail_tx.core.errors import BadArgument
from pymail_tx.net.dns_transport import NoReply, Server, Transports

PORT = 53

MAX_SERVERS = 3
"""As resolv.conf(5) has it (MAXNS); what is beyond is not asked."""

TIMEOUTS_S = (4, 8)
"""
For each try of a server: together what resolv.conf(5) gives one server in two,
and the second long enough for what a validator with an empty cache asks others.
"""

MAX_AT_ONCE = 200
"""Questions under way, each with a socket: a fifth of the 1,024 that a process usually may have."""

_Key = tuple[str, RecordType]


class Resolver:
    """
    See the module's head.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        servers: Sequence[tuple[str, int]] | None = None,
        *,
        trust_ad: bool | None = None,
        randomness: random.Random | None = None,
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        """
        @param reactor: has IReactorUDP and, for replies that do not fit, IReactorTCP.
        @param servers: address and port of each, at most L{MAX_SERVERS}; without
            them, those of C{resolv_conf}, which is read now.
        @param trust_ad: whether they are believed that they validate; C{None}:
            those on loopback are.
        @param randomness: chooses ids and ports; the system's without it.
        @raise BadArgument: a server that is none.
        """
        self._reactor = reactor
        given = _configured(resolv_conf) if servers is None else servers
        if not 1 <= len(given) <= MAX_SERVERS:
            raise BadArgument("servers", f"there are {len(given)}, and 1 to {MAX_SERVERS} can be asked")
        self._servers = [_server(host, port, trust_ad) for host, port in given]
        self._transports = Transports(reactor, randomness or random.SystemRandom())
        self._turns = DeferredSemaphore(MAX_AT_ONCE)
        self._cache = DNSCache()
        self._under_way: dict[_Key, _UnderWay] = {}
        self._is_closed = False

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        """
        Ask, unless it is known; who asks what is being asked already waits for
        the same answer.

        @param name: in A-labels.
        @return: fires with the answer, at once if it is known. To cancel it
            harms nobody else who asks the same, and leaves nothing behind.
        """
        key = _key(name, kind)
        known = self._cache.get(*key, self._reactor.seconds())
        if known is not None:
            return succeed(known)
        under_way = self._under_way.get(key)
        if under_way is not None:
            return under_way.join()
        question = dns_message.question(*key)
        if question is None or self._is_closed:
            why = "the resolver is closed" if self._is_closed else "no name that DNS can hold"
            return succeed(dns_message.failed(*key, why))
        under_way = self._under_way[key] = _UnderWay()
        answer = under_way.join()
        under_way.begin(Deferred.fromCoroutine(self._look_up(question)), partial(self._ended, question, under_way))
        return answer

    def cached(self, name: str, kind: RecordType) -> Answer | None:
        """
        What is known, in about a microsecond; C{None} if that has to be asked.
        It is the answer as it came, whose C{ttl_s} is not what is left of it: who
        keeps what follows from it asks here again rather than adding up times.
        """
        return self._cache.get(*_key(name, kind), self._reactor.seconds())

    def close(self) -> Deferred[None]:
        """
        End what is being asked, as C{FAILED}, and answer nothing more.

        @return: fires when no port and no delayed call is left.
        """
        self._is_closed = True
        for under_way in list(self._under_way.values()):
            under_way.stop()
        return self._transports.closed()

    async def _look_up(self, question: Question) -> Answer:
        await self._turns.acquire()
        try:
            return await self._ask_servers(question)
        finally:
            self._turns.release()

    async def _ask_servers(self, question: Question) -> Answer:
        silent = list(self._servers)
        problems: list[str] = []
        for timeout_s in TIMEOUTS_S:
            for server in list(silent):
                try:
                    answer = await self._ask(server, question, timeout_s)
                except NoReply as problem:
                    problems.append(f"{server}: {problem}")
                    continue
                silent.remove(server)
                if answer.verdict is not Verdict.FAILED:
                    self._begin_with(server)
                    return answer
                problems.append(f"{server}: {answer.reason}")
        answer = question.failed("; ".join(problems))
        self._cache.keep(answer, 0, self._reactor.seconds())
        return answer

    async def _ask(self, server: Server, question: Question, timeout_s: float) -> Answer:
        reply = await self._transports.ask(server, question, timeout_s=timeout_s)
        answer = dns_message.interpret(question, reply, trusted=server.is_trusted)
        if answer.verdict is Verdict.FAILED and dns_message.is_server_failure(reply):
            return await self._failure_or_bogus(server, question, answer, timeout_s)
        if answer.verdict is not Verdict.FAILED:  # another server may know better
            self._cache.keep(answer, len(reply), self._reactor.seconds())
        return answer

    async def _failure_or_bogus(self, server: Server, question: Question, failed: Answer, timeout_s: float) -> Answer:
        """See the module's head."""
        try:
            reply = await self._transports.ask(server, question, timeout_s=timeout_s, checked=False)
        except NoReply:
            return failed
        if not dns_message.is_data_unchecked(reply):
            return failed
        answer = question.bogus(f"{failed.reason}; with signatures unchecked there is an answer")
        self._cache.keep(answer, 0, self._reactor.seconds())
        return answer

    def _begin_with(self, server: Server) -> None:
        first = self._servers.index(server)
        self._servers = self._servers[first:] + self._servers[:first]

    def _ended(self, question: Question, under_way: _UnderWay, result: Answer | Failure) -> None:
        if self._under_way.get((question.name, question.kind)) is under_way:
            del self._under_way[question.name, question.kind]
        if isinstance(result, Failure):
            if not result.check(CancelledError):
                self._log.failure("A question to DNS ended in an error of ours", failure=result)
            result = question.failed("the resolver was closed" if self._is_closed else "an error of ours")
        under_way.tell(result)


@define(eq=False)
class _UnderWay:
    """
    A question that is being asked, and who waits for it.
    """

    _askers: list[Deferred[Answer]] = Factory(list)
    _asking: Deferred[Answer] | None = None

    def begin(self, asking: Deferred[Answer], ended: partial[None]) -> None:
        """It is asked; C{ended} gets the answer or the failure."""
        self._asking = asking
        asking.addBoth(ended)

    def join(self) -> Deferred[Answer]:
        """One more waits."""
        asker: Deferred[Answer] = Deferred(self._leave)
        self._askers.append(asker)
        return asker

    def stop(self) -> None:
        """It is not asked any longer."""
        if self._asking:
            self._asking.cancel()

    def tell(self, answer: Answer) -> None:
        """To all who wait; what they do then may be to leave, or to ask the next question."""
        while self._askers:
            self._askers.pop(0).callback(answer)

    def _leave(self, asker: Deferred[Answer]) -> None:
        self._askers.remove(asker)
        if not self._askers:
            self.stop()


def _key(name: str, kind: RecordType) -> _Key:
    return name.lower().removesuffix("."), kind


def _server(host: str, port: int, trust_ad: bool | None) -> Server:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BadArgument("servers", f"{host!r} is no IPv4 or IPv6 address") from None
    if port not in range(1, 65_536):
        raise BadArgument("servers", f"{port} is no port")
    return Server(str(address), port, address.is_loopback if trust_ad is None else trust_ad)


def _configured(path: Path) -> list[tuple[str, int]]:
    """The name servers of resolv.conf(5); this machine's own where it names none, or is not there."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [(line[1], PORT) for line in words if line[:1] == ["nameserver"] and len(line) > 1 and _is_address(line[1])]
    return named[:MAX_SERVERS] or [("127.0.0.1", PORT)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

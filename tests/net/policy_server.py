"""
A domain with MTA-STS for the tests: its records, and its policy host on
loopback, over real HTTPS.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory, IReactorTCP, IReactorTime, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from pymail_tx.core.dns import Answer, RecordType, Verdict
from tests.net.certificates import Certificate
from tests.net.loopback import LoopbackTestCase

DOMAIN = "example.org"
POLICY_HOST = "mta-sts.example.org"
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.org\r\nmax_age: 604800\r\n"


@define(eq=False)
class Records:
    """
    What DNS says; all other names do not exist.

    @ivar answers: by name and type.
    @ivar silent: names for which no answer comes.
    @ivar asked: the names and types asked for.
    @ivar given_up: how many questions were cancelled.
    """

    answers: dict[tuple[str, RecordType], Answer] = field(factory=dict)
    silent: set[str] = field(factory=set)
    asked: list[tuple[str, RecordType]] = field(factory=list)
    given_up: int = 0

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        """See L{pymail_tx.net.resolves.Resolves}."""
        self.asked.append((name, kind))
        if name in self.silent:
            return Deferred(self._give_up)
        nothing = Answer(name=name, kind=kind, verdict=Verdict.NXDOMAIN, canonical_name=name)
        return succeed(self.answers.get((name, kind), nothing))

    def addresses(self, name: str, *addresses: str) -> None:
        """The name has these IPv4 addresses."""
        self._data(name, RecordType.A, addresses=addresses)

    def announce(self, *texts: str, domain: str = DOMAIN) -> None:
        """The domain has these records of MTA-STS, and no others."""
        octets = tuple(text.encode() for text in texts)
        self._data(f"_mta-sts.{domain}", RecordType.TXT, texts=octets)

    def fail(self, name: str, kind: RecordType, verdict: Verdict = Verdict.FAILED, reason: str = "SERVFAIL") -> None:
        """Nobody can say."""
        self.answers[name, kind] = Answer(name=name, kind=kind, verdict=verdict, canonical_name=name, reason=reason)

    def _give_up(self, _: Deferred[Answer]) -> None:
        self.given_up += 1

    def _data(
        self, name: str, kind: RecordType, *, addresses: tuple[str, ...] = (), texts: tuple[bytes, ...] = ()
    ) -> None:
        self.answers[name, kind] = Answer(
            name=name, kind=kind, verdict=Verdict.DATA, canonical_name=name, addresses=addresses, texts=texts
        )


class PolicyResource(Resource):
    """
    Serves the policy.

    @ivar body: it; C{None}: the response never ends.
    @ivar chunks: how many pieces it is sent in; 0: at once, with its length.
    @ivar requests: how each request began, with its Host, and the fields it had.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.fields: dict[str, str] = {"Content-Type": "text/plain"}
        self.body: bytes | None = POLICY
        self.chunks = 0
        self.requests: list[str] = []
        self.heard: list[set[bytes]] = []
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def is_asked(self, times: int = 1) -> Deferred[None]:
        """Fires when there have been so many requests."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((times, waiter))
        self._tell()
        return waiter

    def render(self, request: Request) -> bytes | int:
        """See L{Resource}."""
        host = request.requestHeaders.getRawHeaders("host") or []
        self.requests.append(f"{request.method.decode()} {request.uri.decode()} {' '.join(host)}")
        self.heard.append({name.lower() for name, _ in request.requestHeaders.getAllRawHeaders()})
        request.setResponseCode(self.status)
        request.responseHeaders.removeHeader("content-type")
        request.defaultContentType = None
        for name, value in self.fields.items():
            request.setHeader(name, value)
        self._tell()
        if self.body is None:
            request.write(b"version: STSv1\n")
            return NOT_DONE_YET
        if not self.chunks:
            return self.body
        size = -(-len(self.body) // self.chunks)
        for start in range(0, len(self.body), size):
            request.write(self.body[start : start + size])
        request.finish()
        return NOT_DONE_YET

    def _tell(self) -> None:
        for waiting in [one for one in self._waiting if one[0] <= len(self.requests)]:
            self._waiting.remove(waiting)
            waiting[1].callback(None)


class Saying(Protocol):
    """Says the same to everybody, and hangs up if that is said to be all."""

    def __init__(self, octets: bytes, *, hangs_up: bool) -> None:
        self._octets = octets
        self._hangs_up = hangs_up

    def dataReceived(self, data: bytes) -> None:
        """The request, or a ClientHello."""
        transport: ITransport = self.transport  # type: ignore[assignment]  # connected
        transport.write(self._octets)
        if self._hangs_up:
            transport.loseConnection()


class _Counted(WrappingFactory):
    noisy = False


class PolicyTestCase(LoopbackTestCase):
    """
    A test with a domain that has MTA-STS.

    @ivar records: what DNS says of it.
    """

    def setUp(self) -> None:
        super().setUp()
        self._servers: list[_Counted] = []
        self.records = Records()
        self.records.announce("v=STSv1; id=1;")
        self.records.addresses(POLICY_HOST, "127.0.0.1")

    def listen(self, factory: IProtocolFactory) -> int:
        """
        Start a server, from whose connections nothing may be left.

        @return: its port.
        """
        counted = _Counted(factory)
        self._servers.append(counted)
        port = IReactorTCP(reactor).listenTCP(0, counted, interface="127.0.0.1")  # type: ignore[arg-type]  # any protocol
        self.addCleanup(self.no_connection_is_left, counted)
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        return address.port

    def serve_policy(self, certificate: Certificate | None = None) -> tuple[PolicyResource, int]:
        """
        Start a policy host.

        @return: it, and its port.
        """
        resource = PolicyResource()
        site = Site(resource)
        site.noisy = False
        return resource, self.listen(self._over_tls(site, certificate))

    def serve_octets(self, octets: bytes, *, hangs_up: bool = False, tls: bool = True) -> int:
        """
        Start something that says these octets, whatever it hears.

        @return: its port.
        """
        factory = Factory.forProtocol(lambda: Saying(octets, hangs_up=hangs_up))
        factory.noisy = False
        return self.listen(self._over_tls(factory) if tls else factory)

    async def turns(self) -> None:
        """The real reactor has done what there was to do."""
        for _ in range(5):
            await deferLater(IReactorTime(reactor), 0.01)

    async def no_connection(self) -> None:
        """All are closed, which may take a moment."""
        for _ in range(500):
            if any(counted.protocols for counted in self._servers):
                await deferLater(IReactorTime(reactor), 0.01)

    async def no_connection_is_left(self, counted: _Counted) -> None:
        """Nor any delayed call."""
        await self.no_connection()
        self.assertEqual(counted.protocols, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def _over_tls(self, factory: IProtocolFactory, certificate: Certificate | None = None) -> IProtocolFactory:
        options = (certificate or self.authority.issue(POLICY_HOST)).options()
        return TLSMemoryBIOFactory(options, False, factory)

"""
Places to listen come and go; connections and the other places stay.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.relay.listeners import Listeners
from pymail_tx.relay.listening import Endpoint


class _Reactor(MemoryReactorClock):
    """Port 4 is somebody else's."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:
        if port == 4:
            raise CannotListenError(interface, port, OSError("Address already in use"))
        opened: IListeningPort = super().listenTCP(port, factory, backlog, interface)
        return opened


class Moving(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.listeners = Listeners(lambda endpoint: ServerFactory())
        self.listeners.open(self.endpoints("tcp:1", "tcp:2"))

    def endpoints(self, *texts: str) -> list[Endpoint]:
        return [Endpoint.parse(self.reactor, text, option="smtp", example="tcp:25") for text in texts]

    def move(self, *texts: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.listeners.move(self.endpoints(*texts)))

    def opened(self) -> list[int]:
        """The ports, each time that one was opened."""
        return [port for port, *_ in self.reactor.tcpServers]

    def test_what_is_there_already_is_not_touched(self) -> None:
        self.successResultOf(self.move("tcp:2", "tcp:3"))
        self.assertEqual(self.opened(), [1, 2, 3])
        self.assertEqual(self.listeners.places, ["0.0.0.0 port 2", "0.0.0.0 port 3"])

    def test_where_one_cannot_be_listened_at_all_is_as_it_was(self) -> None:
        failure = self.failureResultOf(self.move("tcp:2", "tcp:3", "tcp:4"), BadArgument)
        self.assertIn("cannot listen at 'tcp:4': Address already in use", str(failure.value))
        self.assertEqual(sorted(self.listeners.places), ["0.0.0.0 port 1", "0.0.0.0 port 2"])
        self.assertEqual(self.opened(), [1, 2, 3, 1])

    def test_closed_it_listens_nowhere(self) -> None:
        self.successResultOf(self.listeners.close())
        self.assertEqual(self.listeners.places, [])

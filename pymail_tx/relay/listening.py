"""
Listening at endpoints in Twisted's notation, and what is said when that fails.
"""

from __future__ import annotations

from attrs import frozen
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from pymail_tx.core.errors import BadArgument


@frozen
class Endpoint:
    """
    Where to listen.

    @ivar option: the option that names it, without dashes.
    @ivar text: as written.
    """

    option: str
    text: str
    _endpoint: IStreamServerEndpoint

    @classmethod
    def parse(cls, reactor: IReactorCore, text: str, *, option: str, example: str) -> Endpoint:
        """
        @raise BadArgument: the text names no endpoint.
        """
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
        except Exception as problem:  # noqa: BLE001 - parsers of endpoints, which plugins may add, raise what they like
            raise BadArgument(option, f"{text!r} is no endpoint ({problem}); write for example {example}") from None
        return cls(option, text, endpoint)

    def listen(self, factory: ServerFactory) -> IListeningPort:
        """
        All endpoints that a text can name listen at once or not at all.

        @raise BadArgument: it cannot be listened at.
        """
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        self._endpoint.listen(factory).addCallbacks(ports.append, failures.append)
        for failure in failures:
            problem = failure.value
            reason = str(problem.socketError if isinstance(problem, CannotListenError) else problem).rstrip(".")
            raise BadArgument(
                self.option, f"cannot listen at {self.text!r}: {reason}; name another with --{self.option}"
            )
        return ports[0]


def where(address: IAddress) -> str:
    """An address in words."""
    host, port, name = (getattr(address, part, None) for part in ("host", "port", "name"))
    return f"{host} port {port}" if host else str(name or address)

"""
Writing without the detour: what the kernel takes now does not wait for the
reactor to ask it.

A TCP transport of Twisted's notes octets down, asks to be told when the socket
can take them, and sends them then, which nearly always is at once. For a client
that writes a few hundred octets and then waits, this is three system calls too
many (docs/adr/0005-writing-at-once.md).

Where several connections to a server are busy, what they write in one turn of
the reactor goes out at its L{TurnEnd}, one right behind the other. The server
wakes up for the first and is awake for the rest, and waking it is the dearest
part of C{send} (docs/adr/0009-writing-at-the-end-of-the-turn.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.tcp import Connection

Write = Callable[[bytes], None]


class _Transport(Protocol):
    def write(self, data: bytes) -> None: ...


@define(eq=False)
class TurnEnd:
    """
    The end of the reactor's present turn, shared by connections.

    @ivar is_alone: whether only one of them is busy: it need not wait then.
    """

    _is_alone: Callable[[], bool]
    _writes: list[tuple[Write, bytes]] = field(init=False, factory=list)
    _call: IDelayedCall | None = field(init=False, default=None)

    def writer(self, write: Write, reactor: IReactorTime) -> Write:
        """
        @param write: one connection's.
        @param reactor: whose turn it is: the one that serves the connection.
        @return: what puts octets off until then.
        """

        def put_off(octets: bytes) -> None:
            if not self._writes:
                if self._is_alone():
                    write(octets)
                    return
                self._call = reactor.callLater(0, self._come)
            self._writes.append((write, octets))

        return put_off

    def come(self) -> None:
        """Write what was put off, now."""
        if self._call:
            self._call.cancel()
            self._come()

    def _come(self) -> None:
        self._call = None
        writes, self._writes = self._writes, []
        for write, octets in writes:
            write(octets)


def writer(transport: _Transport, turn_end: TurnEnd | None = None) -> Write:
    """
    @return: what to write to this transport with: its own C{write}, or, over
        plain TCP, one that gives the kernel first what nothing waits before, at
        once or at C{turn_end}.
    """
    if not isinstance(transport, Connection):
        return transport.write
    connection = transport

    def write(octets: bytes) -> None:
        waits = connection.dataBuffer or connection._tempDataBuffer or connection.TLS or not connection.connected
        if waits or connection.disconnecting:
            connection.write(octets)
            return
        taken = connection.writeSomeData(octets)
        if not isinstance(taken, int):
            connection.write(octets)  # the connection is lost, and its own write will find out
        elif taken < len(octets):
            connection.write(octets[taken:])

    return turn_end.writer(write, IReactorTime(connection.reactor)) if turn_end else write

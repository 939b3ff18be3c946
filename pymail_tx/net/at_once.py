"""
Writing at once: what the kernel takes now does not wait for the reactor.

A TCP transport of Twisted's notes octets down, asks to be told when the socket
can take them, and sends them then, which nearly always is at once. For a client
that writes a few hundred octets and then waits, this is three system calls and
a turn of the reactor a message too many: an eighth of what a message costs over
one connection (docs/adr/0005-writing-at-once.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.tcp import Connection


class _Transport(Protocol):
    def write(self, data: bytes) -> None: ...


def writer(transport: _Transport) -> Callable[[bytes], None]:
    """
    @return: what to write to this transport with: its own C{write}, or, over
        plain TCP, one that gives the kernel first what nothing waits before.
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

    return write

"""
What can go wrong in an SMTP session, sorted by whose fault it is.

L{Misuse} is the caller's: nothing was sent. L{SessionError} is the server's or
the network's: the session is over, and the connection with it. A refusal by
reply (4yz, 5yz) is no exception at all but a L{Reply
<pymail_tx.core.reply.Reply>}, a value like any other.
"""

from __future__ import annotations


class Misuse(ValueError):
    """
    The caller asked for something that must not be sent. Not one octet was.
    """


class BadArgument(Misuse):
    """
    An argument cannot go out on the wire.

    @ivar field: the argument's name, as the caller knows it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class OutOfOrder(Misuse):
    """
    The command does not fit the session's state (RFC 5321 §4.1.4).
    """


class SessionError(Exception):
    """
    The session ended before its work was done; the connection is closed.
    """


class ProtocolViolation(SessionError):
    """
    The server said something that is not SMTP, or not SMTP here and now.
    """


class ReplyTimeout(SessionError):
    """
    A deadline passed (RFC 5321 §4.5.3.2).
    """


class SessionLost(SessionError):
    """
    The connection ended, by the peer, the network, a cancel or our own close.
    """


class TLSFailed(SessionError):
    """
    The TLS handshake broke, or the certificate did not verify where it must.
    """

"""
What can go wrong in an SMTP session, sorted by whose fault it is.

L{Misuse} is the caller's: nothing was sent. L{SessionError} is the server's or
the network's: the session is over, and the connection with it. A refusal by
reply (4yz, 5yz) is no exception at all but a L{Reply
<pymail_tx.core.reply.Reply>}, a value like any other.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymail_tx.core.outcome import Peer, Report
    from pymail_tx.core.reply import Reply


class Misuse(ValueError):
    """
    The caller asked for something that must not be sent. Not one octet was.
    """


class BadArgument(Misuse):
    """
    An argument cannot go out on the wire.

    @ivar field: the argument's name, as the caller knows it.
    @ivar words: what is wrong, for those who know it by another name.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.words = problem


class OutOfOrder(Misuse):
    """
    The command does not fit the session's state (RFC 5321 §4.1.4).
    """


class NotAllDelivered(Exception):
    """
    Some recipient of a message is deferred or failed; raised on request, by
    L{Report.raise_for_failures <pymail_tx.core.outcome.Report.raise_for_failures>}.

    @ivar report: what became of each.
    """

    def __init__(self, problem: str, report: Report) -> None:
        super().__init__(problem)
        self.report = report


class SessionError(Exception):
    """
    The session ended before its work was done; the connection is closed.

    @ivar reply: what the server said last, if it said why.
    @ivar enhanced: the enhanced status code that fits (RFC 3463), ours.
    @ivar final: trying this server again is of no use.
    @ivar without_tls: the TLS that was asked for did not come about.
    @ivar peer: whom the session was with, if one was being opened.
    """

    enhanced = "4.4.2"
    final = False
    without_tls = False

    def __init__(self, problem: str, reply: Reply | None = None) -> None:
        super().__init__(problem)
        self.reply = reply
        self.peer: Peer | None = None


class ProtocolViolation(SessionError):
    """
    The server said something that is not SMTP, or not SMTP here and now.
    """

    enhanced = "4.5.0"


class ReplyTimeout(SessionError):
    """
    A deadline passed (RFC 5321 §4.5.3.2).
    """


class SessionLost(SessionError):
    """
    The connection ended, by the peer, the network, a cancel or our own close.
    """


class ContentUnreadable(SessionError):
    """
    What was to be sent cannot be read, or is not what it was.
    """

    enhanced = "4.3.0"


class NoConnection(SessionError):
    """
    No connection came about.
    """

    enhanced = "4.4.1"


class TLSFailed(SessionError):
    """
    The TLS handshake broke, or the certificate did not verify where it must.

    @ivar unverified: the certificate was the problem.
    """

    enhanced = "4.7.5"

    def __init__(self, problem: str, *, unverified: bool = False) -> None:
        super().__init__(problem)
        self.unverified = unverified


class NoToken(SessionError):
    """
    The application's source of tokens gave none.
    """

    enhanced = "4.7.0"


class NotOffered(SessionError):
    """
    The server lacks an extension that the session cannot do without.
    """

    enhanced = "4.7.4"


class Refused(SessionError):
    """
    The server would not have the session: its greeting, or the reply to EHLO,
    STARTTLS or AUTH, was a 4yz or 5yz. It says nothing about any recipient, so
    even a 5yz is worth another try, but for 521 and 556: such a host takes no
    mail at all (RFC 7504).

    @ivar step: which of them it was.
    """

    _NO_MAIL_HERE = MappingProxyType({521: "5.3.2", 556: "5.1.10"})
    _CREDENTIALS_INVALID = MappingProxyType({535: "4.7.8"})

    def __init__(self, step: str, reply: Reply, why: str = "") -> None:
        """
        @param why: what the server told besides its reply.
        """
        super().__init__(f"{step} refused: {reply}" + (f" ({why})" if why else ""), reply)
        self.step = step
        known = self._NO_MAIL_HERE | self._CREDENTIALS_INVALID
        self.final = reply.code in self._NO_MAIL_HERE
        self.enhanced = known.get(reply.code, "4" + (reply.enhanced or "4.3.2")[1:])

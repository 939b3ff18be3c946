"""
The steps that open a session, each with the one answer it needs.

The agent and the blocking Session take them in their own order. A step that is
refused raises L{Refused}; it is the caller who closes the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymail_tx.core.errors import NotOffered, Refused
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import Credentials
from pymail_tx.net.protocol import SMTPClient

if TYPE_CHECKING:
    from pymail_tx.net.tls import ClientTLS

_KNOWS_NO_EHLO = frozenset({500, 502, 504})


async def greet(client: SMTPClient, name: str, *, helo: bool) -> None:
    """
    Take the greeting and say EHLO.

    @param helo: whether HELO will do for a server that knows no EHLO: not
        where TLS, AUTH or SMTPUTF8 is needed.
    """
    _accepted("greeting", await client.greeting())
    await _hello(client, name, helo=helo)


async def secure(client: SMTPClient, name: str, creator: ClientTLS) -> None:
    """
    STARTTLS, and EHLO again (RFC 3207 §4.2).

    @raise NotOffered: the server has no STARTTLS.
    """
    if "STARTTLS" not in client.extensions:
        raise NotOffered("STARTTLS is not offered")
    _accepted("STARTTLS", await client.starttls(creator))
    await _hello(client, name, helo=False)


async def authenticate(client: SMTPClient, credentials: Credentials) -> None:
    """
    AUTH with the strongest mechanism that both sides know: PLAIN.

    @raise NotOffered: the server has no such mechanism.
    @raise NotOffered: the session's certificate did not verify; credentials
        are for the host they are meant for.
    """
    if client.tls is None or not client.tls.verified:
        problem = client.tls.problem if client.tls else "no TLS"
        raise NotOffered(f"credentials are sent to a verified host only: {problem}")
    if "PLAIN" not in client.extensions.auth_mechanisms:
        raise NotOffered("AUTH PLAIN is not offered")
    _accepted("AUTH", await client.authenticate(credentials))


async def _hello(client: SMTPClient, name: str, *, helo: bool) -> None:
    reply = await client.ehlo(name)
    if helo and reply.code in _KNOWS_NO_EHLO:
        reply = await client.helo(name)
    _accepted("EHLO", reply)


def _accepted(step: str, reply: Reply) -> None:
    if reply.severity != 2:
        raise Refused(step, reply)

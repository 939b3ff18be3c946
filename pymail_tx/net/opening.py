"""
The steps that open a session, each with the one answer it needs.

The agent and the blocking Session take them in their own order. A step that is
refused raises L{Refused}; it is the caller who closes the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymail_tx.core.command import Verb, hello_command
from pymail_tx.core.errors import NotOffered, Refused
from pymail_tx.core.reply import Reply, printable
from pymail_tx.core.sasl import Credentials
from pymail_tx.net.exchange import Exchange
from pymail_tx.net.protocol import Run, SMTPClient, run_here

if TYPE_CHECKING:
    from pymail_tx.core.mechanisms import Identity
    from pymail_tx.net.tls import ClientTLS

_KNOWS_NO_EHLO = frozenset({500, 502, 504})


async def greet(client: SMTPClient, name: str, *, helo: bool) -> None:
    """
    Take the greeting and say EHLO, or LMTP's LHLO.

    @param helo: whether HELO will do for a server that knows no EHLO: not
        where TLS, AUTH or SMTPUTF8 is needed.
    """
    _accepted("greeting", await client.greeting())
    await _hello(client, name, helo=helo)


def early_hello(name: str) -> Exchange:
    """EHLO, for who says it before the greeting and needs no answer."""
    return Exchange(Verb.EHLO, hello_command(Verb.EHLO, name) + b"\r\n")


async def secure(client: SMTPClient, name: str, creator: ClientTLS) -> None:
    """
    STARTTLS, and EHLO again (RFC 3207 §4.2).

    @raise NotOffered: the server has no STARTTLS.
    """
    if "STARTTLS" not in client.extensions:
        raise NotOffered("STARTTLS is not offered")
    _accepted("STARTTLS", await client.starttls(creator))
    await _hello(client, name, helo=False)


async def authenticate(
    client: SMTPClient, identity: Identity, *, nonce: str, minimum: str | None = None, run: Run = run_here
) -> None:
    """
    AUTH with the strongest mechanism that both sides know.

    @param nonce: random and fresh, see L{Circumstances
        <pymail_tx.core.mechanisms.Circumstances>}.
    @param minimum: the weakest mechanism that will do.
    @param run: runs SCRAM's computation.
    @raise NotOffered: the server has no such mechanism.
    @raise NotOffered: the session's certificate did not verify; what proves
        who we are is for the host it is meant for.
    @raise BadArgument: C{minimum} is no mechanism, or C{nonce} is none.
    """
    from pymail_tx.core.mechanisms import Circumstances, choose  # the blocking Session can do without,
    from pymail_tx.net.tls import channel_binding  # and without OpenSSL as long as it speaks plain text

    _refuse_unverified(client)
    offered, binding = client.extensions.auth_mechanisms, channel_binding(client.transport.getHandle())
    mechanism = choose(offered, identity, minimum=minimum, binding=binding)
    if mechanism is None:
        raise NotOffered(_lacking(offered))
    peer = client.peer()
    circumstances = Circumstances(nonce=nonce, binding=binding, host=peer.host or "", port=peer.port or 0)
    reply = await client.authenticate(identity, mechanism=mechanism, circumstances=circumstances, run=run)
    _accepted("AUTH", reply, client.refusal.words if client.refusal else "")


async def authenticate_with_plain(client: SMTPClient, credentials: Credentials) -> None:
    """
    AUTH PLAIN, for a caller who knows that the server offers it.

    @raise NotOffered: as in L{authenticate}.
    """
    _refuse_unverified(client)
    _accepted("AUTH", await client.authenticate(credentials))


def _refuse_unverified(client: SMTPClient) -> None:
    if client.tls is None or not client.tls.verified:
        problem = client.tls.problem if client.tls else "no TLS"
        raise NotOffered(f"credentials are sent to a verified host only: {problem}")


def _lacking(offered: frozenset[str]) -> str:
    if not offered:
        return "AUTH is not offered"
    return printable(f"no AUTH mechanism is offered that will do, only {', '.join(sorted(offered))}")


async def _hello(client: SMTPClient, name: str, *, helo: bool) -> None:
    reply = await (client.lhlo(name) if client.lmtp else client.ehlo(name))
    if helo and reply.code in _KNOWS_NO_EHLO:
        reply = await client.helo(name)
    _accepted("EHLO", reply)


def _accepted(step: str, reply: Reply, why: str = "") -> None:
    if reply.severity != 2:
        raise Refused(step, reply, why)

"""
The outbound half of a mail server: an SMTP client library, and a durable relay
built on it.

A delivery, from start to end:

  1. An application hands a message in, over SMTP to L{pymail_tx.relay.ingress},
     which says 250 when L{pymail_tx.spool} has committed it.
  2. L{pymail_tx.relay.scheduler} claims what is due; the claim has stored the
     attempt and the time of the next one before anything is tried.
  3. L{pymail_tx.net.agent} hands it to L{pymail_tx.net.server}, which finds it a
     connection, as L{pymail_tx.core.pool} decides: one that it keeps, or a new one, which L{pymail_tx.net.connector}
     opens, secures and authenticates as the route says.
  4. L{pymail_tx.net.pipeline} says it, perhaps behind the message before, over
     L{pymail_tx.net.protocol}, the state table at work.
  5. What the server said is noted in L{pymail_tx.net.transaction}, counts when
     the replies are proved to be in step, and becomes an outcome for each
     recipient (L{pymail_tx.core.verdicts}).
  6. The spool records the outcomes, a bounce included.

An application that sends by itself enters at 3, with C{SMTPAgent}. One that owns
its connections takes the protocol, C{SMTPClient}; a plain Python program takes
the blocking L{pymail_tx.client.Session}, which drives the same protocol without
a reactor.

The names below are loaded when they are first asked for, so that importing
L{pymail_tx.client} stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymail_tx.core.envelope import Envelope, Recipient
    from pymail_tx.core.errors import NotAllDelivered
    from pymail_tx.core.mechanisms import BearerToken, External
    from pymail_tx.core.outcome import Outcome, Report, Status, TLSFacts
    from pymail_tx.core.reply import Reply
    from pymail_tx.core.sasl import Credentials
    from pymail_tx.core.secret import Secret
    from pymail_tx.net.agent import SMTPAgent
    from pymail_tx.net.dns import Resolver
    from pymail_tx.net.login import TokenSource
    from pymail_tx.net.protocol import SMTPClient, SMTPClientFactory
    from pymail_tx.net.tls import ClientCertificate, ClientTLS
    from pymail_tx.net.transcript import Transcript

__all__ = [
    "BearerToken",
    "ClientCertificate",
    "ClientTLS",
    "Credentials",
    "Envelope",
    "External",
    "NotAllDelivered",
    "Outcome",
    "Recipient",
    "Reply",
    "Report",
    "Resolver",
    "SMTPAgent",
    "SMTPClient",
    "SMTPClientFactory",
    "Secret",
    "Status",
    "TLSFacts",
    "TokenSource",
    "Transcript",
]

_ROOMS = {
    "core.envelope": ("Envelope", "Recipient"),
    "core.errors": ("NotAllDelivered",),
    "core.mechanisms": ("BearerToken", "External"),
    "core.outcome": ("Outcome", "Report", "Status", "TLSFacts"),
    "core.reply": ("Reply",),
    "core.sasl": ("Credentials",),
    "core.secret": ("Secret",),
    "net.agent": ("SMTPAgent",),
    "net.dns": ("Resolver",),
    "net.login": ("TokenSource",),
    "net.protocol": ("SMTPClient", "SMTPClientFactory"),
    "net.tls": ("ClientCertificate", "ClientTLS"),
    "net.transcript": ("Transcript",),
}

_ROOM_OF = {name: f"pymail_tx.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""
C{pymail-tx sink}: the other end. It takes every message, shows it, and keeps it
only if told where.

It is the relay's own SMTP server, with L{Sink} in the place of the spool.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from functools import partial

import click
from attrs import define, field
from twisted.internet.base import ReactorBase
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThreadPool

from pymail_tx.cli.help import Command
from pymail_tx.cli.mistake import Prevented, naming
from pymail_tx.cli.running import run
from pymail_tx.core.outcome import Status
from pymail_tx.core.reply import printable
from pymail_tx.core.routes import Routes
from pymail_tx.relay.ingress import IngressFactory
from pymail_tx.relay.listening import Endpoint, where
from pymail_tx.relay.maildir import MaildirCourier
from pymail_tx.relay.options import our_name
from pymail_tx.spool.interface import ContentWriter, NewMessage, SpoolError

DEFAULT_LISTEN = "tcp:2526:interface=127.0.0.1"
"""Beside the relay of C{make run}."""

EXAMPLES = """\
Examples:
  # Show who writes to whom. Send to it from another terminal with
  # pymail-tx send --server smtp://127.0.0.1:2526
  pymail-tx sink

  # Show whole messages, and keep them in a maildir.
  pymail-tx sink --listen tcp:2526:interface=127.0.0.1 --verbose --maildir var/sink
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option(
    "--listen", metavar="ENDPOINT", default=DEFAULT_LISTEN, show_default=True,
    help="Where to take messages in, as a Twisted endpoint. Only clients on this machine are served.",
)  # fmt: skip
@click.option("--maildir", metavar="PATH", help="A maildir to keep the messages in. Without it, they are shown only.")
@click.option("--hostname", metavar="NAME", help="The name to greet by. Without it, the machine's.")
@click.option("--verbose", is_flag=True, help="Show what is in the messages, too.")
def sink(listen: str, maildir: str | None, hostname: str | None, verbose: bool) -> None:
    """
    Receive messages and show them, for a try. Ctrl-C stops.

    Every sender and every recipient is welcome. Nothing is sent on.
    """
    with naming({}, Prevented):
        name = our_name(hostname, socket.getfqdn)
        run(partial(_serve, listen=listen, hostname=name, maildir=maildir, verbose=verbose))


@define
class Sink:
    """
    Where the messages go: an L{Acceptor <pymail_tx.spool.interface.Acceptor>}.

    @ivar count: how many there were.
    """

    _show: Callable[[str], object]
    _verbose: bool
    _maildir: MaildirCourier | None
    count: int = field(default=0, init=False)

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        """
        Keep it, if it is to be kept, and show it.

        @return: fires with its number; fails with L{SpoolError} if it cannot be
            kept.
        """
        return Deferred.fromCoroutine(self._accept(message))

    def begin_content(self) -> ContentWriter:
        """What is shown is held in memory."""
        return _Gathered()

    async def _accept(self, message: NewMessage) -> int:
        if self._maildir:
            await self._keep(self._maildir, message)
        self.count += 1
        self._show(shown(message, verbose=self._verbose))
        return self.count

    async def _keep(self, maildir: MaildirCourier, message: NewMessage) -> None:
        report = await maildir.send(message.envelope, _octets(message))
        for outcome in report.outcomes:
            if outcome.status is not Status.DELIVERED:
                click.echo(f"pymail-tx: {outcome.reason}", err=True)
                raise SpoolError(outcome.reason)


@define
class _Gathered:
    """A L{ContentWriter <pymail_tx.spool.interface.ContentWriter>} into memory."""

    octets: bytearray = field(factory=bytearray)

    @property
    def size_bytes(self) -> int:
        """See L{ContentWriter}."""
        return len(self.octets)

    def write(self, block: bytes) -> Deferred[None]:
        """See L{ContentWriter}."""
        self.octets += block
        return succeed(None)

    def abandon(self) -> None:
        """See L{ContentWriter}."""
        self.octets.clear()


def _octets(message: NewMessage) -> bytes:
    if isinstance(message.content, bytes):
        return message.content
    assert isinstance(message.content, _Gathered), "made by begin_content"
    return bytes(message.content.octets)


def shown(message: NewMessage, *, verbose: bool) -> str:
    """
    What a person wants to know of a message: safe for a terminal, with an empty
    line at the end.

    @param verbose: with its content.
    """
    content = _octets(message)
    facts = {
        "From": message.envelope.sender or "<>",
        "To": ", ".join(one.address for one in message.envelope.recipients),
        "Subject": _subject(content) or "(none)",
        "Size": f"{len(content)} octets",
    }
    lines = [f"{name + ':':<9}{printable(fact)}" for name, fact in facts.items()]
    if verbose:
        text = content.decode("utf-8", "backslashreplace")
        lines += ["", *(f"  {printable(line.expandtabs())}".rstrip() for line in text.split("\r\n"))]
    return "\n".join([*lines, ""])


def _subject(content: bytes) -> str:
    head = content.partition(b"\r\n\r\n")[0]
    subject = BytesHeaderParser().parsebytes(head)["Subject"]
    text = " ".join(str(subject or "").split())
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):  # encoded by somebody who cannot
        return text


async def _serve(reactor: ReactorBase, *, listen: str, hostname: str, maildir: str | None, verbose: bool) -> None:
    """
    Until it is cancelled.

    @raise BadArgument: it cannot listen there.
    @raise Prevented: what comes cannot be shown.
    """
    endpoint = Endpoint.parse(reactor, listen, option="listen", example=DEFAULT_LISTEN)
    kept = _courier(reactor, maildir, hostname) if maildir else None
    out_of_sight: Deferred[None] = Deferred()
    factory = IngressFactory(
        spool=Sink(partial(_echo, out_of_sight), verbose, kept),
        routes=Routes.parse(["*=discard:"]),
        hostname=hostname,
        clock=reactor,
        wall_clock=time.time,
        new_token=_new_token,
        accepted=_nothing,
    )
    port = endpoint.listen(factory)
    click.echo(f"pymail-tx: taking mail at {where(port.getHost())}; Ctrl-C stops", err=True)
    try:
        await out_of_sight
    except CancelledError:
        pass
    finally:
        await maybeDeferred(port.stopListening)
        await factory.stop()


def _echo(out_of_sight: Deferred[None], text: str) -> None:
    try:
        click.echo(text)
    except OSError as problem:  # a pipe that nobody reads any more
        if not out_of_sight.called:
            out_of_sight.errback(Prevented(f"cannot show what comes: {problem.strerror}"))


def _courier(reactor: ReactorBase, path: str, hostname: str) -> MaildirCourier:
    return MaildirCourier(
        key=path,
        path=path,
        hostname=hostname,
        wall_clock=time.time,
        new_token=_new_token,
        run_in_thread=lambda function: deferToThreadPool(reactor, reactor.getThreadPool(), function),
    )


def _new_token() -> str:
    return secrets.token_hex(8)


def _nothing() -> None:
    """There is no scheduler to wake."""

"""
C{pymail-tx send}: one message to one server, and what became of it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import click
from attrs import field, frozen
from twisted.internet.base import ReactorBase
from twisted.internet.defer import CancelledError

from pymail_tx.cli import message as messages
from pymail_tx.cli import report as reports
from pymail_tx.cli.help import Command
from pymail_tx.cli.message import Message
from pymail_tx.cli.mistake import Interrupted, Prevented, naming
from pymail_tx.cli.progress import shown_for
from pymail_tx.cli.running import run
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Report
from pymail_tx.core.routes import Target
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.transcript import Event, Transcript
from pymail_tx.relay.options import our_name
from pymail_tx.relay.passwords import with_password

DEFAULT_SERVER = "smtp://127.0.0.1:2525"
"""The relay of C{make run}."""

_OPTION_OF = {
    "target": "--server",
    "password_file": "--server",
    "password_env": "--server",
    "user": "--server",
    "password": "--server",
    "trust_root": "--tls-ca",
    "message": "--data",
    "content": "--data",
    "sender": "--from",
    "recipient": "--to",
    "recipients": "--to",
}

EXAMPLES = """\
Examples:
  # Write a message; the relay of "make run" takes it.
  pymail-tx send --from joe@example.org --to ann@example.com \\
      --header 'Subject: Dinner' --body 'At eight?'

  # Send what a program prints.
  date | pymail-tx send --from joe@example.org --to ann@example.com \\
      --header 'Subject: The time'

  # Send a message from a file, to everybody in its To, Cc and Bcc.
  pymail-tx send --data message.eml

  # Through a provider, with a password that no list of processes shows.
  export MAIL_PASSWORD
  pymail-tx send --data message.eml \\
      --server 'smtps://joe%40example.org@mail.example.org?password_env=MAIL_PASSWORD'

  # See what is said, without secrets.
  pymail-tx send --data message.eml --trace

  # For a program: all that is known about each recipient.
  pymail-tx send --data message.eml --json

Exit status:
  0   everybody has it: the server has taken it over for all recipients
  75  somebody has not got it yet, and another try may do
  69  somebody will never get it
  64  the command line is wrong
  1   something else prevents it, such as a file that cannot be read
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option(
    "--server", metavar="URL", envvar="PYMAIL_TX_SERVER", default=DEFAULT_SERVER, show_default=True, show_envvar=True,
    help="Where to send to: smtp://[user@]host[:port], smtps://… or lmtp://host:port. User and password are "
    "percent-encoded; the password "
    "comes from ?password_file=PATH or ?password_env=NAME. ?tls=none, opportunistic, required or verified says how "
    "much TLS it must have.",
)  # fmt: skip
@click.option(
    "--from", "sender", metavar="ADDRESS", help="The sender, '<>' for none. Without it, the message's Sender or From."
)
@click.option(
    "--to", "recipients", metavar="ADDRESS", multiple=True,
    help="A recipient; can be given several times. Without it, all in the message's To, Cc and Bcc.",
)  # fmt: skip
@click.option("--data", metavar="FILE", help="The message, header and body. Without it, standard input.")
@click.option(
    "--header", "fields", metavar="'NAME: VALUE'", multiple=True,
    help="Have a message written, with this in its header; can be given several times. Its text is --body, or standard "
    "input.",
)  # fmt: skip
@click.option("--body", metavar="TEXT", help="Have a message written, with this text.")
@click.option("--hostname", metavar="NAME", help="Our name, for EHLO. Without it, the machine's.")
@click.option(
    "--tls-ca", metavar="FILE", help="CA certificates (PEM) that the server's must lead to. Without it, OpenSSL's own."
)
@click.option("--trace", is_flag=True, help="Show on standard error what is said to the server and what it answers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line for each recipient.")
def send(  # noqa: PLR0913  # click hands over an option each
    server: str, sender: str | None, recipients: Sequence[str], data: str | None, fields: Sequence[str],
    body: str | None, hostname: str | None, tls_ca: str | None, trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """
    Send a message, and say for each recipient what became of it.

    The message is read, from a file or standard input; with --header or --body it is written, with a Date, a
    Message-ID, From and To. Bcc fields are left out of what is sent.
    """
    with naming(_OPTION_OF):
        name = our_name(hostname, socket.getfqdn)
        target = with_password(Target.parse(server), os.environ)
        source = _Source(data=data, fields=fields, body=body)
        message = source.message(sender=sender, recipients=recipients, hostname=name)
        report = run(_Delivery(message, server=target.reveal(), hostname=name, trust_root=tls_ca, trace=trace).run)
    _show(report, as_json=as_json)
    sys.exit(reports.exit_status(report))


@frozen(kw_only=True)
class _Source:
    """
    Where the message comes from, by the options.
    """

    data: str | None
    fields: Sequence[str]
    body: str | None

    def message(self, *, sender: str | None, recipients: Sequence[str], hostname: str) -> Message:
        """
        Read it, or have it written.

        @raise BadArgument: it cannot be.
        @raise Prevented: nothing can be read.
        """
        with self._opened() as file:
            if not self.fields and self.body is None:
                return messages.read(file, sender=sender, recipients=recipients)
            if self.data is not None:
                words = "a message is read from it, and --header and --body have one written; leave one out"
                raise BadArgument("data", words)
            text = _text(file) if self.body is None else self.body
            return messages.write(text, self.fields, sender=sender, recipients=recipients, hostname=hostname)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            if self.data is not None:
                with open(self.data, "rb") as file:
                    yield file
            else:
                yield self._standard_input()
        except OSError as problem:
            name = "standard input" if self.data is None else self.data
            raise Prevented(f"--data: cannot read {name}: {problem.strerror}") from None

    def _standard_input(self) -> IO[bytes]:
        if sys.stdin is None:  # closed by whoever started us
            raise Prevented("--data: there is no standard input; write for example --data message.eml")
        file: IO[bytes] = sys.stdin.buffer
        if self.body is None and file.isatty():
            click.echo("pymail-tx: reading from the terminal; end with Ctrl-D on a line of its own", err=True)
        return file


def _text(file: IO[bytes]) -> str:
    try:
        return file.read().decode()
    except UnicodeDecodeError:
        raise BadArgument("body", "standard input is not UTF-8; send it within a message, as --data") from None


@frozen
class _Delivery:
    """
    One message on its way.

    @ivar server: with the password, if there is one.
    """

    message: Message
    server: str = field(kw_only=True, repr=False)
    hostname: str = field(kw_only=True)
    trust_root: str | None = field(kw_only=True)
    trace: bool = field(kw_only=True)

    async def run(self, reactor: ReactorBase) -> Report:
        """
        @raise BadArgument: there is something wrong with the server.
        @raise Interrupted: before there was a report.
        """
        transcript = Transcript(max_events=0, listener=_echo) if self.trace else None
        agent = SMTPAgent(
            reactor, self.server, hostname=self.hostname, trust_root=self.trust_root, transcript=transcript
        )  # fmt: skip
        try:
            with shown_for(0 if self.trace else self.message.size_bytes) as sent:
                return await agent.send(self.message.envelope, self.message.content, progress=sent)
        except CancelledError:
            raise Interrupted("interrupted; what was not sent yet is not sent") from None
        finally:
            await agent.close()


def _echo(event: Event) -> None:
    click.echo(event, err=True)


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(reports.as_json(report))
        return
    for outcome in report.outcomes:
        click.secho(reports.line(outcome), fg=reports.COLOURS[outcome.status])

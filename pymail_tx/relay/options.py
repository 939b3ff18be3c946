"""
The relay's command line, read into L{Settings}.

Whoever starts the relay by hand gets one line that says what is wrong and what
to write instead; C{--help} tells the rest.
"""

from __future__ import annotations

import importlib.metadata
import socket
import sys
from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.python import usage

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.reply import printable
from pymail_tx.core.routes import Routes, shown

DEFAULT_SPOOL = "sqlite:var/spool.sqlite"
DEFAULT_SMTP = "tcp:2525:interface=127.0.0.1"
DEFAULT_ROUTE = "*=mx:"


@frozen(kw_only=True)
class Settings:
    """
    What a relay is to be.

    @ivar spool_path: of the SQLite file.
    @ivar smtp: endpoints to listen at, in Twisted's notation.
    @ivar hostname: our name, in ASCII.
    """

    spool_path: str
    smtp: tuple[str, ...]
    routes: Routes
    hostname: str


_EXAMPLES = """
Examples:

  All mail goes into a maildir, nothing leaves the machine:

    twistd --nodaemon --pidfile= pymail-tx --route '*=maildir:var/mail'

  All mail goes through a provider, with the password from a file:

    twistd --nodaemon --pidfile= pymail-tx \\
        --route '*=smtp://joe%40example.org@mail.example.org:587?password_file=/etc/relay.password'

  One domain has its own server, another is refused, the rest is thrown away:

    twistd --nodaemon --pidfile= pymail-tx --route 'example.org=smtp://10.0.0.5' \\
        --route 'example.net=reject:We do not write there' --route '*=discard:'
"""


class Options(usage.Options):
    """
    The command line. Twisted dictates the names of its methods; their
    docstrings are the help.

    @ivar settings: what it says, once it is parsed.
    """

    longdesc = (
        "pymail-tx is an SMTP relay. It takes messages from programs on this machine, says 250 when they are safely on "
        "disk, and delivers each as its recipient's route says: at once, and again for several days while that fails."
    )
    synopsis = "[options]"
    settings: Settings

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted has no types here
        # Its wrapping keeps the indentation of docstrings in the middle of lines.
        self.docs = {option: " ".join(doc.split()) for option, doc in self.docs.items()}
        self._spool = DEFAULT_SPOOL
        self._hostname = ""
        self._smtp: list[str] = []
        self._routes: list[str] = []

    def opt_spool(self, url: str) -> None:
        """Where accepted messages are kept until they are delivered: sqlite:PATH. Default: sqlite:var/spool.sqlite.
        Example: --spool sqlite:/var/spool/pymail-tx/spool.sqlite"""
        self._spool = url

    def opt_smtp(self, endpoint: str) -> None:
        """Where to take messages in; can be given several times. Only clients on this machine are served. Default:
        tcp:2525:interface=127.0.0.1. Example: --smtp tcp:25:interface=127.0.0.1 --smtp unix:/run/pymail-tx.sock"""
        self._smtp.append(endpoint)

    def opt_route(self, route: str) -> None:
        """PATTERN=TARGET: where mail for a domain goes; the first that matches wins. PATTERN: example.org, .example.org
        (its subdomains), * (all) or /regular expression/. TARGET: mx: (the servers that the domain has in DNS),
        smtp://[user:password@]host[:port], smtps://..., maildir:PATH, discard: or reject:TEXT. User and password are
        percent-encoded; instead of the password, ?password_file=PATH or ?password_env=NAME can follow. ?tls=none,
        opportunistic, required, verified or dane says how much TLS mx: and smtp:// must have. Default: *=mx:. Example:
        --route '*=smtp://joe:secret@mail.example.org:587'"""
        self._routes.append(route)

    def opt_hostname(self, name: str) -> None:
        """The name by which this relay greets, and that stands in Received lines and bounces. Default: the machine's.
        Example: --hostname relay.example.org"""
        self._hostname = name

    def opt_version(self) -> None:
        """Say which version this is, and exit."""
        sys.stdout.write(f"pymail-tx {importlib.metadata.version('pymail-tx')}\n")
        raise SystemExit(0)

    def parseArgs(self, *surplus: str) -> None:
        """See L{Options <twisted.python.usage.Options>}: everything is an option here."""
        if surplus:
            raise usage.UsageError(f"{shown(surplus[0])!r} is no option; a value with a blank needs quotes")

    def postOptions(self) -> None:
        """See L{Options <twisted.python.usage.Options>}."""
        self.settings = Settings(
            spool_path=_spool_path(self._spool),
            smtp=tuple(self._smtp or [DEFAULT_SMTP]),
            routes=Routes.parse(self._routes or [DEFAULT_ROUTE]),
            hostname=_hostname(self._hostname) if self._hostname else machine_name(socket.getfqdn),
        )

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        See L{Options <twisted.python.usage.Options>}.

        @raise SystemExit: with one line where Twisted would print a page.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]  # Twisted has no types here
        except BadArgument as problem:
            raise complaint(str(problem)) from None
        except usage.UsageError as problem:
            raise complaint(f"{problem}; twistd pymail-tx --help tells all options") from None

    def getUsage(self, width: int | None = None) -> str:
        """See L{Options <twisted.python.usage.Options>}."""
        return super().getUsage(width) + _EXAMPLES


def complaint(problem: str) -> SystemExit:
    """Ends the process with status 1 and one line on standard error."""
    return SystemExit(f"pymail-tx: {printable(problem)}")


def our_name(given: str | None, ask: Callable[[], str]) -> str:
    """
    The name to greet with: the one given, or else the machine's.

    @param ask: see L{machine_name}.
    @raise BadArgument: the one given is no domain.
    """
    return machine_name(ask) if given is None else ascii_domain("hostname", given)


def machine_name(ask: Callable[[], str]) -> str:
    """
    The machine's name as a domain: one without a dot, which servers mistrust,
    gets one.

    @param ask: such as C{socket.getfqdn}.
    """
    name = ask().rstrip(".")
    try:
        return ascii_domain("hostname", name if "." in name else f"{name}.localdomain")
    except BadArgument:
        return "localhost.localdomain"


def _hostname(name: str) -> str:
    try:
        return ascii_domain("hostname", name)
    except BadArgument as problem:
        raise BadArgument("hostname", f"{name!r} is no domain; write for example relay.example.org") from problem


def _spool_path(url: str) -> str:
    scheme, _, path = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        raise BadArgument("spool", f"{shown(url)!r}: PostgreSQL is not built yet; write for example {DEFAULT_SPOOL}")
    if scheme != "sqlite" or not path:
        raise BadArgument("spool", f"{shown(url)!r} is not known; write for example {DEFAULT_SPOOL}")
    return path

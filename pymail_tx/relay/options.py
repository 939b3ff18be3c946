"""
The relay's command line: a file with the configuration, and options that go
before what stands there.

Whoever starts the relay by hand gets one line that says what is wrong and what
to write instead; C{--help} tells the rest.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial

from twisted.python import usage

from pymail_tx.config.lines import Path
from pymail_tx.config.reading import Configuration, Option, Problem, WrongConfiguration, read, read_file
from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.reply import printable
from pymail_tx.core.routes import Route, shown

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

  All that stands in a file, which SIGHUP has it read again:

    twistd --nodaemon --pidfile= pymail-tx --config /etc/pymail-tx.toml
"""


class Options(usage.Options):
    """
    The command line. Twisted dictates the names of its methods; their
    docstrings are the help.

    @ivar configuration: what it says, once it is parsed, with the file that it
        names.
    """

    longdesc = (
        "pymail-tx is an SMTP relay. It takes messages from programs on this machine, says 250 when they are safely on "
        "disk, and delivers each as its recipient's route says: at once, and again for several days while that fails."
    )
    synopsis = "[options]"
    configuration: Configuration

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted has no types here
        # Its wrapping keeps the indentation of docstrings in the middle of lines.
        self.docs = {option: " ".join(doc.split()) for option, doc in self.docs.items()}
        self._file = ""
        self._options: dict[Path, Option] = {}
        self._routes: list[str] = []
        self._machine_name = cache(partial(machine_name, socket.getfqdn))  # which may ask DNS, and wait

    def opt_config(self, file: str) -> None:
        """A file in TOML; docs/reference/configuration.md has all its keys. The other options go before what stands
        there. Example: --config /etc/pymail-tx.toml"""
        self._file = os.path.abspath(file)  # twistd may change the directory before it is read again

    def opt_spool(self, url: str) -> None:
        """Where accepted messages are kept until they are delivered: sqlite:PATH. Default: sqlite:var/spool.sqlite.
        Example: --spool sqlite:/var/spool/pymail-tx/spool.sqlite"""
        self._give("--spool", ("spool", "url"), url)

    def opt_smtp(self, endpoint: str) -> None:
        """Where to take messages in; can be given several times. Only clients on this machine are served. Default:
        tcp:2525:interface=127.0.0.1. Example: --smtp tcp:25:interface=127.0.0.1 --smtp unix:/run/pymail-tx.sock"""
        self._give("--smtp", ("smtp", "listen"), [*self._given("smtp", "listen"), endpoint])

    def opt_http(self, endpoint: str) -> None:
        """Where to answer HTTP: metrics and health. Default: nowhere. Example: --http tcp:8025:interface=127.0.0.1"""
        self._give("--http", ("http", "listen"), endpoint)

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
        self._give("--hostname", ("hostname",), name)

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
        self.configuration = self.read()

    def read(self) -> Configuration:
        """
        Read the file, if there is one, and put the options before it. To be
        called again to see what has changed there.

        @raise WrongConfiguration: with all that is wrong.
        """
        options = [*self._options.values(), *self._route_options()]
        if self._file:
            return read_file(self._file, hostname=self._machine_name, options=options)
        return read(b"", file="", hostname=self._machine_name, options=options)

    def _give(self, name: str, path: Path, value: object) -> None:
        self._options[path] = Option(name=name, path=path, value=value)

    def _given(self, *path: str) -> list[object]:
        option = self._options.get(path)
        return option.value if option and isinstance(option.value, list) else []

    def _route_options(self) -> list[Option]:
        """
        Read here, since an option has pattern and target in one.

        @raise WrongConfiguration: one of them is no route.
        """
        routes: list[Route] = []
        problems: list[Problem] = []
        for text in self._routes:
            try:
                routes.append(Route.parse(text))
            except BadArgument as problem:
                problems.append(Problem(file="", line=None, key="--route", words=problem.words))
        if problems:
            raise WrongConfiguration(tuple(problems))
        tables: list[object] = [{"match": str(route.pattern), "to": route.target.reveal()} for route in routes]
        return [Option(name="--route", path=("route",), value=tables)] if tables else []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        See L{Options <twisted.python.usage.Options>}.

        @raise SystemExit: with one line where Twisted would print a page.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]  # Twisted has no types here
        except WrongConfiguration as wrong:
            raise complaint(*map(str, wrong.problems)) from None
        except usage.UsageError as problem:
            raise complaint(f"{problem}; twistd pymail-tx --help tells all options") from None

    def getUsage(self, width: int | None = None) -> str:
        """See L{Options <twisted.python.usage.Options>}."""
        return super().getUsage(width) + _EXAMPLES


def complaint(*problems: str) -> SystemExit:
    """Ends the process with status 1 and a line on standard error for each problem."""
    return SystemExit("\n".join(f"pymail-tx: {printable(problem)}" for problem in problems))


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

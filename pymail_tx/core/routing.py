"""
From what DNS says about a domain to the hosts that take its mail (RFC 5321
§5.1, RFC 7505).

Decisions only: who asks DNS is told what to ask for, in two steps::

    the domain's MX -> exchangers -> each host's A and AAAA -> route

The rules of the house:

  1. The lowest preference goes first, equals in random order, anew for each
     delivery: that is how a domain spreads its load.
  2. A domain stands for itself only where DNS says that it exists and has no
     MX. A failure to find out is never taken for "none": what a backup host is
     to have must not go to a web server because of a lost packet.
  3. Where we are in the list ourselves, whoever is no better than we are is
     cut off: mail must not go round in circles.
  4. Names that cannot be a host's are passed over: addresses written as names,
     and the root beside others (RFC 7505 §3 forbids it, and says nothing of
     those who do).
  5. What each host says of itself counts: an alias for an MX's host is
     followed, though RFC 5321 §5.1 does not want it there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest

from attrs import evolve, field, frozen

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.dns import MX, Answer, Verdict
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Status

MAX_HOSTS = 5
"""
Tried in one delivery, and looked up for it. As Postfix has it
(smtp_mx_address_limit); each may cost a connect timeout, and a domain can list
as many as it likes.
"""

MAX_ADDRESSES = 20
"""Of all hosts together: one every L{ATTEMPT_DELAY_S <pymail_tx.net.eyeballs.ATTEMPT_DELAY_S>} makes 5 s of trying."""


def _plain(address: str) -> str:
    """One spelling for each address; an IPv4 address in IPv6's clothes is the IPv4 address (RFC 4291 §2.5.5.2)."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _names(given: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower().removesuffix(".") for name in given)


def _addresses(given: Iterable[str]) -> frozenset[str]:
    return frozenset(_plain(address) for address in given)


@frozen
class Ourselves:
    """
    By what others may know us (RFC 5321 §5.1).

    @ivar names: domain names in ASCII.
    @ivar addresses: those that we take mail at.
    """

    names: frozenset[str] = field(default=(), converter=_names)
    addresses: frozenset[str] = field(default=(), converter=_addresses)

    def are(self, host: Host) -> bool:
        """Whether a host is us."""
        return host.name in self.names or any(_plain(address) in self.addresses for address in host.addresses)


NOBODY = Ourselves()
"""Who takes no mail cannot meet itself."""


@frozen(kw_only=True)
class NoRoute:
    """
    Mail for a domain goes nowhere, for now or for good.

    @ivar reason: begins with an enhanced status code.
    @ivar ttl_s: how long that holds, in seconds from when DNS was asked.
    """

    status: Status
    reason: str
    ttl_s: float


@frozen(kw_only=True)
class Exchangers:
    """
    Whose addresses are wanted.

    @ivar domain: the recipients', in lower case.
    @ivar mx: its hosts in order, each once, at most L{MAX_HOSTS}.
    @ivar implicit: the domain has no MX and stands for itself.
    @ivar authenticated: DNSSEC proves that these, or none, are its MX.
    @ivar ttl_s: how long that holds.
    """

    domain: str
    mx: tuple[MX, ...]
    implicit: bool
    authenticated: bool
    ttl_s: float


@frozen(kw_only=True)
class Host:
    """
    A host that takes a domain's mail.

    @ivar name: in A-labels, lower case; the address itself for a literal.
    @ivar preference: lower is tried first.
    @ivar addresses: in the order in which to try them, the families by turns.
    @ivar authenticated: DNSSEC proves the addresses.
    @ivar canonical_name: where the chain of aliases behind C{name} ends.
    """

    name: str
    preference: int = 0
    addresses: tuple[str, ...]
    authenticated: bool = False
    canonical_name: str


@frozen(kw_only=True)
class MailRoute:
    """
    Where a domain's mail goes.

    @ivar hosts: in order of preference; see L{in_order}.
    @ivar implicit: see L{Exchangers}.
    @ivar authenticated: see L{Exchangers}; each host has a word of its own.
    @ivar ttl_s: how long all of it holds, in seconds from when DNS was asked.
    """

    domain: str
    hosts: tuple[Host, ...]
    implicit: bool = False
    authenticated: bool = False
    ttl_s: float


def in_order(hosts: Iterable[Host], random: Callable[[], float]) -> list[Host]:
    """
    For one delivery.

    @param random: makes numbers from 0 to 1.
    """
    return sorted(hosts, key=lambda host: (host.preference, random()))


def literal(domain: str, us: Ourselves = NOBODY) -> MailRoute | NoRoute | None:
    """
    For an address literal (RFC 5321 §4.1.3), which needs no DNS.

    @param domain: a recipient's, checked; C{""} for the bare C{postmaster}.
    @return: C{None} for a domain name.
    """
    if not domain:
        return NoRoute(
            status=Status.FAILED, reason="5.1.3 postmaster without a domain is for one server, not for DNS", ttl_s=0
        )
    if not domain.startswith("["):
        return None
    address = _plain(domain[1:-1].lower().removeprefix("ipv6:"))
    host = Host(name=address, addresses=(address,) if _can_be_a_hosts(address) else (), canonical_name=address)
    if us.are(host):
        return _loop(domain, 0)
    if not host.addresses:
        return _no_address(domain, 0)
    return MailRoute(domain=domain, hosts=(host,), ttl_s=float("inf"))


def exchangers(answer: Answer, us: Ourselves = NOBODY, *, random: Callable[[], float]) -> Exchangers | NoRoute:
    """
    Whose addresses to ask for.

    @param answer: to the question for the domain's MX.
    @param random: makes numbers from 0 to 1.
    """
    domain = answer.name
    if answer.verdict in _NO_MX:
        status, reason = _NO_MX[answer.verdict]
        words = reason.format(domain=domain, why=answer.reason or "no reason given")
        return NoRoute(status=status, reason=words, ttl_s=answer.ttl_s)
    implicit = answer.verdict is Verdict.NODATA
    if answer.mx and not any(one.host for one in answer.mx):
        reason = f"5.1.10 {domain} says that it takes no mail (null MX)"
        return NoRoute(status=Status.FAILED, reason=reason, ttl_s=answer.ttl_s)
    sensible = [one for one in answer.mx if _can_be_a_host(one.host)]
    if not sensible and not implicit:
        return _no_address(domain, answer.ttl_s)
    better = _before_us([MX(0, domain)] if implicit else sensible, us)
    if not better:
        return _loop(domain, answer.ttl_s)
    each_once = {one.host: one for one in sorted(better, reverse=True)}.values()
    return Exchangers(
        domain=domain,
        mx=tuple(sorted(each_once, key=lambda one: (one.preference, random()))[:MAX_HOSTS]),
        implicit=implicit,
        authenticated=answer.authenticated,
        ttl_s=answer.ttl_s,
    )


def route(found: Exchangers, answers: Sequence[Sequence[Answer]], us: Ourselves = NOBODY) -> MailRoute | NoRoute:
    """
    Where the mail goes.

    @param answers: for each of C{found.mx}, those to the questions for A and
        AAAA.
    """
    hosts = [_host(one, of_host) for one, of_host in zip(found.mx, answers, strict=True)]
    ttl_s = min([found.ttl_s, *(answer.ttl_s for answer in chain.from_iterable(answers))])
    ours = min((host.preference for host in hosts if us.are(host)), default=float("inf"))
    better = [host for host in hosts if host.preference < ours]
    if not better:
        return _loop(found.domain, ttl_s)
    reachable = [host for host in better if host.addresses]
    if not reachable:
        unknown = [answer for answer in chain.from_iterable(answers[: len(better)]) if answer.verdict in _UNKNOWN]
        return _unknown_address(unknown[0], ttl_s) if unknown else _no_address(found.domain, ttl_s)
    return MailRoute(
        domain=found.domain,
        hosts=tuple(_within_limit(reachable)),
        implicit=found.implicit,
        authenticated=found.authenticated,
        ttl_s=ttl_s,
    )


_NO_MX = {
    Verdict.NXDOMAIN: (Status.FAILED, "5.1.2 {domain} does not exist"),
    Verdict.FAILED: (Status.DEFERRED, "4.4.3 the MX of {domain} cannot be looked up: {why}"),
    Verdict.BOGUS: (Status.DEFERRED, "4.4.3 the MX of {domain} do not stand DNSSEC's test: {why}"),
}

_UNKNOWN = frozenset({Verdict.FAILED, Verdict.BOGUS})


def _before_us(listed: list[MX], us: Ourselves) -> list[MX]:
    ours = min((one.preference for one in listed if one.host in us.names), default=float("inf"))
    return [one for one in listed if one.preference < ours]


def _host(mx: MX, answers: Sequence[Answer]) -> Host:
    """IPv6 first (RFC 8305 §4): where there is none, that shows at once."""
    data = [answer for answer in answers if answer.verdict is Verdict.DATA]
    families = [[address for address in answer.addresses if _can_be_a_hosts(address)] for answer in reversed(data)]
    by_turns = [address for address in chain.from_iterable(zip_longest(*families)) if address]
    return Host(
        name=mx.host,
        preference=mx.preference,
        addresses=tuple(dict.fromkeys(by_turns)),
        authenticated=bool(data) and all(answer.authenticated for answer in data),
        canonical_name=data[0].canonical_name if data else mx.host,
    )


def _within_limit(hosts: list[Host]) -> Iterable[Host]:
    """L{MAX_ADDRESSES} in all, and one for each host at least."""
    left = MAX_ADDRESSES
    for place, host in enumerate(hosts, start=1):
        kept = host.addresses[: left - (len(hosts) - place)]
        left -= len(kept)
        yield evolve(host, addresses=kept)


def _can_be_a_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _is_domain(name)
    return False


def _is_domain(name: str) -> bool:
    try:
        return not name.startswith("[") and bool(ascii_domain("MX", name))
    except BadArgument:
        return False


def _can_be_a_hosts(address: str) -> bool:
    """Not the unspecified address, which the system takes for its own; not groups, and not what nobody has."""
    try:
        parsed = ipaddress.ip_address(_plain(address))
    except ValueError:
        return False
    is_reserved = isinstance(parsed, ipaddress.IPv4Address) and parsed.is_reserved
    return not (parsed.is_unspecified or parsed.is_multicast or is_reserved)


def _loop(domain: str, ttl_s: float) -> NoRoute:
    reason = f"5.4.6 mail for {domain} comes back to us: DNS names us, and no better host"
    return NoRoute(status=Status.FAILED, reason=reason, ttl_s=ttl_s)


def _no_address(domain: str, ttl_s: float) -> NoRoute:
    return NoRoute(status=Status.FAILED, reason=f"5.4.4 no host for {domain} has an address", ttl_s=ttl_s)


def _unknown_address(answer: Answer, ttl_s: float) -> NoRoute:
    reason = f"4.4.3 the address of {answer.name} cannot be looked up: {answer.reason or 'no reason given'}"
    return NoRoute(status=Status.DEFERRED, reason=reason, ttl_s=ttl_s)

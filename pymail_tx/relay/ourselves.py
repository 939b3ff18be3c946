"""
By which names and addresses others know this relay, so that it does not send
its mail to itself (RFC 5321 §5.1).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pymail_tx.core.routing import Ourselves

_ELSEWHERE = re.compile(r"(?:[a-z]+\+)?unix:")
_INTERFACE = re.compile(r":interface=((?:\\.|[^:\\])*)")

_LOCAL_IPV4 = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")

PROC_NET = Path("/proc/net")
"""Where Linux tells its addresses (proc(5))."""


def ourselves(hostname: str, endpoints: Iterable[str], machine: Callable[[], Iterable[str]]) -> Ourselves:
    """
    @param endpoints: where the relay listens, in Twisted's notation.
    @param machine: the addresses of this machine, for endpoints that name none, see
        L{of_this_machine}.
    """
    addresses: set[str] = set()
    for endpoint in endpoints:
        if not _ELSEWHERE.match(endpoint):
            named = _named(endpoint)
            addresses.update([named] if named else machine())
    return Ourselves(names=[hostname], addresses=addresses)


def of_this_machine(tables: Path = PROC_NET) -> list[str]:
    """As far as Linux tells; elsewhere none."""
    ipv4 = _LOCAL_IPV4.findall(_text(tables / "fib_trie"))
    ipv6 = [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in _text(tables / "if_inet6").splitlines()]
    return [*ipv4, *ipv6]


def _named(endpoint: str) -> str:
    """The address that an endpoint names; C{""} for all of the machine's."""
    found = _INTERFACE.search(endpoint)
    try:
        address = ipaddress.ip_address(found[1].replace("\\:", ":") if found else "")
    except ValueError:
        return ""
    return "" if address.is_unspecified else str(address)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

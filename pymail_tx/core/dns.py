"""
What DNS says, as values: the one meeting place of the resolver, which asks, and
of those who decide by its answers.

Six things are kept apart that a program is tempted to mix: there is data; the
name does not exist; the name exists and has nothing of that type; nobody could
say; somebody said what its signatures disown; and whether what was said was
authenticated by DNSSEC. RFC 5321 §5.1, RFC 7672 §2.1 and RFC 8461 §3.1 each do
something else with each of them.
"""

from __future__ import annotations

import enum

from attrs import frozen


class RecordType(enum.Enum):
    """What can be asked for; the value is the type's number (RFC 1035 §3.2.2, 3596, 6698)."""

    A = 1
    CNAME = 5
    MX = 15
    TXT = 16
    AAAA = 28
    TLSA = 52


class Verdict(enum.Enum):
    """
    How a question ended.

    C{DATA}: there are records. C{NXDOMAIN}: there is no such name. C{NODATA}:
    the name has none of that type (RFC 2308 §2.2). C{FAILED}: SERVFAIL, REFUSED,
    garbage or silence from every server. C{BOGUS}: the validating server found
    the signatures wrong (RFC 4033 §5), which is a failure that trying elsewhere
    does not mend.
    """

    DATA = "data"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    FAILED = "failed"
    BOGUS = "bogus"


@frozen(order=True)
class MX:
    """
    @ivar preference: lower is tried first.
    @ivar host: in A-labels, lower case, without a trailing dot; C{""} for the
        root, with which a domain says that it takes no mail (RFC 7505).
    """

    preference: int
    host: str


@frozen
class TLSA:
    """
    A record of RFC 6698 §2.1, as it came: its numbers may be any, and its data
    of any length.

    @ivar usage: of the certificate: 2 trust anchor, 3 end entity.
    @ivar selector: 0 the whole certificate, 1 its public key.
    @ivar matching_type: 0 the octets themselves, 1 SHA-256, 2 SHA-512.
    """

    usage: int
    selector: int
    matching_type: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching_type} {self.data.hex()}"


@frozen(kw_only=True)
class Answer:
    """
    What became of one question.

    @ivar name: as asked, in A-labels, lower case, without a trailing dot.
    @ivar kind: the type asked for.
    @ivar authenticated: a server that is trusted for it says that DNSSEC proves
        the answer, every step of a chain of aliases and a denial included.
        Never true for C{FAILED} and C{BOGUS}.
    @ivar canonical_name: where the chain of CNAMEs behind C{name} ends; C{name}
        without one.
    @ivar mx: for C{MX}. Each of the following is in the order in which it came.
    @ivar addresses: for C{A} and C{AAAA}.
    @ivar tlsa: for C{TLSA}.
    @ivar texts: for C{TXT}, the strings of one record joined.
    @ivar ttl_s: how long the answer may be kept, in seconds from when it came.
    @ivar reason: for C{FAILED} and C{BOGUS}, in words.
    """

    name: str
    kind: RecordType
    verdict: Verdict
    authenticated: bool = False
    canonical_name: str
    mx: tuple[MX, ...] = ()
    addresses: tuple[str, ...] = ()
    tlsa: tuple[TLSA, ...] = ()
    texts: tuple[bytes, ...] = ()
    ttl_s: float = 0
    reason: str = ""

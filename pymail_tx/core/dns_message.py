"""
DNS messages: a question as octets, and what a reply means.

Replies come from the network, and anybody there may have written one. A reply
that does not belong to the question is none (L{Question.is_answered_by}); one
that belongs and cannot be read, contradicts itself, or leads nowhere, means
C{FAILED}, whatever is in it. Nothing here raises.
"""

from __future__ import annotations

import struct

import dns.exception
import dns.flags
import dns.name
import dns.rcode
from attrs import evolve, frozen

from pymail_tx.core.dns import MX, TLSA, Answer, RecordType, Verdict
from pymail_tx.core.dns_records import HEADER, INTERNET, NS, OPT, SOA, Name, Record, Reply, Unreadable, read
from pymail_tx.core.reply import printable

EDNS_OCTETS = 1_232
"""The largest UDP reply that we ask for: it passes any IPv6 link unfragmented (1,280 less the headers, RFC 8200 §5)."""

MAX_ALIASES = 16
"""CNAMEs in a row. Validating servers follow 8 to 16 themselves; mail needs one or two."""

MAX_TTL_S = 86_400
"""A day, as servers cap it (unbound's cache-max-ttl): no mistake of a zone stays longer."""

MAX_NEGATIVE_TTL_S = 10_800
"""Three hours (RFC 2308 §5)."""

FAILURE_TTL_S = 5
"""For this long a failure is not asked about again (RFC 9520 §3.2: at least 1 second, and less than 5 minutes)."""

MAX_REASON_CHARACTERS = 300
"""Of a server's own words for a failure."""

_RECURSION_DESIRED, _AUTHENTIC_DATA, _CHECKING_DISABLED = 0x0100, 0x0020, 0x0010
_RESPONSE_AND_OPCODE, _RESPONSE, _TRUNCATED, _RCODE = 0xF800, 0x8000, 0x0200, 0x000F
_EDNS = struct.pack("!BHHIH", 0, OPT, EDNS_OCTETS, 0x8000, 0)
"""An OPT record (RFC 6891 §6.1.2) with the bit that wants DNSSEC (RFC 3225 §3)."""

_SIGNATURES_ARE_WRONG = range(6, 13)
"""Extended DNS Errors of a validator that found fault with data (RFC 8914 §4.7 to §4.13)."""

_ANSWERED = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


@frozen
class Question:
    """
    A question and its form on the wire.

    @ivar name: as it is asked, in A-labels, lower case, without a trailing dot.
    @ivar kind: the type asked for.
    """

    name: str
    kind: RecordType
    _wire: bytes

    @property
    def wire_name(self) -> Name:
        """The name, as it is in records."""
        return Name(self._wire[:-4])

    def query(self, number: int, *, checked: bool = True) -> bytes:
        """
        @param number: the message's id, 16 bits of chance.
        @param checked: false asks a validating server for its data with
            signatures unchecked (RFC 4035 §3.2.2).
        """
        flags = _RECURSION_DESIRED | (_AUTHENTIC_DATA if checked else _CHECKING_DISABLED)
        return HEADER.pack(number, flags, 1, 0, 0, 1) + self._wire + _EDNS

    def is_answered_by(self, reply: bytes, number: int) -> bool:
        """
        Whether a message is a reply to this, with that id (RFC 5452 §9.1). The
        question in a reply has no compression, as nothing stands before it.
        """
        end = HEADER.size + len(self._wire)
        if len(reply) < end:
            return False
        its_number, flags, questions, *_ = HEADER.unpack_from(reply)
        name, kind = reply[HEADER.size : end - 4].lower(), reply[end - 4 : end]
        return (its_number, flags & _RESPONSE_AND_OPCODE, questions, name + kind) == (number, _RESPONSE, 1, self._wire)

    def failed(self, reason: str) -> Answer:
        """Nobody could say."""
        return failed(self.name, self.kind, reason)

    def bogus(self, reason: str) -> Answer:
        """Somebody said what its signatures disown."""
        return evolve(self.failed(reason), verdict=Verdict.BOGUS)


def failed(name: str, kind: RecordType, reason: str) -> Answer:
    """Nobody could say, or nobody was asked."""
    return Answer(name=name, kind=kind, verdict=Verdict.FAILED, canonical_name=name, ttl_s=FAILURE_TTL_S, reason=reason)


def question(name: str, kind: RecordType) -> Question | None:
    """
    @param name: in A-labels, in lower case, without a trailing dot.
    @return: C{None} for what no DNS can hold: a label over 63 octets, a name
        over 255, an empty label, a character outside ASCII.
    """
    if not name.isascii():
        return None
    try:
        wire = dns.name.from_text(f"{name}.").to_wire()
    except dns.exception.DNSException:
        return None
    assert wire is not None
    return Question(name, kind, wire + struct.pack("!HH", kind.value, INTERNET))


def is_truncated(reply: bytes) -> bool:
    """Whether the reply has to be asked for over TCP (RFC 2181 §9)."""
    return bool(_flags(reply) & _TRUNCATED)


def is_server_failure(reply: bytes) -> bool:
    """Whether it is SERVFAIL: the server got no answer, or none that its signatures bear out."""
    return _flags(reply) & _RCODE == dns.rcode.SERVFAIL


def is_data_unchecked(reply: bytes) -> bool:
    """Whether a query that left signatures unchecked was answered with more than a failure."""
    return _flags(reply) & _RCODE in _ANSWERED


def interpret(asked: Question, reply: bytes, *, trusted: bool) -> Answer:
    """
    What a reply means that belongs to the question and is whole.

    @param trusted: whether its server is believed when it says that DNSSEC
        proves the answer.
    """
    try:
        message = read(reply)
    except Unreadable as problem:
        return asked.failed(f"unreadable reply: {printable(str(problem))[:MAX_REASON_CHARACTERS]}")
    if message.rcode not in _ANSWERED:
        return _refused(asked, message)
    return _answered(asked, message, is_authenticated=trusted and bool(message.flags & dns.flags.AD))


def _flags(reply: bytes) -> int:
    flags: int = HEADER.unpack_from(reply)[1]
    return flags


def _refused(asked: Question, message: Reply) -> Answer:
    rcode = dns.rcode.to_text(dns.rcode.Rcode(message.rcode))
    words = printable("; ".join([rcode, *(error.words for error in message.errors)]))[:MAX_REASON_CHARACTERS]
    is_bogus = any(error.code in _SIGNATURES_ARE_WRONG for error in message.errors)
    return asked.bogus(words) if is_bogus and message.rcode == dns.rcode.SERVFAIL else asked.failed(words)


def _answered(asked: Question, message: Reply, *, is_authenticated: bool) -> Answer:
    chain = _aliases(asked, message)
    if len(chain) > MAX_ALIASES:
        return asked.failed(f"more than {MAX_ALIASES} aliases in a row, or in a circle")
    end = _target(chain[-1]) if chain else asked.wire_name
    records = chain[:1] if asked.kind is RecordType.CNAME else _records(message, end, asked.kind)
    if not records:
        answer = _denied(asked, message, chain, end)
        return evolve(answer, authenticated=is_authenticated and answer.verdict is not Verdict.FAILED)
    if message.rcode == dns.rcode.NXDOMAIN:
        return asked.failed("the reply contradicts itself: records, and no such name")
    values = list(dict.fromkeys(record.value for record in records))
    return Answer(
        name=asked.name,
        kind=asked.kind,
        verdict=Verdict.DATA,
        authenticated=is_authenticated,
        canonical_name=str(end) if chain else asked.name,
        mx=tuple(value for value in values if isinstance(value, MX)),
        addresses=tuple(value for value in values if isinstance(value, str)),
        tlsa=tuple(value for value in values if isinstance(value, TLSA)),
        texts=tuple(value for value in values if isinstance(value, bytes)),
        ttl_s=min(MAX_TTL_S, *(record.ttl_s for record in [*records, *chain])),
    )


def _denied(asked: Question, message: Reply, chain: list[Record], end: Name) -> Answer:
    """
    No such name, or none of that type: RFC 2308 §2, and RFC 6604 §3 where there
    are aliases. Without a SOA record it may be the word of a server that points
    elsewhere, or does not ask others: that says nothing about the name.
    """
    soa = [record for record in message.authority if record.kind == SOA and end.is_in(record.name)][:1]
    points_elsewhere = any(record.kind == NS for record in message.authority)
    if not soa and (points_elsewhere or not message.flags & dns.flags.RA):
        return asked.failed("the server does not ask others")
    minimum_s = [record.value for record in soa if isinstance(record.value, int)] or [0]
    return Answer(
        name=asked.name,
        kind=asked.kind,
        verdict=Verdict.NXDOMAIN if message.rcode == dns.rcode.NXDOMAIN else Verdict.NODATA,
        canonical_name=str(end) if chain else asked.name,
        ttl_s=min(MAX_NEGATIVE_TTL_S, *minimum_s, *(record.ttl_s for record in [*chain, *soa])),
    )


def _aliases(asked: Question, message: Reply) -> list[Record]:
    """The CNAMEs that lead on from the name asked for, and one more than there may be."""
    name = asked.wire_name
    chain: list[Record] = []
    while len(chain) <= MAX_ALIASES and (found := _records(message, name, RecordType.CNAME)):
        chain.append(found[0])
        name = _target(found[0])
    return chain


def _records(message: Reply, name: Name, kind: RecordType) -> list[Record]:
    return [record for record in message.answer if record.kind == kind.value and record.name == name]


def _target(alias: Record) -> Name:
    assert isinstance(alias.value, Name)
    return alias.value

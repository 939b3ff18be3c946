"""
Reads the records of a DNS reply (RFC 1035 §4).

Only what mail asks for is looked into. Other records, signatures among them, are
stepped over, and a TLSA record is taken as it comes, since what cannot be used
has to be seen to be unusable (RFC 7672 §2.1.1): so these are not left to
dnspython's classes of records, which refuse a whole reply for one such record.
Names stay as they are on the wire, but uncompressed and in lower case, so that
equal names have equal octets; made text they are dnspython's, with its escapes.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable

import dns.edns
import dns.exception
import dns.name
from attrs import frozen

from pymail_tx.core.dns import MX, TLSA, RecordType

HEADER = struct.Struct("!HHHHHH")

INTERNET = 1
"""The class (RFC 1035 §3.2.4)."""

NS, SOA, OPT = 2, 6, 41
"""Types that nobody asks for (RFC 1035 §3.2.2, RFC 6891 §6.1.1)."""

EXTENDED_ERROR = 15
"""The option's number (RFC 8914 §2)."""

_RECORD = struct.Struct("!HHIH")

_POINTER = 0xC0
_PLAIN = re.compile(rb"[a-z0-9_-]*")

MAX_NAME_OCTETS, MAX_LABEL_OCTETS = 255, 63
"""RFC 1035 §2.3.4."""


@frozen
class Name:
    """
    As text it has no trailing dot, and the root is C{""}.

    @ivar wire: uncompressed, in lower case.
    """

    wire: bytes

    def is_in(self, zone: Name) -> bool:
        """Whether it is the zone's name or below it."""
        at = 0
        while len(self.wire) - at > len(zone.wire):
            at += 1 + self.wire[at]
        return self.wire[at:] == zone.wire

    def __str__(self) -> str:
        labels, at = [], 0
        while length := self.wire[at]:
            labels.append(self.wire[at + 1 : at + 1 + length])
            at += 1 + length
        if _PLAIN.fullmatch(b"".join(labels)):
            return b".".join(labels).decode()
        return dns.name.from_wire(self.wire, 0)[0].to_text(omit_final_dot=True)


Value = str | bytes | int | MX | TLSA | Name


class Unreadable(ValueError):
    """These octets are no DNS message; the text says where."""


@frozen
class Record:
    """
    @ivar kind: the type's number.
    @ivar ttl_s: one with the highest bit is none (RFC 2181 §8).
    @ivar value: C{None} of a type that is not looked into; the target of a
        CNAME; the minimum of a SOA.
    """

    name: Name
    kind: int
    ttl_s: int
    value: Value | None


@frozen
class ExtendedError:
    """Why a server failed (RFC 8914); its words are anybody's."""

    code: int
    words: str


@frozen(kw_only=True)
class Reply:
    """
    @ivar flags: the header's.
    @ivar rcode: with the upper half that EDNS has (RFC 6891 §6.1.3).
    """

    flags: int
    rcode: int
    answer: tuple[Record, ...]
    authority: tuple[Record, ...]
    errors: tuple[ExtendedError, ...]


def read(octets: bytes) -> Reply:
    """
    @raise Unreadable: it cannot be read.
    """
    try:
        return _Reader(octets).read()
    except (dns.exception.DNSException, struct.error, IndexError) as problem:
        raise Unreadable(str(problem) or type(problem).__name__) from None


class _Reader:
    """
    One pass over a message.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = HEADER.size
        self._extended_rcode = 0
        self._errors: list[ExtendedError] = []

    def read(self) -> Reply:
        _, flags, questions, answers, authorities, others = HEADER.unpack_from(self._octets)
        for _ in range(questions):
            self._name()
            self._at += 4
        answer, authority, _ = (self._section(count) for count in (answers, authorities, others))
        if self._at != len(self._octets):
            raise Unreadable("the message does not end where its records do")
        return Reply(
            flags=flags,
            rcode=flags & 0x000F | self._extended_rcode << 4,
            answer=answer,
            authority=authority,
            errors=tuple(self._errors),
        )

    def _section(self, count: int) -> tuple[Record, ...]:
        return tuple(record for record in (self._record() for _ in range(count)) if record)

    def _record(self) -> Record | None:
        name = self._name()
        kind, rdclass, ttl_s, length = _RECORD.unpack_from(self._octets, self._at)
        self._at += _RECORD.size
        end = self._at + length
        if end > len(self._octets):
            raise Unreadable("a record is longer than the message")
        record = None
        if kind == OPT:
            self._options(ttl_s, end)
        elif rdclass == INTERNET:
            look_into = _READERS.get(kind)
            value = look_into(self._octets, self._at, end) if look_into else None
            record = Record(name, kind, ttl_s if ttl_s < 1 << 31 else 0, value)
        self._at = end
        return record

    def _name(self) -> Name:
        name, self._at = name_at(self._octets, self._at)
        return name

    def _options(self, ttl_s: int, end: int) -> None:
        """An OPT record (RFC 6891 §6.1.2), of which nothing but the error is of interest."""
        self._extended_rcode = ttl_s >> 24
        at = self._at
        while at < end:
            option, length = struct.unpack_from("!HH", self._octets, at)
            at += 4
            if at + length > end:
                raise Unreadable("an option is longer than its record")
            if option == EXTENDED_ERROR:
                self._errors.append(_error(self._octets[at : at + length]))
            at += length


def _error(octets: bytes) -> ExtendedError:
    (code,) = struct.unpack_from("!H", octets)
    words = octets[2:].decode(errors="replace").rstrip("\0")
    name = dns.edns.EDEOption(code).to_text().removeprefix("EDE ")
    return ExtendedError(code, f"{name}: {words}" if words else name)


def name_at(octets: bytes, at: int) -> tuple[Name, int]:
    """
    A name and where it ends; a pointer has to lead to what stands before it, so
    that there is an end (RFC 1035 §4.1.4).

    @raise Unreadable: there is none.
    @raise IndexError: the octets end first.
    """
    labels: list[bytes] = []
    size, first, end = 0, at, 0
    while length := octets[at]:
        if length >= _POINTER:
            end = end or at + 2
            at = (length - _POINTER) << 8 | octets[at + 1]
            if at >= first:
                raise Unreadable("a name that leads nowhere")
            first = at
            continue
        size += 1 + length
        if length > MAX_LABEL_OCTETS or size >= MAX_NAME_OCTETS:
            raise Unreadable("a name that is too long")
        labels.append(octets[at : at + 1 + length])
        at += 1 + length
    return Name(b"".join(labels).lower() + b"\0"), end or at + 1


def _name_of(octets: bytes, at: int, end: int) -> Name:
    name, its_end = name_at(octets, at)
    if its_end != end:
        raise Unreadable("a name does not end with its record")
    return name


def _ipv4(octets: bytes, at: int, end: int) -> str:
    if end - at != 4:
        raise Unreadable("an IPv4 address has 4 octets")
    return str(ipaddress.IPv4Address(octets[at:end]))


def _ipv6(octets: bytes, at: int, end: int) -> str:
    if end - at != 16:
        raise Unreadable("an IPv6 address has 16 octets")
    return str(ipaddress.IPv6Address(octets[at:end]))


def _mx(octets: bytes, at: int, end: int) -> MX:
    (preference,) = struct.unpack_from("!H", octets, at)
    return MX(preference, str(_name_of(octets, at + 2, end)))


def _tlsa(octets: bytes, at: int, end: int) -> TLSA:
    if end - at < 3:
        raise Unreadable("a TLSA record has at least 3 octets")
    return TLSA(octets[at], octets[at + 1], octets[at + 2], octets[at + 3 : end])


def _txt(octets: bytes, at: int, end: int) -> bytes:
    strings = []
    while at < end:
        length = octets[at]
        strings.append(octets[at + 1 : at + 1 + length])
        at += 1 + length
    if at != end:
        raise Unreadable("a string does not end with its record")
    return b"".join(strings)


def _soa_minimum(octets: bytes, at: int, end: int) -> int:
    for _ in range(2):
        _, at = name_at(octets, at)
    if at + 20 != end:
        raise Unreadable("a SOA record does not end with its numbers")
    return int.from_bytes(octets[end - 4 : end], "big")


_READERS: dict[int, Callable[[bytes, int, int], Value]] = {
    RecordType.A.value: _ipv4,
    RecordType.AAAA.value: _ipv6,
    RecordType.CNAME.value: _name_of,
    RecordType.MX.value: _mx,
    RecordType.TLSA.value: _tlsa,
    RecordType.TXT.value: _txt,
    SOA: _soa_minimum,
}
"""By type: from the octets, where its data begins and ends."""

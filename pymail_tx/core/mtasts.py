"""
MTA-STS (RFC 8461): what a domain says about the TLS of its mail servers, read
and weighed without asking anybody.

A domain announces in DNS that there is a policy, and which (L{announced_id}),
and serves the policy over HTTPS (L{read_policy}). Whoever once had it keeps it
for as long as it says, so that an attacker has to stand in the way at the first
contact, and ever after. That is why nothing that goes wrong later ends a policy
before its time: no record that is missing or broken, and no fetch that fails
(§3.3, §5.1). L{wants_fetch} and L{CachedPolicy.policy_at} say so.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.reply import printable

MAX_POLICY_OCTETS = 65_536
"""RFC 8461 §3.3 suggests it."""

MAX_MX_PATTERNS = 100
"""RFC 8461 has no limit. Large providers have five; with a hundred of the longest names a policy has 26 kB."""

MAX_AGE_S = 31_557_600
"""A year (RFC 8461 §3.2)."""

MAX_NAME_OCTETS = 253
"""A name as it is written, without a trailing dot (RFC 1035 §3.1)."""

REFRESH_AFTER_S = 86_400
"""RFC 8461 §3.3: once a day, or when half the policy's time is over, if that is sooner."""

FETCH_PAUSE_S = 300
"""How long an id whose fetch failed is left in peace (RFC 8461 §3.3)."""

UNUSED_AFTER_S = 30 * 86_400
"""A policy for which there was no mail so long is not refreshed any more, and runs out."""

_BEGINNING = re.compile(rb"v=STSv1[ \t]*;")
_RECORD_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)")
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_POLICY_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(.*)", re.DOTALL)
_MAX_AGE = re.compile(r"[0-9]{1,10}")
_NEEDED = ("version", "mode", "max_age")


class BadPolicy(ValueError):
    """A TXT record or a policy that is none by RFC 8461, and why."""


class Mode(enum.StrEnum):
    """
    What a policy asks for (RFC 8461 §5).

    C{ENFORCE}: no mail to a host that the policy does not list or whose
    certificate does not verify. C{TESTING}: mail goes, failures are reported.
    C{NONE}: as without a policy, the domain is about to do without one.
    """

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@frozen(kw_only=True)
class Policy:
    """
    A policy (RFC 8461 §3.2).

    @ivar mx: the domain's servers: names in A-labels, lower case, or
        C{*.example.org} for all that have one label more.
    @ivar max_age_s: how long it may be kept, in seconds, from its fetch.
    """

    mode: Mode
    mx: tuple[str, ...] = ()
    max_age_s: int

    def matches(self, host: str) -> bool:
        """
        Whether the policy lists a host (RFC 8461 §4.1).

        @param host: as the MX record has it, in A-labels; any case, and a
            trailing dot does not count.
        """
        name = host.lower().removesuffix(".")
        label, _, above = name.partition(".")
        return name in self.mx or (bool(label and above) and f"*.{above}" in self.mx)

    def text(self) -> str:
        """The policy as it is kept: what L{read_policy} reads, without what it ignored."""
        fields = [("version", "STSv1"), ("mode", str(self.mode))]
        fields += [("mx", pattern) for pattern in self.mx]
        fields.append(("max_age", str(self.max_age_s)))
        return "".join(f"{name}: {value}\n" for name, value in fields)


@frozen(kw_only=True)
class CachedPolicy:
    """
    A policy that was fetched. Times are seconds since the epoch.

    @ivar domain: whose it is, in A-labels, lower case.
    @ivar id: what its TXT record had for an id when it was fetched.
    @ivar used_at: when there was mail for the domain, as far as it was noted.
    """

    domain: str
    id: str
    fetched_at: float
    used_at: float
    policy: Policy

    @property
    def expires_at(self) -> float:
        """The last moment at which it applies."""
        return self.fetched_at + self.policy.max_age_s

    @property
    def refresh_at(self) -> float:
        """When to fetch it again, well before it ends (RFC 8461 §3.3, §10.2)."""
        return self.fetched_at + min(REFRESH_AFTER_S, self.policy.max_age_s / 2)

    def policy_at(self, now: float) -> Policy | None:
        """The policy, if it has not expired (RFC 8461 §5.1, step 1)."""
        return self.policy if now <= self.expires_at else None

    def is_due(self, now: float) -> bool:
        """Whether it is to be fetched again. One from the future is: the clock was wrong."""
        return not self.fetched_at <= now < self.refresh_at


@frozen(kw_only=True)
class FailedFetch:
    """
    A fetch that failed.

    @ivar id: what the TXT record had for an id.
    @ivar at: when it failed, in seconds since the epoch.
    @ivar problem: why, in words.
    """

    id: str
    at: float
    problem: str

    def is_recent(self, announced: str, now: float) -> bool:
        """Whether it is too soon for the same once more (RFC 8461 §3.3)."""
        return announced == self.id and 0 <= now - self.at < FETCH_PAUSE_S


def wants_fetch(announced: str | None, cached: CachedPolicy | None, failed: FailedFetch | None, now: float) -> bool:
    """
    Whether to fetch a domain's policy.

    @param announced: the id in its TXT record; C{None} if there is no such
        record or none that is right: without one nothing is fetched (RFC 8461
        §3.1), and what is cached stays as it is (§5.1).
    @param cached: what is known, expired or not.
    @param failed: the last fetch, if it failed.
    @param now: seconds since the epoch.
    """
    if announced is None or (failed and failed.is_recent(announced, now)):
        return False
    return cached is None or cached.id != announced or cached.policy_at(now) is None or cached.is_due(now)


def record_name(domain: str) -> str:
    """Where the TXT record is (RFC 8461 §3.1); C{""} for an address literal or a name too long to have one."""
    name = f"_mta-sts.{domain}"
    return "" if domain.startswith("[") or len(name) > MAX_NAME_OCTETS else name


def policy_host(domain: str) -> str:
    """Who serves the policy (RFC 8461 §3.3)."""
    return f"mta-sts.{domain}"


def announced_id(texts: Iterable[bytes]) -> str | None:
    """
    The id in the TXT records at L{record_name} (RFC 8461 §3.1).

    @param texts: each record with its strings joined.
    @return: C{None} if no record is about MTA-STS.
    @raise BadPolicy: there is more than one, or the one is wrong. Either counts
        as none.
    """
    records = [text for text in texts if _BEGINNING.match(text)]
    if len(records) > 1:
        raise BadPolicy(f"{len(records)} TXT records that begin with v=STSv1")
    return _id(records[0]) if records else None


def read_policy(octets: bytes) -> Policy:
    """
    Read what the policy host served (RFC 8461 §3.2). Fields that are unknown
    are ignored, and all but the first of those that may stand only once. More
    than a year counts as a year: a domain that asks for longer protection gets
    the longest there is.

    @raise BadPolicy: it is no policy.
    """
    if len(octets) > MAX_POLICY_OCTETS:
        raise BadPolicy(f"a policy of more than {MAX_POLICY_OCTETS} octets")
    found: dict[str, str] = {}
    patterns: list[str] = []
    for name, value in _fields(octets.decode(errors="replace")):
        if name == "mx":
            patterns.append(value)
        else:
            found.setdefault(name, value)
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise BadPolicy(f"no {missing[0]} in the policy")
    if found["version"] != "STSv1":
        raise BadPolicy(f"version {_shown(found['version'])} instead of STSv1")
    return Policy(mode=(mode := _mode(found["mode"])), mx=_mx(mode, patterns), max_age_s=_max_age_s(found["max_age"]))


def _id(record: bytes) -> str:
    """Order and unknown fields do not matter, but each must be one."""
    _, *fields = (field.strip(" \t") for field in record.decode("ascii", errors="replace").split(";"))
    if fields[-1] == "":
        fields.pop()
    found: dict[str, str] = {}
    for field in fields:
        matched = _RECORD_FIELD.fullmatch(field)
        if not matched:
            raise BadPolicy(f"{_shown(field)} in the TXT record is no field")
        found.setdefault(matched[1], matched[2])
    if not _ID.fullmatch(found.get("id", "")):
        raise BadPolicy("no id of 1 to 32 letters and digits in the TXT record")
    return found["id"]


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        stripped = line.rstrip(" \t")
        matched = _POLICY_FIELD.fullmatch(stripped)
        if matched:
            yield matched[1], matched[2]
        elif stripped:
            raise BadPolicy(f"line {number} of the policy is no field: {_shown(stripped)}")


def _mode(value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise BadPolicy(f"mode {_shown(value)} is none of enforce, testing and none") from None


def _mx(mode: Mode, patterns: list[str]) -> tuple[str, ...]:
    if len(patterns) > MAX_MX_PATTERNS:
        raise BadPolicy(f"more than {MAX_MX_PATTERNS} mx in the policy")
    if not patterns and mode is not Mode.NONE:
        raise BadPolicy("no mx in the policy")
    return tuple(_pattern(pattern) for pattern in patterns)


def _pattern(pattern: str) -> str:
    """C{["*."] Domain}, the domain in A-labels."""
    name = pattern.removeprefix("*.")
    try:
        if not name.isascii() or name.startswith("["):
            raise BadPolicy(f"mx {_shown(pattern)} is no name")
        ascii_domain("mx", name)
    except BadArgument:
        raise BadPolicy(f"mx {_shown(pattern)} is no name") from None
    return pattern.lower()


def _max_age_s(value: str) -> int:
    if not _MAX_AGE.fullmatch(value):
        raise BadPolicy(f"max_age {_shown(value)} is no number of seconds")
    return min(int(value), MAX_AGE_S)


def _shown(text: str) -> str:
    """Somebody else's words, short and harmless."""
    return repr(printable(text[:60]))

"""
How much TLS a host must offer before it gets a message, and who says so.

Four may ask: the operator (a route's C{?tls=}), the domain by DANE (RFC 7672),
the domain by MTA-STS (RFC 8461), and the message (REQUIRETLS and C{TLS-Required:
No}, RFC 8689). L{decide} weighs them for one host; docs/explanation/tls-policy.md
says it in prose:

  1. REQUIRETLS asks for a server that is authenticated, by DANE or by PKIX, and
     whose name is, by DNSSEC or MTA-STS (RFC 8689 §4.2.1). A route may ask for
     one kind of it, or make it impossible, but not for less.
  2. Else a route's word stands, whatever domain and message say.
  3. Else C{TLS-Required: No} makes TLS a try (RFC 8689 §4.2.2).
  4. Else DANE, and C{MTA-STS} cannot soften what it says (RFC 8461 §2).
  5. Else an enforced policy of MTA-STS.
  6. Else records of DANE that nobody can use: TLS with any certificate
     (RFC 7672 §2.2).
  7. Else TLS is a try.

A host that cannot be used by this is skipped, with the words why; the mail goes
to the next, or waits, and never goes over less.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import evolve, frozen

from pymail_tx.core import dane
from pymail_tx.core.dns import TLSA, Answer, RecordType, Verdict
from pymail_tx.core.outcome import Status
from pymail_tx.core.routes import TLSPolicy

POLICY_UNMET = "4.7.5"
"""Another day the host may do what its domain says (RFC 3463 §3.8)."""

REQUIRETLS_UNMET = "5.7.30"
"""RFC 8689 §4.2.1."""

_ADDRESSES = frozenset({RecordType.A, RecordType.AAAA})


class TLSLevel(enum.Enum):
    """
    What a session must have, least first.

    C{NONE}: plain text, STARTTLS is not said. C{OPPORTUNISTIC}: TLS with any
    certificate, plain text where that breaks. C{ENCRYPTED}: TLS with any
    certificate. C{VERIFIED}: TLS, a chain to a trusted authority, and one of
    the reference names. C{DANE}: TLS, and a certificate that a TLSA record
    matches.
    """

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    ENCRYPTED = "encrypted"
    VERIFIED = "verified"
    DANE = "dane"


class PolicySource(enum.Enum):
    """Who asked for it; the values are for people and for programs that read outcomes."""

    DEFAULT = "default"
    ROUTE = "route"
    DANE = "DANE"
    MTA_STS = "MTA-STS"
    REQUIRETLS = "REQUIRETLS"
    TLS_OPTIONAL = "TLS-Required: No"


@frozen(kw_only=True)
class TLSDecision:
    """
    What was decided for one host.

    @ivar host: its name as routing knows it, not CNAME-expanded.
    @ivar level: what a session with it must have.
    @ivar source: who asked for it.
    @ivar names: the reference names, one of which the certificate must be for,
        where names count.
    @ivar records: for C{DANE}, the TLSA records, all usable.
    @ivar reason: the decision in words, with the policy or the record.
    @ivar skip: the host is not to be connected to; C{reason} says why.
    @ivar unmet: the enhanced status code (RFC 3463) for a host that is skipped
        or does not reach the level; see L{status}.
    """

    host: str
    level: TLSLevel
    source: PolicySource
    names: tuple[str, ...] = ()
    records: tuple[TLSA, ...] = ()
    reason: str
    skip: bool = False
    unmet: str = POLICY_UNMET

    @property
    def demand(self) -> tuple[str, TLSLevel, tuple[str, ...], tuple[TLSA, ...]]:
        """What a session is held to. Decisions in which this is equal may share one, whoever asked for it and why."""
        return self.host, self.level, self.names, self.records

    @property
    def status(self) -> Status:
        """What becomes of a message for which no host reached its level."""
        return Status.DEFERRED if self.unmet.startswith("4") else Status.FAILED


class DANEState(enum.Enum):
    """
    What DNS says of a host's TLSA records.

    C{NONE}: proved that there are none. C{INSECURE}: DNSSEC does not cover the
    way to them, so that what is there does not count. C{USABLE}: at least one can
    be held against a certificate. C{UNUSABLE}: there are some, none such.
    C{BROKEN}: it could not be found out, or the signatures are wrong.
    """

    NONE = "none"
    INSECURE = "insecure"
    USABLE = "usable"
    UNUSABLE = "unusable"
    BROKEN = "broken"


@frozen(kw_only=True)
class HostFound:
    """
    A host, and what DNS says of it that matters to TLS. L{host_found} makes one
    of answers.

    @ivar name: as the MX record, or the configuration, has it.
    @ivar domain: the next-hop domain whose MX question led here; C{name} where
        none was asked.
    @ivar name_authenticated: the name comes from configuration or from an
        answer that DNSSEC proves, and so is the right one.
    @ivar dane: what is known of its TLSA records.
    @ivar records: for C{USABLE}, those usable.
    @ivar dane_names: the reference names for usage 2 (RFC 7672 §3.2.2), the
        TLSA base domain first.
    @ivar words: about C{dane}, for people: which record, and what is wrong.
    """

    name: str
    domain: str
    name_authenticated: bool = False
    dane: DANEState = DANEState.INSECURE
    records: tuple[TLSA, ...] = ()
    dane_names: tuple[str, ...] = ()
    words: str = ""


class STSPolicy(Protocol):
    """What is read of a policy of MTA-STS (RFC 8461 §3.2)."""

    @property
    def mode(self) -> str:
        """C{"enforce"}, C{"testing"} or C{"none"}."""

    def matches(self, host: str) -> bool:
        """Whether the policy lists C{host}, in A-labels, as a server of the domain's (RFC 8461 §4.1)."""


@frozen
class STSFound:
    """
    What MTA-STS says of a domain.

    @ivar policy: the one in force, fetched or cached (RFC 8461 §5.1).
    @ivar problem: there is one, or may be, that could not be had; in words.
    """

    policy: STSPolicy | None = None
    problem: str = ""

    def lists(self, host: str, *modes: str) -> bool | None:
        """Whether a policy in one of C{modes} lists C{host}; C{None} without such a policy."""
        if self.policy is None or self.policy.mode not in modes:
            return None
        return self.policy.matches(host)


@frozen(kw_only=True)
class Wishes:
    """
    What the operator and the message ask for.

    @ivar route: the route's C{?tls=}; C{None} if it leaves it to the domain.
    @ivar requiretls: the message must not go unprotected. Not to be set for one
        with the null reverse-path, which only tries (RFC 8689 §5).
    @ivar tls_optional: the message has a header field C{TLS-Required: No}.
    """

    route: TLSPolicy | None = None
    requiretls: bool = False
    tls_optional: bool = False

    @property
    def need_dane(self) -> bool:
        """Whether TLSA records can change what L{decide} says, so that it is worth asking for them."""
        if self.requiretls:
            return self.route not in (TLSPolicy.NONE, TLSPolicy.VERIFIED)
        return self.route is TLSPolicy.DANE or (self.route is None and not self.tls_optional)

    @property
    def need_mta_sts(self) -> bool:
        """Whether a policy of MTA-STS can."""
        if self.requiretls:
            return self.route not in (TLSPolicy.NONE, TLSPolicy.DANE)
        return self.route is None and not self.tls_optional


@frozen
class Question:
    """One question to DNS."""

    name: str
    kind: RecordType


def next_question(host: str, port: int, mx: Answer | None, answers: Sequence[Answer]) -> Question | None:
    """
    What to ask next on the way to a host's TLSA records (RFC 7672 §2.2.2-2.2.3).

    @param mx: the answer to the MX question, or C{None} where the host's name is
        from configuration.
    @param answers: so far: those to the host's A and AAAA questions, and to each
        question that this function named before.
    @return: C{None} when nothing is left to ask; then see L{host_found}.
    """
    if mx and not mx.authenticated:
        return None
    if _is_unproved_alias(host, answers) and not _of_kind(answers, RecordType.CNAME):
        return Question(host, RecordType.CNAME)
    asked = _of_kind(answers, RecordType.TLSA)
    if asked and (_is_proved(asked[-1]) or _is_broken(asked[-1])):
        return None
    left = _bases(host, answers)[len(asked) :]
    return Question(f"_{port}._tcp.{left[0]}", RecordType.TLSA) if left else None


def host_found(host: str, domain: str, mx: Answer | None, answers: Sequence[Answer]) -> HostFound:
    """
    What DNS says of one host; for C{mx} and C{answers} see L{next_question}.

    @param domain: the next-hop domain; C{host} where no MX question was asked.
    """
    found = HostFound(name=host, domain=domain, name_authenticated=mx is None or mx.authenticated)
    if not found.name_authenticated:
        return evolve(found, words=f"the MX records of {domain} are not authenticated by DNSSEC")
    way = [*_of_kind(answers, RecordType.CNAME), *_of_kind(answers, RecordType.TLSA)]
    broken = next((answer for answer in way if _is_broken(answer)), None)
    if broken:
        words = f"look-up of {broken.kind.name} {broken.name}: {broken.verdict.value}, {broken.reason}"
        return evolve(found, dane=DANEState.BROKEN, words=words)
    if not _bases(host, answers):
        return evolve(found, words=f"the addresses of {host} are not authenticated by DNSSEC")
    if not _of_kind(answers, RecordType.TLSA):
        return evolve(found, words="nobody asked for TLSA records")
    return _with_records(found, mx, _of_kind(answers, RecordType.TLSA))


def _with_records(found: HostFound, mx: Answer | None, asked: list[Answer]) -> HostFound:
    proved = next((answer for answer in asked if _is_proved(answer)), None)
    if proved is None:
        words = f"no TLSA records at {' or '.join(answer.name for answer in asked)}"
        if all(answer.authenticated for answer in asked):
            return evolve(found, dane=DANEState.NONE, words=words)
        return evolve(found, words=f"{words} that DNSSEC authenticates")
    records = dane.usable(proved.tlsa)
    if not records:
        words = f"no usable TLSA record at {proved.name}, only {dane.shown(sorted(proved.tlsa, key=str))}"
        return evolve(found, dane=DANEState.UNUSABLE, words=words)
    base = proved.name.split(".", 2)[2]
    names = dict.fromkeys((base, found.domain, mx.canonical_name if mx else found.domain))
    words = f"TLSA records at {proved.name}"
    return evolve(found, dane=DANEState.USABLE, records=records, dane_names=tuple(names), words=words)


def _bases(host: str, answers: Sequence[Answer]) -> tuple[str, ...]:
    """The TLSA base domains to try: the end of a chain of aliases if all of it is proved, and the host itself."""
    with_data = [answer for answer in answers if answer.kind in _ADDRESSES and answer.verdict is Verdict.DATA]
    if with_data and all(answer.authenticated for answer in with_data):
        return tuple(dict.fromkeys((with_data[0].canonical_name, host)))
    return (host,) if any(map(_is_proved, _of_kind(answers, RecordType.CNAME))) else ()


def _is_unproved_alias(host: str, answers: Sequence[Answer]) -> bool:
    return not _bases(host, answers) and any(
        answer.canonical_name != host for answer in answers if answer.kind in _ADDRESSES
    )


def _of_kind(answers: Sequence[Answer], kind: RecordType) -> list[Answer]:
    return [answer for answer in answers if answer.kind is kind]


def _is_proved(answer: Answer) -> bool:
    return answer.verdict is Verdict.DATA and answer.authenticated


def _is_broken(answer: Answer) -> bool:
    return answer.verdict in (Verdict.FAILED, Verdict.BOGUS)


def decide(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision:
    """The rules at the head of this module, for one host: the first that has a word to say."""
    return next(decision for rule in _RULES if (decision := rule(host, sts, wishes)))


def _by_requiretls(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    if not wishes.requiretls:
        return None
    say = _Saying(host.name, PolicySource.REQUIRETLS, unmet=REQUIRETLS_UNMET)
    if wishes.route is TLSPolicy.NONE:
        return say.skip("the message requires TLS and the route forbids it")
    if wishes.route is not TLSPolicy.VERIFIED:
        if host.dane is DANEState.USABLE:
            return say.dane(host)
        if host.dane is DANEState.BROKEN:
            return say.skip(host.words, unmet=POLICY_UNMET)
        if wishes.route is TLSPolicy.DANE:
            return say.skip(f"the route requires DANE: {host.words}")
    return _requiretls_by_name(say, host, sts)


def _requiretls_by_name(say: _Saying, host: HostFound, sts: STSFound) -> TLSDecision:
    """PKIX proves that the server has the name; that the name is the right one takes DNSSEC or MTA-STS."""
    if sts.lists(host.name, "enforce") is False:
        return say.skip(f"the MTA-STS policy of {host.domain} is enforced and does not list the host")
    if host.name_authenticated or sts.lists(host.name, "enforce", "testing"):
        return say.verified("a certificate that verifies", host.name)
    if sts.problem:
        return say.skip(f"neither DNSSEC nor MTA-STS vouches for the name: {sts.problem}", unmet=POLICY_UNMET)
    return say.skip("neither DNSSEC nor MTA-STS vouches for the name")


_LEVELS_BY_ROUTE = {
    TLSPolicy.NONE: TLSLevel.NONE,
    TLSPolicy.OPPORTUNISTIC: TLSLevel.OPPORTUNISTIC,
    TLSPolicy.REQUIRED: TLSLevel.ENCRYPTED,
}


def _by_route(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    say = _Saying(host.name, PolicySource.ROUTE)
    match wishes.route:
        case None:
            return None
        case TLSPolicy.VERIFIED:
            return say.verified("tls=verified", host.name, host.domain)
        case TLSPolicy.DANE if host.dane is DANEState.USABLE:
            return say.dane(host)
        case TLSPolicy.DANE:
            return say.skip(f"tls=dane: {host.words}")
    return say.level(_LEVELS_BY_ROUTE[wishes.route], f"tls={wishes.route.value}")


def _by_tls_optional(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    if not wishes.tls_optional:
        return None
    say = _Saying(host.name, PolicySource.TLS_OPTIONAL)
    return say.level(TLSLevel.OPPORTUNISTIC, "the message puts its delivery before its protection")


def _by_dane(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    say = _Saying(host.name, PolicySource.DANE)
    match host.dane:
        case DANEState.USABLE:
            return say.dane(host)
        case DANEState.BROKEN:
            return say.skip(host.words)
    return None


def _by_mta_sts(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    say = _Saying(host.name, PolicySource.MTA_STS)
    match sts.lists(host.name, "enforce"):
        case True:
            return say.verified(f"the policy of {host.domain} is enforced and lists the host", host.name)
        case False:
            return say.skip(f"the policy of {host.domain} is enforced and does not list the host")
    return None


def _by_unusable_records(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision | None:
    if host.dane is not DANEState.UNUSABLE:
        return None
    return _Saying(host.name, PolicySource.DANE).level(TLSLevel.ENCRYPTED, host.words)


def _by_default(host: HostFound, sts: STSFound, wishes: Wishes) -> TLSDecision:
    match sts.lists(host.name, "testing"):
        case None:
            words = f"nothing asks for more: {'; '.join(filter(None, (host.words, sts.problem)))}".removesuffix(": ")
            return _Saying(host.name, PolicySource.DEFAULT).level(TLSLevel.OPPORTUNISTIC, words)
        case listed:
            words = f"the policy of {host.domain} is being tested and {'lists' if listed else 'does not list'} the host"
            return _Saying(host.name, PolicySource.MTA_STS).level(TLSLevel.OPPORTUNISTIC, words)


_Rule = Callable[[HostFound, STSFound, Wishes], TLSDecision | None]

_RULES: tuple[_Rule, ...] = (
    _by_requiretls,
    _by_route,
    _by_tls_optional,
    _by_dane,
    _by_mta_sts,
    _by_unusable_records,
    _by_default,
)


@frozen
class _Saying:
    """The decisions that one who asks can come to."""

    host: str
    source: PolicySource
    unmet: str = POLICY_UNMET

    def level(self, level: TLSLevel, words: str) -> TLSDecision:
        """With the host's name alone, for a certificate that is looked at and need not be right."""
        return self._say(level, words, names=(self.host,))

    def verified(self, words: str, *names: str) -> TLSDecision:
        return self._say(TLSLevel.VERIFIED, words, names=tuple(dict.fromkeys(names)))

    def dane(self, host: HostFound) -> TLSDecision:
        """With one name, for the server to know whom we mean, where names do not count (RFC 7672 §3.1.1, 8.1)."""
        names_count = any(record.usage == dane.DANE_TA for record in host.records)
        names = host.dane_names if names_count else host.dane_names[:1]
        return self._say(TLSLevel.DANE, host.words, names=names, records=host.records)

    def skip(self, words: str, *, unmet: str | None = None) -> TLSDecision:
        decision = self._say(TLSLevel.ENCRYPTED, words, names=(self.host,))
        return evolve(decision, skip=True, unmet=unmet or self.unmet)

    def _say(
        self, level: TLSLevel, words: str, *, names: tuple[str, ...], records: tuple[TLSA, ...] = ()
    ) -> TLSDecision:
        return TLSDecision(
            host=self.host, level=level, source=self.source, names=names, records=records,
            reason=f"{self.source.value}: {words}", unmet=self.unmet,
        )  # fmt: skip

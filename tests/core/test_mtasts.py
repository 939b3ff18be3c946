"""
MTA-STS without a network: what is a record, what is a policy, and which applies.
"""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.mtasts import (
    FETCH_PAUSE_S,
    MAX_AGE_S,
    MAX_MX_PATTERNS,
    MAX_POLICY_OCTETS,
    REFRESH_AFTER_S,
    BadPolicy,
    CachedPolicy,
    FailedFetch,
    Mode,
    Policy,
    announced_id,
    policy_host,
    read_policy,
    record_name,
    wants_fetch,
)

NOW = 1_800_000_000.0
WEEK_S = 604_800

ENFORCE = Policy(mode=Mode.ENFORCE, mx=("mail.example.org", "*.example.net"), max_age_s=WEEK_S)
CACHED = CachedPolicy(domain="example.org", id="1", fetched_at=NOW, used_at=NOW, policy=ENFORCE)

LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(str.__add__, st.sampled_from(("", "*.")), NAMES)
POLICIES = st.builds(
    Policy,
    mode=st.sampled_from(Mode),
    mx=st.lists(PATTERNS, min_size=1, max_size=5).map(tuple),
    max_age_s=st.integers(0, MAX_AGE_S),
)
LINE_ENDS = st.sampled_from(("\n", "\r\n"))


def body(*lines: str, end: str = "\r\n") -> bytes:
    """A policy of these lines."""
    return "".join(line + end for line in lines).encode()


def policy_with(*lines: str) -> Policy:
    """Read a policy that is complete without these lines."""
    return read_policy(body("version: STSv1", *lines, "mode: enforce", "mx: mail.example.org", "max_age: 604800"))


class Records(SynchronousTestCase):
    """RFC 8461 §3.1."""

    ANNOUNCED: tuple[tuple[bytes, str], ...] = (
        (b"v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        (b"v=STSv1; id=20160831085700Z", "20160831085700Z"),
        (b"v=STSv1;id=a", "a"),
        (b"v=STSv1 \t; \tid=a \t; \t", "a"),
        (b"v=STSv1; id=" + b"Zz09" * 8, "Zz09" * 8),
        (b"v=STSv1; more=thing; id=a; x.y-z_1=!:<>~;", "a"),
        (b"v=STSv1; id=first; id=second;", "first"),
    )

    def test_a_record_announces_an_id_wherever_that_stands(self) -> None:
        for text, announced in self.ANNOUNCED:
            self.assertEqual(announced_id([text]), announced, text)

    NONE_AT_ALL = (
        b"",
        b"v=STSv1",
        b"v=STSv10; id=a",
        b"v=STSv2; id=a",
        b"V=STSv1; id=a",
        b"v=stsv1; id=a",
        b"v = STSv1; id=a",
        b" v=STSv1; id=a",
        b"id=a; v=STSv1",
        b"v=spf1 -all",
        b"v=TLSRPTv1; rua=mailto:a@example.org",
    )

    def test_a_record_that_does_not_begin_with_the_version_is_another_s(self) -> None:
        for text in self.NONE_AT_ALL:
            self.assertIsNone(announced_id([text]), text)
            self.assertEqual(announced_id([text, b"v=STSv1; id=a"]), "a", text)

    WRONG = (
        (b"v=STSv1;", "no id"),
        (b"v=STSv1; ", "no id"),
        (b"v=STSv1; more=thing", "no id"),
        (b"v=STSv1; id=" + b"a" * 33, "no id of 1 to 32"),
        (b"v=STSv1; id=a-b", "no id of 1 to 32"),
        (b"v=STSv1; ID=a", "no id"),
        (b"v=STSv1; id=", "'id=' in the TXT record is no field"),
        (b"v=STSv1; id = a", "is no field"),
        (b"v=STSv1; id=a b", "is no field"),
        (b"v=STSv1; id=a;;", "'' in the TXT record is no field"),
        (b"v=STSv1; id=a; x", "'x' in the TXT record is no field"),
        (b"v=STSv1; id=a; x=a=b", "is no field"),
        (b"v=STSv1; id=\xc3\xa9", "is no field"),
        (b"v=STSv1; id=a; x=\x1b[31m", "is no field"),
        (b"v=STSv1; id=a; " + b"n" * 33 + b"=1", "is no field"),
    )

    def test_a_record_that_is_wrong_says_why(self) -> None:
        for text, why in self.WRONG:
            with self.assertRaisesRegex(BadPolicy, why, msg=text) as caught:
                announced_id([text])
            self.assertTrue(str(caught.exception).isprintable(), text)

    def test_no_record_announces_nothing(self) -> None:
        self.assertIsNone(announced_id([]))

    def test_two_records_count_as_wrong(self) -> None:
        for second in (b"v=STSv1; id=a", b"v=STSv1; id=b", b"v=STSv1; broken"):
            with self.assertRaisesRegex(BadPolicy, "2 TXT records that begin with v=STSv1"):
                announced_id([b"v=STSv1; id=a", second])

    @given(st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(b"v=STSv1;".__add__), max_size=3))
    def test_whatever_the_records_are_there_is_an_id_or_none_or_the_one_error(self, texts: list[bytes]) -> None:
        try:
            announced = announced_id(texts)
        except BadPolicy:
            return
        self.assertTrue(announced is None or (announced.isalnum() and announced.isascii() and len(announced) <= 32))

    def test_a_subdomain_s_record_is_its_own(self) -> None:
        self.assertEqual(record_name("mail.example.org"), "_mta-sts.mail.example.org")
        self.assertEqual(policy_host("mail.example.org"), "mta-sts.mail.example.org")

    def test_an_address_literal_has_no_record(self) -> None:
        self.assertEqual(record_name("[192.0.2.1]"), "")

    def test_a_name_of_253_octets_is_asked_for_and_a_longer_one_is_not(self) -> None:
        longest = ".".join(["a" * 61] * 4)[: 253 - len("_mta-sts.")]
        self.assertEqual(len(record_name(longest)), 253)
        self.assertEqual(record_name(longest + "a"), "")


class Policies(SynchronousTestCase):
    """RFC 8461 §3.2."""

    EXAMPLE = ("version: STSv1", "mode: enforce", "mx: mail.example.org", "mx: *.example.net", "max_age: 604800")

    def test_a_policy_is_read_with_any_line_end(self) -> None:
        for end in ("\n", "\r\n"):
            for octets in (body(*self.EXAMPLE, end=end), body(*self.EXAMPLE, end=end).rstrip()):
                self.assertEqual(read_policy(octets), ENFORCE, octets)

    def test_the_order_of_the_fields_does_not_matter_but_that_of_the_servers_is_kept(self) -> None:
        self.assertEqual(read_policy(body(*self.EXAMPLE[2:], *self.EXAMPLE[:2])), ENFORCE)

    def test_blanks_behind_colon_and_value_and_empty_lines_do_not_count(self) -> None:
        lines = ["", *(line.replace(": ", ":") + " \t" for line in self.EXAMPLE), "  ", ""]
        self.assertEqual(read_policy(body(*lines)), ENFORCE)
        self.assertEqual(read_policy(body(*(line.replace(": ", ": \t ") for line in self.EXAMPLE))), ENFORCE)

    def test_unknown_fields_are_ignored(self) -> None:
        for line in ("more: things", "x.y-z_1: grüße", "report-to: mailto:a@example.org", "Mode: none", "empty:"):
            self.assertEqual(policy_with(line), policy_with(), line)

    def test_of_a_field_that_stands_twice_the_first_counts(self) -> None:
        policy = read_policy(body(*self.EXAMPLE, "mode: none", "max_age: 1", "version: STSv2"))
        self.assertEqual(policy, ENFORCE)

    def test_every_mode_is_known(self) -> None:
        for mode in ("enforce", "testing", "none"):
            policy = read_policy(body("version: STSv1", f"mode: {mode}", "mx: mail.example.org", "max_age: 60"))
            self.assertEqual(policy.mode, mode)

    def test_without_a_mode_that_needs_servers_there_need_be_none(self) -> None:
        policy = read_policy(body("version: STSv1", "mode: none", "max_age: 60"))
        self.assertEqual(policy, Policy(mode=Mode.NONE, max_age_s=60))

    WRONG: tuple[tuple[tuple[str, ...], str], ...] = (
        ((), "no version"),
        (("<html>",), "line 1 of the policy is no field: '<html>'"),
        (("version: STSv1", "\x1b[31m"), "line 2 of the policy is no field"),
        (("\ufeffversion: STSv1",), "line 1 of the policy is no field"),
        ((" version: STSv1",), "line 1 of the policy is no field"),
        (("version : STSv1",), "line 1 of the policy is no field"),
        (("n" * 33 + ": 1",), "line 1 of the policy is no field"),
        (("mode: enforce", "mx: a.example", "max_age: 1"), "no version"),
        (("Version: STSv1", "mode: enforce", "mx: a.example", "max_age: 1"), "no version"),
        (("version: STSv2", "mode: enforce", "mx: a.example", "max_age: 1"), "version 'STSv2' instead of STSv1"),
        (("version: stsv1", "mode: enforce", "mx: a.example", "max_age: 1"), "instead of STSv1"),
        (("version: STSv1", "mx: a.example", "max_age: 1"), "no mode"),
        (("version: STSv1", "mode: Enforce", "mx: a.example", "max_age: 1"), "mode 'Enforce' is none of"),
        (("version: STSv1", "mode: report", "mx: a.example", "max_age: 1"), "mode 'report' is none of"),
        (("version: STSv1", "mode:", "mx: a.example", "max_age: 1"), "mode '' is none of"),
        (("version: STSv1", "mode: enforce", "max_age: 1"), "no mx in the policy"),
        (("version: STSv1", "mode: testing", "max_age: 1"), "no mx in the policy"),
        (("version: STSv1", "mode: enforce", "mx: a.example"), "no max_age"),
    )

    def test_what_is_no_policy_says_why(self) -> None:
        for lines, why in self.WRONG:
            with self.assertRaisesRegex(BadPolicy, why, msg=lines) as caught:
                read_policy(body(*lines))
            self.assertTrue(str(caught.exception).isprintable(), lines)

    def test_lone_carriage_returns_end_no_line(self) -> None:
        with self.assertRaises(BadPolicy):
            read_policy(body(*self.EXAMPLE, end="\r"))

    def test_an_age_up_to_a_year_is_kept_and_a_longer_one_counts_as_a_year(self) -> None:
        for stated, age_s in (
            ("0", 0),
            ("0000000001", 1),
            ("31557600", MAX_AGE_S),
            ("31557601", MAX_AGE_S),
            ("9999999999", MAX_AGE_S),
        ):
            policy = read_policy(body("version: STSv1", "mode: none", f"max_age: {stated}"))
            self.assertEqual(policy.max_age_s, age_s, stated)

    def test_what_is_no_number_of_seconds_is_refused(self) -> None:
        for stated in ("", "-1", "+1", "1.5", "1e3", "0x10", "1_000", "12345678901", "٣", "1 2", "1\r"):
            with self.assertRaisesRegex(BadPolicy, "is no number of seconds", msg=stated):
                read_policy(body("version: STSv1", "mode: none", f"max_age: {stated}"))

    def test_servers_are_names_or_a_star_before_one(self) -> None:
        policy = policy_with("mx: *.Example.ORG", "mx: _a-b.xn--caf-dma.example", "mx: localhost")
        self.assertEqual(policy.mx, ("*.example.org", "_a-b.xn--caf-dma.example", "localhost", "mail.example.org"))

    def test_servers_that_are_no_names_are_refused(self) -> None:
        for pattern in (
            "", "*", "*.", ".", ".example.org", "*.*.example.org", "*example.org", "mx*.example.org", "a..b",
            "mail.example.org.", "café.example", "[192.0.2.1]", "a b", "a,b", "a" * 64 + ".example", "a." * 128 + "b",
            "a\x7f.example",
        ):  # fmt: skip
            with self.assertRaisesRegex(BadPolicy, "is no name", msg=pattern):
                policy_with(f"mx: {pattern}")

    def test_100_servers_are_read_and_101_are_refused(self) -> None:
        lines = [f"mx: mx{number}.example.org" for number in range(MAX_MX_PATTERNS - 1)]
        self.assertEqual(len(policy_with(*lines).mx), MAX_MX_PATTERNS)
        with self.assertRaisesRegex(BadPolicy, "more than 100 mx"):
            policy_with(*lines, "mx: one.example.org")

    def test_65536_octets_are_read_and_65537_are_refused(self) -> None:
        octets = body(*self.EXAMPLE) + b"x: "
        whole = octets.ljust(MAX_POLICY_OCTETS, b"x")
        self.assertEqual(read_policy(whole), ENFORCE)
        with self.assertRaisesRegex(BadPolicy, "more than 65536 octets"):
            read_policy(whole + b"x")

    @given(st.binary(max_size=200) | st.binary(max_size=60).map(body(*EXAMPLE).__add__))
    def test_whatever_the_octets_are_there_is_a_policy_or_the_one_error(self, octets: bytes) -> None:
        try:
            policy = read_policy(octets)
        except BadPolicy as wrong:
            self.assertTrue(str(wrong).isprintable())
        else:
            self.assertEqual(read_policy(policy.text().encode()), policy)

    @given(st.lists(st.sampled_from((*EXAMPLE, "mode: x", "mx: \0", "max_age: ٣", "\r", "x: \udc80", ":"))), LINE_ENDS)
    def test_fields_in_any_order_are_a_policy_or_the_one_error(self, lines: list[str], end: str) -> None:
        try:
            read_policy("".join(line + end for line in lines).encode(errors="surrogatepass"))
        except BadPolicy as wrong:
            self.assertTrue(str(wrong).isprintable())

    @given(POLICIES, LINE_ENDS)
    def test_a_policy_s_text_is_read_as_that_policy(self, policy: Policy, end: str) -> None:
        self.assertEqual(read_policy(policy.text().replace("\n", end).encode()), policy)


class Matching(SynchronousTestCase):
    """RFC 8461 §4.1."""

    HOSTS = (
        ("mail.example.org", True),
        ("MAIL.Example.Org", True),
        ("mail.example.org.", True),
        ("mx.mail.example.org", False),
        ("example.org", False),
        ("a.example.net", True),
        ("A.EXAMPLE.NET.", True),
        ("example.net", False),
        (".example.net", False),
        ("a.b.example.net", False),
        ("*.example.net", True),
        ("aexample.net", False),
        ("mail.example.org.example", False),
        ("", False),
        (".", False),
    )

    def test_a_star_stands_for_exactly_one_label(self) -> None:
        for host, listed in self.HOSTS:
            self.assertIs(ENFORCE.matches(host), listed, host)

    @given(NAMES, LABELS)
    def test_below_any_name_a_star_takes_one_label_and_no_more(self, name: str, label: str) -> None:
        policy = Policy(mode=Mode.ENFORCE, mx=(f"*.{name}",), max_age_s=0)
        self.assertTrue(policy.matches(f"{label}.{name}"))
        self.assertFalse(policy.matches(name) and name != f"{label}.{name}")
        self.assertFalse(policy.matches(f"{label}.{label}.{name}.") and not name.startswith(f"{label}."))


class Applying(SynchronousTestCase):
    """RFC 8461 §3.3, §5.1 and §10.2."""

    def test_a_policy_applies_until_its_age_exceeds_what_it_says(self) -> None:
        self.assertEqual(CACHED.policy_at(NOW + WEEK_S), ENFORCE)
        self.assertIsNone(CACHED.policy_at(NOW + WEEK_S + 1))

    def test_a_policy_of_no_age_applies_at_its_moment(self) -> None:
        cached = evolve(CACHED, policy=evolve(ENFORCE, max_age_s=0))
        self.assertIsNotNone(cached.policy_at(NOW))
        self.assertIsNone(cached.policy_at(NOW + 1))

    def test_a_policy_is_due_after_a_day(self) -> None:
        self.assertFalse(CACHED.is_due(NOW + REFRESH_AFTER_S - 1))
        self.assertTrue(CACHED.is_due(NOW + REFRESH_AFTER_S))

    def test_a_short_policy_is_due_when_half_its_time_is_over(self) -> None:
        cached = evolve(CACHED, policy=evolve(ENFORCE, max_age_s=1_000))
        self.assertFalse(cached.is_due(NOW + 499))
        self.assertTrue(cached.is_due(NOW + 500))

    def test_a_policy_from_the_future_is_due_and_applies(self) -> None:
        self.assertTrue(CACHED.is_due(NOW - 1))
        self.assertEqual(CACHED.policy_at(NOW - 1), ENFORCE)

    FAILED = FailedFetch(id="1", at=NOW + WEEK_S, problem="status 500")
    SOON, LATER = NOW + WEEK_S + FETCH_PAUSE_S - 1, NOW + WEEK_S + FETCH_PAUSE_S
    FETCHES: tuple[tuple[str, str | None, CachedPolicy | None, FailedFetch | None, float, bool], ...] = (
        ("nothing announced, nothing cached", None, None, None, NOW, False),
        ("nothing announced, a policy cached", None, CACHED, None, NOW, False),
        ("nothing announced, the policy due", None, CACHED, None, NOW + REFRESH_AFTER_S, False),
        ("nothing announced, the policy expired", None, CACHED, None, NOW + WEEK_S + 1, False),
        ("announced, nothing cached", "1", None, None, NOW, True),
        ("the id unchanged", "1", CACHED, None, NOW, False),
        ("the id changed", "2", CACHED, None, NOW, True),
        ("the id unchanged, the policy due", "1", CACHED, None, NOW + REFRESH_AFTER_S, True),
        ("the id unchanged, the policy expired", "1", CACHED, None, NOW + WEEK_S + 1, True),
        ("failed a short while ago, nothing cached", "1", None, FAILED, SOON, False),
        ("failed a short while ago, expired", "1", CACHED, FAILED, SOON, False),
        ("failed five minutes ago, nothing cached", "1", None, FAILED, LATER, True),
        ("failed five minutes ago, expired", "1", CACHED, FAILED, LATER, True),
        ("failed a short while ago with another id", "2", None, FAILED, SOON, True),
        ("failed in the future: the clock was wrong", "1", None, FAILED, NOW, True),
    )

    def test_a_policy_is_fetched_as_the_table_says(self) -> None:
        for circumstances, announced, cached, failed, now, fetched in self.FETCHES:
            self.assertIs(wants_fetch(announced, cached, failed, now), fetched, circumstances)

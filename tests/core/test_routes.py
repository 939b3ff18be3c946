"""
Routes are read strictly, and no error shows a password.
"""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.routes import (
    MAX_REJECT_OCTETS,
    PasswordSource,
    Pattern,
    Route,
    Routes,
    Scheme,
    Target,
    TLSPolicy,
)
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret

_PASSWORD = "hunter2-Zq"


class Targets(SynchronousTestCase):
    def test_smtp_is_opportunistic_on_port_25(self) -> None:
        expected = Target(scheme=Scheme.SMTP, host="mail.example.org", port=25, tls=TLSPolicy.OPPORTUNISTIC)
        self.assertEqual(Target.parse("smtp://mail.example.org"), expected)

    def test_smtps_is_verified_on_port_465(self) -> None:
        expected = Target(scheme=Scheme.SMTPS, host="mail.example.org", port=465, tls=TLSPolicy.VERIFIED)
        self.assertEqual(Target.parse("smtps://mail.example.org"), expected)

    def test_credentials_make_smtp_verified_and_are_percent_decoded(self) -> None:
        target = Target.parse("smtp://joe%40example.org:a%3Ab%2F%C3%A9@mail.example.org:587")
        self.assertIs(target.tls, TLSPolicy.VERIFIED)
        self.assertEqual(target.port, 587)
        self.assertEqual(target.credentials, Credentials("joe@example.org", Secret("a:b/é")))

    def test_every_tls_policy_can_be_asked_for_without_credentials(self) -> None:
        for policy in TLSPolicy:
            self.assertIs(Target.parse(f"smtp://h?tls={policy.value}").tls, policy)
            self.assertIs(Target.parse(f"lmtp://h:24?tls={policy.value}").tls, policy)

    def test_credentials_go_over_verified_tls_only(self) -> None:
        for refused in ("none", "opportunistic", "required"):
            self._refused(f"smtp://u:{_PASSWORD}@h?tls={refused}", "verified certificate only")
            self._refused(f"smtp://u@h?password_env=P&tls={refused}", "verified certificate only")
        for allowed in (TLSPolicy.VERIFIED, TLSPolicy.DANE):
            self.assertIs(Target.parse(f"smtp://u:p@h?tls={allowed.value}").tls, allowed)

    def test_smtps_cannot_do_without_tls(self) -> None:
        for refused in ("none", "opportunistic"):
            self._refused(f"smtps://h?tls={refused}", "smtps:// always speaks TLS")
        self.assertIs(Target.parse("smtps://h?tls=required").tls, TLSPolicy.REQUIRED)

    def test_an_ipv6_address_stands_in_brackets(self) -> None:
        target = Target.parse("smtp://[2001:DB8::1]:2525")
        self.assertEqual((target.host, target.port), ("2001:db8::1", 2525))
        self.assertEqual(str(target), "smtp://[2001:db8::1]:2525?tls=opportunistic")
        self._refused("smtp://2001:db8::1", "")
        self._refused("smtp://[2001:db8::g]", "an IPv6 address stands in brackets")

    def test_an_internationalized_host_becomes_a_labels(self) -> None:
        self.assertEqual(Target.parse("smtp://bücher.example").host, "xn--bcher-kva.example")

    def test_a_port_is_1_to_65535(self) -> None:
        for port in (1, 65_535):
            self.assertEqual(Target.parse(f"smtp://h:{port}").port, port)
            self.assertEqual(Target.parse(f"mx:?port={port}").port, port)
        for text in ("0", "65536", "99999", "", "x", "-1", "２５"):
            self._refused(f"smtp://h:{text}", "")
            self._refused(f"mx:?port={text}", "")

    def test_a_password_can_stand_in_a_file_or_the_environment(self) -> None:
        target = Target.parse("smtp://joe@h?password_file=/etc/relay%20password")
        self.assertEqual(target.password, PasswordSource("password_file", "/etc/relay password"))
        self.assertIs(target.tls, TLSPolicy.VERIFIED)
        other = Target.parse("smtps://joe@h?password_env=RELAY_PASSWORD")
        self.assertEqual(other.password, PasswordSource("password_env", "RELAY_PASSWORD"))

    def test_a_password_elsewhere_has_to_be_read_before_it_is_used(self) -> None:
        target = Target.parse("smtp://joe@h?password_env=RELAY_PASSWORD")
        self.assertRaises(BadArgument, lambda: target.credentials)
        asked: list[PasswordSource] = []

        def read(source: PasswordSource) -> Secret:
            asked.append(source)
            return Secret("p")

        self.assertEqual(target.with_password(read).credentials, Credentials("joe", Secret("p")))
        self.assertEqual(asked, [PasswordSource("password_env", "RELAY_PASSWORD")])

    def test_one_user_and_one_password_or_neither(self) -> None:
        for text in (
            "smtp://@h", "smtp://joe@h", "smtp://joe:@h", "smtp://:p@h", "smtp://h?password_env=P",
            "smtp://joe:p@h?password_env=P", "smtp://joe@h?password_env=P&password_file=F",
        ):  # fmt: skip
            self._refused(text, "one password")

    def test_parameters_nobody_knows_are_refused(self) -> None:
        for text in (
            "smtp://h?ssl=yes",
            "smtp://h?tls=none&tls=none",
            "smtp://h?tls",
            "mx:?tls=none&tls=none",
            "mx:?host=h",
            "lmtp://h:24?a=b",
        ):
            self._refused(text, "has parameters other than")
        self._refused("smtp://h?tls=maybe", "cannot have tls=maybe, only none, opportunistic, required, verified, dane")

    def test_lmtp_needs_its_port_and_takes_no_credentials(self) -> None:
        target = Target.parse("lmtp://h:24")
        self.assertEqual((target.scheme, target.host, target.port), (Scheme.LMTP, "h", 24))
        for text in ("lmtp://h", "lmtp://u:p@h:24", "lmtp:h:24"):
            self._refused(text, "write lmtp://host:port")

    def test_the_other_schemes(self) -> None:
        self.assertEqual(Target.parse("mx:"), Target(scheme=Scheme.MX, port=25, tls=None))
        self.assertIs(Target.parse("mx:?tls=dane&port=26").tls, TLSPolicy.DANE)
        self.assertEqual(Target.parse("discard:"), Target(scheme=Scheme.DISCARD))
        self.assertEqual(Target.parse("maildir:var/mail"), Target(scheme=Scheme.MAILDIR, path="var/mail"))
        self.assertEqual(Target.parse("reject:No: go away"), Target(scheme=Scheme.REJECT, text="No: go away"))
        self.assertEqual(Target.parse("lmtp+unix:///run/l"), Target(scheme=Scheme.LMTP_UNIX, path="/run/l"))
        longest = "/" + "x" * 106
        self.assertEqual(Target.parse(f"lmtp+unix://{longest}").path, longest)

    def test_what_is_no_target_says_what_is(self) -> None:
        for text, words in {
            "": "write for example smtp://",
            "smtp": "write for example smtp://",
            "ftp://h": "'ftp://h' is not known",
            "smtp:h": "write smtp://",
            "smtp://": "write smtp://",
            "smtp://h/path": "write smtp://",
            "smtp://-h-": "has no host name",
            "mx:example.org": "for one server write smtp://host",
            "maildir:": "write for example maildir:",
            "maildir:a\0b": "write for example maildir:",
            "discard:x": "is more than discard:",
            "lmtp+unix:socket": "write lmtp+unix:///path",
            "lmtp+unix:///" + "x" * 107: "107 octets",
            "reject:": "needs words",
            "reject:\r\n250 ok": "needs words",
            "reject:é": "needs words",
        }.items():
            self._refused(text, words)

    def test_a_refusal_of_500_characters_fits_and_501_do_not(self) -> None:
        self.assertEqual(len(Target.parse("reject:" + "x" * MAX_REJECT_OCTETS).text), MAX_REJECT_OCTETS)
        self._refused("reject:" + "x" * (MAX_REJECT_OCTETS + 1), "1 to 500")

    def test_a_password_shows_only_when_revealed(self) -> None:
        target = Target.parse(f"smtp://joe:{_PASSWORD}@h:587")
        self.assertNotIn(_PASSWORD, f"{target} {target!r} {target.credentials!r}")
        self.assertEqual(str(target), "smtp://joe:<secret>@h:587?tls=verified")
        self.assertEqual(target.reveal(), f"smtp://joe:{_PASSWORD}@h:587?tls=verified")

    @given(
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        st.sampled_from(["smtp", "smtps"]),
    )
    @example("%:/?#@[]&=+ ", "smtp")
    def test_what_reveal_writes_parse_reads(self, password: str, scheme: str) -> None:
        target = Target.parse(f"{scheme}://joe@h?password_env=X").with_password(lambda _: Secret(password))
        self.assertEqual(Target.parse(target.reveal()), target)

    def test_what_str_writes_parse_reads_where_there_is_no_password(self) -> None:
        for text in (
            "mx:", "mx:?tls=none", "discard:", "maildir:a=b?c", "reject:no", "lmtp+unix:///a b",
            "smtp://[::1]", "lmtp://h:24?tls=none",
            "smtp://joe@h?password_file=/a%26b%25", "smtps://h?tls=required",
        ):  # fmt: skip
            target = Target.parse(text)
            self.assertEqual(Target.parse(str(target)), target)

    def test_no_error_shows_a_password(self) -> None:
        for text in (
            f"smtp://joe:{_PASSWORD}",
            f"smtp://joe:{_PASSWORD}@",
            f"smtp://joe:{_PASSWORD}@h:99999",
            f"smtp://joe:{_PASSWORD}@h?tls=none",
            f"smtp://joe:{_PASSWORD}/@h",
            f"smtp://joe:@{_PASSWORD}@h",
            f"smtp://joe:%{_PASSWORD}@h",
            f"smtp://joe:{_PASSWORD}?@h",
            f"smtp:joe:{_PASSWORD}@h",
            f"smtp:/joe:{_PASSWORD}@h",
            f"smpt://joe:{_PASSWORD}@h",
            f"joe:{_PASSWORD}",
            f"joe:{_PASSWORD}@h",
            f"{_PASSWORD}@h",
            f"smtp://joe@h?password={_PASSWORD}",
            f"smtp://h?password={_PASSWORD}",
            f"smtp://joe@h?password_file=a&password={_PASSWORD}",
            f"lmtp://joe:{_PASSWORD}@h:24",
            f"lmtp://joe:{_PASSWORD}",
            f"mx://joe:{_PASSWORD}@h",
            f"mx://joe:{_PASSWORD}",
            f"discard://joe:{_PASSWORD}",
        ):
            for parse in (Target.parse, Route.parse, lambda target: Route.parse(f"*={target}")):
                self.assertNotIn(_PASSWORD, str(self.assertRaises(BadArgument, parse, text)))

    def _refused(self, text: str, words: str) -> None:
        self.assertIn(words, str(self.assertRaises(BadArgument, Target.parse, text)))


class Patterns(SynchronousTestCase):
    def test_a_domain_matches_itself_in_any_case(self) -> None:
        self._matches("Example.org", yes=["example.ORG"], no=["a.example.org", "examplexorg", "example.org.", ""])

    def test_a_leading_dot_matches_subdomains_only(self) -> None:
        self._matches(
            ".example.org", yes=["a.example.org", "a.b.EXAMPLE.org"], no=["example.org", "xexample.org", ".example.org"]
        )

    def test_a_star_matches_all(self) -> None:
        self._matches("*", yes=["example.org", "[192.0.2.1]", ""], no=[])

    def test_a_regular_expression_matches_the_whole_domain_in_any_case(self) -> None:
        self._matches(
            "/mail[0-9]+\\.example/",
            yes=["mail7.example", "MAIL77.EXAMPLE"],
            no=["amail7.example", "mail7.example.org"],
        )

    def test_internationalized_domains_are_compared_as_a_labels(self) -> None:
        self._matches("bücher.example", yes=["xn--bcher-kva.example"], no=["bucher.example"])
        self._matches(".bücher.example", yes=["www.xn--bcher-kva.example"], no=[])

    def test_an_address_literal_is_a_domain(self) -> None:
        self._matches("[192.0.2.1]", yes=["[192.0.2.1]"], no=["192.0.2.1"])

    def test_what_is_no_pattern_says_what_is(self) -> None:
        for text in ("", ".", "*.example.org", "joe@example.org", "example..org", "/", "//", "/x"):
            error = self.assertRaises(BadArgument, Pattern.parse, text)
            self.assertIn(".example.org for its subdomains", str(error))

    def test_what_is_no_regular_expression_is_named(self) -> None:
        self.assertIn("'/(/' is no regular expression", str(self.assertRaises(BadArgument, Pattern.parse, "/(/")))

    def _matches(self, text: str, *, yes: list[str], no: list[str]) -> None:
        pattern = Pattern.parse(text)
        self.assertEqual([domain for domain in yes + no if pattern.matches(domain)], yes)


class RoutesTests(SynchronousTestCase):
    def test_the_first_match_wins(self) -> None:
        routes = Routes.parse(["example.org=discard:", ".example.org=reject:no", "*=maildir:m"])
        found = {domain: routes.find(domain) for domain in ("example.org", "a.example.org", "example.com")}
        self.assertEqual(
            [str(route) for route in found.values()], ["example.org=discard:", ".example.org=reject:no", "*=maildir:m"]
        )

    def test_without_a_match_there_is_no_route(self) -> None:
        self.assertIsNone(Routes.parse(["example.org=discard:"]).find("example.com"))

    def test_a_domain_in_u_labels_is_found(self) -> None:
        self.assertIsNotNone(Routes.parse(["xn--bcher-kva.example=discard:"]).find("Bücher.example"))

    def test_equal_signs_may_stand_in_target_and_expression(self) -> None:
        self.assertEqual(Route.parse("/a=b|c/=smtp://h?tls=none").target.tls, TLSPolicy.NONE)
        self.assertEqual(Route.parse("*=maildir:a=b").target.path, "a=b")

    def test_what_is_no_route_says_what_is(self) -> None:
        for text in ("", "*", "*=", "=discard:", "maildir:var/mail"):
            self.assertIn(
                "write for example '*=maildir:var/mail'", str(self.assertRaises(BadArgument, Route.parse, text))
            )

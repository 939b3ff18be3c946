"""
A file becomes settings, or a list of all that is wrong with it.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.config.keys import changes, in_toml, rows, written
from pymail_tx.config.reading import MAX_FILE_OCTETS, Option, WrongConfiguration, read, read_file
from pymail_tx.config.settings import Settings
from pymail_tx.config.values import Server
from pymail_tx.core.pace import Rate
from pymail_tx.core.routes import TLSPolicy
from pymail_tx.core.secret import Secret

SCRAM = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def _machine() -> str:
    return "machine.example"


def _settings(text: str, *options: Option) -> Settings:
    return read(text.encode(), file="relay.toml", hostname=_machine, options=options).settings


def _example(of: type, name: str = "") -> Iterator[str]:
    """Every key with its example."""
    keys = rows(of)
    for key, row in keys.items():
        if row.section is None:
            yield f"{key} = {in_toml(row.example)}\n"
    for key, row in keys.items():
        if row.section is not None:
            path = f"{name}.{key}" if name else key
            yield f"[[{path}]]\n" if row.repeated else f"[{path}]\n"
            yield from _example(row.section, path)


def _paths(of: type, *above: str) -> Iterator[tuple[str, ...]]:
    for key, row in rows(of).items():
        yield (*above, key)
        if row.section is not None:
            yield from _paths(row.section, *above, key)


_VALUES = st.recursive(
    st.text(max_size=20).map(in_toml)
    | st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from(
        ["true", "nan", "inf", "-1.5", "1979-05-27", "07:32:00", '"tcp:25"', '"1*1d"', '"*"', '"sqlite:x"']
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
        | st.dictionaries(st.sampled_from(["name", "match", "to", "url", "x"]), inner, max_size=3).map(
            lambda table: f"{{{', '.join(f'{key} = {value}' for key, value in table.items())}}}"
        )
    ),
    max_leaves=4,
)
"""As TOML writes them."""


class Reading(SynchronousTestCase):
    def test_an_empty_file_is_all_defaults(self) -> None:
        settings = _settings("")
        self.assertEqual(settings.hostname, "machine.example")
        self.assertEqual(settings.spool.path, "var/spool.sqlite")
        self.assertEqual(settings.smtp.listen, ("tcp:2525:interface=127.0.0.1",))
        self.assertEqual([str(one) for one in settings.smtp.relay_from], ["127.0.0.0/8", "::1/128"])
        limits = (settings.smtp.max_message_size, settings.smtp.max_connections)
        self.assertEqual(limits, (52_428_800, 1_000))
        self.assertEqual(settings.smtp.max_connections_per_client, 500)
        self.assertEqual((str(settings.retry.plan), settings.retry.jitter), ("4*30m 22*1h 4*1d", 0.1))
        self.assertEqual((settings.route, settings.dns.servers, settings.http.listen), ((), (), None))

    def test_the_examples_of_all_keys_make_a_file(self) -> None:
        settings = _settings("".join(_example(Settings)))
        self.assertEqual(settings.hostname, "relay.example.org")
        self.assertEqual(settings.spool.path, "/var/spool/pymail-tx/spool.sqlite")
        self.assertEqual(settings.smtp.listen[-1], "lmtp+unix:/run/pymail-tx/lmtp.sock")
        self.assertEqual(settings.smtp.relay_from[-1], ipaddress.ip_network("10.0.0.0/8"))
        self.assertEqual(settings.smtp.max_message_size, 26_214_400)
        self.assertEqual(settings.smtp.user[0].name, "ann")
        self.assertTrue(settings.smtp.user[0].verifier.check(Secret("pencil")))
        self.assertEqual((settings.retry.delay_warning, settings.retry.jitter), (28_800, 0.2))
        self.assertEqual(settings.dns.servers, (Server("127.0.0.1", 53), Server("2001:db8::53", 53)))
        self.assertEqual((settings.dns.trust_ad, settings.http.listen), (True, "tcp:8025:interface=127.0.0.1"))
        [route] = settings.route
        self.assertEqual((route.max_connections, route.rate), (5, Rate(100, "m")))
        self.assertEqual(str(route.plan), "12*5m 23*1h")
        self.assertTrue(route.on_reply[0].match.search("450 4.7.1 your rate is too high"))
        self.assertEqual(str(route.on_reply[0].action), "suspend 30m")

    def test_routes_keep_their_order_and_take_their_tls(self) -> None:
        settings = _settings(
            '[[route]]\nmatch = "example.org"\nto = "smtp://h"\ntls = "required"\n'
            '[[route]]\nmatch = "*"\nto = "discard:"\n'
        )
        texts = [str(route) for route in settings.routes.routes]
        self.assertEqual(texts, ["example.org=smtp://h:25?tls=required", "*=discard:"])
        self.assertIs(settings.route[0].target.tls, TLSPolicy.REQUIRED)

    def test_an_option_goes_before_the_file_even_where_that_is_wrong(self) -> None:
        spool = Option(name="--spool", path=("spool", "url"), value="sqlite:a")
        self.assertEqual(_settings('[spool]\nurl = "fax:"\n', spool).spool.path, "a")
        self.assertEqual(_settings("", spool).spool.path, "a")

    def test_a_name_in_another_script_is_read_as_its_a_labels(self) -> None:
        self.assertEqual(_settings('hostname = "bücher.example"').hostname, "xn--bcher-kva.example")

    def test_defaults_that_are_written_out_are_the_same_settings(self) -> None:
        settings = _settings("")
        self.assertEqual(_settings("".join(_toml(written(settings)))), settings)


class Writing(SynchronousTestCase):
    @given(st.text() | st.text("\\'\"\n\x7fa"))
    def test_every_text_survives_being_written_as_toml(self, text: str) -> None:
        self.assertEqual(tomllib.loads(f"a = {in_toml(text)}"), {"a": text})


class Changes(SynchronousTestCase):
    def test_the_keys_that_differ_are_named(self) -> None:
        before = _settings('[smtp]\nmax_connections = 5\n[[route]]\nmatch = "*"\nto = "discard:"\n')
        after = _settings('hostname = "a.example"\n[smtp]\nmax_connections = 6\n[retry]\njitter = 0\n')
        self.assertEqual(changes(before, after), ["hostname", "smtp.max_connections", "retry.jitter", "route"])
        self.assertEqual(changes(before, before), [])


def _toml(values: object, name: str = "") -> Iterator[str]:
    assert isinstance(values, dict)
    for key, value in values.items():
        if not isinstance(value, dict) and value not in (None, []):
            yield f"{key} = {in_toml(value)}\n"
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"[{key}]\n"
            yield from _toml(value)


class Mistakes(SynchronousTestCase):
    def problems(self, text: str | bytes, *options: Option) -> list[str]:
        octets = text.encode() if isinstance(text, str) else text
        wrong = self.assertRaises(
            WrongConfiguration, read, octets, file="relay.toml", hostname=_machine, options=options
        )
        return [str(problem) for problem in wrong.problems]

    def test_all_are_told_at_once_in_the_order_of_lines(self) -> None:
        self.assertEqual(
            self.problems(
                'hostname = "a b"\n'
                "[smtp]\n"
                'listen = "tcp:25"\n'
                "max_connection = 5\n"
                "max_connections_per_client = 0\n"
                "relay_from = [\n"
                '  "10.0.0.0/8",\n'
                '  "10.0.0.1/8",\n'
                "]\n"
                "[[route]]\n"
                'match = "*"\n'
            ),
            [
                "relay.toml:1: hostname: 'a b' is no domain; write for example \"relay.example.org\"",
                "relay.toml:3: smtp.listen: is text, not a list of texts; "
                'write for example ["tcp:25", "submission+tcp:587", "lmtp+unix:/run/pymail-tx/lmtp.sock"]',
                "relay.toml:4: smtp.max_connection: there is no such key; did you mean max_connections?",
                "relay.toml:5: smtp.max_connections_per_client: 0 is not a whole number from 1 to 100000; "
                "write for example 50",
                "relay.toml:8: smtp.relay_from: '10.0.0.1/8' is no network: 10.0.0.1/8 has host bits set; "
                'write for example ["127.0.0.0/8", "::1/128", "10.0.0.0/8"]',
                'relay.toml:10: route.to: is missing; write for example "smtp://mail.example.org:587"',
            ],
        )

    def test_each_is_told_by_its_key_with_what_to_write_instead(self) -> None:
        for text, expected in {
            "nonsense = 1": "relay.toml:1: nonsense: there is no such key; what can stand here: hostname, spool, smtp,",
            "[smpt]": "relay.toml:1: smpt: there is no such key; did you mean smtp?",
            "[route]": "relay.toml:1: route: is a table, not tables, each with a header in double brackets",
            "[[smtp]]": "relay.toml:1: smtp: is a list, not a table with a header in single brackets",
            "smtp = 2525": "relay.toml:1: smtp: is a whole number, not a table",
            "hostname = 2026-11-25": "hostname: is a date, not text",
            "hostname = 2026-11-25T10:00:00": "hostname: is a date, not text",
            "hostname = 10:00:00": "hostname: is a time, not text",
            '[spool]\nurl = "postgresql://joe@h/d"': "relay.toml:2: spool.url: 'postgresql://…@h/d': PostgreSQL is not",
            '[spool]\nurl = "spool.sqlite"': "spool.url: 'spool.sqlite' is not known; write for example \"sqlite:",
            '[smtp]\nlisten = ["a\\u0000"]': "smtp.listen: ",
            '[smtp]\nlisten = [" "]': "smtp.listen: there is nothing in it",
            "[smtp]\nmax_connections = true": "smtp.max_connections: is true or false, not a whole number from 1",
            "[smtp]\nmax_connections = 1.5": "smtp.max_connections: is a number, not a whole number",
            "[smtp]\nmax_message_size = 65535": "65535 is not a whole number from 65536 to 1000000000",
            '[smtp]\nmax_message_size = "63 KiB"': "'63 KiB' is not from 65536 to 1000000000 octets",
            '[smtp]\nmax_message_size = "954 MiB"': "'954 MiB' is not from 65536 to 1000000000 octets",
            '[smtp]\nmax_message_size = "50 Mb"': "'50 Mb' is no size, such as 50 MiB",
            "[smtp]\nmax_message_size = []": "is a list, not a whole number from 65536 to 1000000000 or a size",
            '[smtp]\ntls_key = "k"': "relay.toml:2: smtp.tls_key: is of no use without a certificate",
            '[[smtp.user]]\nname = "ann"\n': "relay.toml:1: smtp.user.verifier: is missing",
            f'[[smtp.user]]\nname = "a\\u0007"\nverifier = "{SCRAM}"\n': "relay.toml:2: smtp.user.name: ",
            '[retry]\nplan = "4*30"': "relay.toml:2: retry.plan: '4*30' is no step",
            '[retry]\ndelay_warning = "4"': "retry.delay_warning: '4' is no length of time, such as 90s, 30m, 4h or 5d",
            "[retry]\njitter = 0.51": "retry.jitter: 0.51 is not a number from 0 to 0.5",
            "[retry]\njitter = nan": "retry.jitter: nan is not a number from 0 to 0.5",
            '[[route]]\nmatch = "a b"\nto = "discard:"': "relay.toml:2: route.match: 'a b' is no domain",
            '[[route]]\nmatch = "*"\nto = "fax:"': "relay.toml:3: route.to: 'fax…' is not known; write",
            '[[route]]\nmatch = "*"\nto = "discard:"\ntls = "none"': "relay.toml:4: route.tls: discard: has no TLS",
            '[[route]]\nmatch = "*"\nto = "smtps://h"\ntls = "none"': "relay.toml:4: route.tls: ",
            '[[route]]\nmatch = "*"\nto = "smtp://h"\ntls = "yes"': "'yes' is none of none, opportunistic, required,",
            '[[route]]\nmatch = "*"\nto = "discard:"\nrate = "100"': "route.rate: '100' is no rate, such as 10/s",
            '[[route]]\nmatch = "*"\nto = "discard:"\n[[route.on_reply]]\nmatch = "("\naction = "suspend 1h"': (
                "relay.toml:5: route.on_reply.match: '(' is no regular expression: "
            ),
            '[[route]]\nmatch = "*"\nto = "discard:"\n[[route.on_reply]]\nmatch = "x"\naction = "stop"': (
                "relay.toml:6: route.on_reply.action: 'stop' is neither 'suspend DURATION' nor 'slow RATE DURATION'; "
                'write for example "suspend 30m"'
            ),
            '[dns]\nservers = ["localhost"]': "dns.servers: 'localhost' is no address with or without a port",
            '[dns]\nservers = ["::1"]': "dns.servers: '::1' is no address",
            '[dns]\nservers = ["127.0.0.1:0"]': "dns.servers: '127.0.0.1:0' has no port between 1 and 65535",
            '[dns]\ntrust_ad = "yes"': "dns.trust_ad: is text, not true or false; write for example true",
            "[http]\nlisten = 8025": "http.listen: is a whole number, not text",
        }.items():
            with self.subTest(text):
                [problem] = self.problems(text)
                self.assertIn(expected, problem)

    def test_a_user_who_is_there_twice_is_refused(self) -> None:
        user = f'[[smtp.user]]\nname = "ann"\nverifier = "{SCRAM}"\n'
        [problem] = self.problems(user * 2)
        self.assertIn("smtp.user: 'ann' is there 2 times", problem)

    def test_no_mistake_shows_a_password(self) -> None:
        for text in (
            '[[smtp.user]]\nname = "ann"\nverifier = "Zq7"',
            '[[smtp.user]]\nname = "ann"\nverifier = ["Zq7"]',
            '[[route]]\nmatch = "*"\nto = ["smtp://joe:Zq7@h"]',
            '[[route]]\nmatch = "*"\nto = "smtp://joe:Zq7@h?tls=none"',
            '[[route]]\nmatch = "*"\nto = "smtp://joe:Zq7@h"\ntls = "none"',
            '[[route]]\nmatch = "*=smtp://joe:Zq7@h"\nto = "discard:"',
            '[spool]\nurl = "postgresql://joe:Zq7@h/d"',
            '[spool]\nurl = "sqlite:x" "Zq7"',
        ):
            self.assertNotIn("Zq7", "\n".join(self.problems(text)), text)

    def test_what_is_no_toml_is_told_with_its_line(self) -> None:
        for text, expected in {
            "a = 1\nb": "relay.toml:2: is not TOML: expected '=' after a key in a key/value pair",
            "a = 1\na = 2": "relay.toml:2: is not TOML: cannot overwrite a value",
            "a = [\n\n1": "relay.toml:3: is not TOML: unclosed array",
            "a = " + "9" * 5_000: "relay.toml: is not TOML that anybody would write",
            "a = " + "[" * 5_000: "relay.toml: is not TOML that anybody would write",
        }.items():
            self.assertEqual(self.problems(text), [expected])

    def test_what_is_no_text_is_told_with_its_line(self) -> None:
        self.assertEqual(self.problems(b"a = 1\n# \xff\n"), ["relay.toml:2: is not UTF-8"])

    def test_a_file_may_have_ten_mebibytes_and_not_one_octet_more(self) -> None:
        comment = b"#" * MAX_FILE_OCTETS
        self.assertEqual(read(comment, file="f", hostname=_machine).settings.hostname, "machine.example")
        self.assertEqual(self.problems(comment + b"#"), ["relay.toml: has more than 10485760 octets"])

    def test_a_wrong_option_is_told_by_its_own_name(self) -> None:
        spool = Option(name="--spool", path=("spool", "url"), value="fax:")
        smtp = Option(name="--smtp", path=("smtp", "listen"), value=["tcp:1", ""])
        problems = self.problems('[spool]\nurl = "a"\n', spool, smtp)
        for problem, expected in zip(
            problems, ("--spool: 'fax…' is not known", "--smtp: there is nothing in it"), strict=True
        ):
            self.assertTrue(problem.startswith(expected), problem)

    def test_an_option_below_what_is_no_table_leaves_that_to_be_told(self) -> None:
        option = Option(name="--spool", path=("spool", "url"), value="sqlite:a")
        [problem] = self.problems("spool = 5", option)
        self.assertIn("relay.toml:1: spool: is a whole number", problem)

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        for name, expected in {
            "/nowhere/relay.toml": "/nowhere/relay.toml: cannot be read: No such file or directory",
            "/": "/: cannot be read: Is a directory",
            "\0": "\0: is no name of a file",
        }.items():
            wrong = self.assertRaises(WrongConfiguration, read_file, name, hostname=_machine)
            self.assertEqual(str(wrong), expected)

    def test_a_file_is_read(self) -> None:
        path = Path(self.mktemp())
        path.write_text('hostname = "a.example"')
        self.assertEqual(read_file(str(path), hostname=_machine).settings.hostname, "a.example")

    @given(st.sampled_from(list(_paths(Settings))), _VALUES)
    def test_whatever_a_key_is_set_to_is_settings_or_told_with_its_line(
        self, path: tuple[str, ...], value: str
    ) -> None:
        *above, key = path
        name = ".".join(above)
        header = f"[[{name}]]" if {"user", "route"} & set(above) else f"[{name}]" if name else ""
        try:
            read(f"{header}\n{key} = {value}\n".encode(), file="f", hostname=_machine)
        except WrongConfiguration as wrong:
            for problem in wrong.problems:
                self.assertRegex(str(problem), r"\Af:[12]: [a-z_.]+: ")

    @given(st.binary(max_size=60) | st.text("[]{}=.,'\"#\n \\abhostname01", max_size=60).map(str.encode))
    def test_whatever_is_in_a_file_is_settings_or_told(self, octets: bytes) -> None:
        try:
            read(octets, file="f", hostname=_machine)
        except WrongConfiguration as wrong:
            self.assertTrue(wrong.problems)

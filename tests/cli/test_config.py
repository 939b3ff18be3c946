"""
C{pymail-tx config check} says what a relay would be, or all that is wrong.
"""

from __future__ import annotations

import json
import re

from pymail_tx.config.reading import read
from tests.cli.processes import Ended, ProcessCase

_RIGHT = """\
[smtp]
listen = ["tcp:2525"]
[[smtp.user]]
name = "ann"
verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
[[route]]
match = "*"
to = "smtp://joe:Zq7@mail.example.org"
rate = "100/m"
[[route.on_reply]]
match = '4\\.7'
action = "slow 10/m 1h"
"""

_WRONG = """\
hostnam = "a"
[smtp]
listen = ["tcp:25", "2525"]
[[route]]
match = "*"
to = "smtp://joe@h?password_env=PYMAIL_TX_NOT_SET"
"""


class Checking(ProcessCase):
    def check(self, text: str, *options: str) -> Ended:
        (self.directory / "relay.toml").write_text(text.replace("\\\n", ""))
        return self.run_command("config", "check", *options, "relay.toml")

    def test_what_a_relay_would_run_with_is_told_as_a_file_with_its_defaults(self) -> None:
        ended = self.check(_RIGHT)
        self.assertEqual((ended.status, ended.err), (0, ""))
        head, _, text = ended.out.partition("\n\n")
        self.assertEqual(head, "relay.toml is right. A relay would run with this, defaults included:")
        for line in (
            'url = "sqlite:var/spool.sqlite"',
            'listen = ["tcp:2525"]',
            "max_message_size = 52428800",
            "# tls_certificate: STARTTLS is not offered",
            "[[smtp.user]]",
            'plan = "4*30m 22*1h 4*1d"',
            'to = "smtp://joe:<secret>@mail.example.org:25?tls=verified"',
            "match = '4\\.7'",
            "[[route.on_reply]]",
        ):
            self.assertIn(line, text.splitlines())
        self.assertNotIn("Zq7", ended.out)
        self.assertNotIn("wfPL", ended.out)

    def test_what_is_told_is_toml_again(self) -> None:
        text = re.sub(
            r"\[\[smtp.user(.|\n)*?\n\n", "", self.check(_RIGHT.replace("joe:Zq7@", "")).out.partition("\n\n")[2]
        )
        settings = read(text.encode(), file="again", hostname=lambda: "x.example").settings
        self.assertEqual(str(settings.route[0].on_reply[0].action), "slow 10/m 1h")

    def test_all_that_is_wrong_is_told_with_lines_and_status_1(self) -> None:
        ended = self.check(_WRONG)
        self.assertEqual((ended.status, ended.err), (1, ""))
        self.assertEqual(ended.out, "relay.toml:1: hostnam: there is no such key; did you mean hostname?\n")
        ended = self.check(_WRONG.replace("hostnam ", "hostname "))
        first, second = ended.out.splitlines()
        self.assertIn("relay.toml:3: smtp.listen: '2525' is no endpoint", first)
        self.assertIn("relay.toml:6: route.to: ", second)
        self.assertIn("there is no password in PYMAIL_TX_NOT_SET", second)
        self.assertEqual(ended.status, 1)

    def test_a_file_without_a_route_is_wrong(self) -> None:
        ended = self.check("")
        self.assertEqual(ended.status, 1)
        self.assertIn("relay.toml: route: none is given, so mail has nowhere to go", ended.out)

    def test_json_has_the_same_for_programs(self) -> None:
        ended = self.check(_RIGHT, "--json")
        told = json.loads(ended.out)
        self.assertEqual((told["ok"], told["problems"], told["file"]), (True, [], "relay.toml"))
        self.assertEqual(told["settings"]["smtp"]["user"], [{"name": "ann", "verifier": "SCRAM-SHA-256"}])
        self.assertEqual(told["settings"]["route"][0]["rate"], "100/m")
        ended = self.check(_WRONG, "--json")
        told = json.loads(ended.out)
        words = "there is no such key; did you mean hostname?"
        self.assertEqual(told["problems"], [{"file": "relay.toml", "line": 1, "key": "hostnam", "words": words}])
        self.assertEqual((told["ok"], told["settings"], ended.status), (False, None, 1))

    def test_a_file_that_cannot_be_read_is_a_problem_like_others(self) -> None:
        ended = self.run_command("config", "check", "nowhere.toml")
        self.assertEqual((ended.status, ended.out), (1, "nowhere.toml: cannot be read: No such file or directory\n"))

    def test_a_command_line_that_is_wrong_has_status_64(self) -> None:
        for words in (["config"], ["config", "check"], ["config", "nonsense"]):
            ended = self.run_command(*words)
            self.assertEqual(ended.status, 64)
            self.assertRegex(ended.err, r"\Apymail-tx: [^\n]+ --help tells all options\n\Z")

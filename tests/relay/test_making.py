"""
What settings need of the world is made all at once, or what is wrong with it is
told with its places.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.config.reading import WrongConfiguration, read
from pymail_tx.relay.couriers import Couriers, Surroundings
from pymail_tx.relay.making import Made, make

_ROUTE = '[[route]]\nmatch = "*"\nto = "smtp://h"\n'


def _at_once(function: Callable[[], None]) -> Deferred[None]:
    return execute(function)


class Making(SynchronousTestCase):
    def made(self, text: str, kept: Couriers | None = None) -> Made:
        reactor = MemoryReactorClock()
        surroundings = Surroundings(
            reactor=reactor, hostname="relay.example", wall_clock=float, new_token=str, run_in_thread=_at_once,
            environment={},
        )  # fmt: skip
        configuration = read(text.encode(), file="relay.toml", hostname=lambda: "relay.example")
        return make(configuration, reactor, surroundings, kept)

    def problems(self, text: str) -> list[str]:
        wrong = self.assertRaises(WrongConfiguration, self.made, text)
        return [str(problem) for problem in wrong.problems]

    def test_there_is_an_endpoint_for_each_text_and_a_courier_for_each_target(self) -> None:
        made = self.made('[smtp]\nlisten = ["tcp:1", "unix:s"]\n' + _ROUTE)
        self.assertEqual([endpoint.text for endpoint in made.endpoints], ["tcp:1", "unix:s"])
        self.assertEqual(made.couriers.courier_for("example.org").key, "smtp://h:25?tls=opportunistic")

    def test_couriers_of_before_serve_on(self) -> None:
        before = self.made(_ROUTE).couriers
        after = self.made('hostname = "a.example"\n' + _ROUTE, before).couriers
        self.assertIs(after.courier_for("example.org"), before.courier_for("example.org"))

    def test_whatever_cannot_be_made_is_told_with_its_line(self) -> None:
        listen, second, password = self.problems(
            "[smtp]\nlisten = [\n'2525',\n'tcp:x']\n[[route]]\nmatch = '*'\nto = 'smtp://joe@h?password_env=X'\n"
        )
        self.assertIn("relay.toml:3: smtp.listen: '2525' is no endpoint", listen)
        self.assertIn("relay.toml:4: smtp.listen: 'tcp:x' is no endpoint", second)
        self.assertIn("relay.toml:7: route.to: ", password)
        self.assertIn("there is no password in X", password)

    def test_without_a_route_there_is_no_relay(self) -> None:
        [problem] = self.problems("")
        self.assertIn("relay.toml: route: none is given, so mail has nowhere to go; write for example --route", problem)

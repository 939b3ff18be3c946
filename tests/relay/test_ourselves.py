"""
Names and addresses by which a relay knows itself in DNS.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.relay.ourselves import of_this_machine, ourselves


def _machine() -> list[str]:
    return ["127.0.0.1", "192.0.2.7", "2001:db8::7"]


class Ourselves(SynchronousTestCase):
    def test_the_name_and_each_address_that_is_listened_at(self) -> None:
        us = ourselves(
            "relay.example",
            ["tcp:2525:interface=127.0.0.1", r"tcp6:25:interface=2001\:db8\:\:1", "lmtp+tcp:24:interface=192.0.2.1"],
            _machine,
        )
        self.assertEqual(us.names, {"relay.example"})
        self.assertEqual(us.addresses, {"127.0.0.1", "2001:db8::1", "192.0.2.1"})

    def test_where_none_is_named_all_of_the_machines(self) -> None:
        for endpoint in ("tcp:25", "tcp:25:interface=0.0.0.0", r"tcp6:25:interface=\:\:", "tcp:25:interface=a.example"):
            self.assertEqual(ourselves("relay.example", [endpoint], _machine).addresses, set(_machine()), endpoint)

    def test_a_socket_of_the_file_system_has_none(self) -> None:
        us = ourselves("relay.example", ["unix:/run/relay.sock", "lmtp+unix:/run/lmtp.sock"], _machine)
        self.assertEqual(us.addresses, frozenset())


class ThisMachine(SynchronousTestCase):
    def test_the_addresses_of_the_tables_that_linux_keeps(self) -> None:
        tables = Path(self.mktemp())
        tables.mkdir()
        (tables / "fib_trie").write_text(
            "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n"
            "     |-- 192.0.2.7\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n"
        )
        (tables / "if_inet6").write_text("20010db8000000000000000000000007 02 40 00 80     eth0\n")
        self.assertEqual(of_this_machine(tables), ["192.0.2.7", "2001:db8::7"])

    def test_without_them_there_are_none(self) -> None:
        self.assertEqual(of_this_machine(Path(self.mktemp())), [])

    def test_this_one_has_loopback(self) -> None:
        self.assertIn("127.0.0.1", of_this_machine())

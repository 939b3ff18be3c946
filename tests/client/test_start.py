"""
How a Session opens: which servers and ports, in which order, and what ends the search.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx import client
from pymail_tx.client import ClientException, Session, TemporaryError
from tests.client.scripted import HOST, Peer, SessionTestCase, hang_up
from tests.net.certificates import Authority, self_signed

CREDENTIALS = ("ann", "a password")

WAYS = [25, 465, 587, 25, 587]
"""starttls, tls, starttls, plain, plain."""

TLS_OFFERED = ("STARTTLS",)


def answer_client_hello_in_plain_text(peer: Peer) -> None:
    """For the reply to STARTTLS: 220, but no TLS behind it."""
    peer.say(b"220 2.0.0 go ahead\r\n")
    peer.socket.recv(65_536)
    peer.say(b"500 5.5.1 what is that?\r\n")
    peer.wait_until_gone()


class TheOrder(SessionTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.certificate = self.authority.issue(HOST)

    def test_start_tries_starttls_25_tls_465_starttls_587_plain_25_plain_587_in_that_order(self) -> None:
        session = self.session({})
        self.assertRaises(TemporaryError, session.start)
        self.assertEqual([port for _, port in self.attempts], WAYS)

    def test_each_way_tries_the_hosts_in_order(self) -> None:
        session = self.session({}, hosts=("one.example", "two.example"))
        self.assertRaises(TemporaryError, session.start)
        self.assertEqual(self.attempts, [(host, port) for port in WAYS for host in ("one.example", "two.example")])

    def test_each_of_the_five_ways_can_be_the_one_that_opens(self) -> None:
        starttls: dict[str, object] = {"offers": TLS_OFFERED}
        tls: dict[str, object] = {"implicit_tls": True}
        for number, (port, script) in enumerate(zip(WAYS, [starttls, tls, starttls, {}, {}], strict=True)):
            server = self.server(certificate=self.certificate, **script)
            self.attempts.clear()
            session = self.session({port: server})
            session.start()
            self.assertEqual([port for _, port in self.attempts], WAYS[: number + 1])
            self.assertEqual((session.host, session.port, server.peer.in_tls), (HOST, port, number < 3))
            session.close()

    def test_the_first_that_opens_is_kept(self) -> None:
        first, second = self.server(), self.server()
        ports = {("one.example", 25): first, ("two.example", 25): second}
        session = self.session(ports, hosts=["one.example", "two.example"])
        session.start()
        self.assertEqual((session.host, len(second.peers)), ("one.example", 1))  # one attempt with STARTTLS
        session.close()
        self.assertIn("RCPT TO:<bob@example.org>", first.peer.heard)

    def test_without_credentials_a_handshake_that_breaks_is_followed_by_plain_text(self) -> None:
        server = self.server(offers=TLS_OFFERED, replies={"STARTTLS": answer_client_hello_in_plain_text})
        session = self.session({587: server})
        session.start()
        session.close()
        self.assertEqual([port for _, port in self.attempts], WAYS)
        self.assertEqual([peer.in_tls for peer in server.peers], [False, False])

    def test_a_host_that_does_not_open_is_followed_by_the_next(self) -> None:
        bad, good = self.server(greeting=b"554 not you"), self.server()
        ports = {("bad.example", 25): bad, ("good.example", 25): good}
        session = self.session(ports, hosts=["bad.example", "good.example"])
        session.plain(25)
        self.assertEqual(session.host, "good.example")
        session.close()

    def test_without_a_host_nothing_opens(self) -> None:
        self.assertRaises(ClientException, self.session({}, hosts=()).start)


class TheEnvelope(SessionTestCase):
    def test_mail_from_and_rcpt_to_may_be_answered_250_251_and_252(self) -> None:
        for code in (b"250", b"251", b"252"):
            session, server = self.started(replies={"MAIL": code + b" ok", "RCPT": code + b" ok"})
            session.close()
            self.assertEqual(
                server.peer.heard[1:], ["MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>", "QUIT"]
            )

    def test_a_refused_sender_or_recipient_raises_and_close_says_good_bye(self) -> None:
        for refusal in ({"MAIL": b"550 5.1.0 no", "RCPT": b"503 5.5.1 no MAIL"}, {"RCPT": b"550 5.1.1 no"}):
            for offers in ((), ("PIPELINING",)):
                server = self.server(replies=refusal, offers=offers)
                session = self.session({587: server})
                refused = self.assertRaises(ClientException, session.start)
                self.assertIn(next(iter(refusal)), str(refused))
                self.assertEqual((refused.reply.code, session.status), (550, client.COMMAND_MODE))
                session.close()
                self.assertEqual(server.wait().heard[-1], "QUIT")

    def test_the_null_reverse_path_can_be_sent(self) -> None:
        server = self.server()
        session = self.session({587: server}, source="")
        session.start()
        session.close()
        self.assertIn("MAIL FROM:<>", server.peer.heard)

    def test_an_address_that_needs_smtputf8_goes_to_a_server_that_offers_it_only(self) -> None:
        server = self.server(offers=["SMTPUTF8"])
        session = self.session({587: server}, destination="käthe@example.org")
        session.start()
        session.close()
        envelope = ["MAIL FROM:<ann@example.net> SMTPUTF8", "RCPT TO:<käthe@example.org>"]
        self.assertEqual(server.peer.heard[1:-1], envelope)
        session = self.session({587: self.server()}, destination="käthe@example.org")
        refused = self.assertRaises(ClientException, session.start)
        self.assertNotIsInstance(refused, TemporaryError)
        session.close()


class WhenNoneOpens(SessionTestCase):
    def test_it_is_temporary_if_any_attempt_failed_temporarily(self) -> None:
        session = self.session({port: self.server(greeting=b"554 go away") for port in (25, 465)})
        self.assertRaises(TemporaryError, session.start)  # 587 refuses the connection

    def test_a_4yz_greeting_is_temporary_and_a_reply_as_well(self) -> None:
        replies = {port: self.server(greeting=b"554 never") for port in (25, 587)}
        session = self.session(replies | {465: self.server(greeting=b"421 later", implicit_tls=False)})
        self.assertRaises(TemporaryError, session.start)
        session = self.session({port: self.server(greeting=b"451 later") for port in (25, 587)})
        both = self.assertRaises(TemporaryError, partial(session.plain, 25))
        self.assertIsInstance(both, ClientException)
        self.assertEqual(both.reply.code, 451)

    def test_else_it_is_not_temporary(self) -> None:
        certificate = Authority().issue(HOST)
        refusing = partial(self.server, greeting=b"554 never", certificate=certificate)
        session = self.session({25: refusing(), 465: refusing(implicit_tls=True), 587: refusing()})
        refused = self.assertRaises(ClientException, session.start)
        self.assertNotIsInstance(refused, TemporaryError)
        self.assertEqual(refused.reply.code, 554)

    def test_afterwards_there_is_no_connection(self) -> None:
        session = self.session({25: self.server(greeting=b"554 never")})
        self.assertRaises(TemporaryError, session.start)
        self.assertEqual((session.socket, session.sockfile, session.status), (None, None, None))


class WithCredentials(SessionTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.secure = {
            "offers": TLS_OFFERED, "offers_in_tls": ["AUTH PLAIN LOGIN"], "certificate": self.authority.issue(HOST),
        }  # fmt: skip
        self.ours = {"credentials": CREDENTIALS, "trust_root": self.ca_file(self.authority)}

    def test_auth_plain_is_sent_over_starttls_and_over_tls_whose_certificate_verified(self) -> None:
        for port, script in ((587, {}), (465, {"implicit_tls": True})):
            server = self.server(**self.secure, **script)
            session = self.session({port: server}, **self.ours)
            session.start()
            session.close()
            self.assertIn("AUTH PLAIN AGFubgBhIHBhc3N3b3Jk", server.peer.heard)

    def test_535_ends_start_at_once(self) -> None:
        first = self.server(**self.secure, replies={"AUTH": b"535 5.7.8 wrong"})
        ports = {25: first, 465: self.server(), 587: self.server()}
        session = self.session(ports, hosts=[HOST, "two.example"], allow_plaintext=True, **self.ours)
        refused = self.assertRaises(ClientException, session.start)
        self.assertNotIsInstance(refused, TemporaryError)
        self.assertEqual((refused.reply.code, self.attempts), (535, [(HOST, 25)]))

    def test_another_refusal_of_auth_does_not_end_it(self) -> None:
        first = self.server(**self.secure, replies={"AUTH": b"454 4.7.0 later"})
        second = self.server(**self.secure)
        session = self.session({25: first, 587: second}, **self.ours)
        session.start()
        self.assertEqual(session.port, 587)
        session.close()

    def test_a_certificate_that_does_not_verify_ends_start_at_once(self) -> None:
        for certificate in (self_signed(HOST), self.authority.issue("other.example"), Authority().issue(HOST)):
            for port, script in ((25, {}), (465, {"implicit_tls": True})):
                server = self.server(**{**self.secure, **script, "certificate": certificate})
                others = {25: self.server(greeting=b"554 no"), 465: self.server(), 587: self.server()}
                self.attempts.clear()
                session = self.session({**others, port: server}, allow_plaintext=True, **self.ours)
                unverified = self.assertRaises(ClientException, session.start)
                self.assertNotIsInstance(unverified, TemporaryError)
                self.assertEqual([port for _, port in self.attempts], WAYS[: WAYS.index(port) + 1])
                self.assertIn("certificate", str(unverified))
                self.assertNotIn("AUTH", str(server.wait().heard))

    def test_the_plain_attempts_are_made_with_allow_plaintext_only(self) -> None:
        session = self.session({587: self.server()}, **self.ours)
        self.assertRaises(TemporaryError, session.start)
        self.assertEqual([port for _, port in self.attempts], WAYS[:3])
        server = self.server(offers=["AUTH PLAIN"])
        session = self.session({587: server}, allow_plaintext=True, **self.ours)
        session.start()
        session.close()
        self.assertNotIn("AUTH", str([peer.heard for peer in server.peers]))

    def test_plain_called_alone_sends_no_credentials(self) -> None:
        server = self.server(offers=["AUTH PLAIN"])
        session = self.session({25: server}, **self.ours)
        session.plain(25)
        session.close()
        self.assertEqual(server.peer.heard, ["EHLO client.example.net", "QUIT"])

    def test_a_server_that_does_not_offer_auth_plain_is_used_without(self) -> None:
        for offers in ([], ["AUTH LOGIN CRAM-MD5"]):
            server = self.server(**{**self.secure, "offers_in_tls": offers})
            session = self.session({587: server}, **self.ours)
            session.start()
            session.close()
            self.assertIn("RCPT TO:<bob@example.org>", server.peer.heard)
            self.assertNotIn("AUTH", str(server.peer.heard))

    def test_a_user_without_a_password_is_misuse(self) -> None:
        for credentials in (("ann", None), (None, "a password"), ("a\0b", "c"), ("ann", "a\0b")):
            self.assertRaises(ClientException, self.session, credentials=credentials)

    def test_a_trust_root_that_cannot_be_read_is_misuse(self) -> None:
        session = self.session({465: self.server()}, credentials=CREDENTIALS, trust_root="/nonexistent.pem")
        self.assertIn("nonexistent", str(self.assertRaises(ClientException, partial(session.tls, 465))))


class Alone(SessionTestCase):
    def test_plain_starttls_and_tls_stop_before_mail_from(self) -> None:
        certificate = Authority().issue(HOST)
        for method, script, heard in (
            (Session.plain, {}, ["EHLO", "QUIT"]),
            (Session.starttls, {"offers": TLS_OFFERED}, ["EHLO", "STARTTLS", "EHLO", "QUIT"]),
            (Session.tls, {"implicit_tls": True}, ["EHLO", "QUIT"]),
        ):
            server = self.server(certificate=certificate, **script)
            session = self.session({2525: server})
            method(session, 2525)
            self.assertEqual((session.port, session.status), (2525, client.COMMAND_MODE))
            session.close()
            self.assertEqual([line.split()[0] for line in server.peer.heard], heard)

    def test_without_credentials_an_unverified_certificate_is_accepted(self) -> None:
        for certificate in (self_signed("elsewhere.example"), Authority().issue(HOST)):
            for method, script in ((Session.tls, {"implicit_tls": True}), (Session.starttls, {"offers": TLS_OFFERED})):
                server = self.server(certificate=certificate, **script)
                session = self.session({25: server})
                method(session, 25)
                self.assertTrue(server.peer.in_tls)
                session.close()

    def test_a_4yz_reply_to_any_step_of_the_opening_is_both(self) -> None:
        for verb in ("EHLO", "STARTTLS", "AUTH"):
            authority = Authority()
            server = self.server(
                offers=TLS_OFFERED, offers_in_tls=["AUTH PLAIN"], certificate=authority.issue(HOST),
                replies={verb: b"451 4.3.0 later"},
            )  # fmt: skip
            session = self.session({25: server}, credentials=CREDENTIALS, trust_root=self.ca_file(authority))
            both = self.assertRaises(TemporaryError, partial(session.starttls, 25))
            self.assertEqual((both.reply.code, isinstance(both, ClientException)), (451, True))

    def test_starttls_that_is_not_offered_is_a_client_exception_alone(self) -> None:
        session = self.session({25: self.server()})
        missing = self.assertRaises(ClientException, partial(session.starttls, 25))
        self.assertNotIsInstance(missing, TemporaryError)
        self.assertIsNone(missing.reply)

    def test_a_server_without_ehlo_is_greeted_with_helo_in_plain_text_only(self) -> None:
        replies = {"EHLO": b"502 unknown"}
        session, server = self.opened(replies=replies)
        session.close()
        self.assertEqual(server.peer.heard[1], "HELO client.example.net")
        session = self.session({25: self.server(replies=replies)})
        self.assertRaises(ClientException, partial(session.starttls, 25))

    def test_words_behind_the_reply_to_starttls_end_the_session(self) -> None:
        server = self.server(offers=TLS_OFFERED, replies={"STARTTLS": b"220 go ahead\r\n250 injected"})
        session = self.session({25: server})
        violation = self.assertRaises(ClientException, partial(session.starttls, 25))
        self.assertNotIsInstance(violation, TemporaryError)

    def test_a_second_session_on_the_same_object_wants_the_first_closed(self) -> None:
        session, server = self.opened()
        self.assertRaises(ClientException, partial(session.plain, 25))
        session.close()
        session.plain(25)
        session.close()
        self.assertEqual(len(server.peers), 2)

    def test_what_opens_no_session_closes_its_connection(self) -> None:
        def closed(peer: Peer) -> None:
            peer.say(b"554 go away\r\n")
            peer.wait_until_gone()
            gone.append(True)

        gone: list[bool] = []
        server = self.server(greeting=closed)
        self.assertRaises(ClientException, partial(self.session({25: server}).plain, 25))
        server.wait()
        self.assertEqual(gone, [True])


class Signatures(SynchronousTestCase):
    def test_extra_arguments_are_keyword_only(self) -> None:
        parameters = list(inspect.signature(Session.__init__).parameters.values())[1:]
        positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        pymails = "mailHosts clientAddress messageId source destination credentials"
        self.assertEqual(positional, pymails.split())
        self.assertEqual(parameters[5].default, (None, None))
        self.assertEqual({one.kind for one in parameters[6:]}, {inspect.Parameter.KEYWORD_ONLY})

    def test_the_modules_numbers_are_pymails_and_two_timeouts_more(self) -> None:
        numbers = (client.COMMAND_MODE, client.DATA_MODE, client.CONNECT_TIMEOUT)
        self.assertEqual(numbers, (1, 2, 10))
        self.assertEqual((client.REPLY_TIMEOUT, client.END_OF_DATA_TIMEOUT), (300, 600))

    def test_both_exceptions_are_runtime_errors_and_neither_the_other(self) -> None:
        self.assertTrue(issubclass(ClientException, RuntimeError) and issubclass(TemporaryError, RuntimeError))
        self.assertFalse(issubclass(ClientException, TemporaryError) or issubclass(TemporaryError, ClientException))

    def test_collected_joins_items_by_newlines(self) -> None:
        self.assertEqual(client.collected(["one", 2]), "one\n2")
        self.assertEqual(client.collected([]), "")


class Deadlines(SessionTestCase):
    def test_connect_timeout_is_read_when_a_session_opens(self) -> None:
        seen: list[float] = []

        def connect(address: tuple[str, int], timeout_s: float) -> object:
            seen.append(timeout_s)
            raise TimeoutError

        session = Session([HOST], "client.example.net", "id", "", "bob@example.org", connect=connect)  # type: ignore[arg-type]  # never returns
        self.patch(client, "CONNECT_TIMEOUT", 0.25)
        self.assertRaises(TemporaryError, partial(session.plain, 25))
        self.assertEqual(seen, [0.25])

    def test_a_listener_that_never_answers_is_given_up_after_connect_timeout(self) -> None:
        self.patch(client, "CONNECT_TIMEOUT", 0.2)
        session = Session(["192.0.2.1"], "client.example.net", "id", "", "bob@example.org")
        self.assertRaises(TemporaryError, partial(session.plain, 25))

    def test_a_handshake_that_stalls_is_given_up(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 0.2)
        server = self.server(greeting=Peer.wait_until_gone)
        self.assertRaises(TemporaryError, partial(self.session({465: server}).tls, 465))

    def test_a_greeting_that_does_not_come_is_given_up(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 0.2)
        server = self.server(greeting=Peer.wait_until_gone)
        self.assertRaises(TemporaryError, partial(self.session({25: server}).plain, 25))

    def test_a_connection_lost_before_the_greeting_is_temporary(self) -> None:
        lost = self.assertRaises(TemporaryError, partial(self.session({25: self.server(greeting=hang_up)}).plain, 25))
        self.assertNotIsInstance(lost, ClientException)

    def test_no_connection_is_temporary_alone_and_carries_no_reply(self) -> None:
        none = self.assertRaises(TemporaryError, partial(self.session({}).plain, 25))
        self.assertNotIsInstance(none, ClientException)
        self.assertIsNone(none.reply)


class Arguments(SessionTestCase):
    def test_cr_lf_and_nul_in_any_argument_are_misuse_and_nothing_is_sent(self) -> None:
        for bad in ("\r", "\n", "\0", "\r\nRCPT TO:<eve@example.org>\r\n"):
            for build in self.builders(bad):
                misuse = self.assertRaises(ClientException, build)
                self.assertNotIsInstance(misuse, TemporaryError)
                self.assertIsNone(misuse.reply)

    def builders(self, bad: str) -> list[Callable[[], Session]]:
        good = {
            "mailHosts": [HOST], "clientAddress": "client.example.net", "messageId": "a test",
            "source": "ann@example.net", "destination": "bob@example.org",
        }  # fmt: skip
        changed = [{name: [bad] if name == "mailHosts" else f"ann{bad}@example.net"} for name in good]
        return [partial(Session, **{**good, **change}) for change in changed]  # type: ignore[arg-type]  # all by name

    def test_cr_lf_and_nul_in_a_line_sent_by_hand_are_misuse_and_nothing_is_sent(self) -> None:
        session, server = self.opened()
        for bad in ("\r", "\n", "\0"):
            self.assertRaises(ClientException, session.sendLine, f"NOOP{bad}RSET")
        session.close()
        self.assertEqual(server.peer.heard, ["EHLO client.example.net", "QUIT"])

    def test_one_string_for_the_hosts_is_misuse(self) -> None:
        self.assertRaises(ClientException, self.session, hosts="mail.example.org")

    def test_a_host_that_is_no_name_is_misuse(self) -> None:
        session = Session(["a" * 64 + ".example"], "client.example.net", "id", "", "bob@example.org")
        self.assertRaises(ClientException, partial(session.plain, 25))

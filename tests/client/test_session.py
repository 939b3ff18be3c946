"""
What a Session does once it is open: the message, its exceptions, lines by hand, the end.
"""

from __future__ import annotations

import base64
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx import client
from pymail_tx.client import ClientException, Session, TemporaryError
from tests.client.scripted import HOST, Peer, SessionTestCase, hang_up, say_nothing
from tests.net.certificates import Authority

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CONTENT = b"Subject: Hello\r\n\r\nHow are you?\r\n"


def encoded(secret: str) -> str:
    """As it goes over the wire."""
    return base64.b64encode(secret.encode()).decode("ascii")


LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\0\n", b"\n\0")


class TheMessage(SessionTestCase):
    def test_a_message_goes_out_as_it_is(self) -> None:
        session, server = self.started()
        session.startData()
        session.sendData(CONTENT)
        session.endData()
        session.close()
        self.assertEqual((server.peer.content, server.peer.accepted), (CONTENT, True))
        self.assertEqual(server.peer.heard[-2:], ["DATA", "QUIT"])

    def test_send_data_takes_bytes_and_str(self) -> None:
        self.assertEqual(self.received(b"\xff\r\n"), b"\xff\r\n")
        self.assertEqual(self.received("ä\r\n"), "ä\r\n".encode())
        self.assertEqual(self.received("\udcff\r\n"), b"\xff\r\n")

    def test_a_str_without_octets_is_misuse(self) -> None:
        session, _ = self.started()
        session.startData()
        self.assertRaises(ClientException, session.sendData, "\ud800")
        session.sendData("still here")
        session.endData()
        session.close()

    def test_send_data_changes_nothing(self) -> None:
        content = b"..a dot doubled\r\n.a dot that is not\r\nbare\nline\rends " + b"x" * 2_000 + b"\x00\xff\r\n"
        self.assertEqual(self.received(content), content)

    def test_end_data_adds_a_missing_last_crlf(self) -> None:
        for pieces, received in (
            ([b"text"], b"text\r\n"),
            ([b"text\r\n"], b"text\r\n"),
            ([b"text\r", b"\n"], b"text\r\n"),
            ([b"text\r"], b"text\r\r\n"),
            ([b"text\n"], b"text\n\r\n"),
            ([b"x" * 70_000], b"x" * 70_000 + b"\r\n"),
            ([], b""),
            ([b""], b""),
        ):
            self.assertEqual(self.received(*pieces), received)

    def test_small_pieces_go_out_together(self) -> None:
        session, server = self.started()
        session.startData()
        for _ in range(2_000):
            session.sendData(b"a line\r\n")
        session.endData()
        session.close()
        self.assertEqual(server.peer.content, b"a line\r\n" * 2_000)
        self.assertEqual(session.dataSize, 16_000)

    def test_a_second_message_can_follow_by_hand(self) -> None:
        session, server = self.started()
        for _ in range(2):
            session.startData()
            session.sendData(b"x")
            session.endData()
            self.assertEqual(session.dataSize, 1)
            for line in ("MAIL FROM:<>", "RCPT TO:<bob@example.org>"):
                session.sendLine(line)
                session.read()
        session.close()
        self.assertEqual(server.peer.content, b"x\r\nx\r\n")

    def received(self, *pieces: bytes | str) -> bytes:
        session, server = self.started()
        session.startData()
        for piece in pieces:
            session.sendData(piece)
        session.endData()
        session.close()
        return server.peer.content


class LoneDots(SessionTestCase):
    def test_a_lone_dot_under_any_line_ending_convention_raises_and_the_message_is_not_accepted(self) -> None:
        for before in (b"", *LINE_ENDS):
            for behind in LINE_ENDS:
                self.refused(b"text" * bool(before) + before + b"." + behind + b"MAIL FROM:<eve@example.org>\r\n")

    def test_however_it_is_cut(self) -> None:
        for line_end in LINE_ENDS:
            content = b"text" + line_end + b"." + line_end + b"more"
            for cut in range(1, len(content)):
                self.refused(content[:cut], content[cut:])
            self.refused(*(content[at : at + 1] for at in range(len(content))))

    def test_also_where_blocks_of_a_large_piece_meet(self) -> None:
        for short in range(4):
            self.refused(b"x" * (65_536 - short) + b"\r\n.\r\n" + b"x" * 10_000)

    def test_also_when_end_data_would_complete_it(self) -> None:
        for last in (b".", b"text\r\n.", b"text\n.", b"text\r.", b"text\n.\0"):
            self.refused(last)
            self.refused(*(last[at : at + 1] for at in range(len(last))))

    def test_a_doubled_dot_and_a_dot_with_text_behind_it_are_none(self) -> None:
        session, server = self.started()
        session.startData()
        session.sendData(b"..\r\n. \r\n.text\r\ntext.\r\n..")
        session.endData()
        session.close()
        self.assertTrue(server.peer.accepted)

    def refused(self, *pieces: bytes) -> None:
        session, server = self.started()
        session.startData()

        def send() -> None:
            for piece in pieces:
                session.sendData(piece)
            session.endData()

        refused = self.assertRaises(ClientException, send)
        self.assertNotIsInstance(refused, TemporaryError)
        self.assertEqual((session.status, session.socket), (None, None))
        peer = server.wait()
        self.assertFalse(peer.accepted, pieces)
        for line_end in (b"\n", b"\r"):
            seen = peer.content.replace(b"\0", b"").replace(b"\r\n", b"\n").replace(line_end, b"\n")
            self.assertNotIn(b"\n.\n", b"\n" + seen, pieces)
        server.stop()


class Exceptions(SessionTestCase):
    def test_a_5yz_reply_is_a_client_exception_alone_that_carries_it(self) -> None:
        for verb, step in self.steps():
            session, _ = self.started(replies={verb: b"554 5.7.1 not you"})
            refused = self.assertRaises(ClientException, step, session)
            self.assertNotIsInstance(refused, TemporaryError)
            self.assertEqual((refused.reply.code, refused.reply.enhanced), (554, "5.7.1"))
            self.assertIn("554 5.7.1 not you", str(refused))
            session.close()

    def test_a_4yz_reply_is_both(self) -> None:
        for verb, step in self.steps():
            for caught in (ClientException, TemporaryError):
                session, _ = self.started(replies={verb: b"451 4.3.0 later"})
                both = self.assertRaises(caught, step, session)
                self.assertIsInstance(both, ClientException)
                self.assertIsInstance(both, TemporaryError)
                self.assertEqual(both.reply.code, 451)
                session.close()

    def test_421_is_both_and_the_connection_is_gone(self) -> None:
        for verb, step in self.steps():
            session, _ = self.started(replies={verb: b"421 4.3.2 shutting down"})
            both = self.assertRaises(TemporaryError, step, session)
            self.assertEqual((both.reply.code, isinstance(both, ClientException)), (421, True))
            self.assertIsNone(session.socket)

    def test_what_is_no_reply_is_a_client_exception_alone(self) -> None:
        for words in (
            b"hello",
            b"",
            b"99 x",
            b"250x",
            b"2500 x",
            b"250-a\r\n251 b",
            b"250 a\nb",
            b"x" * 3_000,
        ):
            for verb, step in self.steps():
                session, _ = self.started(replies={verb: words})
                violation = self.assertRaises(ClientException, step, session)
                self.assertNotIsInstance(violation, TemporaryError)
                self.assertEqual((violation.reply, session.socket), (None, None))

    def test_a_yes_that_does_not_fit_the_step_is_no_reply_either(self) -> None:
        for (verb, step), words in zip(self.steps(), (b"250 ok", b"354 go on"), strict=True):
            session, _ = self.started(replies={verb: words})
            violation = self.assertRaises(ClientException, step, session)
            self.assertNotIsInstance(violation, TemporaryError)

    def test_a_lost_connection_is_a_temporary_error_alone(self) -> None:
        for verb, step in self.steps():
            session, _ = self.started(replies={verb: hang_up})
            lost = self.assertRaises(TemporaryError, step, session)
            self.assertNotIsInstance(lost, ClientException)
            self.assertIsNone(lost.reply)
            self.assertEqual((session.status, session.socket, session.sockfile), (None, None, None))

    def test_half_a_reply_is_none_whether_or_not_tls_says_good_bye(self) -> None:
        def half(peer: Peer, *, says_good_bye: bool) -> None:
            peer.say(b"250 2.0.0 queu")
            if says_good_bye:
                peer.socket.unwrap()  # type: ignore[attr-defined]  # TLS it is
            peer.close()

        for says_good_bye in (False, True):
            reply = partial(half, says_good_bye=says_good_bye)
            server = self.server(replies={".": reply}, certificate=Authority().issue(HOST), implicit_tls=True)
            session = self.session({465: server})
            session.start()
            session.startData()
            session.sendData(CONTENT)
            lost = self.assertRaises(TemporaryError, session.endData)
            self.assertNotIsInstance(lost, ClientException)
            self.assertIsNone(lost.reply)

    def test_a_reply_that_does_not_come_is_a_temporary_error_alone(self) -> None:
        for verb, step in self.steps():
            self.patch(client, "REPLY_TIMEOUT", 0.2)
            self.patch(client, "END_OF_DATA_TIMEOUT", 0.2)
            session, _ = self.started(replies={verb: say_nothing})
            late = self.assertRaises(TemporaryError, step, session)
            self.assertNotIsInstance(late, ClientException)

    def test_the_text_holds_no_control_characters(self) -> None:
        for verb, step in self.steps():
            session, _ = self.started(replies={verb: b"550 a\x1b[31m\x07\x7f\xc2\x9b b\x08"})
            text = str(self.assertRaises(ClientException, step, session))
            self.assertTrue(text.isprintable(), text)
            session.close()

    def test_neither_text_nor_reply_nor_cause_holds_a_secret(self) -> None:
        authority = Authority()
        secure = {"offers": ["STARTTLS"], "offers_in_tls": ["AUTH PLAIN"], "certificate": authority.issue(HOST)}
        password = "correct horse"
        secrets = [password, encoded(password), encoded(f"\0ann\0{password}")]
        for secret in secrets:
            for code in ("535 5.7.8", "454", "421", "no reply"):
                server = self.server(**secure, replies={"AUTH": f"{code} you said {secret}".encode()})
                ours = {"credentials": ("ann", password), "trust_root": self.ca_file(authority)}
                session = self.session({25: server}, **ours)
                refused = self.assertRaises(RuntimeError, partial(session.starttls, 25))
                shown = "".join(traceback.format_exception(refused)) + repr(vars(refused))
                for each in secrets:
                    self.assertNotIn(each, shown)

    @staticmethod
    def steps() -> list[tuple[str, Callable[[Session], None]]]:
        """A verb, and how to come to its reply."""

        def message(session: Session) -> None:
            session.startData()
            session.sendData(CONTENT)
            session.endData()

        return [("DATA", Session.startData), (".", message)]


class OutOfOrder(SessionTestCase):
    def test_without_a_session_each_method_is_misuse_but_close(self) -> None:
        session = self.session({})
        for method in self.methods(session):
            self.assertRaises(ClientException, method)
        session.close()

    def test_after_close_as_well(self) -> None:
        session, _ = self.started()
        session.close()
        for method in self.methods(session):
            self.assertRaises(ClientException, method)
        session.close()

    def test_before_start_data_content_is_misuse(self) -> None:
        session, server = self.started()
        self.assertRaises(ClientException, session.sendData, b"text")
        self.assertRaises(ClientException, session.endData)
        session.close()
        self.assertEqual((server.peer.content, server.peer.heard[-1]), (b"", "QUIT"))

    def test_start_data_without_an_envelope_is_misuse_and_not_sent(self) -> None:
        session, server = self.opened()
        self.assertRaises(ClientException, session.startData)
        session.close()
        self.assertEqual(server.peer.heard, ["EHLO client.example.net", "QUIT"])

    def test_inside_the_content_commands_are_misuse_and_not_sent(self) -> None:
        session, server = self.started()
        session.startData()
        for method in (session.startData, partial(session.sendLine, "NOOP"), session.read, partial(session.plain, 25)):
            self.assertRaises(ClientException, method)
        session.sendData(CONTENT)
        session.endData()
        session.close()
        self.assertEqual((server.peer.content, server.peer.accepted), (CONTENT, True))

    def test_start_on_an_open_session_is_misuse(self) -> None:
        session, _ = self.opened()
        self.assertRaises(ClientException, session.start)
        session.close()

    def methods(self, session: Session) -> list[Callable[[], object]]:
        return [
            session.startData, partial(session.sendData, b"x"), session.endData, partial(session.sendLine, "NOOP"),
            session.read,
        ]  # fmt: skip


class TheEnd(SessionTestCase):
    def test_after_250_no_221_is_no_error(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 0.3)
        for reply in (hang_up, say_nothing):
            session, server = self.started(replies={"QUIT": reply})
            session.startData()
            session.endData()
            session.close()
            self.assertTrue(server.peer.accepted)
            self.assertEqual((session.status, session.socket), (None, None))

    def test_neither_is_a_connection_that_ended_before_quit(self) -> None:
        for words in (b"250 ok", b"250 ok\r\n421 idle"):

            def accept_and_go(peer: Peer, words: bytes = words) -> None:
                peer.say(words + b"\r\n")
                peer.close()

            session, server = self.started(replies={".": accept_and_go})
            session.startData()
            session.endData()
            server.wait()
            session.close()

    def test_another_reply_to_quit_is_a_client_exception(self) -> None:
        session, _ = self.opened(replies={"QUIT": b"554 no"})
        refused = self.assertRaises(ClientException, session.close)
        self.assertEqual((refused.reply.code, session.socket), (554, None))

    def test_close_inside_the_content_raises_and_the_message_is_not_accepted(self) -> None:
        session, server = self.started()
        session.startData()
        session.sendData(CONTENT)
        self.assertRaises(ClientException, session.close)
        self.assertEqual((server.wait().accepted, session.socket), (False, None))
        session.close()

    def test_close_twice_is_no_error(self) -> None:
        session, _ = self.opened()
        session.close()
        session.close()

    def test_closing_tls_says_so(self) -> None:
        def at_the_end(peer: Peer) -> None:
            peer.say(b"221 bye\r\n")
            peer.socket.unwrap()  # type: ignore[attr-defined]  # TLS; raises without close_notify
            said.append(True)

        said: list[bool] = []
        server = self.server(implicit_tls=True, certificate=Authority().issue(HOST), replies={"QUIT": at_the_end})
        session = self.session({465: server})
        session.tls(465)
        session.close()
        server.wait()
        self.assertEqual(said, [True])


class ByHand(SessionTestCase):
    def test_read_gives_a_code_and_a_text_for_each_line(self) -> None:
        session, _ = self.opened(replies={"HELP": b"214-one\r\n214-two\r\n214"})
        session.sendLine("HELP")
        self.assertEqual(session.read(), [("214", "one"), ("214", "two"), ("214", "")])
        session.close()

    def test_a_refusal_read_by_hand_is_no_exception(self) -> None:
        session, _ = self.opened(replies={"VRFY": b"550 5.1.1 unknown"})
        session.sendLine("VRFY bob")
        self.assertEqual(session.read(), [("550", "5.1.1 unknown")])
        session.close()

    def test_replies_are_read_in_the_order_of_their_lines(self) -> None:
        session, _ = self.opened(replies={"VRFY": [b"252 one", b"252 two"]})
        session.sendLine("VRFY one")
        session.sendLine("VRFY two")
        self.assertEqual(session.read() + session.read(), [("252", "one"), ("252", "two")])
        session.close()

    def test_read_without_a_line_sent_is_misuse(self) -> None:
        session, _ = self.opened()
        self.assertRaises(ClientException, session.read)
        session.close()

    def test_a_whole_message_can_be_sent_by_hand(self) -> None:
        session, server = self.opened()
        for line in ("MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>", "DATA"):
            session.sendLine(line)
            session.read()
        for line in ("Subject: Hello", "", "..text", "."):
            session.sendLine(line)
        self.assertEqual(session.read(), [("250", "2.0.0 queued")])
        session.close()
        self.assertEqual(server.peer.content, b"Subject: Hello\r\n\r\n..text\r\n")

    def test_cr_lf_and_nul_in_a_line_of_content_are_misuse(self) -> None:
        session, server = self.opened()
        for line in ("MAIL FROM:<ann@example.net>", "RCPT TO:<bob@example.org>", "DATA"):
            session.sendLine(line)
            session.read()
        for bad in ("\r", "\n", "\0"):
            self.assertRaises(ClientException, session.sendLine, f"text{bad}.")
        session.sendLine(".")
        session.read()
        session.close()
        self.assertEqual(server.peer.content, b"")

    def test_quit_by_hand_is_answered_and_close_has_nothing_left_to_say(self) -> None:
        session, server = self.opened()
        session.sendLine("QUIT")
        self.assertEqual(session.read(), [("221", "2.0.0 bye")])
        session.close()
        self.assertEqual(server.peer.heard[-1:], ["QUIT"])

    def test_an_exchange_of_several_rounds_can_be_spoken_by_hand(self) -> None:
        replies = {"AUTH": b"334 VXNlcm5hbWU6", "YW5U": b"334 UGFzc3dvcmQ6", "C2VJCMV0": b"235 welcome"}
        session, _ = self.opened(replies=replies)
        for line, reply in zip(("AUTH LOGIN", "YW5u", "c2VjcmV0"), replies.values(), strict=True):
            session.sendLine(line)
            self.assertEqual(" ".join(session.read()[0]), reply.decode())
        session.close()

    def test_server_response_re_parses_the_lines_of_replies(self) -> None:
        pattern = Session.serverResponseRe
        for line, groups in (
            ("250 ok", ("250", " ", "ok")),
            ("250-more", ("250", "-", "more")),
            ("250", ("250", None, None)),
            ("250 ", ("250", " ", "")),
        ):
            found = pattern.match(line)
            assert found
            self.assertEqual(found.groups(), groups)
        for line in ("", "25 x", "2500 x", "250text", "650 x", "hello"):
            self.assertIsNone(pattern.match(line))


class Unasked(SessionTestCase):
    def test_a_reply_that_nobody_asked_for_is_not_taken_for_that_of_the_next_step(self) -> None:
        session, server = self.started(replies={"RCPT": b"250 ok\r\n354 go on"})
        violation = self.assertRaises(ClientException, session.startData)
        self.assertNotIsInstance(violation, TemporaryError)
        self.assertNotIn("DATA", server.wait().heard)

    def test_also_when_it_comes_while_the_session_is_idle(self) -> None:
        def late(peer: Peer) -> None:
            peer.say(b"250 ok\r\n")
            time.sleep(0.1)
            peer.say(b"250 ok\r\n")

        session, server = self.opened(replies={"NOOP": late})
        session.sendLine("NOOP")
        session.read()
        time.sleep(0.3)
        self.assertRaises(ClientException, session.sendLine, "MAIL FROM:<ann@example.net>")
        self.assertNotIn("MAIL", str(server.wait().heard))

    def test_421_on_an_idle_connection_is_told_at_the_next_step(self) -> None:
        def idle(peer: Peer) -> None:
            peer.say(b"250 ok\r\n421 4.4.2 idle for too long\r\n")
            peer.close()

        session, server = self.started(replies={"RCPT": idle})
        server.wait()
        both = self.assertRaises(TemporaryError, session.startData)
        self.assertEqual((both.reply.code, isinstance(both, ClientException)), (421, True))
        self.assertIsNone(session.socket)

    def test_a_refusal_in_the_middle_of_the_content_ends_it_and_no_dot_is_sent(self) -> None:
        def too_much(peer: Peer) -> None:
            peer.say(b"354 go on\r\n")
            peer.socket.recv(10)
            peer.say(b"552 5.3.4 too much\r\n")
            peer.wait_until_gone()

        session, server = self.started(replies={"DATA": too_much})
        session.startData()

        def send() -> None:
            for _ in range(1_000):
                session.sendData(b"x" * 10_000 + b"\r\n")

        refused = self.assertRaises(ClientException, send)
        self.assertNotIsInstance(refused, TemporaryError)
        self.assertEqual((refused.reply.code, session.socket), (552, None))
        self.assertFalse(server.wait().accepted)

    def test_a_refusal_that_came_before_the_dot_is_told_by_end_data_and_no_dot_is_sent(self) -> None:
        def too_much(peer: Peer) -> None:
            peer.say(b"354 go on\r\n")
            peer.socket.recv(10)
            peer.say(b"452 4.3.1 full\r\n")
            refused.append(True)
            peer.content = b"".join(iter(partial(peer.socket.recv, 65_536), b""))

        refused: list[bool] = []
        session, server = self.started(replies={"DATA": too_much})
        session.startData()
        session.sendData(b"x" * 5_000)
        while not refused:
            time.sleep(0.01)
        time.sleep(0.05)
        both = self.assertRaises(TemporaryError, session.endData)
        self.assertEqual(both.reply.code, 452)
        self.assertNotIn(b".", server.wait().content)

    def test_a_refusal_followed_by_the_end_of_the_connection_is_told_although_writing_failed(self) -> None:
        def refuse_and_go(peer: Peer) -> None:
            peer.say(b"354 go on\r\n")
            peer.socket.recv(10)
            peer.say(b"552 5.3.4 too much\r\n")
            peer.close()

        session, _ = self.started(replies={"DATA": refuse_and_go})
        session.startData()

        def send() -> None:
            for _ in range(1_000):
                session.sendData(b"x" * 100_000 + b"\r\n")

        refused = self.assertRaises(ClientException, send)
        self.assertEqual(refused.reply.code, 552)


class FullForAMoment(socket.socket):
    """A socket that takes nothing when it is asked for the first C{times}."""

    times = 0

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        self.times -= 1
        if self.times >= 0:
            raise BlockingIOError
        return super().send(data, flags)


class Deadlines(SessionTestCase):
    def test_reply_timeout_and_end_of_data_timeout_are_read_when_a_session_opens(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 0.2)
        self.patch(client, "END_OF_DATA_TIMEOUT", 0.5)
        for verb, seconds in (("DATA", 0.2), (".", 0.5)):
            session, _ = self.started(replies={verb: say_nothing})
            client.REPLY_TIMEOUT = client.END_OF_DATA_TIMEOUT = 60
            began = time.monotonic()
            self.assertRaises(TemporaryError, self.message, session)
            self.assertTrue(seconds <= time.monotonic() - began < seconds + 2)
            client.REPLY_TIMEOUT, client.END_OF_DATA_TIMEOUT = 0.2, 0.5  # type: ignore[assignment]  # fractions, too

    def test_a_reply_in_drips_does_not_escape_reply_timeout(self) -> None:
        def drip(peer: Peer) -> None:
            while True:
                peer.say(b"354-go on\r\n")
                time.sleep(0.03)

        self.patch(client, "REPLY_TIMEOUT", 0.4)
        session, _ = self.started(replies={"DATA": drip})
        began = time.monotonic()
        late = self.assertRaises(TemporaryError, session.startData)
        self.assertTrue(0.4 <= time.monotonic() - began < 2)
        self.assertNotIsInstance(late, ClientException)

    def test_a_server_that_stops_reading_is_a_temporary_error_after_reply_timeout(self) -> None:
        for secure in (False, True):
            self.patch(client, "REPLY_TIMEOUT", 0.4)
            session, release = self.deaf(secure=secure)
            session.startData()

            def send(session: Session = session) -> None:
                for _ in range(1_000):
                    session.sendData(b"x" * 1_000_000)

            began = time.monotonic()
            stalled = self.assertRaises(TemporaryError, send)
            release.append(True)
            self.assertTrue(0.4 <= time.monotonic() - began < 5)
            self.assertNotIsInstance(stalled, ClientException)
            self.assertIsNone(session.socket)

    def test_a_socket_that_can_take_the_rest_a_moment_later_is_not_waited_for_any_longer(self) -> None:
        server = self.server()
        connected = socket.create_connection(("127.0.0.1", server.port))
        full_for_a_moment = FullForAMoment(fileno=connected.detach())
        session = self.session(connect=lambda address, timeout_s: full_for_a_moment)
        session.plain(25)
        for line in ("MAIL FROM:<>", "RCPT TO:<bob@example.org>"):
            session.sendLine(line)
            session.read()
        session.startData()
        full_for_a_moment.times = 2
        began = time.monotonic()
        session.sendData(b"x" * 100_000)
        session.endData()
        session.close()
        self.assertLess(time.monotonic() - began, 4)
        self.assertEqual(len(server.peer.content), 100_002)

    def test_time_between_calls_is_the_programs_own(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 0.2)
        session, server = self.started()
        session.startData()
        time.sleep(0.3)
        session.sendData(b"x" * 10_000)
        time.sleep(0.3)
        session.sendData(b"x" * 10_000)
        session.endData()
        time.sleep(0.3)
        session.close()
        self.assertTrue(server.peer.accepted)

    def deaf(self, *, secure: bool) -> tuple[Session, list[bool]]:
        """A session with a server that reads nothing behind DATA until it is released."""

        def hear_no_more(peer: Peer) -> None:
            peer.say(b"354 go on\r\n")
            while not release:
                time.sleep(0.01)
            peer.close()

        release: list[bool] = []
        tls = {"implicit_tls": True, "certificate": Authority().issue(HOST)} if secure else {}
        session = self.session({465 if secure else 587: self.server(replies={"DATA": hear_no_more}, **tls)})
        session.start()
        return session, release

    def message(self, session: Session) -> None:
        session.startData()
        session.endData()


class Attributes(SessionTestCase):
    def test_they_tell_after_each_step_where_the_session_is(self) -> None:
        server = self.server()
        session = self.session({587: server})
        steps: list[tuple[Callable[[], object], int | None, int]] = [
            (session.start, client.COMMAND_MODE, 0),
            (session.startData, client.DATA_MODE, 0),
            (partial(session.sendData, b"12345"), client.DATA_MODE, 5),
            (partial(session.sendData, "ä"), client.DATA_MODE, 7),
            (session.endData, client.COMMAND_MODE, 7),
        ]
        self.assertEqual((session.status, session.host, session.port, session.socket, session.sockfile), (None,) * 5)
        for step, status, octets in steps:
            step()
            self.assertEqual((session.status, session.dataSize), (status, octets))
            self.assertEqual((session.host, session.port), (HOST, 587))
            assert session.socket
            assert session.sockfile
            self.assertEqual(session.socket.getpeername()[1], server.port)
            self.assertEqual(session.sockfile.fileno(), session.socket.fileno())
        session.close()
        self.assertEqual((session.status, session.socket, session.sockfile), (None, None, None))
        self.assertEqual((session.host, session.port, session.dataSize), (HOST, 587, 7))

    def test_the_arguments_are_attributes_under_their_names(self) -> None:
        session = Session([HOST], "client.example.net", "id", "ann@example.net", "bob@example.org", ("ann", "secret"))
        self.assertEqual(
            (session.mailHosts, session.clientAddress, session.messageId, session.source, session.destination),
            ([HOST], "client.example.net", "id", "ann@example.net", "bob@example.org"),
        )
        self.assertEqual(session.credentials, ("ann", "secret"))

    def test_they_may_be_changed_before_start(self) -> None:
        server = self.server()
        session = self.session({587: server})
        session.destination = "carol@example.org"
        session.start()
        session.close()
        self.assertIn("RCPT TO:<carol@example.org>", server.peer.heard)

    def test_the_message_id_stands_in_the_log_and_the_password_does_not(self) -> None:
        server = self.server()
        session = self.session({25: server}, credentials=("ann", "correct horse"))
        with self.assertLogs(session.log, "DEBUG") as logged:
            session.plain(25)
        session.close()
        self.assertIn("a test", str(logged.output))
        self.assertNotIn("correct horse", str(logged.output))


class Shape(SynchronousTestCase):
    def test_everything_pymail_names_is_there(self) -> None:
        session = Session([HOST], "client.example.net", "id", "ann@example.net", "bob@example.org")
        names = """
            start startData sendData endData close plain starttls tls read sendLine serverResponseRe
            clientAddress credentials dataSize destination host log mailHosts messageId port socket sockfile
            source status
        """
        for name in names.split():
            self.assertTrue(hasattr(session, name), name)

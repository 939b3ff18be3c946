"""
SCRAM (RFC 5802, RFC 7677): either side proves that it knows the password, and
neither tells it.

It takes two responses, with the salted password computed between them, and an
empty third that only thanks for the server's proof: SMTP has no room for that
proof in the reply that says yes. With channel binding (the -PLUS forms) both
also prove that they mean the same TLS session, so that nobody sits between.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re

from attrs import field, frozen

from pymail_tx.core.authentication import Computation, Mechanism, Refusal, Response
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.saslprep import saslprep
from pymail_tx.core.secret import Secret

MIN_ITERATIONS = 4_096
"""Fewer protect a password too little from whoever records the proof (RFC 5802 §5.1, RFC 7677 §4)."""

MAX_ITERATIONS = 600_000
"""
What OWASP asks for PBKDF2 with SHA-256; more than any mail server is known to
ask for. It takes 0.15 s of a processor, and a server must not have more of it.
"""

MIN_NONCE_CHARACTERS = 16
"""96 bits in base64: no two exchanges share a nonce, and nobody guesses the next (RFC 5802 §9)."""

_PRINTABLE = r"[!-+\--~]"  # any ASCII character but the comma, RFC 5802 §7
_NONCE = re.compile(rf"{_PRINTABLE}{{{MIN_NONCE_CHARACTERS},256}}")
_BINDING_NAME = re.compile(r"[A-Za-z0-9.-]{1,64}")
_EXTENSIONS = r"(?:,[A-Za-ln-z]=[^\0,]+)*"
"""What may follow and is skipped. Not C{m}: whoever does not know it must not go on (RFC 5802 §5.1)."""

_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_SERVER_FIRST = re.compile(rf"r=({_PRINTABLE}+),s=({_BASE64}),i=([1-9][0-9]{{0,8}}){_EXTENSIONS}".encode())
_SERVER_FINAL = re.compile(rf"v=({_BASE64}){_EXTENSIONS}".encode())
_SERVER_ERROR = re.compile(rf"e=([^\0,]+){_EXTENSIONS}".encode())

_ERRORS = frozenset({
    "invalid-encoding", "extensions-not-supported", "invalid-proof", "channel-bindings-dont-match",
    "server-does-support-channel-binding", "channel-binding-not-supported", "unsupported-channel-binding-type",
    "unknown-user", "invalid-username-encoding", "no-resources", "other-error",
})  # fmt: skip
"""RFC 5802 §7."""


@frozen
class ChannelBinding:
    """
    What only the two ends of one TLS session know of it.

    @ivar name: C{tls-exporter} (RFC 9266) or C{tls-server-end-point} (RFC 5929).
    @ivar octets: its data.
    @raise BadArgument: either is not what SCRAM can carry.
    """

    name: str
    octets: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not _BINDING_NAME.fullmatch(self.name) or not self.octets:
            raise BadArgument("channel binding", "a name of letters, digits, '.' and '-', and data")


def can_prepare(credentials: Credentials) -> bool:
    """
    Whether SCRAM can be used with them: user and password have their one
    spelling, which both sides hash.
    """
    try:
        _prepared(credentials)
    except BadArgument:
        return False
    return True


def scram(
    hash_name: str, credentials: Credentials, *, nonce: str, binding: ChannelBinding | None, plus: bool
) -> Mechanism:
    """
    @param hash_name: C{sha256} or C{sha1}.
    @param nonce: printable ASCII without a comma, random and fresh.
    @param binding: of the session, if we have one, used or not: a server is
        told that we could have bound the channel had it offered to, and
        notices if its offer was struck out on the way (RFC 5802 §6).
    @param plus: whether this is the -PLUS form, which uses it.
    @raise BadArgument: the nonce is too short or cannot be sent, a -PLUS form
        lacks a binding, or the credentials cannot be prepared (L{can_prepare}).
    """
    if not _NONCE.fullmatch(nonce):
        raise BadArgument("nonce", f"at least {MIN_NONCE_CHARACTERS} printable ASCII characters, no comma")
    user, password = _prepared(credentials)
    header, bound = _channel(binding, plus=plus)
    bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}".encode()
    return _conversation(hash_name, password, _Opening(header, bound, bare, nonce.encode(), credentials.password))


def _prepared(credentials: Credentials) -> tuple[str, Secret]:
    """RFC 5802 §5.1: a user is a query. §2.2: a password is a stored string."""
    user = saslprep("user", credentials.user, stored=False)
    return user, Secret(saslprep("password", credentials.password.reveal(), stored=True))


def _channel(binding: ChannelBinding | None, *, plus: bool) -> tuple[bytes, bytes]:
    """The gs2-header, and what it binds (RFC 5802 §7)."""
    if not plus:
        return (b"y,," if binding else b"n,,"), b""
    if not binding:
        raise BadArgument("channel binding", "a -PLUS mechanism cannot do without")
    return f"p={binding.name},,".encode(), binding.octets


@frozen
class _Opening:
    """
    @ivar header: gs2-header.
    @ivar bound: the octets of the channel binding in use; none if there is none.
    @ivar bare: client-first-message-bare.
    @ivar known: what the server knows and must not be quoted with.
    """

    header: bytes
    bound: bytes = field(repr=False)
    bare: bytes
    nonce: bytes
    known: Secret


def _conversation(hash_name: str, password: Secret, opening: _Opening) -> Mechanism:
    server_first = yield Response(opening.header + opening.bare, secrets=(opening.known,))
    if refusal := _refusal(server_first):
        yield Response(b"", refusal=refusal)
        return
    asked = _Asked.read(server_first, opening.nonce)
    salted = yield Computation(hash_name, password, asked.salt, asked.iterations)
    without_proof = b"c=" + _base64(opening.header + opening.bound) + b",r=" + asked.nonce
    proofs = _Proofs.of(hash_name, salted, b",".join((opening.bare, server_first, without_proof)))
    proof = _base64(proofs.client)
    server_final = yield Response(without_proof + b",p=" + proof, secrets=(Secret(proof.decode()),))
    if refusal := _refusal(server_final):
        yield Response(b"", refusal=refusal)
        return
    _check(server_final, proofs.server)
    yield Response(b"", complete=True)


@frozen
class _Asked:
    """The server-first-message."""

    nonce: bytes
    salt: bytes
    iterations: int

    @classmethod
    def read(cls, challenge: bytes, nonce: bytes) -> _Asked:
        found = _SERVER_FIRST.fullmatch(challenge)
        if not found:
            raise ProtocolViolation("not a first challenge, or one with an extension that we do not know")
        asked = cls(found[1], _decoded(found[2]), int(found[3]))
        if not asked.nonce.startswith(nonce) or asked.nonce == nonce:
            raise ProtocolViolation("a nonce that does not extend ours")
        if not MIN_ITERATIONS <= asked.iterations <= MAX_ITERATIONS:
            problem = f"{asked.iterations} iterations, not {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            raise ProtocolViolation(problem)
        return asked


@frozen
class _Proofs:
    """
    @ivar client: ClientProof.
    @ivar server: ServerSignature.
    """

    client: bytes = field(repr=False)
    server: bytes = field(repr=False)

    @classmethod
    def of(cls, hash_name: str, salted: bytes, said: bytes) -> _Proofs:
        """RFC 5802 §3; C{said} is AuthMessage."""
        client_key = hmac.digest(salted, b"Client Key", hash_name)
        stored_key = hashlib.new(hash_name, client_key).digest()
        signature = hmac.digest(stored_key, said, hash_name)
        server_key = hmac.digest(salted, b"Server Key", hash_name)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        return cls(proof, hmac.digest(server_key, said, hash_name))


def _check(server_final: bytes, signature: bytes) -> None:
    found = _SERVER_FINAL.fullmatch(server_final)
    if not found:
        raise ProtocolViolation("not a last challenge")
    if not hmac.compare_digest(_decoded(found[1]), signature):
        raise ProtocolViolation("the server does not know the password: its signature is wrong")


def _refusal(challenge: bytes) -> Refusal | None:
    found = _SERVER_ERROR.fullmatch(challenge)
    if not found:
        return None
    error = found[1].decode("ascii", "replace")
    return Refusal((error if error in _ERRORS else "other-error").replace("-", " "))


def _base64(octets: bytes) -> bytes:
    return binascii.b2a_base64(octets, newline=False)


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise ProtocolViolation("an attribute that is no base64") from None

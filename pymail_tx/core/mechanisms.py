"""
Which SASL mechanisms there are, and which one to use: the strongest that both
sides know, and never one weaker than was asked for.

L{MECHANISMS} is the table; the next mechanism is a row there, and a generator
as L{pymail_tx.core.authentication} describes it. All of them are for TLS
sessions whose certificate verified: seeing to that is the caller's.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar

from attrs import frozen

from pymail_tx.core.authentication import Authentication, Mechanism, Refusal, Response
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.scram import ChannelBinding, can_prepare, scram
from pymail_tx.core.secret import Secret

MAX_TOKEN_CHARACTERS = 8_192
"""With user and host around it, its line in base64 stays below the 12,288 octets that servers take (RFC 4954 §4)."""

_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN_CHARACTERS}}}")
_UNSENDABLE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")


@frozen
class BearerToken:
    """
    OAuth's (RFC 6750).

    @ivar user: whose mailbox it is for.
    @ivar token: never shown, not even in a repr.
    @raise BadArgument: a control character, which could end a field early, or a
        lone surrogate; no user; a token with a space or beyond the limit.
    """

    user: str
    token: Secret

    def __attrs_post_init__(self) -> None:
        if not self.user or _UNSENDABLE.search(self.user):
            raise BadArgument("user", "empty, or with characters that cannot be sent")
        if not _TOKEN.fullmatch(self.token.reveal()):
            raise BadArgument("token", f"not 1 to {MAX_TOKEN_CHARACTERS} printable ASCII characters")


@frozen
class External:
    """
    Whoever the client certificate of the TLS session names (RFC 4422
    appendix A).

    @ivar authzid: the one to act as; empty for the certificate's own.
    @raise BadArgument: it cannot be sent.
    """

    authzid: str = ""

    def __attrs_post_init__(self) -> None:
        if _UNSENDABLE.search(self.authzid):
            raise BadArgument("authzid", "holds characters that cannot be sent")


Identity = Credentials | BearerToken | External
"""What we have to say who we are."""


@frozen(kw_only=True)
class Circumstances:
    """
    What a mechanism may need of the session.

    @ivar nonce: random and fresh: at least 16 printable ASCII characters
        without a comma; for SCRAM.
    @ivar binding: of the TLS session, if it has one.
    @ivar host: as the session was asked for; for OAUTHBEARER.
    @ivar port: 0 if unknown.
    @raise BadArgument: C{host} cannot be sent.
    """

    nonce: str = ""
    binding: ChannelBinding | None = None
    host: str = ""
    port: int = 0

    def __attrs_post_init__(self) -> None:
        if _UNSENDABLE.search(self.host):
            raise BadArgument("host", "holds characters that cannot be sent")


def plain(credentials: Credentials, _: Circumstances) -> Mechanism:
    """PLAIN (RFC 4616)."""
    yield Response(b"\0".join((b"", *_encoded(credentials))), complete=True, secrets=(credentials.password,))


def login(credentials: Credentials, _: Circumstances) -> Mechanism:
    """
    LOGIN (draft-murchison-sasl-login-00). The prompts are C{Username:} and
    C{Password:}, C{User Name} and C{Password}, or anything else: their order
    says which is which.
    """
    user, password = _encoded(credentials)
    yield None
    yield Response(user)
    yield Response(password, complete=True, secrets=(credentials.password,))


def cram_md5(credentials: Credentials, _: Circumstances) -> Mechanism:
    """CRAM-MD5 (RFC 2195)."""
    user, password = _encoded(credentials)
    challenge = yield None
    if not challenge:
        raise ProtocolViolation("an empty challenge")  # the same proof for ever
    proof = hmac.digest(password, challenge, "md5").hex()
    yield Response(user + b" " + proof.encode(), complete=True, secrets=(credentials.password, Secret(proof)))


def external(identity: External, _: Circumstances) -> Mechanism:
    """EXTERNAL (RFC 4422 appendix A)."""
    yield Response(identity.authzid.encode(), complete=True)


def xoauth2(bearer: BearerToken, _: Circumstances) -> Mechanism:
    """XOAUTH2, Google's and Microsoft's. An error gets an empty response."""
    fields = f"user={bearer.user}\1auth=Bearer {bearer.token.reveal()}\1\1"
    challenge = yield Response(fields.encode(), complete=True, secrets=(bearer.token,))
    yield Response(b"", refusal=_token_refusal(challenge))


def oauthbearer(bearer: BearerToken, circumstances: Circumstances) -> Mechanism:
    """OAUTHBEARER (RFC 7628). An error gets a lone ^A (§3.2.3)."""
    user = bearer.user.replace("=", "=3D").replace(",", "=2C")
    host = f"\1host={circumstances.host}" if circumstances.host else ""
    port = f"\1port={circumstances.port}" if circumstances.port else ""
    fields = f"n,a={user},{host}{port}\1auth=Bearer {bearer.token.reveal()}\1\1"
    challenge = yield Response(fields.encode(), complete=True, secrets=(bearer.token,))
    yield Response(b"\1", refusal=_token_refusal(challenge))


def _scram(hash_name: str, credentials: Credentials, circumstances: Circumstances, *, plus: bool) -> Mechanism:
    return scram(hash_name, credentials, nonce=circumstances.nonce, binding=circumstances.binding, plus=plus)


def _encoded(credentials: Credentials) -> tuple[bytes, bytes]:
    return credentials.user.encode(), credentials.password.reveal().encode()


_STALE = frozenset({"401", "invalid_token", "400"})
"""RFC 7628 §3.2.2 and RFC 6750 §3.1 for the first two; Gmail says 400 of a token that it does not take."""

_KNOWN_STATUS = re.compile(r"[1-5][0-9]{2}|invalid_token|invalid_request|insufficient_scope")


def _token_refusal(challenge: bytes) -> Refusal:
    """
    What the error's JSON says. Whatever it is, it was an error; the reply that
    follows is not to be lost over one that cannot be read.
    """
    try:
        error = json.loads(challenge)
    except (ValueError, RecursionError):
        error = None
    status = error.get("status") if isinstance(error, dict) else None
    status = str(status) if isinstance(status, str | int) else ""
    if not _KNOWN_STATUS.fullmatch(status):
        return Refusal("the token was not taken")
    return Refusal(f"the token was not taken: status {status}", stale_token=status in _STALE)


Held = TypeVar("Held", Credentials, BearerToken, External)


@frozen
class Kind(Generic[Held]):
    """
    A row of L{MECHANISMS}.

    @ivar needs: what we must have for it.
    @ivar strength: see the table.
    @ivar make: the mechanism.
    @ivar binds: whether it needs a channel binding.
    @ivar suits: whether what we have can be used with it.
    """

    needs: type[Held]
    strength: int
    make: Callable[[Held, Circumstances], Mechanism]
    binds: bool = False
    suits: Callable[[Held], bool] = lambda _: True

    def can(self, identity: Identity, binding: ChannelBinding | None) -> bool:
        """Whether it can be used with these."""
        bound = binding is not None or not self.binds
        return bound and isinstance(identity, self.needs) and self.suits(identity)

    def start(self, identity: Identity, circumstances: Circumstances) -> Mechanism:
        """
        The mechanism at work.

        @raise BadArgument: it needs something else.
        """
        if not isinstance(identity, self.needs):
            raise BadArgument("identity", f"not {self.needs.__name__}, which the mechanism needs")
        return self.make(identity, circumstances)


MECHANISMS: Mapping[str, Kind[Credentials] | Kind[BearerToken] | Kind[External]] = MappingProxyType({
    # Both sides prove that they know the password, and neither tells it; with -PLUS in this TLS session.
    "SCRAM-SHA-256-PLUS": Kind(Credentials, 7, partial(_scram, "sha256", plus=True), binds=True, suits=can_prepare),
    "SCRAM-SHA-256": Kind(Credentials, 6, partial(_scram, "sha256", plus=False), suits=can_prepare),
    "SCRAM-SHA-1-PLUS": Kind(Credentials, 5, partial(_scram, "sha1", plus=True), binds=True, suits=can_prepare),
    "SCRAM-SHA-1": Kind(Credentials, 4, partial(_scram, "sha1", plus=False), suits=can_prepare),
    # The server is told a secret that ends by itself and is good for little else.
    "XOAUTH2": Kind(BearerToken, 3, xoauth2),
    "OAUTHBEARER": Kind(BearerToken, 3, oauthbearer),
    # TLS has proved it already, with no secret told; that it did is the server's word.
    "EXTERNAL": Kind(External, 2, external),
    # The server is told the password.
    "PLAIN": Kind(Credentials, 1, plain),
    "LOGIN": Kind(Credentials, 1, login),
    # It is not, but must keep it in the clear itself, and a recorded proof is quickly guessed from.
    "CRAM-MD5": Kind(Credentials, 0, cram_md5),
})  # fmt: skip
"""
By name, in the order of preference, the strongest first. Equal strengths do as
well as each other where a minimum is asked for.
"""


def choose(
    offered: frozenset[str],
    identity: Identity,
    *,
    minimum: str | None = None,
    binding: ChannelBinding | None = None,
) -> str | None:
    """
    @param offered: the server's mechanisms, in capitals.
    @param minimum: the weakest that will do, by its name; by default any.
    @return: the strongest that both know; C{None} if there is none.
    @raise BadArgument: C{minimum} is no mechanism that we know.
    """
    weakest = _strength(minimum) if minimum else 0
    for name, kind in MECHANISMS.items():
        if name in offered and kind.strength >= weakest and kind.can(identity, binding):
            return name
    return None


def _strength(name: str) -> int:
    if name not in MECHANISMS:
        raise BadArgument("minimum mechanism", f"{name!r} is none of {', '.join(MECHANISMS)}")
    return MECHANISMS[name].strength


def begin(name: str, identity: Identity, circumstances: Circumstances) -> Authentication:
    """
    An authentication with the mechanism that L{choose} named.

    @raise BadArgument: the mechanism is not known, or cannot do with these.
    """
    if name not in MECHANISMS:
        raise BadArgument("mechanism", f"{name!r} is none of {', '.join(MECHANISMS)}")
    return Authentication(name, MECHANISMS[name].start(identity, circumstances))

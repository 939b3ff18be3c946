"""
What is kept of a user's password: enough to tell whether somebody knows it, and
not the password.

Two kinds, each a line of text that can stand in a configuration::

    $scrypt$ln=15,r=8,p=3$SALT$KEY                              scrypt (RFC 7914)
    SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY         SCRAM (RFC 5803)

scrypt is the stronger against whoever steals the configuration, but can only
be asked with the password itself, as PLAIN and LOGIN send it. SCRAM's serves
SCRAM, which never tells the password, and PLAIN and LOGIN as well. Salts and
keys are base64, scrypt's without its padding.

A password is hashed in its one spelling (RFC 4013). To check one takes a tenth
of a second and more: not for the reactor's thread.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re

from attrs import field, frozen

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.saslprep import saslprep
from pymail_tx.core.scram import MAX_ITERATIONS, MIN_ITERATIONS
from pymail_tx.core.secret import Secret

MIN_SALT_OCTETS = 8
"""A salt from elsewhere may be short; ours have 16, L{SALT_OCTETS}."""

SALT_OCTETS = 16
"""Random, for each verifier: no two users share one (NIST SP 800-132 §5.1)."""

SCRAM_ITERATIONS = MAX_ITERATIONS
"""What OWASP asks for. A client computes them, once for each session."""

MAX_SCRYPT_OCTETS = 256 * 1_048_576
"""Of memory for one check: a slip of the pen in a verifier must not take the machine's."""

_KEY_OCTETS = 32
_B64 = r"[A-Za-z0-9+/]+"
_SCRYPT = re.compile(rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,2}}),p=([0-9]{{1,2}})\$({_B64})\$({_B64})")
_SCRAM = re.compile(rf"SCRAM-SHA-256\$([0-9]{{1,9}}):({_B64}={{0,2}})\$({_B64}={{0,2}}):({_B64}={{0,2}})")


@frozen(kw_only=True)
class ScryptVerifier:
    """
    @ivar log_cost: scrypt's N is 2 to that power.
    @ivar block_size: scrypt's r. A check takes 128 N r octets of memory.
    @ivar parallelism: scrypt's p: a factor in time, none in memory.
    """

    log_cost: int = 15
    block_size: int = 8
    parallelism: int = 3
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        costs = 10 <= self.log_cost <= 24 and 1 <= self.block_size <= 32 and 1 <= self.parallelism <= 16
        if not costs or self._octets > MAX_SCRYPT_OCTETS:
            raise BadArgument("verifier", "has costs beyond ln=10 to 24, r=1 to 32, p=1 to 16 and 256 MiB")
        _refuse_sizes(self.salt, self.key)

    @classmethod
    def of(cls, password: Secret, salt: bytes) -> ScryptVerifier:
        """
        Make one, with the costs that OWASP's cheat sheet on password storage
        asks for. It takes a quarter of a second.

        @param salt: random octets, L{SALT_OCTETS} of them.
        @raise BadArgument: the password is empty or has characters that SASL
            prohibits.
        """
        blank = cls(salt=salt, key=bytes(_KEY_OCTETS))
        return cls(salt=salt, key=blank._derived(_prepared(password)))

    def check(self, password: Secret) -> bool:
        """Whether that is the password. How long it takes does not depend on how much of it is right."""
        try:
            derived = self._derived(_prepared(password))
        except BadArgument:  # nobody can have that one
            return False
        return hmac.compare_digest(derived, self.key)

    def reveal(self) -> str:
        """As L{read} takes it."""
        costs = f"ln={self.log_cost},r={self.block_size},p={self.parallelism}"
        return f"$scrypt${costs}${_base64(self.salt).rstrip('=')}${_base64(self.key).rstrip('=')}"

    @property
    def _octets(self) -> int:
        return 128 * self.block_size << self.log_cost

    def _derived(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password, salt=self.salt, n=1 << self.log_cost, r=self.block_size, p=self.parallelism,
            maxmem=self._octets + 128 * self.block_size * (self.parallelism + 2), dklen=len(self.key),
        )  # fmt: skip


@frozen(kw_only=True)
class ScramVerifier:
    """
    What a server needs for SCRAM-SHA-256 (RFC 5802 §3), and nothing that lets
    it play the client.

    @ivar stored_key: StoredKey.
    @ivar server_key: ServerKey.
    """

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not MIN_ITERATIONS <= self.iterations <= MAX_ITERATIONS:
            raise BadArgument("verifier", f"has iterations beyond {MIN_ITERATIONS} to {MAX_ITERATIONS}")
        _refuse_sizes(self.salt, self.stored_key, self.server_key)

    @classmethod
    def of(cls, password: Secret, salt: bytes, *, iterations: int = SCRAM_ITERATIONS) -> ScramVerifier:
        """
        Make one. It takes a fifth of a second.

        @param salt: random octets, L{SALT_OCTETS} of them.
        @raise BadArgument: the password is empty or has characters that SASL
            prohibits.
        """
        stored_key, server_key = _scram_keys(_prepared(password), salt, iterations)
        return cls(iterations=iterations, salt=salt, stored_key=stored_key, server_key=server_key)

    def check(self, password: Secret) -> bool:
        """Whether that is the password. How long it takes does not depend on how much of it is right."""
        try:
            stored_key, _ = _scram_keys(_prepared(password), self.salt, self.iterations)
        except BadArgument:  # nobody can have that one
            return False
        return hmac.compare_digest(stored_key, self.stored_key)

    def reveal(self) -> str:
        """As L{read} takes it."""
        keys = f"{_base64(self.stored_key)}:{_base64(self.server_key)}"
        return f"SCRAM-SHA-256${self.iterations}:{_base64(self.salt)}${keys}"


Verifier = ScryptVerifier | ScramVerifier


def read(text: str) -> Verifier:
    """
    @param text: either form; see the module's head.
    @raise BadArgument: it is neither. The text is not quoted: it may be a
        password.
    """
    if found := _SCRYPT.fullmatch(text):
        log_cost, block_size, parallelism = (int(digits) for digits in found.group(1, 2, 3))
        salt, key = (_octets(part) for part in found.group(4, 5))
        return ScryptVerifier(log_cost=log_cost, block_size=block_size, parallelism=parallelism, salt=salt, key=key)
    if found := _SCRAM.fullmatch(text):
        salt, stored_key, server_key = (_octets(part) for part in found.group(2, 3, 4))
        return ScramVerifier(iterations=int(found[1]), salt=salt, stored_key=stored_key, server_key=server_key)
    raise BadArgument("verifier", "is neither of scrypt nor of SCRAM-SHA-256; let 'pymail-tx user add NAME' print it")


def _scram_keys(password: bytes, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """RFC 5802 §3."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def _prepared(password: Secret) -> bytes:
    return saslprep("password", password.reveal(), stored=True).encode()


def _refuse_sizes(salt: bytes, *keys: bytes) -> None:
    if not MIN_SALT_OCTETS <= len(salt) <= 64 or any(len(key) != _KEY_OCTETS for key in keys):
        raise BadArgument(
            "verifier", f"has a salt beyond {MIN_SALT_OCTETS} to 64 octets or a key of other than {_KEY_OCTETS}"
        )


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode()


def _octets(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), strict_mode=True)
    except binascii.Error:
        raise BadArgument("verifier", "has a part that is no base64") from None

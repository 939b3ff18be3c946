"""
C{pymail-tx user add}: what the configuration keeps of a user.
"""

from __future__ import annotations

import secrets
import sys

import click

from pymail_tx.cli.help import Command, Group
from pymail_tx.cli.mistake import Prevented, naming
from pymail_tx.config.keys import in_toml
from pymail_tx.config.values import user_name
from pymail_tx.core.secret import Secret
from pymail_tx.core.verifier import SALT_OCTETS, ScramVerifier, ScryptVerifier

MAX_PASSWORD_OCTETS = 1_000
"""Of a line of standard input: whoever sends more has sent the wrong file."""

EXAMPLES = """\
Examples:
  # The password is asked for; the table goes to the end of the configuration.
  pymail-tx user add ann >> relay.toml

  # The password comes from a program, such as one that makes them up.
  pwgen --secure 20 1 | tee /dev/tty | pymail-tx user add ann >> relay.toml

  # For clients that use SCRAM-SHA-256.
  pymail-tx user add --scram ann >> relay.toml
"""

GROUP_EXAMPLES = """\
Examples:
  pymail-tx user add ann >> relay.toml
"""


@click.group(cls=Group, no_args_is_help=False, epilog=GROUP_EXAMPLES)
def user() -> None:
    """Look after the users of the relay."""


@user.command(cls=Command, epilog=EXAMPLES)
@click.argument("name")
@click.option(
    "--scram", is_flag=True,
    help="Keep a SCRAM-SHA-256 verifier, so that clients can prove that they know the password without telling it. "
    "Without it, one of scrypt, which is harder to guess against if the file is stolen.",
)  # fmt: skip
def add(name: str, scram: bool) -> None:
    """
    Print what the configuration needs so that NAME can log in.

    The password is asked for on the terminal, or else is the first line of standard input. It is not kept: what is
    printed can only tell whether somebody knows it.
    """
    with naming({"name": "NAME", "password": "password"}):
        kept_name = user_name(name)
        password, salt = _password(), secrets.token_bytes(SALT_OCTETS)
        verifier = ScramVerifier.of(password, salt) if scram else ScryptVerifier.of(password, salt)
    click.echo(f"[[smtp.user]]\nname = {in_toml(kept_name)}\nverifier = {in_toml(verifier.reveal())}")


def _password() -> Secret:
    """
    @raise Prevented: there is none.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        return Secret(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline(MAX_PASSWORD_OCTETS + 2).rstrip(b"\r\n")
    if len(line) > MAX_PASSWORD_OCTETS:
        raise Prevented(f"password: more than {MAX_PASSWORD_OCTETS} octets in the first line")
    try:
        return Secret(line.decode())
    except UnicodeDecodeError:
        raise Prevented("password: standard input is not UTF-8") from None

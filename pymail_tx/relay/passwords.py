"""
Passwords that do not stand in the target itself, where a list of processes
would show them, but in a file or in the environment.
"""

from __future__ import annotations

from collections.abc import Mapping

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.routes import PasswordSource, Target
from pymail_tx.core.secret import Secret


def with_password(target: Target, environment: Mapping[str, str]) -> Target:
    """
    The target with its password read from wherever it says.

    @param environment: where C{password_env} looks.
    @raise BadArgument: there is none; the field is C{password_file} or
        C{password_env}.
    """
    return target.with_password(lambda source: _password(source, environment))


def _password(source: PasswordSource, environment: Mapping[str, str]) -> Secret:
    text = environment.get(source.name, "") if source.kind == "password_env" else _first_line(source)
    if not text:
        raise BadArgument(source.kind, f"there is no password in {source.name}")
    return Secret(text)


def _first_line(source: PasswordSource) -> str:
    try:
        with open(source.name, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadArgument(source.kind, f"{source.name} is not UTF-8") from None
    except OSError as problem:
        raise BadArgument(source.kind, f"cannot read {source.name}: {problem.strerror}") from None

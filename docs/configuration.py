"""
Writes docs/reference/configuration.md from the table of keys.

    python -m docs.configuration > docs/reference/configuration.md

The tests say when that has to be done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pymail_tx.config.keys import Row, in_toml, rows
from pymail_tx.config.settings import Settings

_HEAD = """\
# The configuration

`twistd pymail-tx --config FILE` reads a file in [TOML](https://toml.io). No key has to be there but a route; options of
[the command line](relay.md) go before what stands in the file. This one takes mail from this machine and sends it
through a provider, but for one domain:

```toml
hostname = "relay.example.org"

[spool]
url = "sqlite:spool.sqlite"

[[route]]
match = "example.org"
to = "maildir:mail"

[[route]]
match = "*"
to = "smtp://joe%40example.net@mail.example.net:587?password_env=MAIL_PASSWORD"
max_connections = 5
```

What a relay would do with a file, `pymail-tx config check` says without starting one. What it cannot use is told all
at once, with lines, and exit status 1:

```console
$ printf '[smtp]\\nlisten = "tcp:25"\\nmax_connection = 5\\n[[route]]\\nmatch = "*"\\nto = "fax:"\\n' > relay.toml
$ pymail-tx config check relay.toml; echo $?
relay.toml:2: smtp.listen: is text, not a list of texts; write for example …
relay.toml:3: smtp.max_connection: there is no such key; did you mean max_connections?
relay.toml:6: route.to: 'fax…' is not known; write for example …
1
```

On SIGHUP the relay reads the file again and applies what has changed, without dropping a connection. If there is a
mistake in it, the log says so, and all stays as it was. So does `spool.url`, which only a restart can change, until
then.

A length of time is a number and a unit: s, m, h or d.

"""

_USERS = """
```console
$ echo 'a good password' | pymail-tx user add ann >> relay.toml
$ tail -n 3 relay.toml
[[smtp.user]]
name = "ann"
verifier = "$scrypt$ln=15,r=8,p=3$…"
```

The password is asked for where there is a terminal. A `verifier` has one of two forms, salts and keys in base64:

- `$scrypt$ln=15,r=8,p=3$SALT$KEY` (RFC 7914; N is 2 to the power of `ln`), as `pymail-tx user add` prints it, serves
  PLAIN and LOGIN;
- `SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY` (RFC 5803), with `--scram`, serves SCRAM-SHA-256 and these two.
"""

_NOTES = {"smtp.user": (_USERS.rstrip(),)}


def page() -> str:
    """The whole page."""
    return _HEAD + "\n".join([*_section("", "", Settings), ""])


def _section(path: str, header: str, of: type) -> Iterator[str]:
    """Its keys, and the sections within."""
    keys = rows(of)
    yield "| key | takes | without it | |"
    yield "|---|---|---|---|"
    yield from (_line(key, row) for key, row in keys.items() if row.section is None)
    if header:
        yield from _example(header, of)
    for key, row in keys.items():
        if row.section is not None:
            yield from _below(f"{path}.{key}" if path else key, row, row.section)


def _below(path: str, row: Row, of: type) -> Iterator[str]:
    header = f"[[{path}]]" if row.repeated else f"[{path}]"
    yield from ("", f"## `{header}`", "", row.words, "")
    yield from _section(path, header, of)
    yield from _NOTES.get(path, ())


def _line(key: str, row: Row) -> str:
    without = "an error" if row.required else row.without or f"`{in_toml(row.default)}`"
    return f"| `{key}` | {row.takes} | {without} | {row.words} |"


def _example(header: str, of: type) -> Iterator[str]:
    lines = [f"{key} = {in_toml(row.example)}" for key, row in rows(of).items() if row.section is None]
    yield from ("", "```toml", header, *lines, "```")


if __name__ == "__main__":
    sys.stdout.write(page())

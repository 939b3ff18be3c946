"""
The relay's configuration: a TOML file, read into values that cannot be wrong.

L{settings} is the table of all keys: name, what it takes, default, words and an
example in one row each. L{keys} says what a row is made of. L{reading} reads a
file by the table and finds everything that is wrong with it at once, and
L{lines} says where that stands, since Python's C{tomllib} does not. The page
docs/reference/configuration.md is written from the same table.
"""

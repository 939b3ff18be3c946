"""
Values and decisions: bytes and values in, values out.

Nothing in this package imports Twisted, a socket, a clock, randomness or a
log. Whatever it needs of the world comes in as an argument, and what should
be done about it goes out as a value. That is what makes every rule in here a
table-driven test.
"""

"""
The relay: takes messages in, keeps them in the spool, and sees each delivery to its end.
"""

"""
The Twisted shell around L{pymail_tx.core}: decisions become input and output.
"""

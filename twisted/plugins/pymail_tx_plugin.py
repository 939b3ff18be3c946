"""
C{twistd pymail-tx}. Every C{twistd} imports this module, so it imports nothing
of ours: that happens when the command is chosen.
"""

from twisted.application.service import ServiceMaker

relay = ServiceMaker("pymail-tx", "pymail_tx.relay.service", "A durable SMTP relay", "pymail-tx")

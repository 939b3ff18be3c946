"""
Real applications, as PyPI has them, that deliver through L{pymail_tx.compat}.

    make test-applications

Each is unchanged but for its import of twisted.mail.smtp
(L{tests.applications.changed_import}), and runs as a process of its own in
C{.venv-applications}, which C{tests/applications/install} makes. The receiver
is the Postfix of L{tests.peers.postfix}.
"""

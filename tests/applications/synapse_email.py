"""
Synapse's SendEmailHandler, with the configuration that Synapse makes of a homeserver's file.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from tests.applications import changed_import

handlers = changed_import.load("synapse.handlers.send_email")

from synapse.config.homeserver import (  # type: ignore[import-not-found]  # noqa: E402  # there where this runs
    HomeServerConfig,
)

SETTINGS = {
    "server_name": "example.net",
    "report_stats": False,
    "signing_key": "ed25519 a_test c2VlZCBvZiBhIHRlc3QsIHdoaWNoIHNpZ25zIG5vdGg",
    "macaroon_secret_key": "none",
    "suppress_key_server_warning": True,
    "email": {
        "smtp_host": "localhost",
        "smtp_port": int(os.environ["SMTP_PORT"]),
        "smtp_user": os.environ.get("SMTP_USER"),
        "smtp_pass": os.environ.get("SMTP_PASSWORD"),
        "require_transport_security": os.environ["SMTP_TLS"] == "starttls",
        "force_tls": os.environ["SMTP_TLS"] == "implicit",
        "enable_tls": os.environ["SMTP_TLS"] != "none",
        "notif_from": "Matrix <ann@example.net>",
    },
}


def main(reactor: IReactorTime) -> Deferred[None]:
    """Send one."""
    config = HomeServerConfig()
    config.parse_config_dict(SETTINGS, "", os.curdir)
    server = SimpleNamespace(get_reactor=lambda: reactor, config=config)
    handler = handlers.SendEmailHandler(server)
    sent = handler.send_email(
        email_address="Bob <bob@example.org>",
        subject="Hello",
        app_name="Test",
        html="<p>It works.</p>",
        text="It works.",
    )
    return Deferred.fromCoroutine(sent)


react(main)

"""
The composition root. That the whole of it runs is shown by
L{tests.relay.test_process}.
"""

from __future__ import annotations

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase


class Root(SynchronousTestCase):
    def test_twistd_finds_the_relay_without_importing_it(self) -> None:
        [maker] = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "pymail-tx"]
        assert isinstance(maker, ServiceMaker)
        self.assertEqual(maker.module, "pymail_tx.relay.service")

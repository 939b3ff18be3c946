"""
The composition root. That the whole of it runs is shown by
L{tests.relay.test_process}.
"""

from __future__ import annotations

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.retry import RetryPlan
from pymail_tx.relay.service import RETRY_PLAN


class Root(SynchronousTestCase):
    def test_the_retry_plan_goes_on_for_five_days(self) -> None:
        plan = RetryPlan.parse(RETRY_PLAN)
        delays = [plan.delay_after(attempt) or 0 for attempt in range(1, 40)]
        self.assertEqual(delays[:5] + delays[26:31], [1_800] * 4 + [3_600] + [86_400] * 4 + [0])

    def test_twistd_finds_the_relay_without_importing_it(self) -> None:
        [maker] = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "pymail-tx"]
        assert isinstance(maker, ServiceMaker)
        self.assertEqual(maker.module, "pymail_tx.relay.service")

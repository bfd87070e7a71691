"""Every promise of the loss and the miner is a test, and what only this loss promises."""

from __future__ import annotations

import numpy as np
import pytest
from soft_margin_plugin.soft_margin import SoftMargin
from soft_margin_plugin.threshold import Threshold

from coreframe.testing import suite

test_soft_margin = suite(SoftMargin())
test_threshold = suite(Threshold(k=2))


def test_a_sharper_scale_costs_a_wrong_pair_more() -> None:
    wrong = np.asarray([[1.0, 0.0]]), np.asarray([[-1.0, 0.0]])
    assert float(SoftMargin(scale=5.0)(*wrong).value) > float(SoftMargin(scale=1.0)(*wrong).value)


def test_it_is_found_by_name(plugin_registry) -> None:
    if not any(p.distribution == "soft-margin-plugin" for p in plugin_registry.plugins):
        pytest.skip("it is not installed")
    assert plugin_registry.find("losses", "soft_margin").load() is SoftMargin

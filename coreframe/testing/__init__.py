"""The conformance kit: what a component promises, checked one promise at a time.

    coreframe check soft_margin                         on the command line
    print(report(check_loss(SoftMargin(scale=5.0))))    in Python
    assert all(check_loss(SoftMargin()))                in a test of any framework
    test_soft_margin = suite(SoftMargin(scale=5.0))     in pytest: a test for each promise
    print(report(check_plugin("soft-margin-plugin")))   a whole plugin
    print(report(check_kernels("numpy")))               a backend's kernels against the references

It needs no test framework itself. Nothing else in coreframe imports it, but the command line.
"""

from typing import Any

from coreframe.testing.adapters.promises import check_adapter
from coreframe.testing.backends.promises import check_backend
from coreframe.testing.callbacks.promises import check_callback
from coreframe.testing.checks import Check, report
from coreframe.testing.embedders.promises import check_embedder
from coreframe.testing.kernels.compare import check_kernels
from coreframe.testing.losses.promises import check_loss
from coreframe.testing.miners.promises import check_miner
from coreframe.testing.optimizers.promises import check_optimizer
from coreframe.testing.regularizers.promises import check_regularizer
from coreframe.testing.samplers import check_sampler
from coreframe.testing.schedulers import check_scheduler
from coreframe.testing.target import check, check_plugin, promises

__all__ = [
    "Check",
    "check",
    "check_adapter",
    "check_backend",
    "check_callback",
    "check_embedder",
    "check_kernels",
    "check_loss",
    "check_miner",
    "check_optimizer",
    "check_plugin",
    "check_regularizer",
    "check_sampler",
    "check_scheduler",
    "promises",
    "report",
    "suite",
]


def __getattr__(name: str) -> Any:
    if name == "suite":  # which needs pytest
        from coreframe.testing.fixtures import suite

        return suite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

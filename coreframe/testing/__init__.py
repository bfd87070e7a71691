"""The conformance kit: what a component promises, checked one promise at a time.

    coreframe check soft_margin                         on the command line
    print(report(check_loss(SoftMargin(scale=5.0))))    in Python
    assert all(check_loss(SoftMargin()))                in a test of any framework
    print(report(check_kernels("numpy")))               a backend's kernels against the references

It needs no test framework itself. Nothing else in coreframe imports it, but the command line.
"""

from coreframe.testing.checks import Check, report
from coreframe.testing.kernels import check_kernels
from coreframe.testing.losses import check_loss
from coreframe.testing.miners import check_miner
from coreframe.testing.target import check

__all__ = ["Check", "check", "check_kernels", "check_loss", "check_miner", "report"]

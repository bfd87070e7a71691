"""The array libraries that every numeric test runs on, and the summary that says which ran."""

from __future__ import annotations

import functools
import os
from collections import Counter
from importlib import metadata, util

import numpy as np
import pytest
from hypothesis import settings
from support import LIBRARIES, Library, LibraryMissing

# JAX compiles each operation for each shape, which is most of the time of these tests. These flags
# halve it; a version that does not know one ends the process, so that others go without.
if util.find_spec("jaxlib") and metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false",
    )
settings.register_profile("coreframe", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("coreframe")

collect_ignore = ["example_plugin"]  # whose own tests run where it is installed
RAN_ON = "coreframe library"
ran_on: Counter[str] = Counter()


@functools.cache
def open_library(name: str) -> Library | str:
    """Return a library, or why it cannot run here."""
    try:
        return LIBRARIES[name]()
    except LibraryMissing as reason:
        return str(reason)


def _open(name: str) -> Library:
    found = open_library(name)
    if isinstance(found, str):
        pytest.skip(f"{name}: {found}")
    return found


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(name, marks=pytest.mark.gpu if name == "cupy" else ()) for name in LIBRARIES
    ],
)
def library(request: pytest.FixtureRequest) -> Library:
    """Each array library and device in turn: see ``support.Library``."""
    return _open(request.param)


@pytest.fixture(scope="session")
def on_numpy() -> Library:
    """NumPy alone, for what does not depend on the library."""
    return _open("numpy")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """Note what really ran on a library, and let the summary show one line, not one a test,
    for a library that is missing.
    """
    report = yield
    name = getattr(getattr(item, "callspec", None), "params", {}).get("library")
    if name is None:
        return report
    if report.when == "call" and not report.skipped:
        report.user_properties.append((RAN_ON, name))
    if report.when == "setup" and report.skipped and isinstance(open_library(name), str):
        report.longrepr = (__file__, 0, f"Skipped: {name}: {open_library(name)}")
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count; with several workers this is the process that hears of all tests."""
    for key, name in report.user_properties:
        if key == RAN_ON and report.when == "call":
            ran_on[str(name)] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ran_on:
        return
    ran = [f"{name} ({ran_on[name]} tests)" for name in LIBRARIES if ran_on[name]]
    left_out = []
    for name in LIBRARIES:
        if not ran_on[name]:
            found = open_library(name)
            left_out.append(f"{name} ({found if isinstance(found, str) else 'not selected'})")
    line = "coreframe backends that ran: " + ", ".join(ran)
    terminalreporter.write_line(line + (f"; not run: {', '.join(left_out)}" if left_out else ""))

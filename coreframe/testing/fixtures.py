"""The kit in pytest: a test for each promise, and fixtures for tests of your own.

    # tests/test_promises.py
    from coreframe.testing import suite
    from my_losses.soft_margin import SoftMargin

    test_soft_margin = suite(SoftMargin(), SoftMargin(scale=5.0))

    # tests/conftest.py, for the fixtures
    pytest_plugins = ["coreframe.testing.fixtures"]

``array_library`` is each array library of this machine in turn, ``batch_case`` each batch of the
kit, and ``plugin_registry`` the registry, read anew and strict.

PYTEST_DONT_REWRITE: ``suite`` is often imported before pytest reads this as a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from coreframe import registry
from coreframe.backend import Array
from coreframe.errors import ArgumentError, MissingExtra
from coreframe.testing import arrays
from coreframe.testing.arrays import Case, Place
from coreframe.testing.suites import Item
from coreframe.testing.target import promises

try:
    import pytest
except ImportError:
    raise MissingExtra("pytest", "testing", "coreframe.testing.fixtures") from None


def suite(*components: Any) -> Callable[[Item], None]:
    """Return a test of every promise of some components: assign it to a name that begins test_.

    Args:
        components: losses, miners, optimizers, ...; or texts as ``coreframe check`` takes them, so
            that "my-losses" is all that an installed distribution offers.

    Each promise is a test with a name of its own, "test_soft_margin[SoftMargin()-gradient]", that
    ``-k`` selects, and that runs alone or beside others. One that says nothing about the component
    is skipped with its reason.
    """
    items = promises(*components)
    if not items:
        raise ArgumentError("suite() needs at least one component")

    @pytest.mark.parametrize("promise", items, ids=str)
    def keeps_its_promise(promise: Item) -> None:
        __tracebackhide__ = True
        outcome = promise.check()
        if not outcome.checked:
            pytest.skip(outcome.detail)
        if not outcome:
            pytest.fail(f"{outcome.promise}\n{outcome.detail}", pytrace=False)

    return keeps_its_promise


# Fixtures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayLibrary:
    """An array library of this machine: ``array_library(x)`` brings a NumPy array there."""

    name: str
    place: Place

    def __call__(self, x: Any) -> Array:
        return self.place(x)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests that ask for them every library and every batch.

    They are no ``params`` of the fixtures: those would import every library at every start.
    """
    if "array_library" in metafunc.fixturenames:
        libraries = [ArrayLibrary(name, place) for name, place in arrays.libraries().items()]
        metafunc.parametrize("array_library", libraries, ids=lambda x: x.name, indirect=True)
    if "batch_case" in metafunc.fixturenames:
        cases = [*arrays.ordinary_cases(), *arrays.edge_cases()]
        metafunc.parametrize("batch_case", cases, ids=lambda x: x.name, indirect=True)


@pytest.fixture
def array_library(request: pytest.FixtureRequest) -> ArrayLibrary:
    """Each array library of this machine in turn: ``array_library(x)`` brings an array there."""
    found: ArrayLibrary = request.param
    return found


@pytest.fixture
def batch_case(request: pytest.FixtureRequest) -> Case:
    """Each batch of the kit in turn, ordinary ones and edge cases: ``batch_case.batch()``."""
    found: Case = request.param
    return found


@pytest.fixture
def plugin_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[registry.Registry]:
    """The registry, read anew; a plugin that fails is an error, not a warning."""
    monkeypatch.setenv("COREFRAME_STRICT", "1")
    registry.reset()
    yield registry.registry()
    registry.reset()

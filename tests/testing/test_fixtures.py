"""The kit in pytest: a test for each promise, and fixtures; tried by running pytest in pytest.

In a process of its own: pytester forgets the modules that a run inside brings, and libraries in C
do not outlive a second import.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

from coreframe.errors import ArgumentError, ArgumentTypeError, MissingExtra, UnknownName
from coreframe.testing import arrays, fixtures, promises, suite
from coreframe_losses.mse import MSE

pytest_plugins = ["pytester"]

COMPONENTS = """
    from dataclasses import dataclass
    from coreframe import RowLoss, namespace

    @dataclass(frozen=True, kw_only=True)
    class Square(RowLoss):
        '''The squared distance, l_i = |a_i - r_i|^2.

        Args:
            factor: of the gradient, which is right at 1. Default: 1.0.
        '''

        factor: float = 1.0
        needs = ("anchors", "references")

        def rows(self, arrays, batch):
            apart = arrays["anchors"] - arrays["references"]
            xp, slope = namespace(apart=apart), 2 * self.factor * apart
            return xp.sum(apart * apart, axis=1), {"anchors": slope, "references": -slope}
"""


@pytest.fixture(autouse=True)
def few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and the strict library, without waiting for others to load."""
    monkeypatch.setenv("COREFRAME_PLUGINS", "-coreframe_jax,-coreframe_torch")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """The tests of a plugin, in a folder of its own."""
    pytester.makepyfile(square_loss=COMPONENTS)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.syspathinsert()
    return pytester


def test_each_promise_is_a_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_mine="""
        from coreframe.testing import suite
        from square_loss import Square

        test_square = suite(Square())
        """
    )
    ran = project.runpytest_subprocess("-v", "-p", "no:cacheprovider")
    count = ran.parseoutcomes()
    assert count["passed"] > 20
    assert "failed" not in count
    ran.stdout.fnmatch_lines(["*test_mine.py::test_square?Square()-gradient? PASSED*"])
    ran.stdout.fnmatch_lines(["*test_square?Square()-unused_columns? SKIPPED*"])


def test_a_broken_promise_shows_what_to_fix(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_mine="""
        from coreframe.testing import suite
        from square_loss import Square

        test_square = suite(Square(), Square(factor=1.1))
        """
    )
    ran = project.runpytest_subprocess("-q", "-k", "gradient")
    ran.assert_outcomes(passed=1, failed=1)
    ran.stdout.fnmatch_lines(
        [
            "*test_square?Square(factor=1.1)-gradient?*",
            "The gradient is the derivative of the value*",
            "*along a random direction of anchors*",
            "To fix: *",
        ]
    )
    assert "fixtures.py" not in ran.stdout.str().replace("test_fixtures.py", "")


def test_a_promise_alone_checks_what_it_needs(project: pytest.Pytester) -> None:
    """What needs a promise that is broken is skipped, in whatever order tests run."""
    project.makepyfile(
        test_mine="""
        from coreframe.testing import suite
        from square_loss import Square

        class Raises(Square):
            '''It raises.'''
            def rows(self, arrays, batch):
                raise ZeroDivisionError

        test_raises = suite(Raises())
        """
    )
    ran = project.runpytest_subprocess("-q", "-rs", "-k", "thread_safe")
    ran.assert_outcomes(skipped=1)
    ran.stdout.fnmatch_lines(["*not checked: mend usable first*"])


def test_it_runs_beside_others(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(
        test_mine="""
        from coreframe.testing import suite
        from square_loss import Square

        test_square = suite(Square())
        """
    )
    words = ("-q", "-n", "1", "-p", "no:cacheprovider", "-k", "form or inputs")
    ran = project.runpytest_subprocess(*words)
    assert ran.parseoutcomes()["passed"] >= 2
    assert ran.ret == 0


def test_fixtures(project: pytest.Pytester) -> None:
    project.makeconftest('pytest_plugins = ["coreframe.testing.fixtures"]')
    project.makepyfile(
        """
        import numpy as np
        from square_loss import Square

        def test_library(array_library):
            x = array_library(np.ones((2, 3), np.float32))
            assert array_library.name in type(x).__module__.replace("_", "-")
            assert tuple(x.shape) == (2, 3)

        def test_case(batch_case):
            batch = batch_case.batch()
            assert batch.anchors.shape[1] == 5

        def test_both(batch_case, array_library):
            batch = batch_case.batch(array_library, np.float32)
            if batch.aligned:
                assert np.isfinite(float(Square().value_and_grad(batch).value))

        def test_registry(plugin_registry):
            assert plugin_registry.find("losses", "triplet").plugin.built_in
        """
    )
    ran = project.runpytest_subprocess("-v", "-p", "no:cacheprovider")
    cases = len(arrays.ordinary_cases()) + len(arrays.edge_cases())
    ran.assert_outcomes(passed=2 + cases + 2 * cases + 1)  # with two libraries
    ran.stdout.fnmatch_lines(
        ["*::test_library?numpy? PASSED*", "*::test_case?zero vectors? PASSED*"]
    )


def test_the_registry_is_strict(project: pytest.Pytester) -> None:
    """A plugin that would be left out with a warning is an error in its own tests."""
    about = project.mkdir("acme-1.0.dist-info")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[coreframe]\nacme = acme_is_not_there\n")
    project.makeconftest('pytest_plugins = ["coreframe.testing.fixtures"]')
    project.makepyfile("def test_registry(plugin_registry): pass")
    ran = project.runpytest_subprocess("-q")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*PluginError: plugin acme/acme 1.0 was left out: *"])


def test_libraries_are_loaded_only_where_a_test_asks(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        from coreframe.testing import arrays

        pytest_plugins = ["coreframe.testing.fixtures"]
        arrays.libraries = None
        """
    )
    project.makepyfile("def test_nothing(): pass")
    project.runpytest_subprocess("-q").assert_outcomes(passed=1)
    project.makepyfile(test_more="def test_it(array_library): pass")
    project.runpytest_subprocess("-q", "test_more.py").assert_outcomes(errors=1)


# Without pytest around it ---------------------------------------------------------------------


def test_promises_need_no_pytest() -> None:
    found = promises(MSE(), "losses:mse")
    assert len({str(item) for item in found}) == len(found)
    assert str(found[0]).startswith("MSE()-")
    assert next(item for item in found if item.name == "form").check()


def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    spec = importlib.util.spec_from_file_location("fixtures_alone", fixtures.__file__)
    with pytest.raises(MissingExtra, match=r"pip install 'coreframe-ml\[testing\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_what_is_no_component() -> None:
    with pytest.raises(ArgumentError, match="needs at least one component"):
        suite()
    with pytest.raises(ArgumentTypeError, match="give an instance, not the class"):
        suite(MSE)
    with pytest.raises(ArgumentTypeError, match="no subclass of any of"):
        suite(3)
    with pytest.raises(UnknownName, match="'mse'"):
        suite("losses:mze")

"""What a text means to the kit: components, backends, plugins."""

from __future__ import annotations

from typing import Any

import pytest

from coreframe.errors import AmbiguousName, ArgumentError, ArgumentTypeError, UnknownName
from coreframe.registry import registry
from coreframe.testing import check
from coreframe.testing.suites import Suite, written
from coreframe.testing.target import suites
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest


@pytest.mark.parametrize(
    ("target", "title", "about"),
    [
        ("hardest", "miners:hardest", "Hardest()"),
        ("miners:hardest", "miners:hardest", "Hardest()"),
        ("coreframe-ml:hardest", "miners:coreframe-ml:hardest", "Hardest()"),
        ("miners:coreframe-ml:hardest", "miners:coreframe-ml:hardest", "Hardest()"),
        ("coreframe_miners.hardest:Hardest", "coreframe_miners.hardest:Hardest", "Hardest()"),
        ("backends:numpy", "backends:numpy", "NumpyBackend"),
        ("numpy", "backends:numpy", "NumpyBackend"),
        ("backends:torch:cuda", "backends:torch:cuda", "torch:cuda"),
        ("coreframe_numpy.backend:NumpyBackend", "coreframe_numpy.backend:NumpyBackend", "NumpyBa"),
    ],
)
def test_a_component_can_be_named_in_many_ways(target: str, title: str, about: str) -> None:
    (found,) = suites(target)
    assert found.title == title
    assert found.about.startswith(about)


def test_fields_are_those_of_the_component() -> None:
    (found,) = suites("hardest", {"k": 3})
    assert found.about == "Hardest(k=3)"
    assert written(Hardest(k=3, similarity="dot")) == "Hardest(k=3, similarity='dot')"
    assert written(Triplet()) == "Triplet()"
    assert written(Triplet) == "Triplet"


def test_a_distribution_is_its_package_and_its_components() -> None:
    package, *components = suites("coreframe-ml")
    assert package.title.startswith("coreframe-ml ")
    titles = {suite.title: suite for suite in components}
    assert {"losses:info_nce", "backends:numpy", "samplers:shuffled"} <= set(titles)
    assert "needs 'loss'" in titles["losses:symmetric"].check("made").detail
    assert suites("coreframe_ml")[0].title == package.title  # as pip spells it, or Python


def test_one_promise_checks_what_it_needs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from coreframe.testing.checks import Promise

    ran: list[str] = []

    def first(subject: object) -> Any:
        ran.append("first")
        yield "it is wrong"

    def second(subject: object) -> Any:
        ran.append("second")
        yield from ()

    def third(subject: object) -> Any:
        ran.append("third")
        yield from ()

    promises = [
        Promise("One.", "Mend it.", first),
        Promise("Two.", "Mend it.", second, needs=("first",)),
        Promise("Three.", "Mend it.", third, needs=("second", "elsewhere")),
    ]
    suite = Suite("", "", promises, lambda: None)
    outcome = suite.check("third")
    assert (outcome.ok, outcome.checked) == (True, False)
    assert outcome.detail == "not checked: mend first first"
    assert [c.name for c in suite.run(["first", "second"])] == ["first", "second"]
    assert ran == ["first"]


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("hardst", UnknownName, "no component is named 'hardst'. Did you mean 'hardest'?"),
        ("qqq", UnknownName, "`coreframe list` shows all names"),
        ("losses:hardest", UnknownName, "no loss is named 'hardest'"),
        ("nowhere.module:Thing", UnknownName, "cannot be imported as package.module:Class"),
        ("coreframe_miners.hardest:Hardst", UnknownName, "has no attribute 'Hardst'"),
        ("coreframe.batch:Batch", ArgumentTypeError, "no subclass of any of coreframe.Loss, "),
        ("coreframe.similarity:NAMES", ArgumentTypeError, "is tuple, which is no class of comp"),
    ],
)
def test_a_wrong_target_is_explained(target: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        check(target)
    assert words in str(caught.value)


def test_a_name_of_several_kinds_asks_for_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = registry().entries

    def doubled(kind: str) -> Any:
        return entries("miners") if kind == "optimizers" else entries(kind)

    monkeypatch.setattr(registry(), "entries", doubled)
    with pytest.raises(AmbiguousName, match="write one of: miners:hardest, optimizers:hardest"):
        check("hardest")


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'temperature'"):
        check("info_nce", temprature=1.0)

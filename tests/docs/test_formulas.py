"""The typeset formulas say what the docstrings say, and every one of both has its partner."""

from __future__ import annotations

from typing import Any

import pytest
from from_docs import from_docs

formulas, generator = from_docs("making.formulas"), from_docs("generate")
COMPONENTS = [c for c in generator.components() if c.kind in formulas.KINDS]
EACH = pytest.mark.parametrize(
    "component", COMPONENTS, ids=[f"{c.kind}/{c.name}" for c in COMPONENTS]
)


def fields_of(component: Any) -> list[str]:
    return list(generator.registry.parameters(component.load()))


@EACH
def test_the_typeset_formula_has_fields_numbers_and_functions_of_the_docstring(
    component: Any,
) -> None:
    plain, typeset = (
        formulas.plain(component.doc().body),
        formulas.of(component.kind, component.name),
    )
    assert plain, "the docstring has no formula: a block that is indented by four"
    assert typeset, f"docs/formulas.toml has no [{component.kind}] {component.name}"
    assert formulas.differences(plain, typeset, fields_of(component)) == []


def test_no_formula_is_left_over() -> None:
    there = {(kind, name) for kind in formulas.KINDS for name in formulas.read()[kind]}
    assert there == {(c.kind, c.name) for c in COMPONENTS}
    assert set(formulas.read()) == {"symbols", *formulas.KINDS}
    assert set(formulas.symbols().values()) == set(formulas.UNICODE)


@EACH
def test_the_page_has_the_typeset_formula_and_says_what_its_symbols_are(component: Any) -> None:
    text = (generator.FOLDER / component.path).read_text("utf-8")
    assert text.count("```math\n") == 1
    typeset = formulas.of(component.kind, component.name)
    for field in fields_of(component):
        symbol = formulas.symbols().get(field)
        if symbol and formulas.has(typeset, symbol):
            assert f"{formulas.UNICODE[symbol]} is `{field}`" in text


TEXT = "    l = max(0, s - margin) / temperature + 0.5 mean_c p_c"
TEX = r"\ell = \frac{\max(0, s - \text{margin})}{\tau} + 0.5 \operatorname{mean}_c p_c"
FIELDS = ("margin", "temperature", "weight_decay")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"\text{margin}", "m", r"the field margin is missing: write it as \text{margin}"),
        (r"\tau", "T", r"the field temperature is missing: write it as \tau"),
        (r"\tau", r"\tau \lambda", r"\lambda is weight_decay, which the docstring's formula does"),
        (r"\max", r"\min", "the function max is missing"),
        (r"\operatorname{mean}_c", "", "the function mean is missing"),
        (r"p_c", r"\sqrt{p_c}", "the function sqrt is not in the docstring"),
        ("s - ", "s ", "- stands there 1 times, and 0 times in TeX"),
        ("0.5", "2", "numbers differ: ['0', '0.5'] there, ['0', '2'] in TeX"),
    ],
)
def test_a_formula_that_says_something_else_is_named(old: str, new: str, message: str) -> None:
    assert formulas.differences(TEXT, TEX, FIELDS) == []
    (wrong,) = formulas.differences(TEXT, TEX.replace(old, new), FIELDS)
    assert message in wrong


def test_the_formula_of_a_docstring_is_its_first_indented_block() -> None:
    body = "Words:\n\n    a = b\n\n    c = d\n\nmore words\n\n    no = formula"
    assert formulas.plain(body).split() == ["a", "=", "b", "c", "=", "d"]
    assert formulas.plain("No formula.") == ""

"""The typeset formulas of docs/formulas.toml, and whether they say what the docstrings say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "formulas.toml"
KINDS = ("losses", "miners", "optimizers", "schedulers", "regularizers", "adapters")
"""The kinds whose components have a typeset formula."""

FUNCTIONS = {
    **{name: rf"\\{name}(?![a-z])" for name in ("cos", "exp", "log", "max", "sqrt", "sum")},
    **{name: rf"\\operatorname\{{{name}\}}" for name in ("diag", "logsumexp", "mean", "round")},
    **{name: rf"\\operatorname\{{{name}\}}" for name in ("softmax", "tr")},
    "floor": r"\\lfloor",
}
"""Functions as docstrings write them, and the pattern of each in TeX."""


@cache
def read() -> dict[str, dict[str, str]]:
    return tomllib.loads(FILE.read_text("utf-8"))


def of(kind: str, name: str) -> str | None:
    """Return the typeset formula of a component, or None."""
    return read().get(kind, {}).get(name)


def block(formula: str) -> str:
    """Return a formula as Markdown: web views of repositories draw it too."""
    return f"```math\n{formula.strip()}\n```"


def legend(formula: str, fields: Iterable[str]) -> str:
    """Return which fields the symbols of a formula stand for, or nothing."""
    given = [f for f in fields if (s := symbols().get(f)) and has(formula, s)]
    words = ", ".join(f"{UNICODE[symbols()[f]]} is `{f}`" for f in given)
    return f"In the formula {words}." if words else ""


def letters(formula: str) -> str:
    r"""Return the letters that stand for something: neither those of \text nor of functions."""
    return re.sub(r"\\(?:text|operatorname|begin|end)\{[^}]*\}|\\[A-Za-z]+|[^A-Za-z]", "", formula)


def symbols() -> Mapping[str, str]:
    return read()["symbols"]


UNICODE = {
    r"\alpha": "α",
    r"\beta_1": "β₁",
    r"\beta_2": "β₂",
    r"\varepsilon": "ε",
    r"\eta": "η",
    r"\mu": "μ",
    r"\lambda": "λ",
    r"\tau": "τ",
}
"""The symbols in running text."""


def plain(body: str) -> str:
    """Return the first indented block of a docstring's body: its formula in plain text."""
    lines: list[str] = []
    for line in body.splitlines():
        if line.startswith("    "):
            lines.append(line)
        elif lines and line.strip():
            break
    return "\n".join(lines)


def has(formula: str, symbol: str) -> bool:
    return re.search(re.escape(symbol) + r"(?![A-Za-z])", formula) is not None


def differences(text: str, formula: str, fields: Iterable[str]) -> list[str]:
    r"""Return what stands in one of the two and not in the other, a sentence each.

    Compared are the fields of the component (as their symbol, or as ``\text{name}``), the numbers,
    the functions, and how many signs there are. What a docstring says in words may stand in \text.
    """
    wrong = []
    words = formula.replace(r"\_", "_")
    named = {f for f in fields if re.search(rf"(?<![\w.]){f}(?![\w(])", text)}
    for field in sorted(named):
        symbol = symbols().get(field)
        if symbol and not has(formula, symbol):
            wrong.append(f"the field {field} is missing: write it as {symbol}")
        if not symbol and not re.search(rf"\\text\{{[^}}]*\b{field}\b|\b{field} = ", words):
            wrong.append(rf"the field {field} is missing: write it as \text{{{field}}}")
    for field in sorted(set(fields) - named):
        symbol = symbols().get(field)
        twin = any(symbols().get(other) == symbol for other in named)
        if symbol and not twin and has(formula, symbol):
            wrong.append(f"{symbol} is {field}, which the docstring's formula does not have")
    for name, pattern in FUNCTIONS.items():
        there = re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])", text) is not None
        here = re.search(pattern, formula) is not None
        if there != here:
            wrong.append(f"the function {name} is {'missing' if there else 'not in the docstring'}")
    for sign in "+-":
        there, here = (part.count(sign) for part in (signs(text), re.sub(TEXT, "", formula)))
        if there != here:
            wrong.append(f"{sign} stands there {there} times, and {here} times in TeX")
    theirs, ours = (numbers(part) for part in (text, formula))
    if theirs != ours:
        wrong.append(f"numbers differ: {sorted(theirs)} there, {sorted(ours)} in TeX")
    return wrong


def signs(text: str) -> str:
    """Return a plain formula without its arrows and hyphens."""
    return re.sub(r"->|(?<=[A-Za-z])-(?=[A-Za-z])", "", text)


TEXT = re.compile(r"\\text\{[^}]*\}")


def numbers(text: str) -> set[str]:
    """Return the numbers of a formula, those of names such as f_1 and beta1 included."""
    return set(re.findall(r"\d+(?:\.\d+)?", text))

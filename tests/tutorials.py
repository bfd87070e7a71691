"""A tutorial says what its script does: its code stands in the script, its numbers in the output.

A page of docs/tutorials quotes the script in blocks of ``py`` (those of ``python`` are run by
tests/docs) and what it prints in blocks of ``text``.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"(?<![\w@.])[+-]?\d[\d,]*(?:\.\d+)?(?![\w@.]*\w)")


def untrue(page: str, script: str, printed: str, tolerance: float = 0.03) -> list[str]:
    """Return what a tutorial quotes that is not so; ``printed`` is what its script printed.

    Numbers up to 1 may differ by the tolerance, larger ones, which are counts, by a third.
    """
    text = (ROOT / "docs" / "tutorials" / page).read_text("utf-8")
    source = _lines((ROOT / "examples" / script).read_text("utf-8"))
    code, shown = _blocks(text, "py"), _blocks(text, "text")
    problems = [] if code and shown else ["it quotes no code, or nothing that is printed"]
    problems += [f"not in {script}: {block}" for block in code if not _stands_in(block, source)]
    output = [(_words(line), _numbers(line)) for line in printed.splitlines()]
    for line in (line for block in shown for line in block.splitlines() if line.strip()):
        alike = [numbers for words, numbers in output if words == _words(line)]
        if not any(_near(_numbers(line), numbers, tolerance) for numbers in alike):
            problems.append(f"not printed: {line.strip()!r}; printed was {alike}")
    return problems


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def _stands_in(block: str, source: list[str]) -> bool:
    """Say whether the lines of a block follow one another in the source, however indented."""
    wanted = _lines(textwrap.dedent(block))
    return any(
        _lines(textwrap.dedent("\n".join(source[i : i + len(wanted)]))) == wanted
        for i in range(len(source) - len(wanted) + 1)
    )


def _words(line: str) -> str:
    return " ".join(NUMBER.sub("#", line).split())


def _numbers(line: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(line)]


def _near(shown: list[float], printed: list[float], tolerance: float) -> bool:
    return len(shown) == len(printed) and all(
        abs(a - b) <= (tolerance if abs(a) <= 1 else max(3, abs(a) / 3))
        for a, b in zip(shown, printed, strict=True)
    )

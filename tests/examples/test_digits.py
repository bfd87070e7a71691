"""examples/digits.py: what its tutorial says of it, and that unseen classes are unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import load_example
from tutorials import untrue

SCRIPT = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("digits")


def test_the_tutorial_is_true() -> None:
    ran = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert untrue("digits.md", "digits.py", ran.stdout, tolerance=0.015) == []


def test_the_gate_decides_by_the_metric_that_is_asked(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = example.SETTINGS.replace('"r_precision"', '"accuracy@1"').replace(
        '["accuracy@1"', '["r_precision"'
    )
    assert not example.seen_classes(example.config.read(default=settings))
    assert "the gate: accuracy@1" in capsys.readouterr().out


def test_the_classes_of_the_last_part_are_not_learned_from(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, digit = example.digits()
    assert pixels.shape == (1797, 64)
    assert set(digit) == set(range(10))
    seen = {}

    def fit(train, dev, **arguments):
        seen["rows"] = np.concatenate([train.queries, dev.queries])
        return type("Run", (), {"adapter": None})

    monkeypatch.setattr(example.cf, "fit", fit)
    monkeypatch.setattr(example.cf, "compare", lambda adapter, test, metrics: test)
    test = example.unseen_classes(example.config.read(default=example.SETTINGS))
    assert set(test.relevance.query_labels) == {0, 1, 2}  # numbered anew: 7, 8 and 9
    assert len(test) == int(np.sum(digit >= 7))
    learned = {row.tobytes() for row in seen["rows"]}
    assert learned <= {row.tobytes() for row in pixels[digit < 7]}

"""``coreframe check``: what it takes, what it prints, how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coreframe import cli, registry
from coreframe.testing import arrays
from coreframe_losses.mse import MSE

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
Here = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True, kw_only=True)
class Doubled(MSE):
    """Half a mean squared error, whose gradient says that it is a whole one.

    Args:
        reduction: of the rows. Default: "mean".
        factor: of the gradient; right at 1. Default: 2.0.
    """

    factor: float = 2.0

    def rows(self, arrays: Any, batch: Any) -> Any:
        losses, grads = super().rows(arrays, batch)
        return losses, {name: self.factor * g for name, g in grads.items()}


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run the command in this process, on NumPy alone."""
    monkeypatch.setattr(arrays, "libraries", lambda: {"numpy": arrays.on_numpy})
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "doubled_loss", module)

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run(["check", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


WRONG = "doubled_loss:Doubled"


def test_what_is_kept_takes_few_lines(here: Here) -> None:
    code, out, err = here("losses:mse")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("losses:mse  MSE()  ")
    assert lines[1].startswith("  ok    ")
    assert "gradient" in out
    (line,) = [line for line in lines if line.endswith("not checked: it is no PairwiseLoss")]
    assert line.startswith("  skip  ")
    assert "unused_columns" in line
    assert lines[-1].endswith(" not checked")
    assert "0 broken" in lines[-1]
    assert len(lines) < 20


def test_what_is_broken_is_shown_in_full(here: Here) -> None:
    code, out, _ = here(WRONG)
    assert code == cli.FAILED
    assert "  FAIL  gradient: The gradient is the derivative of the value" in out
    assert "along a random direction of anchors" in out
    assert "          To fix: " in out
    assert "1 broken" in out.splitlines()[-1]


def test_one_promise_alone(here: Here) -> None:
    code, out, _ = here(WRONG, "-k", "form", "--only", "copies")
    assert code == 0
    assert "ok    form, copies" in out
    assert out.splitlines()[-1] == "2 promises kept, 0 broken"
    assert here(WRONG, "-k", "gradient")[0] == cli.FAILED
    code, out, err = here(WRONG, "-k", "gradients")
    assert (code, out) == (cli.USAGE, "")
    assert "no promise is named 'gradients'. Did you mean 'gradient'?" in err


def test_fields(here: Here) -> None:
    code, out, _ = here(WRONG, "-k", "gradient", "--set", "factor=1.0")
    assert code == 0
    assert out.startswith(f"{WRONG}  Doubled(factor=1.0)")
    code, out, _ = here("losses:symmetric", "-k", "form", "--set", 'loss={name="info_nce"}')
    assert code == 0
    assert "Symmetric(loss=InfoNCE(" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["losses:mse", "--set", "reduction"], "--set 'reduction' must be FIELD=VALUE"),
        (["losses:mse", "--set", "factor=1"], "'factor'"),
        (["losses:mse", "--set", "reduction=meen"], "reduction"),
        (["losses:mse", "losses:triplet", "--set", "reduction=sum"], "--set is for one TARGET"),
        (["losses:mze"], "no loss is named 'mze'. Did you mean 'mse'?"),
        (["backends:nunpy"], "no backend is named 'nunpy'. Did you mean 'numpy'"),
        (["losses:symmetric"], "needs 'loss'"),
        (["coreframe-mk"], "no component is named 'coreframe-mk'. Did you mean 'coreframe-ml'?"),
        (["json:JSONDecoder"], "no subclass of any of coreframe.Loss"),
        (["numpy", "--kernels", "--set", "a=1"], "--kernels takes no --set"),
        ([], "name a component or a plugin to check"),
    ],
)
def test_mistakes_of_the_user(here: Here, words: list[str], expected: str) -> None:
    code, out, err = here(*words)
    assert (code, out) == (cli.USAGE, "")
    assert expected in err


def test_several_targets_verbose_and_quiet(here: Here) -> None:
    code, out, _ = here("losses:mse", WRONG, "-v", "-k", "form", "-k", "gradient")
    assert code == cli.FAILED
    assert out.count("  ok    form: It is a frozen, keyword-only dataclass") == 2
    code, out, _ = here("losses:mse", WRONG, "-q", "-k", "form", "-k", "gradient")
    assert code == cli.FAILED
    assert "losses:mse" not in out
    assert "  ok" not in out
    assert "FAIL  gradient" in out
    assert here("losses:mse", "-q", "-k", "form") == (0, "", "")


def test_json(here: Here) -> None:
    code, out, _ = here("losses:mse", WRONG, "-k", "gradient", "-k", "unused_columns", "--json")
    assert code == cli.FAILED
    rows = json.loads(out)
    assert [(row["target"], row["name"], row["ok"], row["checked"]) for row in rows] == [
        ("losses:mse", "unused_columns", True, False),
        ("losses:mse", "gradient", True, True),
        (WRONG, "unused_columns", True, False),
        (WRONG, "gradient", False, True),
    ]
    assert "To fix: " in rows[3]["detail"]
    assert rows[3]["promise"]
    assert rows[3]["seconds"] >= 0


def test_a_backend(here: Here) -> None:
    code, out, err = here("backends:numpy")
    assert (code, err) == (0, "")
    assert out.startswith("backends:numpy  NumpyBackend")
    assert "round_trip" in out
    assert here("backends:numpy", "--set", "device=cpu", "-k", "device")[0] == 0
    code, out, err = here("backends:numpy:gpu", "-k", "name")
    assert code == cli.FAILED
    assert "has only the device cpu, got 'gpu'" in out


@pytest.mark.parametrize("words", [(), ("--quiet",), ("--json",)])
def test_what_cannot_be_used_here_is_no_success(
    here: Here, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = registry.registry().find("backends", "numpy").load()
    monkeypatch.setattr(kind, "missing", lambda self: "there is no such device")
    code, _, err = here("losses:mse", "backends:numpy", "-k", "usable", *words)
    assert code == 2
    assert err == "backends:numpy: not checked: it cannot run here: there is no such device\n"


def test_a_promise_that_says_nothing_is_no_success_alone(here: Here) -> None:
    code, _, err = here("losses:mse", "-k", "rows_are_independent")
    assert (code, err) == (2, "losses:mse: not checked: it is no PairwiseLoss\n")


def test_no_kernels_are_no_success(here: Here) -> None:
    pytest.importorskip("torch")  # which has none
    code, _, err = here("--kernels", "torch")
    assert (code, err) == (2, "kernels of torch: not checked: there is nothing to check\n")


def test_a_plugin(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    words = ("-k", "hooks", "-k", "form", "--set", "losses:soft_margin.scale=5.0")
    code, out, _ = here("soft_margin_plugin.plugin", *words)
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")][-1] == (
        "3 promises kept, 0 broken"
    )
    assert "losses:soft_margin  SoftMargin(scale=5.0)" in out
    assert "miners:threshold  Threshold()" in out
    for module in [name for name in sys.modules if name.startswith("soft_margin_plugin")]:
        del sys.modules[module]
    registry.reset()


def test_on_a_terminal_it_says_what_is_going_on(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, _, err = here("losses:mse", "-k", "form")
    assert code == 0
    assert "checking losses:mse" in err or err == ""  # rich writes nothing to a dumb terminal


def test_an_installed_distribution(here: Here) -> None:
    code, out, _ = here("coreframe-ml", "-k", "packaging", "-k", "tables", "-k", "hooks")
    assert code == 0
    assert out.startswith("coreframe-ml ")
    assert "skip  packaging: not checked: it is coreframe itself" in out

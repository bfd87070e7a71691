"""Third-party plugins, working and broken, installed by pip and used in a fresh Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coreframe import errors
from coreframe.plugin import HOOKS

TESTS = Path(__file__).parents[1]

BROKEN = {
    "broken-plugin/fails_to_import": "ModuleNotFoundError: No module named "
    "'a_package_that_is_not_installed' (fails_to_import.py:3); "
    "broken-plugin does not say in its metadata what brings 'a_package_that_is_not_installed'",
    "broken-plugin/misspelt_hook": "unknown hook 'coreframe_loses'. "
    "Did you mean 'coreframe_losses'? " + f"coreframe 0.1.0 knows: {', '.join(HOOKS)}",
    "broken-plugin/raising_hook": "RuntimeError: the table could not be made (raising_hook.py:13)",
}

NO_JAX = {"COREFRAME_PLUGINS": "-coreframe_jax"}
NEITHER = {"COREFRAME_PLUGINS": "-coreframe_jax,-coreframe_torch"}
"""They take seconds to import."""

TRAIN_ONE_STEP = """
import numpy as np
import coreframe
rng = np.random.default_rng(0)
a, p = rng.standard_normal((2, 16, 8))
miner = coreframe.build("miners", {miner!r}, k=3)
loss = coreframe.build("losses", {loss!r})
batch = loss.batch(a, p)
mined = coreframe.Batch(
    anchors=a, references=p, relation=miner.mine(batch, rng=np.random.default_rng(0))
)
result = loss.value_and_grad(mined)
step = loss.value_and_grad(coreframe.Batch.pairs(a - 0.5 * result.grads["anchors"], p))
assert float(step.value) < float(loss(a, p).value)
print("trained")
"""


def output(ran: object) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# The example --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "miner"),
    [("soft_margin", "threshold"), ("soft-margin-plugin:soft_margin", "hardest")],
)
def test_it_is_used_by_name(python, example_plugin: Path, loss: str, miner: str) -> None:
    code = TRAIN_ONE_STEP.format(loss=loss, miner=miner)
    assert output(python("-W", "error", "-c", code, plugins=(example_plugin,))) == "trained\n"


def test_the_command_line_lists_it(python, example_plugin: Path) -> None:
    def words(*arguments: str) -> list[str]:
        return output(python("-m", "coreframe", *arguments, plugins=(example_plugin,))).split()

    losses = words("list", "losses")
    assert {"soft_margin", "soft-margin-plugin", "info_nce", "coreframe-ml"} <= set(losses)
    assert "threshold" not in losses
    assert "threshold" in words("list", "miners")
    assert "soft-margin-plugin/soft_margin_plugin" in words("plugins")
    assert "scale" in " ".join(words("show", "losses", "soft_margin"))


def test_it_keeps_its_promises(python, example_plugin: Path) -> None:
    arguments = ("-m", "coreframe", "check", "soft_margin", "-k", "libraries", "-k", "gradient")
    text = output(python(*arguments, plugins=(example_plugin,), **NO_JAX))
    assert "2 promises kept, 0 broken" in text


def test_its_package_and_its_own_tests_are_right(python, example_plugin: Path) -> None:
    arguments = ("-m", "coreframe", "check", "soft-margin-plugin", "-k", "packaging", "-k", "form")
    text = output(python(*arguments, plugins=(example_plugin,), **NEITHER))
    assert "3 promises kept, 0 broken" in text
    tests = str(TESTS / "example_plugin")
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    text = output(python(*arguments, plugins=(example_plugin,), **NEITHER))
    assert "test_soft_margin" not in text  # which only failures name
    assert int(re.search(r"(\d+) passed", text)[1]) > 60


def test_its_doctest_is_true(python, example_plugin: Path) -> None:
    code = """
import doctest
from soft_margin_plugin import soft_margin
print(doctest.testmod(soft_margin, optionflags=doctest.ELLIPSIS))
"""
    ran = output(python("-c", code, plugins=(example_plugin,)))
    assert ran == "TestResults(failed=0, attempted=3)\n"


def test_listing_imports_no_component_and_no_array_library(python, example_plugin: Path) -> None:
    code = """
import sys
from coreframe.registry import registry
assert "soft_margin" in [entry.name for entry in registry().entries("losses")]
print("soft_margin_plugin.plugin" in sys.modules, "soft_margin_plugin.soft_margin" in sys.modules,
      "numpy" in sys.modules)
"""
    assert output(python("-c", code, plugins=(example_plugin,))) == "True False False\n"


def test_the_first_operation_loads_only_our_backend_of_that_library(
    python, example_plugin: Path
) -> None:
    code = """
import sys
import numpy as np
from coreframe.ops import top_k
top_k(np.eye(3), 1)
print(sorted(m for m in sys.modules if m.startswith(("coreframe_", "soft_margin", "torch", "jax"))
             and "." not in m))
"""
    assert output(python("-c", code, plugins=(example_plugin,))) == "['coreframe_numpy']\n"


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("", False),
        ("none", False),
        ("soft-margin-plugin", True),
        ("-soft_margin_plugin", False),
        ("-broken-plugin", True),
    ],
)
def test_plugins_can_be_switched_off(
    python, example_plugin: Path, broken_plugin: Path, setting: str, found: bool
) -> None:
    ran = python(
        "-m",
        "coreframe",
        "list",
        "losses",
        plugins=(example_plugin, broken_plugin),
        COREFRAME_PLUGINS=setting,
    )
    words = output(ran).split()
    assert ("soft_margin" in words) is found
    assert "info_nce" in words
    assert ("broken-plugin" in ran.stderr) is (setting == "-soft_margin_plugin")


def test_it_is_trained_by_name_from_a_config(python, example_plugin: Path, tmp_path: Path) -> None:
    """The whole road: run.toml names the loss and the miner, and the run stores what ran."""
    words = ["red", "green", "blue", "cold", "warm", "old", "new", "big", "small", "dark"]
    things = ["cat", "dog", "house", "tree", "car", "bird", "fish", "door"]
    rows = [
        {"anchor": f"{word} {thing}", "positive": f"the {thing} that is {word}"}
        for word in words
        for thing in things
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "run.toml").write_text(
        '[[losses]]\nname = "soft_margin"\nscale = 20.0\n'
        '[miner]\nname = "threshold"\nk = 4\n[train]\nepochs = 1\n'
    )
    ran = python(
        "-m",
        "coreframe",
        "train",
        "pairs.jsonl",
        "-c",
        "run.toml",
        "-o",
        "out",
        plugins=(example_plugin,),
    )
    assert ran.returncode in (0, 3), ran.stderr  # 3: trained, but not better
    stored = (tmp_path / "out" / "run.toml").read_text()
    assert "soft_margin" in stored
    assert "threshold" in stored


# The broken one -----------------------------------------------------------------------------


def test_each_broken_plugin_gets_one_warning_and_all_else_works(
    python, example_plugin: Path, broken_plugin: Path
) -> None:
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from coreframe.registry import KINDS, registry
    for _ in range(2):
        for kind in KINDS:
            registry().entries(kind)
for warning in caught:
    print(warning.category.__name__, warning.message)
print({{p.key: p.error for p in registry().plugins if p.state == "failed"}} == {BROKEN!r})
print("fine_alone" in [entry.name for entry in registry().entries("miners")])
""" + TRAIN_ONE_STEP.format(loss="soft_margin", miner="threshold")
    ran = output(python("-c", code, plugins=(example_plugin, broken_plugin)))
    warned = [f"PluginWarning plugin {k} 0.1.0 was left out: {v}" for k, v in BROKEN.items()]
    assert sorted(ran.splitlines()) == sorted([*warned, "True", "False", "trained"])


@pytest.mark.parametrize("arguments", [("plugins",), ("list",), ("list", "losses"), ("backends",)])
def test_the_command_line_works_beside_a_broken_plugin(
    python, broken_plugin: Path, arguments: tuple[str, ...]
) -> None:
    ran = python("-m", "coreframe", *arguments, plugins=(broken_plugin,), **NEITHER)
    assert "Traceback" not in ran.stderr
    assert output(ran)


def test_the_command_line_says_what_is_broken(python, broken_plugin: Path) -> None:
    ran = python("-m", "coreframe", "plugins", plugins=(broken_plugin,))
    text = output(ran)
    for key in BROKEN:
        line = next(line for line in text.splitlines() if line.startswith(key))
        assert "failed" in line.split()


def test_strict_turns_the_warning_into_an_error(python, broken_plugin: Path) -> None:
    code = """
from coreframe.registry import registry
try:
    registry().entries("losses")
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = output(python("-c", code, plugins=(broken_plugin,), COREFRAME_STRICT="1"))
    assert ran.startswith(f"{errors.PluginError.__name__} plugin broken-plugin/fails_to_import")
    ran = python("-m", "coreframe", "list", plugins=(broken_plugin,), COREFRAME_STRICT="1")
    assert ran.returncode not in (0, 3)
    assert "broken-plugin/fails_to_import" in ran.stderr
    assert "Traceback" not in ran.stderr

"""The commands that look around: list, show, plugins, backends, check."""

from __future__ import annotations

import importlib.metadata
import json
from importlib import util

import numpy as np
import pytest

import coreframe
from coreframe import cli, console
from coreframe.plugin import KINDS
from coreframe_losses.info_nce import InfoNCE


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_list(here) -> None:
    code, out, err = here("list")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["kind", "name", "distribution", "target"]
    found = {tuple(row.split()[:2]) for row in rows}
    wanted = {"losses": "info_nce", "miners": "hardest", "adapters": "whitening"}
    assert {*wanted.items(), ("backends", "cupy"), ("embedders", "hashing")} <= found
    assert {kind for kind, _ in found} <= set(KINDS)


def test_list_one_kind(here) -> None:
    code, out, _ = here("list", "optimizers", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "kind": "optimizers",
            "name": name,
            "distribution": "coreframe-ml",
            "target": f"coreframe_optimizers.{name}:{cls}",
        }
        for name, cls in (("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD"))
    ]


def test_a_table_of_nothing_has_its_head(capsys) -> None:
    console.print_table(("kind", "name"), [], as_json=False)
    assert capsys.readouterr().out == "kind  name\n"
    console.print_table(("kind", "name"), [], as_json=True)
    assert capsys.readouterr().out == "[]\n"


def test_show(here) -> None:
    code, out, _ = here("show", "losses", "info_nce")
    assert code == 0
    assert out.startswith("info_nce  (losses, coreframe_losses.info_nce:InfoNCE, of coreframe-ml")
    assert "logsumexp" in out
    assert "\n  temperature: float | Scheduler = 0.07\n" in out


def test_show_names_types_that_are_no_text(here, monkeypatch) -> None:
    """As those of a plugin without ``from __future__ import annotations``."""
    monkeypatch.setattr(InfoNCE.__dataclass_fields__["symmetric"], "type", bool)
    assert "\n  symmetric: bool = False\n" in here("show", "losses", "info_nce")[1]


@pytest.mark.parametrize(("kind", "name"), [("schedulers", "constant"), ("losses", "mined")])
def test_show_says_which_fields_are_required(here, kind, name) -> None:
    assert " = required\n" in here("show", kind, name)[1]


def test_every_component_can_be_shown(here) -> None:
    listed = json.loads(here("list", "--json")[1])
    assert len(listed) > 20
    for row in listed:
        code, out, err = here("show", row["kind"], row["name"])
        assert (code, err) == (0, ""), row
        assert len(out.splitlines()) > 2, f"{row['name']} has no documentation"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "lossess"], "there is no kind of component 'lossess'. Did you mean 'losses'?"),
        (["show", "loss", "triplet"], "there is no kind of component 'loss'. Did you mean"),
        (["show", "losses", "infonce"], "no loss is named 'infonce'. Did you mean 'info_nce'?"),
        (["show", "backends", "tensorflow"], "no backend is named 'tensorflow'. Known: cupy, jax"),
        (["check", "infonce"], "'infonce'"),
        (["check", "nowhere.module:Class"], "nowhere"),
    ],
)
def test_unknown_names(here, arguments, expected) -> None:
    code, out, err = here(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err


def test_an_unknown_command(here) -> None:
    code, out, err = here("trian", "pairs.jsonl")
    assert (code, out) == (2, "")
    assert "trian" in err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["train", "-h"], ["demo", "--help"]])
def test_help(here, arguments) -> None:
    code, out, err = here(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: coreframe")


def test_plugins(here) -> None:
    code, out, err = here("plugins", "--json")
    assert (code, err) == (0, "")
    rows = {row["plugin"]: row for row in json.loads(out)}
    entry_points = importlib.metadata.entry_points(group="coreframe")
    assert {f"coreframe-ml/{e.name}" for e in entry_points} <= set(rows)
    losses = rows["coreframe-ml/coreframe_losses"]
    assert losses["state"] == "loaded"
    assert losses["version"] == coreframe.__version__
    assert losses["offers"] == ["losses"]
    assert losses["error"] == losses["deeds"] == ""
    assert 0 <= losses["seconds"] < 5
    _, text, _ = here("plugins")
    line = next(line for line in text.splitlines() if "coreframe_losses" in line).split()
    assert line[1:3] == [coreframe.__version__, "loaded"]
    assert line[4:] == ["ms", "losses"]


def test_backends(here) -> None:
    code, out, err = here("backends", "--json")
    assert (code, err) == (0, "")
    rows = {row["backend"]: row for row in json.loads(out)}
    assert set(rows) == {"cupy", "jax", "numpy", "torch"}
    assert rows["numpy"] == {
        "backend": "numpy",
        "device": "cpu",
        "version": np.__version__,
        "state": "ready",
        "why not": "",
    }
    for name, row in rows.items():
        if row["state"] == "ready":
            assert row["version"] == importlib.import_module(name).__version__
            assert row["device"]
            assert row["why not"] == ""
        else:
            assert row["state"] == "no"
            assert name in row["why not"]
    if util.find_spec("cupy") is None:
        assert "pip install 'coreframe-ml[cupy-cuda12x]'" in rows["cupy"]["why not"]
    text = here("backends")[1]
    assert text.splitlines()[0].split() == ["backend", "device", "version", "state", "why", "not"]


def test_one_broken_backend_leaves_the_others(here, monkeypatch) -> None:
    def fails(self: object) -> None:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr("coreframe_cupy.backend.CupyBackend.missing", fails)
    code, out, _ = here("backends", "--json")
    assert code == 0
    rows = {row["backend"]: row for row in json.loads(out)}
    assert rows["cupy"]["why not"].startswith("RuntimeError: the driver is too old (")
    assert rows["numpy"]["state"] == "ready"


def test_check_a_loss_with_the_built_in_plugins_alone(coreframe_) -> None:
    variables = {"COREFRAME_PLUGINS": "none", "OMP_NUM_THREADS": "1"}
    ran = coreframe_("check", "triplet", "-k", "gradient", **variables)
    assert ran.returncode == 0, ran.stdout
    assert "0 broken" in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [["plugins"], ["list"], ["list", "losses"], ["backends"], ["show", "losses", "triplet"]],
)
def test_with_the_built_in_plugins_alone(coreframe_, arguments) -> None:
    ran = coreframe_(*arguments, COREFRAME_PLUGINS="none")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) > 3


def test_a_plugin_that_is_switched_off(coreframe_) -> None:
    ran = coreframe_("plugins", COREFRAME_PLUGINS="-coreframe_torch")
    line = next(x for x in ran.stdout.splitlines() if "coreframe_torch" in x)
    assert line.split()[2] == "off"
    assert (
        "torch" not in coreframe_("list", "backends", COREFRAME_PLUGINS="-coreframe_torch").stdout
    )

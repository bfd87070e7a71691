"""Presets: every one builds, is what it says, and stands in a run.toml as its values."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from coreframe import PairwiseLoss, config, registry
from coreframe.batch import Batch
from coreframe.cli import main
from coreframe.component import Component, Known, Preset, find_preset, presets
from coreframe.compose import WeightedSum
from coreframe.config import made_of, table_of
from coreframe.errors import ConfigError, PluginWarning, UnknownName
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.semi_hard import SemiHard
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_schedulers.competence import Competence
from coreframe_schedulers.warmup_cosine import WarmupCosine
from coreframe_schedulers.warmup_stable_decay import WarmupStableDecay

ALL = presets()
NEEDED = {"start": 1.0, "peak": 1.0, "period": 3, "every": 2, "decay": 0.5}
"""What the caller gives where a field has no default, and exponential its decay."""

each = pytest.mark.parametrize("known", ALL, ids=[f"{k.kind}/{k.component}/{k.name}" for k in ALL])


def class_of(known: Known) -> Any:
    return registry.registry().find(known.kind, known.component).load()


def made(known: Known) -> Any:
    cls = class_of(known)
    missing = {
        name
        for name, field in registry.parameters(cls).items()
        if field.default is field.empty and name not in known.preset.fields
    }
    if known.component == "exponential":
        missing.add("decay")
    return cls.preset(known.name, **{name: NEEDED[name] for name in missing})


@each
def test_it_builds_with_the_values_it_names(known: Known) -> None:
    component = made(known)
    for field, value in known.preset.fields.items():
        assert getattr(component, field) == value
        assert type(getattr(component, field)) is type(value)


@each
def test_it_is_written_as_plain_fields_and_read_back(known: Known) -> None:
    component = made(known)
    table = table_of(component)
    assert "preset" not in table
    assert made_of(type(component), table) == component


@each
def test_it_says_what_it_equals_and_where_that_was_read(known: Known) -> None:
    preset = known.preset
    assert preset.fields, "a preset that says nothing"
    if preset.version:
        assert preset.equals.partition(".")[0].isidentifier()
        assert preset.version.partition(" ")[2][0].isdigit()
    else:
        assert "arXiv" in preset.equals
        assert preset.arguments == {}
    assert preset.note == "" or preset.note.endswith(".")


def test_there_are_presets_of_each_library() -> None:
    names = {known.name for known in ALL}
    assert {
        "paper", "pytorch-metric-learning", "sentence-transformers", "oml", "torch",
        "transformers", "optax", "keras", "open_clip",
    } <= names  # fmt: skip
    assert {known.kind for known in ALL} == {"losses", "miners", "optimizers", "schedulers"}


def test_every_preset_stands_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "presets.md").read_text("utf-8")
    for known in ALL:
        section = page.partition(f"### [`{known.component}`](")[2].partition("\n##")[0]
        row = next(line for line in section.splitlines() if line.startswith(f"| `{known.name}` |"))
        assert known.preset.equals in row


# As the papers have them: their formulas, written again ----------------------------------------


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cross_entropy(logits: Any) -> Any:
    """Return the mean of -log softmax on the diagonal."""
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))


def check_info_nce_paper(rng: Any) -> None:
    a, b = rng.normal(size=(2, 6, 4))  # f(x, c) = exp(z^T W c), W the identity
    assert float(InfoNCE.preset("paper")(a, b).value) == pytest.approx(cross_entropy(a @ b.T))


def check_info_nce_clip(rng: Any) -> None:
    a, b = rng.normal(size=(2, 6, 4))
    logits = unit(a) @ unit(b).T * np.exp(np.log(1 / 0.07))
    want = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    assert float(InfoNCE.preset("clip")(a, b).value) == pytest.approx(want)


def check_info_nce_moco(rng: Any) -> None:
    q, k = rng.normal(size=(2, 6, 4))
    queue = rng.normal(size=(9, 4))
    batch = Batch.with_negatives(q, k, shared=queue, in_batch=False)
    positive = np.sum(unit(q) * unit(k), axis=1, keepdims=True)
    logits = np.concatenate([positive, unit(q) @ unit(queue).T], axis=1) / 0.07
    want = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[:, 0])
    assert float(InfoNCE.preset("moco").value_and_grad(batch).value) == pytest.approx(want)


def check_sup_con_paper(rng: Any) -> None:
    x, labels = rng.normal(size=(8, 4)), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    z = unit(x) @ unit(x).T / 0.1
    others = ~np.eye(8, dtype=bool)
    log_p = z - np.log(np.where(others, np.exp(z), 0).sum(axis=1, keepdims=True))
    same = (labels[:, None] == labels) & others
    want = np.mean([-log_p[i, same[i]].mean() for i in range(8)])
    assert float(SupCon.preset("paper")(x, labels=labels).value) == pytest.approx(want)


def check_semi_hard_paper(rng: Any) -> None:
    a, p, n = (unit(x) for x in rng.normal(size=(3, 7, 3)))
    chosen = SemiHard.preset("paper", k=7).select(a, p, n, 7, rng=None)
    for i in range(7):
        far = np.sum((a[i] - p[i]) ** 2)
        distances = np.sum((a[i] - n) ** 2, axis=1)
        band = {int(j) for j in np.flatnonzero((far < distances) & (distances < far + 0.2))}
        assert {int(j) for j in chosen[i] if j >= 0} == band


def check_adam_paper(rng: Any) -> None:
    optimizer = Adam.preset("paper")
    theta, m, v = rng.normal(size=5), np.zeros(5), np.zeros(5)
    params = {"W": theta}
    state = optimizer.init(params)
    for t in range(1, 6):
        g = rng.normal(size=5)
        params, state = optimizer.update(params, {"W": g}, state)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - 0.001 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(params["W"], theta, rtol=1e-12)


def check_competence_paper(rng: Any) -> None:
    got = [Competence.preset("paper", steps=50).at(t) for t in range(60)]
    want = [min(1, np.sqrt(t * (1 - 0.01**2) / 50 + 0.01**2)) for t in range(60)]
    assert got == pytest.approx(want)


def check_warmup_stable_decay_paper(rng: Any) -> None:
    schedule = WarmupStableDecay.preset("paper", peak=2.0, warmup_steps=0)
    want = [2.0 if t < 80 else 2 * (1 - np.sqrt((t - 80) / 20)) for t in range(101)]
    assert [schedule.at(t, 100) for t in range(101)] == pytest.approx(want)


PAPERS = {
    ("info_nce", "paper"): check_info_nce_paper,
    ("info_nce", "clip"): check_info_nce_clip,
    ("info_nce", "moco"): check_info_nce_moco,
    ("sup_con", "paper"): check_sup_con_paper,
    ("semi_hard", "paper"): check_semi_hard_paper,
    ("adam", "paper"): check_adam_paper,
    ("competence", "paper"): check_competence_paper,
    ("warmup_stable_decay", "paper"): check_warmup_stable_decay_paper,
}


@pytest.mark.parametrize("name", PAPERS, ids="-".join)
def test_it_is_as_in_the_paper(name: tuple[str, str], rng: np.random.Generator) -> None:
    PAPERS[name](rng)


def test_each_paper_has_its_formula_here() -> None:
    papers = {(known.component, known.name) for known in ALL if not known.preset.version}
    assert papers == set(PAPERS)


# Building ---------------------------------------------------------------------------------------


def test_changes_are_stronger_than_the_preset() -> None:
    loss = InfoNCE.preset("sentence-transformers", temperature=0.02, margin=0.1)
    assert loss == InfoNCE(temperature=0.02, margin=0.1)


def test_an_unknown_name_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"Triplet has no preset 'torhc'.* mean 'torch'"):
        Triplet.preset("torhc")
    with pytest.raises(UnknownName, match="Known: sentence-transformers"):
        Contrastive.preset("x")


def test_a_subclass_inherits_no_preset() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(InfoNCE):
        pass

    assert Mine.presets == {}
    with pytest.raises(UnknownName, match="None is known"):
        Mine.preset("paper")


def test_every_interface_has_presets() -> None:
    for kind in registry.KINDS:
        if kind == "backends":
            continue
        for entry in registry.registry().entries(kind):
            assert issubclass(entry.load(), Component), entry.qualified


# In a run.toml ----------------------------------------------------------------------------------


def parse(text: str) -> config.RunConfig:
    return config.parse(tomllib.loads(text))


def test_a_file_names_a_preset_and_stores_values() -> None:
    run = parse(
        """
        [[losses]]
        name = "info_nce"
        preset = "open_clip"
        margin = 0.1
        symmetric = false

        [optimizer]
        name = "adamw"
        preset = "open_clip"
        learning_rate = { scheduler = "warmup_cosine", preset = "open_clip", peak = 1e-3 }
        """
    )
    assert run.loss == InfoNCE(temperature=0.07, margin=0.1)
    assert run.optimizer == AdamW.preset(
        "open_clip", learning_rate=WarmupCosine(peak=1e-3, warmup_steps=10000)
    )
    text = config.dump(run)
    assert "preset" not in text
    assert parse(text) == run


def test_none_stands_in_a_preset() -> None:
    run = parse(
        """
        [[losses]]
        name = "info_nce"

        [optimizer]
        name = "sgd"
        learning_rate = { scheduler = "inverse_sqrt", preset = "transformers", peak = 1e-3 }
        """
    )
    assert run.optimizer.learning_rate.timescale is None


@pytest.mark.parametrize(("weight", "want"), [("", 0.5), ("weight = 2.0", 2.0)])
def test_a_preset_brings_its_weight(weight: str, want: float) -> None:
    run = parse(
        f"""
        [[losses]]
        name = "contrastive"
        preset = "sentence-transformers"
        {weight}

        [[losses]]
        name = "info_nce"
        """
    )
    assert isinstance(run.loss, WeightedSum)
    assert dict(run.loss.weights) == {"contrastive": want}
    assert parse(config.dump(run)) == run


def test_a_weight_makes_a_sum_of_one() -> None:
    run = parse('[[losses]]\nname = "contrastive"\npreset = "sentence-transformers"')
    assert isinstance(run.loss, WeightedSum)
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3))
    batch = Contrastive().batch(a, b, labels=[1, 0, 1, 0, 1])
    alone = Contrastive.preset("sentence-transformers").value_and_grad(batch)
    assert float(run.loss.value_and_grad(batch).value) == pytest.approx(float(alone.value) / 2)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('"sentence-transformer"', "Did you mean 'sentence-transformers'"),
        ("3", "losses[0].preset must be a text, got 3"),
    ],
)
def test_a_wrong_preset_is_a_mistake_of_the_file(given: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[[losses]]\nname = "info_nce"\npreset = {given}\n')
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_a_weight_that_has_no_place_is_a_mistake() -> None:
    text = """
        [[losses]]
        name = "mined"
        miner = { name = "hardest" }
        loss = { name = "contrastive", preset = "sentence-transformers" }
        """
    with pytest.raises(ConfigError, match=r"losses\[0\].loss.preset: .* times 2; the weight 0.5"):
        parse(text)


def test_setting_a_preset_drops_what_would_hide_it() -> None:
    run = config.read(assignments=["losses.0.preset=pytorch-metric-learning"])
    assert run.loss == InfoNCE(temperature=0.07)  # the file of a user without one says 0.05
    run = config.read(assignments=["losses.0.preset=clip", "losses.0.symmetric=false"])
    assert run.loss == InfoNCE(temperature=0.07)


# What is listed ---------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_show_lists_the_presets_of_a_component() -> None:
    text = run("show", "losses", "contrastive").partition("presets:\n")[2]
    assert "sentence-transformers: margin=0.5, similarity='cosine'" in text
    assert "ContrastiveLoss(margin=0.5, size_average=True), times 2" in text
    assert "presets:" not in run("show", "losses", "weighted_sum")


def test_list_prints_all_presets() -> None:
    rows = json.loads(run("list", "--presets", "--json"))
    assert [(r["kind"], r["component"], r["preset"]) for r in rows] == [k[:3] for k in ALL]
    row = next(r for r in rows if r["component"] == "info_nce" and r["preset"] == "open_clip")
    assert row["fields"] == {"temperature": 0.07, "similarity": "cosine", "symmetric": True}
    assert set(row) == {
        "kind", "component", "preset", "equals", "fields", "arguments", "version", "weight", "note",
    }  # fmt: skip
    table = run("list", "miners", "--presets")
    assert "pytorch_metric_learning.miners.BatchHardMiner" in table
    assert "losses" not in table


def test_a_component_that_cannot_be_imported_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.registry()
    broken = found.find("losses", "info_nce")
    load = type(broken).load

    def fail(entry: Any) -> Any:
        if entry == broken:
            raise ImportError("no such thing")
        return load(entry)

    monkeypatch.setattr(type(broken), "load", fail)
    with pytest.warns(PluginWarning, match=r"losses .*info_nce cannot be loaded.*no such thing"):
        rest = presets()
    assert {k.component for k in ALL} - {k.component for k in rest} == {"info_nce"}


def test_find_preset_names_the_class() -> None:
    class Other(PairwiseLoss):
        presets: ClassVar = {"mine": Preset(equals="mine", fields={})}

    assert find_preset(Other, "mine").equals == "mine"
    with pytest.raises(UnknownName, match="Other has no preset 'yours'"):
        find_preset(Other, "yours")

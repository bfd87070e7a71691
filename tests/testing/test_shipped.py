"""Every component that coreframe ships keeps its promises, each in several settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_service import service
from tiny_models import bert

from coreframe import Rule, build
from coreframe.plugin import KINDS
from coreframe.registry import registry
from coreframe.scheduler import Scheduler
from coreframe.testing import arrays, report, target
from coreframe.testing.plugins import packages, promises
from coreframe.testing.regularizers.promises import starting_parameters

Fields = dict[str, Any]


def loss(name: str = "info_nce", **fields: Any) -> Any:
    return build("losses", name, **fields)


def scheduler(name: str, **fields: Any) -> Scheduler:
    return build("schedulers", name, **fields)


def adapter(name: str, **fields: Any) -> Any:
    return build("adapters", name, **fields)


def curriculum() -> Any:
    from coreframe_schedulers.curriculum import Stage

    stages = (
        Stage(name="easy", duration=3, values={"k": 2.0}),
        Stage(name="hard", duration=4, values={"k": 9.0}),
    )
    return scheduler("curriculum", stages=stages)


def tiny_model() -> Fields:
    """Return a model made on the spot, or a name where the package for it is missing."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return {"model": "all-MiniLM-L6-v2"}
    folder = Path(tempfile.mkdtemp())
    bert(folder).save(str(folder / "model"))
    return {"model": str(folder / "model")}


def chain() -> Any:
    return adapter("chain", adapters={"a": adapter("low_rank", rank=2), "b": adapter("linear")})


def learned(**fields: Any) -> Fields:
    """Return the fields of elastic weight consolidation that has learned two tasks."""
    start, rng = starting_parameters(), np.random.default_rng(0)
    found = build("regularizers", "ewc", strength=2.0, **fields)
    for shift in (0.0, 1.0):
        center = {name: np.asarray(x + shift) for name, x in start.items()}
        fisher = {name: np.asarray(rng.random(x.shape)) for name, x in start.items()}
        found = found.learned(center, fisher)
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def callable_embedder() -> Fields:
    return {"function": lengths}


def lengths(texts: list[str]) -> Any:
    """Embed texts by how often four letters stand in them."""
    return [[float(text.count(letter)) + 0.5 for letter in "aeio"] for text in texts]


EDGES = np.asarray([[0, 1], [1, 2], [2, 3], [3, 4], [0, 5], [5, 8]])
RULES = (Rule("query.*", {"learning_rate": 0.01}),)
WARMED = {"peak": 1.0, "warmup_steps": 0.1}

# Fields of each component, setting by setting.
SHIPPED: dict[str, dict[str, list[Fields | Callable[[], Fields]]]] = {
    "losses": {
        "contrastive": [{}, {"margin": 0.5, "reduction": "sum"}],
        "cosine_embedding": [{}, {"margin": 0.2, "reduction": "sum"}],
        "cross_entropy": [{}, {"label_smoothing": 0.1}],
        "info_nce": [
            {},
            {"learnable_scale": True},
            {"symmetric": True},
            {"reduction": "none", "similarity": "dot", "temperature": 2.0},
            {"margin": 0.2, "similarity": "squared_euclidean", "reduction": "sum"},
        ],
        "local_contrastive": [{}, {"over_negatives": "sum", "similarity": "cosine"}],
        "mined": [lambda: {"miner": build("miners", "hardest", k=2), "loss": loss()}],
        "mse": [{}, {"reduction": "sum"}],
        "nca": [{}, {"temperature": 0.5, "similarity": "cosine"}],
        "sup_con": [{}, {"temperature": 0.5, "learnable_scale": True}],
        "symmetric": [lambda: {"loss": loss()}],
        "triplet": [
            {},
            {"mode": "all", "reduction": "mean_active"},
            {"mode": "semi_hard", "similarity": "cosine"},
        ],
        "weighted_sum": [
            lambda: {"losses": {"a": loss(), "b": loss("triplet")}, "weights": {"b": 0.5}}
        ],
    },
    "miners": {
        "distance_weighted": [{}, {"k": 2, "cutoff": 0.8}],
        "hardest": [{}, {"k": 2, "similarity": "euclidean"}],
        "in_batch": [{}, {"threshold": 0.2, "include_positive": True}],
        "random": [{}, {"k": 2}],
        "semi_hard": [{}, {"margin": 0.5, "similarity": "cosine", "fill": "none"}],
        "softmax_weighted": [{}, {"temperature": 0.2, "k": 2}],
    },
    "optimizers": {
        "adam": [{}, {"weight_decay": 0.1, "decoupled": True, "beta1": 0.5}],
        "adamw": [{}, {"rules": RULES, "weight_decay": 0.1}],
        "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    },
    "schedulers": {
        "competence": [{}, {"steps": 40, "power": 1.0}],
        "constant": [{"value": 0.3}],
        "cosine": [{"start": 1.0}, {"start": 1.0, "end": 0.1, "steps": 30}],
        "cosine_warm_restarts": [
            {"start": 1.0, "period": 10},
            {"start": 1.0, "period": 5, "multiplier": 2, "height": 0.5, "cycles": 3},
        ],
        "curriculum": [lambda: {"stages": curriculum().stages}],
        "exponential": [{"start": 1.0, "decay": 0.9}, {"start": 1.0, "end": 0.01}],
        "inverse_sqrt": [{"peak": 1.0}, {"peak": 1.0, "warmup_steps": 8, "timescale": 4}],
        "joined": [
            lambda: {
                "schedulers": (
                    scheduler("linear", start=0.0, end=1.0, steps=10),
                    scheduler("cosine", start=1.0),
                ),
                "boundaries": (10,),
            }
        ],
        "linear": [{"start": 1.0, "end": 0.0}, {"start": 0.0, "end": 1.0, "steps": 9, "every": 3}],
        "one_cycle": [{"peak": 1.0}, {"peak": 1.0, "anneal": "linear", "steps": 30}],
        "piecewise": [
            {"values": (1.0, 0.5, 0.1), "boundaries": (10, 20)},
            {"values": (1.0, 0.5, 0.1), "boundaries": (5, 9), "interpolate": "linear"},
        ],
        "polynomial": [{"start": 1.0}, {"start": 1.0, "end": 0.1, "power": 2.0, "steps": 30}],
        "stage_value": [lambda: {"curriculum": curriculum(), "name": "k"}],
        "step": [{"start": 1.0, "every": 10}, {"start": 1.0, "every": 3, "minimum": 0.05}],
        "warmup_cosine": [WARMED, {"peak": 1.0, "warmup_steps": 4, "steps": 30, "minimum": 0.1}],
        "warmup_stable_decay": [WARMED, {"peak": 1.0, "decay": "cosine", "decay_steps": 5}],
    },
    "regularizers": {
        "ewc": [
            learned,
            lambda: learned(proximal=True),
            lambda: learned(mode="online", decay=0.9),
        ],
        "graph_laplacian": [
            lambda: {"edges": EDGES},
            lambda: {"edges": EDGES, "weights": np.arange(1.0, 7.0), "normalized": True},
        ],
        "l2": [{}, {"toward": "zero", "strength": 0.5}],
        "variance_of_variances": [{}, {"on": "anchors"}],
    },
    "adapters": {
        "chain": [lambda: {"adapters": chain().adapters}],
        "linear": [{}, {"bias": True}],
        "low_rank": [{}, {"rank": 2, "alpha": 4.0, "rank_stabilized": True}],
        "micro_lora": [{}, {"rank": 2, "modules": ("query",)}],
        "procrustes": [{}],
        "recomputed": [
            lambda: {"adapter": adapter("linear", bias=True)},
            lambda: {"adapter": chain(), "segments": 2},
        ],
        "whitening": [{}, {"shrinkage": 0.1}],
    },
    "samplers": {
        "m_per_class": [{}, {"m": 2, "few": "repeat"}],
        "no_duplicates": [{}],
        "ordered": [{}, {"by": "quality", "epochs": 2}],
        "shuffled": [{}],
    },
    "callbacks": {
        "jsonl": [{}],
        "mlflow": [{}],
        "tensorboard": [{}],
        "trackio": [{}],
        "wandb": [{}],
    },
    "embedders": {
        "callable": [callable_embedder],
        "hashing": [{}, {"dimensions": 64, "word_boundaries": False}],
        "model2vec": [{"model": "minishlab/potion-base-2M"}],
        "openai": [lambda: {"model": "m", "base_url": service(), "api_key_variable": None}],
        "sentence_transformers": [tiny_model],
        "sha256": [{}, {"dimensions": 16, "normalize": False}],
        "wordllama": [{}],
    },
    "backends": {"cupy": [{}], "jax": [{}], "numpy": [{}, {"device": "cpu"}], "torch": [{}]},
}


COMPILED = ("info_nce", "triplet", "mse", "cross_entropy", "hardest", "random")
"""Components whose first settings are checked on JAX too, which compiles for long: one a form.
What the others do there is tested beside each: see ``library`` in tests/conftest.py."""


def cases() -> Iterator[Any]:
    for kind, components in SHIPPED.items():
        for name, settings in components.items():
            for number, fields in enumerate(settings):
                words = "" if callable(fields) else ",".join(f"{k}={v}" for k, v in fields.items())
                yield pytest.param(kind, name, fields, number, id=f"{kind}:{name}({words})")


@pytest.mark.parametrize(("kind", "name", "fields", "number"), list(cases()))
def test_it_keeps_its_promises(
    kind: str, name: str, fields: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "model2vec" and importlib.util.find_spec(name):
        pytest.skip("its package is installed, and the model would have to be downloaded")
    if number or name not in COMPILED:
        few = {k: place for k, place in arrays.libraries().items() if k != "jax"}
        monkeypatch.setattr(arrays, "libraries", lambda: few)
    given = fields() if callable(fields) else fields
    (suite,) = target.suites(f"{kind}:coreframe-ml:{name}", given)
    checks = list(suite.run())
    assert all(checks), report([c for c in checks if not c])
    assert any(c.checked for c in checks)


# Nothing is left out --------------------------------------------------------------------------


def test_every_component_stands_in_the_table() -> None:
    ours = {
        (kind, entry.name)
        for kind in KINDS
        for entry in registry().entries(kind)
        if entry.plugin.built_in
    }
    assert {(kind, name) for kind, names in SHIPPED.items() for name in names} == ours


def test_every_kind_has_a_kit() -> None:
    assert [kit.kind for kit in target.KITS if kit.kind not in KINDS] == []
    assert set(KINDS) == {kit.kind for kit in target.KITS}


def test_our_own_plugins_keep_their_promises() -> None:
    checks = [p.check(packages.package("coreframe-ml")) for p in promises.PROMISES]
    assert all(checks), report([c for c in checks if not c])


def test_there_are_many_checks() -> None:
    found = [promise for kit in target.KITS for promise in kit.promises] + promises.PROMISES
    assert len({(p.name, p.sentence) for p in found}) >= 60
    for each in found:
        assert each.name.isidentifier()
        assert each.sentence.endswith(".")
        assert each.fix.endswith(("?", "."))


def test_names_of_promises_are_their_own() -> None:
    for kit in target.KITS:
        names = [promise.name for promise in kit.promises]
        assert len(set(names)) == len(names), kit.kind

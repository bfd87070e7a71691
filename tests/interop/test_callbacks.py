"""Callbacks of Transformers and Lightning: schedules of losses, and the health of vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import coreframe as cf
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress

torch = pytest.importorskip("torch")
nn = torch.nn

from coreframe.interop.hooks import FollowedLosses, WatchedHealth, numbers_of  # noqa: E402
from coreframe.interop.torch import LossModule  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

InfoNCE = type(cf.build("losses", "info_nce"))
FALLING = cf.build("schedulers", "linear", start=0.4, end=0.1)
GROWING = cf.build("schedulers", "linear", start=1, end=9)
ROWS, WIDTH = 32, 8


class Net(nn.Module):
    """A linear map with a loss whose temperature and miner are scheduled, and whose scale is
    learned.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(WIDTH, WIDTH)
        self.criterion = LossModule(
            InfoNCE(temperature=FALLING), miner=cf.build("miners", "hardest", k=GROWING)
        )

    def forward(self, x: Any = None, y: Any = None) -> dict[str, Any]:
        return {"loss": self.criterion(self.map(x), y)}


def rows(seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, ROWS, WIDTH)).astype(np.float32)
    return [{"x": torch.tensor(a), "y": torch.tensor(b)} for a, b in zip(x, y, strict=True)]


def embed(model: Any) -> tuple[Any, Any]:
    x = torch.stack([row["x"] for row in rows()])
    return model.map(x), x


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What both share ------------------------------------------------------------------------------


def test_losses_are_found_wherever_they_are() -> None:
    net = Net()
    followed = FollowedLosses(net)
    assert followed.values() == {}
    followed.at(Progress(step=2, steps=8))
    assert net.criterion.progress == Progress(step=2, steps=8)
    assert followed.values() == {
        "loss.temperature": pytest.approx(FALLING.at(2, 8)),
        "miner.k": round(GROWING.at(2, 8)),
    }
    twice = FollowedLosses(net, net.criterion)  # one loss, told once
    twice.at(Progress(step=8, steps=8))
    assert twice.values() == pytest.approx({"loss.temperature": 0.1, "miner.k": 9})


def test_several_losses_are_told_apart() -> None:
    both = nn.ModuleDict({"near": Net().criterion, "far": Net().criterion})
    followed = FollowedLosses(both)
    followed.at(Progress(steps=8))
    assert set(followed.values()) == {
        f"{name}.{field}" for name in ("near", "far") for field in ("loss.temperature", "miner.k")
    }


def test_several_modules_are_told_apart_by_number() -> None:
    followed = FollowedLosses(Net(), Net().criterion)
    followed.at(Progress(steps=8))
    fields = ("loss.temperature", "miner.k")
    places = ("0.criterion", "1")
    assert set(followed.values()) == {f"{place}.{field}" for place in places for field in fields}


def test_losses_may_be_a_mapping() -> None:
    """As the trainer of sentence-transformers takes them, others' losses among them."""
    followed = FollowedLosses({"near": Net(), "far": Net().criterion, "theirs": nn.MSELoss()})
    followed.at(Progress(steps=8))
    fields = ("loss.temperature", "miner.k")
    places = ("near.criterion", "far")
    assert set(followed.values()) == {f"{place}.{field}" for place in places for field in fields}
    with pytest.raises(ArgumentTypeError, match="must be a torch module, got InfoNCE"):
        FollowedLosses({"near": InfoNCE()})


def test_schedules_inside_of_parts_have_a_path() -> None:
    loss = cf.WeightedSum(
        losses={"a": InfoNCE(temperature=FALLING), "b": InfoNCE()}, weights={"b": FALLING}
    )
    followed = FollowedLosses(LossModule(loss))
    followed.at(Progress(steps=8))
    assert followed.values() == {"loss.losses.a.temperature": 0.4, "loss.weights.b": 0.4}


def test_where_there_is_no_loss() -> None:
    with pytest.raises(ArgumentError, match="no loss of coreframe in Linear"):
        FollowedLosses(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="no loss of coreframe in nothing"):
        FollowedLosses()
    with pytest.raises(ArgumentTypeError, match="a loss must be a torch module, got InfoNCE"):
        FollowedLosses(InfoNCE())


def test_health_is_that_of_the_evaluation() -> None:
    """Numbers beside their definitions, on the vectors themselves."""
    net = Net().train()
    net.map.eval()  # frozen by its owner
    found = WatchedHealth(embed).measure(net)
    assert (net.training, net.map.training, net.criterion.training) == (True, False, True)
    u, v = (nn.functional.normalize(x, dim=1).double() for x in embed(net))
    assert found.alignment == pytest.approx(float(((u - v) ** 2).sum(1).mean()), rel=1e-5)
    shares = torch.linalg.svdvals(u.detach())
    shares = shares / shares.sum()
    rank = float(torch.exp(-(shares * shares.log()).sum()))
    assert found.effective_rank == pytest.approx(rank, rel=1e-4)
    values = numbers_of(found)
    assert values["health/effective_rank"] == found.effective_rank
    assert values["health/collapsed"] == 0.0
    assert all(np.isfinite(x) for x in values.values())


def test_vectors_in_bfloat16() -> None:
    model = Net()

    def narrow(model: Any) -> tuple[Any, Any]:
        return tuple(x.to(torch.bfloat16) for x in embed(model))  # type: ignore[return-value]

    got, want = WatchedHealth(narrow).measure(model), WatchedHealth(embed).measure(model)
    assert got.effective_rank == pytest.approx(want.effective_rank, rel=0.01)


def test_a_collapse_is_told(caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    watched = WatchedHealth(embed)
    assert not watched.measure(net).collapsed
    nn.init.zeros_(net.map.weight)  # all rows are the bias
    with caplog.at_level(logging.WARNING, "coreframe.interop.hooks"):
        assert watched.measure(net).collapsed
    assert "the vectors have collapsed: queries point nearly all the same way" in caplog.text


def test_the_start_of_a_continued_run_is_what_it_logged() -> None:
    watched = WatchedHealth(embed)
    watched.measure(Net())
    start = {"health/effective_rank": 500.0, "health/document_effective_rank": 4.0}
    watched.go_on_from([{"loss": 1.0}, start, {**start, "health/effective_rank": 1.0}])
    assert watched.base is not None
    assert watched.base.effective_rank == 500
    assert "lost most of their directions" in watched.measure(Net()).reason


def test_what_is_no_function_of_the_model() -> None:
    with pytest.raises(ArgumentTypeError, match="embed must be a function of the model"):
        WatchedHealth(np.eye(3))  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="embed must return vectors of queries and"):
        WatchedHealth(lambda model: model.map.weight).measure(Net())


# Transformers -----------------------------------------------------------------------------------


def trained_by_transformers(folder: Path, net: Any, *, log: bool = True, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip(
            "transformers", reason="needs coreframe-ml[transformers]"
        )
        pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    from coreframe.interop.transformers import HealthMetrics, LossSchedules

    stop, resume, every = (more.pop(name, None) for name in ("stop", "resume", "every"))
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "label_names": ["y"],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "learning_rate": 0.01,
    }
    trainer = transformers.Trainer(
        model=net,
        args=transformers.TrainingArguments(output_dir=str(folder), **{**settings, **more}),
        train_dataset=rows(),
        eval_dataset=rows(1),
    )
    schedules = LossSchedules(net, log=trainer.log if log else None, metric="eval_loss")
    trainer.add_callback(schedules)
    trainer.add_callback(HealthMetrics(embed, log=trainer.log, stop=stop, every=every))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logged(trainer: Any, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def test_schedules_in_a_trainer_of_transformers(tmp_path: Path) -> None:
    net, seen = Net(), []
    net.criterion.register_forward_pre_hook(lambda m, _: seen.append((m.training, m.progress)))
    trainer = trained_by_transformers(tmp_path, net)
    training = [progress for train, progress in seen if train]
    assert [p.step for p in training] == [step for step in range(8) for _ in range(2)]
    assert {p.steps for p in training} == {8}
    assert [p.samples for p in training[::2]] == [8 * step for step in range(8)]
    assert [p.epoch for p in training[::2]] == [0] * 4 + [1] * 4
    assert [len(p.history) for p in training[::2]] == [0] * 4 + [1] * 4
    assert training[-1].history == (logged(trainer, "eval_loss")[4],)
    assert logged(trainer, "loss.temperature") == pytest.approx(
        {step: FALLING.at(step - 1, 8) for step in (2, 4, 6, 8)}
    )
    assert logged(trainer, "miner.k") == {2: 2, 4: 4, 6: 6, 8: 8}


def test_health_in_a_trainer_of_transformers(tmp_path: Path) -> None:
    trainer = trained_by_transformers(tmp_path, Net(), log=False, every=6)
    ranks = logged(trainer, "health/effective_rank")
    assert list(ranks) == [0, 4, 6, 8]
    assert list(logged(trainer, "loss")) == [2, 4, 6, 8]  # none is lost at step 6
    assert ranks[0] == pytest.approx(WatchedHealth(embed).measure(Net()).effective_rank)
    assert ranks[8] == pytest.approx(WatchedHealth(embed).measure(trainer.model).effective_rank)
    assert ranks[8] != ranks[0]
    assert logged(trainer, "loss.temperature") == {}
    assert len(logged(trainer, "health/alignment")) == 4


def test_a_run_of_transformers_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = trained_by_transformers(tmp_path / "whole", Net())
    settings = {"save_strategy": "steps", "save_steps": 4}
    trained_by_transformers(tmp_path / "half", Net(), **settings)
    again = trained_by_transformers(
        tmp_path / "half", Net(), resume=str(tmp_path / "half" / "checkpoint-4"), **settings
    )
    for name in ("loss.temperature", "miner.k", "loss"):
        want = {step: value for step, value in logged(whole, name).items() if step > 4}
        got = {step: value for step, value in logged(again, name).items() if step > 4}
        assert got == pytest.approx(want)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_of_losses_stand_in_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs coreframe-ml[transformers]")
    from coreframe.interop.transformers import LossSchedules

    args = SimpleNamespace(
        output_dir=str(tmp_path), should_save=True, train_batch_size=8, world_size=1,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    state = SimpleNamespace(global_step=3, max_steps=9, epoch=0.5, log_history=[])
    losses = {"a": LossModule(InfoNCE(learnable_scale=True)), "b": nn.MSELoss()}
    callback = LossSchedules(losses)
    callback.on_train_begin(args, state, None)
    assert "start anew: there is no" in caplog.text
    with torch.no_grad():
        losses["a"].log_scale.fill_(0.25)
    (tmp_path / "checkpoint-3").mkdir()
    callback.on_save(args, state, None)
    file = tmp_path / "checkpoint-3" / "coreframe_losses.safetensors"
    before = file.stat().st_mtime_ns
    callback.on_save(args, state, None, model=losses["a"])  # which has them already
    assert file.stat().st_mtime_ns == before
    fresh = {"a": LossModule(InfoNCE(learnable_scale=True))}
    LossSchedules(fresh).on_train_begin(args, state, None)
    assert float(fresh["a"].log_scale.detach()) == 0.25
    with pytest.raises(ArgumentError, match=r"checkpoint-3.* has the parameters .*a\.log_scale"):
        LossSchedules({"c": fresh["a"]}).on_train_begin(args, state, None)


def test_a_collapse_stops_a_trainer_of_transformers(tmp_path: Path) -> None:
    net = Net()
    nn.init.zeros_(net.map.weight)
    trainer = trained_by_transformers(tmp_path, net, stop=True, learning_rate=0.0)
    assert trainer.state.global_step < 8
    assert logged(trainer, "health/collapsed")[0] == 1.0


def test_parameters_are_kept_where_they_are_allowed(tmp_path: Path) -> None:
    class Bounded(InfoNCE):  # type: ignore[misc,valid-type]
        def init(self, rng: Any, dim: int) -> Any:
            return {"log_scale": np.zeros((), np.float32), "bias": np.zeros((), np.float32)}

        def project(self, params: Any) -> Any:
            return {name: np.clip(x, -1e-3, 1e-3) for name, x in params.items()}

    net = Net()
    net.criterion = LossModule(Bounded(learnable_scale=True))
    trained_by_transformers(tmp_path, net, learning_rate=0.5)
    assert abs(float(net.criterion.log_scale.detach())) == pytest.approx(1e-3)


def test_arguments_of_the_callbacks_of_transformers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs coreframe-ml[transformers]")
    from coreframe.interop.transformers import HealthMetrics

    with pytest.raises(ArgumentError, match="every must be a number of updates from 1"):
        HealthMetrics(embed, log=print, every=0)


# Lightning --------------------------------------------------------------------------------------


def trained_by_lightning(folder: Path, *, start: Any = None, **more: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning.pytorch", reason="needs coreframe-ml[lightning]")
    from coreframe.interop.lightning import HealthMetrics, LossSchedules

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.map = self.net.map
            self.seen: list[Any] = []
            self.logged: list[dict[str, float]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(self.net.criterion.progress)
            return self.net(**batch)["loss"]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.net(**batch)["loss"])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    class Records(lightning.loggers.logger.Logger):  # type: ignore[misc,name-defined]
        name, version = "records", 0

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[dict[str, float]] = []

        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.rows.append({**metrics, "step": step or 0})

    module, records = Module(), Records()
    if start is not None:
        start(module)
    stop, resume, data = more.pop("stop", False), more.pop("resume", None), more.pop("data", rows())
    trainer = lightning.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            "logger": records,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                LossSchedules(batch_size=8, metric="val_loss"),
                HealthMetrics(embed, stop=stop),
            ],
            **more,
        }
    )
    load = torch.utils.data.DataLoader
    trainer.fit(module, load(data, batch_size=8), load(rows(1), batch_size=8), ckpt_path=resume)
    trainer.records = records.rows
    return trainer, module


def column(trainer: Any, name: str) -> list[float]:
    return [row[name] for row in trainer.records if name in row]


def test_schedules_in_a_trainer_of_lightning(tmp_path: Path) -> None:
    trainer, module = trained_by_lightning(tmp_path)
    assert [p.step for p in module.seen] == list(range(8))
    assert {p.steps for p in module.seen} == {8}
    assert [p.samples for p in module.seen] == [8 * step for step in range(8)]
    assert [p.epoch for p in module.seen] == [0] * 4 + [1] * 4
    assert [len(p.history) for p in module.seen] == [0] * 4 + [1] * 4
    assert module.seen[-1].history == (pytest.approx(column(trainer, "val_loss")[0]),)
    assert column(trainer, "loss.temperature") == pytest.approx(
        [FALLING.at(step, 8) for step in range(8)]
    )
    assert column(trainer, "miner.k") == [1, 2, 3, 4, 5, 6, 7, 8]


def test_health_in_a_trainer_of_lightning(tmp_path: Path) -> None:
    trainer, module = trained_by_lightning(tmp_path)
    ranks = column(trainer, "health/effective_rank")
    assert len(ranks) == 3
    assert ranks[0] == pytest.approx(WatchedHealth(embed).measure(Net()).effective_rank)
    assert ranks[2] == pytest.approx(WatchedHealth(embed).measure(module).effective_rank)
    assert ranks[2] != ranks[0]
    without, _ = trained_by_lightning(tmp_path, limit_val_batches=0)
    assert len(column(without, "health/effective_rank")) == 3


def test_a_run_of_lightning_goes_on_where_it_was(tmp_path: Path) -> None:
    half, _ = trained_by_lightning(tmp_path, max_epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    _, got = trained_by_lightning(
        tmp_path, resume=str(tmp_path / "half.ckpt"), start=lambda m: nn.init.ones_(m.map.weight)
    )
    assert [p.step for p in got.seen] == [4, 5, 6, 7]
    assert got.seen[-1].history[0] == pytest.approx(column(half, "val_loss")[0])


def test_steps_of_lightning_with_two_optimizers_and_without_a_length(tmp_path: Path) -> None:
    def by_hand(module: Any) -> None:
        def optimizers() -> Any:
            parts = (module.map, module.net.criterion)
            return [torch.optim.SGD(part.parameters(), lr=0.01) for part in parts]

        def training_step(batch: Any, batch_idx: int) -> None:
            module.seen.append(module.net.criterion.progress)
            module.manual_backward(module.net(**batch)["loss"])
            for optimizer in module.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        module.net.criterion = LossModule(InfoNCE(learnable_scale=True))
        module.automatic_optimization = False
        module.configure_optimizers, module.training_step = optimizers, training_step

    _, module = trained_by_lightning(tmp_path, start=by_hand)
    assert [(p.step, p.steps) for p in module.seen] == [(step, 8) for step in range(8)]

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[Any]:
            return iter(rows())

    def unscheduled(module: Any) -> None:
        module.net.criterion = LossModule(InfoNCE())

    _, module = trained_by_lightning(tmp_path, start=unscheduled, data=Stream(), max_epochs=1)
    assert [(p.step, p.steps) for p in module.seen] == [(step, None) for step in range(4)]


def test_a_collapse_stops_a_trainer_of_lightning(tmp_path: Path) -> None:
    def collapsed(module: Any) -> None:  # all rows are the bias, and stay so
        nn.init.zeros_(module.map.weight)
        module.map.weight.requires_grad_(False)

    trainer, _ = trained_by_lightning(tmp_path, stop=True, max_epochs=9, start=collapsed)
    assert trainer.current_epoch < 9
    assert column(trainer, "health/collapsed")[-1] == 1.0

"""Whoever follows a run is told all of it, and none who fails takes the run down."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from coreframe import Callback, Pairs, fit, registry
from coreframe.callbacks import About, Record, Session, Status, Tracker
from coreframe.errors import ConfigError, MissingExtra, PluginWarning
from coreframe.following import Following, describe


def pairs(count: int = 64) -> Pairs:
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(count, 8))
    return Pairs(documents @ np.linalg.qr(rng.normal(size=(8, 8)))[0], documents)


@dataclass(frozen=True, kw_only=True)
class Remember(Tracker):
    """A tracker that keeps what it is told."""

    told: list[Any] = field(default_factory=list, compare=False)
    broken: str = ""

    def check(self) -> None:
        if self.broken == "check":
            raise MissingExtra("remember", "remember", "the callback remember")

    def open(self, about: About) -> Session:
        if self.broken == "open":
            raise OSError("no network")
        self.told.append(about)
        print("a tool that prints")
        owner = self

        class Kept(Session):
            def log(self, record: Record) -> None:
                if owner.broken == "log" and record.step > 2:
                    raise ValueError("disk full")
                owner.told.append(record)

            def close(self, state: str) -> None:
                owner.told.append(state)

        return Kept()


class Raises(Callback):
    def __init__(self, event: str, error: BaseException) -> None:
        self.event, self.error, self.calls = event, error, 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name == self.event:
            self.calls += 1
            raise self.error
        return super().__getattribute__(name)


def test_a_tracker_sees_the_configuration_the_history_and_the_end(capsys) -> None:
    tracker = Remember()
    run = fit(pairs(), pairs(), epochs=2, batch_size=16, callbacks=[tracker])
    about, *records, state = tracker.told
    assert state == "finished"
    assert about.config["epochs"] == 2
    assert about.config["loss"]["name"] == "InfoNCE"
    assert about.flat()["loss.temperature"] == 0.07
    assert [(r.step, r.epoch) for r in records] == [(h["step"], h["epoch"]) for h in run.history]
    for record, line in zip(records, run.history, strict=True):
        kind = "eval" if "ndcg@10" in line else "train"
        values = {k: v for k, v in line.items() if k not in ("step", "epoch")}
        assert record.kind == kind
        assert record.named == {f"{kind}/{name}": value for name, value in values.items()}
    assert {"train/loss", "train/grad_norm", "train/learning_rate"} <= set(records[1].named)
    printed = capsys.readouterr()
    assert printed.out == ""  # stdout is for results
    assert "a tool that prints" in printed.err


@pytest.mark.parametrize("event", ["on_start", "on_step", "on_evaluate", "on_end"])
def test_a_callback_that_raises_is_named_once_and_left_out(event: str) -> None:
    bad, good = Raises(event, ValueError("as you like")), Remember()
    with pytest.warns(PluginWarning, match=f"the callback Raises failed in {event}") as caught:
        run = fit(pairs(), pairs(), epochs=3, batch_size=16, callbacks=[bad, good])
    assert len(caught) == 1
    assert "left out from here on: ValueError: as you like" in str(caught[0].message)
    assert bad.calls == 1
    assert run.history[-1]["epoch"] == 3
    assert good.told[-1] == "finished"
    assert len(good.told) == len(run.history) + 2


@pytest.mark.parametrize("where", ["open", "log"])
def test_a_tracker_that_raises_is_left_out(where: str) -> None:
    bad, good = Remember(broken=where), Remember()
    with pytest.warns(PluginWarning, match="the callback Remember failed in") as caught:
        fit(pairs(), pairs(), epochs=2, batch_size=16, callbacks=[bad, good])
    assert len(caught) == 1
    assert good.told[-1] == "finished"
    assert "finished" not in bad.told  # it was not asked again


def test_a_missing_tool_is_said_before_any_work() -> None:
    with pytest.raises(MissingExtra, match=r"the callback remember needs .*coreframe-ml\[remember"):
        fit(pairs(), callbacks=[Remember(broken="check")])


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (SystemExit(3), "failed")]
)
def test_what_ends_the_process_goes_through(error: BaseException, state: str) -> None:
    tracker = Remember()
    with pytest.raises(type(error)):
        fit(pairs(), pairs(), epochs=2, callbacks=[Raises("on_step", error), tracker])
    assert tracker.told[-1] == state


def test_a_run_that_fails_says_so() -> None:
    tracker = Remember()

    def experiment() -> None:
        with Following([tracker]) as following:
            fit(pairs(), pairs(), epochs=1, callbacks=[following])
            raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        experiment()
    assert tracker.told[-1] == "failed"


def test_several_fits_of_an_experiment_are_one_session() -> None:
    tracker = Remember()
    with Following([tracker], about=About(name="first", config={"a": {"b": 1}})) as following:
        fit(pairs(), pairs(), epochs=1, callbacks=[following])
        fit(pairs(), pairs(), epochs=1, side="both", start="whitening", callbacks=[following])
        fit(pairs(), pairs(), epochs=1, callbacks=[following])
        following.on_result({"test/ndcg@10": 0.5})
    about, *records, state = tracker.told
    assert (about.name, about.flat()) == ("first", {"a.b": 1})
    assert state == "finished"
    assert list(dict.fromkeys(r.fit for r in records)) == ["identity", "whitening", "identity_2"]
    names = [set(r.named) for r in records]
    assert any("train/loss" in n for n in names)
    assert any("whitening/train/loss" in n for n in names)
    assert any("identity_2/eval/ndcg@10" in n for n in names)
    assert records[-1].kind == "test"
    assert records[-1].named == {"test/ndcg@10": 0.5}


def test_true_still_stops_a_run() -> None:
    class Stop(Callback):
        def on_step(self, status: Status) -> bool:
            return status.step >= 2

    run = fit(pairs(), pairs(), epochs=5, batch_size=16, callbacks=[Stop()])
    assert run.history[-1]["step"] == 2


def test_settings_are_described_without_arrays() -> None:
    @dataclass(frozen=True)
    class Settings:
        initial: Any
        size: int = 3
        parts: tuple[Any, ...] = ()

    found = describe(Settings(initial=np.zeros(3), parts=(About(name="x"), np.zeros(2))))
    about = {"name": "About", "config": {}, "folder": None} | {"name": "x"}
    assert found == {"size": 3, "parts": [about, "ndarray"]}
    assert describe(object()) == {}


def test_components_of_a_file() -> None:
    from coreframe import config

    found = config.parse({"callbacks": [{"name": "jsonl", "path": "a.jsonl"}, {"name": "wandb"}]})
    assert found.callbacks[0].path == "a.jsonl"  # type: ignore[attr-defined]
    assert found.callbacks[1].library == "wandb"  # type: ignore[attr-defined]
    assert config.parse(_toml(config.dump(found))) == found
    with pytest.raises(ConfigError, match="Did you mean 'wandb'"):
        config.parse({"callbacks": [{"name": "wandbb"}]})
    with pytest.raises(ConfigError, match=r"callbacks\[0\].library must be"):
        config.parse({"callbacks": [{"name": "wandb", "library": "other"}]})


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def test_every_callback_of_ours_is_a_frozen_component() -> None:
    import pickle

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for entry in registry.registry().entries("callbacks"):
            one = registry.build("callbacks", entry.name)
            assert pickle.loads(pickle.dumps(one)) == one
            with pytest.raises(AttributeError):
                one.anything = 1

"""Runs in MLflow, local or on a server, by mlflow-skinny."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from coreframe.callbacks import About, Record, Session, Tracker
from coreframe.errors import ArgumentTypeError, MissingExtra

_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LONGEST = 500
"""MLflow refuses values of parameters that are longer, where its store is an old one."""
_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class MLflow(Tracker):
    """Write a run to MLflow: metrics by step, the configuration as parameters, and its state.

    Metrics are ``train/loss``, ``eval/ndcg_at_10``, ``test/ndcg_at_10``, since MLflow's names have
    no ``@``. MLflow's own environment variables hold: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME,
    MLFLOW_RUN_ID and the rest; without any, runs go where MLflow puts them. A run that is active
    already is used, and left open.

    Args:
        experiment: the experiment's name. Default: None, MLFLOW_EXPERIMENT_NAME, else MLflow's own
            default.

    Shapes: one metric a value, at its step.

    Edges: without MLflow a run does not begin, and the error says what to install. A server that
    does not answer is waited for as MLflow does (MLFLOW_HTTP_REQUEST_MAX_RETRIES), then named, and
    the run goes on without it. The state is FINISHED, FAILED or KILLED.

    Cost: one call a record.

    References: https://mlflow.org/docs/latest/ml/tracking

    >>> MLflow(experiment="adapters").experiment
    'adapters'
    """

    experiment: str | None = None

    def __post_init__(self) -> None:
        if self.experiment is not None and not isinstance(self.experiment, str):
            raise ArgumentTypeError(
                f"MLflow.experiment must be a text or None, got {self.experiment!r}"
            )

    def check(self) -> None:
        if find_spec("mlflow") is None:
            raise MissingExtra("mlflow-skinny", "mlflow", "the callback mlflow")

    def open(self, about: About) -> Session:
        import mlflow

        run, ours = mlflow.active_run(), False
        if run is None:
            if self.experiment is not None and "MLFLOW_RUN_ID" not in os.environ:
                mlflow.set_experiment(self.experiment)
            run, ours = mlflow.start_run(run_name=about.name), True
        session = _Run(run.info.run_id, ours)
        session.configure(about.flat())
        return session


class _Run(Session):
    def __init__(self, run_id: str, ours: bool) -> None:
        from mlflow.tracking import MlflowClient

        self.client: Any = MlflowClient()
        self.run_id, self.ours = run_id, ours

    def configure(self, values: dict[str, Any]) -> None:
        """Log the configuration; a run that is continued keeps the one that it has."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        params = [
            Param(name, str(value)[:_LONGEST])
            for name, value in values.items()
            if name not in known
        ]
        for i in range(0, len(params), _AT_ONCE):
            self.client.log_batch(self.run_id, params=params[i : i + _AT_ONCE])

    def log(self, record: Record) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name.replace("@", "_at_"), float(value), now, record.step)
            for name, value in record.named.items()
        ]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, state: str) -> None:
        import mlflow

        if not self.ours:
            return
        active = mlflow.active_run()
        if active is not None and active.info.run_id == self.run_id:
            mlflow.end_run(_STATES[state])
        else:
            self.client.set_terminated(self.run_id, _STATES[state])

"""How a run went, in the form of Hugging Face's ``trainer_state.json``, which tools read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def trainer_state(
    state: Mapping[str, Any], *, best_model_checkpoint: str | None = None
) -> dict[str, Any]:
    """Return what Trainer writes, as far as it has a meaning here.

    Args:
        state: of a fit: ``history``, ``metric``, ``best_metrics``, ``best_step``, ``step``,
            ``steps``, ``epochs``, ``batch_size``.
        best_model_checkpoint: where the best parameters are. Default: nowhere in particular.

    Evaluations have the keys ``eval_ndcg@10``; the metric that decides is ``best_metric``. What is
    not finite, the loss of an update that was left out, is null.
    """
    lines = []
    for entry in state["history"]:
        where = {"epoch": float(entry["epoch"]), "step": entry["step"]}
        rest = {
            key: x if math.isfinite(x) else None for key, x in entry.items() if key not in where
        }
        if "loss" not in rest:
            rest = {f"eval_{key}": x for key, x in rest.items()}
        lines.append({**rest, **where})
    return {
        "best_global_step": state["best_step"],
        "best_metric": state["best_metrics"].get(state["metric"]),
        "best_model_checkpoint": best_model_checkpoint,
        "epoch": lines[-1]["epoch"] if lines else 0.0,
        "global_step": state["step"],
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": lines,
        "max_steps": state["steps"],
        "num_train_epochs": state["epochs"],
        "stateful_callbacks": {},
        "train_batch_size": state["batch_size"],
        "trial_name": None,
        "trial_params": None,
    }

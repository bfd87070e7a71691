"""All that a report shows, as plain values of bounded size: what ``report.json`` holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coreframe import plots
from coreframe.data.pairs import Pairs
from coreframe.errors import ArtefactError
from coreframe.evaluation.compare import Gain
from coreframe.evaluation.ranks import Ranks, exact_ranks
from coreframe.outcome import Candidate, Outcome
from coreframe.report.examples import changed, hardest, suspects
from coreframe.report.projection import vector_map
from coreframe.report.words import about, name_of, status, usage, verdict
from coreframe.storage import check_format

FILE = "report.json"
FORMAT, VERSION = "coreframe-report", 1


def report_data(
    outcome: Outcome, *, title: str, config_text: str, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the report of a run shows; JSON can hold it, and ``render`` draws it."""
    shown = _shown(outcome)
    before = _ranks(outcome, "base", "identity")
    after = before if shown.name == "identity" else _ranks(outcome, "adapted", shown.name)
    headline, lines = verdict(outcome)
    improved, worsened = changed(outcome, shown, before, after)
    numpy_code, library_code = usage(outcome.adapter)
    metric = outcome.gate.metric
    found: dict[str, Any] = _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "title": title,
            "verdict": {"passed": outcome.gate.passed, "headline": headline, "lines": lines},
            "gate": asdict(outcome.gate),
            "metrics": list(outcome.comparison.gains),
            "kept": outcome.kept,
            "promoted": outcome.promoted,
            "reference": outcome.reference,
            "continued": outcome.continued,
            "data": {n: _size(getattr(outcome, n)) for n in ("train", "dev", "test")},
            "texts": outcome.train.query_texts is not None,
            "backend": outcome.run.backend,
            "backend_source": outcome.run.backend_source,
            "seconds": outcome.seconds,
            "base_model": outcome.adapter.base_model,
            "candidates": [_row(outcome, c) for c in outcome.candidates.values()],
            "shown": {"name": shown.name, "label": name_of(shown.name)},
            "gains": _gains(shown.gain.gains),
            "kept_gains": _gains(outcome.comparison.gains),
            "over_previous": outcome.over_previous and _gains(outcome.over_previous.gains),
            "history": [dict(entry) for entry in outcome.run.history],
            "best_epoch": outcome.run.best_epoch,
            "skipped_steps": outcome.run.skipped_steps,
            "findings": list(getattr(outcome.run, "findings", ())),
            "scores": _scores(shown, before, after),
            "ranks": _rank_table(outcome.test, before, after),
            "thresholds": [dict(row) for row in outcome.thresholds],
            "health": {name: found.as_dict() for name, found in outcome.health.items()},
            "curve": [_point(point) for point in outcome.curve],
            "no_curve": outcome.no_curve,
            "more_labels": outcome.more_labels,
            "forgetting": [_kept(row, metric) for row in outcome.forgetting],
            "trials": [_trial(trial, outcome) for trial in outcome.trials],
            "map": vector_map(outcome.test, shown.adapter) if shown.name != "identity" else {},
            "improved": improved,
            "worsened": worsened,
            "hardest": hardest(outcome, shown, after),
            "suspects": suspects(outcome, shown, before, after),
            "rebuild": outcome.adapter.rebuilds_index,
            "identity": outcome.adapter.is_identity,
            "numpy_code": numpy_code,
            "library_code": library_code,
            "environment": dict(environment),
            "config_text": config_text,
        }
    )
    return found


def read_data(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a run stored for its report. Raises ArtefactError that names what is wrong."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ArtefactError(
            f"{path} is missing: {folder} is no run that coreframe train wrote, or an older one"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None
    return check_format(found, FORMAT, VERSION, path)


def _shown(outcome: Outcome) -> Candidate:
    """Return the candidate whose queries are shown: the kept one, or the best that was tried."""
    if outcome.kept != "identity":
        return outcome.candidates[outcome.kept]
    # A trained adapter whose best epoch is its start equals another candidate.
    same = ("identity",) if outcome.run.best_epoch else ("identity", "trained")
    tried = [c for c in outcome.candidates.values() if c.allowed and c.name not in same]
    best = max(tried, key=lambda c: c.dev[outcome.gate.metric], default=None)
    return best or outcome.candidates["identity"]


def _ranks(outcome: Outcome, known: str, name: str) -> Ranks:
    """Return exact ranks of a candidate: those that the experiment has, where it has them."""
    if known in outcome.ranks and name in ("identity", outcome.kept):
        return outcome.ranks[known]
    candidate = outcome.candidates[name]
    return exact_ranks(candidate.adapter, outcome.test, candidate.test)


def _row(outcome: Outcome, candidate: Candidate) -> dict[str, Any]:
    """Return one line of the table of candidates."""
    gain = candidate.gain.gains[outcome.gate.metric]
    return {
        "name": candidate.name,
        "label": name_of(candidate.name),
        "about": about(outcome, candidate.name),
        "test": candidate.test.mean(),
        "dev": candidate.dev[outcome.gate.metric],
        "gain": [gain.low, gain.gain, gain.high],
        "index": "rebuild" if candidate.adapter.rebuilds_index else "stays",
        "allowed": candidate.allowed,
        "status": status(outcome, candidate.name),
        "stored": candidate.name == outcome.promoted,
    }


def _size(pairs: Pairs) -> list[int]:
    """Return the numbers of queries, documents and relevant pairs, and the width."""
    counts = int(pairs.relevance.counts().sum())
    return [len(pairs), int(pairs.documents.shape[0]), counts, int(pairs.queries.shape[1])]


def _gains(gains: Mapping[str, Gain]) -> dict[str, Any]:
    return {name: asdict(gain) for name, gain in gains.items()}


def _scores(shown: Candidate, before: Ranks, after: Ranks) -> dict[str, Any]:
    return plots.distributions(
        [
            (
                label,
                [
                    ("right document", "accent", _finite(look.right)),
                    ("hardest negative", "warm", _finite(look.wrong)),
                ],
            )
            for label, look in (
                ("before: base", before),
                (f"after: {name_of(shown.name)}", after),
            )
        ]
    )


def _rank_table(test: Pairs, before: Ranks, after: Ranks) -> dict[str, Any]:
    ranked = (before.rank > 0) & (after.rank > 0)
    return plots.rank_table(
        before.rank[ranked].tolist(),
        after.rank[ranked].tolist(),
        largest=int(test.documents.shape[0]),
    )


def _point(point: Any) -> dict[str, Any]:
    return {
        "share": point.share,
        "queries": point.queries,
        "pairs": point.pairs,
        "metrics": dict(point.metrics),
        "gain": asdict(point.gain),
    }


def _kept(row: Any, metric: str) -> dict[str, Any]:
    return {
        "name": Path(row.name).name,
        "queries": row.queries,
        "base": row.base[metric],
        "before": row.before[metric],
        "after": row.after[metric],
        "gain": asdict(row.gain),
        "forgotten": row.forgotten,
    }


def _trial(trial: Any, outcome: Outcome) -> dict[str, Any]:
    return {
        "hold": trial.hold,
        "strength": trial.strength,
        "new": trial.new,
        "worst": trial.worst,
        "chosen": trial is outcome.trial,
    }


def _finite(values: Any) -> list[float]:
    return [x for x in values.tolist() if x == x]


def _plain(value: Any) -> Any:
    """Return values as JSON holds them: lists for tuples, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""Learning again inside a program: ``update``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from coreframe import registry
from coreframe.adapter import Adapter
from coreframe.artefact import SIDES, Side, TrainedAdapter
from coreframe.config import ContinualSettings, GateSettings
from coreframe.data.pairs import Pairs, require_pairs
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.evaluation.compare import paired
from coreframe.evaluation.pool import pooled
from coreframe.evaluation.retrieval import evaluate
from coreframe.export.target import moves_alike
from coreframe.forgetting import Earlier, Kept, KeptSet, forgetting, holding
from coreframe.gate import Evidence, Gate, decide
from coreframe.learned import Learned, learn
from coreframe.loop import Run
from coreframe.loss import Loss
from coreframe.random import stream
from coreframe.runs import StoredRun
from coreframe.step import named
from coreframe.trainer import fit

__all__ = ["Updated", "update"]

DEV_SHARE = 0.2
LEAST_FOR_DEV = 50
DEV_DOCUMENTS = 5_000
ALONE = "the adapter came without the state of its run, so all its parameters are held alike"


@dataclass(frozen=True, eq=False)
class Updated(TrainedAdapter):
    """What ``update`` returns: an adapter like any other, which can be updated again.

    Args:
        gate: the verdict on the evaluation pairs; None where there were none.
        forgetting: a line for each kept set.
        learned: what the next update is held by.
        component, side, loss: what is trained, and how.
        epoch: the epoch that was kept; 0 is no change.
    """

    gate: Gate | None = None
    forgetting: tuple[KeptSet, ...] = ()
    learned: Learned | None = None
    component: Adapter | None = None
    side_trained: str = "query"
    loss: Loss | None = None
    epoch: int = field(default=0)

    @property
    def promoted(self) -> bool:
        """Whether this differs from what was updated."""
        return self.epoch > 0


def update(
    adapter: TrainedAdapter | StoredRun | Run,
    new_pairs: Pairs,
    *,
    test: Pairs | None = None,
    dev: Pairs | None = None,
    keep: Pairs | Sequence[Pairs] | Mapping[str, Pairs] = (),
    gate: GateSettings | None = None,
    hold: str = "auto",
    strength: float = 0.03,
    loss: str | Loss | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    minimum_pairs: int = 20,
    seed: int = 42,
    backend: str | None = None,
) -> Updated:
    """Learn new pairs without losing the old ones, and return a new adapter; the old one stays.

    The parameters start where they are and are pulled back to there: by what the earlier pairs
    need (EWC), where that is known, else all alike. The epoch that is best on dev pairs is kept,
    the start among them: where nothing is learned, the result is the old adapter to the bit.

    Args:
        adapter: what to go on from: a stored run (``coreframe.read_run``), what an update
            returned, or any adapter, whose history is then not known.
        new_pairs: what to learn.
        test: pairs that were never learned from. With them the result passes a gate, or is the
            old adapter, with the reason in ``gate``. Default: no gate.
        dev: pairs that choose the epoch. Default: a fifth of the new ones, by group, where there
            are 50; else the last epoch is taken.
        keep: sets that must not get worse: pairs, several, or by name. One that is proven worse
            by more than ``gate.maximum_forgetting`` keeps the old adapter. Default: none.
        gate: what must be proven. Default: as in a run.toml.
        hold: "auto", "ewc", "l2" or "none". Default: auto, ewc where there is a Fisher
            information, else l2.
        strength: of the pull, >= 0; the Fisher's mean is 1 a task. Default: 0.03, which held the
            tasks of docs/continual.md; a run chooses it on dev sets.
        loss: what is minimised. Default: that of the run, else info_nce at temperature 0.05.
        epochs: passes over the new pairs. Default: 10.
        batch_size: pairs a step. Default: 128.
        learning_rate: peak of AdamW's, with warm-up and cosine. Default: 1e-3.
        minimum_pairs: with fewer new pairs nothing is learned. Default: 20.
        seed: all draws follow from it. Default: 42.
        backend: where arrays live. Default: COREFRAME_BACKEND, else the library of the pairs.

    Shapes: pairs of queries (q, d) and documents (c, d) of the adapter's width d.

    Edges: an adapter that moves queries only stays one, low-rank stays low-rank, and one whose
    sides have two maps gets a new one for queries, on top. Another width is an error.

    Cost: ``epochs`` passes of a fit, and a search of the dev pairs in about 5,000 documents after
    each (of more, those near them are found once); 1,000 pairs of width 384 take well under a
    second on two cores.

    References: Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370.

    >>> import numpy as np
    >>> from coreframe import Pairs
    >>> from coreframe.artefact import TrainedAdapter
    >>> rng = np.random.default_rng(0)
    >>> documents = rng.normal(size=(300, 16)).astype(np.float32)
    >>> queries = documents + 2 * documents[:, ::-1]
    >>> new = update(TrainedAdapter(16), Pairs(queries, documents), learning_rate=0.01)
    >>> new.promoted, new(queries).shape
    (True, (300, 16))
    """
    require_pairs("new_pairs", new_pairs)
    before = _standing(adapter, seed)
    assert before.learned is not None
    assert before.component is not None
    for name, pairs in (("new_pairs", new_pairs), ("test", test), ("dev", dev)):
        if pairs is not None and int(pairs.queries.shape[1]) != before.dimensions:
            raise ArgumentError(
                f"{name} has vectors of width {int(pairs.queries.shape[1])}, but the adapter is "
                f"for {before.dimensions}"
            )
    settings = gate or GateSettings()
    if len(new_pairs.examples) < minimum_pairs:
        verdict = _refused(
            settings, f"{len(new_pairs.examples)} pairs are fewer than minimum_pairs = "
            f"{minimum_pairs}", "collect more before the next update",
        )  # fmt: skip
        return replace(before, gate=verdict, forgetting=(), epoch=0)
    chosen = _loss(loss) if loss is not None else before.loss or _loss(None)
    train = new_pairs
    if dev is None:
        train, dev = _parted(new_pairs, seed)
    if dev is not None and int(dev.documents.shape[0]) > DEV_DOCUMENTS:
        dev = pooled(dev, DEV_DOCUMENTS, nearest=evaluate(before, dev).found, seed=seed)
    held = holding(before.learned, ContinualSettings(hold=hold))[1](strength)
    run = fit(
        train,
        dev,
        adapter=before.component,
        loss=chosen,
        optimizer=_optimizer(learning_rate),
        regularizers=() if held is None else (held,),
        side=before.side_trained,
        start=before.learned.start or None,
        initial=_fitting(before.learned.params, chosen, before.dimensions, seed),
        epochs=epochs,
        batch_size=batch_size,
        metric=settings.metric,
        seed=seed,
        backend=backend,
        base_model=before.base_model,
    )
    same = dev is not None and run.best_epoch == 0
    after = replace(
        before,
        sides=before.sides if same else run.adapter.sides,
        epoch=0 if same else run.best_epoch,
        gate=None,
        forgetting=(),
        loss=chosen,
    )
    after = _judged(before, after, test, _kept(keep), settings, seed, len(train))
    if not after.promoted:
        return after
    learned = learn(
        before.component,
        run.params,
        train,
        loss=chosen,
        side=before.side_trained,
        batch_size=batch_size,
        seed=seed,
        start=before.learned.start,
        earlier=before.learned,
    )
    return replace(after, learned=learned)


def _judged(
    before: Updated,
    after: Updated,
    test: Pairs | None,
    kept: tuple[Kept, ...],
    settings: GateSettings,
    seed: int,
    train_queries: int,
) -> Updated:
    """Return the new adapter if nothing speaks against it, else the old one, with the reason."""
    assert before.learned is not None
    table: tuple[KeptSet, ...] = ()
    if kept:
        earlier = Earlier(adapter=before, learned=before.learned, kept=kept)
        table = forgetting(earlier, after, settings, seed=seed)
    lost = tuple(row.name for row in table if row.forgotten)
    verdict = None
    if test is not None:
        old, new = (evaluate(x, test, metrics=settings.evaluated) for x in (before, after))
        verdict = decide(
            Evidence(
                before=old,
                after=new,
                gain=paired(old, new, groups=test.groups, resamples=settings.resamples, seed=seed),
                groups=test.groups,
                changed=after.promoted,
                train_queries=train_queries,
                forgotten=lost,
                against="the earlier adapter",
            ),
            settings,
        )
    elif lost:
        verdict = _refused(settings, f"it forgets: {'; '.join(lost)}", "raise strength")
    stays = verdict is not None and not verdict.passed
    return replace(
        before if stays else after,
        gate=verdict,
        forgetting=table,
        epoch=0 if stays else after.epoch,
    )


def _standing(given: Any, seed: int) -> Updated:
    """Return what is updated, with what it is trained as and held by."""
    if isinstance(given, Updated):
        return given
    if isinstance(given, StoredRun):
        if given.learned is None:
            raise ArgumentError(f"{given.folder} has no state to go on from: train it again")
        config = given.config
        found = {"component": config.adapter, "side_trained": config.train.side}
        return Updated(**_own(given.adapter), learned=given.learned, loss=config.loss, **found)  # type: ignore[arg-type]
    if isinstance(given, Run):
        given = given.adapter
    if not isinstance(given, TrainedAdapter):
        raise ArgumentTypeError(
            "adapter must be a coreframe adapter, a stored run (coreframe.read_run) or a run of "
            f"coreframe.fit, got {given!r}"
        )
    query, document = (given.side(name) for name in SIDES)
    shared = moves_alike(given)
    if not (document.is_identity or shared):  # two maps: a new one for queries, on top
        component, params, start = _fresh(), None, dict(given.sides)
        side = "query"
    else:
        component, params = _trainable(query, given.dimensions)
        start, side = {}, "both" if shared and not query.is_identity else "query"
    if params is None:
        params = component.init(stream(seed, "adapter"), given.dimensions)
    learned = Learned(
        start=start,
        params=named("adapter", params),
        without="" if given.is_identity else ALONE,
    )
    return Updated(**_own(given), learned=learned, component=component, side_trained=side)


def _own(adapter: TrainedAdapter) -> dict[str, Any]:
    return {f.name: getattr(adapter, f.name) for f in fields(TrainedAdapter)}


def _trainable(side: Side, width: int) -> tuple[Adapter, Any]:
    """Return an adapter and its parameters that are the map of a side; None are fresh ones."""
    a = side.arrays
    if side.form == "low_rank" and "b" not in a:
        rank = int(a["A"].shape[1])
        name = f"{registry.BUILT_IN}:low_rank"
        return registry.build("adapters", name, rank=rank, alpha=rank * side.scaling), dict(a)
    if side.is_identity:
        return _fresh(), None
    w, b = side.matrix(width)
    if w.shape != (width, width):
        raise ArgumentError(
            f"the adapter goes from width {width} to {w.shape[1]}; update needs one that keeps it"
        )
    params = {"W": w.astype(np.float32)}
    if b is not None:
        params["b"] = b.astype(np.float32)
    return registry.build("adapters", f"{registry.BUILT_IN}:linear", bias=b is not None), params


def _fresh() -> Adapter:
    found: Adapter = registry.build("adapters", f"{registry.BUILT_IN}:linear")
    return found


def _loss(given: str | Loss | None) -> Loss:
    if given is None:
        default: Loss = registry.build("losses", f"{registry.BUILT_IN}:info_nce", temperature=0.05)
        return default
    found = registry.build("losses", given) if isinstance(given, str) else given
    if not isinstance(found, Loss):
        raise ArgumentTypeError(f"loss must be a name or a coreframe.Loss, got {given!r}")
    return found


def _fitting(params: Mapping[str, Any], loss: Loss, width: int, seed: int) -> dict[str, Any]:
    """Return the parameters to start at, with fresh ones of a loss that has others."""
    own = {name: x for name, x in params.items() if name.startswith("adapter.")}
    fresh = named("loss", loss.init(stream(seed, "loss"), width))
    return own | {name: params.get(name, x) for name, x in fresh.items()}


def _optimizer(peak: float) -> Any:
    schedule = registry.build("schedulers", f"{registry.BUILT_IN}:warmup_cosine", peak=peak)
    return registry.build(
        "optimizers", f"{registry.BUILT_IN}:adamw", learning_rate=schedule, weight_decay=0.0
    )


def _parted(pairs: Pairs, seed: int) -> tuple[Pairs, Pairs | None]:
    """Hold some of the pairs out, by group, to choose the epoch, where there are enough."""
    if len(pairs) < LEAST_FOR_DEV or pairs.has_labels:
        return pairs, None
    try:
        dev = pairs.split(DEV_SHARE, DEV_SHARE, seed=seed)[1]
    except DataError:  # too few groups
        return pairs, None
    rest = pairs.take(~np.isin(pairs.query_rows, dev.query_rows))
    of_document, right = pairs.codes[1], dev.relevance.pairs[:, 1]  # type: ignore[attr-defined]
    known = np.isin(of_document[rest.irrelevant[:, 1]], of_document[right])
    return rest.replaced(irrelevant=rest.irrelevant[~known]), dev  # as Pairs.split leaves them out


def _kept(given: Any) -> tuple[Kept, ...]:
    if isinstance(given, Pairs):
        given = [given]
    if not isinstance(given, Mapping):
        given = {f"kept {i}": pairs for i, pairs in enumerate(given, 1)}
    return tuple(Kept(name=name, test=pairs) for name, pairs in given.items())


def _refused(settings: GateSettings, reason: str, hint: str) -> Gate:
    return Gate(False, settings.metric, settings.minimum_gain, 0.0, 0.0, 0.0, reason, hint)

"""coreframe inside of scikit-learn: a transformer that learns a metric.

``MetricEmbedder`` stands where ``NeighborhoodComponentsAnalysis`` does, in a Pipeline before a
nearest-neighbour search or classifier, and takes any loss, miner, sampler, optimizer, schedule,
regularizer and adapter. The training is ``coreframe.fit``; this module translates.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from numbers import Integral
from typing import Any, Self

import numpy as np

from coreframe import registry
from coreframe.adapter import Adapter, Pullback
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import Array, Params, to_numpy
from coreframe.callbacks import Callback
from coreframe.checkpoint import Checkpoints, Scope
from coreframe.compose import under
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, CheckpointError, DataError, Interrupted, MissingExtra
from coreframe.errors import nearest as nearest_name
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler
from coreframe.trainer import fit

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.decomposition import PCA
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtra("scikit-learn>=1.6", "sklearn", "coreframe.interop.sklearn") from error

__all__ = ["MetricEmbedder"]

SPREAD = 0.2
"""The temperature of the loss as a share of the mean squared distance of two rows ..."""
LEARNING_RATE = 0.03
PULL = 0.01
"""... the learning rate, and the pull to the features as they are, where none are given;
docs/interop/sklearn.md says how they were chosen."""
KINDS = {
    "adapter": "adapters", "learning_rate": "schedulers", "loss": "losses", "miner": "miners",
    "optimizer": "optimizers", "sampler": "samplers",
}  # fmt: skip
"""The parameters that are components, which have parameters of their own: ``loss__temperature``."""
DEFAULTS = {
    "loss": (f"{registry.BUILT_IN}:nca", {}),
    "optimizer": (f"{registry.BUILT_IN}:adam", {"learning_rate": LEARNING_RATE}),
}
"""What None means: ready for standardized rows. A name is the component as it is registered."""


class MetricEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A linear map under which rows of one class, or of one pair, are near.

        transform(X) = X @ components_.T + intercept_

    Components are given by the name of a registered one (``coreframe list``) or as objects, of
    third parties too. Their own parameters are reached in scikit-learn's way:
    ``set_params(loss__temperature=2)``, and as a key of a grid, whether the loss is a name or an
    object; ``optimizer__learning_rate__peak`` goes deeper.

    Args:
        loss: what is minimised. Losses by cosine want ``Normalizer()`` as the next step, since the
            map leaves lengths. Default: None, nca, which nearest-neighbour classification asks for,
            with a fifth of the mean squared distance of two rows as its temperature, so that the
            scale of X does not matter.
        miner: picks the pairs of a batch. Default: none, all pairs count.
        n_components: width of the result, from 1 to the width of X. The matrix (d, n_components)
            starts at the principal axes of the first X, which need as many rows; it is for the
            adapter linear and side "both". Default: None, that of X.
        adapter: what is trained. Default: linear, a full matrix from the identity.
        optimizer: moves the parameters. Default: None, adam with a learning rate of 0.03.
        learning_rate: a number, a schedule or its name, in place of the optimizer's own. Default:
            None, the optimizer's own.
        regularizers: terms beside the loss, a sequence of names and objects. Default: None, l2
            with a strength of 0.01 toward the features as they are.
        sampler: which rows stand in a batch together. Default: none, they are shuffled.
        side: "both", or "query" where ``fit_pairs`` shall leave the documents as they are.
            Default: both, which labelled rows need.
        epochs: passes over the rows of ``fit``. Default: 30, as ``coreframe.fit``.
        batch_size: rows a batch, whose pairs the loss sees; memory is linear in it. Default: 256.
        max_grad_norm: clip gradients to this norm. Default: not at all.
        ema_decay: keep an exponential moving average of the parameters. Default: none is kept.
        callbacks: told about the run; a sequence of names and objects. Default: none.
        random_state: what all draws follow from: an int, a ``RandomState``, or None for others
            each time. Default: None, scikit-learn's.

    Attributes: ``components_`` (n_features_out, n_features_in_) and ``intercept_``
    (n_features_out,) in the dtype of X; ``adapter_``, the same as a ``TrainedAdapter`` of
    coreframe, which can be saved and exported; ``n_iter_``, the epochs done; ``history_``, a
    mapping for each log line.

    Shapes: X (n, d) of float32 or float64, which the result has too (anything else becomes
    float64); y (n,) labels.

    Edges: y with one class, or in which no two rows share a class, is a ValueError. The only row
    of a class is a negative of others and no more. Labelled rows have no ``sample_weight``, since
    a row of weight 2 would not be two rows, which are positives of each other; pairs have one.

    Cost: epochs n / batch_size steps; never an array of n x n.

    References: our own; the default loss is that of Goldberger et al. 2004.

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = MetricEmbedder(epochs=5, random_state=0)
    >>> model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
    >>> bool(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        loss: str | Loss | None = None,
        miner: str | Miner | None = None,
        adapter: str | Adapter = f"{registry.BUILT_IN}:linear",
        optimizer: str | Optimizer | None = None,
        learning_rate: float | str | Scheduler | None = None,
        regularizers: Sequence[str | Regularizer] | None = None,
        sampler: str | Sampler | None = None,
        side: str = "both",
        epochs: int = 30,
        batch_size: int = 256,
        max_grad_norm: float | None = None,
        ema_decay: float | Scheduler | None = None,
        callbacks: Sequence[str | Callback] = (),
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.loss = loss
        self.miner = miner
        self.adapter = adapter
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.regularizers = regularizers
        self.sampler = sampler
        self.side = side
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.ema_decay = ema_decay
        self.callbacks = callbacks
        self.random_state = random_state

    n_iter_: int
    _saved: Any

    # Learning ---------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from rows X (n, d) with class labels y (n,), from the start.

        Pairs are classes of two, so they can be learned in a Pipeline too: rows with an equal
        number in y are one pair. ``fit_pairs`` takes them apart.
        """
        pairs = self._labelled(X, y, fresh=True)
        return self._learn(pairs, fresh=True, epochs=self.epochs)

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Go once over rows X (n, d) with labels y (n,), from the present parameters and the state
        of the optimizer; after nothing, from the start.

        ``epochs`` calls on the same data are one ``fit``. So a schedule is laid over ``epochs``
        calls, and stays about where it ends from there on: for a stream without an end take one
        that ends above 0, as the default, a constant, does.
        """
        fresh = not hasattr(self, "components_")
        return self._learn(self._labelled(X, y, fresh=fresh), fresh=fresh, epochs=1)

    def fit_pairs(self, queries: Any, documents: Any, *, sample_weight: Any = None) -> Self:
        """Learn from pairs, row i of queries (n, d) with row i of documents (n, d), from the start.

        Equal documents are one item, and no negatives of each other's queries. ``transform`` maps
        queries, and with ``side="both"`` documents as well. ``sample_weight`` (n,), >= 0.
        """
        pairs = self._paired(queries, documents, sample_weight, fresh=True)
        return self._learn(pairs, fresh=True, epochs=self.epochs)

    def partial_fit_pairs(self, queries: Any, documents: Any, *, sample_weight: Any = None) -> Self:
        """Go once over pairs, as ``partial_fit`` over labelled rows."""
        fresh = not hasattr(self, "components_")
        pairs = self._paired(queries, documents, sample_weight, fresh=fresh)
        return self._learn(pairs, fresh=fresh, epochs=1)

    def _labelled(self, X: Any, y: Any, *, fresh: bool) -> Pairs:
        X, y = validate_data(self, X, y, **self._wanted(fresh))
        check_classification_targets(y)
        if self.batch_size == 1:
            raise ArgumentError("batch_size=1: no row of a batch has another one; take 2 or more")
        if (np.asarray(y) == y[0]).all():
            raise DataError(
                f"y has 1 class, {y[:1].tolist()[0]!r}; a metric tells at least 2 apart"
            )
        return Pairs.labelled(X, y)

    def _paired(self, queries: Any, documents: Any, weights: Any, *, fresh: bool) -> Pairs:
        queries = validate_data(self, queries, **self._wanted(fresh))
        same = {"reset": False, "dtype": queries.dtype, "ensure_min_samples": 2}
        documents = validate_data(self, documents, **same)
        if len(queries) != len(documents):
            raise DataError(
                f"row i of queries goes with row i of documents, got {len(queries)} and "
                f"{len(documents)} rows"
            )
        return Pairs(queries, documents, weights=weights)

    def _wanted(self, fresh: bool) -> dict[str, Any]:
        dtype = [np.float64, np.float32] if fresh else self.components_.dtype
        return {"reset": fresh, "dtype": dtype, "ensure_min_samples": 2}

    def _learn(self, pairs: Pairs, *, fresh: bool, epochs: int) -> Self:
        """Train for some epochs, and keep what the next call goes on from."""
        if fresh:
            self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            self._axes = self._principal_axes(pairs.documents)
            axes = self._axes
            rows = pairs.documents if axes is None else pairs.documents @ axes
            self._temperature = SPREAD * _spread(rows)
        done = 0 if fresh else self.n_iter_
        standing = _Standing(None if fresh else self._saved, until=done + epochs)
        adapter = self._adapter()
        with suppress(Interrupted):
            self._fit(pairs, adapter, max(self.epochs, done + epochs), standing)
        self._saved = standing.saved
        arrays, state = self._saved["arrays"], self._saved["state"]
        params = under("adapter", under("best", arrays))
        weight, bias = adapter.matrix(params)
        self.components_ = np.array(weight.T, order="C")
        self.intercept_ = np.zeros_like(weight[0]) if bias is None else np.array(bias)
        self.n_iter_, self.history_ = state["epoch"] - 1, state["history"]
        moved = ("query", "document") if self.side == "both" else ("query",)
        sides = dict.fromkeys(moved, Side.of(adapter, params))
        self.adapter_ = TrainedAdapter(self.n_features_in_, sides)
        self._n_features_out = len(self.components_)
        return self

    def _fit(self, pairs: Pairs, adapter: Adapter, epochs: int, standing: _Standing) -> None:
        try:
            fit(
                pairs,
                adapter=adapter,
                loss=self._component("loss", temperature=self._temperature),
                miner=self._component("miner"),
                optimizer=self._optimizer(),
                regularizers=self._regularizers(),
                sampler=self._component("sampler"),
                side=self.side,
                epochs=epochs,
                batch_size=self.batch_size,
                max_grad_norm=self.max_grad_norm,
                ema_decay=self.ema_decay,
                seed=self._seed,
                callbacks=self.callbacks,
                checkpoints=standing,
            )
        except CheckpointError as error:
            raise ArgumentError(
                "partial_fit goes on with the adapter, the loss's parameters, the optimizer and "
                f"ema_decay that it began with, but {error.reason}; call fit to start anew"
            ) from None

    def _principal_axes(self, x: Any) -> Any:
        """Return where a narrower map starts, (d, n_components); None for the full width."""
        count, width = self.n_components, self.n_features_in_
        if count is None:
            return None
        whole = isinstance(count, Integral) and not isinstance(count, bool)
        if not whole or not 1 <= count <= width:
            raise ArgumentError(
                f"n_components must be a whole number from 1 to the width {width} of X, or None, "
                f"got {count!r}"
            )
        if self.side != "both":
            raise ArgumentError(
                f"n_components={count} makes queries narrower than the documents, which "
                f"side={self.side!r} leaves as they are; use side='both'"
            )
        if len(x) < count:
            raise ArgumentError(f"n_components={count} axes need as many rows, got {len(x)}")
        return PCA(count, random_state=self._seed).fit(x).components_.T

    def _adapter(self) -> Adapter:
        adapter: Adapter = self._component("adapter")
        began = None if self._axes is None else self._axes.shape[1]
        if self.n_components != began:
            raise ArgumentError(
                f"partial_fit goes on with n_components={began} that it began with, got "
                f"{self.n_components!r}; call fit to start anew"
            )
        if began is None:
            return adapter
        if type(adapter) is not type(registry.build("adapters", f"{registry.BUILT_IN}:linear")):
            raise ArgumentError(
                f"n_components={began} is for the adapter linear; {type(adapter).__name__} "
                "keeps the width"
            )
        return _Narrower(linear=adapter, axes=self._axes)

    # Using ------------------------------------------------------------------------------------

    def transform(self, X: Any) -> Any:
        """Return rows X (n, d) in the learned space, (n, n_features_out), in the dtype of X."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        weight, bias = (x.astype(X.dtype, copy=False) for x in (self.components_, self.intercept_))
        return X @ weight.T + bias

    # What scikit-learn asks -------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with ``deep`` also those of components that are objects."""
        found: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            for name in KINDS:
                found.update(_fields(name, found[name]))
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters, and with ``NAME__FIELD`` one field of a component, which is made anew."""
        changes: dict[str, dict[str, Any]] = {}
        for key in [*params]:
            name, dots, field = key.partition("__")
            if dots and name in KINDS:
                changes.setdefault(name, {})[field] = params.pop(key)
        super().set_params(**params)
        for name, fields_of_it in changes.items():
            setattr(self, name, _changed(name, getattr(self, name), fields_of_it))
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # Components -------------------------------------------------------------------------------

    def _component(self, name: str, **defaults: Any) -> Any:
        value = getattr(self, name)
        if value is None and name in DEFAULTS:
            return _built(name, None, **defaults)
        return _built(name, value) if isinstance(value, str) else value

    def _optimizer(self) -> Any:
        optimizer, rate = self._component("optimizer"), self._component("learning_rate")
        return optimizer if rate is None else replace(optimizer, learning_rate=rate)

    def _regularizers(self) -> Sequence[Any]:
        if self.regularizers is None:
            return [registry.build("regularizers", f"{registry.BUILT_IN}:l2", strength=PULL)]
        return self.regularizers


@dataclass(frozen=True, kw_only=True)
class _Narrower(Adapter):
    """The adapter linear with a matrix (d, k), which starts at k axes."""

    linear: Adapter
    axes: Any = field(compare=False)

    def init(self, rng: Any, dim_in: int) -> Params:
        return {
            **self.linear.init(rng, self.axes.shape[1]),
            "W": np.asarray(self.axes, np.float32),
        }

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        return self.linear.forward(params, x, rng=rng)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return self.linear.matrix(params)


class _Standing(Scope):
    """What the loop asks of a checkpoint, in memory: where the run stands after each epoch."""

    def __init__(self, saved: Mapping[str, Any] | None, *, until: int) -> None:
        super().__init__(Checkpoints(".", save_strategy="no"), "fit")  # which touches no file
        self.saved: Any = saved
        self.until = until

    @property
    def stopping(self) -> bool:
        """Asked before a save, where the last epoch is not done, and after it."""
        return self.saved is not None and self.saved["state"]["epoch"] > self.until

    def found(self, setup: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.saved is None:
            return None
        found: dict[str, Any] = copy.deepcopy(dict(self.saved))
        found["state"]["stopped"] = False  # a callback ended the call, not the estimator
        return found

    def due(self, step: int, *, updated: bool, epoch_done: bool) -> bool:
        return epoch_done

    def save(self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        plain = {k: x if isinstance(x, int | float) else to_numpy(x) for k, x in arrays.items()}
        self.saved = {"finished": False, "state": dict(state), "arrays": plain}

    def finish(self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Nothing: all is saved after the last epoch."""


def _built(name: str, value: str | None, **arguments: Any) -> Any:
    """Return the registered component that a parameter names; of None, the default, which has
    ``arguments`` where its own defaults are others.
    """
    if value is None:
        value, own = DEFAULTS[name]
        arguments = {**own, **arguments}
    return registry.build(KINDS[name], value, **arguments)


def _spread(x: Any) -> float:
    """Return the mean squared distance of two rows, 1 where all are equal."""
    return float(2 * np.sum(np.var(x, axis=0, dtype=np.float64))) or 1.0


def _fields(prefix: str, value: Any) -> dict[str, Any]:
    """Return the fields of a component by their paths, nested ones included."""
    found: dict[str, Any] = {}
    if is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            if f.init:
                path, inner = f"{prefix}__{f.name}", getattr(value, f.name)
                found |= {path: inner, **_fields(path, inner)}
    return found


def _changed(name: str, value: Any, changes: Mapping[str, Any]) -> Any:
    """Return a component, or the one of a name, with other fields; paths go to what it holds."""
    own = {key: x for key, x in changes.items() if "__" not in key}
    if isinstance(value, str) or (value is None and name in DEFAULTS):
        value = _built(name, value, **own)
    elif not is_dataclass(value) or isinstance(value, type):
        raise ArgumentError(f"{name} is {value!r}, which has no parameter {next(iter(changes))!r}")
    known = [f.name for f in fields(value) if f.init]
    if wrong := [key for key in changes if key.partition("__")[0] not in known]:
        hint = nearest_name(wrong[0], known)
        raise ArgumentError(f"{type(value).__name__} has no parameter {wrong[0]!r}.{hint}")
    value = replace(value, **own)
    deeper: dict[str, dict[str, Any]] = {}
    for key in changes.keys() - own.keys():
        field, _, rest = key.partition("__")
        deeper.setdefault(field, {})[rest] = changes[key]
    return replace(value, **{f: _changed(f, getattr(value, f), x) for f, x in deeper.items()})

"""MetricEmbedder against scikit-learn's own checks, against NCA, and in its tools."""

from __future__ import annotations

import importlib
import pickle
import sys
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")

from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import coreframe
from coreframe import Callback, PairwiseLoss
from coreframe.errors import MissingExtra
from coreframe.interop.sklearn import LEARNING_RATE, MetricEmbedder
from coreframe_adapters.low_rank import LowRank
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.nca import NCA
from coreframe_optimizers.adam import Adam
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.warmup_cosine import WarmupCosine


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def loss_of(embedder, X, y):
    return float(NCA()(embedder.transform(X), labels=y).value)


# What scikit-learn asks of every estimator, with no failure that is expected -------------------


@parametrize_with_checks([MetricEmbedder(epochs=3), MetricEmbedder(1, epochs=2, ema_decay=0.9)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


# Learning ---------------------------------------------------------------------------------------


def test_it_lowers_the_loss(iris):
    X, y = iris
    embedder = MetricEmbedder(random_state=0).fit(X, y)
    assert loss_of(embedder, X, y) < 0.6 * float(NCA()(X, labels=y).value)
    losses = [line["loss"] for line in embedder.history_ if "loss" in line]
    assert losses[-1] < losses[0]
    assert embedder.n_iter_ == 30


LOADERS = {"digits": load_digits, "wine": load_wine, "cancer": load_breast_cancer}


@pytest.mark.parametrize("name", LOADERS)
def test_it_is_as_good_as_nca(name):
    """Learned from a third, asked about two, for time's sake; the example has the usual folds."""
    X, y = LOADERS[name](return_X_y=True)
    folds = StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
    folds = [(third, rest) for rest, third in folds]

    def accuracy(embedder):
        model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
        return cross_val_score(model, X, y, cv=folds).mean()

    ours = accuracy(MetricEmbedder(random_state=0))
    assert ours >= accuracy(NeighborhoodComponentsAnalysis(random_state=0))


def test_equal_seeds_are_equal_runs(iris):
    one, same, other = (MetricEmbedder(epochs=3, batch_size=32, random_state=s) for s in (0, 0, 1))
    first = one.fit(*iris).components_
    np.testing.assert_array_equal(same.fit(*iris).components_, first)
    assert not np.array_equal(other.fit(*iris).components_, first)
    np.testing.assert_array_equal(one.fit(*iris).components_, first)


def test_the_scale_of_the_features_does_not_matter(iris):
    X, y = iris
    one, other = (MetricEmbedder(random_state=0).fit(c * X, y).components_ for c in (1, 100))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_labels_may_be_texts(iris):
    X, y = iris
    plain = MetricEmbedder(epochs=2, random_state=0)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    np.testing.assert_array_equal(
        clone(plain).fit(X, names).components_, plain.fit(X, y).components_
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(iris, dtype):
    X, y = iris
    embedder = MetricEmbedder(epochs=2, random_state=0).fit(X.astype(dtype), y)
    assert embedder.components_.dtype == embedder.transform(X.astype(dtype)).dtype == dtype


def test_never_n_by_n(rng):
    n = 20_000
    X, y = rng.standard_normal((n, 8)).astype(np.float32), rng.integers(0, 50, n)
    embedder = MetricEmbedder(epochs=1, random_state=0)
    embedder.fit(X[:200], y[:200])  # modules are imported
    tracemalloc.start()
    try:
        embedder.fit(X, y).transform(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * X.nbytes < n * n / 10  # bools of n x n are 400 MB


# A narrower result -------------------------------------------------------------------------------


def test_fewer_components(iris, tmp_path):
    """They keep what the classes need, which the principal axes, where they start, do not."""
    X, y = iris
    X = np.hstack([X, 3 * np.random.default_rng(0).standard_normal((150, 4))])
    embedder = MetricEmbedder(2, random_state=0).fit(X, y)
    assert embedder.components_.shape == (2, 8)
    assert embedder.intercept_.shape == (2,)
    assert list(embedder.get_feature_names_out()) == ["metricembedder0", "metricembedder1"]

    def accuracy(first):
        model = make_pipeline(first, KNeighborsClassifier())
        return cross_val_score(model, X, y, cv=3).mean()

    assert accuracy(clone(embedder)) > accuracy(PCA(2)) + 0.2
    embedder.adapter_.save(tmp_path / "adapter")
    unit = Normalizer().transform(embedder.transform(X))
    np.testing.assert_allclose(coreframe.load(tmp_path / "adapter")(X), unit, atol=1e-5)


def test_fewer_components_go_on(iris):
    X, y = iris
    whole = MetricEmbedder(2, epochs=3, random_state=0).fit(X, y)
    parts = clone(whole)
    for _ in range(3):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y)))
    np.testing.assert_array_equal(parts.components_, whole.components_)
    for other in (3, None):
        with pytest.raises(ValueError, match=rf"n_components=2 that it began with, got {other}"):
            parts.set_params(n_components=other).partial_fit(X, y)


def test_fewer_components_of_pairs(pairs):
    assert MetricEmbedder(3, epochs=2).fit_pairs(*pairs).transform(pairs[1]).shape == (200, 3)
    with pytest.raises(ValueError, match=r"n_components=3 .* use side='both'"):
        MetricEmbedder(3, side="query").fit_pairs(*pairs)


@pytest.mark.parametrize("count", [0, 5, 2.0, True, "2"])
def test_wrong_numbers_of_components(iris, count):
    with pytest.raises(ValueError, match="n_components must be a whole number from 1 to the width"):
        MetricEmbedder(count).fit(*iris)


def test_fewer_components_need_a_matrix_and_rows(iris):
    X, y = iris
    with pytest.raises(ValueError, match="is for the adapter linear; LowRank keeps the width"):
        MetricEmbedder(2, adapter=LowRank(rank=2)).fit(X, y)
    with pytest.raises(ValueError, match="n_components=4 axes need as many rows, got 3"):
        MetricEmbedder(4).fit(X[[0, 1, 149]], y[[0, 1, 149]])


# Going on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [{}, {"learning_rate": Cosine(start=0.05)}, {"ema_decay": 0.5}], ids=str
)
def test_epochs_calls_of_partial_fit_are_one_fit(iris, extra):
    whole = MetricEmbedder(epochs=4, batch_size=64, random_state=0, **extra).fit(*iris)
    parts = clone(whole)
    for _ in range(4):
        parts.partial_fit(*iris)
        parts = pickle.loads(pickle.dumps(parts))
    np.testing.assert_array_equal(parts.components_, whole.components_)
    assert parts.n_iter_ == whole.n_iter_ == 4


def test_partial_fit_goes_on_after_fit_and_beyond_its_epochs(iris):
    X, y = iris
    embedder = MetricEmbedder(epochs=2, random_state=0).fit(X, y)
    before = loss_of(embedder, X, y)
    for part in range(6):
        embedder.partial_fit(X[part % 2 :: 2].astype(np.float32), y[part % 2 :: 2])
    assert loss_of(embedder, X, y) < before
    assert embedder.n_iter_ == 8
    assert embedder.fit(X, y).n_iter_ == 2


def test_a_failed_call_changes_nothing(iris):
    X, y = iris
    embedder = MetricEmbedder(epochs=2, random_state=0).partial_fit(X, y)
    untouched = pickle.loads(pickle.dumps(embedder))
    embedder.set_params(adapter=LowRank(rank=2))
    with pytest.raises(ValueError, match=r"goes on with the adapter.*call fit to start anew"):
        embedder.partial_fit(X, y)
    embedder.set_params(adapter="linear")
    np.testing.assert_array_equal(
        embedder.partial_fit(X, y).components_, untouched.partial_fit(X, y).components_
    )


class Stop(Callback):
    """Ends a run after its first step."""

    def on_step(self, status):
        return True


def test_a_callback_ends_a_call_and_not_the_estimator(iris):
    embedder = MetricEmbedder(batch_size=32, random_state=0, callbacks=[Stop()]).fit(*iris)
    assert embedder.n_iter_ == 1
    before = embedder.components_
    assert not np.array_equal(embedder.partial_fit(*iris).components_, before)
    assert embedder.n_iter_ == 2


# Pairs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((200, 8))
    noise = np.array([0.1] * 4 + [3.0] * 4)  # half of the directions say nothing
    return documents + noise * rng.standard_normal((200, 8)), documents


def found(queries, documents):
    """Return how many queries have their document as the nearest."""
    distances = np.linalg.norm(queries[:, None] - documents[None], axis=-1)
    return np.mean(np.argmin(distances, axis=1) == np.arange(len(queries)))


@pytest.mark.parametrize("side", ["both", "query"])
def test_pairs(pairs, side):
    queries, documents = pairs
    embedder = MetricEmbedder(side=side, random_state=0)
    embedder.fit_pairs(queries[:150], documents[:150])
    moved = embedder.transform(documents) if side == "both" else documents
    assert found(embedder.transform(queries), moved) > found(queries, documents) + 0.1
    again = clone(embedder)
    for _ in range(30):
        again.partial_fit_pairs(queries[:150], documents[:150])
    np.testing.assert_array_equal(again.components_, embedder.components_)


def test_pairs_have_weights(pairs):
    queries, documents = pairs
    noisy = np.concatenate([documents[:100], documents[100:][::-1]])
    weights = np.repeat([1.0, 0.0], 100)
    trained = [
        MetricEmbedder(random_state=0).fit_pairs(queries, noisy, sample_weight=w).components_
        for w in (None, weights)
    ]
    assert not np.allclose(*trained)


def test_pairs_are_classes_of_two(pairs):
    X, y = np.concatenate(pairs), np.tile(np.arange(200), 2)
    embedder = make_pipeline(StandardScaler(), MetricEmbedder(random_state=0)).fit(X, y)
    assert found(*(embedder.transform(x) for x in pairs)) > found(*pairs) + 0.2


# Components -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Theirs(PairwiseLoss):
    """A third party's: positives near, nothing else."""

    strength: float = 1.0

    def row_terms(self, similarities, positive, negative):
        slopes = -self.strength * positive.astype(similarities.dtype)
        return np.sum(slopes * similarities, axis=1), slopes


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "info_nce"},
        {"loss": "triplet", "miner": "hardest"},
        {"loss": Theirs(similarity="squared_euclidean")},
        {"loss": InfoNCE(learnable_scale=True)},
        {"adapter": LowRank(rank=2)},
        {"optimizer": "sgd", "learning_rate": WarmupCosine(peak=0.1)},
        {"optimizer": Adam(learning_rate=0.1)},
        {"regularizers": ["l2"]},
        {"regularizers": ()},
        {"sampler": "m_per_class", "batch_size": 12},
        {"max_grad_norm": 0.1},
    ],
    ids=str,
)
def test_any_component(iris, given):
    alike = {"epochs": 2, "batch_size": given.get("batch_size", 48), "random_state": 0}
    embedder = clone(MetricEmbedder(**{**alike, **given})).fit(*iris)
    assert not np.array_equal(embedder.components_, np.eye(4))
    plain = MetricEmbedder(**alike).fit(*iris)
    assert not np.allclose(embedder.components_, plain.components_)


def test_grid_over_components_and_their_parameters(iris):
    model = make_pipeline(MetricEmbedder(epochs=2, random_state=0), KNeighborsClassifier())
    grid = [
        {
            "metricembedder__loss": [None, "sup_con", NCA()],
            "metricembedder__loss__temperature": [0.5, 2.0],
        },
        {
            "metricembedder__learning_rate": [Cosine(start=0.1), Cosine(start=1.0)],
            "metricembedder__learning_rate__steps": [3],
            "metricembedder__optimizer__beta1": [0.5],
        },
    ]
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(*iris)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_score_ > 0.9


def test_nested_parameters():
    embedder = MetricEmbedder(optimizer=Adam(learning_rate=WarmupCosine(peak=1.0)))
    assert embedder.get_params()["optimizer__learning_rate__peak"] == 1.0
    assert "loss__temperature" not in embedder.get_params()  # a name: not looked up
    embedder.set_params(
        loss="info_nce", loss__temperature=0.5, optimizer__learning_rate__peak=2.0,
        learning_rate="warmup_cosine", learning_rate__peak=3.0,
    )  # fmt: skip
    assert embedder.loss == InfoNCE(temperature=0.5)
    assert embedder.optimizer == Adam(learning_rate=WarmupCosine(peak=2.0))
    assert embedder.learning_rate == WarmupCosine(peak=3.0)
    embedder.set_params(optimizer="adam", optimizer__beta1=0.5)
    assert embedder.optimizer == Adam(beta1=0.5)
    embedder.set_params(optimizer=None, optimizer__beta1=0.5, adapter="low_rank", adapter__rank=2)
    assert embedder.optimizer == Adam(learning_rate=LEARNING_RATE, beta1=0.5)
    assert embedder.adapter == LowRank(rank=2)
    assert clone(embedder).get_params() == embedder.get_params()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss__temprature": 1}, "no parameter 'temprature'. Did you mean 'temperature'"),
        ({"miner__k": 1}, "miner is None, which has no parameter 'k'"),
        ({"los": "nca"}, "Invalid parameter 'los'"),
    ],
)
def test_wrong_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        MetricEmbedder().set_params(**params)


def test_wrong_data(iris):
    X, y = iris
    with pytest.raises(ValueError, match="y has 1 class, 0"):
        MetricEmbedder().fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="no two rows share a label"):
        MetricEmbedder().fit(X[:5], np.arange(5))
    with pytest.raises(ValueError, match="got 5 and 4 rows"):
        MetricEmbedder().fit_pairs(X[:5], X[:4])
    with pytest.raises(ValueError, match="side='both'"):
        MetricEmbedder(side="query").fit(X, y)
    with pytest.raises(ValueError, match=r"batch_size=1: no row of a batch has another"):
        MetricEmbedder(batch_size=1).fit(X, y)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.delitem(sys.modules, "coreframe.interop.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(MissingExtra, match=r"coreframe-ml\[sklearn\]"):
        importlib.import_module("coreframe.interop.sklearn")


# In its surroundings ----------------------------------------------------------------------------


def test_names_of_features(iris):
    embedder = MetricEmbedder(epochs=1).fit(*iris)
    assert embedder.get_feature_names_out()[-1] == "metricembedder3"


def test_the_adapter_can_be_saved(iris, tmp_path):
    X, y = iris
    model = make_pipeline(MetricEmbedder(epochs=2, random_state=0), Normalizer()).fit(X, y)
    model[0].adapter_.save(tmp_path / "adapter")
    stored = coreframe.load(tmp_path / "adapter")
    np.testing.assert_allclose(stored(X), model.transform(X), atol=1e-5)

"""Bad input: each error names the argument, what came, and what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from coreframe.backend import get_backend, namespace
from coreframe.batch import Batch
from coreframe.compose import WeightedSum
from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ArgumentTypeError,
    CoreframeError,
    MissingExtra,
    MixedArrays,
    UnknownName,
)
from coreframe.loss import PairwiseLoss
from coreframe.registry import build, registry
from coreframe.relation import Aligned, Listed, masked
from coreframe.tiles import pairwise
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest

A = np.ones((4, 3))
LOSS = InfoNCE()


def bad(x, row, value):
    x = x.copy()
    x[row, 1] = value
    return x


def says(error, *texts):
    """Return a context that wants an error of this class with all of these texts in it."""
    import contextlib

    @contextlib.contextmanager
    def context():
        with pytest.raises(error) as caught:
            yield
        for text in texts:
            assert text in str(caught.value)
        assert isinstance(caught.value, CoreframeError)

    return context()


# Arrays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "texts"),
    [
        # shapes
        (
            lambda: LOSS(A[0], A[0]),
            ArgumentError,
            ("anchors and positives must both be (n, d)", "got (3,) and (3,)"),
        ),
        (
            lambda: LOSS(A, A[:2]),
            ArgumentError,
            ("anchors and positives must both be (n, d)", "got (4, 3) and (2, 3)"),
        ),
        (
            lambda: LOSS(A, np.ones((4, 5))),
            ArgumentError,
            ("positives must have width 3", "got 5"),
        ),
        (
            lambda: LOSS(A, A, np.ones((2, 5))),
            ArgumentError,
            ("shared negatives must have width 3", "got 5"),
        ),
        (
            lambda: LOSS(A, A, np.ones((4, 2, 5))),
            ArgumentError,
            ("negatives must have width 3", "got 5"),
        ),
        (
            lambda: LOSS(A, A, np.ones((3, 2, 3))),
            ArgumentError,
            ("negatives must have one group an anchor: (4, k, 3)", "got (3, 2, 3)"),
        ),
        (
            lambda: LOSS(A, A, np.ones(3)),
            ArgumentError,
            ("shared negatives must have 2 dimensions", "got shape (3,)"),
        ),
        (
            lambda: LOSS(A[0], labels=[0, 1, 0]),
            ArgumentError,
            ("anchors must have 2 dimensions (n, d), got shape (3,)", "anchors[None, :]"),
        ),
        (
            lambda: Triplet()(A, A, A[:2]),
            ArgumentError,
            ("anchors, positives and negatives must have as many rows", "4, 4 and 2"),
        ),
        (
            lambda: LOSS(A, labels=[0, 1]),
            ArgumentError,
            ("labels must have shape (4,), one a row of embeddings", "got (2,)"),
        ),
        (
            lambda: LOSS(A, A, ids=[0, 1]),
            ArgumentError,
            ("ids must have shape (4,), one a row of anchors", "got (2,)"),
        ),
        (
            lambda: LOSS(A, A, weights=np.ones(3)),
            ArgumentError,
            ("weights must have shape (4,), one a row of anchors", "got (3,)"),
        ),
        (
            lambda: LOSS(A, A, weights=np.ones((4, 1))),
            ArgumentError,
            ("weights must have shape (4,)", "got (4, 1)"),
        ),
        (
            lambda: Batch.with_negatives(A, A, shared=A, ids=[0] * 4, reference_ids=[0] * 5),
            ArgumentError,
            ("reference_ids must have shape (8,), one a row of references", "got (5,)"),
        ),
        (
            lambda: Batch.pairs(A, A, reference_ids=[0] * 4),
            ArgumentError,
            ("reference_ids needs ids",),
        ),
        (
            lambda: Batch(anchors=A, references=A, relation=Aligned(4, 5)),
            ArgumentError,
            ("relation is for 4 anchors and 5 references, but there are 4 and 4",),
        ),
        (
            lambda: masked(np.ones((4, 4), bool), np.ones((4, 3), bool)),
            ArgumentError,
            ("negative must be a bool array (n, m) like positive (4, 4), got (4, 3)",),
        ),
        # empty
        (
            lambda: LOSS(A[:0], A[:0]),
            ArgumentError,
            ("anchors is empty: its shape is (0, 3)",),
        ),
        (
            lambda: LOSS(A[:, :0], A[:, :0]),
            ArgumentError,
            ("anchors is empty: its shape is (4, 0)",),
        ),
        (
            lambda: LOSS(A, A, A[:0]),
            ArgumentError,
            ("shared negatives is empty: its shape is (0, 3)",),
        ),
        # not finite
        (
            lambda: LOSS(bad(A, 2, np.nan), A),
            ArgumentError,
            ("anchors has 1 values that are NaN or infinite, the first in row 2",),
        ),
        (
            lambda: LOSS(A, bad(bad(A, 3, np.inf), 1, -np.inf)),
            ArgumentError,
            ("positives has 2 values that are NaN or infinite, the first in row 1",),
        ),
        (
            lambda: LOSS(A, A, bad(A, 0, np.nan)),
            ArgumentError,
            ("shared negatives has 1 values", "the first in row 0"),
        ),
        (
            lambda: LOSS(A, A, bad(A, 3, np.nan)[:, None, :]),
            ArgumentError,
            ("negatives has 1 values", "the first in row 3"),
        ),
        (
            lambda: LOSS(A, A, weights=np.array([1, np.nan, 1, 1])),
            ArgumentError,
            ("weights has 1 values that are NaN or infinite, the first in row 1",),
        ),
        (
            lambda: LOSS(A, A, weights=np.array([1.0, -1, 1, 1])),
            ArgumentError,
            ("weights must not be negative", "0 leaves an example out"),
        ),
        # types
        (
            lambda: LOSS(A.astype(int), A.astype(int)),
            ArgumentTypeError,
            ("anchors must be floating point, got int64", "xp.astype(anchors, xp.float32)"),
        ),
        (
            lambda: LOSS(A, A.astype(int)),
            ArgumentTypeError,
            ("positives must be floating point, got int64",),
        ),
        (
            lambda: LOSS(A.astype(complex), A),
            ArgumentTypeError,
            ("anchors must be floating point, got complex128",),
        ),
        (
            lambda: LOSS(A, A.astype(np.float32)),
            ArgumentTypeError,
            ("must share one dtype, got float32, float64",),
        ),
        (
            lambda: LOSS(A.tolist(), A),
            ArgumentTypeError,
            ("anchors must be an array, got list", "numpy.asarray(anchors)"),
        ),
        (
            lambda: LOSS(A, A.tolist()),
            ArgumentTypeError,
            ("positives must be an array, got list",),
        ),
        (
            lambda: LOSS(A, A, A.tolist()),
            ArgumentTypeError,
            ("negatives must be an array, got list",),
        ),
        (
            lambda: LOSS(A, A, weights=[1.0] * 4),
            ArgumentTypeError,
            ("weights must be an array, got list",),
        ),
        (
            lambda: LOSS(A.tolist(), labels=[0] * 4),
            ArgumentTypeError,
            ("embeddings must be an array, got list",),
        ),
        (
            lambda: Hardest().select(A.tolist(), A, A, 2, rng=None),
            ArgumentTypeError,
            ("anchors must be an array, got list",),
        ),
        (
            lambda: LOSS(A, labels=[0.5, 1.0, 2.0, 3.0]),
            ArgumentTypeError,
            ("labels must be integers or text, got float64",),
        ),
        (
            lambda: Batch.pairs(A, A, ids=["a"] * 4, reference_ids=[1] * 4),
            ArgumentTypeError,
            ("ids and reference_ids must both be integers or both text",),
        ),
        # calls
        (lambda: LOSS(A), ArgumentError, ("InfoNCE is called with positives or with labels=",)),
        (
            lambda: LOSS(A, A, labels=[0] * 4),
            ArgumentError,
            ("InfoNCE is called with positives or with labels=, and not with both",),
        ),
        (
            lambda: LOSS(A, None, A, labels=[0] * 4),
            ArgumentError,
            ("negatives go with positives; with labels= they are implied",),
        ),
        (
            lambda: LOSS(A, A, wrt=("anchors", "positives")),
            ArgumentError,
            ("wrt names 'positives', but this batch has anchors, references",),
        ),
        (
            lambda: LOSS(A, labels=[0] * 4, wrt=("references",)),
            ArgumentError,
            ("wrt names 'references', but this batch has anchors",),
        ),
        (
            lambda: InfoNCE(symmetric=True)(A, labels=[0] * 4),
            ArgumentError,
            ("a symmetric loss needs references",),
        ),
        (
            lambda: InfoNCE(learnable_scale=True)(A, A),
            ArgumentError,
            ("InfoNCE(learnable_scale=True) has parameters", "params=loss.init(rng, dim)"),
        ),
        (lambda: namespace(a=None, b=1.0), ArgumentTypeError, ("at least one array", "a, b")),
    ],
)
def test_arrays_and_calls(call, error, texts):
    with says(error, *texts):
        call()


@pytest.mark.parametrize(
    ("relation", "texts"),
    [
        (
            Listed(np.zeros((4, 1), int), np.full((4, 1), 9), 4),
            ("negatives", "9"),
        ),
        (
            Listed(np.zeros((4, 1), int), np.zeros((3, 1), int), 4),
            ("negatives", "(3, 1)"),
        ),
        (
            Listed(np.zeros((4, 1)), np.zeros((4, 1)), 4),
            ("positives", "float64"),
        ),
    ],
    ids=["beyond the references", "other rows", "not integers"],
)
def test_lists(relation, texts):
    with says(CoreframeError, *texts):
        LOSS.value_and_grad(Batch(anchors=A, references=A, relation=relation))


# Two libraries, two devices -----------------------------------------------------------------------


def test_arrays_of_two_libraries():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    with says(
        MixedArrays,
        "must share their library and device",
        "anchors: numpy on cpu",
        "positives: array_api_strict on",
        "coreframe.get_backend(NAME).asarray",
    ):
        LOSS(A, strict.asarray(A))


def test_weights_and_parameters_of_another_library():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    with says(MixedArrays, "anchors: numpy on cpu", "weights: array_api_strict on"):
        LOSS(A, A, weights=strict.asarray(np.ones(4)))
    loss = InfoNCE(learnable_scale=True)
    with says(MixedArrays, "anchors: array_api_strict on", "log_scale: numpy on cpu"):
        loss(strict.asarray(A), strict.asarray(A), params=loss.init(None, 3))


def test_arrays_on_two_devices():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    one, other = (strict.asarray(A, device=strict.Device(d)) for d in ("CPU_DEVICE", "device1"))
    with says(
        MixedArrays,
        "anchors: array_api_strict on array_api_strict.Device('CPU_DEVICE')",
        "positives: array_api_strict on array_api_strict.Device('device1')",
    ):
        LOSS(one, other)


def test_torch_beside_numpy():
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    with says(MixedArrays, "anchors: torch on cpu", "positives: numpy on cpu"):
        LOSS(torch.ones(4, 3).double(), A)


def test_values_off_the_host_are_looked_at_when_asked(monkeypatch):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    x = strict.asarray(bad(A, 2, np.nan), device=strict.Device("device1"))
    LOSS(x, x)  # no look, no wait
    monkeypatch.setenv("COREFRAME_CHECKS", "1")
    with says(ArgumentError, "anchors has 1 values that are NaN or infinite", "in row 2"):
        LOSS(x, x)


# Fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: InfoNCE(temperature=0),
            ArgumentError,
            "InfoNCE.temperature must be above 0, got 0",
        ),
        (
            lambda: InfoNCE(temperature=-0.1),
            ArgumentError,
            "InfoNCE.temperature must be above 0, got -0.1",
        ),
        (
            lambda: SupCon(temperature=0.0),
            ArgumentError,
            "SupCon.temperature must be above 0, got 0.0",
        ),
        (
            lambda: InfoNCE(temperature=float("nan")),
            ArgumentError,
            "InfoNCE.temperature must be finite, got nan",
        ),
        (
            lambda: InfoNCE(temperature="0.1"),
            ArgumentTypeError,
            "InfoNCE.temperature must be a number, got '0.1'",
        ),
        (
            lambda: InfoNCE(temperature=True),
            ArgumentTypeError,
            "InfoNCE.temperature must be a number, got True",
        ),
        (
            lambda: Triplet(margin=-1.0),
            ArgumentError,
            "Triplet.margin must be at least 0, got -1.0",
        ),
        (
            lambda: Triplet(mode="hard"),
            ArgumentError,
            "Triplet.mode must be one of 'hardest', 'semi_hard', 'all', got 'hard'. "
            "Did you mean 'hardest' or 'semi_hard'?",
        ),
        (
            lambda: InfoNCE(similarity="cosin"),
            ArgumentError,
            "InfoNCE.similarity must be one of 'cosine', 'dot', 'euclidean', "
            "'squared_euclidean', got 'cosin'. Did you mean 'cosine'?",
        ),
        (
            lambda: InfoNCE(reduction="average"),
            ArgumentError,
            "InfoNCE.reduction must be one of 'mean', 'sum', 'mean_active', 'none', "
            "got 'average'. Known: mean, mean_active, none, sum.",
        ),
        (lambda: Hardest(k=0), ArgumentError, "Hardest.k must be at least 1, got 0"),
        (lambda: Hardest(k=2.5), ArgumentTypeError, "Hardest.k must be an integer, got 2.5"),
        (
            lambda: InfoNCE(memory_budget=0),
            ArgumentError,
            "InfoNCE.memory_budget must be at least 1, got 0",
        ),
    ],
)
def test_fields(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_the_public_pairwise_checks_its_words():
    batch = Batch.pairs(A, A)
    terms = InfoNCE().row_terms
    with says(ArgumentError, "similarity must be one of cosine, dot", "got 'cos'"):
        pairwise(terms, batch, similarity="cos")
    with says(ArgumentError, "reduction must be one of mean, sum", "got 'max'"):
        pairwise(terms, batch, reduction="max")
    with says(ArgumentError, "memory_budget must be at least 1 byte, got 0"):
        pairwise(terms, batch, memory_budget=0)


def test_positional_fields_and_half_written_losses_fail_at_once():
    with pytest.raises(TypeError):
        InfoNCE(0.1)
    with pytest.raises(TypeError, match="row_terms"):
        PairwiseLoss()


# Names --------------------------------------------------------------------------------------------


def test_unknown_names_get_the_nearest():
    with says(UnknownName, "no loss is named 'infonce'.", "Did you mean 'info_nce'"):
        registry().find("losses", "infonce")
    with says(UnknownName, "no optimizer is named 'zzz'.", "Known: adam, adamw, sgd"):
        build("optimizers", "zzz")
    with says(UnknownName, "no kind of component 'loss'.", "Did you mean 'losses'"):
        registry().find("loss", "info_nce")
    with says(UnknownName, "no backend is named 'nump' (from argument).", "Did you mean 'numpy'"):
        get_backend("nump")
    assert not issubclass(UnknownName, AmbiguousName)


def test_unknown_and_missing_parameters():
    with says(
        ArgumentError,
        "info_nce takes no parameter 'temprature'. Did you mean 'temperature'?",
        "info_nce takes no parameter 'zzz'. It takes:",
    ):
        build("losses", "info_nce", temprature=0.1, zzz=1)
    with says(ArgumentError, "constant needs 'value'."):
        build("schedulers", "constant")


def test_a_missing_extra_says_what_to_install():
    text = str(MissingExtra("rich", "cli", "the command line"))
    assert text.startswith("the command line needs the package 'rich'")
    assert "pip install 'coreframe-ml[cli]'" in text


def test_labels_that_are_missing_are_no_class() -> None:
    x = np.eye(4)
    for labels in ([None, None, "a", "a"], np.array([float("nan"), 1, 1, 2], dtype=object)):
        with pytest.raises(ArgumentError, match="labels has no value in row 0"):
            Batch.labelled(x, labels)


def test_one_name_is_not_several() -> None:
    with pytest.raises(ArgumentTypeError, match=r"wrt is a tuple of names, such as \('anchors',\)"):
        InfoNCE()(np.eye(2), np.eye(2), wrt="anchors")


def test_aligned_rows_need_a_reference_each() -> None:
    relation = Listed(np.array([[0], [0]]), np.zeros((2, 0), int), 1)
    with pytest.raises(ArgumentError, match="there are 2 anchors and 1 references"):
        Batch(anchors=np.eye(2), references=np.eye(2)[:1], relation=relation, aligned=True)


@pytest.mark.parametrize(
    ("kind", "name", "fields"),
    [
        ("losses", "info_nce", {"symmetric": "no"}),
        ("losses", "info_nce", {"learnable_scale": 1}),
        ("miners", "hardest", {"keep_equal": "no"}),
        ("miners", "in_batch", {"include_positive": None}),
        ("optimizers", "sgd", {"momentum": 0.9, "nesterov": "no"}),
        ("optimizers", "adam", {"decoupled": "no"}),
        ("regularizers", "ewc", {"proximal": "no"}),
        ("adapters", "linear", {"bias": "no"}),
        ("adapters", "low_rank", {"rank_stabilized": 1}),
        ("embedders", "hashing", {"lowercase": "no"}),
    ],
)
def test_what_is_true_or_false_is_no_text(kind, name, fields) -> None:
    field = list(fields)[-1]
    with pytest.raises(ArgumentTypeError, match=rf"{field} must be True or False, got"):
        build(kind, name, **fields)


def test_draws_need_a_generator() -> None:
    x = np.eye(3)
    with pytest.raises(ArgumentTypeError, match=r"rng must be a numpy\.random\.Generator"):
        build("miners", "random").select(x, x, x, 1, rng=None)


def test_a_sum_is_made_of_losses() -> None:
    with pytest.raises(ArgumentTypeError, match="must map names to losses, got list"):
        WeightedSum(losses=[InfoNCE()])
    with pytest.raises(ArgumentTypeError, match=r"losses\['a'\] must be a loss, got 3"):
        WeightedSum(losses={"a": 3})

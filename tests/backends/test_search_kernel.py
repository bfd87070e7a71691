"""NumPy's exact search and its choice of the largest, against their references and brute force."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe.evaluation.retrieval import search
from coreframe.ops import top_k
from coreframe.similarity import NAMES
from coreframe_numpy.kernels import search as kernel


@pytest.fixture(params=["tiles", "at once"])
def small(monkeypatch, request):
    """Tiles and stretches so small that a few hundred documents fill many; or none of them."""
    if request.param == "at once":
        return
    monkeypatch.setattr(kernel, "_SMALL", 0)
    monkeypatch.setattr(kernel, "_QUERIES", 16)
    monkeypatch.setattr(kernel, "_DOCUMENTS", 16)
    monkeypatch.setattr(kernel, "_STRETCH", 640)


def integers(rng, n, d, dtype=np.float32):
    """Vectors with the mean 0 and exact scores, many of them equal."""
    x = rng.integers(-2, 3, (n, d)).astype(dtype)
    return np.concatenate([x, -x])[rng.permutation(2 * n)]


def brute(q, d, k, similarity):
    """Sort by score, then by row, in float64."""
    q, d = q.astype(np.float64), d.astype(np.float64)
    if similarity == "dot":
        scores = q @ d.T
    elif similarity == "cosine":
        # Cosines of small integers that are equal are equal as fractions: compare their squares.
        squares = (d * d).sum(axis=1)
        inner = q @ d.T
        scores = np.sign(inner) * inner**2 / np.where(squares > 0, squares, 1)
        scores = scores.round(9)
    else:
        scores = -((q[:, None, :] - d[None, :, :]) ** 2).sum(axis=-1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("k", [1, 10, 100, 400])
def test_ties_and_every_k(rng, small, similarity, k):
    q, d = integers(rng, 20, 6), integers(rng, 200, 6)
    found = search(q, d, k, similarity=similarity)
    np.testing.assert_array_equal(found, brute(q, d, k, similarity))


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize(
    ("n", "count", "width"), [(1, 1, 1), (1, 300, 5), (33, 1, 4), (50, 17, 1), (7, 1024, 3)]
)
def test_shapes(rng, small, similarity, n, count, width):
    q, d = rng.standard_normal((n, width)), rng.standard_normal((count, width))
    for k in {1, min(7, count), min(count, 300)}:
        found = search(q, d, k, similarity=similarity)
        if similarity == "cosine" and width == 1:  # cosines are 1 and -1
            scores = np.sign(q) @ np.sign(d).T
            expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        elif similarity == "cosine":
            unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, d)]
            expected = brute(*unit, k, "dot")
        else:
            expected = brute(q, d, k, similarity)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_kernel_is_the_reference(rng, small, monkeypatch, similarity, dtype):
    q, d = rng.standard_normal((40, 12)), rng.standard_normal((500, 12))
    d[77] = 0
    d *= rng.uniform(0.5, 2, (500, 1))
    q, d = q.astype(dtype), d.astype(dtype)
    forms = {
        "plain": (q, d),
        "strided": (np.repeat(q, 2, axis=1)[:, ::2], np.repeat(d, 3, axis=0)[::3]),
        "reversed": (q[::-1][::-1], d[:, ::-1][:, ::-1]),
        "fortran": (np.asfortranarray(q), np.asfortranarray(d)),
    }
    for x in forms["plain"]:
        x.flags.writeable = False
    for k in (1, 20):
        want = search(q.astype(np.float64), d.astype(np.float64), k, similarity=similarity)
        for name, (left, right) in forms.items():
            found = search(left, right, k, similarity=similarity)
            np.testing.assert_array_equal(found, want, err_msg=name)
        monkeypatch.setenv("COREFRAME_KERNELS", "off")
        np.testing.assert_array_equal(search(q, d, k, similarity=similarity), want)
        monkeypatch.delenv("COREFRAME_KERNELS")


def test_mixed_dtypes(rng, small):
    q, d = rng.standard_normal((9, 4)), rng.standard_normal((200, 4)).astype(np.float16)
    want = search(q, d.astype(np.float64), 5)
    np.testing.assert_array_equal(search(q, d, 5), want)


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("n", [1, 3, 17, 64])
def test_equal_documents_come_in_order_wherever_they_lie(rng, small, similarity, n):
    """Their scores are no round numbers, and equal only if they are added up alike."""
    some = rng.standard_normal((7, 37)).astype(np.float32)
    which = rng.integers(7, size=333)
    q = rng.standard_normal((n, 37)).astype(np.float32)
    found = search(q, some[which], 333, similarity=similarity)
    for row in found:
        for kind in range(7):
            here = row[which[row] == kind]
            assert (np.diff(here) > 0).all()


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("rising", [True, False])
def test_documents_in_order_of_their_scores(small, similarity, rising):
    """The worst order there is: every tile is better than all before."""
    angle = np.linspace(1.5, 0, 700) if rising else np.linspace(0, 1.5, 700)
    d = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    q = np.repeat([[1.0, 0.0]], 20, axis=0)
    best = np.arange(700)[::-1] if rising else np.arange(700)
    for k in (1, 5, 200):
        found = search(q, d, k, similarity=similarity)
        np.testing.assert_array_equal(found, np.repeat(best[None, :k], 20, axis=0))


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("n", [5, 60])
def test_threads_change_no_bit(rng, small, monkeypatch, similarity, n):
    q = rng.standard_normal((n, 24)).astype(np.float32)
    # Near ties: whatever is added up in another order comes out in another order.
    d = (rng.standard_normal(24) + 1e-6 * rng.standard_normal((500, 24))).astype(np.float32)
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("COREFRAME_THREADS", threads)
        found.append(search(q, d, 12, similarity=similarity))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("similarity", NAMES)
def test_a_score_that_is_no_number_counts_as_the_least(library, similarity):
    d = np.array([[1.0, 0.0], [np.nan, 1.0], [1.0, 1.0], [0.0, np.nan], [3.0, 0.0]])
    if "euclidean" in similarity:  # whose center is then none either: no score is a number
        expected = [0, 1, 2, 3, 4]
    else:
        expected = [0, 4, 2, 1, 3] if similarity == "cosine" else [4, 0, 2, 1, 3]
    found = search(library.asarray([[1.0, 0.0]]), library.asarray(d), 5, similarity=similarity)
    np.testing.assert_array_equal(found, [expected])


@pytest.mark.parametrize("similarity", NAMES)
def test_huge_and_tiny_vectors(rng, small, monkeypatch, similarity):
    for size in (1e-30, 1e30):
        q = (size * rng.standard_normal((20, 8))).astype(np.float32)
        d = (size * rng.standard_normal((300, 8))).astype(np.float32)
        with np.errstate(all="ignore"):
            found = search(q, d, 10, similarity=similarity)
            monkeypatch.setenv("COREFRAME_KERNELS", "off")
            np.testing.assert_array_equal(found, search(q, d, 10, similarity=similarity))
            monkeypatch.delenv("COREFRAME_KERNELS")


@pytest.mark.parametrize("similarity", NAMES)
def test_few_scores_are_chosen_from_at_once(rng, monkeypatch, similarity):
    """A small search takes none of the steps that pay off in a large one."""
    monkeypatch.setattr(kernel, "_Stretch", None)
    q, d = rng.standard_normal((40, 6)), rng.standard_normal((300, 6))
    found = search(q, d, 10, similarity=similarity)
    monkeypatch.setenv("COREFRAME_KERNELS", "off")
    np.testing.assert_array_equal(found, search(q, d, 10, similarity=similarity))


def test_memory_does_not_grow_with_the_collection():
    """300,000 documents of 77 MB in all, beside what is given and returned."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs Linux's /proc")
    script = """
import numpy as np
from coreframe.evaluation.retrieval import search
rng = np.random.default_rng(0)
d = rng.standard_normal((300_000, 64), dtype=np.float32)

def peak():  # ru_maxrss would be that of the larger process that started this one
    with open("/proc/self/status") as lines:
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))

search(d[:64], d[:64], 1)
for q, x, similarity in ((200, d, "cosine"), (100, d.astype(np.float16), "cosine"),
                         (100, d, "euclidean")):
    before = peak()
    search(d[:q], x, 10, similarity=similarity)
    print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    extra = [int(line) for line in done.stdout.split()]
    assert len(extra) == 3
    assert max(extra) < 70 * 2**20, extra  # a copy of the documents has 73


# top_k --------------------------------------------------------------------------------------


@given(
    st.integers(0, 40),
    st.integers(1, 700),
    st.integers(0, 90),
    st.sampled_from([1, 3, 10**6]),
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.integers(0, 2**32),
)
def test_the_largest_are_those_of_the_reference(n, m, k, levels, dtype, seed):
    """With few levels nearly all entries are ties; some rows are mostly of -inf."""
    rng = np.random.default_rng(seed)
    values = np.floor(levels * rng.standard_normal((n, m))).astype(dtype)
    values[rng.random((n, m)) < rng.choice([0, 0.5, 0.99], (n, 1))] = -np.inf
    values[:, m // 2 :] *= rng.choice([1, 2])
    k = min(k, m)
    for x in (values, np.asfortranarray(values), np.repeat(values, 2, axis=1)[:, ::2]):
        found = top_k(x, k)
        assert found.shape == (n, k)
        assert np.array_equal(found, top_k.reference(values, k))


def test_rows_that_tie_stand_beside_rows_that_do_not(rng):
    values = rng.standard_normal((300, 2000)).astype(np.float32)
    values[::3] = 0
    values[1::7, ::2] = -np.inf
    for k in (2, 10, 100):
        assert np.array_equal(top_k(values, k), top_k.reference(values, k))


def test_whole_numbers_go_to_the_reference(rng):
    values = rng.integers(0, 5, (4, 100))
    assert np.array_equal(top_k(values, 5), top_k.reference(values, 5))

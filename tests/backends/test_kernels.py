"""``check_kernels``: our kernels equal their references, and a wrong kernel is found."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from support import environment

import coreframe_numpy.plugin
from coreframe import cli, ops, registry
from coreframe.errors import UnknownName
from coreframe.loss import LossResult
from coreframe.testing import check_kernels, report
from coreframe.testing.kernels import components
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.triplet import MODES, Triplet
from coreframe_numpy.kernels import blocks, info_nce, info_nce_small, optimizers, rows, search
from coreframe_numpy.kernels import sup_con as sup_con_kernel
from coreframe_optimizers.sgd import SGD

OURS = list(coreframe_numpy.plugin.coreframe_kernels("numpy"))
INFO_NCE, SGD_NAME = "coreframe_losses.info_nce:InfoNCE", "coreframe_optimizers.sgd:SGD"
SUP_CON = "coreframe_losses.sup_con:SupCon"


@pytest.mark.parametrize("name", OURS)
def test_our_kernels_are_checked_and_right(name):
    """A kernel without inputs in the kit, or one that never serves, is broken here."""
    checks = check_kernels("numpy", [name])
    assert [c.name for c in checks] == [name]
    assert all(checks), report(checks)
    assert checks[0].detail.startswith("served ")


def test_every_setting_of_a_component_is_tried():
    triplets = components.settings(Triplet)
    assert {loss.mode for loss in triplets} == set(MODES)
    assert {0.0, 0.5} < {loss.margin for loss in triplets}
    losses = components.settings(InfoNCE)
    assert {loss.symmetric for loss in losses} == {False, True}
    assert min(loss.temperature for loss in losses) < 0.02
    optimizers = components.settings(SGD)
    assert any(x.nesterov and x.momentum for x in optimizers)
    assert any(x.weight_decay for x in optimizers)


# A wrong kernel ----------------------------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch):
    """Offer a kernel as a plugin would, and check it alone."""

    def check(name, kernel, library="numpy", **inputs):
        module = ModuleType("fake_kernels")
        module.kernel = kernel
        monkeypatch.setitem(sys.modules, "fake_kernels", module)
        table = {**registry.kernel_table(library), name: "fake_kernels:kernel"}
        monkeypatch.setitem(registry._kernel_tables, library, table)
        (found,) = check_kernels(library, [name], **inputs)
        return found

    registry.registry()
    return check


def wrong_value(z):
    value, slope = rows.softplus(z)
    return value, slope * (1 + (z > 3) * z.dtype.type(1e-2))


def wrong_at_the_end(z):
    value = np.log(1 + np.exp(z))
    return value, rows.softplus(z)[1]


def wrong_dtype(z):
    return tuple(x.astype(np.float64) for x in rows.softplus(z))


def wrong_shape(z):
    return tuple(x.reshape(-1) for x in rows.softplus(z))


def one_result(z):
    return rows.softplus(z)[0]


def writes(z):
    found = rows.softplus(z)
    np.negative(z, out=z)
    return found


def other_at_three_threads(z):
    value, slope = rows.softplus(z)
    if os.environ["COREFRAME_THREADS"] == "3":
        value = np.nextafter(value, np.inf, dtype=value.dtype)
    return value, slope


def takes_no_strides(z):
    flat = z if z.flags.c_contiguous else np.ascontiguousarray(z)[::-1]
    return rows.softplus(flat)


def wrong_when_compiled(z):
    value, slope = rows.softplus(z)
    return (value, slope) if os.environ["COREFRAME_KERNELS"] == "plain" else (slope, value)


def fails(z):
    raise ZeroDivisionError("no reason")


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (wrong_value, "result 2 differs by"),
        (wrong_at_the_end, "result 1"),
        (wrong_dtype, "result 1 is numpy float64 (1, 1), but numpy float32 (1, 1) of the ref"),
        (wrong_shape, "result 1 is numpy float32 (1,)"),
        (one_result, "it returns result 1, the reference result 1, result 2"),
        (writes, "it writes to argument 1"),
        (other_at_three_threads, "other bits with 3 threads than with 1"),
        (takes_no_strides, "strided: result 1 differs"),
        (wrong_when_compiled, "result 1 differs"),
        (fails, "ZeroDivisionError: no reason"),
        (lambda z: NotImplemented, "it never serves"),
    ],
)
def test_a_wrong_kernel_is_found(checked, kernel, words):
    check = checked("softplus", kernel)
    assert not check
    assert words in check.detail, check.detail
    assert "To fix" in check.detail


def last_ties(values, k):
    return values.shape[1] - 1 - np.argsort(-values[:, ::-1], axis=1, kind="stable")[:, :k]


def counts_what_is_outside(values, segments, count):
    result = np.zeros((count, values.shape[1]), values.dtype)
    inside = (segments < count) & (count > 0)
    np.add.at(result, segments[inside], values[inside])
    return result


def normalises_in_place(x):
    found = rows.unit_rows(np.array(x))
    return found if found is NotImplemented or not x.flags.writeable else (found[0], found[1] + 0.1)


def forgets_the_last(queries, documents, center, k, kind):
    if len(documents) <= k:
        return NotImplemented
    return search.nearest_documents(queries, documents[:-1], center, k, kind)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("top_k", last_ties),
        ("segment_sum", counts_what_is_outside),
        ("keep_rows", lambda x, keep: x * keep[:, None]),  # which leaves NaN
        ("all_finite", lambda x: bool(np.isfinite(x.sum()))),  # which may overflow
        ("all_finite", lambda x: np.isfinite(x).all()),  # no bool
        ("unit_rows", normalises_in_place),
        ("unit_rows", lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True), x[..., :1])),
        ("across", lambda g, u, i: (g - g.sum(axis=-1, keepdims=True) * u) * i),
        ("squared_product", lambda x, y: np.square(x.T @ y)),
        ("by_squared_distances", lambda g, s: np.divide(g, -2 * s)),
        ("minus_distances", lambda i, a, b, *, squared: -np.sqrt(np.abs(a + b - 2 * i))),
        ("nearest_documents", forgets_the_last),
    ],
)
def test_a_wrong_kernel_of_any_operation_is_found(checked, name, kernel):
    check = checked(name, kernel)
    assert not check
    assert "differs" in check.detail or "but" in check.detail or "NaN" in check.detail


# Components --------------------------------------------------------------------------------------


def forgets_the_margin(loss, similarities, first):
    return *info_nce.terms(similarities, first, loss.temperature, 0.0), {}


def only_the_first_block(loss, similarities, first):
    return info_nce.diagonal(loss, similarities, 0)


def spoils_distances(loss, similarities, positive, negative):
    found = sup_con_kernel.row_terms(loss, similarities, positive, negative)
    if found is not NotImplemented and similarities.flags.writeable:
        similarities[...] = 0 if found[1] is not similarities else similarities
    return found


def the_usual_softmax(loss, similarities, positive, negative):
    """Right but for pairs that are far apart, whose loss it rounds to 0 in float32."""
    if loss.margin or not (np.count_nonzero(positive, axis=1) == 1).all():
        return NotImplemented
    z = np.where(positive | negative, similarities / loss.temperature, -np.inf)
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return -np.log(shares[positive]), (shares - positive) / similarities.dtype.type(
        loss.temperature
    )


def without_wrt(loss, batch, wrt):
    return info_nce_small.value_and_grad(loss, batch, None)


def forgets_the_sum(loss, batch, wrt):
    found = info_nce_small.value_and_grad(loss, batch, wrt)
    if found is NotImplemented or loss.reduction != "sum":
        return found
    return LossResult(found.value / len(batch.anchors), found.grads, {}, found.parts)


def in_thread_order(left, rows):
    found = blocks.block_loop(left, rows)
    if os.environ["COREFRAME_THREADS"] == "2":
        found.losses[...] = np.nextafter(found.losses, 1, dtype=found.losses.dtype)
    return found


def forgets_a_row(left, rows):
    found = blocks.block_loop(left, rows)
    if found.left is not None and len(left) > 200:
        found.left[-1] = 0
    return found


def forgets_the_sums(left, rows):
    found = blocks.block_loop(left, rows)
    return replace(found, sums={k: x for k, x in found.sums.items() if k != "columns"})


def always_in_place(tasks, donate):
    return optimizers.sgd(tasks, True)


def spoils_gradients(tasks, donate):
    found = optimizers.sgd(tasks, donate)
    for task in tasks:
        if task.gradient.flags.writeable:
            task.gradient[...] = 0
    return found


def without_decay(tasks, donate):
    plain = [t._replace(optimizer=replace(t.optimizer, weight_decay=0.0)) for t in tasks]
    return optimizers.sgd(plain, donate)


@pytest.mark.parametrize(
    ("name", "kernel", "words"),
    [
        (f"{INFO_NCE}.diagonal", forgets_the_margin, "margin=1.0"),
        (f"{INFO_NCE}.diagonal", only_the_first_block, "differs by"),
        (f"{INFO_NCE}.value_and_grad", without_wrt, "wrt=('"),
        (f"{INFO_NCE}.value_and_grad", forgets_the_sum, "value differs by"),
        (INFO_NCE, the_usual_softmax, "far apart: losses differs by"),
        (SUP_CON, spoils_distances, "it writes to similarities"),
        ("block_loop", in_thread_order, "other bits with 2 threads"),
        ("block_loop", forgets_a_row, "grads['anchors'] differs"),
        ("block_loop", forgets_the_sums, "what is added up, float32: it returns"),
        (SGD_NAME, always_in_place, "it writes to p0"),
        (SGD_NAME, spoils_gradients, "the gradient of p0"),
        (SGD_NAME, without_decay, "weight_decay=1.0"),
    ],
)
def test_a_wrong_kernel_of_a_component_is_found(checked, name, kernel, words):
    check = checked(name, kernel)
    assert not check
    assert words in check.detail, check.detail


# Names, other libraries, the command line --------------------------------------------------------


def doubled(x):
    return 2 * x


doubled.__module__ = "fake_operations"
DOUBLED = "fake_operations:doubled"


@pytest.fixture
def operation(monkeypatch):
    module = ModuleType("fake_operations")
    module.doubled = ops.op(doubled)
    monkeypatch.setitem(sys.modules, "fake_operations", module)
    return module.doubled


def test_an_operation_of_another_package_needs_inputs(operation, checked):
    inputs = {DOUBLED: [(np.arange(6.0).reshape(2, 3),), (np.ones(0),)]}

    def good(x):
        return x + x

    found = checked(DOUBLED, good)
    assert not found
    assert "not checked: there are no inputs" in found.detail
    found = checked(DOUBLED, good, inputs=inputs)
    assert found, found.detail
    found = checked(DOUBLED, lambda x: 2 * x + (x == 5), inputs=inputs)
    assert "input 1 (2, 3), float32, contiguous: result 1 differs" in found.detail


def test_what_nobody_asked_for_is_listed(monkeypatch):
    registry.registry()
    table = {"acme:thing": "acme:thing", "keep_rows": rows.__name__ + ":keep_rows"}
    monkeypatch.setitem(registry._kernel_tables, "numpy", table)
    first, second = check_kernels()
    assert (first.name, second.name) == ("acme:thing", "keep_rows")
    assert first.detail.startswith("not checked: nothing is known about this operation")
    assert second.detail.startswith("served ")


def test_a_name_that_is_not_offered():
    with pytest.raises(UnknownName, match=r"numpy is offered no kernel 'sofplus'.*'softplus'"):
        check_kernels("numpy", ["sofplus"])


def test_the_environment_does_not_matter_and_is_left_as_it_was():
    with environment(COREFRAME_KERNELS="off", COREFRAME_THREADS="7"):
        (found,) = check_kernels("numpy", ["squared_product"])
        assert os.environ["COREFRAME_KERNELS"] == "off"
        assert os.environ["COREFRAME_THREADS"] == "7"
    assert found.detail.startswith("served 1")
    assert ops.kernel_table is registry.kernel_table


def test_another_library(checked):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")

    def good(x, keep):
        return torch.where(keep[:, None], x, 0)

    def bad(x, keep):
        return torch.where(keep[:, None], x, 0).double()

    found = checked("keep_rows", good, "torch")
    assert found, found.detail
    assert "is torch torch.float64" in checked("keep_rows", bad, "torch").detail


def test_a_backend_without_kernels(capsys):
    pytest.importorskip("torch")
    assert cli.run(["check", "--kernels", "torch"]) == cli.USAGE
    assert "0 promises kept, 0 broken" in capsys.readouterr().out


def test_the_command_line(capsys):
    assert cli.run(["check", "squared_product", "--kernels", "numpy", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["ok"]) == ("squared_product", True)
    assert cli.run(["check"]) == cli.USAGE
    assert "--kernels" in capsys.readouterr().err

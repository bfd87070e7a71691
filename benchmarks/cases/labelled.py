"""Losses of labelled embeddings, against pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import exact, floors, peers
from benchmarks.case import PLAIN, US, Call, Case, Compare, Inputs, Side
from benchmarks.data import classes, loss_bytes

MARGIN = 0.5


def ours(make: Callable[[], Any]) -> Side:
    def build(inputs: Inputs) -> Call:
        loss = make()
        return lambda: loss(inputs["x"], labels=inputs["labels"])

    return Side(US, build, lambda r: {"x": r.grads["anchors"]}, environment=PLAIN)


def _sup_con() -> Any:
    from coreframe_losses.sup_con import SupCon

    return SupCon(temperature=0.1)


def _triplet(mode: str) -> Callable[[], Any]:
    def make() -> Any:
        from coreframe_losses.triplet import Triplet

        return Triplet(margin=MARGIN, mode=mode)

    return make


def _nt_xent() -> Any:
    from coreframe_losses.info_nce import InfoNCE

    return InfoNCE(temperature=0.07)


def _plain_distance(library: Any) -> Any:
    return library.distances.LpDistance(normalize_embeddings=False)


def _their_hardest(library: Any) -> tuple[Any, Any]:
    loss = library.losses.TripletMarginLoss(
        margin=MARGIN,
        distance=_plain_distance(library),
        reducer=library.reducers.MeanReducer(),
    )
    return loss, library.miners.BatchHardMiner(distance=_plain_distance(library))


def _their_triplets(library: Any) -> tuple[Any, Any]:
    return _their_hardest(library)[0], None


def sup_con(quick: bool, n: int = 4096, d: int = 128, name: str = "sup_con") -> Case:
    n, d = (1024, 64) if quick else (n, d)
    side = peers.metric_learning(lambda library: (library.losses.SupConLoss(0.1), None))
    return Case(
        name,
        f"SupCon, n = {n:,}, d = {d}, 4 a class",
        classes(n, d),
        classes(64, d),
        (ours(_sup_con), *floors.three_products(), side),
        (Compare(floors.FLOOR), Compare(peers.PML, at_most=0.4, memory_share=0.1)),
        exact.sup_con(0.1),
        loss_bytes,
        n=n,
    )


def batch_hard(quick: bool, n: int = 4096, d: int = 128, name: str = "batch_hard") -> Case:
    n, d = (1024, 64) if quick else (n, d)
    return Case(
        name,
        f"Batch-hard triplet, n = {n:,}, d = {d}, 4 a class",
        classes(n, d),
        classes(64, d),
        (
            ours(_triplet("hardest")),
            *floors.three_products(),
            peers.metric_learning(_their_hardest),
        ),
        (Compare(floors.FLOOR), Compare(peers.PML, at_most=0.35, memory_share=0.1)),
        exact.batch_hard(MARGIN),
        loss_bytes,
        n=n,
    )


def multi_similarity(quick: bool) -> Case:
    n, d = (1024, 64) if quick else (4096, 128)
    theirs = "pytorch-metric-learning's"
    side = peers.metric_learning(
        lambda library: (library.losses.MultiSimilarityLoss(), None), theirs, judged=False
    )
    return Case(
        "multi_similarity",
        f"Multi-similarity, for reference (we have none), n = {n:,}, d = {d}",
        classes(n, d),
        classes(64, d),
        (side, *floors.three_products()),
        (Compare(floors.FLOOR, theirs),),
        deducted=loss_bytes,
        n=n,
    )


def nt_xent(quick: bool) -> Case:
    n, d = (128, 64) if quick else (512, 128)
    side = peers.metric_learning(lambda library: (library.losses.NTXentLoss(0.07), None))
    return Case(
        "nt_xent",
        f"NT-Xent by labels, all positive pairs, n = {n:,}, d = {d}, 4 a class",
        classes(n, d),
        classes(64, d),
        (ours(_nt_xent), side, peers.jax_nt_xent(0.07)),
        (Compare(peers.PML, at_most=0.01), Compare(peers.JAX)),
        exact.nt_xent(0.07),
        loss_bytes,
        rounds=2,
        long=True,
        n=n,
    )


def all_triplets(quick: bool) -> Case:
    n, d = (128, 64) if quick else (1024, 128)
    return Case(
        "all_triplets",
        f"Triplet over all triplets, n = {n:,}, d = {d}, 4 a class",
        classes(n, d),
        classes(64, d),
        (ours(_triplet("all")), peers.metric_learning(_their_triplets)),
        (Compare(peers.PML, at_most=0.05),),
        exact.all_triplets(MARGIN),
        loss_bytes,
        rounds=5,
        n=n,
    )


CASES = {
    "sup_con": sup_con,
    "batch_hard": batch_hard,
    "multi_similarity": multi_similarity,
    "nt_xent": nt_xent,
    "all_triplets": all_triplets,
}

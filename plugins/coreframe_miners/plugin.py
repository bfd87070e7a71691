"""The miners of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_miners() -> Table:
    return {
        "distance_weighted": "coreframe_miners.distance_weighted:DistanceWeighted",
        "hardest": "coreframe_miners.hardest:Hardest",
        "in_batch": "coreframe_miners.in_batch:InBatch",
        "random": "coreframe_miners.random:Random",
        "semi_hard": "coreframe_miners.semi_hard:SemiHard",
        "softmax_weighted": "coreframe_miners.softmax_weighted:SoftmaxWeighted",
    }

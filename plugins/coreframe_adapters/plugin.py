"""The adapters of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_adapters() -> Table:
    return {
        "chain": "coreframe_adapters.chain:Chain",
        "linear": "coreframe_adapters.linear:Linear",
        "low_rank": "coreframe_adapters.low_rank:LowRank",
        "micro_lora": "coreframe_adapters.micro_lora:MicroLoRA",
        "procrustes": "coreframe_adapters.procrustes:Procrustes",
        "recomputed": "coreframe_adapters.recomputed:Recomputed",
        "whitening": "coreframe_adapters.whitening:Whitening",
    }

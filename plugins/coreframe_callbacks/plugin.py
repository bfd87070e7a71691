"""The callbacks of this package, by name. One file each, of the same name; W&B and trackio, which
have one interface, share theirs.
"""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_callbacks() -> Table:
    return {
        "jsonl": "coreframe_callbacks.jsonl:Jsonl",
        "mlflow": "coreframe_callbacks.mlflow:MLflow",
        "tensorboard": "coreframe_callbacks.tensorboard:TensorBoard",
        "trackio": "coreframe_callbacks.trackio:Trackio",
        "wandb": "coreframe_callbacks.wandb:Wandb",
    }

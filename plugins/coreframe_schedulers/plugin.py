"""The schedulers of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_schedulers() -> Table:
    return {
        "competence": "coreframe_schedulers.competence:Competence",
        "constant": "coreframe_schedulers.constant:Constant",
        "cosine": "coreframe_schedulers.cosine:Cosine",
        "cosine_warm_restarts": "coreframe_schedulers.cosine_warm_restarts:CosineWarmRestarts",
        "curriculum": "coreframe_schedulers.curriculum:Curriculum",
        "exponential": "coreframe_schedulers.exponential:Exponential",
        "inverse_sqrt": "coreframe_schedulers.inverse_sqrt:InverseSqrt",
        "joined": "coreframe_schedulers.joined:Joined",
        "linear": "coreframe_schedulers.linear:Linear",
        "one_cycle": "coreframe_schedulers.one_cycle:OneCycle",
        "piecewise": "coreframe_schedulers.piecewise:Piecewise",
        "polynomial": "coreframe_schedulers.polynomial:Polynomial",
        "stage_value": "coreframe_schedulers.stage_value:StageValue",
        "step": "coreframe_schedulers.step:Step",
        "warmup_cosine": "coreframe_schedulers.warmup_cosine:WarmupCosine",
        "warmup_stable_decay": "coreframe_schedulers.warmup_stable_decay:WarmupStableDecay",
    }

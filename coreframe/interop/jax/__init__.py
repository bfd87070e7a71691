"""coreframe inside of JAX: losses and miners under its transformations, optimizers, schedules.

Everything is a plain function. Optimizers are those of optax, which is asked for when one is made.
"""

from __future__ import annotations

from coreframe.errors import MissingExtra

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise MissingExtra("jax", "jax", "coreframe.interop.jax") from error

from coreframe.interop.jax.losses import init_params, jax_loss
from coreframe.interop.jax.optimizers import OptimizerState, gradient_transformation
from coreframe.interop.jax.schedules import schedule

__all__ = [
    "OptimizerState",
    "gradient_transformation",
    "init_params",
    "jax_loss",
    "schedule",
]

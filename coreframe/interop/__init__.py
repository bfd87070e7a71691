"""coreframe inside of larger frameworks: one module for each, which needs that framework.

- ``coreframe.interop.torch``: losses, miners, adapters and schedules as modules of PyTorch.
- ``coreframe.interop.jax``: losses under JAX's transformations; optimizers and schedules for
  optax.
- ``coreframe.interop.sentence_transformers``: losses for its trainer.
- ``coreframe.interop.transformers``, ``coreframe.interop.lightning``: callbacks for schedules of
  losses and for the health of vectors.
- ``coreframe.interop.sklearn``: MetricEmbedder, a transformer that learns a metric.
"""

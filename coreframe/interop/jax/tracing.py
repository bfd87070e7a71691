"""What components meet while JAX traces a function: numbers without values, and draws by a key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from coreframe.errors import ArgumentError

_LOOKS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@contextlib.contextmanager
def looks_named(part: object) -> Iterator[None]:
    """Say what to do where a component looks at values that JAX traces."""
    try:
        yield
    except _LOOKS as error:
        raise ArgumentError(
            f"{type(part).__name__} looks at values, which JAX has none of while it traces "
            "(under jit, vmap or scan): a branch on a value, a call of NumPy, or a number that "
            "shapes depend on, such as a scheduled k. Call it outside of them, where jax.grad "
            "works too, or write it with xp = coreframe.namespace(...) and xp.where"
        ) from error


class KeyDraws:
    """A source of draws for miners, as NumPy's Generator is, whose draws a key of JAX decides.

    Other than with a Generator, which draws while a function is traced, each call with another
    key draws anew, under ``jit`` and in ``scan`` too.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def integers(self, high: int) -> jax.Array:
        """Return a whole number in 0 to high - 1, 0-d int32; high is at most 2**31."""
        self._key, key = jax.random.split(self._key)
        if high == 1 << 31:
            return (jax.random.bits(key, dtype=jnp.uint32) >> 1).astype(jnp.int32)
        return jax.random.randint(key, (), 0, high, dtype=jnp.int32)

    def __getattr__(self, name: str) -> Any:
        raise ArgumentError(
            f"this miner draws by rng.{name}, for which a key of JAX will not do: give rng= a "
            "numpy.random.Generator, which draws while a function is traced, or draw in the miner "
            "by coreframe.random"
        )

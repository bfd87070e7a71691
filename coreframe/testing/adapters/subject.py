"""What adapters are checked on: rows and parameters, each a pure function of a seed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.adapter import Adapter, ClosedForm
from coreframe.backend import to_numpy
from coreframe.errors import CoreframeError
from coreframe.random import stream
from coreframe.testing import arrays, kit
from coreframe.testing.arrays import Place, on_numpy
from coreframe.testing.checks import NotApplicable, difference

ROWS = 5
WIDTHS = (6, 20, 80, 1)
"""Those that an adapter does not refuse are used, the first of them the most."""
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
NOISY = 7  # a seed of the noise of a forward pass


@dataclass(frozen=True)
class Pass:
    """What a forward pass and its pullback returned, as it came."""

    y: Any
    grads: Mapping[str, Any]
    dx: Any

    @property
    def all(self) -> dict[str, Any]:
        """The same in NumPy, by name."""
        dx = {} if self.dx is None else {"dx": to_numpy(self.dx)}
        grads = {f"the gradient of {name}": to_numpy(g) for name, g in self.grads.items()}
        return {"y": to_numpy(self.y), **dx, **grads}


class Subject(kit.Subject):
    """An adapter, and what it is checked on."""

    base = Adapter

    @property
    def adapter(self) -> Adapter:
        found: Adapter = self.component
        return found

    @property
    def solver(self) -> ClosedForm:
        if not isinstance(self.adapter, ClosedForm):
            raise NotApplicable("it is trained, and not computed in closed form")
        return self.adapter

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.everywhere()

    @cached_property
    def placed(self) -> list[tuple[str, Place, Any]]:
        """Each library and dtype on which it runs; ``libraries`` explains where it does not."""
        found = []
        dtypes = (np.float32, np.float64)
        for (library, place), dtype in itertools.product(self.places.items(), dtypes):
            if np.dtype(dtype).name not in str(place(np.zeros(1, dtype)).dtype):
                continue  # JAX without 64 bits
            with contextlib.suppress(Exception):
                self.run(place=place, dtype=dtype)
                found.append((library, place, dtype))
        return found

    @cached_property
    def refusals(self) -> dict[int, str]:
        """Why it takes no rows of some widths."""
        found = {}
        for width in WIDTHS:
            try:
                self.adapter.init(stream(0, "check"), width)
            except CoreframeError as error:
                found[width] = str(error)
            except Exception:
                pass  # which a promise will find and explain
        return found

    @property
    def widths(self) -> list[int]:
        return [width for width in WIDTHS if width not in self.refusals]

    @property
    def width(self) -> int:
        if not self.widths:
            raise NotApplicable("it takes no rows: see accepts")
        return self.widths[0]

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        width = self.width
        params = self.params(width, adapter=component, variant=variant)
        x, dy = numbers(ROWS, width, 20 + variant), numbers(ROWS, out(params, component), 22)
        found = {f"init: {k}": v for k, v in component.init(stream(variant, "c"), width).items()}
        found |= {f"params: {name}": p for name, p in params.items()}
        for seed in (None, NOISY + variant):
            result = self.run(params, x, dy, seed=seed, adapter=component)
            found |= {f"{name}, rng {seed}": value for name, value in result.all.items()}
        squares = component.squared_gradients(params, x, dy)
        found |= {f"squared_gradients: {name}": g for name, g in squares.items()}
        return found | dict(zip(("W", "b"), component.matrix(params), strict=True))

    def params(self, width: int, *, adapter: Any = None, variant: int = 0) -> dict[str, Any]:
        """Return float64 parameters: trained ones moved off their start, or solved ones."""
        chosen = adapter or self.adapter
        if isinstance(chosen, ClosedForm):
            solved = chosen.solve(*pairs(width, seed=variant))
            return {name: np.asarray(to_numpy(p)) for name, p in solved.items()}
        start, rng = chosen.init(stream(variant, "check"), width), np.random.default_rng(variant)
        return {
            name: np.asarray(p, np.float64) + 0.3 * rng.standard_normal(np.shape(p))
            for name, p in start.items()
        }

    @cached_property
    def start(self) -> dict[str, Any]:
        """Parameters of the first width."""
        return self.params(self.width)

    def run(
        self,
        params: Mapping[str, Any] | None = None,
        x: Any = None,
        dy: Any = None,
        *,
        place: Place = on_numpy,
        dtype: Any = np.float64,
        seed: int | None = None,
        adapter: Adapter | None = None,
    ) -> Pass:
        """Go forward and back; of noise, ``seed`` is the seed, and without one there is none."""
        params = self.start if params is None else params
        adapter = adapter or self.adapter
        x = numbers(ROWS, self.width, 1) if x is None else x
        dy = numbers(len(x), out(params, adapter), 2) if dy is None else dy
        placed = {name: place(np.asarray(p, dtype)) for name, p in params.items()}
        rng = None if seed is None else stream(seed, "noise")
        y, pullback = adapter.forward(placed, place(np.asarray(x, dtype)), rng=rng)
        return Pass(y, *pullback(place(np.asarray(dy, dtype))))


def numbers(rows: int, width: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, width))


def out(params: Mapping[str, Any], adapter: Adapter) -> int:
    """Return the width of what an adapter returns."""
    return int(adapter.matrix(params)[0].shape[1])


def pairs(width: int, rows: int | None = None, seed: int = 0) -> tuple[Any, Any]:
    """Return row-aligned queries and documents, a few more than there are dimensions."""
    count = 2 * width + 3 if rows is None else rows
    q = numbers(count, width, 30 + seed) + 0.5
    turn = np.linalg.qr(numbers(width, width, 40 + seed))[0]
    return q, q @ turn + 0.1 * numbers(count, width, 50 + seed)


def differences(
    where: str, got: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float
) -> Iterator[str]:
    for name, x in wanted.items():
        gap = difference(got[name], x, 1.0) if name in got else float("inf")
        if gap > tolerance:
            yield f"{where}: {name} differs by {gap:.1g} of its largest entry"

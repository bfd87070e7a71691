"""Adapters of coreframe as modules of PyTorch, which read and write coreframe's files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coreframe import registry
from coreframe.adapter import Adapter, ClosedForm, Pullback
from coreframe.artefact import SIDES, Side, TrainedAdapter, load
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.interop.torch.arrays import (
    as_array,
    as_tensor,
    computing,
    exactly,
    numpy_named,
    uncompiled,
    widened,
)
from coreframe.interop.torch.once import links, once, untransformed
from coreframe.interop.torch.parameters import register, registered
from coreframe.random import stream

__all__ = ["AdapterModule", "save_adapters"]


class AdapterModule(nn.Module):
    """An adapter as a module: its parameters are the module's, by coreframe's names.

        y = module(x);   module.save("folder");   coreframe.load("folder")(x) is the same map

    Gradients are those of the adapter's own pullback, in one step of the graph.

    Args:
        adapter: any ``coreframe.Adapter``, or the name of a registered one.
        dim: the width of the embeddings.
        params: parameters to start at, by name, arrays of any library; an adapter in closed form
            needs what its ``solve`` returned, and holds it in buffers, since it is not trained.
            Default: None, the adapter's own start.
        normalize: bring each row of the result to unit length, as stored adapters do.
            Default: True, theirs; a zero row stays zero.
        seed: of the start, as in ``fit``. Default: 0.
        library: who computes; see ``torch_loss``. Default: NumPy on the processor, else torch.

    Shapes: (..., dim) to (..., d_out).

    Dtypes: the result has the dtype of x; computed in the wider of x's and the parameters', and at
    least float32, autocast or not.

    >>> module = AdapterModule("low_rank", 32)
    >>> sorted(module.state_dict()), module(torch.ones(3, 32)).shape
    (['A', 'B'], torch.Size([3, 32]))
    """

    def __init__(
        self,
        adapter: Adapter | str,
        dim: int,
        *,
        params: Params | None = None,
        normalize: bool = True,
        seed: int = 0,
        library: str | None = None,
    ) -> None:
        super().__init__()
        self.adapter = registry.component("adapters", adapter, Adapter)
        self.dim, self.normalize, self.library = dim, normalize, library
        fixed = isinstance(self.adapter, ClosedForm)
        if params is None:
            if fixed:
                raise ArgumentError(
                    f"{type(self.adapter).__name__} is computed in closed form; give "
                    "params=adapter.solve(queries, documents)"
                )
            params = self.adapter.init(stream(seed, "adapter"), dim)
        self.names = tuple(params)
        register(self, params, trained=not fixed)

    @uncompiled
    def forward(self, x: torch.Tensor, *, rng: Any = None) -> torch.Tensor:
        """Return the adapted rows; an adapter with noise draws from ``rng``, NumPy's Generator."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise ArgumentTypeError(f"x must be a tensor of floating point numbers, got {came}")
        if x.shape[-1:] != (self.dim,):
            raise ArgumentError(
                f"x must have width {self.dim}, as this adapter has, got {tuple(x.shape)}"
            )
        library = computing(x, self.library)
        rows = x.reshape(-1, self.dim)
        params = registered(self, self.names)
        tensors = (rows, *params.values())
        untransformed(tensors)
        y: torch.Tensor = _Map.apply(
            self.adapter, library, rng, tuple(params), links(tensors), *tensors
        )
        if self.normalize:
            y = nn.functional.normalize(y, dim=-1)
        return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])

    def stored(self) -> Side:
        """Return the map as it is stored: NumPy arrays of float32."""
        params = {
            name: as_array(x.float().cpu()) for name, x in registered(self, self.names).items()
        }
        if isinstance(self.adapter, StoredMap):
            return Side(self.adapter.form, params, self.adapter.scaling)
        return Side.of(self.adapter, params)

    def save(self, folder: str | os.PathLike[str], *, side: str = "query", **about: Any) -> None:
        """Write the adapter of one side, or of "both"; ``about`` as in ``save_adapters``."""
        if side not in (*SIDES, "both"):
            raise ArgumentError(f"side must be 'query', 'document' or 'both', got {side!r}")
        save_adapters(folder, **dict.fromkeys(SIDES if side == "both" else (side,), self), **about)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, side: str = "query", library: str | None = None
    ) -> AdapterModule:
        """Read one side of a stored adapter, of whatever origin; its parameters can be trained."""
        found = load(folder)
        own = found.side(side)
        return cls(
            StoredMap(form=own.form, scaling=own.scaling, bias="b" in own.arrays),
            found.dimensions,
            params=own.arrays,
            normalize=found.normalize,
            library=library,
        )

    def extra_repr(self) -> str:
        return f"{self.adapter!r}, dim={self.dim}, normalize={self.normalize}"


def save_adapters(
    folder: str | os.PathLike[str],
    *,
    query: AdapterModule | None = None,
    document: AdapterModule | None = None,
    similarity: str = "cosine",
    base_model: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapters of two towers as one stored adapter, which ``coreframe.load`` reads.

    A side without a module stays as it is. Both share width and ``normalize``.
    """
    given = {"query": query, "document": document}
    modules = {name: m for name, m in given.items() if m is not None}
    if not modules:
        raise ArgumentError("an adapter of the query, of the document or of both must be given")
    kinds = {(m.dim, m.normalize) for m in modules.values()}
    if len(kinds) > 1:
        raise ArgumentError(
            f"the two sides must share width and normalize, got (dim, normalize) of {sorted(kinds)}"
        )
    dim, normalize = next(iter(kinds))
    sides = {name: m.stored() for name, m in modules.items()}
    widths = {name: _width(sides.get(name, Side()), dim) for name in SIDES}
    if len(set(widths.values())) > 1:
        raise ArgumentError(
            f"query and document would have vectors of widths {widths['query']} and "
            f"{widths['document']}, which cannot be compared; give both sides an adapter"
        )
    TrainedAdapter(dim, sides, normalize, similarity, base_model, notes or {}).save(folder)


def _width(side: Side, dim: int) -> int:
    """Return the width of what a side makes; only a full matrix changes it."""
    return int(side.arrays["W"].shape[1]) if side.form == "linear" else dim


class _Map(torch.autograd.Function):
    """The map of an adapter in the graph, in the dtype that is computed in."""

    @staticmethod
    def forward(
        ctx: Any,
        adapter: Adapter,
        library: str,
        rng: Any,
        names: tuple[str, ...],
        links: tuple[torch.Tensor, ...],
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
        x, *params = (as_array(widened(t, dtype), library) for t in tensors)
        device = tensors[0].device
        with exactly(device), numpy_named(adapter, device):
            y, ctx.pullback = adapter.forward(dict(zip(names, params, strict=True)), x, rng=rng)
        ctx.names, ctx.library, ctx.links = names, library, links
        # Saved to be noticed if an optimizer writes to them before the gradient comes back.
        ctx.save_for_backward(*tensors)
        # A tensor of its own: if the pullback holds y, it must not hold this step of the graph.
        return as_tensor(y).detach()

    @staticmethod
    @once
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        need_dx, *wanted = ctx.needs_input_grad[5:]
        with exactly(dy.device):
            grads, dx = ctx.pullback(as_array(dy.contiguous(), ctx.library), need_dx=need_dx)
        found = [
            as_tensor(grads[name]).to(p.dtype) if want and name in grads else None
            for name, p, want in zip(ctx.names, params, wanted, strict=True)
        ]
        return *(None,) * 5, as_tensor(dx).to(x.dtype) if need_dx else None, *found


@dataclass(frozen=True, kw_only=True)
class StoredMap(Adapter):
    """The map of one side of a stored adapter, in the form it was stored in."""

    form: str = "identity"
    scaling: float = 1.0
    bias: bool = False

    def init(self, rng: Any, dim_in: int) -> Params:
        raise ArgumentError("a stored map starts at what was stored: see AdapterModule.load")

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        xp = namespace(x=x)
        y, back = self._product(params, x)
        if self.bias:
            y = y + params["b"]

        def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads, dx = back(dy)
            return grads | {"b": xp.sum(dy, axis=0)} if self.bias else grads, dx

        return y, pullback

    def _product(
        self, params: Params, x: Array
    ) -> tuple[Array, Callable[[Array], tuple[dict[str, Array], Array]]]:
        turned = namespace(x=x).matrix_transpose
        if self.form == "linear":
            w = params["W"]
            return x @ w, lambda dy: ({"W": turned(x) @ dy}, dy @ turned(w))
        if self.form == "identity":
            return x, lambda dy: ({}, dy)
        a, b, s = params["A"], params["B"], self.scaling
        hidden = x @ a

        def back(dy: Array) -> tuple[dict[str, Array], Array]:
            inner = s * (dy @ turned(b))
            grads = {"A": turned(x) @ inner, "B": s * (turned(hidden) @ dy)}
            return grads, dy + inner @ turned(a)

        return x + s * (hidden @ b), back

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        if self.form == "linear":
            return params["W"], params.get("b")
        if self.form == "identity":
            raise ArgumentError("a side that is not adapted has no matrix: its width is not stored")
        a = params["A"]
        eye = namespace(A=a).eye(a.shape[0], dtype=a.dtype, device=device_of(a))
        return eye + self.scaling * (a @ params["B"]), params.get("b")

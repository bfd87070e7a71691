"""What a plugin author imports to register components: the hook specifications.

A plugin is a module named by an entry point of the group ``coreframe``:

    [project.entry-points.coreframe]
    my_plugin = "my_plugin"

with one function a kind, which returns a table of names and import targets, so that listing
components imports none of them:

    from coreframe.plugin import hookimpl

    @hookimpl
    def coreframe_losses():
        return {"soft_margin": "my_plugin.soft_margin:SoftMargin"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pluggy

GROUP = "coreframe"
"""The entry-point group, and pluggy's project name."""

Table: TypeAlias = Mapping[str, str]
"""Component name -> ``package.module:attribute``."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


__all__ = ["GROUP", "HOOKS", "KINDS", "Table", "hookimpl"]


class Hooks:
    """The hooks a plugin may implement. Hooks only ever gain optional arguments."""

    @hookspec
    def coreframe_losses(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Loss``."""

    @hookspec
    def coreframe_miners(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Miner``."""

    @hookspec
    def coreframe_optimizers(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Optimizer``."""

    @hookspec
    def coreframe_schedulers(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Scheduler``."""

    @hookspec
    def coreframe_regularizers(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Regularizer``."""

    @hookspec
    def coreframe_adapters(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Adapter``."""

    @hookspec
    def coreframe_samplers(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Sampler``."""

    @hookspec
    def coreframe_callbacks(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Callback``."""

    @hookspec
    def coreframe_embedders(self) -> Table:  # type: ignore[empty-body]
        """Offer subclasses of ``coreframe.Embedder``."""

    @hookspec
    def coreframe_backends(self) -> Table:  # type: ignore[empty-body]
        """Offer classes that follow the ``coreframe.Backend`` protocol."""

    @hookspec
    def coreframe_kernels(self, backend: str) -> Table:  # type: ignore[empty-body]
        """Offer fast versions of operations for the array library named ``backend``."""


HOOKS: tuple[str, ...] = tuple(name for name in vars(Hooks) if name.startswith("coreframe_"))
"""The names of all hooks."""

KINDS: tuple[str, ...] = tuple(
    name.removeprefix("coreframe_") for name in HOOKS if name != "coreframe_kernels"
)
"""The kinds of component: ``losses``, ``miners``, ... in the order of the hooks."""


@dataclass(frozen=True)
class Retired:
    """What a hook is called now, and the version from which the old name is unknown."""

    now: str
    until: str


RETIRED: dict[str, Retired] = {}
"""Hooks of the last minor version that have another name: still called, with a warning."""

"""Elastic weight consolidation: what earlier tasks need stays where it is."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from coreframe import checks
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe.errors import ArgumentError, ArgumentTypeError, ArtefactError, nearest
from coreframe.fisher_information import Fisher
from coreframe.regularizer import Regularizer
from coreframe.result import LossResult
from coreframe.scheduler import Scheduler, plain, require_resolved
from coreframe.storage import check_format, make_folder, write_files

FORMAT = "coreframe-ewc"
VERSION = 1
FILE = "ewc.safetensors"
MODES = ("separate", "sum", "online", "average")


@dataclass(frozen=True, eq=False)
class Task:
    """What one task, or several merged ones, left behind.

    Args:
        center: the parameters after the task, by name.
        fisher: how much each of their entries matters, of the same names and shapes.
        count: how many tasks it stands for.
    """

    center: Mapping[str, Array]
    fisher: Mapping[str, Array]
    count: int = 1

    def __post_init__(self) -> None:
        if set(self.center) != set(self.fisher):
            raise ArgumentError(
                f"a task's center has {sorted(self.center)}, its fisher {sorted(self.fisher)}; "
                "both must have the same names"
            )
        for name, x in self.center.items():
            _same_shape(f"the fisher of {name!r}", self.fisher[name], x)


@dataclass(frozen=True, kw_only=True)
class EWC(Regularizer):
    """Elastic weight consolidation: a pull to the parameters of earlier tasks, where they matter.

        strength / 2 * sum over tasks k and entries p of F_kp (theta_p - theta*_kp)^2
        gradient = strength * sum_k F_k (theta - theta*_k)

    After a task, ``ewc.learned(params, fisher(...))`` returns an EWC that protects it too, with
    copies of the arrays; give that to the next run, ``fit(..., initial=run.params,
    regularizers=[ewc])``. ``params`` are the adapter's own, as ``coreframe.fisher`` takes them,
    and F is the diagonal of the Fisher information that it computes. How tasks add up is the
    mode:

        separate: each task keeps its own theta* and F
        sum:      F + F_new,           theta* of the newest task
        online:   decay F + F_new,     theta* of the newest task
        average:  (F + F_new) / 2,     theta* of the newest task: older tasks fade by half

    Schwarz et al. weigh the online penalty by the decay once more: multiply strength by it.

    With ``proximal=True`` the gradient is 0, and after each update of the optimizer the
    parameters move to the exact minimiser of the penalty plus a plain gradient step's distance,
    (theta + lr strength sum_k F_k theta*_k) / (1 + lr strength sum_k F_k), which is stable for
    every strength. Without it, plain gradient steps diverge where lr strength F > 2: see
    ``largest_stable_learning_rate``.

    Args:
        strength: >= 0. It depends on the scale of the Fisher information, so choose it on dev
            data, best with a Fisher that is ``normalized("mean")``: for InfoNCE that was 0.02 in
            ``examples/continual_learning.py``. Default: 2000, that of the older
            JavaScript library for a mean squared error, whose Fisher is small; with InfoNCE's it
            lets next to nothing be learned.
        mode: "separate", "sum", "online" or "average". Default: "separate", as Kirkpatrick et al.
        decay: what is left of the older Fisher in the mode "online", 0 to 1. Default: 1, which
            is the mode "sum".
        proximal: take the step above in place of a gradient. Default: False.
        path: what ``save`` wrote, whose tasks are taken, and only these: the other fields are as
            they are given here. It is how a run.toml names them; relative to the working folder.
            Read at once, where no tasks are given. Default: None, no file.
        tasks: what was learned so far; ``learned`` adds to it. Default: none.

    Shapes: parameters of any shapes; a task's arrays have the shapes of its parameters.

    Edges: without tasks the penalty is 0, and a run warns; a file without tasks is an
    ArgumentError. A parameter that no task knows is free. One that a task knows and that is
    missing, or has another shape, is an ArgumentError: nothing would be protected. Arrays of tasks
    are NumPy, and are brought to the parameters' library, device and dtype, once by ``begin``. An
    entry with F = 0 is free.

    Cost: O(p) time and 2 p numbers a task for p parameters; the other modes hold one task.

    References: Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3; Huszar 2018, arXiv 1712.03847
    (sum); Schwarz et al. 2018, arXiv 1805.06370, section 3.2 (online).

    >>> import numpy as np
    >>> ewc = EWC(strength=2.0).learned({"W": np.zeros(2)}, {"W": np.array([1.0, 3.0])})
    >>> float(ewc.value_and_grad({"W": np.ones(2)}).value)
    4.0
    """

    strength: float | Scheduler = 2000.0
    mode: str = "separate"
    decay: float | Scheduler = 1.0
    proximal: bool = False
    path: str | None = None
    tasks: tuple[Task, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.flag(self, "proximal")
        checks.number(self, "strength", minimum=0)
        checks.choice(self, "mode", MODES)
        checks.number(self, "decay", minimum=0, maximum=1)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        for task in self.tasks:
            if not isinstance(task, Task):
                raise ArgumentTypeError(
                    f"EWC.tasks takes what EWC.learned made, got {type(task).__name__}"
                )
        if self.path is not None:
            object.__setattr__(self, "path", os.fspath(self.path))
            if not self.tasks:  # a copy of one that has read its file does not read it again
                object.__setattr__(self, "tasks", _tasks_of(self.path))

    @property
    def tasks_learned(self) -> int:
        """How many tasks are protected, merged ones included."""
        return sum(task.count for task in self.tasks)

    def learned(self, params: Params, fisher: Fisher | Params) -> EWC:
        """Return this regularizer with one more task: parameters after it, and their Fisher.

        Parameters that the Fisher lacks are not protected.
        """
        diagonal = fisher.diagonal if isinstance(fisher, Fisher) else fisher
        for name, f in diagonal.items():
            if name not in params:
                raise ArgumentError(
                    f"fisher has {name!r}, which is no parameter.{nearest(name, params)}"
                )
            _same_shape(f"the fisher of {name!r}", f, params[name])
        if not diagonal:
            raise ArgumentError("fisher is empty, so there is nothing to protect")
        new = _checked(
            Task({name: _copy(params[name]) for name in diagonal}, _copies(diagonal)), "fisher"
        )
        if not any(bool((f > 0).any()) for f in new.fisher.values()):
            raise ArgumentError(
                "fisher is 0 everywhere, so there is nothing to protect: were the examples all of "
                "weight 0, or without a positive?"
            )
        if self.mode == "separate" or not self.tasks:
            return replace(self, tasks=(*self.tasks, new), path=None)
        if len(self.tasks) > 1:
            raise ArgumentError(
                f"EWC(mode={self.mode!r}) holds one merged task, but this has {len(self.tasks)}: "
                "they were learned in the mode 'separate', which must stay"
            )
        (old,) = self.tasks
        older = _copies(old.fisher)  # of one that a run began they are on its device
        keep, take = {
            "sum": (1.0, 1.0),
            "online": (plain(self.decay), 1.0),
            "average": (0.5, 0.5),
        }[self.mode]
        both = {name: take * f for name, f in new.fisher.items()}
        for name, f in older.items():
            if name in both:
                _same_shape(f"the parameter {name!r}", both[name], f)
            both[name] = keep * f + both[name] if name in both else keep * f
        merged = Task({**_copies(old.center), **new.center}, both, old.count + 1)
        return replace(self, tasks=(_checked(merged, "the merged fisher"),), path=None)

    def begin(self, params: Mapping[str, Array]) -> EWC:
        """Return the same with the tasks' arrays beside the parameters, once for a run.

        Warns where there are no tasks, so that a run that was to be protected is seen not to be.
        """
        if not self.tasks:
            warnings.warn(
                "EWC has no tasks, so this run is not protected: take one in with "
                "EWC.learned(params, fisher), or give the path of what EWC.save wrote",
                stacklevel=2,
            )
        return replace(self, tasks=tuple(_beside(task, params) for task in self.tasks))

    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the penalty at parameters (by name) and its gradient.

        With proximal=True the value is the same and the gradients are 0.
        """
        require_resolved(self)
        strength = plain(self.strength)
        xp = namespace(**arrays)
        first = next(iter(arrays.values()))
        value = xp.zeros((), dtype=first.dtype, device=device_of(first))
        grads = {name: xp.zeros_like(p) for name, p in arrays.items()}
        for task in self.tasks:
            here = _beside(task, arrays)
            for name, center in here.center.items():
                away = arrays[name] - center
                pull = here.fisher[name] * away
                value = value + (0.5 * strength) * xp.sum(pull * away)
                if not self.proximal:
                    grads[name] = grads[name] + strength * pull
        return LossResult(value, grads)

    def after_step(self, params: Params, learning_rates: Mapping[str, float]) -> Params:
        """Return the parameters after the proximal step, or as they are without proximal=True."""
        if not self.proximal or not self.tasks:
            return params
        require_resolved(self)
        strength = plain(self.strength)
        above = dict(params)
        below: dict[str, Array] = {}
        for task in self.tasks:
            here = _beside(task, params)
            for name, center in here.center.items():
                weight = float(learning_rates[name]) * strength * here.fisher[name]
                above[name] = above[name] + weight * center
                below[name] = below[name] + weight if name in below else 1 + weight
        return {name: x / below[name] if name in below else x for name, x in above.items()}

    def largest_stable_learning_rate(self) -> float:
        """Return 2 / (strength max F): above it, plain gradient steps on the penalty alone
        diverge. Infinite where nothing is protected; proximal steps have no such limit.
        """
        require_resolved(self)
        total: dict[str, Any] = {}
        for task in self.tasks:
            for name, f in task.fisher.items():
                total[name] = total.get(name, 0.0) + np.asarray(to_numpy(f), np.float64)
        most = max((float(f.max(initial=0.0)) for f in total.values()), default=0.0)
        most *= plain(self.strength)
        return 2 / most if most > 0 else float("inf")

    # Files -------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all to one file: ``path`` if it ends in .safetensors, else a file in that folder.

        Loading gives every number back to the bit. A strength that is scheduled cannot be stored:
        put a number in its place, and the scheduler back after loading.
        """
        from safetensors.numpy import save

        require_resolved(self)
        tensors: dict[str, Any] = {}
        for k, task in enumerate(self.tasks):
            tensors |= {f"{k}.center.{name}": _copy(x) for name, x in task.center.items()}
            tensors |= {f"{k}.fisher.{name}": _copy(x) for name, x in task.fisher.items()}
        header = {
            "format": FORMAT,
            "version": VERSION,
            "strength": plain(self.strength),
            "mode": self.mode,
            "decay": plain(self.decay),
            "proximal": self.proximal,
            "tasks": [
                {"count": task.count, "parameters": list(task.center)} for task in self.tasks
            ],
        }
        file = _file(path)
        write_files(
            make_folder(file.parent), {file.name: save(tensors, {"coreframe": json.dumps(header)})}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EWC:
        """Return what ``save`` wrote. Raises ArtefactError that says what is wrong."""
        from safetensors import SafetensorError, safe_open

        file = _file(path)
        try:
            with safe_open(file, framework="numpy") as stored:
                text = (stored.metadata() or {}).get("coreframe")
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ArtefactError(f"there is no file {file}") from None
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ArtefactError(f"{file} cannot be read: {error}") from None
        try:
            header = json.loads(text or "null")
        except (ValueError, RecursionError) as error:
            raise ArtefactError(f"{file} is damaged: its header is no JSON: {error}") from None
        check_format(header, FORMAT, VERSION, file)
        try:
            tasks = []
            for k, told in enumerate(header["tasks"]):
                if type(told["count"]) is not int or told["count"] < 1:
                    raise ValueError(f"count {told['count']!r}")
                center, diagonal = (
                    {name: tensors.pop(f"{k}.{part}.{name}") for name in told["parameters"]}
                    for part in ("center", "fisher")
                )
                tasks.append(_checked(Task(center, diagonal, told["count"]), f"task {k}"))
            if tensors:
                raise ValueError(f"unknown arrays {sorted(tensors)}")
            if type(header["proximal"]) is not bool:
                raise ValueError(f"proximal {header['proximal']!r}")
            fields = {key: header[key] for key in ("strength", "mode", "decay", "proximal")}
            return cls(**fields, tasks=tuple(tasks))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{file} is damaged: {type(error).__name__} {error}") from None


def _tasks_of(path: str) -> tuple[Task, ...]:
    """Return the tasks in a file that ``save`` wrote; at least one."""
    try:
        tasks = EWC.load(path).tasks
    except ArtefactError as error:
        raise ArtefactError(f"EWC.path: {error}") from None
    if not tasks:
        raise ArgumentError(f"EWC.path: {_file(path)} holds no task, so nothing is protected")
    return tasks


def _file(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    return given if given.suffix == ".safetensors" else given / FILE


def _copy(x: Array) -> Any:
    """Return a NumPy copy in float32 or float64."""
    copy = np.array(to_numpy(x), order="C")
    return copy if copy.dtype in (np.float32, np.float64) else copy.astype(np.float32)


def _copies(arrays: Params) -> dict[str, Any]:
    return {name: _copy(x) for name, x in arrays.items()}


def _same_shape(what: str, x: Array, like: Array) -> None:
    if tuple(x.shape) != tuple(like.shape):
        raise ArgumentError(f"{what} must have shape {tuple(like.shape)}, got {tuple(x.shape)}")


def _checked(task: Task, what: str) -> Task:
    """Raise ArgumentError unless a task's NumPy arrays are finite, and its Fisher not negative."""
    for name, f in task.fisher.items():
        for x in (f, task.center[name]):
            if x.dtype.kind != "f" or not np.isfinite(x).all():
                raise ArgumentError(f"{what}: {name!r} has values that are NaN or infinite")
        if not (f >= 0).all():
            raise ArgumentError(f"{what}: the Fisher of {name!r} must be >= 0")
    return task


def _beside(task: Task, params: Params) -> Task:
    """Return a task with its arrays in the parameters' library, device and dtype."""
    done = True
    for name, center in task.center.items():
        if name not in params:
            raise ArgumentError(
                f"EWC protects the parameter {name!r}, which these lack: "
                f"{', '.join(params)}; it belongs to another adapter"
            )
        p = params[name]
        _same_shape(f"the parameter {name!r}", p, center)
        done = done and type(center) is type(p) and center.dtype == p.dtype
        done = done and device_of(center) == device_of(p)
    if done:
        return task

    def moved(arrays: Params) -> dict[str, Array]:
        found = {}
        for name, x in arrays.items():
            p = params[name]
            found[name] = namespace(**{name: p}).asarray(
                to_numpy(x), dtype=p.dtype, device=device_of(p)
            )
        return found

    return Task(moved(task.center), moved(task.fisher), task.count)

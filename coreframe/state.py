"""The state of a run on disk: arrays and numbers by name, in one safetensors file.

Parameters, an optimizer's state, averages: each is a flat mapping, and so is the file. What is
restored is compared by name, shape and dtype with what is expected. Nothing is matched by
position, cast, or left out in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from coreframe.backend import Array, device_of, is_array, namespace, to_numpy
from coreframe.errors import ArgumentTypeError, ArtefactError
from coreframe.storage import (
    check_format,
    checksum,
    differing,
    fingerprint,
    make_folder,
    write_files,
)

__all__ = ["load_state", "save_state"]

FORMAT = "coreframe-state"
VERSION = 1
DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip


def save_state(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    *,
    kind: str,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays and plain numbers by name into one file: whole, or not at all.

    The file is written beside its place, brought to the disk, and renamed; if anything fails the
    old file stays, and nothing else. It holds a sha256 of each array and one of all the rest.

    Args:
        path: the file; its folder is made.
        arrays: arrays of any library, and numbers (int, float or bool), by name.
        kind: what the file holds, such as "run" or "optimizer"; ``load_state`` asks for it.
        meta: what JSON can hold, for the reader. Default: nothing.

    Shapes: any, 0-d included.

    Edges: float16 and bfloat16 are kept as they are. Complex arrays, text and objects are an
        error.

    Cost: the arrays once in memory on the host.

    References: https://github.com/huggingface/safetensors, the format.

    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = folder.name + "/run.safetensors"
    >>> save_state(file, {"step": 7, "W": np.ones(2)}, kind="run", meta={"epoch": 1})
    >>> values, meta = load_state(file, kind="run", like={"step": 0, "W": np.zeros(2)})
    >>> values["step"], values["W"].tolist(), meta
    (7, [1.0, 1.0], {'epoch': 1})
    >>> folder.cleanup()
    """
    file = Path(path)
    write_files(make_folder(file.parent), {file.name: encode(arrays, kind=kind, meta=meta)})


def encode(arrays: Mapping[str, Any], *, kind: str, meta: Mapping[str, Any] | None = None) -> bytes:
    """Return the bytes that ``save_state`` writes."""
    from safetensors.numpy import save

    numbers: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, x in arrays.items():
        if type(x) in (bool, int, float):
            numbers[name] = x
        elif is_array(x):
            tensors[name] = _on_host(name, x)
        else:
            raise ArgumentTypeError(f"{name} must be an array or a number, got {type(x).__name__}")
    head = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "numbers": numbers,
        "bfloat16": [name for name in tensors if _dtype_name(arrays[name]) == "bfloat16"],
        "fortran": [name for name in tensors if _by_columns(arrays[name])],
        "arrays": {name: fingerprint(x) for name, x in tensors.items()},
        "meta": dict(meta or {}),
    }
    try:
        text = json.dumps({**head, "checksum": checksum(head)})
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"meta must be what JSON can hold: {error}") from None
    data: bytes = save(tensors, {"coreframe": text})
    return data


def load_state(
    path: str | os.PathLike[str], *, kind: str, like: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what ``save_state`` wrote; return the arrays and numbers by name, and ``meta``.

    Args:
        path: the file.
        kind: what it must hold, as given to ``save_state``.
        like: the state that is to be replaced, for example a fresh ``optimizer.init(params)``.
            Names, shapes and dtypes must be the same, and arrays come back in its libraries
            and on its devices. Default: nothing is compared, and arrays are NumPy's.

    Shapes: as stored.

    Edges: every difference is listed in one ArtefactError, with the nearest names. Nothing is
        cast; a run that is to go on in another dtype converts its state itself. NumPy has no
        bfloat16, so such a file needs ``like``.

    Cost: the file once in memory.

    References: as ``save_state``.

    >>> load_state("missing.safetensors", kind="run")
    Traceback (most recent call last):
    coreframe.errors.ArtefactError: missing.safetensors cannot be read: No such file or directory
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from None
    return decode(data, path, kind=kind, like=like)


def decode(
    data: bytes,
    path: str | os.PathLike[str],
    *,
    kind: str,
    like: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``load_state`` returns for the bytes of a file; ``path`` is for errors."""
    import numpy as np

    head, tensors = _read(data, Path(path))
    if head["kind"] != kind:
        raise ArtefactError(f"{path} holds the state of kind {head['kind']!r}, not {kind!r}")
    numbers, halves = head["numbers"], set(head["bfloat16"])
    columns = set(head.get("fortran", ()))
    if like is None:
        if halves:
            raise ArtefactError(
                f"{path} holds {min(halves)} in bfloat16, which NumPy has not; give like= with "
                "arrays of a library that has it"
            )
        for name in columns & tensors.keys():
            tensors[name] = np.asfortranarray(tensors[name])
        return {**numbers, **tensors}, head["meta"]
    dtypes = {n: "bfloat16" if n in halves else _dtype_name(x) for n, x in tensors.items()}
    if problems := _differences(like, numbers, tensors, dtypes):
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ArtefactError(f"{path} does not fit what is to be restored:\n{listed}")
    values = {
        name: _placed(tensors[name], x, name in columns) if name in tensors else numbers[name]
        for name, x in like.items()
    }
    return values, head["meta"]


def _dtype_name(x: Array) -> str:
    """Return a dtype's name, the same for all libraries: ``torch.float32`` is ``float32``."""
    return str(x.dtype).rpartition(".")[-1]


def _on_host(name: str, x: Array) -> Any:
    """Return an array as NumPy's; a bfloat16, which NumPy has not, as its bits in uint16."""
    import numpy as np

    dtype = _dtype_name(x)
    if dtype not in DTYPES:
        raise ArgumentTypeError(
            f"{name} is of dtype {x.dtype}, which a state cannot hold; it holds {', '.join(DTYPES)}"
        )
    if dtype == "bfloat16":
        # It is the upper half of a float32, so nothing is lost on the way.
        xp = namespace(**{name: x})
        wide = to_numpy(xp.astype(x, xp.float32))
        return np.asarray(wide.view(np.uint32) >> 16, np.uint16, order="C")
    return np.array(to_numpy(x), order="C")


def _by_columns(x: Array) -> bool:
    """Say whether NumPy holds an array column by column: products then round in another order."""
    flags = getattr(x, "flags", None)
    return bool(getattr(flags, "f_contiguous", False) and not flags.c_contiguous)  # type: ignore[union-attr]


def _placed(x: Any, like: Array, by_columns: bool) -> Array:
    """Return a stored array in the library, dtype and device of another."""
    import numpy as np

    xp = namespace(like=like)
    if by_columns:
        x = np.asfortranarray(x)
    if _dtype_name(like) == "bfloat16":
        x = (x.astype(np.uint32) << 16).view(np.float32)
        wide = xp.asarray(x, dtype=xp.float32, device=device_of(like))
        return xp.astype(wide, like.dtype)
    return xp.asarray(x, dtype=like.dtype, device=device_of(like))


KEYS = {"format": str, "version": int, "kind": str, "numbers": dict, "bfloat16": list,
        "meta": dict}  # fmt: skip
LATER = {"fortran": list, "arrays": dict, "checksum": str}
"""What files have since they hold hashes: all of it, or none."""


def _read(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the arrays of a file, once every hash is found right."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = {name: np.array(x) for name, x in load(data).items()}
        length = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["coreframe"])
    except KeyError:
        raise ArtefactError(f"{path} is not of the format {FORMAT!r}") from None
    except (ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None
    head = check_format(head, FORMAT, VERSION, path)
    hashed = any(key in head for key in LATER)
    wanted = {**KEYS, **LATER} if hashed else KEYS
    if wrong := [key for key, kind in wanted.items() if not isinstance(head.get(key), kind)]:
        raise ArtefactError(f"{path} is damaged: its header has no {wrong[0]}")
    if unknown := [key for key in head if key not in wanted]:
        raise ArtefactError(f"{path} is damaged: its header has {unknown[0]!r}")
    if hashed:
        if head.pop("checksum") != checksum(head):
            raise ArtefactError(f"{path} is damaged: its header is not that which was stored")
        for name, reason in differing(tensors, head["arrays"]):
            raise ArtefactError(f"{path} is damaged: the array {name!r}: {reason}")
    return head, tensors


def _differences(
    like: Mapping[str, Any],
    numbers: Mapping[str, Any],
    tensors: Mapping[str, Any],
    dtypes: Mapping[str, str],
) -> list[str]:
    """Return a line for each name that is missing, unknown or of another kind."""

    def words(name: str) -> str:
        if name in numbers:
            return f"a number ({type(numbers[name]).__name__})"
        return f"{dtypes[name]} {tensors[name].shape}"

    problems = []
    unknown = [name for name in (*numbers, *tensors) if name not in like]
    for name, x in like.items():
        if is_array(x):
            wanted = f"{_dtype_name(x)} {tuple(x.shape)}"
        else:
            wanted = f"a number ({type(x).__name__})"
        if name not in numbers and name not in tensors:
            close = get_close_matches(name, unknown, n=1)
            problems.append(f"{name} is missing" + (f"; there is {close[0]}" if close else ""))
        elif words(name) != wanted:
            problems.append(f"{name} is {words(name)} in the file, must be {wanted}")
    return problems + [f"{name} is unknown" for name in unknown]

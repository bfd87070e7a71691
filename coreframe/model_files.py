"""Models: which files one is made of, which a cache of its vectors depends on, and its loading."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from coreframe.errors import EmbedderError
from coreframe.process_state import kept


def identity(model: str, revision: str | None = None) -> str | None:
    """Return what tells one version of a model from another, without loading it.

    A folder: the hash of its files. A name of the Hugging Face hub: the commit that is on this
    machine, None if it is not here yet.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        stamps = tuple(
            (str(path), path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
        return _hash(str(folder), stamps)
    return _commit(model, revision)


@lru_cache(maxsize=16)
def _hash(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, size, _ in stamps:
        digest.update(f"{Path(name).relative_to(folder).as_posix()}\0{size}\0".encode())
        with open(name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}"


def _commit(model: str, revision: str | None) -> str | None:
    for file in ("modules.json", "config.json"):
        if path := local_file(model, file, revision):
            parts = path.parts
            return f"commit:{parts[parts.index('snapshots') + 1]}"
    return None


def local_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """Return where a file of a model is on this machine, or None."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(model, name, revision=revision)
    except ValueError:  # no name of the hub
        return None
    return Path(found) if isinstance(found, str) else None


def read_json(model: str, name: str, revision: str | None = None) -> Any:
    """Return what a JSON file of a model holds; None if it is not here or not readable."""
    path = local_file(model, name, revision)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def version(package: str) -> str:
    """Return the version of an installed package, or what says that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def not_loaded(embedder: str, model: str, error: BaseException) -> EmbedderError:
    """Return the error for a model that cannot be loaded."""
    first = " ".join(str(error).split())[:300]
    return EmbedderError(
        f"{embedder} cannot load the model {model!r}: {first or type(error).__name__}. It must be "
        "a folder, or a name of the Hugging Face hub that is on this machine or can be fetched"
    )


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Put back what a library changes for the whole process while it is imported: the handlers
    and level of logging, filters of warnings, numbers of threads.
    """
    with kept([]), warnings.catch_warnings():
        yield


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers, where it is loaded, from drawing progress bars on stderr while a model is
    read; the bar of a download, which may take long, stays.
    """
    set_hook = getattr(sys.modules.get("transformers.utils.logging"), "set_tqdm_hook", None)
    if set_hook is None:  # before version 5, which reads weights without a bar
        yield
        return
    before = set_hook(lambda make, args, kwargs: make(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        set_hook(before)

"""Runs on disk: what ``write_run`` left, read back and checked, and what the next run needs of it.

``environment.json`` says how the data of a run can be read again: its ``sources`` (paths relative
to the folder, with a hash of each file) and ``kept``, the sets that must not be forgotten. So a run
that goes on from a run finds the test queries of all that came before, as long as the files are
where they were and hold what they held.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coreframe import config as configuration
from coreframe import demo
from coreframe.artefact import TrainedAdapter, load
from coreframe.backend import to_numpy
from coreframe.config import DataSettings, RunConfig
from coreframe.data.loading import Loaded, load_pairs
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import row_codes
from coreframe.data.splits import split_pairs
from coreframe.errors import (
    ArgumentError,
    ArtefactError,
    ConfigError,
    CoreframeError,
    DataError,
)
from coreframe.forgetting import Earlier, Kept
from coreframe.learned import FILE as LEARNED
from coreframe.learned import Learned
from coreframe.outputs import hash_file, hash_texts

__all__ = ["StoredRun", "read_run"]

SPLIT, WHOLE = "split", "whole"
"""How a kept set is taken: the dev and test parts of a run's own data, or all of a file."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredRun:
    """The folder of a run, read."""

    folder: Path
    adapter: TrainedAdapter
    """What was promoted; the identity, or what was there before, where the gate stayed closed."""
    config: RunConfig
    config_text: str
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    learned: Learned | None
    """What the next run goes on from; None in the folder of an older version."""

    @property
    def promoted(self) -> str:
        return str(self.metrics["promoted"])

    @property
    def history(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in _text(self.folder, "metrics.jsonl").splitlines()]


def read_run(folder: str | os.PathLike[str]) -> StoredRun:
    """Read the folder of a run, and check it.

    Args:
        folder: what ``coreframe train`` wrote.

    Shapes: the adapter takes (n, d).

    Edges: a folder that is no run, is damaged, needs a plugin that is not installed, or comes from
    another version raises ArtefactError, which names the file and what is wrong. The folder of a
    version before ``learned.safetensors`` is read, and cannot be gone on from.

    Cost: its files, but for the report and the lists in ``eval/``.

    References: our own.

    >>> read_run("runs/none")
    Traceback (most recent call last):
    coreframe.errors.ArtefactError: runs/none is not there; ...
    """
    path = Path(folder)
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise ArtefactError(f"{path} is {what}; a run is the folder that coreframe train writes")
    needed = ("config.json", "model.safetensors", "run.toml", "metrics.json", "environment.json")
    if missing := [name for name in needed if not (path / name).is_file()]:
        if {"config.json", "model.safetensors"} & set(missing):
            raise ArtefactError(f"{path} is no run: {missing[0]} is missing")
        raise ArtefactError(
            f"{path} holds an adapter, but no run: {missing[0]} is missing. coreframe.load reads "
            "the adapter; coreframe train writes a run"
        )
    adapter = load(path)
    text = _text(path, "run.toml")
    try:
        config = configuration.read(path / "run.toml")
    except ConfigError as error:
        raise ArtefactError(
            f"{path / 'run.toml'} cannot be used here, so the run cannot be read; it may need a "
            f"plugin, or come from another version:\n{error}"
        ) from None
    metrics, environment = (_object(path, name) for name in ("metrics.json", "environment.json"))
    for key in ("promoted", "kept", "gate"):
        if key not in metrics:
            raise ArtefactError(f"{path / 'metrics.json'} is damaged: it has no {key!r}")
    return StoredRun(
        folder=path,
        adapter=adapter,
        config=config,
        config_text=text,
        metrics=metrics,
        environment=environment,
        learned=Learned.load(path / LEARNED) if (path / LEARNED).exists() else None,
    )


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{folder / name} cannot be read: {error}") from None


def _object(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(_text(folder, name))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{folder / name} is damaged: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ArtefactError(f"{folder / name} is damaged: no object, but {type(found).__name__}")
    return found


# Where data comes from ------------------------------------------------------------------------


def describe_sources(
    folder: Path, hashes: Mapping[str, str], **given: Path | Sequence[Path] | None
) -> dict[str, Any]:
    """Return how data was named (data=, queries=, ...) such that it can be read again.

    ``hashes`` are of all files that were read, by path. Paths are put down relative to the run's
    folder, so that a project may move as a whole.
    """

    def put(path: Path) -> str:
        try:
            return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
        except ValueError:  # another drive
            return path.absolute().as_posix()

    def named(value: Any) -> Any:
        if value is None:
            return None
        return put(value) if isinstance(value, Path) else [put(path) for path in value]

    return {
        **{key: named(value) for key, value in given.items()},
        "files": {put(Path(path)): digest for path, digest in hashes.items()},
    }


def of_demo(pairs: Pairs) -> dict[str, Any]:
    """Return the sources of the demo's data, which is no file."""
    return {"demo": hash_texts([*(pairs.query_texts or ()), *(pairs.document_texts or ())])}


def _changed(folder: Path, sources: Mapping[str, Any]) -> str:
    """Say why data cannot be read as it was, or nothing."""
    for name, wanted in sources["files"].items():
        path = folder / name
        if not path.exists():
            return f"{path} is not there any more"
        if hash_file(path) != wanted:
            return f"{path} has changed since"
    return ""


# What must not be forgotten -------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Remembered:
    """The kept sets of a run, how each can be read again, and what is to be told."""

    kept: tuple[Kept, ...]
    entries: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def remember(
    stored: StoredRun,
    evaluations: Sequence[str],
    config: RunConfig,
    folder: Path,
) -> Remembered:
    """Read all that must not be forgotten: the sets that the stored run kept, its own test
    queries, and files that are given.

    Args:
        stored: the run to go on from.
        evaluations: each a path as ``train`` takes it, or FILE,QUERIES,DOCUMENTS with vectors.
        config: of the new run; its embedder makes the vectors.
        folder: where the new run will be written.
    """
    entries: list[Mapping[str, Any]] = []
    kept: list[Kept] = []
    notes: list[str] = []
    old = [*stored.environment.get("kept", ())]
    if (sources := stored.environment.get("sources")) is not None:
        name = f"{stored.folder.resolve().name}: test"
        seed = stored.config.train.seed
        own = {"name": name, "take": SPLIT, "sources": sources, "seed": seed}
        old.append(own | {"settings": _plain(stored.config.data)})
    else:
        notes.append(f"kept    {stored.folder} does not say where its data is, so its test queries "
                     "are not kept")  # fmt: skip
    for entry in old:
        try:
            found, why = _read_entry(entry, stored.folder, config), ""
        except (CoreframeError, KeyError, TypeError) as error:
            found, why = None, str(error)
        if found is None:
            notes.append(f"kept    {entry.get('name')} is not measured: {why}")
            continue
        kept.append(found)
        entries.append({**entry, "sources": _moved_to(folder, stored.folder, entry["sources"])})
    for given in evaluations:
        one, entry = _read_given(given, config, folder)
        if any(entry["sources"] == e["sources"] for e in entries):
            continue  # kept already
        kept.append(one)
        entries.append(entry)
    names: dict[str, int] = {}
    for i, one in enumerate(kept):
        names[one.name] = names.get(one.name, 0) + 1
        if names[one.name] > 1:
            kept[i] = replace(one, name=f"{one.name} ({names[one.name]})")
        parts = "" if one.dev is None else f", {len(one.dev):,} more choose the strength"
        notes.append(f"kept    {kept[i].name}: {len(one.test):,} queries{parts}")
    return Remembered(kept=tuple(kept), entries=tuple(entries), notes=tuple(notes))


def _read_entry(entry: Mapping[str, Any], folder: Path, config: RunConfig) -> Kept:
    sources = entry["sources"]
    settings = replace(config, data=DataSettings(**entry["settings"]))
    if sources.get("demo"):
        pairs = demo.pairs(config.embedder)
        if of_demo(pairs) != sources:
            raise ArgumentError("the package emoji has other names now")
        loaded = Loaded(pairs, (), (), None)
    else:
        if why := _changed(folder, sources):
            raise ArgumentError(why)
        loaded = load_pairs(
            [folder / path for path in sources["data"]],
            **{
                key: None if sources.get(key) is None else folder / sources[key]
                for key in ("queries", "documents", "corpus")
            },
            config=settings,
        )
    return _taken(entry["name"], entry["take"], loaded, settings.data, entry["seed"])


def _read_given(given: str, config: RunConfig, folder: Path) -> tuple[Kept, dict[str, Any]]:
    """Read FILE, or FILE,QUERIES,DOCUMENTS."""
    parts = [Path(part) for part in given.split(",")]
    if len(parts) not in (1, 3):
        raise ArgumentError(f"--keep takes FILE or FILE,QUERIES,DOCUMENTS, got {given!r}")
    data, queries, documents = (*parts, None, None)[:3]
    loaded = load_pairs([data], queries=queries, documents=documents, config=config)
    assert data is not None
    hashes = {str(path): hash_file(path) for path in loaded.files}
    sources = describe_sources(folder, hashes, data=[data], queries=queries, documents=documents)
    seed = config.train.seed
    entry = {"name": data.name, "take": WHOLE, "sources": sources, "seed": seed}
    kept = _taken(data.name, WHOLE, loaded, config.data, seed)
    return kept, entry | {"settings": _plain(config.data)}


def _taken(name: str, take: str, loaded: Loaded, settings: DataSettings, seed: int) -> Kept:
    if take == SPLIT:
        split = split_pairs(loaded, settings, seed=seed)
        return Kept(name=name, test=split.test, dev=split.dev)
    if loaded.parts is not None and (loaded.parts == 2).any():
        dev = loaded.part("dev") if (loaded.parts == 1).any() else None
        return Kept(name=name, test=loaded.part("test"), dev=dev)
    return Kept.of(name, loaded.pairs, seed=seed)


def _plain(settings: DataSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if value is not None}


def _moved_to(folder: Path, old: Path, sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return sources with their paths relative to another folder."""
    if sources.get("demo"):
        return dict(sources)

    def moved(path: str) -> str:
        return Path(os.path.relpath((old / path).absolute(), folder.absolute())).as_posix()

    single = {
        key: moved(sources[key])
        for key in ("queries", "documents", "corpus")
        if sources.get(key) is not None
    }
    files = {moved(path): digest for path, digest in sources["files"].items()}
    return {"data": [moved(path) for path in sources["data"]], **single, "files": files}


# Going on -------------------------------------------------------------------------------------


def go_on(
    stored: StoredRun,
    config: RunConfig,
    pairs: Pairs,
    *,
    base_model: str | None,
    kept: Sequence[Kept] = (),
) -> Earlier:
    """Return what a run goes on from, or raise ArgumentError that lists what does not fit."""
    if stored.learned is None:
        raise ArgumentError(
            f"{stored.folder} has no {LEARNED}, so there is nothing to go on from: it was written "
            "by an older version; train it again"
        )
    old, width, problems = stored.config, int(pairs.queries.shape[1]), []
    if width != stored.adapter.dimensions:
        problems.append(f"its vectors have width {stored.adapter.dimensions}, the new ones {width}")
    known = stored.adapter.base_model
    if known and base_model and known != base_model:
        problems.append(f"its vectors come from {known}, the new ones from {base_model}")
    for what, before, now in (
        ("embedder", old.embedder, config.embedder),
        ("adapter", old.adapter, config.adapter),
        ("train.side", old.train.side, config.train.side),
    ):
        if before != now:
            problems.append(f"its {what} is {before!r}, the new one {now!r}")
    if not problems and (other := _other_loss(stored.learned, config, width)):
        problems.append(other)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ArgumentError(
            f"{stored.folder} cannot be continued like this:\n{listed}\n"
            "Leave -c and --set away to take its settings, or train anew"
        )
    return Earlier(
        adapter=stored.adapter,
        learned=stored.learned,
        kept=tuple(kept),
        name=str(stored.folder),
    )


def _other_loss(learned: Learned, config: RunConfig, width: int) -> str:
    from coreframe.random import stream

    now = set(config.loss.init(stream(0, "loss"), width))
    before = {name.removeprefix("loss.") for name in learned.params if name.startswith("loss.")}
    if now == before:
        return ""
    told = ", ".join(sorted(before)) or "no parameters"
    return f"its loss has {told}, the new one {', '.join(sorted(now)) or 'no parameters'}"


def without_kept(pairs: Pairs, kept: Sequence[Kept]) -> tuple[Pairs, int]:
    """Leave out of what is learned from, or chosen by, what stands in a kept test set: queries of
    equal text, or vector.

    Returns the rest and how many were left out; else the forgetting table would flatter.
    """
    seen = np.zeros(len(pairs), dtype=bool)
    for one in kept:
        if pairs.query_texts is not None and one.test.query_texts is not None:
            known = set(one.test.query_texts)
            seen |= np.array([text in known for text in pairs.query_texts])
        else:
            ours, theirs = row_codes(to_numpy(pairs.queries), to_numpy(one.test.queries))
            seen |= np.isin(ours, theirs)
    if seen.all():
        raise DataError(
            f"all {len(pairs):,} queries to train on, or to choose by, stand in kept sets: there "
            "is nothing new to go on with"
        )
    return (pairs.take(~seen), int(seen.sum())) if seen.any() else (pairs, 0)

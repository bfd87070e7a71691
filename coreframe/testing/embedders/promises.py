"""What an embedder promises, and how each promise is checked."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe.embedder import Embedder, Side, embed_side
from coreframe.errors import ArgumentTypeError, CoreframeError
from coreframe.testing import checks, kit
from coreframe.testing.checks import Check, NotApplicable, Promise, explain
from coreframe.testing.embedders.subject import (
    LONG,
    METHODS,
    OTHERS,
    SIDES,
    TEXTS,
    TOLERANCE,
    Subject,
    apart,
    embed,
    fingerprint,
)
from coreframe.testing.field_checks import FIELDS
from coreframe.testing.shared import SHARED

SECRET = re.compile(r"(api_?key|token|secret|password)$", re.IGNORECASE)
MODEL = re.compile(r"(^|_)(model|revision|checkpoint)(_name|_id)?$")

PROMISES: list[Promise] = [*SHARED, *FIELDS]


def check_embedder(embedder: Embedder) -> list[Check]:
    """Check all promises of an embedder on a few short texts and a long one.

    What the embedder needs must be there: its package, its model, its service.
    """
    return KIT.check(embedder)


# Rows ---------------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Each side returns a NumPy float32 array (n, d), one finite row a text, all of one width.",
    fix="End with np.asarray(rows, dtype=np.float32); where a text has no vector, such as an empty "
    "one, leave a row of zeros.",
    needs=("usable",),
)
def rows(subject: Subject) -> Iterator[str]:
    widths = set()
    for side, x in subject.rows.items():
        name = METHODS[side]
        if not isinstance(x, np.ndarray):
            yield f"{name} returns {type(x).__name__}"
        elif x.dtype != np.float32 or x.ndim != 2 or len(x) != len(TEXTS) or not x.shape[1]:
            yield f"{name} returns {x.dtype} {x.shape}, expected float32 ({len(TEXTS)}, d)"
        elif not np.isfinite(x).all():
            at = int(np.argmin(np.isfinite(x).all(axis=1)))
            yield f"{name}: the row of {TEXTS[at]!r} is not finite"
        else:
            widths.add(x.shape[1])
    if len(widths) > 1:
        yield f"rows are {' and '.join(map(str, sorted(widths)))} numbers long"


@checks.promise(
    PROMISES,
    "A text has the same row alone, in a batch, and in any order.",
    fix="Make each row from its own text alone; sort back what was sorted by length, and use no "
    "number of the batch.",
    needs=("rows",),
)
def texts_are_independent(subject: Subject) -> Iterator[str]:
    for side, x in subject.rows.items():
        name = METHODS[side]
        if (gap := apart(x[4], x[0])) > TOLERANCE:
            yield f"{name}: the same text twice in a batch has rows that differ by {gap:.1g}"
        back = embed(subject.embedder, TEXTS[::-1], side)[::-1]
        if (gap := apart(back, x)) > TOLERANCE:
            yield f"{name}: in another order rows differ by {gap:.1g}"
        for text, row in zip(TEXTS, x, strict=True):
            if not text:
                continue  # alone nobody may know the width
            if (gap := apart(embed(subject.embedder, [text], side), row[None])) > TOLERANCE:
                yield f"{name}: alone {text!r} has a row that differs by {gap:.1g}"


@checks.promise(
    PROMISES,
    "No text gives no row: float32 (0, d).",
    fix="Return np.zeros((0, d), np.float32) where there are no texts.",
    needs=("rows",),
)
def no_texts(subject: Subject) -> Iterator[str]:
    for side in SIDES:
        x = embed(subject.embedder, [], side)
        if np.ndim(x) != 2 or len(x) or x.dtype != np.float32:
            yield f"{METHODS[side]}([]) returns {getattr(x, 'dtype', '')} {np.shape(x)}"


@checks.promise(
    PROMISES,
    "Any text has a finite row: empty, of spaces, in any script, with odd characters, very long.",
    fix="Give texts to the model as it wants them: cut them to its limit, leave empty ones out and "
    "their rows zero.",
    needs=("rows",),
)
def any_text(subject: Subject) -> Iterator[str]:
    plain = subject.rows[None][:1]
    for name, text in {
        "of spaces": " \t\n ",
        "of one character": "x",
        "with a zero byte": "before\0after",
        "of combining characters": "e\u0301\u0323" * 5,
        "of emoji": "👩‍👩‍👧 🏳️‍🌈",
        "from right to left": "مرحبا \u202eabc",
        f"of {len(LONG):,} characters": LONG,
    }.items():
        try:
            x = embed(subject.embedder, [TEXTS[0], text])
        except CoreframeError as error:
            yield f"a text {name}: {error}"
            continue
        if x.shape != (2, plain.shape[1]) or not np.isfinite(x).all():
            yield f"a text {name}: the rows are of {x.dtype} {x.shape}, or not finite"
        elif (gap := apart(x[:1], plain)) > TOLERANCE:
            yield f"beside a text {name} the row of another differs by {gap:.1g}"


@checks.promise(
    PROMISES,
    "Rows are the caller's: what is written into them changes no later ones.",
    fix="Return a copy of what is kept.",
    needs=("rows",),
)
def own_rows(subject: Subject) -> Iterator[str]:
    for side in SIDES:
        first = embed(subject.embedder, TEXTS, side)
        if not first.flags.writeable:
            yield f"{METHODS[side]} returns an array that cannot be written to"
            continue
        kept = first.copy()
        first[...] = 7.0
        if apart(embed(subject.embedder, TEXTS, side), kept) > TOLERANCE:
            yield f"{METHODS[side]}: later rows change with what is written into earlier ones"


# Texts --------------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "The list of texts is not changed; a tuple will do.",
    fix="Work on a copy: texts = list(texts).",
    needs=("rows",),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for side, x in subject.rows.items():
        texts = list(TEXTS)
        embed_side(subject.embedder, texts, side)
        if texts != list(TEXTS):
            yield f"{METHODS[side]} changes the list of texts"
        if apart(embed_side(subject.embedder, TEXTS, side), x) > TOLERANCE:
            yield f"{METHODS[side]}: a tuple of texts has other rows than a list"


@checks.promise(
    PROMISES,
    "One string, or a list with something else than texts, is an ArgumentTypeError that says so.",
    fix="Call coreframe.embedder.check_texts(texts) first.",
    needs=("rows",),
)
def other_inputs(subject: Subject) -> Iterator[str]:
    for side in SIDES:
        for wrong in ("a blue book", ["a blue book", None], ["a", 3.0]):
            try:
                embed_side(subject.embedder, wrong, side)  # type: ignore[arg-type]
            except ArgumentTypeError:
                continue
            except Exception as error:
                yield f"{METHODS[side]}({wrong!r}) raises {explain(error)}"
            else:
                yield f"{METHODS[side]}({wrong!r}) is taken without a word"


@checks.promise(
    PROMISES,
    "tells_sides is False only where a text has one row, whichever side it is on.",
    fix="Override embed_queries or embed_documents, and not tells_sides; give other fingerprints "
    "to sides with other prompts: fingerprint(side) is asked for 'query', 'document' and None.",
    needs=("rows",),
)
def sides(subject: Subject) -> Iterator[str]:
    left, right = subject.rows["query"], subject.rows["document"]
    tells = subject.embedder.tells_sides
    if not isinstance(tells, bool):
        yield f"tells_sides is {tells!r}"
    if not tells and (gap := apart(right, left)) > TOLERANCE:
        yield f"tells_sides is False, but queries and documents differ by {gap:.1g}"
    prints = {side: fingerprint(subject.embedder, side) for side in SIDES}
    pairs: tuple[tuple[Side | None, Side], ...] = (
        (None, "query"), (None, "document"), ("query", "document"),
    )  # fmt: skip
    for one, two in pairs:
        gap = apart(subject.rows[two], subject.rows[one])
        if prints[one] is not None and prints[one] == prints[two] and gap > TOLERANCE:
            yield (
                f"{METHODS[one]} and {METHODS[two]} have one fingerprint, and rows that differ by "
                f"{gap:.1g}"
            )


# What it is known by ------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "fingerprint is None, or a mapping of what JSON can hold, the same in every process.",
    fix="Return a dict of texts and numbers: model, version, prompt, width; no object, no id(), no "
    "time.",
)
def plain_fingerprint(subject: Subject) -> Iterator[str]:
    for side in SIDES:
        found = fingerprint(subject.embedder, side)
        if found is None:
            continue
        try:
            again = json.loads(json.dumps(found, allow_nan=False))
        except (TypeError, ValueError) as error:
            yield f"fingerprint({side!r}) is {found!r}: {error}"
            continue
        if again != found:
            yield f"fingerprint({side!r}) is {found!r}, which JSON reads back as {again!r}"
        if (other := fingerprint(copy.deepcopy(subject.embedder), side)) != found:
            yield f"fingerprint({side!r}) of a copy is {other!r}, and not {found!r}"
    name = subject.embedder.base_model
    if not isinstance(name, str) or not name.strip():
        yield f"base_model is {name!r}, and no name"


@checks.promise(
    PROMISES,
    "A field that changes vectors changes the fingerprint.",
    fix="Put every field that the vectors depend on into the mapping: otherwise the cache on disk "
    "gives those of another setting.",
    needs=("rows", "plain_fingerprint"),
)
def telling_fingerprint(subject: Subject) -> Iterator[str]:
    if fingerprint(subject.embedder) is None:
        raise NotApplicable("it has no fingerprint, and is not cached on disk")
    for name, value in changed_fields(subject.embedder):
        with contextlib.suppress(Exception):  # a value that it does not take
            other = dataclasses.replace(subject.embedder, **{name: value})  # type: ignore[type-var]
            for side, x in subject.rows.items():
                y = embed(other, TEXTS, side)
                if apart(y, x) > TOLERANCE and fingerprint(other, side) == fingerprint(
                    subject.embedder, side
                ):
                    yield f"{name}={value!r} gives other rows under the same fingerprint"
                    break
    for name, value in other_models(subject.embedder):
        with contextlib.suppress(Exception):  # one whose fingerprint looks for the model
            other = dataclasses.replace(subject.embedder, **{name: value})  # type: ignore[type-var]
            if all(fingerprint(other, s) == fingerprint(subject.embedder, s) for s in SIDES):
                yield f"{name}={value!r} is another model, and the fingerprint is the same"


def other_models(embedder: Any) -> Iterator[tuple[str, str]]:
    """Yield other names of models, which are asked for nothing but their fingerprint."""
    for field in dataclasses.fields(embedder):
        value = getattr(embedder, field.name)
        if field.init and MODEL.search(field.name) and isinstance(value, str) and value:
            yield field.name, f"{value}-other"


def changed_fields(embedder: Any) -> Iterator[tuple[str, Any]]:
    """Yield other values of an embedder's fields; names and addresses stay as they are."""
    for field in dataclasses.fields(embedder):
        value, hint = getattr(embedder, field.name), str(field.type)
        if not field.init or SECRET.search(field.name):
            continue
        if isinstance(value, bool):
            yield field.name, not value
        elif isinstance(value, int):
            yield from ((field.name, other) for other in (value + 1, max(1, value // 2)))
        elif isinstance(value, float):
            yield field.name, value / 2
        elif isinstance(value, str) and value and "prompt" in field.name:
            yield field.name, f"{value}other: "
        elif value in (None, "") and "str" in hint:
            yield field.name, "query: "
        elif value is None and "int" in hint:
            yield field.name, 2
        elif isinstance(value, tuple) and all(type(x) is int for x in value):
            yield field.name, tuple(x + 1 for x in value)


@checks.promise(
    PROMISES,
    "No key of a service stands in fingerprint, base_model, configuration or repr.",
    fix="Hold the NAME of an environment variable as the field, and read the key when it is used.",
)
def secrets(subject: Subject) -> Iterator[str]:
    fields = dataclasses.fields(subject.embedder)  # type: ignore[arg-type]
    found = {f"the field {f.name}": getattr(subject.embedder, f.name) for f in fields}
    kept = {name: x for name, x in found.items() if isinstance(x, str) and SECRET.search(name)}
    yield from (f"{name} holds {'*' * 8}, which a run.toml would show" for name in kept)
    variables = {f"the variable {n}": v for n, v in os.environ.items() if SECRET.search(n)}
    shown = {
        **{f"fingerprint({side!r})": fingerprint(subject.embedder, side) for side in SIDES},
        "base_model": subject.embedder.base_model,
        "repr": subject.embedder,
    }
    for (name, key), (where, x) in (
        (one, two) for one in variables.items() for two in shown.items()
    ):
        if len(key) >= 8 and key in repr(x):
            yield f"{where} holds the value of {name}"


@checks.promise(
    PROMISES,
    "The cache on disk gives back what it gives: the same rows, without asking it again.",
    fix="See texts_are_independent: an embedder whose rows depend on the other texts of a call "
    "has fingerprint None.",
    needs=("rows", "plain_fingerprint", "sides"),
)
def cached(subject: Subject) -> Iterator[str]:
    if fingerprint(subject.embedder) is None:
        raise NotApplicable("it has no fingerprint, and is not cached on disk")
    with tempfile.TemporaryDirectory() as folder:
        for side, x in subject.rows.items():
            for when in ("new", "kept"):
                cache = DiskCache(folder)
                kept = DiskCached(embedder=subject.embedder, cache=cache, batch=2)
                if (gap := apart(embed(kept, TEXTS, side), x)) > TOLERANCE:
                    yield f"{METHODS[side]}: {when} rows of the cache differ by {gap:.1g}"
                if when == "kept" and cache.misses:
                    yield f"{METHODS[side]}: {cache.misses} texts were asked for again"


# Good manners -------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Making one asks no network; a model is loaded and a service asked when texts come.",
    fix="Check fields in __post_init__, and open nothing there.",
)
def made_offline(subject: Subject) -> Iterator[str]:
    asked: list[str] = []

    def refuse(*given: Any, **_: Any) -> Any:
        asked.append(str(given[-1] if given else ""))
        raise OSError("no network while an embedder is made")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
    ):
        try:
            dataclasses.replace(subject.embedder)  # type: ignore[type-var]
            copy.deepcopy(subject.embedder)
        except OSError:
            pass
    yield from (f"it connects to {address}" for address in asked)


@checks.promise(
    PROMISES,
    "No warning is raised.",
    fix="Guard the operation before it happens: divide by np.where(norm == 0, 1, norm).",
    needs=("rows",),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for side in SIDES:
        with checks.recorded_warnings() as caught:
            embed(subject.embedder, [*TEXTS, *OTHERS], side)
        for warning in caught:
            yield f"{METHODS[side]}: {warning.message}"


KIT = kit.Kit("embedders", Embedder, Subject, PROMISES)

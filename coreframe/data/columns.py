"""Which column of a file is what: names that are known first, then Hugging Face's rule of order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from coreframe.errors import ArgumentError, DataError, nearest

NAMES: dict[str, tuple[str, ...]] = {
    "anchor": ("anchor", "query", "input", "question", "sentence1", "text1"),
    "positive": (
        "positive", "answer", "document", "pos", "output", "positives", "sentence2", "text2",
    ),
    "negative": ("negative", "neg", "negatives", "hard_negatives"),
    "anchor_id": ("anchor_id", "query_id", "query-id"),
    "positive_id": ("positive_id", "corpus_id", "corpus-id", "document_id", "positive_ids"),
    "negative_id": ("negative_id", "negative_ids"),
    "prompt": ("prompt",),
    "group": ("group",),
    "time": ("time", "date", "timestamp"),
    "split": ("split",),
    "weight": ("weight", "quality"),
    "difficulty": ("difficulty",),
    "label": ("label", "labels", "score", "scores"),
    "positive_score": ("pos_scores",),
    "negative_score": ("neg_scores",),
    "text": ("text",),
}  # fmt: skip
"""What a column may be for, and the names by which it is known."""

VECTORS = ("anchor", "positive", "negative", "text")
"""What a row's own vectors may belong to: the role of such a column is, say, anchor_vector."""

ROLES = (*NAMES, *(f"{of}_vector" for of in VECTORS))
_ENDINGS = ("_embedding", "_vector")
_PLAIN = ("embedding", "vector")
_NO_TEXTS = {
    name
    for role in (
        "label", "positive_score", "negative_score", "group", "time", "split", "weight",
        "difficulty",
    )
    for name in NAMES[role]
}  # fmt: skip
"""Known names that the order never takes for texts."""
_NUMBERED = re.compile(r"(negative|neg)_\d+")
_NOT_TEXT = re.compile(r"(id|idx|index|_id|__index_level_\d+__)")


def column_roles(
    names: Iterable[str], columns: Mapping[str, str] | None = None, *, source: str = "the data"
) -> dict[str, str]:
    """Return role -> column for the columns of a file.

    ``columns`` names columns by role; others are known by NAMES. ``negative_1``, ``negative_2``,
    ... are roles of their own, since a file may have many. Where neither side of the pairs has a
    known name, the order decides, as in Hugging Face data sets: of the columns that are no label,
    the first is the anchor, the second the positive, the third a negative. A single such column
    beside a label is a text with its class.
    """
    names = list(names)
    found = _chosen(names, columns or {}, source)
    taken = set(found.values())
    for role, known in NAMES.items():
        free = [name for name in known if name in names and name not in taken]
        if role not in found and free and role != "text":
            found[role] = free[0]
            taken.add(free[0])
    numbered = [n for n in names if _NUMBERED.fullmatch(n) and n not in taken]
    for name in sorted(numbered, key=lambda name: int(name.rpartition("_")[2])):
        found["negative_" + name.rpartition("_")[2]] = name
        taken.add(name)
    found |= _vector_roles(names, found)
    taken = set(found.values())
    rest = [
        n for n in names
        if n not in taken and n not in _NO_TEXTS and not n.endswith(_ENDINGS) and n not in _PLAIN
    ]  # fmt: skip
    _by_order(found, rest, names, source)
    found |= _vector_roles(names, found)
    order = {role: place for place, role in enumerate(ROLES)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], order["negative"] + 0.5)))


def _chosen(names: list[str], columns: Mapping[str, str], source: str) -> dict[str, str]:
    """Return what the user says, checked."""
    found: dict[str, str] = {}
    for role, column in columns.items():
        if role not in ROLES:
            raise ArgumentError(f"columns has no role {role!r}.{nearest(role, ROLES)}")
        if column not in names:
            raise DataError(
                f"{source} has no column {column!r} for the {role}. {there(names, [column])}"
            )
        if column in found.values():
            raise DataError(f"{source}: column {column!r} is given two roles")
        found[role] = column
    return found


def _by_order(found: dict[str, str], rest: list[str], names: list[str], source: str) -> None:
    """Fill the sides of the pairs that no name told, by the order of the columns."""
    sided = {
        side for side in ("anchor", "positive")
        if {side, f"{side}_id", f"{side}_vector"} & found.keys()
    }  # fmt: skip
    missing = [side for side in ("anchor", "positive") if side not in sided]
    if not missing:
        return
    texts = [name for name in rest if not _NOT_TEXT.fullmatch(name)]
    classes = "label" in found and len(missing) == 2
    if classes and ("text" in found or "text_vector" in found or len(texts) == 1):
        if "text" not in found and texts:
            found["text"] = "text" if "text" in texts else texts[0]
        return
    if len(missing) == 2 and len(texts) < 2:
        texts = rest  # a column called id is a text after all
    if len(missing) == 2 and len(texts) >= 2:
        order = [role for role in ("anchor", "positive", "negative") if role not in found]
        found |= dict(zip(order, texts, strict=False))
    elif len(missing) == 1 and len(texts) == 1:
        found[missing[0]] = texts[0]
    elif len(missing) == 1 and len(rest) == 1:
        found[missing[0]] = rest[0]
    else:
        side = missing[-1]
        raise DataError(
            f"{source} has no column for the {side}: expected "
            f"{' or '.join(map(repr, NAMES[side]))}. {there(names, NAMES[side])}"
        )


def _vector_roles(names: list[str], found: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of vectors: of a column, of a role, or of the one text of a row."""
    roles: dict[str, str] = {}
    for of in VECTORS:
        role = f"{of}_vector"
        stems = [found[r] for r in (of, f"{of}_id") if r in found]
        stems += [of] if of == "text" else NAMES[of]
        known = [stem.removesuffix("_id") + ending for stem in stems for ending in _ENDINGS]
        free = [n for n in known if n in names and n not in found.values()]
        if role not in found and free:
            roles[role] = free[0]
    for role in [role for role in found if role.startswith("negative_") and role[9:].isdecimal()]:
        for name in (found[role] + ending for ending in _ENDINGS):
            if name in names and name not in found.values():
                roles[f"{role}_vector"] = name
    sides = {"anchor", "positive", "anchor_id", "positive_id", "anchor_vector", "positive_vector"}
    if not sides & {*found, *roles} and "text_vector" not in {*found, *roles}:
        roles |= dict([("text_vector", n) for n in _PLAIN if n in names][:1])
    return roles


def there(names: Iterable[str], wanted: Iterable[str]) -> str:
    """Say which columns there are, and which of them is nearest to a wanted one."""
    names = list(names)
    close = [c for w in wanted for c in difflib.get_close_matches(w, names, n=1)]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Its columns: {', '.join(map(repr, names)) or 'none'}.{hint}"

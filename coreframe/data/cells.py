"""What a cell of each role may hold: a check returns the value, or raises ValueError with why."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a text, got {kind(value)}")
    if not value.strip():
        raise ValueError("is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a character (a lone surrogate)") from None
    return value


def texts(value: Any) -> tuple[str, ...]:
    """One text, or a list of them."""
    return tuple(map(text, listed(value))) if is_list(value) else (text(value),)


def negative_texts(value: Any) -> tuple[str, ...]:
    """As ``texts``; a row may have fewer negatives than others, or none."""
    return () if value is None else texts(value)


def identity(value: Any) -> int | str:
    """A row number from 0, or an id."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"must be a row number from 0 or an id, got {value}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a row number or an id, got {kind(value)}")
    return text(value)


def identities(value: Any) -> tuple[int | str, ...]:
    return tuple(map(identity, listed(value))) if is_list(value) else (identity(value),)


def negative_identities(value: Any) -> tuple[int | str, ...]:
    return () if value is None else identities(value)


def group(value: Any) -> str:
    return str(value) if type(value) is int else text(value)


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {kind(value)}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"must be finite, got {value}")
    return float(value)


def weight(value: Any) -> float:
    if value is None:  # not said: it counts in full; 0 is 0
        return 1.0
    found = number(value)
    if found < 0:
        raise ValueError(f"must not be negative, got {value}")
    return found


def weights(value: Any) -> tuple[float, ...]:
    """One weight, or one for each right document of the row."""
    return tuple(map(weight, listed(value))) if is_list(value) else (weight(value),)


def numbers(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    return tuple(map(number, listed(value))) if is_list(value) else (number(value),)


def label(value: Any) -> float | str | tuple[float, ...]:
    """A score or a class, or a list of them, one for each document of the row."""
    if is_list(value):
        return tuple(map(number, listed(value)))
    if isinstance(value, int | float):
        return number(float(value))
    if not isinstance(value, str):
        raise ValueError(f"must be a number or a text, got {kind(value)}")
    return text(value)


def time(value: Any) -> float:
    """Seconds since 1970: of a number as it is, of a date or an ISO 8601 text."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(
                f"must be a number or a time such as 2026-11-26T15:04:05, got {shown(value)}"
            ) from None
    if isinstance(value, datetime.datetime):
        zone = value.tzinfo or datetime.UTC
        return value.replace(tzinfo=zone).timestamp()
    if isinstance(value, datetime.date):
        midnight = datetime.time(tzinfo=datetime.UTC)
        return datetime.datetime.combine(value, midnight).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number or a time, got {kind(value)}")
    return number(value)


SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "development": "dev",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The names of splits, and which part they are."""


def split(value: Any) -> str:
    known = SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError(f"must be train, dev (or validation) or test, got {kind(value)}")
    return known


def prompt(value: Any) -> str:
    """What is put before the query; nothing is nothing."""
    return "" if value is None else text(value)


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "anchor": text,
    "positive": texts,
    "negative": negative_texts,
    "anchor_id": identity,
    "positive_id": identities,
    "negative_id": negative_identities,
    "prompt": prompt,
    "group": group,
    "time": time,
    "split": split,
    "weight": weights,
    "difficulty": number,
    "label": label,
    "positive_score": numbers,
    "negative_score": numbers,
    "text": text,
}
"""The check of each role; numbered negatives are checked as negative."""


_NUMBERS = ("time", "weight", "difficulty", "positive_score", "negative_score")
_LISTS = (
    "positive", "negative", "positive_id", "negative_id", "weight", "positive_score",
    "negative_score",
)  # fmt: skip


def from_text(role: str, value: str) -> Any:
    """Return what a cell of a text file means for a role: nothing, a number, a list in JSON.

    What is none of them stays a text, and the role's check judges it.
    """
    if not value:
        return None
    if role in _LISTS and value.startswith("[") and value.endswith("]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if role in _NUMBERS:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | dict)


def listed(value: Any) -> list[Any]:
    if not len(value):
        raise ValueError("is an empty list")
    return list(value)


def kind(value: Any) -> str:
    """Say what a cell holds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def shown(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "...")

"""Texts are legible: every colour of text on every ground, light, dark and printed."""

from __future__ import annotations

import re
from importlib import resources

import pytest

CSS = (resources.files("coreframe") / "templates" / "style.css").read_text(encoding="utf-8")
TEXTS = ("ink", "soft", "accent", "warm", "good", "bad", "violet", "pink")
THEMES = ("light", "dark", "print")


def themes() -> dict[str, dict[str, str]]:
    """Return the colours of each theme by name; what a theme leaves out is that of light."""
    found = [dict(re.findall(r"--([\w-]+):(#\w+)", block)) for block in re.findall(
        r":root \{(.*?)\}", CSS, re.DOTALL)]  # fmt: skip
    assert len(found) == len(THEMES)
    assert all(set(theme) == set(found[0]) for theme in found)
    return dict(zip(THEMES, found, strict=True))


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def blend(over: str, under: str, share: float) -> str:
    parts = [
        round(share * int(over[i : i + 2], 16) + (1 - share) * int(under[i : i + 2], 16))
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


def full(colour: str) -> str:
    return colour if len(colour) == 7 else "#" + "".join(2 * d for d in colour[1:])


def test_the_measure_is_that_of_the_standard() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_has_contrast(theme: str) -> None:
    colours = themes()[theme]
    pairs = [(text, ground) for text in TEXTS for ground in ("page", "card")]
    pairs += [(text, "mark") for text in ("ink", "soft", "good", "bad")]
    pairs += [("good", "good-bg"), ("ink", "good-bg"), ("ink", "bad-bg"), ("bad-ink", "bad-bg")]
    pairs += [("card", "accent")]  # a chip
    low = {
        (text, ground): round(ratio, 2)
        for text, ground in pairs
        if (ratio := contrast(colours[text], colours[ground])) < 4.5
    }
    assert low == {}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("tone", ["good", "bad", "soft"])
def test_numbers_in_the_rank_grid_have_contrast(theme: str, tone: str) -> None:
    colours = {name: full(colour) for name, colour in themes()[theme].items()}
    for share in (0.04, 0.12, 0.3, 0.5):
        ground = blend(colours[tone], colours["card"], share)
        assert contrast(colours["ink"], ground) >= 4.5

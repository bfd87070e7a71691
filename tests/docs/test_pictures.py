"""The pictures of the components' pages: of the right numbers, readable alone and in a page."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from from_docs import from_docs

import coreframe

pictures, curves, planes = (from_docs(f"making.{n}") for n in ("pictures", "curves", "planes"))
EACH = [(kind, name) for kind, names in pictures.DRAWN.items() for name in names]


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'points="([^"]*)"', svg)
    ]


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_a_picture_is_an_image_with_a_name_and_colours_of_its_own(kind: str, name: str) -> None:
    svg = pictures.picture(kind, name)
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["aria-label"].startswith(name)
    assert pictures.caption(svg) == root.attrib["aria-label"]
    tones = {e.attrib["class"].split()[0] for e in root.iter() if "class" in e.attrib} - {"plot"}
    assert tones
    assert {tone for tone in tones if f".{tone}" not in pictures.STYLE} == set()
    assert "nan" not in svg
    assert "inf" not in svg.replace("info", "")
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for e in root.iter():
        if e.tag.endswith(("circle", "text")):
            x, y = (float(e.attrib.get(a) or e.attrib[f"c{a}"]) for a in "xy")
            assert 0 <= x <= width, ElementTree.tostring(e)
            assert 0 <= y <= height, ElementTree.tostring(e)


def test_every_schedule_and_loss_that_has_numbers_is_drawn() -> None:
    found = coreframe.registry.registry()
    names = {
        kind: {e.name for e in found.entries(kind) if e.plugin.built_in} for kind in pictures.DRAWN
    }
    missing = {kind: names[kind] - set(drawn) for kind, drawn in pictures.DRAWN.items()}
    assert missing["schedulers"] == {"constant", "curriculum"}  # a level, and no number
    assert missing["losses"] == {"mined", "symmetric", "weighted_sum"}  # of other losses
    assert missing["miners"] == missing["optimizers"] == set()
    assert all(set(drawn) <= names[kind] for kind, drawn in pictures.DRAWN.items())


def test_a_curve_is_the_schedules_own_values() -> None:
    (line,) = points(pictures.picture("schedulers", "step"))
    assert len(line) == curves.STEPS + 1
    top, bottom = line[0][1], 200.0  # 1 at the start, and 0 at the axis
    for step in (0, 19, 20, 40, 100):
        value = coreframe.build("schedulers", "step", every=20, start=1.0, decay=0.5).at(step)
        assert line[step][1] == pytest.approx(bottom + value * (top - bottom), abs=0.06)


def test_a_loss_falls_with_the_positive_and_rises_with_the_negative() -> None:
    for name in curves.LOSSES:
        lines = points(pictures.picture("losses", name))
        by_first = sorted(lines, key=lambda line: line[0][1])  # y grows downwards
        falling, rising = by_first
        assert all(a[1] <= b[1] for a, b in pairwise(falling)), name
        assert all(a[1] >= b[1] for a, b in pairwise(rising)), name


def test_the_hardest_are_the_nearest_and_chance_has_sizes() -> None:
    def chosen(name: str) -> list[tuple[float, float, float]]:
        dots = re.findall(
            r'<circle class="warm" cx="(\S+)" cy="(\S+)" r="(\S+)" fill="currentColor"',
            pictures.picture("miners", name),
        )
        return [tuple(map(float, d)) for d in dots if float(d[0]) < 280]  # not the legend's

    near = sorted(planes.ANGLES, key=abs)[:3]
    want = {tuple(round(v, 1) for v in planes.place(angle)) for angle in near}
    assert {(x, y) for x, y, _ in chosen("hardest")} == want
    assert len({r for *_, r in chosen("hardest")}) == 1
    assert len({r for *_, r in chosen("softmax_weighted")}) > 3
    assert len(chosen("random")) == len(planes.ANGLES)


def test_an_optimizer_ends_near_the_lowest_point() -> None:
    svg = pictures.picture("optimizers", "sgd")
    x, y = map(float, re.findall(r'<ellipse class="line" cx="(\S+)" cy="(\S+)"', svg)[0])
    for line in points(svg):
        assert len(line) == 41
        assert abs(line[-1][0] - x) + abs(line[-1][1] - y) < 20

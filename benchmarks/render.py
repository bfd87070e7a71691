"""The tables of docs/benchmarks.md and of the terminal, from what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.case import US

Record = Mapping[str, Any]

HEAD = ("work", "beside", "time", "target", "extra MiB", "theirs", "error", "theirs")
MIB = 2**20


def table(record: Record) -> str:
    """Return the ratios and the memory of every case as one Markdown table."""
    judged = not record["quick"]
    lines = [_row(HEAD), _row(["---", "---", *["---:"] * 6])]
    for case in record["cases"]:
        for i, row in enumerate(case["rows"]):
            ours, theirs = (case["sides"][row[side]] for side in ("ours", "to"))
            name = row["to"] + (" (the floor)" if row["floor"] else "")
            if row["ours"] != US:
                name = f"{row['ours']}: {name}"
            work = case["what"] if i == 0 else ""
            cells = (work, name, f"{short(row['ratio'])} x", target(row, ours, theirs, judged))
            sizes = (memory(ours), memory(theirs))
            lines.append(_row((*cells, *sizes, error(ours), error(theirs))))
    return "\n".join(lines)


def target(row: Record, ours: Record, theirs: Record, judged: bool) -> str:
    """Return what was asked for and, of full sizes, whether it is met."""
    parts = []

    def add(text: str, met: bool | None) -> None:
        verdict = "" if not judged or met is None else ": met" if met else ": **not met**"
        parts.append(text + verdict)

    if row["at_most"] is not None:
        goal = "" if row["goal"] is None else f" (goal {row['goal']:g})"
        add(f"\N{LESS-THAN OR EQUAL TO} {row['at_most']:g} x{goal}", row["ratio"] <= row["at_most"])
    extra, beside = ours.get("extra"), theirs.get("extra")
    if row["memory_mib"] is not None:
        met = None if extra is None else extra <= row["memory_mib"] * MIB
        add(f"\N{LESS-THAN OR EQUAL TO} {row['memory_mib']:g} MiB", met)
    if row["memory_share"] is not None:
        met = None if extra is None or beside is None else extra <= row["memory_share"] * beside
        add(f"\N{LESS-THAN OR EQUAL TO} {row['memory_share']:g} x memory", met)
    return ", ".join(parts)


def memory(side: Record) -> str:
    extra = side.get("extra")
    return "" if extra is None else f"{extra / MIB:,.0f}"


def error(side: Record) -> str:
    found = side.get("error")
    return "" if found is None else f"{found:.0e}" if found else "0"


def short(value: float) -> str:
    """Return a ratio to two digits behind the point, or to two that count."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def commands(record: Record) -> str:
    """Return what whole processes took of their limits."""
    judged = not record["quick"]
    lines = [_row(("process", "limit", "of it", "", "beside")), "|---|---:|---:|---|---|"]
    for one in record["commands"]:
        met = ("met" if one["share"] <= 1 else "**not met**") if judged else ""
        others = ", ".join(f"{short(row['ratio'])} x `{row['to']}`" for row in one["rows"])
        share = f"{100 * one['share']:.0f}%"
        lines.append(_row((one["what"], f"{one['limit']:g} s", share, met, others)))
    return "\n".join(lines)


# Growth ---------------------------------------------------------------------------------------


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of the straight line through the logarithms, by least squares."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return None
    middle_x, middle_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    across = sum((x - middle_x) ** 2 for x, _ in logs)
    return sum((x - middle_x) * (y - middle_y) for x, y in logs) / across


def slopes(group: Record) -> list[tuple[str, float | None, float | None]]:
    """Return name, slope of time and slope of memory of each side.

    Less than 1 MiB counts as 1 MiB, which is about what can be told.
    """
    found = []
    for name, line in group["lines"].items():
        time = slope([(p["n"], p["time"]) for p in line])
        extra = [(p["n"], max(p["extra"], MIB)) for p in line if p["extra"] is not None]
        found.append((name, time, slope(extra)))
    return found


def growth(group: Record, judged: bool) -> str:
    head = ("side", "n", "slope of time", "slope of memory")
    lines = [_row(head), "|---|---|---:|---:|"]
    for name, time, extra in slopes(group):
        ns = [p["n"] for p in group["lines"][name]]
        verdicts = ["", ""]
        if name == US and judged and time is not None and extra is not None:
            near, flat = abs(time - 2) <= 0.1, extra <= 1
            verdicts = [_met("2.0 \N{PLUS-MINUS SIGN} 0.1", near), _met("at most 1.0", flat)]
        texts = ["" if x is None else f"{x:.2f}" for x in (time, extra)]
        cells = [text + verdict for text, verdict in zip(texts, verdicts, strict=True)]
        lines.append(_row((name, f"{min(ns):,} to {max(ns):,}", *cells)))
    return "\n".join(lines)


def _met(wanted: str, met: bool) -> str:
    return f" ({wanted}: {'met' if met else '**not met**'})"


# The page -------------------------------------------------------------------------------------


def machine(found: Record) -> str:
    """Return one sentence: processor, threads, versions, date."""
    there = [f"{name} {version}" for name, version in found["versions"].items() if version]
    gone = [name for name, version in found["versions"].items() if not version]
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''} on every side"
    text = f"{found['date']}; {found['processor']}, {threads}; "
    text += f"{found['system']}, Python {found['python']}, {', '.join(there)}."
    return text + (f" Not installed: {', '.join(gone)}." if gone else "")


def left_out(record: Record) -> str:
    """Return a line for everything that did not run, and why."""
    lines = [
        f"- {one['name']}: {name}: {why}"
        for kind in ("cases", "groups", "commands")
        for one in record[kind]
        for name, why in one["left_out"].items()
    ]
    lines += [f"- {name} failed: {why}" for name, why in record["failed"].items()]
    return "\n".join(lines) or "- nothing"


def notes(record: Record) -> str:
    """Return what is to be known of a line, once for each text."""
    found: dict[str, list[str]] = {}
    for case in record["cases"]:
        if case["note"]:
            found.setdefault(case["note"], []).append(case["name"])
    return "\n".join(f"- {', '.join(names)}: {note}." for note, names in found.items())


def measured(record: Record) -> str:
    """Return the generated part of the page."""
    parts = [machine(record["machine"])]
    if record["quick"]:
        parts.append(
            "**Small sizes (`--quick`)**: they show that everything runs. The targets are of the "
            "full sizes, and are not judged here."
        )
    parts += [table(record)] if record["cases"] else []
    parts += [commands(record)] if record["commands"] else []
    parts += ["Notes:\n\n" + found] if (found := notes(record)) else []
    for group in record["groups"]:
        parts.append(f"### {group['what']} as n grows")
        file = f"{group['name'].replace('_', '-')}.svg"
        parts.append(f"![Time and memory against n: {group['what']}](benchmarks-{file})")
        parts.append(growth(group, not record["quick"]))
    parts.append("### Left out\n\n" + left_out(record))
    return "\n\n".join(parts)


def replaced(page: str, name: str, text: str) -> str:
    """Return a page with the text between the markers of a name replaced."""
    pattern = rf"(<!-- {name}: generated -->\n).*?(<!-- {name}: end -->)"
    new, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page, count=1, flags=re.DOTALL
    )
    if not count:
        raise ValueError(f"the page has no markers of {name!r}")
    return new

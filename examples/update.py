"""A language a week: one adapter finds English emoji names by German, then French, Spanish ones.

Each week brings pairs of another language, and the adapter is updated with them alone. What it knew
of the weeks before is measured on test queries that it never saw, with the pull that ``update``
takes by itself, and without.

    python examples/update.py                     the table
    python examples/update.py --write FOLDER      de.jsonl, fr.jsonl, ... for the command line

The names are Unicode's CLDR, by the package emoji (extra "demo").
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import coreframe as cf
from coreframe import demo
from coreframe.artefact import TrainedAdapter

LANGUAGES = ("de", "fr", "es", "it")
METRIC = "ndcg@10"


def names(language: str) -> list[dict[str, str]]:
    """Return rows of a name, the English name, and the group that no split may cut."""
    import emoji

    emoji.config.load_language(language)

    def text(name: str) -> str:
        return name.strip(":").replace("_", " ").strip()

    found = sorted(
        {
            (text(entry[language]), text(entry["en"]))
            for entry in emoji.EMOJI_DATA.values()
            if language in entry and "skin_tone" not in entry["en"]
        }
    )
    groups = demo.families([english for _, english in found])
    return [
        {"anchor": name, "positive": english, "group": group}
        for (name, english), group in zip(found, groups, strict=True)
    ]


def pairs(language: str, embedder: cf.Embedder) -> cf.Pairs:
    rows = names(language)
    columns = ([row[key] for row in rows] for key in ("anchor", "positive", "group"))
    anchors, positives, groups = columns
    return cf.Pairs.from_texts(anchors, positives, embedder, groups=groups)


def run(languages: tuple[str, ...], epochs: int) -> None:
    embedder = cf.build("embedders", "hashing")
    weeks = {}
    for language in languages:
        train, _, test = pairs(language, embedder).split(0.1, 0.2, seed=42)
        weeks[language] = (train, test)
    width = int(weeks[languages[0]][0].queries.shape[1])
    options = {"epochs": epochs, "learning_rate": 5e-3}
    for title, hold in (("held by update", "auto"), ("not held", "none")):
        print(f"{METRIC}, {title}")
        print(f"  {'':14}" + "".join(f"{language:>8}" for language in languages))
        adapter = TrainedAdapter(width)
        for week in ("nothing", *languages):
            if week != "nothing":
                adapter = cf.update(adapter, weeks[week][0], hold=hold, **options)
            cells = [cf.evaluate(adapter, test).mean()[METRIC] for _, test in weeks.values()]
            print(f"  after {week:8}" + "".join(f"{x:8.3f}" for x in cells))
        print(f"  {'mean':14}{np.mean(cells):8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write files, train nothing")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    if options.write is None:
        run(tuple(options.languages), options.epochs)
        return
    options.write.mkdir(parents=True, exist_ok=True)
    for language in options.languages:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in names(language)]
        (options.write / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

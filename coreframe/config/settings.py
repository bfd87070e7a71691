"""What a run is: built components and checked settings, and the run of a user without a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from coreframe import checks
from coreframe.adapter import Adapter
from coreframe.callbacks import Callback
from coreframe.embedder import Embedder
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.evaluation import METRICS
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler

DEFAULT = """\
[data]
dev = 0.1
test = 0.2

[embedder]
name = "hashing"

[adapter]
name = "linear"

[[losses]]
name = "info_nce"
temperature = 0.05

[optimizer]
name = "adamw"
learning_rate = { scheduler = "warmup_cosine", peak = 3e-3 }

[train]
epochs = 30
batch_size = 256
side = "query"
start = "auto"
seed = 42

[gate]
metric = "ndcg@10"
"""
"""The run of a user who gives no file."""

_ROLES = (
    "anchor", "positive", "negative", "anchor_id", "positive_id", "negative_id", "label", "group",
    "time", "weight", "difficulty",
)  # fmt: skip
SPLITS = ("auto", "random", "group", "time", "given")
LEAKAGE = ("drop", "keep", "refuse")
SIDES = ("query", "both")
CURRICULA = ("quality", "difficulty")
EVALUATIONS = ("epoch", "steps", "no")
SAVINGS = ("auto", "steps", "epoch", "no")
STARTS = ("auto", "identity", "whitening", "procrustes")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How rows are read and split.

    Args:
        dev, test: shares of the queries, in (0, 1), together below 1; the rest is for training.
        split: random, group (of a column), time (the latest are the test), given (by the data), or
            auto: given where the data has parts, else random.
        leakage: what happens to queries of given parts, or of a split by time, that stand in
            several: drop leaves them out of the earlier part, keep leaves them, refuse is an error.
        minimum_score: in (0, 1], the graded score from which a pair of texts is right.
        anchor, positive, negative, anchor_id, positive_id, negative_id, label, group, time, weight,
            difficulty: names of columns; None finds them.
        split_column: name of the column that gives the part of a row; None finds it.
        cache: whether vectors of texts are kept on disk, where the embedder takes its time.
    """

    dev: float = 0.1
    test: float = 0.2
    split: str = "auto"
    leakage: str = "drop"
    minimum_score: float = 0.5
    anchor: str | None = None
    positive: str | None = None
    negative: str | None = None
    anchor_id: str | None = None
    positive_id: str | None = None
    negative_id: str | None = None
    label: str | None = None
    group: str | None = None
    time: str | None = None
    weight: str | None = None
    difficulty: str | None = None
    split_column: str | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        checks.number(self, "dev", above=0, below=1)
        checks.number(self, "test", above=0, below=1)
        if self.dev + self.test >= 1:
            raise ArgumentError(
                f"DataSettings.dev and test must leave rows for training: "
                f"together below 1, got {self.dev:g} + {self.test:g}"
            )
        checks.choice(self, "split", SPLITS)
        checks.choice(self, "leakage", LEAKAGE)
        checks.number(self, "minimum_score", above=0, maximum=1)
        for name in (*_ROLES, "split_column"):
            _optional_text(self, name)
        checks.flag(self, "cache")
        taken: dict[str, str] = {}
        for role, column in self.columns.items():
            if column in taken:
                raise ArgumentError(
                    f"DataSettings.{role} must be another column than {taken[column]}, "
                    f"got {column!r} for both"
                )
            taken[column] = role

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, by role."""
        named = {role: getattr(self, role) for role in _ROLES} | {"split": self.split_column}
        return {role: column for role, column in named.items() if column is not None}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How an adapter is trained.

    Args:
        epochs: passes over the training rows, >= 1.
        batch_size: pairs a step, >= 1.
        side: query leaves the documents and their index as they are; both adapts both.
        start: identity, whitening or procrustes; auto takes the best of them on dev.
        seed: >= 0.
        backend: where arrays live; None follows COREFRAME_BACKEND, then the arrays.
        drop_last: whether a last, short batch is left out.
        curriculum: quality or difficulty (a column of that name) sorts the first epochs; None not.
        curriculum_epochs: >= 1, the epochs that are sorted.
        pool: in (0, 1], or a scheduler over the sorted epochs: the share of the rows that is used.
        own_negatives: known wrong documents that are each anchor's own; 0 gives all to everyone.
        gradient_accumulation_steps: batches an update, >= 1.
        mini_batch_size: >= 1, so many rows of a batch go through the adapter at a time; None all.
        eval_documents: how many documents dev is searched in while training: a number, >= 1;
            "all"; "auto" takes 100,000 of more than 200,000.
        max_grad_norm: > 0, the norm that gradients are clipped to; None leaves them.
        max_grad_value: > 0, the size that each entry is clipped to; None leaves them.
        ema_decay: in [0, 1), average the parameters exponentially; None does not.
        eval_strategy: epoch, steps (every eval_steps updates, and at the end) or no (at the end
            alone, which is then kept): when dev is evaluated. None is epoch, or steps with
            eval_steps.
        eval_steps: updates between two evaluations, >= 1; None for another strategy.
        save_strategy: auto (by time, as long as it is cheap), steps, epoch or no: when the run is
            saved. None is auto, or steps with save_steps.
        save_steps: updates between two checkpoints, >= 1; None for another strategy.
        save_total_limit: >= 1, the checkpoints that are kept; None keeps all.
        max_skipped_steps: >= 1, the updates in a row that may be left out because they are not
            finite before the run stops; None never stops.
        run_name: what trackers call the run; None leaves it to them.
    """

    epochs: int = 30
    batch_size: int = 256
    side: str = "query"
    start: str = "auto"
    seed: int = 42
    backend: str | None = None
    drop_last: bool = False
    curriculum: str | None = None
    curriculum_epochs: int = 5
    pool: float | Scheduler = 1.0
    own_negatives: int = 0
    gradient_accumulation_steps: int = 1
    mini_batch_size: int | None = None
    eval_documents: int | Literal["auto", "all"] = "auto"
    max_grad_norm: float | None = None
    max_grad_value: float | None = None
    ema_decay: float | Scheduler | None = None
    eval_strategy: str | None = None
    eval_steps: int | None = None
    save_strategy: str | None = None
    save_steps: int | None = None
    save_total_limit: int | None = 2
    max_skipped_steps: int | None = 10
    run_name: str | None = None

    def __post_init__(self) -> None:
        checks.number(self, "epochs", minimum=1, integer=True)
        checks.number(self, "batch_size", minimum=1, integer=True)
        checks.choice(self, "side", SIDES)
        checks.choice(self, "start", STARTS)
        checks.number(self, "seed", minimum=0, integer=True)
        _optional_text(self, "backend")
        _optional_text(self, "run_name")
        if self.curriculum is not None:
            checks.choice(self, "curriculum", CURRICULA)
        checks.number(self, "curriculum_epochs", minimum=1, integer=True)
        checks.number(self, "pool", above=0, maximum=1)
        if self.curriculum is None and self.pool != 1.0:
            raise ArgumentError("TrainSettings.pool needs a curriculum: which rows come first")
        checks.number(self, "own_negatives", minimum=0, integer=True)
        checks.number(self, "gradient_accumulation_steps", minimum=1, integer=True)
        if self.mini_batch_size is not None:
            checks.number(self, "mini_batch_size", minimum=1, integer=True)
        if isinstance(self.eval_documents, str):
            checks.choice(self, "eval_documents", ("auto", "all"))
        else:
            checks.number(self, "eval_documents", minimum=1, integer=True)
        for name in ("max_grad_norm", "max_grad_value"):
            if getattr(self, name) is not None:
                checks.number(self, name, above=0)
        if self.ema_decay is not None:
            checks.number(self, "ema_decay", minimum=0, below=1)
        for name in ("eval_steps", "save_steps", "save_total_limit", "max_skipped_steps"):
            if getattr(self, name) is not None:
                checks.number(self, name, minimum=1, integer=True)
        for kind, words in (("eval", EVALUATIONS), ("save", SAVINGS)):
            name, strategy = f"{kind}_strategy", getattr(self, f"{kind}_strategy")
            if strategy is None:
                continue
            checks.choice(self, name, words)
            if (strategy == "steps") != (getattr(self, f"{kind}_steps") is not None):
                raise ArgumentError(
                    f"TrainSettings.{name} must be 'steps' where {kind}_steps is given, and only "
                    f"there, got {strategy!r} and {kind}_steps = {getattr(self, f'{kind}_steps')!r}"
                )


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What an adapter must prove on unseen queries before it is promoted.

    Args:
        metric: what decides: recall, precision, accuracy, mrr, map or ndcg, @ a depth; r_precision.
        metrics: more that are evaluated on the test queries, named alike.
        minimum_gain: in [0, 1); the lower bound of the gain must be above it.
        minimum_groups: >= 1, the groups of test queries below which nothing is proven.
        minimum_queries: >= 1, the test queries below which nothing is proven.
        maximum_coverage_loss: in [0, 1], by how much the share of test queries that find a right
            document among the first ten may fall.
        maximum_forgetting: in [0, 1], by how much a kept evaluation set may get worse, where that
            is proven.
        resamples: draws of the paired bootstrap and of the randomisation test, >= 100.
    """

    metric: str = "ndcg@10"
    metrics: tuple[str, ...] = ()
    minimum_gain: float = 0.0
    minimum_groups: int = 20
    minimum_queries: int = 20
    maximum_coverage_loss: float = 0.02
    maximum_forgetting: float = 0.01
    resamples: int = 2000

    def __post_init__(self) -> None:
        _metric("metric", self.metric)
        if isinstance(self.metrics, str):
            raise ArgumentTypeError(
                f"GateSettings.metrics must be a list of names, got {self.metrics!r}"
            )
        for name in self.metrics:
            _metric("metrics", name)
        checks.number(self, "minimum_gain", minimum=0, below=1)
        checks.number(self, "minimum_groups", minimum=1, integer=True)
        checks.number(self, "minimum_queries", minimum=1, integer=True)
        checks.number(self, "maximum_coverage_loss", minimum=0, maximum=1)
        checks.number(self, "maximum_forgetting", minimum=0, maximum=1)
        checks.number(self, "resamples", minimum=100, integer=True)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """All metrics of the test queries: the usual ones, the one that decides, and more."""
        from coreframe.evaluation import metrics

        return metrics.several(METRICS, self.metric, self.metrics)


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """The learning curve: what a share of the pairs would have brought.

    Args:
        enabled: always, never, or auto: where the training part has at most maximum_pairs pairs.
        shares: rising shares of the training queries in (0, 1); the whole is always the last.
        minimum_queries: >= 2, shares with fewer training queries are left out.
        maximum_pairs: >= 1, the size up to which auto trains the shares.
    """

    enabled: str = "auto"
    shares: tuple[float, ...] = (0.1, 0.3)
    minimum_queries: int = 10
    maximum_pairs: int = 50_000

    def __post_init__(self) -> None:
        checks.choice(self, "enabled", ("auto", "always", "never"))
        checks.number(self, "minimum_queries", minimum=2, integer=True)
        checks.number(self, "maximum_pairs", minimum=1, integer=True)
        object.__setattr__(self, "shares", tuple(self.shares))
        rising = all(a < b for a, b in zip((0, *self.shares), (*self.shares, 1), strict=True))
        if not rising:
            raise ArgumentError(
                f"CurveSettings.shares must rise inside (0, 1), such as [0.1, 0.3], "
                f"got {list(self.shares)}"
            )


@dataclass(frozen=True, kw_only=True)
class ContinualSettings:
    """How a run that continues another holds what that one knows.

    Args:
        hold: ewc, l2, none, or auto: ewc where the earlier run has a Fisher information, else l2.
        strengths: >= 0, of the pull; several are tried, and dev sets choose.
    """

    hold: str = "auto"
    strengths: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        checks.choice(self, "hold", ("auto", "ewc", "l2", "none"))
        object.__setattr__(self, "strengths", tuple(self.strengths))
        if not self.strengths or not all(0 <= x < float("inf") for x in self.strengths):
            raise ArgumentError(
                f"ContinualSettings.strengths must be numbers >= 0, at least one, "
                f"got {list(self.strengths)}"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: built components and checked settings. Several losses are one WeightedSum."""

    data: DataSettings = field(default_factory=DataSettings)
    embedder: Embedder
    adapter: Adapter
    loss: Loss
    sampler: Sampler | None = None
    miner: Miner | None = None
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...] = ()
    callbacks: tuple[Callback, ...] = ()
    train: TrainSettings = field(default_factory=TrainSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    curve: CurveSettings = field(default_factory=CurveSettings)
    continual: ContinualSettings = field(default_factory=ContinualSettings)

    def __post_init__(self) -> None:
        if self.sampler is not None and self.train.curriculum is not None:
            raise ArgumentError(
                "train.curriculum and [sampler] both say what comes when; use one of them "
                "(the sampler 'ordered' is a curriculum)"
            )


def _metric(field: str, name: object) -> None:
    from coreframe.evaluation import metrics  # it brings NumPy

    try:
        metrics.parse(name)  # type: ignore[arg-type]
    except (ArgumentError, ArgumentTypeError) as error:
        raise type(error)(f"GateSettings.{field}: {error}") from None


def _optional_text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        error = ArgumentError if isinstance(value, str) else ArgumentTypeError
        raise error(f"{type(owner).__name__}.{name} must be a text or None, got {value!r}")

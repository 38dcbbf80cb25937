"""What cells cost before they run: tokens from the data's lengths, operations from the model's shape, device time at a
profile's stated speed. :mod:`synthmix.study.throughput` corrects the time by what finished cells took."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from synthmix.config import HardwareConfig, ModelConfig, StudyConfig
from synthmix.models.flops import Shape, shape_of
from synthmix.study.cells import Cell, Plan
from synthmix.study.lengths import Lengths, measure
from synthmix.tasks import Task

PHASES = ("train", "evaluate", "generate")
#: Tokens of the question that P(True) asks after an answer.
P_TRUE_TOKENS = 11
#: Bytes a parameter: exported in fp32, and a checkpoint with AdamW's two moments, of which there are two for as long as
#: the new one is written.
MODEL_BYTES, CHECKPOINT_BYTES, CHECKPOINTS = 4, 12, 2
#: Bytes beside the texts, as the nano study's cells have them: an item's row (compressed), a sample's line, an example's
#: name in mixture.json, and what each cell has once.
ITEM_BYTES, SAMPLE_BYTES, NAME_BYTES, CELL_BYTES = 110, 420, 24, 20_000


@dataclass(frozen=True)
class Job:
    """What decides a cell's work: ``examples`` it trains on, ``attempts`` at writing one."""

    model: ModelConfig
    task: Task
    config: StudyConfig
    examples: int
    attempts: float


@dataclass(frozen=True)
class Load:
    """Work of a phase: tokens that the model reads or writes, and FLOPs by how they are done, which differ in speed:
    in training, reading (a whole prompt at once), or writing (token by token)."""

    tokens: float = 0.0
    trained: float = 0.0
    read: float = 0.0
    written: float = 0.0

    @property
    def flops(self) -> float:
        return self.trained + self.read + self.written

    def __add__(self, other: Load) -> Load:
        return Load(
            self.tokens + other.tokens,
            self.trained + other.trained,
            self.read + other.read,
            self.written + other.written,
        )


Work = dict[str, Load]


def total(works: list[Work]) -> Work:
    """Sums by phase."""
    return {phase: reduce(Load.__add__, (work[phase] for work in works), Load()) for phase in PHASES}


def stated_seconds(load: Load, hardware: HardwareConfig) -> float:
    """Device-seconds at the stated shares of a profile's peak; where no peak is stated, at one of 1 TFLOP/s."""
    peak = 1e12 * (hardware.peak_tflops or 1.0)
    at_peak = load.trained / hardware.train_utilisation
    return (at_peak + load.read / hardware.read_utilisation + load.written / hardware.write_utilisation) / peak


class Estimator:
    """Estimates the work of jobs; lengths are measured once for each task and model.

    Not counted: what a filter's verdicts cost, loading and saving, and padding, which differ little between studies and
    are part of measured speeds.
    """

    def __init__(self) -> None:
        self._lengths: dict[str, Lengths] = {}
        self._shapes: dict[str, Shape] = {}

    def lengths(self, job: Job) -> Lengths:
        """Lengths of a job's task in its model's tokens."""
        limit = job.config.training.max_tokens
        key = repr((job.task.name, job.task.version, job.config.data, job.model, limit))
        if key not in self._lengths:
            context = min(limit or job.model.context, job.model.context)
            self._lengths[key] = measure(job.task, job.config.data, job.model, context)
        return self._lengths[key]

    def shape(self, model: ModelConfig) -> Shape:
        key = repr(model)
        if key not in self._shapes:
            self._shapes[key] = shape_of(model)
        return self._shapes[key]

    def work(self, job: Job) -> Work:
        """Tokens and FLOPs of a job by phase.

        Raises:
            DataError: data that cannot be read.
        """
        return {"train": self._train(job), "evaluate": self._evaluate(job), "generate": self._generate(job)}

    def _train(self, job: Job) -> Load:
        lengths, settings = self.lengths(job), job.config.training
        seen = float(job.examples * settings.epochs)
        if settings.max_steps is not None:
            seen = min(seen, settings.max_steps * settings.batch_size)
        tokens = seen * lengths.document
        return Load(tokens, trained=self.shape(job.model).training(tokens, lengths.seen))

    def _evaluate(self, job: Job) -> Load:
        """Every scored split: choices share their stem; an answer is written once and for each further sample, and the
        gold one is scored; P(True) reads the prompt, the answer and the question."""
        settings, forward = job.config.evaluation, self.shape(job.model).forward
        load = Load()
        for items in self.lengths(job).splits.values():
            answer = min(items.completion, job.task.max_new_tokens)
            if job.task.answering == "choice":
                read, written = items.prompt + items.choices, 0.0
            else:
                passes = 1 + settings.pass_samples
                read, written = (passes + 1) * items.prompt + items.completion, passes * answer
            if settings.p_true:
                read += items.prompt + answer + P_TRUE_TOKENS
            read, written, length = items.n * read, items.n * written, items.prompt + items.completion
            load += Load(read + written, read=forward(read, length), written=forward(written, length))
        return load

    def _generate(self, job: Job) -> Load:
        """Attempts as long as the data's documents; a header is read once for all of them."""
        lengths, settings, forward = self.lengths(job), job.config.generation, self.shape(job.model).forward
        read, written = 0.0, min(lengths.document - lengths.header, float(job.task.max_document_tokens))
        if settings.mode == "answer":
            read, written = lengths.prompt, min(lengths.completion, job.task.max_new_tokens)
        elif settings.mode == "fewshot":
            room = max(0.0, job.model.context - job.task.max_document_tokens)
            read = min(settings.shots * lengths.document, room) + lengths.header
        read, written = job.attempts * read, job.attempts * written
        length = lengths.document + (read / job.attempts if job.attempts else 0.0)
        return Load(read + written, read=forward(read, length), written=forward(written, length))


# -- cells of a plan --------------------------------------------------------------------------------------------------


def pool_wanted(plan: Plan, cell: Cell) -> int:
    """Samples that a cell's pool must hold."""
    return max([plan.config.evaluation.diversity_samples, *map(plan.pool_share, plan.children(cell))])


def plain_attempts(config: StudyConfig) -> float:
    """Attempts for each sample kept where nothing is known of a filter: all pass, and a design chooses among them."""
    return float(config.design.oversample if config.design.move else 1)


def job_of(plan: Plan, cell: Cell, attempts: float) -> Job:
    """A cell's job; ``attempts`` for each sample kept, at most ``generation.max_tries``."""
    tries = min(attempts, plan.config.generation.max_tries) * pool_wanted(plan, cell)
    return Job(plan.models[cell.model], plan.tasks[cell.task], plan.config, plan.counts(cell).total, tries)


def keeps_model(plan: Plan, cell: Cell) -> bool:
    """Whether ``store.keep`` leaves a cell's model in the end."""
    keep = plan.config.store.keep
    return keep == "all" or (keep == "leaves" and (cell.parent is None or not plan.children(cell)))


def disk(plan: Plan, cell: Cell, job: Job, lengths: Lengths) -> float:
    """Bytes that stay of a cell: its model by ``store.keep``, items, pool (text and record), names of its mixture."""
    model = cell.parameters * MODEL_BYTES * keeps_model(plan, cell)
    items = sum(split.n for split in lengths.splits.values()) * (ITEM_BYTES + lengths.completion)
    pool = job.attempts * (SAMPLE_BYTES + 2 * lengths.characters)
    return model + items + pool + job.examples * NAME_BYTES + CELL_BYTES


@dataclass(frozen=True)
class Peak:
    """Disk beyond what stays: ``checkpoints`` of the ``at_once`` cells that train together, and ``models`` that are
    there until no cell needs them (bytes)."""

    checkpoints: float
    models: float
    at_once: int


def peak_disk(plan: Plan) -> Peak:
    """The largest over the levels. What runs at once: a profile's ``slurm.max_tasks``, else ``workers``."""
    inner: dict[int, float] = {}
    for cell in plan.cells:
        inner.setdefault(cell.level, 0.0)
        inner[cell.level] += cell.parameters * MODEL_BYTES * (not keeps_model(plan, cell))
    levels = [_checkpoints(plan, level) for level in inner]
    checkpoints, at_once = max(levels, key=lambda level: level[0], default=(0.0, 0))
    # while a level runs, the models of the one before are still there
    return Peak(checkpoints, max((inner[level] + inner.get(level - 1, 0.0) for level in inner), default=0.0), at_once)


def _checkpoints(plan: Plan, level: int) -> tuple[float, int]:
    """(bytes, cells at once) of a level; of each profile the largest models."""
    sizes: dict[str, list[int]] = {}
    limits: dict[str, int] = {}
    for cell in plan.cells:
        if cell.level == level:
            hardware = plan.hardware_of(cell)
            sizes.setdefault(hardware.name, []).append(cell.parameters)
            limits[hardware.name] = hardware.slurm.max_tasks or plan.config.workers
    together = [size for name, of in sizes.items() for size in sorted(of, reverse=True)[: limits[name]]]
    return float(sum(together)) * CHECKPOINT_BYTES * CHECKPOINTS, len(together)

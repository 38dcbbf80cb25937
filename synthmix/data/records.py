"""Where records come from: files below a data folder, the Hub, or a task's own generator."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthmix import keys
from synthmix.config import DataConfig
from synthmix.errors import ConfigError, DataError
from synthmix.tasks import Example, Excluded, Task
from synthmix.tasks.base import Layout, Part, Source

#: Size of a nano training set where ``data.train_examples`` is null.
NANO_TRAIN, NANO_TEST = 1000, 500


def data_root(config: DataConfig) -> Path | None:
    """``data.root``, else ``$SYNTHMIX_DATA``, else None (the Hub)."""
    named = config.root or os.environ.get("SYNTHMIX_DATA")
    if not named:
        return None
    root = Path(named).expanduser()
    if not root.is_dir():
        key = "data.root" if config.root else "SYNTHMIX_DATA"
        raise ConfigError([f"{key} = {named!r}: no such folder; expected a folder with local data sets"])
    return root


@dataclass(frozen=True)
class Records:
    """The examples of a split in a stable order, and how many of its file were left out, by reason."""

    examples: list[Example]
    excluded: Counter[str] = field(default_factory=Counter)


def load_split(task: Task, split: str, config: DataConfig, seed: int = 0) -> list[Example]:
    """All examples of a split, in a stable order; see :func:`load_records`."""
    return load_records(task, split, config, seed).examples


def load_records(task: Task, split: str, config: DataConfig, seed: int = 0) -> Records:
    """All examples of a split.

    The validation split is held out of train by a keyed draw that is the same for every seed and proportion, where the
    owner publishes none. ``seed`` matters to the nano tasks alone: they write a training set of its own for each seed.

    Raises:
        DataError: with file and line for anything that cannot be read.
    """
    if task.source is None:
        return Records(_generate(task, split, config, seed))
    layout, root = find_layout(task, task.source, config)
    held_out = "validation" not in layout.splits
    of_train = split == "train" or (split == "validation" and held_out)
    published = read_split(task, layout, root, "train" if of_train else split)
    if of_train:
        rest = _hold_out(task, published.examples, split, config.validation_examples) if held_out else None
        return published if rest is None else replace(published, examples=rest)
    wanted = config.validation_examples if split == "validation" else config.test_examples
    if wanted is not None and (split == "validation" or split in task.probes):  # as many as there are
        wanted = min(wanted, len(published.examples))
    return replace(published, examples=_limit(published.examples, wanted, f"{task.name} {split} set"))


def find_layout(task: Task, source: Source, config: DataConfig) -> tuple[Layout, Path | None]:
    """The layout that a task's records are read from, with the data folder (None: the Hub).

    Raises:
        DataError: the data folder holds none of several layouts whole; names the files that are missing.
    """
    root = source.root or data_root(config)
    if root is None:
        return source.hub, None
    if len(source.local) == 1:  # what is missing is said when it is read
        return source.local[0], root
    lacking = []
    for layout in source.local:
        missing = [part.place for part in layout.splits.values() if not (root / part.place).is_file()]
        if not missing:
            return layout, root
        lacking.append(", ".join(dict.fromkeys(missing)))
    raise DataError(f"{task.name}: no such file: {'; or instead '.join(lacking)}", root)


def data_note(task: Task, config: DataConfig) -> str:
    """What is not as the owner of the data publishes it; empty where nothing is."""
    return find_layout(task, task.source, config)[0].note if task.source is not None else ""


def split_size(split: str, config: DataConfig) -> int:
    """How many examples a task that makes its own makes for a split."""
    sizes = {
        "train": config.train_examples or NANO_TRAIN,
        "validation": config.validation_examples,
        "test": config.test_examples or NANO_TEST,
    }
    return sizes[split]


def _generate(task: Task, split: str, config: DataConfig, seed: int) -> list[Example]:
    wanted = split_size(split, config)
    return task.generate_split(split, wanted, seed if split == "train" else 0, config.difficulty)


def _limit(examples: list[Example], n: int | None, what: str) -> list[Example]:
    """A keyed draw of ``n``: the same items for every cell, so that all comparisons are paired."""
    if n is None or n == len(examples):
        return examples
    if n > len(examples):
        raise DataError(f"{n} examples asked for, but the {what} has {len(examples)}")
    chosen = sorted(keys.permutation(len(examples), "limit", what)[:n])
    return [examples[i] for i in chosen]


def _hold_out(task: Task, train: list[Example], split: str, n: int) -> list[Example]:
    """The validation split (``n`` examples), or train without it and without what belongs to it."""
    if n >= len(train):
        raise DataError(
            f"data.validation_examples = {n}, but the {task.name} training set has only {len(train)} examples"
        )
    held = _held_out(task, train, n)
    if split == "validation":
        drawn = [i for i in keys.permutation(len(train), "held", task.name).tolist() if i in held][:n]
        return [train[i] for i in sorted(drawn)]
    rest = [example for i, example in enumerate(train) if i not in held]
    if not rest:
        raise DataError(f"data.validation_examples = {n} leaves no training examples: {task.name} has too few clusters")
    return rest


def _held_out(task: Task, train: list[Example], n: int) -> set[int]:
    """``n`` positions, or more where whole clusters are held out, by a keyed draw."""
    order = keys.permutation(len(train), "validation", task.name).tolist()
    clusters = [task.cluster(example.record) for example in train]
    members: dict[str, list[int]] = {}
    for i, cluster in enumerate(clusters):
        if cluster is not None:
            members.setdefault(cluster, []).append(i)
    held: set[int] = set()
    for i in order:
        if len(held) >= n:
            break
        cluster = clusters[i]
        held.update([i] if cluster is None else members[cluster])
    return held


def read_split(task: Task, layout: Layout, root: Path | None, split: str) -> Records:
    """Every record of a split that its owner publishes, before anything is held out or drawn.

    Raises:
        DataError: with file and line for anything that cannot be read.
    """
    part = layout.splits[split]
    path = f"{part.place}/{part.split}" if root is None else str(root / part.place)
    raws = _from_hub(part) if root is None else task.read_file(root / part.place)
    examples: list[Example] = []
    excluded: Counter[str] = Counter()
    seen: dict[str, int | None] = {}
    for index, (line, raw) in enumerate(raws):
        try:
            example = _example(task, part, raw, path, line, f"{split}-{index}")
        except Excluded as reason:
            excluded[str(reason)] += 1
            continue
        if example is None:
            continue
        if example.id in seen:
            where = f" (first on line {seen[example.id]})" if line else ""
            raise DataError(f"field 'id' is {example.id!r} a second time{where}; expected different ids", path, line)
        seen[example.id] = line
        examples.append(example)
    if not examples:
        why = "".join(f"; {n} left out: {reason}" for reason, n in excluded.items())
        raise DataError(f"no records for the {split} split{why}", path)
    return Records(examples, excluded)


def _example(task: Task, part: Part, raw: Any, path: str, line: int | None, name: str) -> Example | None:
    """A raw record as an example; None if it belongs to another split."""
    if not isinstance(raw, dict):
        raise DataError(f"expected a JSON object, not {type(raw).__name__}: {str(raw)[:60]!r}", path, line)
    try:
        if part.keep is not None and not part.keep(raw):
            return None
        record = task.from_source(raw)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"not a {task.name} record ({said}); it has {sorted(raw)}", path, line) from error
    task.check(record, path, line)
    id_ = str(record.get("id", name))
    return Example(id_, record, f"{path}:{line}" if line else f"{path} ({id_})")


def _from_hub(part: Part) -> Iterator[tuple[int | None, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(part.place, part.config, split=part.split)
    except Exception as error:  # the Hub's client raises many kinds; all of them mean that the data cannot be had
        raise DataError(
            f"cannot load data set {part.place!r} from the Hub ({type(error).__name__}: {error}). Without a network, "
            "set SYNTHMIX_DATA (or data.root) to a folder with the files that docs/tasks.md lists"
        ) from error
    for row in loaded:
        yield None, row


def fingerprint(task: Task, config: DataConfig) -> str:
    """Digest of the data that a cell of this task sees: file contents, the generator's version and settings, or the
    Hub's names alone (what a repository holds is not looked at)."""
    sizes = [config.train_examples, config.validation_examples, config.test_examples]
    if task.source is None:
        return keys.digest("generated", task.name, task.version, config.difficulty, sizes)
    layout, root = find_layout(task, task.source, config)
    parts = [(split, part.place, part.split, part.config) for split, part in sorted(layout.splits.items())]
    if root is None:
        return keys.digest("hub", task.version, parts, sizes)
    digests = [_file_digest(root / place) for _, place, _, _ in parts]
    digests += [_file_digest(task.source.description)] if task.source.description else []
    return keys.digest("files", task.version, digests, layout.note, sizes)


def _file_digest(path: Path) -> str:
    import hashlib

    if not path.is_file():
        raise DataError("no such file", path)
    return hashlib.sha256(path.read_bytes()).hexdigest()

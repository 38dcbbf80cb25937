"""Where records come from: files below a data folder, the Hub, or a task's own generator."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthmix import keys
from synthmix.config import DataConfig
from synthmix.errors import ConfigError, DataError
from synthmix.tasks import Example, Task
from synthmix.tasks.base import Source

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


def load_split(task: Task, split: str, config: DataConfig, seed: int = 0) -> list[Example]:
    """All examples of a split, in a stable order.

    The validation split is held out of train by a keyed draw that is the same for every seed and proportion, where the
    owner publishes none. ``seed`` matters to the nano tasks alone: they write a training set of its own for each seed.

    Raises:
        DataError: with file and line for anything that cannot be read.
    """
    if task.source is None:
        return _generate(task, split, config, seed)
    if split == "test":
        return _limit(_published(task, task.source, "test", config), config.test_examples, f"{task.name} test set")
    if split == "validation" and "validation" in task.source.files:
        published = _published(task, task.source, "validation", config)
        return _limit(published, config.validation_examples, f"{task.name} validation set")
    return _hold_out(_published(task, task.source, "train", config), split, task.name, config.validation_examples)


def _generate(task: Task, split: str, config: DataConfig, seed: int) -> list[Example]:
    wanted = {
        "train": config.train_examples or NANO_TRAIN,
        "validation": config.validation_examples,
        "test": config.test_examples or NANO_TEST,
    }[split]
    return task.generate_split(split, wanted, seed if split == "train" else 0, config.difficulty)


def _limit(examples: list[Example], n: int | None, what: str) -> list[Example]:
    """A keyed draw of ``n``: the same items for every cell, so that all comparisons are paired."""
    if n is None or n == len(examples):
        return examples
    if n > len(examples):
        raise DataError(f"{n} examples asked for, but the {what} has {len(examples)}")
    chosen = sorted(keys.permutation(len(examples), "limit", what)[:n])
    return [examples[i] for i in chosen]


def _hold_out(train: list[Example], split: str, name: str, n: int) -> list[Example]:
    if n >= len(train):
        raise DataError(f"data.validation_examples = {n}, but the {name} training set has only {len(train)} examples")
    held = set(keys.permutation(len(train), "validation", name)[:n].tolist())
    return [example for i, example in enumerate(train) if (i in held) == (split == "validation")]


def _published(task: Task, source: Source, split: str, config: DataConfig) -> list[Example]:
    root = data_root(config)
    if root is None:
        raws: list[tuple[int | None, Any]] = list(_from_hub(source, split))
        path = f"{source.hub}/{split}"
    else:
        path = str(root / source.files[split])
        raws = list(read_jsonl(Path(path)))
    examples = [_example(task, raw, path, line, index, split) for index, (line, raw) in enumerate(raws)]
    if not examples:
        raise DataError("the file has no records", path)
    lines: dict[str, int | None] = {}
    for (line, _), example in zip(raws, examples, strict=True):
        if example.id in lines:
            where = f" (first on line {lines[example.id]})" if line else ""
            raise DataError(f"field 'id' is {example.id!r} a second time{where}; expected different ids", path, line)
        lines[example.id] = line
    return examples


def _example(task: Task, raw: Any, path: str, line: int | None, index: int, split: str) -> Example:
    if not isinstance(raw, dict):
        raise DataError(f"expected a JSON object, not {type(raw).__name__}: {str(raw)[:60]!r}", path, line)
    try:
        record = task.from_source(raw)
    except (KeyError, TypeError, ValueError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"not a {task.name} record ({said}); it has {sorted(raw)}", path, line) from error
    task.check(record, path, line)
    return Example(str(record.get("id", f"{split}-{index}")), record)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) for each line of a JSONL file, gzipped or not.

    Raises:
        DataError: a missing or empty file, a line that is not UTF-8 or not JSON (a truncated last line, say).
    """
    if not path.is_file():
        raise DataError("no such file", path)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        number = 0
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _decode(line, path, number)
    if number == 0:
        raise DataError("the file is empty; expected one JSON object a line", path)


def _decode(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start} of the line; expected UTF-8 text", path, number) from error
    except json.JSONDecodeError as error:
        tail = line[-40:].decode("utf-8", "replace").strip()
        raise DataError(
            f"not JSON ({error.msg} at column {error.colno}); the line ends in {tail!r}", path, number
        ) from error


def _from_hub(source: Source, split: str) -> Iterator[tuple[None, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(source.hub, source.hub_config, split=source.hub_splits[split])
    except Exception as error:  # the Hub's client raises many kinds; all of them mean that the data cannot be had
        raise DataError(
            f"cannot load data set {source.hub!r} from the Hub ({type(error).__name__}: {error}). Without a network, "
            f"set SYNTHMIX_DATA (or data.root) to a folder that holds {source.files.get(split, 'its files')}"
        ) from error
    return ((None, row) for row in loaded)


def fingerprint(task: Task, config: DataConfig) -> str:
    """Digest of the data that a cell of this task sees: file contents, or the generator's version and settings."""
    sizes = [config.train_examples, config.validation_examples, config.test_examples]
    if task.source is None:
        return keys.digest("generated", task.name, task.version, config.difficulty, sizes)
    root = data_root(config)
    if root is None:
        return keys.digest("hub", task.version, task.source.hub, task.source.hub_config, task.source.hub_splits, sizes)
    paths = [root / name for _, name in sorted(task.source.files.items())]
    return keys.digest("files", task.version, [_file_digest(path) for path in paths], sizes)


def _file_digest(path: Path) -> str:
    import hashlib

    if not path.is_file():
        raise DataError("no such file", path)
    return hashlib.sha256(path.read_bytes()).hexdigest()

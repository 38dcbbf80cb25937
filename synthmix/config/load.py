"""Reading a configuration: defaults < study file < key=value. Every problem is found before any is reported."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synthmix.config.schema import LEVERS, MODES, GridConfig, ModelConfig, StudyConfig
from synthmix.errors import ConfigError, near_match, unknown

#: Axes that a key=value changes in every grid of a study, so that the command line has the last word.
AXES = tuple(f.name for f in dataclasses.fields(GridConfig))
#: Mappings whose keys are the user's own.
FREE_KEYS = ("hardware_of",)


def config_folders() -> list[Path]:
    """Where configurations are looked for: ./configs, then the project's own."""
    package = Path(__file__).resolve().parents[1]
    folders = [Path.cwd() / "configs", package.parent / "configs", package / "configs"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def config_names(kind: str) -> list[str]:
    """Names of the configurations of a kind (``study``, ``model``, ``task``, ``hardware``)."""
    return sorted({path.stem for folder in config_folders() for path in (folder / kind).glob("*.yaml")})


def find_config(kind: str, name: str) -> Path:
    """The file behind a name, or a path given as it is.

    Raises:
        ConfigError: there is no such file; names a near match.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise ConfigError([f"{kind} file {name!r}: no such file"])
    for folder in config_folders():
        if (folder / kind / f"{name}.yaml").is_file():
            return folder / kind / f"{name}.yaml"
    raise ConfigError([unknown(kind, name, config_names(kind))])


def load_study(study: str, overrides: Sequence[str] = ()) -> StudyConfig:
    """The resolved configuration of a study.

    Args:
        study: name of a file under configs/study, or a path.
        overrides: ``key=value`` words; a value is YAML (``proportions=[0,0.3]``).

    Raises:
        ConfigError: all problems at once, each with the full key, what was given and what was expected.
    """
    path = find_config("study", study)
    problems: list[str] = []
    tree = OmegaConf.structured(StudyConfig)
    given = _read_yaml(path)
    given.setdefault("name", path.stem)
    _merge(tree, given, "", problems)
    for key, value in _parse_overrides(overrides, problems):
        _merge(tree, _nested(key, value), "", problems)
        if key in AXES:
            _override_grids(tree, key)
    problems += _check(tree)
    if problems:
        raise ConfigError(problems, origin=str(path))
    config = OmegaConf.to_object(tree)
    assert isinstance(config, StudyConfig)
    return config


def load_model(name: str) -> ModelConfig:
    """One file under configs/model; the file's name is the model's."""
    return load_entry("model", name, ModelConfig)


def load_entry(kind: str, name: str, schema: type[Any]) -> Any:
    """One file of a kind, as its schema."""
    path = find_config(kind, name)
    problems: list[str] = []
    tree = OmegaConf.structured(schema)
    _merge(tree, {"name": path.stem} | _read_yaml(path), "", problems)
    missing = sorted(map(str, OmegaConf.missing_keys(tree)))
    problems += [f"{key}: not given" for key in missing]
    problems += list(_check_choices(tree, schema, ""))
    if problems:
        raise ConfigError(problems, origin=str(path))
    return OmegaConf.to_object(tree)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"not YAML: {error}"], origin=str(path)) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError([f"expected keys and values, not {type(loaded).__name__}"], origin=str(path))
    return loaded


def _parse_overrides(words: Sequence[str], problems: list[str]) -> Iterator[tuple[str, Any]]:
    for word in words:
        key, found, text = word.partition("=")
        if not found or not key:
            problems.append(f"{word!r}: expected key=value")
            continue
        try:
            yield key, yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(f"{key} = {text!r}: not a YAML value")


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _override_grids(tree: DictConfig, axis: str) -> None:
    for grid in tree.grids:
        grid[axis] = None


def _merge(tree: DictConfig, given: Mapping[str, Any], prefix: str, problems: list[str]) -> None:
    """Puts ``given`` into ``tree`` key by key, so that one bad key hides no other."""
    known = [str(key) for key in tree]
    for key, value in given.items():
        full = f"{prefix}{key}"
        if isinstance(value, str) and "${" in value:
            problems.append(f"{full} = {value!r}: expected a plain value; references (${{...}}) are not resolved")
            continue
        if key not in known:
            problems.append(
                f"{full} = {value!r}: no such key.{near_match(str(key), known)} Keys here: {', '.join(known)}"
            )
        elif isinstance(tree._get_node(key), DictConfig) and full not in FREE_KEYS:
            if isinstance(value, Mapping):
                _merge(tree[key], value, f"{full}.", problems)
            else:
                problems.append(f"{full} = {value!r}: expected keys below it: {', '.join(map(str, tree[key]))}")
        elif full == "grids" and isinstance(value, list):
            tree.grids = [_grid(entry, f"grids[{index}].", problems) for index, entry in enumerate(value)]
        else:
            # one lever is written without brackets: design: {hold: diversity}
            one = full == "design.hold" and isinstance(value, str)
            _assign(tree, str(key), [value] if one else value, full, problems)


def _grid(given: Any, prefix: str, problems: list[str]) -> DictConfig:
    grid: DictConfig = OmegaConf.structured(GridConfig)
    if isinstance(given, Mapping):
        _merge(grid, given, prefix, problems)
    else:
        problems.append(f"{prefix[:-1]} = {given!r}: expected axes: {', '.join(AXES)}")
    return grid


def _assign(tree: DictConfig, key: str, value: Any, full: str, problems: list[str]) -> None:
    try:
        OmegaConf.update(tree, key, value, merge=False, force_add=False)
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        problems.append(f"{full} = {value!r}: {said}; expected {_expected(tree, key)}")


def _expected(tree: DictConfig, key: str) -> str:
    schema: Any = OmegaConf.get_type(tree)
    named = {spec.name: spec for spec in dataclasses.fields(schema)}
    unit = named[key].metadata.get("unit", "")
    return f"{named[key].type}" + (f" ({unit})" if unit else "")


# -- what types cannot say ------------------------------------------------------------------------------------------


def _check(tree: DictConfig) -> list[str]:
    problems = [f"{key}: not given" for key in sorted(map(str, OmegaConf.missing_keys(tree)))]
    problems += _check_choices(tree, StudyConfig, "")
    problems += [p for prefix, axes in _all_axes(tree) for p in _check_axes(axes, prefix)]
    problems += _check_numbers(tree)
    problems += _check_names_and_pairs(tree)
    return problems


def _all_axes(tree: DictConfig) -> Iterator[tuple[str, Any]]:
    yield "", tree
    for index, grid in enumerate(tree.grids):
        yield f"grids[{index}].", grid


def _check_choices(tree: DictConfig, schema: type[Any], prefix: str) -> Iterator[str]:
    for spec in dataclasses.fields(schema):
        if OmegaConf.is_missing(tree, spec.name):
            continue
        value, allowed = tree[spec.name], spec.metadata.get("choices", ())
        if f"{prefix}{spec.name}" in FREE_KEYS:
            continue
        if isinstance(value, DictConfig):
            yield from _check_choices(value, OmegaConf.get_type(value) or dict, f"{prefix}{spec.name}.")
        elif allowed and value is not None:
            for one in value if OmegaConf.is_list(value) else [value]:
                if one not in allowed:
                    yield f"{prefix}{spec.name} = {one!r}: expected one of {', '.join(allowed)}.{near_match(str(one), allowed)}"


def _check_axes(axes: Any, prefix: str) -> Iterator[str]:
    def given(name: str) -> list[Any]:
        if OmegaConf.is_missing(axes, name) or axes[name] is None:
            return []
        return list(axes[name])

    for name in given("tasks"):
        yield from (f"{prefix}tasks: {problem}" for problem in _task_problems(str(name)))
    known = config_names("model")
    for name in given("models"):
        if name not in known:
            yield f"{prefix}models: {unknown('model', str(name), known)}"
    for axis in ("tasks", "models", "modes", "proportions", "seeds"):
        values = given(axis)
        if len(set(values)) < len(values):
            yield f"{prefix}{axis} = {values}: the same value twice"
        if not values and not OmegaConf.is_missing(axes, axis) and axes[axis] is not None:
            yield f"{prefix}{axis} = []: expected at least one value"
    yield from _check_shares(axes, given("proportions"), given("modes"), prefix)
    if axes.seeds is not None and any(seed < 0 for seed in given("seeds")):
        yield f"{prefix}seeds = {given('seeds')}: expected integers from 0"


def _task_problems(name: str) -> Iterator[str]:
    """What is wrong with a task that a study names: there is none, or its file has problems."""
    from synthmix.tasks import get_task, is_task_file, task_names

    if name in task_names():
        return
    where = f"{name}: " if name in config_names("task") or (is_task_file(name) and Path(name).is_file()) else ""
    try:
        get_task(name)
    except ConfigError as error:
        yield from (f"{where}{problem}" for problem in error.problems)


def _check_shares(axes: Any, shares: list[float], modes: list[str], prefix: str) -> Iterator[str]:
    for share in shares:
        if not 0 <= share <= 1:
            yield f"{prefix}proportions: {share:g} is not a share of a training set; expected 0 to 1 (0.2 for 20 %)"
    for mode in modes:
        if mode not in MODES:
            yield f"{prefix}modes: {unknown('mode', mode, MODES)}"
        if mode in ("augment", "accumulate") and 1.0 in shares:
            yield f"{prefix}proportions: 1 with mode {mode}, which keeps all external data; expected less than 1"
    iterations = axes.iterations
    if iterations is not None and iterations < 0:
        yield f"{prefix}iterations = {iterations}: expected 0 or more"
    if iterations == 0 and "recursive" in modes:
        yield f"{prefix}iterations = 0 with mode recursive: nothing would be synthetic; expected 1 or more"


def _check_numbers(tree: DictConfig) -> Iterator[str]:
    """Ranges: key -> (low, high)."""
    positive = (1e-12, math.inf)
    ranges: dict[str, tuple[float, float]] = {
        "data.train_examples": (1, math.inf), "data.validation_examples": (1, math.inf),
        "data.test_examples": (1, math.inf), "data.difficulty": (0, 1),
        "training.epochs": (1, math.inf), "training.max_steps": (1, math.inf), "training.batch_size": (1, math.inf),
        "training.learning_rate": positive, "training.warmup": (0, 1), "training.gradient_clip": (0, math.inf),
        "training.weight_decay": (0, math.inf), "training.max_tokens": (8, math.inf),
        "generation.temperature": positive, "generation.top_p": (1e-6, 1), "generation.max_tries": (1, math.inf),
        "generation.shots": (0, math.inf), "generation.batch_size": (1, math.inf),
        "generation.consistency_samples": (1, math.inf), "design.level": (0, 1), "design.oversample": (2, math.inf),
        "evaluation.bins": (1, math.inf), "evaluation.diversity_samples": (0, math.inf),
        "evaluation.pass_samples": (0, math.inf), "evaluation.batch_size": (1, math.inf),
        "monitoring.warning": (0, math.inf), "monitoring.critical": (0, math.inf), "monitoring.reduce_to": (0, 1),
        "workers": (1, math.inf),
    }  # fmt: skip
    for key, (low, high) in ranges.items():
        value = OmegaConf.select(tree, key)
        if value is not None and not low <= value <= high:
            bound = f"{low:g} to {high:g}" if high < math.inf else "more than 0" if low == 1e-12 else f"{low:g} or more"
            yield f"{key} = {value!r}: expected {bound}"
    size, batch = tree.data.train_examples, tree.training.batch_size
    if size is not None and size < batch:
        yield f"data.train_examples = {size}: smaller than one batch (training.batch_size = {batch})"
    if tree.monitoring.critical < tree.monitoring.warning:
        yield f"monitoring.critical = {tree.monitoring.critical:g}: expected at least monitoring.warning = {tree.monitoring.warning:g}"
    profiles = config_names("hardware")
    for key, name in (("hardware", tree.hardware), *((f"hardware_of.{m}", p) for m, p in tree.hardware_of.items())):
        if name not in profiles:
            own = "One of your own is a file ./configs/hardware/NAME.yaml, given by its name."
            yield f"{key}: {unknown('hardware profile', name, profiles)} {own}"
    for model in tree.hardware_of:
        if model not in config_names("model"):
            yield f"hardware_of: {unknown('model', str(model), config_names('model'))}"


def _check_names_and_pairs(tree: DictConfig) -> Iterator[str]:
    if not OmegaConf.is_missing(tree, "name") and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", tree.name):
        yield f"name = {tree.name!r}: expected letters, digits, '.', '_' and '-', since it names a folder"
    betas = list(tree.training.betas)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        yield f"training.betas = {betas}: expected two numbers from 0 to less than 1"
    evaluation = tree.evaluation
    if evaluation.confidence == "agreement" and not evaluation.pass_samples:
        yield "evaluation.confidence = agreement: needs sampled answers; set evaluation.pass_samples to 5, say"
    if evaluation.confidence == "p_true" and not evaluation.p_true:
        yield "evaluation.confidence = p_true: needs evaluation.p_true = true"
    size, shots = tree.data.train_examples, tree.generation.shots
    if tree.generation.mode == "fewshot" and size is not None and shots > size:
        yield f"generation.shots = {shots}: more than the training set has (data.train_examples = {size})"
    yield from _check_filters(tree)
    yield from _check_programs(tree)


def _check_filters(tree: DictConfig) -> Iterator[str]:
    generation, design = tree.generation, tree.design
    band = list(generation.perplexity_band)
    if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
        yield f"generation.perplexity_band = {band}: expected two quantiles from 0 to 1, the lower one first"
    tries_a_sample = (2 if generation.filter == "diverse" else 1) * (design.oversample if design.move else 1)
    if generation.max_tries < tries_a_sample:
        yield (
            f"generation.max_tries = {generation.max_tries:g}: expected at least {tries_a_sample}, the attempts that "
            f"generation.filter = {generation.filter} and design.oversample take for a sample kept"
        )
    if design.move is None:
        if design.hold:
            yield f"design.hold = {list(design.hold)}: nothing is moved (design.move is null); expected no lever"
        return
    if design.move not in LEVERS:
        yield f"design.move: {unknown('lever', design.move, LEVERS)}"
    if design.move in design.hold:
        yield f"design.hold = {list(design.hold)}: a lever cannot be held and moved (design.move = {design.move})"
    if generation.filter == "none":
        yield "generation.filter = none: a design compares records; expected wellformed or a stricter filter"
    if generation.filter == "verified" and design.move == "quality":
        yield "generation.filter = verified: leaves nothing unverified to move quality with; expected wellformed, say"


def _check_programs(tree: DictConfig) -> Iterator[str]:
    """Programs of models from outside run only where the user says so: evaluation needs them, and so may a filter."""
    from synthmix.tasks import get_task, task_names

    named = [axes.tasks for _, axes in _all_axes(tree) if not OmegaConf.is_missing(axes, "tasks") and axes.tasks]
    for name in sorted({name for tasks in named for name in tasks if name in task_names()}):
        task = get_task(name)
        if task.executes and task.source is not None and not tree.evaluation.run_generated_code:
            yield (
                f"evaluation.run_generated_code = false: {name} is scored by running what the model writes; expected "
                "true ('synthmix doctor' says how programs are confined here)"
            )


def describe(schema: type[Any] = StudyConfig, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, help with unit) of every setting, for ``synthmix run --help``."""
    for spec in dataclasses.fields(schema):
        default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if dataclasses.is_dataclass(default):
            yield from describe(type(default), f"{prefix}{spec.name}.")
            continue
        about = spec.metadata.get("help", "")
        unit, choices = spec.metadata.get("unit", ""), spec.metadata.get("choices", ())
        about += f" [{unit}]" if unit else ""
        about += f" ({' | '.join(choices)})" if choices else ""
        shown = "required" if default == "???" else "null" if default is None else str(default)
        yield f"{prefix}{spec.name}", str(spec.type).replace("synthmix.config.schema.", ""), shown, about

"""Runs of Weights & Biases, written into folders. Nothing here asks the network.

A cell's run lies in its folder, as ``wandb/offline-run-*``, and is what ``wandb sync`` sends. ``wandb/written.json``
names it once it is whole, and says what it was made of.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from synthmix import keys
from synthmix.callbacks.base import CellContext
from synthmix.callbacks.wandb_media import draw_reliability, read_samples
from synthmix.callbacks.wandb_upload import is_sent
from synthmix.config import WandbConfig
from synthmix.errors import DataError, UserError
from synthmix.files import read_jsonl_prefix, write_json

#: Raised when a run says something else about the same cell: runs of an older format are written again.
FORMAT = 1
#: Namespaces of ``metrics.jsonl`` whose axis is the iteration; that of ``train/*`` is the optimizer step.
ITERATION_SPACES = ("eval/*", "calibration/*", "diversity/*", "monitoring/*", "pool/*")
#: What W&B allows a tag, in characters.
LONGEST_TAG = 64
#: Seconds that W&B's own process on this machine, which writes the file, may take to start.
_PATIENCE = 30.0
#: Settings of a study that say where files lie, which is nobody's business but this machine's.
_PLACES = ("store", "wandb")


@dataclass(frozen=True)
class CellRun:
    """What a cell's run is made of.

    ``config`` is ``config.yaml`` (``cell``, ``model``, ``study``), ``result`` is ``result.json``, empty where the cell
    has none yet.
    """

    name: str
    hash: str
    group: str
    iteration: int
    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_context(cls, cell: CellContext) -> CellRun:
        """The run of a cell that has just ended."""
        return cls(cell.name, cell.hash, cell.group, cell.iteration, cell.folder, cell.config, _result(cell.folder))

    @classmethod
    def of_folder(cls, folder: Path, study: str) -> CellRun:
        """The run of a finished cell, as part of ``study``.

        Raises:
            DataError: ``config.yaml`` or ``result.json`` is missing or cannot be read.
        """
        path = folder / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            cell = config["cell"]
            group = str(cell["name"]).rsplit(".s", 1)[0]
            config = config | {"study": config["study"] | {"name": study}}
            return cls(cell["name"], cell["hash"], group, int(cell["iteration"]), folder, config, _result(folder))
        except FileNotFoundError as error:
            raise DataError("no such file; a finished cell has one", path) from error
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not the description of a cell: {type(error).__name__}: {error}", path) from error

    @property
    def study(self) -> str:
        """The study that the run is written for."""
        return str((self.config.get("study") or {}).get("name", ""))

    @property
    def axes(self) -> dict[str, Any]:
        """The cell's place in the grid."""
        return dict(self.config.get("cell") or {})

    @property
    def job_type(self) -> str:
        return "phase0" if self.iteration == 0 else f"iteration-{self.iteration}"

    def tags(self, studies: Sequence[str]) -> tuple[str, ...]:
        """Task, model, mode, ``p=30``, the task's family and the studies: what runs are filtered by."""
        axes = self.axes
        words = [axes.get("task"), axes.get("model"), axes.get("mode")]
        words += [f"p={100 * axes['proportion']:g}"] if "proportion" in axes else []
        words += [self.result.get("family"), *studies]
        return tuple(dict.fromkeys(str(word)[:LONGEST_TAG] for word in words if word))

    def flat_config(self) -> dict[str, Any]:
        """The cell's axes side by side, then the model, the study and the versions, each a section.

        ``chain`` is the group without its iteration: what a line over iterations is drawn for.
        """
        study = {key: value for key, value in (self.config.get("study") or {}).items() if key not in _PLACES}
        study["data"] = {key: value for key, value in (study.get("data") or {}).items() if key != "root"}
        named = {"group": self.group, "chain": self.group.rsplit(".it", 1)[0]}
        measured = {key: self.result[key] for key in ("family", "metric", "versions") if key in self.result}
        return self.axes | named | measured | {"model_config": dict(self.config.get("model") or {}), "study": study}


def write_cell_run(cell: CellRun, config: WandbConfig) -> Path:
    """Writes a cell's run into its folder, unless one made of the same files is there; returns the run's folder.

    A run that is written anew takes the place of the one before and keeps its studies among the tags.

    Raises:
        DataError: ``metrics.jsonl`` cannot be read.
    """
    known = _written(cell.folder)
    studies = list(dict.fromkeys([*known.get("studies", []), *([cell.study] if cell.study else [])]))
    digest = _digest(cell, studies, config)
    if known.get("digest") == digest and _is_in_place(cell.folder, known):
        return cell.folder / "wandb" / str(known["run"])
    history = merged_history(cell.folder / "metrics.jsonl")
    with offline_run(
        cell.folder,
        config,
        id=cell.hash,
        name=cell.name,
        group=cell.group,
        job_type=cell.job_type,
        tags=cell.tags(studies),
        config=cell.flat_config(),
    ) as run:
        _log(run, cell, history)
        written = Path(run.settings.sync_dir)
    _take_place(written, cell.hash)
    write_json(
        cell.folder / "wandb" / "written.json",
        {"format": FORMAT, "run": written.name, "digest": digest, "studies": studies, "place": _place(cell.folder)},
    )
    return written


def is_written(cell: CellRun, config: WandbConfig) -> bool:
    """Whether the cell's folder holds a whole run for this study, made of the files that lie there now."""
    known = _written(cell.folder)
    if cell.study not in known.get("studies", []) or not _is_in_place(cell.folder, known):
        return False
    return bool(known["digest"] == _digest(cell, known["studies"], config))


def merged_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a run: one for each optimizer step, one for each phase after training.

    One step may stand in several lines of ``metrics.jsonl``, from several loggers or from before and after a kill; the
    later value counts. A torn last line is passed over.

    Raises:
        DataError: a line before the last is not what this package writes.
    """
    merged: dict[tuple[str, int | None], dict[str, Any]] = {}
    try:
        for line in read_jsonl_prefix(path):
            merged.setdefault((line["phase"], line["step"]), {}).update(line)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a cell's record of numbers: {type(error).__name__}: {error}", path) from error
    rows = []
    for (phase, at), line in merged.items():
        values = {name: value for name, value in line.items() if "/" in name}
        step = {"train/step": at} if phase == "train" else {}
        rows.append(values | step | {"iteration": line["iteration"]})
    return rows


def first_line(error: Exception) -> str:
    """What an error says, in one line: its type where it says nothing."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def require_wandb() -> None:
    """Raises UserError where the package wandb cannot be imported."""
    try:
        import wandb  # noqa: F401
    except Exception as error:  # a broken installation raises more than ImportError
        raise UserError(
            f"the package wandb cannot be imported ({type(error).__name__}: {error}); 'pip install wandb' brings it. "
            "Nothing is lost: metrics.jsonl holds every number"
        ) from error


@contextmanager
def offline_run(folder: Path, where: WandbConfig, **identity: Any) -> Iterator[Any]:
    """A W&B run that is written under ``folder / "wandb"`` and finished at the end of the block.

    Neither this machine's name nor its paths, packages or sensors are part of it: what it says was measured before,
    maybe elsewhere. (The file names one path, which is not sent: that of a table's copy inside the folder.)
    """
    # The service that writes the file would report to W&B's server when it ends, and wait ten seconds for an answer.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True,
        x_disable_machine_info=True, x_save_requirements=False, host="", init_timeout=_PATIENCE,
        x_service_wait=_PATIENCE,
    )  # fmt: skip
    run = wandb.init(
        project=where.project, entity=where.entity, mode="offline", dir=str(folder), settings=settings,
        reinit="create_new", **identity,
    )  # fmt: skip
    failed, elsewhere = True, os.environ.get("WANDB_DATA_DIR")
    # Tables are also artifacts, whose files would wait under the user's home until they are sent.
    os.environ["WANDB_DATA_DIR"] = str(Path(run.settings.sync_dir) / "data")
    try:
        yield run
        failed = False
    finally:
        _restore("WANDB_DATA_DIR", elsewhere)
        run.finish(exit_code=int(failed))


def write_summary_run(
    config: WandbConfig,
    study: str,
    tables: Mapping[str, pd.DataFrame],
    images: Mapping[str, Path],
    scalars: Mapping[str, float],
    folder: Path,
) -> Path:
    """Writes the run of a whole study (job type ``summary``) into the study's folder; returns the run's folder.

    Its id follows from the study's name and the cells of ``plan.json`` there, so a study that goes on keeps its run
    and one with other cells has another.

    Args:
        tables: become W&B tables; cells that hold lists or dicts are written as JSON.
        images: paths of raster images; SVG and HTML become pages.
        scalars: become the run's summary, by these names.
        folder: ``runs/studies/<study>``.
    """
    identity = summary_id(study, folder)
    with offline_run(
        folder, config, id=identity, name=f"{study}: summary", group=study, job_type="summary",
        tags=("summary", study[:LONGEST_TAG]), config={"study": {"name": study}},
    ) as run:  # fmt: skip
        run.log({name: _table(frame) for name, frame in tables.items()} | {n: _picture(p) for n, p in images.items()})
        run.summary.update({name: float(value) for name, value in scalars.items()})
        written = Path(run.settings.sync_dir)
    _take_place(written, identity)
    return written


def summary_id(study: str, folder: Path) -> str:
    """The id of a study's summary run."""
    path = folder / "plan.json"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
    return "summary-" + keys.digest(study, sorted(cell["hash"] for cell in cells))


def _log(run: Any, cell: CellRun, history: Sequence[Mapping[str, Any]]) -> None:
    import wandb

    run.define_metric("iteration")
    run.define_metric("train/*", step_metric="train/step")
    for space in ITERATION_SPACES:
        run.define_metric(space, step_metric="iteration")
    for row in history:
        run.log(dict(row))
    media: dict[str, Any] = {
        f"calibration/reliability_{split}": wandb.Image(picture)
        for split, picture in draw_reliability(cell.folder / "items.parquet", _bins(cell)).items()
    }
    samples = read_samples(cell.folder / "synthetic.jsonl")
    if len(samples):
        media["pool/samples"] = _table(samples)
    if media:
        run.log(media | {"iteration": cell.iteration})


def _bins(cell: CellRun) -> int:
    return int(((cell.config.get("study") or {}).get("evaluation") or {}).get("bins", 10))


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    rows: list[Iterable[Any]] = [[_plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return wandb.Table(columns=[str(column) for column in frame], data=rows, allow_mixed_types=True)


def _plain(value: Any) -> Any:
    """A table's cell as JSON knows it: text, number, truth, or nothing; what holds several values becomes JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | dict | np.ndarray):
        return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))
    if value is None or pd.isna(value):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def _picture(path: Path) -> Any:
    import wandb

    if path.suffix in (".svg", ".html"):
        return wandb.Html(path.read_text(encoding="utf-8"), inject=False)
    return wandb.Image(str(path))


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", path) from error
    return found if isinstance(found, dict) else {}


def _digest(cell: CellRun, studies: Sequence[str], config: WandbConfig) -> str:
    metrics = cell.folder / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8", errors="replace") if metrics.is_file() else ""
    return keys.digest(FORMAT, config.project, config.entity, list(studies), cell.result.get("finished"), text)


def _written(folder: Path) -> dict[str, Any]:
    """What ``written.json`` says of a run that is still there."""
    path = folder / "wandb" / "written.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if (path.parent / known["run"]).is_dir() and {"digest", "studies", "place"} <= set(known) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _place(folder: Path) -> str:
    return keys.digest(str(folder.resolve()))


def _is_in_place(folder: Path, known: Mapping[str, Any]) -> bool:
    """Whether a run can be sent from where it is: it names the place of its tables, so a copy of it cannot."""
    return known["place"] == _place(folder) or is_sent(folder / "wandb" / str(known["run"]))


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _take_place(written: Path, identity: str) -> None:
    """Removes other folders of the same run: earlier ones, and what a killed process left."""
    for other in written.parent.glob(f"offline-run-*-{identity}"):
        if other != written:
            shutil.rmtree(other, ignore_errors=True)

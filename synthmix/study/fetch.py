"""Weights and data brought into the caches of a machine with a network, for those that have none.

What was fetched stands in ``fetched.json`` in the study's folder: repositories with their commits, files with their
checksums, splits with the number and the digest of their records. A second fetch verifies and downloads nothing; where
the Hub is out of reach, it verifies against that file.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from synthmix.config import DataConfig, ModelConfig, StudyConfig, load_model
from synthmix.data.records import find_layout, read_split
from synthmix.errors import DataError, UserError
from synthmix.files import write_json
from synthmix.models.fingerprint import weights_fingerprint
from synthmix.study import hub_files
from synthmix.study.hub_files import HubFile, Keeper, Listing, Repository, Unreachable
from synthmix.study.offline import check_offline
from synthmix.study.store import Store
from synthmix.tasks import Task, get_task

MANIFEST = "fetched.json"


def models_of(config: StudyConfig) -> dict[str, ModelConfig]:
    """Every model that a study or one of its grids names."""
    named = [config.models, *(grid.models or [] for grid in config.grids)]
    return {name: load_model(name) for names in named for name in names}


def tasks_of(config: StudyConfig) -> dict[str, Task]:
    """Every task that a study or one of its grids names, by the name that its cells have."""
    named = [config.tasks, *(grid.tasks or [] for grid in config.grids)]
    return {task.name: task for names in named for task in map(get_task, names)}


def fetch_study(config: StudyConfig, arguments: list[str], console: Console) -> Path:
    """Fetches and verifies all that a study loads; returns the path of the manifest.

    Args:
        arguments: the study and its settings as the command line gave them, for the check without a network.

    Raises:
        UserError: everything that could not be had, each with the key that names it.
    """
    store = Store(config.store.root)
    path = store.study_folder(config.name) / MANIFEST
    fetcher = _Fetcher(config.data, _read_manifest(path), console)
    found: dict[str, dict[str, Any]] = {"models": {}, "data": {}}
    problems: list[str] = []
    fetcher.check_room(models_of(config).values())
    jobs: list[tuple[str, str, Any]] = [("models", name, model) for name, model in models_of(config).items()]
    jobs += [("data", name, task) for name, task in tasks_of(config).items()]
    for kind, name, thing in jobs:
        try:
            found[kind][name] = fetcher.model(thing) if kind == "models" else fetcher.data(thing)
        except Unreachable:  # nor will it answer for the next
            raise
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    store.create()
    write_json(path, {"written": _now(), "cache": str(_cache_folder())} | found)
    _check(arguments, console)
    return path


def _check(arguments: list[str], console: Console) -> None:
    """Loads everything again in a process without a network."""
    found = check_offline(arguments, build=True)
    for kind in (found.models, found.data):
        for name, finding in kind.items():
            console.print(
                f"  {name}: {finding.problem or finding.found}", highlight=False, markup=False, soft_wrap=True
            )
    if problems := found.problems:
        raise UserError("fetched, but without a network this cannot be loaded:\n" + "\n".join(problems))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class _Fetcher:
    """One run of ``fetch``: what it says, and what the last one found (``before``)."""

    def __init__(self, config: DataConfig, before: dict[str, Any], console: Console) -> None:
        self.config = config
        self.before = before
        self.console = console
        self._listings: dict[Repository, Listing] = {}
        if not console.is_terminal:
            _quiet()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def check_room(self, models: Iterable[ModelConfig]) -> None:
        """Raises a :class:`UserError` if the cache has no room for all of the models together."""
        wanted: dict[str, int] = {}
        for model in models:
            if model.source == "hub":
                repository = _repository(model)
                with contextlib.suppress(UserError):  # said when it is the model's turn
                    wanted[model.name] = hub_files.to_download(repository, self._ask(repository))
        named = ", ".join(f"{name} {hub_files.size(bytes_)}" for name, bytes_ in wanted.items() if bytes_)
        hub_files.check_room(named, sum(wanted.values()))

    def _ask(self, repository: Repository) -> Listing:
        if repository not in self._listings:
            self._listings[repository] = hub_files.ask(repository)
        return self._listings[repository]

    # -- models -----------------------------------------------------------------------------------------------------

    def model(self, model: ModelConfig) -> dict[str, Any]:
        """A model's entry in the manifest, once all that loading reads is there and whole."""
        if model.source == "hub":
            entry = self._hub_model(model)
        else:
            entry = self._local_model(model)
        return {"source": model.source, "id": model.id} | entry

    def _hub_model(self, model: ModelConfig) -> dict[str, Any]:
        repository = _repository(model)
        listing, online = self._list(repository, self.before.get("models", {}).get(model.name, {}))
        with _progress(self.console) as advance:
            keeper = Keeper(repository, listing, self.say, advance)
            weights = hub_files.weights_name(repository, listing.files)
            files = keeper.secure(hub_files.small_names(listing.files, weights), online)
            files += keeper.secure(self._pieces(repository, listing, weights), online)
            if online:
                keeper.touch("config.json")  # also notes which commit the revision is, which loading asks for offline
        total = sum(file.bytes for file in files)
        self.say(f"{model.name}: {repository}: {len(files)} files, {hub_files.size(total)}, checksums right")
        return {"revision": model.revision, "commit": listing.commit, "bytes": total, "files": _entries(files)}

    @staticmethod
    def _pieces(repository: Repository, listing: Listing, weights: str) -> list[str]:
        if not weights.endswith(".index.json"):
            return [weights]
        index = hub_files.cached(repository, listing.commit, weights)
        assert index is not None
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if absent := [name for name in names if name not in listing.files]:
            raise UserError(f"{repository.given}: {weights} names {', '.join(absent)}, which the repository lacks")
        return names

    def _list(self, repository: Repository, before: dict[str, Any]) -> tuple[Listing, bool]:
        """The repository's files, and whether the Hub said so; else the last fetch of the same revision did."""
        try:
            return self._ask(repository), True
        except Unreachable as error:
            same = (before.get("id"), before.get("revision")) == (repository.id, repository.revision)
            if not same or not before.get("files"):
                raise
            self.say(f"{repository.id}: verified against the last fetch, for {error}")
            files = {entry["name"]: HubFile(**entry) for entry in before["files"]}
            return Listing(before["commit"], files), False

    def _local_model(self, model: ModelConfig) -> dict[str, Any]:
        if model.source == "nano":
            from synthmix.models.nano import SHIPPED, ensure_nano

            if model.id not in SHIPPED:
                self.say(f"{model.name}: built if the cache has none yet, which takes minutes")
            folder: str | Path = ensure_nano(model.id)
        elif model.source == "gguf":
            from synthmix.models.loading import load_tokenizer

            folder = load_tokenizer(model).name_or_path  # dequantised on first use
        else:
            folder = Path(model.id).expanduser().absolute()
        self.say(f"{model.name}: {folder}")
        return {"folder": str(folder), "fingerprint": weights_fingerprint(model)}

    # -- data -------------------------------------------------------------------------------------------------------

    def data(self, task: Task) -> dict[str, Any]:
        """A task's entry in the manifest, once every split that it has can be read."""
        if task.source is None:
            self.say(f"{task.name}: written by its generator, nothing to fetch")
            return {"from": "generator"}
        layout, root = find_layout(task, task.source, self.config)
        before = self.before.get("data", {}).get(task.name, {})
        repositories = []
        if root is None:
            places = dict.fromkeys(part.place for part in layout.splits.values())
            repositories = [_DataRepository(task, place, before, self) for place in places]
        for repository in repositories:
            repository.verify()
        splits = {split: self._split(task, split, before) for split in layout.splits}
        for repository in repositories:
            repository.verify()  # what reading the splits has downloaded
        counts = ", ".join(f"{split} {entry['records']}" for split, entry in splits.items())
        self.say(f"{task.name}: {root or ', '.join(r.repository.id for r in repositories)}: {counts} records")
        return {
            "from": str(root) if root is not None else "hub",
            "repositories": [repository.entry() for repository in repositories],
            "splits": splits,
        }

    def _split(self, task: Task, split: str, before: dict[str, Any]) -> dict[str, Any]:
        assert task.source is not None
        layout, root = find_layout(task, task.source, self.config)
        examples = read_split(task, layout, root, split).examples
        digest = hashlib.sha256()
        for example in examples:
            line = json.dumps([example.id, example.record], sort_keys=True, default=str)
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        entry = {"records": len(examples), "sha256": digest.hexdigest()}
        last = before.get("splits", {}).get(split, entry)
        if last["sha256"] != entry["sha256"]:
            self.say(
                f"{task.name}: {split} is not what the last fetch found ({last['records']} records, now "
                f"{entry['records']}); cells that are done were computed from the old one"
            )
        return entry


class _DataRepository:
    """A data set's repository: what the cache has of it is verified before it is read, and after."""

    def __init__(self, task: Task, place: str, before: dict[str, Any], fetcher: _Fetcher) -> None:
        self.repository = Repository(place, None, f"task {task.name}", "dataset")
        self.fetcher = fetcher
        self.listing: Listing | None = None
        self.files: list[HubFile] = []
        self._seen: set[str] = set()
        try:
            self.listing = hub_files.ask(self.repository)
        except Unreachable as error:
            if not before:
                raise DataError(
                    f"{error}. Or set SYNTHMIX_DATA (or data.root) to a folder with the files that docs/tasks.md lists"
                ) from error
            fetcher.say(f"{place}: read from the cache, for {error}")

    def verify(self) -> None:
        if self.listing is None:
            return
        with _progress(self.fetcher.console) as advance:
            keeper = Keeper(self.repository, self.listing, self.fetcher.say, advance)
            self.files = keeper.verify_cached(self._seen)

    def entry(self) -> dict[str, Any]:
        commit = self.listing.commit if self.listing else None
        return {"id": self.repository.id, "commit": commit, "files": _entries(self.files)}


def _repository(model: ModelConfig) -> Repository:
    return Repository(model.id, model.revision, f"configs/model/{model.name}.yaml")


def _entries(files: list[HubFile]) -> list[dict[str, Any]]:
    return [file.to_dict() for file in files]


def _quiet() -> None:
    """No bars in a log."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[hub_files.Advance]:
    """A bar for each checksum that takes a while, where somebody looks."""
    columns = (TextColumn("verifying {task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bars: dict[str, Any] = {}

    def advance(file: HubFile, done: int) -> None:
        if file.name not in bars:
            bars[file.name] = progress.add_task(file.name, total=file.bytes)
        progress.update(bars[file.name], completed=done, visible=done < file.bytes)

    with progress:
        yield advance

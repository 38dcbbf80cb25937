"""A repository of the Hub and what the cache holds of it: missing, damaged or whole.

The Hub names a file by its content: the SHA-256 of what Git LFS keeps, the Git object id of everything else. Both are
computed from the bytes on the disk, so a file that passes is the one that was published.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from synthmix.errors import UserError
from synthmix.files import disk_errors

#: Weights in the order in which loading looks for them; an index names the files of a model in pieces.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: What else loading reads, at the root of a repository: configuration, tokenizer, chat templates.
SMALL = (".json", ".model", ".txt", ".jinja", ".tiktoken")
#: Left free on the cache's disk when a download begins.
SPARE_BYTES = 2**28
_CHUNK = 1 << 23

Say = Callable[[str], None]


class Unreachable(UserError):
    """The Hub does not answer, or is not to be asked."""


@dataclass(frozen=True)
class HubFile:
    """A file as it was published; ``digest`` is a SHA-256 (64 digits) or a Git object id (40)."""

    name: str
    bytes: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


#: Called with a file and the bytes read so far while its checksum is computed.
Advance = Callable[[HubFile, int], None]


@dataclass(frozen=True)
class Repository:
    """A repository at a revision; ``where`` says in messages who asks for it (``configs/model/x.yaml``)."""

    id: str
    revision: str | None
    where: str
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        return f"{self.id} at {self.revision}" if self.revision else self.id

    @property
    def given(self) -> str:
        revision = f", revision = {self.revision!r}" if self.revision else ""
        return f"{self.where}: id = {self.id!r}{revision}"


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit, by name."""

    commit: str
    files: dict[str, HubFile]


def ask(repository: Repository) -> Listing:
    """What the Hub says that a repository holds.

    Raises:
        Unreachable: no answer.
        UserError: no such repository or revision, or one that asks for an account.
    """
    from huggingface_hub import HfApi

    with hub_errors(repository):
        info = HfApi().repo_info(
            repository.id, revision=repository.revision, repo_type=repository.kind, files_metadata=True
        )
    files = {}
    for entry in getattr(info, "siblings", None) or []:
        digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        files[entry.rfilename] = HubFile(entry.rfilename, int(entry.size or 0), str(digest))
    return Listing(str(info.sha), files)


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """The errors of the Hub's client in words, with the key that they are about."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
        XetDownloadError,
    )

    site = constants.ENDPOINT
    page = f"{site}/{'datasets/' if repository.kind == 'dataset' else ''}{repository.id}"
    try:
        with disk_errors(Path(constants.HF_HUB_CACHE)):
            yield
    except UserError:  # ours, a full disk among them
        raise
    except GatedRepoError as error:
        raise UserError(
            f"{repository.given}: access is restricted; accept its terms on {page}, then run 'hf auth login' or set "
            "HF_TOKEN, and fetch again"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repository.given}: {site} has no such {repository.kind}, or it is private; correct id, or run "
            "'hf auth login' if you may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{repository.given}: the repository has no such revision; expected a branch, a tag or a commit of {page}"
        ) from error
    except HFValidationError as error:
        raise UserError(f"{repository.given}: not the name of a repository; expected OWNER/NAME") from error
    except OfflineModeIsEnabled as error:
        raise Unreachable(f"{repository.given}: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it") from error
    except (OSError, HTTPError, RevisionResolutionError, XetDownloadError) as error:
        raise Unreachable(
            f"{repository.given}: {site} cannot be reached ({type(error).__name__}: {_first_line(error)}). Run fetch "
            "where there is a network, such as a login node; files that are whole are kept"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- which files ------------------------------------------------------------------------------------------------------


def weights_name(repository: Repository, names: Iterable[str]) -> str:
    """The file of weights, or their index, that loading takes: safetensors where there are any.

    Raises:
        UserError: there are none of a kind that can be loaded.
    """
    known = set(names)
    for name in WEIGHTS:
        if name in known:
            return name
    raise UserError(
        f"{repository.given}: the repository has no weights that can be loaded ({', '.join(WEIGHTS)}); it has "
        f"{', '.join(sorted(known)[:8]) or 'no files'}"
    )


def small_names(names: Iterable[str], weights: str) -> list[str]:
    """Configuration and tokenizer, with the index if the weights are in pieces; no weights, no index of other weights."""
    chosen = []
    for name in names:
        at_root = "/" not in name and name.endswith(SMALL) and not name.endswith(".index.json")
        if at_root or name == weights and name.endswith(".json") or name.startswith("additional_chat_templates/"):
            chosen.append(name)
    return sorted(chosen)


def to_download(repository: Repository, listing: Listing) -> int:
    """Bytes that loading needs and the cache lacks; the pieces of weights are known by their names before the index is."""
    weights = weights_name(repository, listing.files)
    stem, ending = weights.removesuffix(".index.json").rsplit(".", 1)
    own = [f for f in listing.files if f == weights or (f.startswith(f"{stem}-") and f.endswith(f".{ending}"))]
    names = {*small_names(listing.files, weights), *(own if weights.endswith(".index.json") else [weights])}
    return sum(listing.files[name].bytes for name in names if cached(repository, listing.commit, name) is None)


# -- the cache --------------------------------------------------------------------------------------------------------


def cached(repository: Repository, commit: str, name: str) -> Path | None:
    """Where the cache has a file of a commit."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.id, name, revision=commit, repo_type=repository.kind)
    return Path(found) if isinstance(found, str) else None


def is_whole(path: Path, file: HubFile, advance: Advance | None = None) -> bool:
    """Whether a file on the disk is the one that was published: its length, then its checksum."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(b"blob %d\0" % file.bytes)
    read = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            read += len(chunk)
            if advance is not None:
                advance(file, read)
    return digest.hexdigest() == file.digest


def discard(path: Path) -> None:
    """Removes a cached file: the link in the snapshot and what it leads to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


class Keeper:
    """Brings files of a repository into the cache and sees that they are whole."""

    def __init__(self, repository: Repository, listing: Listing, say: Say, advance: Advance | None = None) -> None:
        self.repository = repository
        self.listing = listing
        self.say = say
        self.advance = advance

    def secure(self, names: Sequence[str], download: bool = True) -> list[HubFile]:
        """Each of ``names``, whole in the cache; what is damaged is removed and fetched again, once.

        Raises:
            Unreachable: the Hub does not answer, or is not asked (``download`` False), and a file is missing.
            UserError: too little room, or a file that arrives damaged twice.
        """
        files = [self.listing.files[name] for name in names]
        missing = [file for file in files if not self._has(file)]
        if missing and not download:
            raise Unreachable(f"{self.repository.given}: not in the cache: {', '.join(f.name for f in missing)}")
        check_room(self.repository.given, sum(file.bytes for file in missing))
        for file in missing:
            self._fetch(file)
        return files

    def _has(self, file: HubFile) -> bool:
        path = cached(self.repository, self.listing.commit, file.name)
        if path is None:
            return False
        if is_whole(path, file, self.advance):
            return True
        self.say(f"{self.repository.id}: {file.name} is damaged in the cache; removed: {path}")
        discard(path)
        return False

    def _fetch(self, file: HubFile) -> None:
        self.say(f"{self.repository.id}: {file.name}, {size(file.bytes)}")
        for _ in range(2):
            self.touch(file.name)
            if self._has(file):
                return
        raise UserError(
            f"{self.repository.given}: {file.name} arrived damaged twice (its checksum is not {file.digest[:12]}…); "
            "a proxy may change it, or the disk may be failing"
        )

    def touch(self, name: str) -> None:
        """Asks the library for a file: downloads it if the cache lacks it, and notes what the revision points to."""
        from huggingface_hub import hf_hub_download

        with hub_errors(self.repository):
            hf_hub_download(self.repository.id, name, revision=self.repository.revision, repo_type=self.repository.kind)

    def verify_cached(self, seen: set[str]) -> list[HubFile]:
        """Every file of the listing that the cache has, verified unless in ``seen``; damaged ones are fetched again."""
        present = [f.name for f in self.listing.files.values() if cached(self.repository, self.listing.commit, f.name)]
        self.secure([name for name in present if name not in seen])
        seen.update(present)
        return [self.listing.files[name] for name in present]


def check_room(what: str, wanted: int) -> None:
    """Raises a :class:`UserError` if the cache's file system has no room for ``wanted`` bytes."""
    from huggingface_hub import constants

    if not wanted:
        return
    folder = existing(Path(constants.HF_HUB_CACHE))
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        raise UserError(
            f"{what}: {size(wanted)} to download, but {constants.HF_HUB_CACHE} has {size(free)} free; make "
            "room, or set HF_HOME (HF_HUB_CACHE) to a folder on a larger disk, for the jobs too"
        )


def existing(path: Path) -> Path:
    """A path, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def size(n: float) -> str:
    """Bytes in words."""
    for unit, one in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= one:
            return f"{n / one:.1f} {unit}"
    return f"{n:.0f} B"

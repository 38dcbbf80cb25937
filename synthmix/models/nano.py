"""The nano ladder: four GPT-NeoX models, from 0.3M to 10M parameters, that need neither a network nor a GPU.

The two smaller ones are shipped with the package; the others are pretrained on first use (see
:mod:`synthmix.models.pretrain`) and kept in ``$SYNTHMIX_CACHE``, by default ``~/.cache/synthmix``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from synthmix.errors import ConfigError, UserError, unknown
from synthmix.keys import digest

ASSETS = Path(__file__).parent / "assets"
TOKENIZER = ASSETS / "nano-tokenizer"
CHECKSUMS = "checksums.json"
#: Longest document, in tokens; rotary embeddings need no table, so this only bounds memory.
CONTEXT = 512
EOS_TOKEN = "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """Width and depth of a rung, and how it is pretrained: ``steps`` batches of ``batch`` documents.

    ``threads`` is part of the recipe because other counts sum in another order and round differently.
    """

    layers: int
    width: int
    heads: int
    steps: int
    learning_rate: float
    batch: int = 64
    threads: int = 1


LADDER: dict[str, Shape] = {
    "nano-0.3m": Shape(layers=3, width=64, heads=4, steps=1500, learning_rate=3e-3),
    "nano-0.9m": Shape(layers=4, width=120, heads=5, steps=950, learning_rate=3e-3),
    "nano-3m": Shape(layers=5, width=208, heads=8, steps=1500, learning_rate=2e-3, threads=2),
    "nano-10m": Shape(layers=6, width=352, heads=11, steps=1100, learning_rate=1e-3, threads=2),
}
SHIPPED = ("nano-0.3m", "nano-0.9m")


def shape_of(name: str) -> Shape:
    """The shape called ``name``; :class:`ConfigError` with a near match if there is none."""
    if name not in LADDER:
        raise ConfigError([unknown("nano model", name, list(LADDER))])
    return LADDER[name]


def cache_dir() -> Path:
    """Where built models are kept: ``$SYNTHMIX_CACHE``, or ``~/.cache/synthmix``."""
    return Path(os.environ.get("SYNTHMIX_CACHE") or "~/.cache/synthmix").expanduser()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checksums(folder: Path) -> dict[str, str]:
    """Records the SHA-256 of every file that loading ``folder`` reads; returns them by file name."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix in {".safetensors", ".json"} and p.name != CHECKSUMS)
    sums = {name: sha256_of(folder / name) for name in names}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n")
    return sums


def verify(folder: Path) -> Path:
    """``folder``, if every file is as its checksums say.

    Raises:
        UserError: naming the file that is missing or differs.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CHECKSUMS}: cannot be read ({error}); install synthmix again") from error
    for name, expected in sums.items():
        path = folder / name
        given = sha256_of(path) if path.is_file() else "no such file"
        if given != expected:
            raise UserError(
                f"{path}: SHA-256 is {given}, expected {expected}. The file was changed or is damaged; "
                f"{'install synthmix again' if folder.parent == ASSETS else f'delete {folder} to build it again'}"
            )
    return folder


def recipe(name: str) -> dict[str, object]:
    """Everything that determines a pretrained model: shape, corpus, tokenizer."""
    from synthmix.models.pretrain import CORPUS_VERSION, MIX, POOLS, SEED

    return {
        "name": name,
        **asdict(shape_of(name)),
        "mix": MIX,
        "pools": POOLS,
        "seed": SEED,
        "corpus": CORPUS_VERSION,
        "tokenizer": sha256_of(TOKENIZER / "tokenizer.json"),
    }


def ensure_nano(name: str) -> Path:
    """The folder of a nano model, loadable with ``from_pretrained`` (model and tokenizer); builds it if need be.

    Two processes never build the same model: the second waits for the first. A folder appears whole or not at all.

    Raises:
        ConfigError: for an unknown name.
        UserError: if a file is not the one that was shipped or built.
    """
    shape_of(name)
    if name in SHIPPED:
        return verify(ASSETS / name)
    folder = cache_dir() / f"{name}-{digest(recipe(name), length=8)}"
    if not folder.is_dir():
        _build(name, folder)
    return verify(folder)


def _build(name: str, folder: Path) -> None:
    from filelock import FileLock

    from synthmix.models.pretrain import pretrain

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            pretrain(name, scratch)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

"""What a model's weights are, in a few characters: part of the identity of every cell that starts from them."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from synthmix import keys
from synthmix.config.schema import ModelConfig
from synthmix.models import nano

#: Bytes read at each end of a file of weights; its size and both ends tell files apart without reading gigabytes.
_END = 1 << 20


def weights_fingerprint(model: ModelConfig) -> str:
    """Digest of the weights and the tokenizer behind a model's configuration; "" for what is not on this machine.

    Shipped nano models by their checksums, built ones by their recipe; folders and GGUF files by size and both ends of
    every file. The Hub's are named by repository and revision, which the configuration holds already.
    """
    if model.source == "nano":
        if model.id in nano.SHIPPED:
            return keys.digest((nano.ASSETS / model.id / nano.CHECKSUMS).read_text())
        return keys.digest(nano.recipe(model.id)) if model.id in nano.LADDER else ""
    if model.source == "folder":
        folder = Path(model.id).expanduser()
        patterns = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.model")
        return _files(sorted(path for pattern in patterns for path in folder.glob(pattern)))
    if model.source == "gguf" and model.gguf_file:
        spec = importlib.util.find_spec(model.id)
        roots = list(spec.submodule_search_locations or []) if spec else []
        return _files([path for root in roots if (path := Path(root) / model.gguf_file).is_file()])
    return ""


def _files(paths: list[Path]) -> str:
    return keys.digest([(path.name, path.stat().st_size, _ends(path)) for path in paths]) if paths else ""


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, path.stat().st_size - _END))
        digest.update(file.read())
    return digest.hexdigest()

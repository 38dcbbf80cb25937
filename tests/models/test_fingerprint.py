"""A model's fingerprint follows its weights: cells of other weights are other cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthmix.config.schema import ModelConfig
from synthmix.models import nano, pretrain
from synthmix.models.fingerprint import weights_fingerprint


def model(source: str, id: str, **settings: object) -> ModelConfig:
    return ModelConfig(name="m", source=source, id=id, parameters=1, **settings)  # type: ignore[arg-type]


def test_a_folder_by_the_content_of_its_files(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    before = weights_fingerprint(model("folder", str(tmp_path)))
    (tmp_path / "notes.txt").write_text("changed")
    assert weights_fingerprint(model("folder", str(tmp_path))) == before != ""
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert weights_fingerprint(model("folder", str(tmp_path))) != before
    assert weights_fingerprint(model("folder", str(tmp_path / "nowhere"))) == ""


def test_nano_models_by_checksum_or_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(nano.LADDER)
    before = {name: weights_fingerprint(model("nano", name)) for name in names}
    assert len(set(before.values())) == len(names)
    monkeypatch.setattr(pretrain, "CORPUS_VERSION", pretrain.CORPUS_VERSION + 1)
    changed = {name for name in names if weights_fingerprint(model("nano", name)) != before[name]}
    assert changed == set(names) - set(nano.SHIPPED), "shipped weights are what they are, whatever the recipe says"


def test_a_gguf_file_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "w.gguf").write_bytes(b"GGUF" + bytes(64))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = model("gguf", "some_weights", gguf_file="w.gguf")
    before = weights_fingerprint(entry)
    (package / "w.gguf").write_bytes(b"GGUF" + bytes(63) + b"!")
    assert before != "" and weights_fingerprint(entry) != before
    assert weights_fingerprint(model("gguf", "not_installed_here", gguf_file="w.gguf")) == ""

"""Checkpoints that were cut or changed on the disk: what is accepted holds what was written, everything else is said."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.keys import generator, permutation
from synthmix.models.checkpoints import newest_checkpoint
from synthmix.models.sealed import MANIFEST, manifest
from synthmix.models.training import FitResult, fit


def train(folder: Path, steps: int) -> tuple[list[torch.Tensor], FitResult]:
    """Five steps an epoch of a model of some thousand parameters."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=67, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    documents = []
    for i in range(40):
        rng = generator("doc", i)
        documents.append(Encoded(rng.integers(0, 67, int(rng.integers(3, 20))).tolist(), 2))
    data = MixtureDataModule(documents, lambda epoch: permutation(40, "order", epoch), 8, 8)
    model, settings = GPTNeoXForCausalLM(config), TrainingConfig(batch_size=8, epochs=3, max_steps=steps)
    result = fit(model, data, settings, HardwareConfig(micro_batch=8), folder, 1e-2)
    return [parameter.detach() for parameter in model.parameters()], result


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of five steps, and beside it an older one of two."""
    folder = tmp_path_factory.mktemp("written")
    train(folder / "older", 2)
    train(folder / "cell", 5)
    shutil.copy(folder / "older/checkpoints/last.ckpt", folder / "cell/hpc_ckpt_1.ckpt")
    return folder / "cell"


def content(path: Path) -> list[Any]:
    """Everything in a checkpoint, tensors as bytes."""

    def flat(value: Any) -> list[Any]:
        if isinstance(value, torch.Tensor):
            return [(tuple(value.shape), str(value.dtype), value.numpy().tobytes())]
        if isinstance(value, dict):
            return [part for name in value for part in (name, *flat(value[name]))]
        return [part for one in value for part in flat(one)] if isinstance(value, list | tuple) else [value]

    return flat(torch.load(path, weights_only=False))


def put(folder: Path, data: bytes, older: Path | None = None) -> Path:
    """A cell's folder whose checkpoint holds ``data``."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints/last.ckpt").write_bytes(data)
    if older is not None:
        shutil.copy(older, folder)
    return folder


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, written: Path, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    data = (written / "checkpoints/last.ckpt").read_bytes()
    folder = put(tmp_path, data[: int(kept * len(data))], written / "hpc_ckpt_1.ckpt")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(folder) == folder / "hpc_ckpt_1.ckpt"
    assert f"{folder / 'checkpoints/last.ckpt'} is not used: it cannot be read" in caplog.text
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt.torn"]


def test_one_byte_less_is_too_few(tmp_path: Path, written: Path) -> None:
    data = (written / "checkpoints/last.ckpt").read_bytes()
    assert newest_checkpoint(put(tmp_path / "whole", data)) is not None
    assert newest_checkpoint(put(tmp_path / "cut", data[:-1])) is None


def test_a_fit_starts_over_where_no_checkpoint_is_whole(tmp_path: Path, written: Path) -> None:
    expected, whole = train(tmp_path / "whole", 7)
    put(tmp_path / "cut", (written / "checkpoints/last.ckpt").read_bytes()[:-100])
    got, result = train(tmp_path / "cut", 7)
    assert result.resumed_from is None and result.steps == whole.steps == 7
    assert all(map(torch.equal, got, expected))


def records(path: Path) -> list[tuple[int, int]]:
    """Where the contents of a checkpoint's records lie: (first byte, number of bytes)."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    found = []
    for entry in entries:
        name, extra = (int.from_bytes(data[entry.header_offset + at :][:2], "little") for at in (26, 28))
        found.append((entry.header_offset + 30 + name + extra, entry.file_size))
    return found


def test_a_flipped_bit_in_any_record_is_found(tmp_path: Path, written: Path) -> None:
    path = written / "checkpoints/last.ckpt"
    data, draw = path.read_bytes(), generator("which bit", 0)
    for start, size in records(path):
        flipped = bytearray(data)
        flipped[start + int(draw.integers(size))] ^= 1 << int(draw.integers(8))
        assert newest_checkpoint(put(tmp_path, bytes(flipped))) is None


def test_what_is_accepted_holds_what_was_written(tmp_path: Path, written: Path) -> None:
    """Between the records there is padding, and what no reader looks at: such a flip may be passed over."""
    path = written / "checkpoints/last.ckpt"
    data, expected, draw = path.read_bytes(), content(path), generator("which bit", 1)
    refused = 0
    for at in draw.integers(len(data), size=120):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(draw.integers(8))
        found = newest_checkpoint(put(tmp_path, bytes(flipped)))
        refused += found is None
        assert found is None or content(found) == expected, f"a flip at byte {at} goes unseen"
    assert refused > 30


STOP = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import sharded_fits

jobs = [{"phase": "stop", "strategy": strategy, "model": sys.argv[2], "folder": f"{sys.argv[3]}/{strategy}", "options": {}}
        for strategy in ("deepspeed_stage_2", "fsdp2")]
for job in jobs:
    Path(job["folder"]).mkdir()
Path(sys.argv[3], "jobs.json").write_text(json.dumps(jobs))
sharded_fits.main(f"{sys.argv[3]}/jobs.json")
"""


@pytest.mark.slow
def test_a_damaged_folder_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a sharded strategy: each file cut, removed, and with a flipped bit, the manifest among them."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=67, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "model")
    words = [str(Path(__file__).parent), str(tmp_path / "model"), str(tmp_path)]
    subprocess.run([sys.executable, "-c", STOP, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    draw = generator("which bit", 2)
    for strategy in ("deepspeed_stage_2", "fsdp2"):
        whole = tmp_path / strategy / "checkpoints/last.ckpt"
        assert whole.is_dir() and newest_checkpoint(tmp_path / strategy) == whole
        files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size]
        assert len(files) > 2

        def damaged(file: Path, content: bytes | None, whole: Path = whole) -> Path | None:
            cell = tmp_path / "cell"
            shutil.rmtree(cell, ignore_errors=True)
            shutil.copytree(whole, cell / "checkpoints/last.ckpt")
            path = cell / "checkpoints/last.ckpt" / file
            path.unlink() if content is None else path.write_bytes(content)
            return newest_checkpoint(cell)

        for file in files:
            content = (whole / file).read_bytes()
            assert damaged(file, None) is None and damaged(file, content[: len(content) // 2]) is None
            assert damaged(file, content[:-2]) is None, "the last character of JSON may be a blank"
            for at in draw.integers(len(content), size=12):
                flipped = bytearray(content)
                flipped[at] ^= 1 << int(draw.integers(8))
                found = damaged(file, bytes(flipped))
                assert found is None or manifest(found) == manifest(whole), f"{file}: a flip at byte {at} goes unseen"
                assert found is None or file.name == MANIFEST, "blanks between its words"
    assert "last.ckpt is not used" in caplog.text

"""synthmix fetch: weights and data brought to a machine, against a real server; then a study without it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub.constants as constants
import pandas as pd
import pytest
from rich.console import Console

from synthmix.config import StudyConfig, load_study
from synthmix.errors import UserError
from synthmix.study.fetch import fetch_study, models_of, tasks_of

from .hub import Hub, Repository, serve

STUDY = """\
tasks: [gsm8k]
models: [wee]
proportions: [0.0]
iterations: 0
seeds: [0]
data: {train_examples: 32, validation_examples: 12, test_examples: 8}
training: {max_steps: 2}
evaluation: {diversity_samples: 4}
"""
MODEL = "source: hub\nid: lab/wee\nrevision: step7\nparameters: 60000\ncontext: 256\nlearning_rate: 0.001\n"
README = b"""\
---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.parquet}, {split: test, path: main/test.parquet}]
---
"""
#: What is asked for of lab/wee, in order; pytorch_model.bin is the same weights again.
WANTED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


def data_files() -> dict[str, bytes]:
    files = {"README.md": README}
    for split in ("train", "test"):
        records = [{"question": f"What is {i} and {i}?", "answer": f"{i}+{i}\n#### {2 * i}"} for i in range(60)]
        stream = io.BytesIO()
        pd.DataFrame(records).to_parquet(stream)
        files[f"main/{split}.parquet"] = stream.getvalue()
    return files


class Site(NamedTuple):
    """A machine with an empty cache, and the server that it can reach."""

    hub: Hub
    folder: Path
    cache: Path
    call: Callable[..., tuple[int, str]]

    def blob(self, ending: str) -> Path:
        """The one cached file with that name, as the snapshot has it."""
        (path,) = self.cache.glob(f"hub/*/snapshots/*/**/{ending}")
        return path


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path) -> Iterator[Site]:
    weights = {path.name: path.read_bytes() for path in sorted(tiny_model.iterdir())} | {"pytorch_model.bin": b"no"}
    for name, text in (("model/wee", MODEL), ("study/small", STUDY)):
        (tmp_path / f"configs/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"configs/{name}.yaml").write_text(text)
    served = {
        "models/lab/wee": Repository(weights, ("main", "step7")),
        "datasets/openai/gsm8k": Repository(data_files()),
    }
    with serve(served) as hub:

        def call(*words: str, **environment: str) -> tuple[int, str]:
            own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "WANDB_MODE": "disabled"}
            base = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SYNTHMIX_"))}
            done = subprocess.run(
                [sys.executable, "-m", "synthmix.cli", *words],
                env=base | own | environment, cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout + done.stderr

        yield Site(hub, tmp_path, tmp_path / "hf", call)


@pytest.mark.slow
def test_what_was_fetched_is_enough_for_a_run_without_a_network(site: Site) -> None:
    status, said = site.call("fetch", "small")
    assert status == 0, said
    assert "wee: lab/wee at step7: 5 files" in said and "gsm8k: openai/gsm8k: train 60, test 60 records" in said
    assert "wee: 74,144 parameters" in said and "gsm8k: train 48, validation 12, test 8" in said
    bodies = [name for name, _ in site.hub.bodies]
    assert bodies[: len(WANTED)] == WANTED and "pytorch_model.bin" not in bodies
    manifest = json.loads((site.folder / "runs/studies/small/fetched.json").read_text())
    assert [file["name"] for file in manifest["models"]["wee"]["files"]] == WANTED
    assert manifest["models"]["wee"]["commit"] == site.hub.repositories["models/lab/wee"].commit
    assert manifest["data"]["gsm8k"]["splits"]["train"]["records"] == 60
    site.hub.asked.clear()
    status, said = site.call("run", "small", HF_HUB_OFFLINE="1")
    assert status == 0, said
    assert site.hub.asked == [], "a run without a network asks none"
    assert len(list(site.folder.glob("runs/cells/*/result.json"))) == 1


@pytest.mark.slow
def test_a_second_fetch_sends_nothing_repairs_what_is_damaged_and_needs_no_hub(site: Site) -> None:
    assert site.call("fetch", "small")[0] == 0
    site.hub.bodies.clear()
    assert site.call("fetch", "small")[0] == 0
    assert site.hub.bodies == []
    weights, records = site.blob("model.safetensors"), site.blob("main/train.parquet")
    for path in (weights, records):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.resolve().write_bytes(content)
    status, said = site.call("fetch", "small")
    assert status == 0, said
    assert "lab/wee: model.safetensors is damaged in the cache; removed" in said
    assert "openai/gsm8k: main/train.parquet is damaged in the cache; removed" in said
    assert site.hub.bodies == [("model.safetensors", 0), ("main/train.parquet", 0)]
    status, said = site.call("fetch", "small", HF_HUB_OFFLINE="1")
    assert status == 0 and "lab/wee: verified against the last fetch" in said, said
    weights.resolve().write_bytes(b"x")
    status, said = site.call("fetch", "small", HF_HUB_OFFLINE="1")
    assert status == 2 and "not in the cache: model.safetensors" in said, said


@pytest.mark.slow
def test_weights_in_pieces_and_pickled_weights_load_without_a_network(site: Site) -> None:
    import torch
    from safetensors.torch import load, save

    files = dict(site.hub.repositories["models/lab/wee"].files)
    tensors = load(files.pop("model.safetensors"))
    names = sorted(tensors)
    pieces = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    index = {"metadata": {}, "weight_map": {name: piece for piece, own in pieces.items() for name in own}}
    split = {piece: save({name: tensors[name] for name in own}, {"format": "pt"}) for piece, own in pieces.items()}
    stream = io.BytesIO()
    torch.save(tensors, stream)
    served = {"pieces": files | split | {"model.safetensors.index.json": json.dumps(index).encode()}}
    served["pickled"] = files | {"pytorch_model.bin": stream.getvalue()}
    for name, content in served.items():
        site.hub.repositories[f"models/lab/{name}"] = Repository(content, ("main", "step7"))
        (site.folder / f"configs/model/{name}.yaml").write_text(MODEL.replace("lab/wee", f"lab/{name}"))
    status, said = site.call("fetch", "small", "models=[pieces,pickled]", "tasks=[nano-math]")
    assert status == 0, said
    assert {*pieces, "model.safetensors.index.json", "pytorch_model.bin"} <= {name for name, _ in site.hub.bodies}
    code = (
        "from synthmix.config import load_model as config; from synthmix.models.loading import load_model;"
        "print([sum(p.numel() for p in load_model(config(name)).parameters()) for name in ('pieces', 'pickled')])"
    )
    environment = os.environ | {"HF_HOME": str(site.cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=site.folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[74144, 74144]", done.stderr


def test_a_server_that_is_down(site: Site) -> None:
    status, said = site.call("fetch", "small", HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 2, said
    assert "configs/model/wee.yaml: id = 'lab/wee', revision = 'step7': http://127.0.0.1:9 cannot be reached" in said
    assert "Traceback" not in said and not (site.folder / "runs").exists()


def test_room_for_all_models_is_looked_at_before_any_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", site.hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(site.cache / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2**28 + 500_000))
    monkeypatch.chdir(site.folder)
    files = site.hub.repositories["models/lab/wee"].files
    pieces = {f"model-0000{i}-of-00002.safetensors": files["model.safetensors"] for i in (1, 2)}
    index = {"model.safetensors.index.json": b"{}"}
    site.hub.repositories["models/lab/big"] = Repository({"config.json": b"{}"} | pieces | index, ("step7",))
    Path("configs/model/big.yaml").write_text(MODEL.replace("lab/wee", "lab/big"))
    arguments = ["small", "models=[wee,big]", "tasks=[nano-math]"]
    with pytest.raises(UserError, match=r"wee 346.3 KiB, big 582.6 KiB: 928.8 KiB to download, but .* has 256.5 MiB"):
        fetch_study(load_study(arguments[0], arguments[1:]), arguments, Console())
    assert site.hub.bodies == []


def test_every_key_that_is_wrong_is_named(site: Site) -> None:
    for name, change in (("other", ("lab/wee", "lab/woe")), ("newer", ("step7", "step9"))):
        (site.folder / f"configs/model/{name}.yaml").write_text(MODEL.replace(*change))
    status, said = site.call("fetch", "small", "models=[other,newer]", "tasks=[nano-math]")
    assert status == 2, said
    assert "configs/model/other.yaml: id = 'lab/woe', revision = 'step7': http" in said
    assert "configs/model/newer.yaml: id = 'lab/wee', revision = 'step9': the repository has no such revision" in said
    assert "Traceback" not in said and site.hub.bodies == []


def test_data_without_a_hub_names_the_way_out(site: Site) -> None:
    status, said = site.call("fetch", "small", "models=[nano-0.3m]", HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 2, said
    assert "task gsm8k: id = 'openai/gsm8k'" in said and "set SYNTHMIX_DATA (or data.root)" in said


def test_models_and_tasks_of_every_grid(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "tasks: [nano-math]\nmodels: [nano-0.3m]\ngrids:\n  - {models: [nano-0.9m], tasks: [nano-facts, nano-math]}\n"
    )
    config: StudyConfig = load_study(str(path))
    assert list(models_of(config)) == ["nano-0.3m", "nano-0.9m"]
    assert list(tasks_of(config)) == ["nano-math", "nano-facts"]

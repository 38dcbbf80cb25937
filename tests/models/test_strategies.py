"""Training shared among ranks: the same steps whatever the strategy, and checkpoints that any number of ranks resume.

The fits run in processes of their own (sharded_fits.py), many in one start: two ranks, then one, then two again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import check_installed, is_sharded, strategy_problems, zero_stage
from synthmix.errors import ConfigError, UserError
from synthmix.models.export import write_weights
from synthmix.models.resuming import find_source
from synthmix.models.sealed import seal
from synthmix.models.strategies import make_optimizer, make_strategy

from .sharded_runs import job, neox, start, tied_llama, told, weights

ZERO = ("deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
SHARDED = (*ZERO, "fsdp2")
ALL = ("ddp", *SHARDED)
# -- what a profile may ask for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"strategy": "ddp", "offload": "optimizer"}, "offload = optimizer: strategy ddp offloads nothing"),
        ({"strategy": "fsdp2", "offload": "all"}, "offload = all: strategy fsdp2 offloads nothing"),
        ({"strategy": "deepspeed_stage_2", "offload": "all"}, "offload = all: parameters are whole on each device"),
        (
            {"strategy": "deepspeed_stage_2", "offload": "optimizer", "offload_folder": "/x"},
            "offload_folder = /x: only",
        ),
        ({"strategy": "deepspeed_stage_3", "offload_folder": "/x"}, "offload_folder = /x: only deepspeed_stage_3 with"),
    ],
)
def test_combinations_that_mean_nothing(keys: dict[str, str], expected: str) -> None:
    (problem,) = strategy_problems(HardwareConfig(**keys))
    assert problem.startswith(expected) and "expected" in problem


@pytest.mark.parametrize(
    "keys",
    [{}, *({"strategy": name} for name in ALL), {"strategy": "deepspeed_stage_1", "offload": "optimizer"},
     {"strategy": "deepspeed_stage_3", "offload": "all", "offload_folder": "/x"}],
)  # fmt: skip
def test_combinations_that_do(keys: dict[str, str]) -> None:
    hardware = HardwareConfig(**keys)
    assert not list(strategy_problems(hardware))
    assert is_sharded(hardware) == (hardware.strategy in SHARDED)
    assert zero_stage(hardware) == (int(hardware.strategy[-1]) if hardware.strategy in ZERO else 0)


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for strategy, names in (("deepspeed_stage_2", "deepspeed and accelerate"), ("fsdp2", "accelerate")):
        with pytest.raises(ConfigError, match=re.escape(f"needs {names}; pip install 'synthmix[deepspeed]'")):
            check_installed(HardwareConfig(strategy=strategy))
    check_installed(HardwareConfig(strategy="ddp"))


def test_a_folder_to_offload_to_has_to_be_there(tmp_path: Path) -> None:
    hardware = HardwareConfig(strategy="deepspeed_stage_3", offload="all", offload_folder=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="offload_folder = .*nothing: expected a folder of this machine"):
        check_installed(hardware)


def test_copies_are_lightnings_own() -> None:
    assert make_strategy(HardwareConfig()) == "auto"
    assert make_strategy(HardwareConfig(devices=2)) == make_strategy(HardwareConfig(nodes=2, strategy="ddp")) == "ddp"


# -- files of weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [neox, tied_llama])
@pytest.mark.parametrize("shard_bytes", [2**31, 4000])
def test_files_of_weights(tmp_path: Path, make: Callable[[], Any], shard_bytes: int) -> None:
    model = make()
    write_weights(model, tmp_path / "model", shard_bytes)
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    held = {name: weight for file in files for name, weight in load_file(file).items()}
    largest = max(p.numel() * 4 for p in model.parameters())
    assert all(sum(w.numel() * 4 for w in load_file(file).values()) <= max(shard_bytes, largest) for file in files)
    assert (len(files) > 1) == (shard_bytes == 4000) == (tmp_path / "model/model.safetensors.index.json").exists()
    assert ("embed_out.weight" in held) == (make is neox) and "lm_head.weight" not in held
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bytes_as_save_pretrained(tmp_path: Path, dtype: torch.dtype) -> None:
    for make in (neox, tied_llama):
        model = make().to(dtype)
        write_weights(model, tmp_path / "ours")
        model.save_pretrained(tmp_path / "theirs")
        names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
        assert names == sorted(path.name for path in (tmp_path / "ours").iterdir())
        assert all((tmp_path / "ours" / n).read_bytes() == (tmp_path / "theirs" / n).read_bytes() for n in names)


# -- optimizers -------------------------------------------------------------------------------------------------------

_ADAM = """
import os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from synthmix.config.schema import HardwareConfig
from synthmix.models.strategies import make_optimizer

offloading = HardwareConfig(accelerator="gpu", strategy="deepspeed_stage_2", offload="optimizer")
ends = []
for hardware in (offloading, HardwareConfig()):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1000))
    optimizer = make_optimizer([{"params": [weight], "weight_decay": 0.1}], hardware, 1e-2, (0.9, 0.99))
    for _ in range(5):
        weight.grad = torch.randn(1000)
        optimizer.step()
    print(type(optimizer).__name__)
    ends.append(weight.detach())
torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)
"""


def adam(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _ADAM]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=900, check=True
    )


@pytest.mark.slow
def test_without_a_compiler_torch_steps_on_the_host(tmp_path: Path) -> None:
    done = adam(PATH=str(tmp_path), CXX=str(tmp_path / "none"), TORCH_EXTENSIONS_DIR=str(tmp_path / "built"))
    assert done.stdout.split()[-2:] == ["AdamW", "AdamW"]
    assert "DeepSpeedCPUAdam cannot be compiled" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.skipif(not os.environ.get("SYNTHMIX_TEST_COMPILE"), reason="compiles for minutes: SYNTHMIX_TEST_COMPILE=1")
def test_deepspeeds_adam_steps_as_torchs() -> None:
    assert adam().stdout.split()[-2:] == ["DeepSpeedCPUAdam", "AdamW"]


def test_on_the_device_the_optimizer_is_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([{"params": [weight]}], HardwareConfig(strategy="deepspeed_stage_3"), 0.1, (0.9, 0.99))
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]


# -- fits among ranks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder a fit: whole-*, cut-* (stopped, resumed), less-* and more-* (by other ranks), bad-*, ..."""
    folder = tmp_path_factory.mktemp("fits")
    neox().save_pretrained(folder / "neox")
    tied_llama().save_pretrained(folder / "llama")
    neox(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048).save_pretrained(
        folder / "large", max_shard_size="20MB"
    )
    tricks = {"activation_checkpointing": True, "padding_free": True}
    half = {"precision": "bf16-mixed"}
    start(folder, [
        *(job("whole", strategy, "whole") for strategy in ALL),
        *(job(phase, strategy, "cut") for strategy in SHARDED for phase in ("stop", "go-on")),
        *(job("stop", strategy, "less") for strategy in SHARDED),
        *(job("poison", strategy, "bad") for strategy in ALL),
        *(job("poison", strategy, "badhalf", options=half) for strategy in ZERO),
        *(job("whole", strategy, "tied", model="llama", options=tricks) for strategy in ("ddp", *ZERO[1:], "fsdp2")),
        *(job("whole", strategy, "half", options=half) for strategy in ALL),
        *(job("load", strategy, "still", options=half) for strategy in SHARDED),
        *(job("whole", strategy, "host", options={"offload": "optimizer"}) for strategy in ZERO[1:]),
        job("whole", "deepspeed_stage_3", "allhost", options={"offload": "all"}),
        *(job(phase, "deepspeed_stage_3", "cuthost", options={"offload": "all"}) for phase in ("stop", "go-on")),
    ], 2)  # fmt: skip
    start(folder, [
        job("whole", "auto", "whole"),
        *(job("go-on", strategy, "less") for strategy in SHARDED),
        *(job("stop", strategy, "more") for strategy in SHARDED[2:]),
        job("whole", "deepspeed_stage_2", "alone"),
    ], 1)  # fmt: skip
    start(folder, [
        *(job("go-on", strategy, "more") for strategy in SHARDED[2:]),
        *(job("load", strategy, "large", model="large") for strategy in SHARDED[2:]),
    ], 2)  # fmt: skip
    return folder


def assert_near(one: Path, other: Path, distance: float) -> None:
    """AdamW makes steps of the same size of gradients that are only rounding: parameters differ by more than those."""
    ours, theirs = weights(one), weights(other)
    apart = sum(float(((ours[name] - theirs[name]) ** 2).sum()) for name in ours)
    assert (apart / sum(float((w**2).sum()) for w in theirs.values())) ** 0.5 < distance
    assert ours.keys() == theirs.keys()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_every_strategy_takes_the_steps_of_one_process(fits: Path, strategy: str) -> None:
    """Losses, norms before clipping (which every step needs), and weights; two micro-batches a step, the last ones empty."""
    (alone,) = told(fits / "whole-auto", "whole")
    ranks = told(fits / f"whole-{strategy}", "whole")
    assert min(alone["norms"]) < 0.5 < max(alone["norms"]), "some are clipped, some are not"
    for rank in ranks:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-5)
        assert (rank["steps"], rank["parameters"]) == (alone["steps"], alone["parameters"])
    assert sorted(ranks[0]["order"] + ranks[1]["order"]) == sorted(alone["order"])
    assert [r["order"] for r in ranks] == [r["order"] for r in told(fits / "whole-ddp", "whole")]
    assert_near(fits / f"whole-{strategy}", fits / "whole-auto", 1e-4)
    model = AutoModelForCausalLM.from_pretrained(fits / f"whole-{strategy}/weights")
    assert type(model) is GPTNeoXForCausalLM and model.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "through"), [*((f"cut-{s}", f"whole-{s}") for s in SHARDED), (f"cuthost-{ZERO[2]}", f"allhost-{ZERO[2]}")]
)
def test_a_resumed_fit_ends_with_the_same_bits(fits: Path, name: str, through: str) -> None:
    resumed = told(fits / name, "go-on")
    assert all(rank["resumed"].endswith("last.ckpt") and len(rank["losses"]) == 4 for rank in resumed)
    ours, whole = weights(fits / name), weights(fits / through)
    assert all(torch.equal(ours[key], whole[key]) for key in whole)
    assert not list((fits / f"{name}/checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), [*(("less", s) for s in SHARDED), *(("more", s) for s in SHARDED[2:])])
def test_another_number_of_ranks_goes_on(fits: Path, name: str, strategy: str) -> None:
    (alone,) = told(fits / "whole-auto", "whole")
    for rank in told(fits / f"{name}-{strategy}", "go-on"):
        assert rank["losses"] == pytest.approx(alone["losses"][-4:], rel=1e-5)
        assert rank["norms"] == pytest.approx(alone["norms"][-4:], rel=1e-4)
    assert_near(fits / f"{name}-{strategy}", fits / "whole-auto", 1e-4)
    assert [path.name for path in (fits / f"{name}-{strategy}/checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), [*(("bad", s) for s in ALL), *(("badhalf", s) for s in ZERO)])
def test_an_infinite_gradient_of_one_rank_stops_all_before_the_weights_change(
    fits: Path, name: str, strategy: str
) -> None:
    for rank in told(fits / f"{name}-{strategy}", "poison"):
        assert re.search(r"step 3: gradient norm (nan|inf); examples of the batch: \d+", rank["error"])
        assert rank["unchanged"] and len(rank["losses"]) == 2
    assert not (fits / f"{name}-{strategy}/weights").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "deepspeed_stage_3", "fsdp2"])
def test_tied_weights_checkpointed_activations_and_no_padding(fits: Path, strategy: str) -> None:
    expected = told(fits / "tied-ddp", "whole")[0]
    rank = told(fits / f"tied-{strategy}", "whole")[0]
    assert rank["losses"][:3] == pytest.approx(expected["losses"][:3], rel=1e-6)
    assert rank["norms"][:3] == pytest.approx(expected["norms"][:3], rel=1e-5)
    assert_near(fits / f"tied-{strategy}", fits / "tied-ddp", 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALL)
def test_in_bf16_the_optimizer_keeps_fp32(fits: Path, strategy: str) -> None:
    """The first update is of the weights as the file has them, not as bf16 rounds them."""
    (exact,) = told(fits / "whole-auto", "whole")
    rank = told(fits / f"half-{strategy}", "whole")[0]
    assert rank["losses"] == pytest.approx(exact["losses"], rel=1e-3)
    assert rank["losses"] != exact["losses"], "it was not bf16"
    assert all(weight.dtype == torch.float32 for weight in weights(fits / f"half-{strategy}").values())
    if strategy in SHARDED:  # a step of length 0
        held, given = weights(fits / f"still-{strategy}"), load_file(fits / "neox/model.safetensors")
        assert all(torch.equal(held[name], given[name]) for name in given)
        assert not all(torch.equal(weight, weight.bfloat16().float()) for weight in held.values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARDED)
def test_a_fit_leaves_the_devices_memory_to_what_comes_after(fits: Path, strategy: str) -> None:
    """Evaluation has room for a model of its own beside nothing; and what ZeRO-3 has put on a device is not moved away."""
    size = sum(weight.numel() for weight in load_file(fits / "neox/model.safetensors").values())
    for rank in told(fits / f"still-{strategy}", "load"):
        assert rank["left"] < 0.1 * size, "bytes: less than a tenth of one for each weight"
        assert not rank["moved"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["host-deepspeed_stage_2", "host-deepspeed_stage_3", "allhost-deepspeed_stage_3"])
def test_what_is_offloaded_steps_likewise(fits: Path, name: str) -> None:
    (alone,) = told(fits / "whole-auto", "whole")
    rank = told(fits / name, "whole")[0]
    assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SYNTHMIX_TEST_COMPILE"), reason="compiles for minutes: SYNTHMIX_TEST_COMPILE=1")
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage_2", "deepspeed_stage_3", "fsdp2"])
def test_compiled_blocks_step_likewise(fits: Path, tmp_path: Path, strategy: str) -> None:
    neox().save_pretrained(tmp_path / "neox")
    start(tmp_path, [job("whole", strategy, "compiled", options={"compile": True, "padding_free": True})], 2)
    (alone,) = told(fits / "whole-auto", "whole")
    rank = told(tmp_path / f"compiled-{strategy}", "whole")[0]
    assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-5)


@pytest.mark.slow
def test_one_device_can_be_zeros(fits: Path) -> None:
    """As a card with offloading is."""
    (alone,) = told(fits / "whole-auto", "whole")
    (rank,) = told(fits / "alone-deepspeed_stage_2", "whole")
    assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_stage_3", "fsdp2"])
def test_no_rank_holds_the_whole_model_while_it_is_loaded(fits: Path, strategy: str) -> None:
    """101 MB of weights on two ranks; a share is half of it."""
    whole = sum(path.stat().st_size for path in (fits / "large").glob("*.safetensors"))
    for rank in told(fits / f"large-{strategy}", "load"):
        assert 0.45 * whole < rank["bytes"] < 0.8 * whole
    loaded = AutoModelForCausalLM.from_pretrained(fits / f"large-{strategy}/weights")
    given = AutoModelForCausalLM.from_pretrained(fits / "large")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), given.parameters(), strict=True))


@pytest.mark.parametrize(
    ("written", "keys", "expected"),
    [
        ({"strategy": "deepspeed_stage_2", "precision": "32-true"}, {"strategy": "deepspeed_stage_3"}, "deepspeed_stage_2"),
        ({"strategy": "deepspeed_stage_2", "precision": "32-true"}, {}, "deepspeed_stage_2"),
        ({"strategy": "deepspeed_stage_3", "precision": "32-true", "on_disk": True},
         {"strategy": "deepspeed_stage_3"}, "deepspeed_stage_3 in 32-true with offload_folder"),
        ({"strategy": "deepspeed_stage_2", "precision": "32-true"},
         {"strategy": "deepspeed_stage_2", "precision": "bf16-mixed"}, "deepspeed_stage_2 in 32-true"),
        (None, {"strategy": "fsdp2"}, "auto or ddp"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_strategy_is_not_gone_on_from(
    tmp_path: Path, written: dict[str, str] | None, keys: dict[str, str], expected: str
) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    path.parent.mkdir()
    if written is None:
        state = {
            "global_step": 3,
            "lr_schedulers": [{"last_epoch": 3}],
            "optimizer_states": [{"state": {0: {"step": 3}}}],
        }
        torch.save(state, path)
    else:
        path.mkdir()
        seal(path, written | {"world": 1, "step": 3, "files": {}})
    with pytest.raises(UserError, match=f"was written with strategy {expected}.*remove .*checkpoints to train from"):
        find_source(tmp_path, HardwareConfig(**keys))
    assert path.exists(), "nothing is lost"


def test_weights_that_are_not_there_are_said(tmp_path: Path) -> None:
    from synthmix.models.fsdp import model_on_meta
    from synthmix.models.stored import stored_weights

    neox().save_pretrained(tmp_path / "model")
    model = model_on_meta(tmp_path / "model")
    assert all(parameter.is_meta for parameter in model.parameters())
    held = load_file(tmp_path / "model/model.safetensors")
    from safetensors.torch import save_file

    save_file(held | {"embed_out.weight": torch.zeros(3, 16)}, tmp_path / "model/model.safetensors")
    with pytest.raises(UserError, match=r"embed_out.weight has shape \[3, 16\]; expected \[67, 16\]"):
        list(stored_weights(model, tmp_path / "model"))
    del held["embed_out.weight"]
    save_file(held, tmp_path / "model/model.safetensors")
    with pytest.raises(UserError, match=r"it has no weight embed_out.weight"):
        list(stored_weights(model, tmp_path / "model"))
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        list(stored_weights(model, tmp_path / "model"))

"""The memory estimator: against what a step really takes, against DeepSpeed's own estimators, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmix.config import HardwareConfig, ModelConfig, TrainingConfig, config_names, load_hardware, load_model
from synthmix.config.schema import ARCHITECTURES, STRATEGIES
from synthmix.errors import ConfigError
from synthmix.models.memory import (
    GIB,
    Dimensions,
    check_fits,
    dimensions_of,
    examine,
    inference_need,
    sequences_that_fit,
    training_need,
)
from synthmix.models.memory.states import BUCKET, SUB_GROUP, states

FOLDER = Path(__file__).parents[2] / "experiments" / "scale"
BILLION = Dimensions("b", "gpt_neox", 10**9, 16, 2048, 8, 2048, 8192, 50304)
A100 = HardwareConfig(name="a100", accelerator="gpu", precision="bf16-mixed", micro_batch=8, memory_gib=39.4)


@pytest.fixture(scope="module")
def experiment() -> Iterator[ModuleType]:
    """experiments/scale/memory.py as a module."""
    spec = importlib.util.spec_from_file_location("scale_memory", FOLDER / "memory.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["scale_memory"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["scale_memory"]


# -- against what a step takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "precision"), [("gpt_neox", "bf16-mixed"), ("llama", "32-true")])
def test_a_small_step_takes_what_was_estimated(experiment: ModuleType, architecture: str, precision: str) -> None:
    shape = Dimensions("small", architecture, 0, 4, 128, 4, 128, 512, 2048)
    assert experiment.compare(experiment.Case(shape, precision, False, 2))["ratio"] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_take_what_was_estimated(experiment: ModuleType, architecture: str, precision: str) -> None:
    shape = Dimensions("x", architecture, 0, 4, 192, 4, 192, 768, 4096, tied=architecture == "opt")
    for checkpointing, micro, micro_batches in ((False, 4, 2), (True, 2, 1)):
        row = experiment.compare(experiment.Case(shape, precision, checkpointing, micro, micro_batches))
        assert row["ratio"] == pytest.approx(1, abs=0.1), row


def test_the_recorded_measurements_are_met_by_the_estimator_as_it_is(experiment: ModuleType) -> None:
    """And every case that the command runs is recorded."""
    recorded = json.loads((FOLDER / "memory.json").read_text())
    cases = {
        (c.shape.name, c.precision, c.checkpointing, c.micro_batch, c.micro_batches): c for c in experiment.cases()
    }
    rows = {tuple(row[key] for key in ("shape", "precision", "checkpointing", "micro_batch", "micro_batches")): row
            for row in recorded["rows"]}  # fmt: skip
    assert cases.keys() == rows.keys()
    for key, case in cases.items():
        shape = replace(case.shape, parameters=rows[key]["parameters"])
        need = training_need(shape, case.hardware, experiment.LENGTH, case.micro_batch * case.micro_batches)
        assert need.tensors / 2**20 == pytest.approx(rows[key]["measured_peak_mib"], rel=0.1), key


# -- against DeepSpeed's own ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (4, 1), (8, 2)])
def test_model_states_beside_the_estimators_of_deepspeed(devices: int, nodes: int) -> None:
    """They count fp32 gradients once, at the step, and bf16 ones that we sum in fp32; no buckets; a host buffer more."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    n, shards = BILLION.parameters, devices * nodes
    machines: dict[str, Any] = {"num_gpus_per_node": devices, "num_nodes": nodes, "additional_buffer_factor": 1}

    def ours(stage: int, offload: str = "none") -> Any:
        profile = replace(A100, devices=devices, nodes=nodes, strategy=f"deepspeed_stage_{stage}", offload=offload)
        return states(BILLION, profile)

    _, theirs = zero2(n, cpu_offload=False, **machines)
    found = ours(2)
    assert found.weights + found.gradients + found.optimizer + found.stepping == pytest.approx(theirs + 2 * n / shards)
    _, theirs, layer = zero3(n, BILLION.block, cpu_offload=False, cpu_offload_params=False, **machines)
    found = ours(3)
    assert found.weights + found.gradients + found.optimizer == pytest.approx(theirs - layer)
    host, theirs = zero2(n, cpu_offload=True, **machines)
    assert ours(2, "optimizer").weights == theirs
    assert sum(ours(2, "optimizer").host.values()) == pytest.approx(18 * n / nodes)
    assert host == max(4 * shards, 16) * n, "each process is taken to load the model whole; not by node"
    host, theirs, layer = zero3(n, BILLION.block, cpu_offload=True, cpu_offload_params=False, **machines)
    assert ours(3, "optimizer").weights == pytest.approx(theirs - layer)
    assert sum(ours(3, "optimizer").host.values()) == pytest.approx(host + 4 * n / nodes)
    host, _, _ = zero3(n, BILLION.block, cpu_offload=True, cpu_offload_params=True, **machines)
    assert sum(ours(3, "all").host.values()) == pytest.approx(host + 4 * n / nodes)


@pytest.mark.parametrize(
    ("strategy", "precision", "each"),
    [
        # (weights, gradients, optimizer) in bytes a parameter, on 8 devices; moments are 8 in fp32
        ("auto", "32-true", (4, 4, 8)),
        ("ddp", "bf16-mixed", (4, 4, 8)),
        ("auto", "bf16-true", (2, 2, 4)),
        ("fsdp2", "bf16-mixed", (4 / 8, 4 / 8, 8 / 8)),
        # Rajbhandari et al. 2020, section 5, with K = 12; gradients in fp32
        ("deepspeed_stage_1", "bf16-mixed", (2, 4, 12 / 8)),
        ("deepspeed_stage_2", "bf16-mixed", (2, 4 / 8, 12 / 8)),
        ("deepspeed_stage_3", "bf16-mixed", (2 / 8, 4 / 8, 12 / 8)),
        ("deepspeed_stage_3", "32-true", (4 / 8, 4 / 8, 12 / 8)),
    ],
)
def test_bytes_a_parameter(strategy: str, precision: str, each: tuple[float, float, float]) -> None:
    found = states(BILLION, replace(A100, devices=4, nodes=2, strategy=strategy, precision=precision))
    n = BILLION.parameters
    assert (found.weights / n, found.gradients / n, found.optimizer / n) == pytest.approx(each)


def test_what_is_not_on_the_device_is_in_the_node() -> None:
    profile = replace(A100, devices=4, nodes=2, strategy="deepspeed_stage_3", offload="all")
    found = states(BILLION, profile)
    assert (found.weights, found.optimizer) == (0, 0)
    assert found.host == {"weights": 1e9, "optimizer": 6e9, "gradients": 4e9}
    to_disk = states(BILLION, replace(profile, offload_folder="/scratch"))
    assert to_disk.host.keys() == {"buffers"}


@pytest.mark.slow
def test_what_zero_sends_and_steps_together_is_what_the_strategy_says() -> None:
    from synthmix.models import zero

    assert (BUCKET, SUB_GROUP) == (zero._BUCKET, zero._SUB_GROUP)


# -- what any estimate holds to ---------------------------------------------------------------------------------------

PROFILES = st.builds(
    HardwareConfig,
    accelerator=st.just("gpu"),
    devices=st.integers(1, 8),
    strategy=st.sampled_from(STRATEGIES),
    precision=st.sampled_from(["32-true", "bf16-mixed", "bf16-true"]),
    micro_batch=st.integers(1, 64),
    activation_checkpointing=st.booleans(),
)
SHAPES = st.builds(
    Dimensions,
    name=st.just("x"),
    architecture=st.sampled_from(ARCHITECTURES),
    parameters=st.integers(10**8, 10**10),
    layers=st.integers(1, 48),
    width=st.just(1024),
    heads=st.just(16),
    kv_width=st.just(512),
    mlp_width=st.integers(1024, 8192),
    vocabulary=st.integers(1000, 40_000),
    tied=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(SHAPES, PROFILES, st.integers(1, 2048))
def test_less_at_once_never_takes_more(shape: Dimensions, profile: HardwareConfig, length: int) -> None:
    need = training_need(shape, profile, length)
    assert all(part >= 0 for part in need.device.values()) and need.total > need.tensors > 0
    assert training_need(shape, profile, length + 1).total >= need.total
    smaller = replace(profile, micro_batch=max(1, profile.micro_batch // 2))
    # a half that makes gradients stay between micro-batches can take more; where they stay anyway it cannot
    if profile.micro_batch * profile.devices < 32:
        assert training_need(shape, smaller, length).total <= need.total
    assert inference_need(shape, profile, length, 2).total >= inference_need(shape, profile, length, 1).total


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(8, 140), st.integers(1, 2048), st.integers(1, 512))
def test_as_many_sequences_as_fit(shape: Dimensions, gib: float, length: int, wanted: int) -> None:
    profile = replace(A100, memory_gib=gib)
    found = sequences_that_fit(shape, profile, length, wanted)
    assert found is not None and 1 <= found <= wanted
    if found > 1:
        assert inference_need(shape, profile, length, found).total <= gib * GIB
    assert sequences_that_fit(shape, replace(profile, memory_gib=None), length, wanted) is None


# -- what is refused --------------------------------------------------------------------------------------------------


def refusal(model: str, hardware: HardwareConfig, length: int = 512) -> str:
    with pytest.raises(ConfigError) as caught:
        check_fits(load_model(model), hardware, TrainingConfig(), length)
    (said,) = caught.value.problems
    return said


def test_a_pair_that_cannot_fit_is_refused_with_the_arithmetic_and_two_ways_out() -> None:
    said = refusal("pythia-2.8b", load_hardware("a100-40x1"))
    assert said.startswith("hardware = a100-40x1: pythia-2.8b does not fit: training takes about ")
    for part in ("weights 10.3", "gradients 10.3", "optimizer 20.7", "of a device with 39.4 (memory_gib)",
                 "micro_batch 8, documents of up to 512 tokens"):  # fmt: skip
        assert part in said, said
    assert said.endswith("Expected hardware=a100-40x4 (16.6 GiB a device)"), "the same card, more of them"


def test_the_ways_out_fit() -> None:
    """The same profile with other keys, and another profile."""
    small = load_hardware("h200x1")
    said = refusal("pythia-6.9b", small)
    keys, other = said.split("Expected ")[1].split(" or hardware=")
    assert keys.startswith("activation_checkpointing: true in its file (")
    changed = replace(small, activation_checkpointing=True)
    assert check_fits(load_model("pythia-6.9b"), changed, TrainingConfig(), 512) is None
    assert other.startswith("h200x1-large (")
    assert check_fits(load_model("pythia-6.9b"), load_hardware("h200x1-large"), TrainingConfig(), 512) is None


def test_a_smaller_micro_batch_comes_before_computing_again() -> None:
    said = refusal("pythia-1.4b", replace(load_hardware("a100-40x1"), micro_batch=32))
    assert "Expected micro_batch: 8 in its file (" in said


def test_offloading_to_a_node_that_is_too_small() -> None:
    profile = replace(load_hardware("a100-40x1-offload"), host_memory_gib=64)
    said = refusal("pythia-6.9b", profile)
    assert "offloading takes about 128 GiB of a node with 64 (host_memory_gib): gradients 51.1, optimizer 76.6" in said
    assert "hardware=a100-40x1-offload" not in said


def test_too_large_for_evaluation_alone() -> None:
    profile = replace(load_hardware("a100-40x8"), inference_precision="32-true")
    said = refusal("pythia-12b", profile)
    assert "inference takes about" in said and "inference_precision: bf16-true in its file" in said


def test_close_is_a_warning_and_an_unknown_memory_no_reason() -> None:
    model, training = load_model("pythia-1.4b"), TrainingConfig()
    takes = examine(model, A100, 512).device_gib
    assert "may not fit: training takes about" in str(check_fits(model, replace(A100, memory_gib=takes), training, 512))
    assert check_fits(model, replace(A100, memory_gib=1.2 * takes), training, 512) is None
    assert check_fits(load_model("pythia-12b"), replace(A100, memory_gib=None), training, 512) is None
    with pytest.raises(ConfigError):
        check_fits(model, replace(A100, memory_gib=takes / 1.2), training, 512)


def test_a_model_of_which_only_the_size_is_known_is_judged_by_its_states() -> None:
    unknown = ModelConfig("far", "hub", "nobody/nothing-of-this-name", parameters=10**10)
    assert not dimensions_of(unknown).is_known
    with pytest.raises(ConfigError, match="weights 37.3, gradients 37.3, optimizer 74.5"):
        check_fits(unknown, A100, TrainingConfig(), 512)


@pytest.mark.parametrize("name", [name for name in config_names("model") if name.startswith("pythia")])
def test_every_pythia_can_be_trained_on_a100s_of_40_gb(name: str) -> None:
    profiles = [load_hardware(found) for found in config_names("hardware") if found.startswith("a100-40")]
    assert any(examine(load_model(name), profile, 640).state == "fits" for profile in profiles)


@pytest.mark.parametrize("name", config_names("hardware"))
def test_a_profile_that_offloads_says_what_a_node_has(name: str) -> None:
    profile = load_hardware(name)
    assert profile.offload == "none" or profile.host_memory_gib is not None
    if profile.accelerator == "gpu" and profile.memory_gib is not None:
        assert profile.inference_precision == "bf16-true", "sizes are compared in the same precision"


def test_sizes_from_a_configuration_file(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2", "num_hidden_layers": 3, "hidden_size": 64, "vocab_size": 100, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = dimensions_of(ModelConfig("own", "folder", str(tmp_path), parameters=10_000))
    assert found == Dimensions("own", "llama", 10_000, 3, 64, 4, 32, 96, 100, True)

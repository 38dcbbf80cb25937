"""A model that does not fit on its profile is refused by run, submit and cell before anything is written or loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synthmix.config import DataConfig, ModelConfig, load_hardware, load_study
from synthmix.data.records import load_split
from synthmix.study.capacity import capacity, check_capacity, fitting_config
from synthmix.study.cells import make_plan
from synthmix.study.lengths import by_characters, longest
from synthmix.tasks import get_task
from synthmix.tasks.gsm8k import GSM8K

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def profile(workplace: Path) -> Callable[[float], None]:
    """Writes the profile ``small`` of the workplace; GiB of a device."""

    def write(gib: float) -> None:
        (workplace / "configs/hardware").mkdir(exist_ok=True)
        (workplace / "configs/hardware/small.yaml").write_text(f"micro_batch: 8\nmemory_gib: {gib}\n")

    return write


def takes(workplace: Path) -> float:
    """GiB that the tiny model takes of the profile, as estimated."""
    (found,) = capacity(make_plan(load_study("tiny", ["hardware=small"])))
    return found.device_gib


@pytest.mark.parametrize("words", [("run", "tiny"), ("submit", "tiny"), ("submit", "tiny", "--dry-run")])
def test_refused_before_anything_is_written(
    in_process: Run, workplace: Path, profile: Callable[[float], None], words: tuple[str, ...]
) -> None:
    profile(0.0001)
    status, said = in_process(*words, "hardware=small")
    assert status == 2 and "hardware = small: tiny does not fit: " in said and "(memory_gib)" in said, said
    assert "Expected " in said and not (workplace / "runs").exists()


def test_planned_with_a_line_that_says_so(in_process: Run, profile: Callable[[float], None]) -> None:
    profile(0.0001)
    status, said = in_process("plan", "tiny", "hardware=small")
    line = next(line for line in said.splitlines() if line.startswith("Memory: tiny on small: "))
    assert status == 0 and line.endswith("Does not fit: run and submit refuse it.")
    status, said = in_process("plan", "tiny", "hardware=small", "--json", "--dry-run")
    assert status == 0 and json.loads(said)["memory"] == [line]
    assert "Memory:" not in in_process("plan", "tiny")[1], "the profile does not say what there is"


@pytest.mark.slow
def test_a_cell_is_refused_too(in_process: Run, workplace: Path, profile: Callable[[float], None]) -> None:
    """A plan is frozen with its profiles, and may have been made before anything was refused."""
    profile(0.0001)
    in_process("plan", "tiny", "hardware=small")
    status, said = in_process("cell", str(workplace / "runs/studies/tiny/plan.json"), "--index", "0")
    assert status == 2 and "tiny does not fit" in said


def test_close_to_the_limit_is_a_warning(workplace: Path, profile: Callable[[float], None]) -> None:
    profile(1.0)
    profile(takes(workplace))
    (warning,) = check_capacity(make_plan(load_study("tiny", ["hardware=small"])))
    assert "tiny may not fit" in warning
    profile(1.0)
    assert check_capacity(make_plan(load_study("tiny", ["hardware=small"]))) == []


def test_the_longest_document(real_data: Path) -> None:
    """By hand, over all of them; where samples may become longer, that counts."""

    class Brief(GSM8K):
        max_document_tokens = 8

    data = DataConfig(root=str(real_data), train_examples=500)
    far = ModelConfig("far", "hub", "nobody/nothing-of-this-name", parameters=1, context=100_000)
    documents = [Brief().render(example.record) for example in load_split(Brief(), "train", data)]
    tokens = [sum(by_characters([d.header, d.body, d.completion])) + 1 for d in documents]
    assert longest(Brief(), data, far, None) == int(max(tokens)) > 200
    assert longest(GSM8K(), data, far, None) == 512
    assert longest(GSM8K(), data, far, 64) == 64 and longest(GSM8K(), data, replace(far, context=32), 64) == 32
    assert longest(get_task("nano-math"), DataConfig(), far, None) == get_task("nano-math").max_document_tokens


def test_no_more_sequences_at_once_than_there_is_room_for(workplace: Path, profile: Callable[[float], None]) -> None:
    profile(1000.0)
    plan = make_plan(load_study("tiny", ["hardware=small"]))
    assert fitting_config(plan, plan.cells[0]) == plan.config
    profile(takes(workplace) * 1.5)
    plan = make_plan(load_study("tiny", ["hardware=small"]))
    found = fitting_config(plan, plan.cells[0])
    assert 1 <= found.generation.batch_size == found.evaluation.batch_size < plan.config.generation.batch_size
    plan = make_plan(load_study("tiny"))
    assert fitting_config(plan, plan.cells[0]) is plan.config


def test_a_profile_that_fits_the_nano_models_refuses_none() -> None:
    plan = make_plan(load_study("quickstart"))
    assert load_hardware("cpu").memory_gib is None and check_capacity(plan) == [] and capacity(plan) == []

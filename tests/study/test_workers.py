"""Processes that share a study: what each is given of the machine."""

from __future__ import annotations

import pytest

from synthmix.config import load_study
from synthmix.study.cells import make_plan
from synthmix.study.workers import worker_devices


@pytest.mark.parametrize(
    ("seen", "devices", "expected"),
    [
        (None, 2, ["0", "1", "0"]),
        (None, 4, ["0", "1", "2"]),
        ("3", 1, ["3", "3", "3"]),
        ("GPU-5a,GPU-77", 2, ["GPU-5a", "GPU-77", "GPU-5a"]),
        (None, 0, [None, None, None]),
    ],
)
def test_workers_take_gpus_in_turns(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, devices: int, expected: list[str | None]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    plan = make_plan(load_study("quickstart", ["workers=3", "hardware=gpu1"]))
    assert [given.get("CUDA_VISIBLE_DEVICES") for given in worker_devices(plan)] == expected


def test_on_a_cpu_nothing_is_said_of_gpus() -> None:
    assert worker_devices(make_plan(load_study("quickstart", ["workers=2"]))) == [{}, {}]

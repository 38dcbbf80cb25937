"""experiments/scale: every part of gpu_check.sh at toy size on the CPU, and the page that its tables fill."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "scale"
SCRIPT = FOLDER / "gpu_check.sh"
TOY = ("environment", "zero-410m", "utilisation-1.4b", "export-410m", "generation-410m", "study")


@pytest.fixture(scope="module")
def scale() -> Iterator[Any]:
    """The parts as modules, found as they are from the command line."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        names = ("check", "_machine", "_scale", "training", "table", "study")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent in (FOLDER, FOLDER.parent / "benchmarks"):
                del sys.modules[name]


def options(scale: Any, place: Path, kind: str, *words: str) -> Any:
    given = scale.check.parser().parse_args(["--toy", "--work", str(place), "--out", str(place), *words])
    return scale._machine.options_of(given, kind)


def run(*words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words], capture_output=True, text=True, env=os.environ | {"PYTHON": python}
    )


# -- text and shapes --------------------------------------------------------------------------------------------------


def test_recorded_lengths_are_those_of_all_of_gsm8k() -> None:
    held = json.loads((FOLDER / "lengths.json").read_text())
    sums = {}
    for which in ("documents", "prompts", "answers"):
        counts = {int(length): n for length, n in held[which].items()}
        assert sum(counts.values()) == 7473, which
        sums[which] = sum(length * n for length, n in counts.items())
    assert sums["documents"] == sums["prompts"] + sums["answers"]
    assert held["cost"]["document"] == pytest.approx(sums["documents"] / 7473, rel=0.05), "a sample of 256"


def test_text_is_drawn_from_the_recorded_lengths_and_never_changes(scale: Any, tmp_path: Path) -> None:
    real = replace(options(scale, tmp_path, "zero"), toy=False)
    found, said = scale._scale.documents(400, 50304, real)
    lengths = {int(length) for length in json.loads((FOLDER / "lengths.json").read_text())["documents"]}
    assert {len(document.ids) for document in found} <= lengths and "drawn from GSM8K" in said
    assert 140 < sum(len(document.ids) for document in found) / 400 < 170
    assert all(2 <= i < 50304 for document in found for i in document.ids)
    again, _ = scale._scale.documents(400, 50304, real)
    assert [document.ids for document in again] == [document.ids for document in found]


@pytest.mark.skipif("SYNTHMIX_DATA" not in os.environ, reason="needs GSM8K's published files")
def test_text_is_gsm8ks_own_where_data_and_a_tokenizer_are_given(scale: Any, tmp_path: Path) -> None:
    from synthmix.models.nano import TOKENIZER

    given = replace(options(scale, tmp_path, "zero", "--tokenizer", str(TOKENIZER)), toy=False)
    found, said = scale._scale.documents(3, 50304, given)
    text = scale._scale.load_tokenizer(TOKENIZER).decode(found[0].ids)
    assert said == "GSM8K's training documents" and "Natalia sold" in text and len(found) == 3


def test_model_sizes_come_from_the_shipped_configurations(scale: Any) -> None:
    import torch
    from transformers import GPTNeoXForCausalLM

    model = scale._scale.described("410m", toy=False)
    with torch.device("meta"):
        built = GPTNeoXForCausalLM(scale._scale._neox(model))
    assert sum(p.numel() for p in built.parameters()) == model.parameters == 405_334_016


def test_what_one_h200_takes_at_once(scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h200 = {"name": "NVIDIA H200", "memory_gib": 140.4, "driver": "580"}
    monkeypatch.setattr(scale._machine, "gpus", lambda: [h200])
    on_gpu = replace(options(scale, tmp_path, "zero"), toy=False, accelerator="gpu", devices=1, batch=32)

    def keys(size: str, **changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = scale.training.hardware_of(scale._scale.described(size, False), on_gpu, changes)
        return found

    small, middle, large = keys("410m"), keys("6.9b"), keys("12b")
    assert (
        small["micro_batch"] == 32 and small["precision"] == "bf16-mixed" and not small.get("activation_checkpointing")
    )
    assert 1 <= middle["micro_batch"] <= 32
    assert large["micro_batch"] == 1 and large["activation_checkpointing"], "AdamW alone takes more than the device has"
    assert scale._machine.peak_tflops() == 989.0


def test_what_is_measured_again(scale: Any) -> None:
    settled = scale.training.settled
    assert settled({"losses": [1.0]}) and settled({"error": "OutOfMemoryError: CUDA out of memory"})
    assert settled({"error": "ConfigError: needs a GPU"})
    assert not settled({"error": "RuntimeError: CUDA error"}) and not settled(None)


def test_a_fit_that_the_host_cannot_hold_is_not_started(
    scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < scale._machine.host_gib() < 1e5
    on_gpu = replace(options(scale, tmp_path, "zero"), toy=False, accelerator="gpu", devices=1, batch=32)
    model, keys = scale._scale.described("6.9b", False), {"accelerator": "gpu", "strategy": "deepspeed_stage_3"}
    monkeypatch.setattr(scale._machine, "host_gib", lambda: 60.0)
    assert scale.training.host_refusal(model, keys, on_gpu) is None, "nothing is offloaded"
    said = scale.training.host_refusal(model, keys | {"offload": "optimizer"}, on_gpu)
    assert said.endswith("GiB of the host's memory, of which 60 are left") and scale.training.settled({"error": said})
    monkeypatch.setattr(scale._machine, "host_gib", lambda: 600.0)
    assert scale.training.host_refusal(model, keys | {"offload": "optimizer"}, on_gpu) is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "OutOfMemory: killed"),
        ("print('failed (exitcode: -9) local_rank: 0'); raise SystemExit(1)", "OutOfMemory: killed"),
        ("print('odd'); raise SystemExit(3)", "ended with status 3\nodd"),
        ("import time; time.sleep(60)", "took too long"),
    ],
)
def test_how_a_fit_ended(scale: Any, tmp_path: Path, script: str, expected: str) -> None:
    status = scale._scale._wait([sys.executable, "-c", script], tmp_path / "log.txt", 5.0, 1)
    assert scale._scale._outcome(tmp_path, status)["error"].startswith(expected)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989.0), ("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 NVL", 835.0),
     ("NVIDIA A100-SXM4-40GB", 312.0), ("NVIDIA RTX A1000", None), ("NVIDIA L4", None)],
)  # fmt: skip
def test_the_peak_of_a_device(scale: Any, monkeypatch: pytest.MonkeyPatch, name: str, tflops: float | None) -> None:
    monkeypatch.setattr(scale._machine, "gpus", lambda: [{"name": name}])
    assert scale._machine.peak_tflops() == tflops


# -- the script -------------------------------------------------------------------------------------------------------


def test_a_bare_python_is_told_what_it_lacks(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    found = run("--toy", "--work", str(tmp_path), "zero-410m", "environment", python=str(tmp_path / "bare/bin/python"))
    assert found.returncode == 2
    zero, environment = found.stdout.splitlines()[:2]
    assert zero.startswith("zero-410m: not run") and "deepspeed" in zero and "PYTHONPATH" in zero
    assert environment.startswith("environment: not run") and environment.endswith(
        "lacks torch; install them, or put the folder of 'pip install --target FOLDER' into PYTHONPATH"
    )
    assert not list(tmp_path.rglob("*.json"))


def test_parts_are_named_and_checked(scale: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.check.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [*scale.check.DEFAULT]
    assert scale.check.main(["--list", "--toy"]) == 0
    assert tuple(capsys.readouterr().out.split()) == TOY
    assert scale.check.main(["zerro-410m"]) == 2
    assert "unknown part zerro-410m" in capsys.readouterr().err
    assert scale.check.split("zero-1.4b") == ("zero", "1.4b") and scale.check.split("study") == ("study", None)
    assert all(scale.check.split(name)[0] in scale.check.KINDS for name in scale.check.DEFAULT)


@pytest.mark.slow
def test_every_part_at_toy_size_and_nothing_twice(tmp_path: Path) -> None:
    words = ("--toy", "--work", str(tmp_path), "--out", str(tmp_path / "out"))
    first = run(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    found = {path.stem: json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))}
    assert set(found) == set(TOY)
    for name, figures in found.items():
        assert figures["complete"] and figures["seconds"] > 0 and figures["commit"], name
        assert {"torch", "lightning", "transformers"} <= set(figures["machine"]["libraries"]), name
        assert figures["command"] == f"bash experiments/scale/gpu_check.sh {name} --toy"
    _check_training(found["zero-410m"]["variants"], found["utilisation-1.4b"]["variants"])
    for row in found["export-410m"]["strategies"].values():
        assert row["reloaded_equal"] and row["resumed_reloaded_equal"] and row["resumed"] and row["steps_after"] == 2
        assert row["resumed_equal"] and row["loss_difference"] == 0.0, "as many ranks as before: the same numbers"
    sides = found["generation-410m"]["sides"]
    assert len(sides) >= 3 and all(row["tokens_per_s"] > 0 for row in sides.values())
    assert [row["status"] for row in found["study"]["cells"]] == ["done"] * 3
    assert (tmp_path / "out" / "study-report" / "report.md").is_file()
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")}
    second = run(*words)
    assert second.returncode == 0 and second.stdout.count("is there") == len(TOY)
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")} == before


def _check_training(zero: dict[str, Any], utilisation: dict[str, Any]) -> None:
    assert [*zero] == ["plain", "zero-2", "zero-3"]
    for name, devices in (("plain", 1), ("zero-2", 2), ("zero-3", 2)):
        row = zero[name]
        assert len(set(row["losses"])) == 4 and row["losses"] == pytest.approx(zero["plain"]["losses"], abs=1e-5)
        assert name == "plain" or row["within_noise"]
        assert row["hardware"]["devices"] == len(row["peak_gib"]) == devices and row["tokens_per_s"] > 0
    assert {zero[name]["hardware"]["strategy"] for name in zero} == {"auto", "deepspeed_stage_2", "deepspeed_stage_3"}
    assert utilisation["liger"]["error"].startswith("ConfigError") and "GPU" in utilisation["liger"]["error"]
    free = utilisation["padding-free"]
    assert free["within_noise"] and free["fullest_tokens"] < utilisation["sdpa"]["fullest_tokens"]
    assert free["model_tflops_per_device"] > 0 and free["estimated_gib"] > 0 and free["mfu"] is None


@pytest.mark.slow
def test_a_study_goes_on_where_its_time_was_over(scale: Any, tmp_path: Path) -> None:
    short = options(scale, tmp_path, "study")
    short = replace(short, deadline=time.monotonic() + scale.study.SAVING_S + 1)
    first = scale.study.run(None, short, lambda figures: None, {})
    assert not first["complete"] and first["exit_status"] is None and first["done"] < 3
    second = scale.study.run(None, options(scale, tmp_path, "study"), lambda figures: None, first)
    assert second["complete"] and second["done"] == 3 and second["pieces"] == 2


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_that_the_command_makes(scale: Any) -> None:
    page = scale.table.PAGE.read_text(encoding="utf-8")
    for name in scale.table.SECTIONS:
        assert page.count(f"<!-- {name} -->") == 1
    assert scale.table.filled(page) == page, "python experiments/scale/table.py --write"


def test_a_measurement_takes_the_place_of_not_yet_measured(scale: Any, tmp_path: Path) -> None:
    table: ModuleType = scale.table
    assert table.NOT_MEASURED in table.utilisation(tmp_path)
    row = {
        "tokens_per_s": 91234.5,
        "mfu": 0.4567,
        "peak_gib": [{"allocated": 12.34, "reserved": 20.0}],
        "estimated_gib": 12.0,
    }
    machine = {"gpus": ["NVIDIA H200"], "cpu": "x", "cpu_count": 16, "libraries": {"torch": "2.13.0"}}
    head = {"machine": machine, "commit": "abc", "taken": "2026-01-02T03:04:05+00:00", "command": "bash x"}
    variants = {"sdpa": row, "liger": {"error": "OutOfMemoryError: 1 GiB"}}
    (tmp_path / "utilisation-410m.json").write_text(json.dumps({**head, "variants": variants}))
    made = table.utilisation(tmp_path)
    assert "| 410m | sdpa | 91,234 | 45.7 % | 45 % | 12.3 | 12.0 |" in made
    assert "| 410m | liger | OutOfMemoryError |" in made and "NVIDIA H200, torch 2.13.0, commit abc, 2026-01-02" in made
    assert made.count("| 6.9b | all | not yet measured") == 1

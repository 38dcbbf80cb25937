"""synthmix doctor: each need of a study, met or not, on this machine as it is."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from synthmix.cli import main
from synthmix.cluster.doctor import examine_sandbox, examine_wandb
from synthmix.cluster.doctor.devices import cuda_build, examine_devices, machine_memory
from synthmix.cluster.doctor.finding import Finding
from synthmix.cluster.doctor.folders import examine_store, file_system_lacks
from synthmix.cluster.doctor.slurm import examine_slurm
from synthmix.config import HardwareConfig, ModelConfig, SlurmConfig
from synthmix.study import offline

Run = Callable[..., tuple[int, str]]
GIB = 2**30


def states(findings: object) -> dict[str, str]:
    """State by the first word of what is said."""
    return {finding.what.split(":")[0]: finding.state for finding in findings}  # type: ignore[attr-defined]


# -- devices ----------------------------------------------------------------------------------------------------------


def model(name: str, parameters: int) -> ModelConfig:
    """One of which only the size is known."""
    return ModelConfig(name, "hub", "nobody/nothing-of-this-name", parameters=parameters)


SMALL = [model("m", 10**6)]


def test_a_cpu_profile_and_a_model_that_fits_or_does_not() -> None:
    assert states(examine_devices(HardwareConfig(), [model("small", 10**6)])) == {"CPU": "OK", "memory": "OK"}
    large = model("large", machine_memory() // 8)
    found = list(examine_devices(HardwareConfig(threads=10**4), [model("small", 10**6), large]))
    assert states(found) == {"CPU": "MISSING", "memory": "MISSING"}
    assert "large takes" in found[1].what, "the largest model counts"
    elsewhere = HardwareConfig(slurm=SlurmConfig(memory="512G"))
    assert states(examine_devices(elsewhere, [model("large", machine_memory())]))["memory"] == "unknown"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU")
def test_a_gpu_profile_where_there_is_none() -> None:
    here = HardwareConfig(accelerator="gpu", devices=4, precision="bf16-mixed")
    assert states(examine_devices(here, SMALL))["GPU"] == "MISSING"
    by_slurm = HardwareConfig(accelerator="gpu", devices=4, slurm=SlurmConfig(gpus="gpu:a100:4"))
    (found,) = [one for one in examine_devices(by_slurm, SMALL) if one.what.startswith("GPU")]
    assert found.state == "unknown" and "jobs get gpus gpu:a100:4" in found.what


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_profile_on_a_gpu() -> None:
    profile = HardwareConfig(accelerator="gpu", precision="bf16-mixed")
    assert set(states(examine_devices(profile, SMALL)).values()) == {"OK"}
    assert states(examine_devices(profile, [model("m", 10**12)]))["GPU memory"] == "MISSING"


@pytest.mark.parametrize(
    ("built", "driver", "state"),
    [(None, (12, 4), "MISSING"), ("12.6", None, "unknown"), ("12.6", (12, 2), "OK"), ("13.0", (12, 8), "MISSING")],
)
def test_torch_and_the_driver(built: str | None, driver: tuple[int, int] | None, state: str) -> None:
    assert cuda_build(built, driver).state == state


def test_deepspeed_and_its_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = HardwareConfig(strategy="deepspeed_stage_2", offload="optimizer")
    there = importlib.util.find_spec("deepspeed") is not None
    found = [one for one in examine_devices(profile, SMALL) if one.what.startswith("DeepSpeed")]
    assert found[0].state == ("OK" if there else "MISSING")
    if there:
        (tmp_path / "g++").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        found = examine_devices(replace(profile, accelerator="gpu"), SMALL)
        (compiles,) = [one.what for one in found if "compiles" in one.what]
        assert compiles.endswith("lacks ninja"), "not nvcc: it is compiled for the host"


def test_a_container_has_a_python_of_its_own() -> None:
    profile = HardwareConfig(
        accelerator="gpu", strategy="deepspeed_stage_3", slurm=SlurmConfig(container="apptainer x")
    )
    found = [one for one in examine_devices(profile, SMALL) if "cells run in apptainer x" in one.what]
    assert {one.state for one in found} == {"unknown"}
    assert len(found) == (torch.version.cuda is None) + (importlib.util.find_spec("deepspeed") is None)


# -- store ------------------------------------------------------------------------------------------------------------


def test_a_store_that_can_be_written(tmp_path: Path) -> None:
    found = list(examine_store(tmp_path / "not/yet/there", 1000.0))
    assert [one.state for one in found] == ["OK", "OK"], found
    assert not list(tmp_path.iterdir()), "nothing is left"
    assert "the study takes up to 1000 B more" in found[0].what
    assert [one.state for one in examine_store(tmp_path, None)] == ["unknown", "OK"]


def test_a_store_that_is_too_small_or_cannot_be_written(tmp_path: Path) -> None:
    found = next(iter(examine_store(tmp_path, 2.0**70)))
    assert found.state == "MISSING" and "make room" in found.what
    (tmp_path / "file").touch()
    (found,) = examine_store(tmp_path / "file/runs", 1.0)
    assert found.state == "MISSING" and "is not a folder" in found.what
    (found,) = examine_store(Path("/proc/sys/runs"), 1.0)
    assert found.state == "MISSING" and "cannot be written" in found.what


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_system_lacks(tmp_path) == []

    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # as FAT and some network file systems do

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "other").mkdir()
    assert file_system_lacks(tmp_path / "other") == ["hard links"]
    *_, found = examine_store(tmp_path, 1.0)
    assert found.state == "MISSING" and "lacks hard links, which leases of cells rest on" in found.what


# -- SLURM, W&B, the sandbox ------------------------------------------------------------------------------------------


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = examine_slurm({"cpu": HardwareConfig()}, "s")
    assert found.state == "unknown" and "'synthmix run STUDY' needs none" in found.what
    (found,) = examine_slurm({"cpu": HardwareConfig(), "big": HardwareConfig(nodes=2)}, "s")
    assert found.state == "MISSING" and "a cell on several nodes (big)" in found.what


def test_half_a_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sbatch is there and fails, the other commands are not."""
    shutil.copy(shutil.which("false") or "/bin/false", tmp_path / "sbatch")
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = examine_slurm({"cpu": HardwareConfig()}, "s")
    assert first == Finding("MISSING", "SLURM: not on PATH: srun, squeue, scontrol, scancel, sinfo")
    assert second == Finding("MISSING", "SLURM: sbatch: exit status 1")


def test_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert examine_wandb("auto").state == examine_wandb("disabled").state == "OK"
    assert examine_wandb("online").state == "MISSING"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert examine_wandb("online").state == examine_wandb("auto").state == "unknown"


def test_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_SANDBOX", "limits")
    assert examine_sandbox().state == "unknown"
    monkeypatch.setenv("SYNTHMIX_SANDBOX", "nonsense")
    assert examine_sandbox().state == "MISSING"


# -- the command ------------------------------------------------------------------------------------------------------


def test_without_a_study_it_says_what_the_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for words in (
        "versions\n  synthmix",
        "of memory",
        "\ndata\n",
        "\nW&B\n",
        "sandbox for generated programs",
        "IN FORCE",
    ):
        assert words in said, words


def test_a_study_that_does_not_exist(in_process: Run) -> None:
    status, said = in_process("doctor", "tinny")
    assert status == 2 and "unknown study 'tinny'. Did you mean 'tiny'?" in said


def test_the_check_without_a_network_has_none() -> None:
    code = (
        "import sys, urllib.request; from synthmix.study.offline import refuse_network;"
        "sys.addaudithook(refuse_network); urllib.request.urlopen('http://127.0.0.1:9')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no network is to be used here" in done.stderr


@pytest.mark.slow
def test_a_study_that_can_run_here(in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workplace))  # where there is a SLURM, whether it answers is another test's matter
    status, said = in_process("doctor", "tiny")
    assert status == 0, said
    for words in (
        "  OK      tiny: 74,144 parameters",
        "configs/model/tiny.yaml says parameters: 60000",
        "  OK      nano-math: written by its generator",
        "  OK      CPU:",
        "  OK      store: runs:",
        "study tiny: nothing is missing",
    ):
        assert words in said, said
    assert not (workplace / "runs").exists(), "nothing is written"


@pytest.mark.slow
def test_a_study_that_lacks_weights_and_data(in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workplace))
    monkeypatch.setenv("HF_HOME", str(workplace / "empty"))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "SYNTHMIX_DATA"):
        monkeypatch.delenv(name, raising=False)
    status, said = in_process("doctor", "tiny", "models=[tiny,pythia-70m]", "tasks=[gsm8k,nano-math]")
    assert status == 1, said
    assert "  OK      tiny:" in said
    assert (
        "  MISSING pythia-70m: configs/model/pythia-70m.yaml: EleutherAI/pythia-70m at step143000 is not in the cache"
        in said
    )
    assert "  MISSING gsm8k: cannot load data set 'openai/gsm8k'" in said
    assert "no estimate of what the study takes, since data is missing" in said
    assert "study tiny: 2 missing" in said


def test_a_check_that_breaks_says_what_it_said(workplace: Path) -> None:
    with pytest.raises(offline.UserError, match=r"(?s)the check without a network failed: .*unknown study 'nothing'"):
        offline.check_offline(["nothing"])

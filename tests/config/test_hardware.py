"""Machine profiles: what is wrong with one is said, all at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synthmix.config import HardwareConfig, config_names, find_config, load_hardware
from synthmix.config.strategies import check_installed
from synthmix.errors import ConfigError


@pytest.mark.parametrize("name", config_names("hardware"))
def test_every_shipped_profile_names_a_command_that_uses_it(name: str) -> None:
    header = [line for line in find_config("hardware", name).read_text().splitlines() if line.startswith("#")]
    (command,) = [line for line in header if re.match(r"# (synthmix|bash) ", line)][:1]
    study = find_config("study", command.split()[3].removeprefix("study=") if "run" in command else command.split()[3])
    assert f"hardware={name}" in command or name in study.read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("threads: 0", "threads = 0: expected 1 or more, or null"),
        ("memory_gib: 0", "memory_gib = 0: expected more than 0, or null where it is unknown"),
        ("host_memory_gib: -1", "host_memory_gib = -1: expected more than 0"),
        ("peak_tflops: 0", "peak_tflops = 0: expected more than 0"),
        ("train_utilisation: 1.5", "train_utilisation = 1.5: expected a share of the peak"),
        ("offload: optimizer", "offload = optimizer: strategy auto offloads nothing"),
        ("loss_kernel: liger", "loss_kernel = liger: its kernels need accelerator gpu, this is cpu; expected sliced"),
        ("strategy: fsdp", "strategy = 'fsdp': expected one of auto, ddp, fsdp2"),
        ("inference_precision: 16-true", "inference_precision = '16-true': expected one of 32-true, bf16-true"),
    ],
)
def test_a_value_that_means_nothing(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_hardware(str(tmp_path / "mine.yaml"))


def test_all_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("devices: 0\nmemory_gib: -2\nread_utilisation: 0\noffload: all\n")
    with pytest.raises(ConfigError) as caught:
        load_hardware(str(tmp_path / "mine.yaml"))
    assert len(caught.value.problems) == 4


def test_a_deepspeed_configuration_beside_the_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_DEEPSPEED_CONFIG_PATH", "mine.json")
    with pytest.raises(ConfigError, match=r"\$PL_DEEPSPEED_CONFIG_PATH = mine.json: .* expected it unset"):
        check_installed(HardwareConfig(strategy="deepspeed_stage_2"))
    check_installed(HardwareConfig())

"""Fixtures of all tests. Real benchmark records are found through $SYNTHMIX_DATA; without it those tests are skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline, which a machine that is shared does not keep, and the same examples every time.
settings.register_profile(
    "shared", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared")
# Read when torch is loaded: waiting threads that spin starve the other test processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


#: A study small enough for tests: a random GPT-NeoX of some thousand parameters on a nano task.
STUDY = """\
tasks: [nano-math]
models: [tiny]
proportions: [0.0, 0.5]
iterations: 2
seeds: [0]
data: {train_examples: 64, validation_examples: 12, test_examples: 20}
training: {epochs: 2}
evaluation: {diversity_samples: 20}
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights and the nano tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from synthmix.models.nano import TOKENIZER

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and a study of its own under ./configs."""
    for kind in ("study", "model"):
        (tmp_path / "configs" / kind).mkdir(parents=True)
    (tmp_path / "configs/study/tiny.yaml").write_text(STUDY)
    (tmp_path / "configs/model/tiny.yaml").write_text(
        f"source: folder\nid: {tiny_model}\nparameters: 60000\ncontext: 256\nlearning_rate: 0.003\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


def start(*words: str) -> subprocess.Popen[str]:
    """``synthmix`` in a process of its own, one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "synthmix.cli", *words]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a shell that starts the tests in the background has SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def in_process(workplace: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs ``synthmix`` in this process: (exit status, everything it said)."""
    from synthmix import interrupts
    from synthmix.cli import main

    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}

    def run(*words: str) -> tuple[int, str]:
        try:
            status = main(words)
        finally:
            interrupts.uninstall(handlers)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def synthmix(workplace: Path):  # type: ignore[no-untyped-def]
    """Starts the command line in the workplace."""
    return start


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real benchmark data."""
    root = os.environ.get("SYNTHMIX_DATA")
    if not root:
        pytest.skip("SYNTHMIX_DATA is not set")
    return Path(root)

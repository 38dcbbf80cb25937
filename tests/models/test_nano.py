"""The nano ladder: what is shipped loads, what is changed is noticed, what is built is built once and whole."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from synthmix.errors import ConfigError, UserError
from synthmix.models import nano
from synthmix.models.pretrain import MIX, batches, learning_rate, micro_batches, pretrain, train_tokenizer
from synthmix.tasks import get_task

TOKENIZER = AutoTokenizer.from_pretrained(nano.TOKENIZER)


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_tokenizer_keeps_any_text(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_tokenizer_digits_stand_alone_and_nothing_pads() -> None:
    assert TOKENIZER.tokenize("16-3=13") == ["1", "6", "-", "3", "=", "1", "3"]
    assert TOKENIZER.eos_token == nano.EOS_TOKEN and TOKENIZER.eos_token_id == 0
    assert TOKENIZER.pad_token is None


def test_tokenizer_parts_are_a_prefix_of_the_document() -> None:
    """Documents are tokenized part by part; the shipped vocabulary gives the same as the whole text at once."""
    for name in MIX:
        task = get_task(name)
        document = task.render(task.generate_split("train", 1, 0, 0.5)[0].record)
        parts = [TOKENIZER(p)["input_ids"] for p in (document.header, document.body, document.completion)]
        assert TOKENIZER.decode(sum(parts, [])) == document.text


@pytest.mark.slow
def test_tokenizer_is_what_its_command_makes(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (nano.TOKENIZER / name).read_bytes()


@pytest.mark.parametrize("name", nano.SHIPPED)
def test_shipped_model_has_learnt_something(name: str) -> None:
    """Loss on documents that it has not seen, far below the 6.9 nats of a uniform guess over 1,024 tokens."""
    folder = nano.ensure_nano(name)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    shape = nano.LADDER[name]
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (shape.layers, shape.width)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for task_name in MIX:
        task = get_task(task_name)
        for example in task.generate_split("test", 5, 0, 0.5):
            ids = tokenizer(task.render(example.record).text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                assert model(input_ids=ids, labels=ids).loss < 2.0


def test_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in nano.ASSETS.rglob("*") if path.is_file()) < 3_100_000


def test_model_files_in_configs_agree_with_the_ladder() -> None:
    from synthmix.models.pretrain import build_model

    folder = Path(nano.__file__).parents[2] / "configs" / "model"
    for name, shape in nano.LADDER.items():
        text = (folder / f"{name}.yaml").read_text()
        parameters = sum(p.numel() for p in build_model(shape).parameters())
        assert f"id: {name}\nparameters: {parameters}\n" in text


def test_unknown_name_has_a_near_match() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'nano-0.9m'"):
        nano.ensure_nano("nano-0.9")


def test_changed_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "ASSETS", tmp_path)
    shutil.copytree(Path(nano.__file__).parent / "assets" / "nano-0.3m", tmp_path / "nano-0.3m")
    nano.ensure_nano("nano-0.3m")
    weights = tmp_path / "nano-0.3m" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model.safetensors: SHA-256 is .* expected .* install synthmix again"):
        nano.ensure_nano("nano-0.3m")
    weights.unlink()
    with pytest.raises(UserError, match="no such file"):
        nano.ensure_nano("nano-0.3m")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A rung of the ladder that is built in a second, and a cache of its own."""
    monkeypatch.setitem(nano.LADDER, "nano-test", nano.Shape(1, 16, 2, steps=3, learning_rate=1e-3, batch=10))
    monkeypatch.setenv("SYNTHMIX_CACHE", str(tmp_path / "cache"))
    return "nano-test"


def test_same_command_same_bytes(tiny: str, tmp_path: Path) -> None:
    first = pretrain(tiny, tmp_path / "a", threads=1)
    second = pretrain(tiny, tmp_path / "b", threads=1)
    assert first["sha256"] == second["sha256"] == nano.sha256_of(tmp_path / "a" / "model.safetensors")
    assert first["sha256"] != pretrain(tiny, tmp_path / "c", threads=1, steps=2)["sha256"]
    rows = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2]
    assert rows[-1]["tokens"] == first["tokens"] > 0
    assert first["sha256"] in (tmp_path / "a" / "README.md").read_text()


def test_built_once_by_two_at_a_time(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmix.models import pretrain as module

    calls = []

    def counted(name: str, out: Path) -> dict:
        calls.append(out)
        return pretrain(name, out, threads=1)

    monkeypatch.setattr(module, "pretrain", counted)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(nano.ensure_nano, [tiny, tiny]))
    assert folders[0] == folders[1] and len(calls) == 1
    AutoModelForCausalLM.from_pretrained(folders[0])
    assert AutoTokenizer.from_pretrained(folders[0]).eos_token_id == 0
    assert {path.name.removesuffix(".lock") for path in nano.cache_dir().iterdir()} == {folders[0].name}


def test_a_failed_build_leaves_nothing(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmix.models import pretrain as module

    def fails(name: str, out: Path) -> dict:
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pretrain", fails)
    with pytest.raises(KeyboardInterrupt):
        nano.ensure_nano(tiny)
    assert [path.suffix for path in nano.cache_dir().iterdir()] == [".lock"]


def test_batches_follow_the_mix_and_repeat_pools_whole() -> None:
    corpus = {name: [[task, i] for i in range(40)] for task, name in enumerate(MIX)}
    drawn = [document for step in batches(corpus, 50, 20) for document in step]
    assert len(drawn) == 1_000
    for task, share in enumerate(MIX.values()):
        of_task = [i for t, i in drawn if t == task]
        assert len(of_task) / 1_000 == pytest.approx(share, abs=0.05)
        for start in range(0, len(of_task) - 40, 40):
            assert sorted(of_task[start : start + 40]) == list(range(40))


def test_micro_batches_lose_nothing_and_pad_little() -> None:
    docs = [[1] * n for n in (5, 50, 6, 51, 7, 52, 8, 53)]
    parts = list(micro_batches(docs, 2))
    assert sorted(row[row != -100].numel() for _, labels in parts for row in labels) == [5, 6, 7, 8, 50, 51, 52, 53]
    assert [ids.shape[1] for ids, _ in parts] == [8, 53]


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(1.0)
    assert rates[5:] == sorted(rates[5:], reverse=True) and rates[-1] == pytest.approx(0.1, abs=0.01)

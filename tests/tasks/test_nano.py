"""What every nano task promises: disjoint splits, prefixes, exact inverses, a parser that survives anything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmix.errors import ConfigError, DataError
from synthmix.tasks import Malformed, get_task
from synthmix.tasks.nano_common import SHARES, Dice, NanoTask, split_of

NAMES = ["nano-commonsense", "nano-math", "nano-facts", "nano-reading", "nano-code", "nano-dialogue"]
tasks = pytest.mark.parametrize("name", NAMES)


def nano(name: str) -> NanoTask:
    task = get_task(name)
    assert isinstance(task, NanoTask)
    return task


@tasks
@given(seed=st.integers(0, 2**40), difficulty=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_parse_inverts_render(name: str, seed: int, difficulty: float) -> None:
    task = nano(name)
    for split in ("pretrain", "train"):
        for example in task.generate_split(split, 5, seed, difficulty):
            document = task.render(example.record)
            assert task.parse(document.text) == task.canonical(example.record)
            assert document.header == task.header
            assert task.parse(document.text).keys() == task.fields.keys()
            task.check(example.record)


@tasks
@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_arbitrary_text_is_malformed(name: str, text: str) -> None:
    task = nano(name)
    for candidate in (text, task.header + text):
        with pytest.raises(Malformed):
            task.parse(candidate)


@tasks
@given(seed=st.integers(0, 50), data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_documents_parse_to_themselves_or_are_malformed(name: str, seed: int, data: st.DataObject) -> None:
    task = nano(name)
    text = task.render(task.generate_split("train", 1, seed)[0].record).text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 8)))
    damaged = text[:start] + data.draw(st.text(max_size=4) | st.sampled_from(["\n", " ", ", ", "9" * 40])) + text[end:]
    try:
        record = task.parse(damaged)
    except Malformed as reason:
        assert str(reason)
    else:
        assert task.render(record).text == damaged


@pytest.mark.parametrize("name", [name for name in NAMES if get_task(name).answering == "generation"])
@given(completion=st.text())
@settings(max_examples=50, deadline=None)
def test_scoring_survives_any_completion(name: str, completion: str) -> None:
    task = nano(name)
    record = task.generate_split("test", 1, 0)[0].record
    for strict in (True, False):
        answer = task.extract(completion, strict)
        assert (answer.value is None) == bool(answer.why)
        if answer.span and answer.value:
            assert 0 <= answer.span[0] < answer.span[1] <= len(completion)
        if not task.executes:
            assert 0.0 <= task.score(answer.value, record) <= 1.0


@tasks
def test_gold_completion_is_right(name: str) -> None:
    task = nano(name)
    for example in task.generate_split("test", 200, 3):
        completion = task.render(example.record).completion
        if task.answering == "choice":
            assert task.choices(example.record).count(completion) == 1
            assert task.score(task.gold(example.record), example.record) == 1.0
        elif task.executes:
            exec(task.program(completion, example.record), {})
        else:
            for strict in (True, False):
                answer = task.extract(completion, strict)
                assert answer.value == task.gold(example.record)
                assert task.score(answer.value, example.record) == 1.0
            assert set(task.secondary_scores(answer.value, example.record).values()) <= {1.0}
        assert task.score(None, example.record) == 0.0


@tasks
def test_splits_never_share_a_question(name: str) -> None:
    task = nano(name)
    owner: dict[str, str] = {}
    for split in SHARES:
        for seed in range(3):
            for difficulty in (0.0, 0.5, 1.0):
                examples = task.generate_split(split, 100, seed, difficulty)
                questions = [task.question(example.record) for example in examples]
                assert len(set(questions)) == len({example.id for example in examples}) == 100
                for question in questions:
                    assert owner.setdefault(question, split) == split == split_of(name, question)


@tasks
def test_a_smaller_draw_is_a_prefix(name: str) -> None:
    task = nano(name)
    large = task.generate_split("train", 200, 7, 0.3)
    assert task.generate_split("train", 50, 7, 0.3) == large[:50]
    assert task.generate_split("train", 50, 8, 0.3) != large[:50]


@tasks
def test_same_question_same_id_whatever_the_seed(name: str) -> None:
    task = nano(name)
    ids: dict[str, str] = {}
    for seed in range(4):
        for example in task.generate_split("test", 300, seed):
            assert ids.setdefault(task.question(example.record), example.id) == example.id


@tasks
def test_documents_fit_the_generation_limit(name: str) -> None:
    """Longest documents in tokens; the tokenizer is the shipped one."""
    from transformers import AutoTokenizer

    from synthmix.models.nano import TOKENIZER

    tokenizer, task = AutoTokenizer.from_pretrained(TOKENIZER), nano(name)
    for example in task.generate_split("train", 300, 0) + task.generate_split("train", 300, 0, 1.0):
        document = task.render(example.record)
        lengths = [len(tokenizer(part)["input_ids"]) for part in (document.header, document.body, document.completion)]
        assert sum(lengths) < task.max_document_tokens
        assert lengths[2] < task.max_new_tokens


@tasks
def test_user_errors(name: str) -> None:
    task = nano(name)
    with pytest.raises(ConfigError, match="did you mean 'validation'|Did you mean 'validation'"):
        task.generate_split("validatoin", 1, 0)
    with pytest.raises(ConfigError, match="difficulty is 1.5"):
        task.generate_split("train", 1, 0, 1.5)


def test_asking_for_more_than_there_are() -> None:
    with pytest.raises(DataError, match="nano-facts: 10000 different examples .* 'validation'.* only about"):
        nano("nano-facts").generate_split("validation", 10_000, 0)


def test_zipf_is_zipf() -> None:
    dice = Dice("test", 0)
    drawn = [dice.zipf("abcd", 1.0) for _ in range(20_000)]
    weights = [1, 1 / 2, 1 / 3, 1 / 4]
    for letter, weight in zip("abcd", weights, strict=True):
        assert drawn.count(letter) / len(drawn) == pytest.approx(weight / sum(weights), abs=0.015)


def test_shares_cover_everything() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
    splits = [split_of("t", str(i)) for i in range(20_000)]
    for split, share in SHARES.items():
        assert splits.count(split) / len(splits) == pytest.approx(share, abs=0.015)

"""A task file in a study, from the plan to the report, and what ``synthmix task check`` says of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from synthmix.config import load_model, load_study
from synthmix.errors import ConfigError, UserError
from synthmix.study.cells import make_plan
from synthmix.study.task_check import check_task
from synthmix.tasks import get_task

Run = Callable[..., tuple[int, str]]

TASK = """\
files: {train: data/train.jsonl, test: data/test.jsonl}
prompt: "Question: What comes after {letter}?\\nAnswer:"
completion: " {next}"
metric: exact_match
max_new_tokens: 8
max_document_tokens: 40
"""
SETTINGS = (
    "models=[nano-0.3m]", "proportions=[0.5]", "iterations=1", "data.train_examples=null", "data.test_examples=null",
    "data.validation_examples=8", "training.epochs=1", "evaluation.diversity_samples=0",
)  # fmt: skip


def lines(*pairs: tuple[str, str | None]) -> str:
    return "".join(json.dumps({"letter": letter, "next": after}) + "\n" for letter, after in pairs)


def words(n: int, start: int = 0) -> list[tuple[str, str | None]]:
    return [(f"w{i}", f"w{i + 1}") for i in range(start, start + n)]


@pytest.fixture
def task_file(workplace: Path) -> Path:
    """``tasks/letters.yaml`` in the workplace: 40 records and one without an answer to train on, 6 to test."""
    folder = workplace / "tasks/data"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(lines(*words(40), ("w99", None)))
    (folder / "test.jsonl").write_text(lines(*words(6, 50)))
    (workplace / "tasks/letters.yaml").write_text(TASK)
    return workplace / "tasks/letters.yaml"


def cells_of(*changes: str) -> list[Any]:
    return list(make_plan(load_study("tiny", [*SETTINGS, *changes])).cells)


@pytest.mark.slow
def test_a_study_of_a_task_file(in_process: Run, task_file: Path, workplace: Path) -> None:
    status, output = in_process("run", "tiny", "tasks=[tasks/letters.yaml]", *SETTINGS)
    assert status == 0, output
    cells = sorted((workplace / "runs/cells").iterdir())
    assert [cell.name.rsplit("-", 1)[0] for cell in cells] == [
        "nano-0.3m.letters.baseline.it0.s0",
        "nano-0.3m.letters.replace-50.it1.s0",
    ]
    result = json.loads((cells[1] / "result.json").read_text())
    assert (result["task"], result["family"], result["metric"]) == ("letters", "Custom", "exact_match")
    assert result["mixture"]["external"] == result["mixture"]["synthetic"] == 16
    assert result["data"]["excluded"] == {"train: no answer": 1}
    rows = pd.read_parquet(cells[1] / "items.parquet")
    assert rows["split"].value_counts().to_dict() == {"validation": 8, "test": 6}
    assert set(rows[rows["split"] == "test"]["gold"]) == {f"w{i}" for i in range(51, 57)}
    report = (workplace / "runs/studies/tiny/report/report.html").read_text()
    assert "letters" in report and "no answer" in report

    # what was frozen is found again from its own settings, by a process that knows nothing else
    plan = workplace / "runs/studies/tiny/plan.json"
    assert in_process("cell", str(plan), "--index", "1") == (0, f"{cells[1].name}: done\n")


def test_the_same_content_elsewhere_is_the_same_cells(task_file: Path, workplace: Path) -> None:
    """A copy among the configurations goes by its name."""
    shutil.copytree(task_file.parent, workplace / "configs/task")
    assert cells_of("tasks=[letters]") == cells_of("tasks=[tasks/letters.yaml]")


def test_other_content_is_other_cells(task_file: Path) -> None:
    first = cells_of("tasks=[tasks/letters.yaml]")
    task_file.write_text(TASK.replace("after", "behind"))
    other = cells_of("tasks=[tasks/letters.yaml]")
    assert [cell.task for cell in other] == [cell.task for cell in first] == ["letters"] * 2
    assert not {cell.hash for cell in other} & {cell.hash for cell in first}


def test_a_study_says_everything_that_is_wrong_with_its_tasks(task_file: Path) -> None:
    task_file.write_text(TASK.replace("exact_match", "exact").replace("test.jsonl", "tset.jsonl"))
    with pytest.raises(ConfigError) as error:
        load_study("tiny", ["tasks=[tasks/letters.yaml, tasks/none.yaml, gsm9k]", "training.epochs=0"])
    for expected in (
        "5 problems",
        "tasks: tasks/letters.yaml: line 1: files.test = 'data/tset.jsonl': no such file in tasks",
        "tasks: tasks/letters.yaml: line 4: metric = 'exact': expected one of accuracy, exact_match, f1",
        "tasks: task file 'tasks/none.yaml': no such file",
        "tasks: unknown task 'gsm9k'. Did you mean 'gsm8k'?",
        "training.epochs = 0",
    ):
        assert expected in str(error.value), error.value


def test_two_tasks_of_one_name(task_file: Path) -> None:
    shutil.copytree(task_file.parent, "other")
    with pytest.raises(ConfigError, match="tasks/letters.yaml and other/letters.yaml are both called 'letters'"):
        cells_of("tasks=[tasks/letters.yaml, other/letters.yaml]")


def test_a_check_finds_what_was_planted(task_file: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    train = [*words(3), ("W1!", "w2"), ("w2", "other"), ("x", None), ("y?\nAnswer: q", "z"), (long, "fifteen")]
    test = [("w0", "w1"), (f"So: {long}", "fifteen"), ("w7", "w8"), ("w8", "far " * 60)]
    (task_file.parent / "data/train.jsonl").write_text(lines(*train))
    (task_file.parent / "data/test.jsonl").write_text(lines(*test))
    check = check_task(get_task(str(task_file)), load_model("nano-0.9m"))
    folder = f"{task_file.parent}/data"
    assert {split: len(examples) for split, examples in check.splits.items()} == {"train": 6, "test": 4}
    assert {f.what: f.places for f in check.left_out} == {
        "train: no answer": [f"{folder}/train.jsonl:6"],
        "train: ambiguous: the document reads back as another record": [f"{folder}/train.jsonl:7"],
    }
    assert {f.what: f.places for f in check.duplicates} == {
        "train: questions asked before": [
            f"{folder}/train.jsonl:4 asks what {folder}/train.jsonl:2 asks, with the same answer",
            f"{folder}/train.jsonl:5 asks what {folder}/train.jsonl:3 asks, with another answer",
        ]
    }
    shared = " ".join(long.split()[:13])
    assert {f.what: f.places for f in check.overlaps} == {
        "test: questions of train": [f"{folder}/test.jsonl:1"],
        "test: 13 words in a row of train": [f"{folder}/test.jsonl:2 ({shared})"],
    }
    tokens = check.lengths["test"]
    assert all(p + c == d for p, c, d in zip(tokens.prompt, tokens.completion, tokens.document, strict=True))
    found = {f.what: f.places for f in check.too_long}
    assert found["test: with completions longer than max_new_tokens (8 tokens)"][-1] == (
        f"{folder}/test.jsonl:4 ({tokens.completion[3]})"
    )
    assert "test: longer than the context of nano-0.9m (512 tokens)" not in found and check.advice == []


def test_a_check_gives_advice_on_blanks(task_file: Path) -> None:
    task_file.write_text(TASK.replace("Answer:", "Answer: ").replace('" {next}', '"{next}'))
    assert check_task(get_task(str(task_file)), load_model("nano-0.9m")).advice == [
        "the prompt ends in a blank, which tokenizers join to the next word: begin what follows with it"
    ]
    task_file.write_text('files: {train: data/train.jsonl, test: data/test.jsonl}\nprompt: "{letter} is before"\n'
                         'completion: "{next}"\nmetric: accuracy\n')  # fmt: skip
    nothing, start = check_task(get_task(str(task_file)), load_model("nano-0.9m")).advice
    assert nothing.startswith("nothing separates the prompt from the completion: 'w0 is before', 'w1'")
    assert start.startswith("no text starts every document")


def test_a_task_that_makes_its_own_records_has_no_files_to_check() -> None:
    with pytest.raises(UserError, match="task 'nano-math' has no files here to check"):
        check_task(get_task("nano-math"), load_model("nano-0.9m"))

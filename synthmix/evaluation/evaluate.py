"""Evaluation item by item: one row an item, appended as it is scored, continued after a kill.

All statistics come from these rows. Columns: ``split, item, gold, prediction, prediction_flexible, completion, score,
score_flexible, correct, invalid, stop, tokens, logprob, confidence, confidence_mean, confidence_sum,
confidence_answer, gold_logprob, gold_tokens``, and ``score_<name>`` for the task's further scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix import keys
from synthmix.config import EvaluationConfig
from synthmix.data.encoding import encode_document, encode_prompt
from synthmix.errors import ConfigError
from synthmix.evaluation.confidence import AUTO, choice_confidences, generation_confidences, same_text_together
from synthmix.evaluation.likelihood import ChoiceItem, choice_logprobs, document_logprobs
from synthmix.evaluation.sandbox import run_programs
from synthmix.files import append_jsonl, cut_torn_line, read_jsonl_prefix
from synthmix.generation.engine import Completion, Generator, Request
from synthmix.generation.sampling import Sampling
from synthmix.tasks import Answer, Example, Task

#: Verdicts on a program that does not even compile: no answer at all.
NOT_PYTHON = ("SyntaxError", "IndentationError", "TabError")

Row = dict[str, Any]
Advance = Callable[[int], None]


class Evaluator:
    """Scores a trained model on the items of one task.

    Args:
        model, tokenizer: the trained model.
        task: the task; one answered by running code needs ``evaluation.run_generated_code`` (the nano suite's does
            not: its models know nothing but the suite).
        config: what is measured.
        pass_sampling: temperature and nucleus of the further samples behind pass@k.
        key: names the cell, for the sampled answers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        config: EvaluationConfig,
        pass_sampling: Sampling,
        key: str,
    ) -> None:
        if task.executes and task.source is not None and not config.run_generated_code:
            raise ConfigError(
                [f"evaluation.run_generated_code = false, but {task.name} is scored by running what the model writes"]
            )
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.config, self.pass_sampling, self.key = config, pass_sampling, key
        self.generator = Generator(model, tokenizer, batch_size=config.batch_size)
        named = config.confidence
        self.headline = AUTO[task.answering] if named == "auto" else named
        if self.headline == "answer" and task.answering == "choice":
            raise ConfigError([f"evaluation.confidence = answer, but {task.name} has choices; expected mean or sum"])

    def evaluate(
        self, examples: Sequence[Example], split: str, path: Path, advance: Advance = lambda n: None
    ) -> list[Row]:
        """Rows of a split, in the order of ``examples``; pieces that ``path`` holds already are not computed again.

        Items are scored in pieces that are always the same, so a resume scores them in the same company and its numbers
        are equal to the last bit; a kill loses one piece at most.
        """
        cut_torn_line(path)
        done = {row["item"]: row for row in read_jsonl_prefix(path) if row["split"] == split}
        score = self._choices if self.task.answering == "choice" else self._generated
        size = self.config.batch_size
        for start in range(0, len(examples), size):
            piece = examples[start : start + size]
            if any(example.id not in done for example in piece):
                for row in score(piece, split):
                    if row["item"] not in done:
                        append_jsonl(path, row)
                        done[row["item"]] = row
            advance(len(piece))
        return [done[example.id] for example in examples]

    # -- multiple choice --------------------------------------------------------------------------------------------

    def _choices(self, examples: Sequence[Example], split: str) -> Iterator[Row]:
        items, texts = [], []
        for example in examples:
            prompt = encode_prompt(self.tokenizer, self.task.render(example.record))
            texts.append(self.task.choices(example.record))
            ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts[-1]]
            items.append(ChoiceItem(example.id, prompt, ids))
        scores = choice_logprobs(self.model, items, batch_size=self.config.batch_size)
        for example, choices, scored in zip(examples, texts, scores, strict=True):
            logprobs, lengths = [s.logprob for s in scored], [s.n_tokens for s in scored]
            confidences = choice_confidences(logprobs, lengths)
            confidences = {name: same_text_together(choices, values) for name, values in confidences.items()}
            best = max(range(len(choices)), key=logprobs.__getitem__)
            best_mean = max(range(len(choices)), key=confidences["mean"].__getitem__)
            gold = self.task.gold(example.record)
            right = next(i for i, text in enumerate(choices) if text.strip() == gold.strip())
            values = {"sum": confidences["sum"][best], "mean": confidences["mean"][best], "answer": None}
            yield (
                self._row(example, split, Answer(choices[best].strip()), Answer(choices[best_mean].strip()))
                | {
                    "completion": choices[best],
                    "stop": "",
                    "tokens": lengths[best],
                    "logprob": logprobs[best],
                    "gold_logprob": logprobs[right],
                    "gold_tokens": lengths[right],
                }
                | self._confidence_columns(values)
            )

    # -- generation -------------------------------------------------------------------------------------------------

    def _generated(self, examples: Sequence[Example], split: str) -> Iterator[Row]:
        completions = self._complete(examples, Sampling(greedy=True))
        encoded = [encode_document(self.tokenizer, self.task.render(e.record)) for e in examples]
        gold = document_logprobs(
            self.model, [(e.ids, e.completion_start) for e in encoded], batch_size=self.config.batch_size
        )
        strict = [self.task.extract(c.text, strict=True) for c in completions]
        loose = [self.task.extract(c.text, strict=False) for c in completions]
        programs = self._run(examples, strict) if self.task.executes else [None] * len(examples)
        passed = self._pass_counts(examples) if split == "test" else [{}] * len(examples)
        for i, example in enumerate(examples):
            confidences = generation_confidences(completions[i], strict[i].span, self.tokenizer)
            row = self._row(example, split, strict[i], loose[i], programs[i]) | {
                "completion": completions[i].text,
                "stop": completions[i].stop_reason,
                "tokens": len(completions[i].token_ids),
                "logprob": sum(completions[i].logprobs) + (completions[i].eos_logprob or 0.0),
                "gold_logprob": gold[i][0],
                "gold_tokens": gold[i][1],
            }
            yield row | self._confidence_columns(confidences) | passed[i]

    def _complete(self, examples: Sequence[Example], sampling: Sampling, sample: int = 0) -> list[Completion]:
        requests = [
            Request(
                example.id,
                encode_prompt(self.tokenizer, self.task.render(example.record)),
                keys.key(self.key, "answer", example.id, sample),
                self.task.max_new_tokens,
            )
            for example in examples
        ]
        by_id = {c.id: c for c in self.generator.generate(requests, sampling, stop=self.task.stop)}
        return [by_id[example.id] for example in examples]

    def _run(self, examples: Sequence[Example], answers: Sequence[Answer]) -> list[str]:
        """Why each program failed; an empty string for those that pass."""
        programs = [self.task.program(a.value or "", e.record) for e, a in zip(examples, answers, strict=True)]
        return [verdict.why for verdict in run_programs(programs)]

    def _pass_counts(self, examples: Sequence[Example]) -> list[Row]:
        """Right answers (strict, as the score) among the sampled ones, for pass@k; nothing where ``evaluation.pass_samples`` is 0."""
        n = self.config.pass_samples
        right = [0.0] * len(examples)
        for sample in range(n):
            completions = self._complete(examples, self.pass_sampling, sample + 1)
            answers = [self.task.extract(c.text, strict=True) for c in completions]
            failures = self._run(examples, answers) if self.task.executes else [None] * len(examples)
            for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
                why = failures[i]
                score = self.task.score(answer.value, example.record) if why is None else float(not why)
                right[i] += score >= 0.5
        return [{"samples": n, "samples_correct": int(c)} if n else {} for c in right]

    # -- rows -------------------------------------------------------------------------------------------------------

    def _row(self, example: Example, split: str, strict: Answer, loose: Answer, failure: str | None = None) -> Row:
        """The columns that every way of answering shares. ``failure`` is a program's verdict, None without one."""
        record = example.record
        if failure is None:
            score, flexible = self.task.score(strict.value, record), self.task.score(loose.value, record)
        else:
            score = flexible = float(not failure)
        secondary = self.task.secondary_scores(strict.value, record)
        return {
            "split": split,
            "item": example.id,
            "gold": self.task.gold(record),
            "prediction": strict.value,
            "prediction_flexible": loose.value,
            "score": score,
            "score_flexible": flexible,
            "correct": score >= 0.5,
            "invalid": strict.why if strict.value is None else failure if failure in NOT_PYTHON else "",
            **{f"score_{name}": value for name, value in secondary.items()},
        }

    def _confidence_columns(self, values: dict[str, float | None]) -> Row:
        headline = values.get(self.headline)
        columns: Row = {"confidence": values["mean"] if headline is None else headline}
        return columns | {f"confidence_{name}": value for name, value in values.items()}

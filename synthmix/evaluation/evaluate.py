"""Evaluation item by item: one row an item, appended as it is scored, continued after a kill.

All statistics come from these rows. Columns: ``split, item, gold, prediction, prediction_flexible, completion, score,
score_flexible, correct, invalid, shortened, stop, tokens, logprob, confidence, confidence_mean, confidence_sum,
confidence_answer, confidence_agreement, confidence_p_true, gold_logprob, gold_tokens``, ``score_<name>`` for the task's
further scores, ``group_<name>`` for the groups that are scored by themselves, and ``samples, samples_correct`` where
further answers were sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix import keys
from synthmix.config import CONFIDENCES, EvaluationConfig
from synthmix.data.encoding import encode_documents, encode_prompts
from synthmix.data.fitting import fit_prompts
from synthmix.errors import ConfigError
from synthmix.evaluation.confidence import (
    AUTO,
    P_TRUE_OPTIONS,
    P_TRUE_QUESTION,
    answer_tokens,
    choice_confidences,
    generation_confidences,
    p_true,
    same_answer_together,
)
from synthmix.evaluation.likelihood import ChoiceItem, ChoiceScore, choice_logprobs, document_logprobs
from synthmix.evaluation.sandbox import run_programs
from synthmix.evaluation.summary import UNFIT
from synthmix.files import append_jsonl, cut_torn_line, read_jsonl_prefix
from synthmix.generation.engine import Completion, Generator, Request
from synthmix.generation.sampling import Sampling
from synthmix.tasks import Answer, Document, Example, Task

#: Verdicts on a program that does not even compile: no answer at all.
NOT_PYTHON = ("SyntaxError", "IndentationError", "TabError")

Row = dict[str, Any]
Advance = Callable[[int], None]
Piece = Sequence[Example]
#: Rows of each of some pieces of a split.
ScorePieces = Callable[[Sequence[Piece], str], Sequence[Sequence[Row]]]


@dataclass(frozen=True)
class Item:
    """An example as a model is asked it: ``prompt`` are the tokens of the (perhaps shortened) document's prompt."""

    example: Example
    split: str
    document: Document
    prompt: list[int]
    shortened: bool


@dataclass
class Sampled:
    """Further answers to one item: how many there are, how many are right, how many say what the greedy one says."""

    n: int = 0
    right: int = 0
    agreeing: int | None = 0

    def count(self, right: bool, agrees: bool | None) -> None:
        self.n += 1
        self.right += right
        self.agreeing = None if agrees is None or self.agreeing is None else self.agreeing + agrees

    @property
    def agreement(self) -> float | None:
        return self.agreeing / self.n if self.n and self.agreeing is not None else None

    def columns(self) -> Row:
        return {"samples": self.n, "samples_correct": self.right} if self.n else {}


class Evaluator:
    """Scores a trained model on the items of one task.

    Args:
        model, tokenizer: the trained model.
        task: the task; one answered by running code needs ``evaluation.run_generated_code`` (the nano suite's does
            not: its models know nothing but the suite).
        config: what is measured.
        pass_sampling: temperature and nucleus of the further samples behind pass@k and agreement.
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
        self.context = self.generator.backbone.context
        named = config.confidence
        self.headline = AUTO[task.answering] if named == "auto" else named
        if self.headline in ("answer", "agreement") and task.answering == "choice":
            self.headline = AUTO["choice"]

    def evaluate(
        self,
        examples: Sequence[Example],
        split: str,
        path: Path,
        advance: Advance = lambda n: None,
        score: ScorePieces | None = None,
        together: int = 1,
    ) -> list[Row]:
        """Rows of a split, in the order of ``examples``; pieces that ``path`` holds already are not computed again.

        Items are scored in pieces that are always the same, so a resume scores them in the same company and its numbers
        are equal to the last bit; a kill loses one piece at most.

        Args:
            examples, split: the items, and the name of their split.
            path: where rows are appended.
            advance: told how many items have been dealt with since the last call.
            score: what scores pieces, by default this evaluator; several ranks share them out.
            together: pieces that are given to ``score`` at a time.

        Raises:
            Preempted: the process was asked to stop; pieces scored so far are in ``path``.
        """
        score = score or self.score
        cut_torn_line(path)
        done = {row["item"]: row for row in read_jsonl_prefix(path) if row["split"] == split}
        size = self.config.batch_size
        pieces = [examples[start : start + size] for start in range(0, len(examples), size)]
        for start in range(0, len(pieces), together):
            group = pieces[start : start + together]
            missing = [piece for piece in group if any(example.id not in done for example in piece)]
            for row in (row for rows in (score(missing, split) if missing else ()) for row in rows):
                if row["item"] not in done:
                    append_jsonl(path, row)
                    done[row["item"]] = row
            advance(sum(map(len, group)))
        return [done[example.id] for example in examples]

    def score(self, pieces: Sequence[Piece], split: str) -> list[list[Row]]:
        """Rows of each piece, in the order of its items."""
        return [list(self._piece(piece, split)) for piece in pieces]

    def _piece(self, examples: Piece, split: str) -> Iterator[Row]:
        """Rows of some items, in their order."""
        fitted = fit_prompts(self.task, self.tokenizer, [e.record for e in examples], self.context)
        prompts = encode_prompts(self.tokenizer, fitted.documents)
        items = [
            Item(example, split, document, prompt, shortened)
            for example, document, prompt, shortened in zip(
                examples, fitted.documents, prompts, fitted.shortened, strict=True
            )
        ]
        answer = self._choices if self.task.answering == "choice" else self._generated
        rows = answer([item for item in items if self._fits(item)])
        for item in items:
            yield next(rows) if self._fits(item) else self._unfit(item)

    def _fits(self, item: Item) -> bool:
        """Whether the model can be asked at all: the longest choice, or a single token, has room after the prompt."""
        longest = 1
        if self.task.answering == "choice":
            longest = max(map(len, self._choice_ids(item)))
        return self.context is None or len(item.prompt) + longest <= self.context

    def _unfit(self, item: Item) -> Row:
        row = self._row(item, Answer(None, UNFIT), Answer(None))
        nothing = {"completion": "", "stop": "", "tokens": 0, "logprob": None, "gold_logprob": None, "gold_tokens": 0}
        unsure = {"confidence": 0.0} | {f"confidence_{name}": None for name in CONFIDENCES}
        return row | nothing | unsure | Sampled(n=self._samples()).columns()

    # -- multiple choice --------------------------------------------------------------------------------------------

    def _choice_ids(self, item: Item) -> list[list[int]]:
        texts = self.task.choices(item.example.record)
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    def _choices(self, items: Sequence[Item]) -> Iterator[Row]:
        questions = [ChoiceItem(item.example.id, item.prompt, self._choice_ids(item)) for item in items]
        scores = choice_logprobs(self.model, questions, batch_size=self.config.batch_size)
        best = [max(range(len(scored)), key=[s.logprob for s in scored].__getitem__) for scored in scores]
        p_true = self._p_true(items, [question.choices[i] for question, i in zip(questions, best, strict=True)])
        for i, (item, scored) in enumerate(zip(items, scores, strict=True)):
            yield self._choice_row(item, scored, best[i], p_true[i])

    def _choice_row(self, item: Item, scored: Sequence[ChoiceScore], best: int, p_true: float | None) -> Row:
        record = item.example.record
        logprobs, lengths = [s.logprob for s in scored], [s.n_tokens for s in scored]
        answers, right = self.task.choice_answers(record), self.task.gold_choice(record)
        texts = self.task.choices(record)
        # what is right may be said in several ways (HANS); one text that stands there twice is one way
        ways = {texts[i]: logprobs[i] for i, answer in enumerate(answers) if answer == answers[right]}
        confidences = choice_confidences(logprobs, lengths)
        best_mean = max(range(len(answers)), key=confidences["mean"].__getitem__)
        confidences = {name: same_answer_together(answers, values) for name, values in confidences.items()}
        values: dict[str, float | None] = {name: confidences[name][best] for name in ("sum", "mean")}
        return (
            self._row(item, Answer(answers[best]), Answer(answers[best_mean]))
            | {
                "completion": texts[best],
                "stop": "",
                "tokens": lengths[best],
                "logprob": logprobs[best],
                "gold_logprob": float(np.logaddexp.reduce(list(ways.values()))),
                "gold_tokens": lengths[right],
            }
            | self._confidence_columns(values | {"p_true": p_true})
        )

    # -- generation -------------------------------------------------------------------------------------------------

    def _generated(self, items: Sequence[Item]) -> Iterator[Row]:
        completions = self._complete(items, Sampling(greedy=True))
        gold = self._gold_logprobs(items)
        strict = [self.task.extract(c.text, strict=True) for c in completions]
        loose = [self.task.extract(c.text, strict=False) for c in completions]
        programs = self._run(items, strict) if self.task.executes else [None] * len(items)
        sampled = self._sampled(items, strict)
        p_true = self._p_true(items, [self._answer_ids(c, item) for c, item in zip(completions, items, strict=True)])
        for i, item in enumerate(items):
            confidences = generation_confidences(completions[i], strict[i].span, item.prompt, self.generator.reader)
            confidences |= {"agreement": sampled[i].agreement, "p_true": p_true[i]}
            row = self._row(item, strict[i], loose[i], programs[i]) | {
                "completion": completions[i].text,
                "stop": completions[i].stop_reason,
                "tokens": len(completions[i].token_ids),
                "logprob": sum(completions[i].logprobs) + (completions[i].eos_logprob or 0.0),
                "gold_logprob": gold[i][0],
                "gold_tokens": gold[i][1],
            }
            yield row | self._confidence_columns(confidences) | sampled[i].columns()

    def _answer_ids(self, completion: Completion, item: Item) -> list[int]:
        return completion.token_ids[: answer_tokens(completion, item.prompt, self.generator.reader)]

    def _gold_logprobs(self, items: Sequence[Item]) -> list[tuple[float | None, int]]:
        """Log-likelihood of each right answer with its number of tokens; None where it exceeds the context."""
        encoded = encode_documents(self.tokenizer, [item.document for item in items])
        known = [i for i, e in enumerate(encoded) if self.context is None or len(e.ids) <= self.context]
        asked = [(encoded[i].ids, encoded[i].completion_start) for i in known]
        found: list[tuple[float | None, int]] = [(None, 0)] * len(items)
        for i, score in zip(known, document_logprobs(self.model, asked, self.config.batch_size), strict=True):
            found[i] = (score.logprob, score.n_tokens)
        return found

    def _complete(self, items: Sequence[Item], sampling: Sampling, sample: int = 0) -> list[Completion]:
        requests = [
            Request(
                item.example.id,
                item.prompt,
                keys.key(self.key, "answer", item.example.id, sample),
                self.task.max_new_tokens,
            )
            for item in items
        ]
        by_id = {c.id: c for c in self.generator.generate(requests, sampling, stop=self.task.stop)}
        return [by_id[item.example.id] for item in items]

    def _run(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[str]:
        """Why each program failed; an empty string for those that pass."""
        programs = [self.task.program(a.value or "", i.example.record) for i, a in zip(items, answers, strict=True)]
        return [verdict.why for verdict in run_programs(programs)]

    def _sampled(self, items: Sequence[Item], greedy: Sequence[Answer]) -> list[Sampled]:
        """Further answers to each item (strict, as the score), for pass@k and agreement."""
        found = [Sampled() for _ in items]
        for sample in range(self._samples()):
            completions = self._complete(items, self.pass_sampling, sample + 1)
            answers = [self.task.extract(c.text, strict=True) for c in completions]
            failures = self._run(items, answers) if self.task.executes else [None] * len(items)
            for i, answer in enumerate(answers):
                why, record = failures[i], items[i].example.record
                score = self.task.score(answer.value, record) if why is None else float(not why)
                found[i].count(score >= 0.5, self._agrees(greedy[i], answer))
        return found

    def _samples(self) -> int:
        return self.config.pass_samples if self.task.answering == "generation" else 0

    def _agrees(self, greedy: Answer, sampled: Answer) -> bool | None:
        if greedy.value is None:
            return None
        return sampled.value is not None and self.task.same_answer(greedy.value, sampled.value)

    def _p_true(self, items: Sequence[Item], answers: Sequence[list[int]]) -> list[float | None]:
        """P(True) of each given answer; None where it was not asked, or does not fit the context."""
        found: list[float | None] = [None] * len(items)
        if not self.config.p_true:
            return found
        question = self.tokenizer(P_TRUE_QUESTION, add_special_tokens=False)["input_ids"]
        options = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in P_TRUE_OPTIONS]
        longest = len(question) + max(map(len, options))
        known = [
            i
            for i, (item, answer) in enumerate(zip(items, answers, strict=True))
            if self.context is None or len(item.prompt) + len(answer) + longest <= self.context
        ]
        asked = [ChoiceItem(items[i].example.id, items[i].prompt + answers[i] + question, options) for i in known]
        for i, scored in zip(known, choice_logprobs(self.model, asked, self.config.batch_size), strict=True):
            found[i] = p_true([score.logprob for score in scored])
        return found

    # -- rows -------------------------------------------------------------------------------------------------------

    def _row(self, item: Item, strict: Answer, loose: Answer, failure: str | None = None) -> Row:
        """The columns that every way of answering shares. ``failure`` is a program's verdict, None without one."""
        record = item.example.record
        if failure is None:
            score, flexible = self.task.score(strict.value, record), self.task.score(loose.value, record)
        else:
            score = flexible = float(not failure)
        secondary = self.task.secondary_scores(strict.value, record)
        return {
            "split": item.split,
            "item": item.example.id,
            "gold": self.task.gold(record),
            "prediction": strict.value,
            "prediction_flexible": loose.value,
            "score": score,
            "score_flexible": flexible,
            "correct": score >= 0.5,
            "invalid": strict.why if strict.value is None else failure if failure in NOT_PYTHON else "",
            "shortened": item.shortened,
            **{f"score_{name}": value for name, value in secondary.items()},
            **{f"group_{name}": value for name, value in self.task.groups(record).items()},
        }

    def _confidence_columns(self, values: dict[str, float | None]) -> Row:
        headline = values.get(self.headline)
        columns: Row = {"confidence": values["mean"] if headline is None else headline}
        return columns | {f"confidence_{name}": values.get(name) for name in CONFIDENCES}

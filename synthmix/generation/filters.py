"""Filters of a pool: which of the texts that a model wrote become training data, and what it costs to tell.

``none`` keeps everything, malformed text included; every other filter drops malformed text first. ``verified`` wants to
know whether a text is right, from the text itself (:meth:`Task.verify`), from the tests that a program brings along, or,
where only other answers can tell, by self-consistency (Wang et al. 2023): the answer given most often when the model is
asked the sample's own question again. ``diverse`` chooses by new n-grams, ``curated`` by perplexity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from synthmix import keys
from synthmix.config import GenerationConfig
from synthmix.data.encoding import encode_documents, encode_prompts
from synthmix.errors import ConfigError
from synthmix.files import write_json
from synthmix.generation.engine import Completion, Request, Writer
from synthmix.generation.pool import Filter, Sample
from synthmix.generation.prompts import PromptWriter
from synthmix.generation.sampling import Sampling
from synthmix.metrics.ngrams import tokenize
from synthmix.metrics.overlap import normalize_question
from synthmix.tasks import Record, Task

#: Attempts of which ``diverse`` keeps half.
BLOCK = 64
#: External documents behind the band of ``curated``.
BAND_DOCUMENTS = 256
NO_TESTS = "brings no tests along"

Bigram = tuple[str, str]


class Outcome(Protocol):
    """What running a program came to."""

    @property
    def why(self) -> str:
        """Why it failed; an empty string if it did not."""


#: Runs programs and yields an outcome each, in order.
RunPrograms = Callable[[Sequence[str]], Iterable[Outcome]]


class Scored(Protocol):
    """The log-probability of a text's tokens."""

    @property
    def logprob(self) -> float: ...
    @property
    def n_tokens(self) -> int: ...


#: Scores the tokens of each ``(ids, start)`` from ``start`` on, given all before them.
Score = Callable[[Sequence[tuple[Sequence[int], int]]], Sequence[Scored]]


class Band(NamedTuple):
    """Bounds, both included, of a mean log-probability a token (natural)."""

    low: float
    high: float


# -- the filters ----------------------------------------------------------------------------------------------------


class Everything(Filter):
    """``none``: malformed text stays, as the raw text that the model wrote."""

    def decide(self, block: Sequence[Sample]) -> list[str]:
        return ["" for _ in block]


class WellFormed(Filter):
    """``wellformed``: what the task can parse."""

    def decide(self, block: Sequence[Sample]) -> list[str]:
        return [sample.why for sample in block]


class Dedup(Filter):
    """``dedup``: no question twice among what is kept; case, punctuation and spacing do not make a new one."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._seen: set[str] = set()

    def decide(self, block: Sequence[Sample]) -> list[str]:
        return [s.why or ("duplicate question" if self._question(s) in self._seen else "") for s in block]

    def remember(self, block: Sequence[Sample]) -> None:
        self._seen.update(self._question(sample) for sample in block if sample.kept)

    def _question(self, sample: Sample) -> str:
        assert sample.record is not None
        return normalize_question(self.task.question(sample.record))


class Verified(Filter):
    """``verified``: what is found to hold; see :class:`TaskJudge`."""

    judged = True

    def decide(self, block: Sequence[Sample]) -> list[str]:
        return [sample.why or sample.verdict or "" for sample in block]


class Diverse(Filter):
    """``diverse``: of the well-formed texts of each block of 64 attempts the half (rounded up) that adds most new word
    bigrams to what is kept so far, chosen greedily; the earlier attempt wins a tie. Long texts have more to add, so
    length rises with it."""

    block = BLOCK

    def __init__(self, task: Task) -> None:
        self.task = task
        self._seen: set[Bigram] = set()

    def decide(self, block: Sequence[Sample]) -> list[str]:
        competing = [i for i, sample in enumerate(block) if sample.wellformed]
        novelty = Novelty([bigrams(body(self.task, block[i])) for i in competing], self._seen)
        left = set(range(len(competing)))
        for _ in range(-(-len(competing) // 2)):
            best = min(left, key=lambda i: (-novelty.gains[i], i))
            novelty.take(best)
            left.remove(best)
        lost = {competing[i] for i in left}
        return [sample.why or ("adds too little" if i in lost else "") for i, sample in enumerate(block)]

    def remember(self, block: Sequence[Sample]) -> None:
        for sample in block:
            if sample.kept:
                self._seen |= bigrams(body(self.task, sample))


class Curated(Filter):
    """``curated``: a mean log-probability within a band, as a model finds the external documents neither strange nor
    trite.

    Args:
        band: gives the bounds; called once, when the first text is decided.
    """

    def __init__(self, band: Callable[[], Band]) -> None:
        self._measure = band
        self._band: Band | None = None

    def decide(self, block: Sequence[Sample]) -> list[str]:
        self._band = self._band or self._measure()
        return [sample.why or _outside(sample.logprob_mean, self._band) for sample in block]


def _outside(logprob: float, band: Band) -> str:
    return "too improbable" if logprob < band.low else "too probable" if logprob > band.high else ""


def make_filter(config: GenerationConfig, task: Task, band: Callable[[], Band]) -> Filter:
    """The filter that ``generation.filter`` names; ``band`` is that of ``curated``."""
    makers: dict[str, Callable[[], Filter]] = {
        "none": Everything,
        "wellformed": WellFormed,
        "verified": Verified,
        "dedup": lambda: Dedup(task),
        "diverse": lambda: Diverse(task),
        "curated": lambda: Curated(band),
    }
    return makers[config.filter]()


# -- new n-grams ----------------------------------------------------------------------------------------------------


def body(task: Task, sample: Sample) -> str:
    """A sample's text without the header that all of them share."""
    return sample.text[len(task.header) :]


def bigrams(text: str) -> set[Bigram]:
    """The different pairs of neighbouring words (:func:`synthmix.metrics.ngrams.tokenize`).

    >>> sorted(bigrams("a b a b"))
    [('a', 'b'), ('b', 'a')]
    """
    return set(pairwise(tokenize(text)))


class Novelty:
    """How many new n-grams each of some texts would add, kept up to date while texts are taken.

    ``gains[i]`` counts those of text i that neither ``seen`` nor a text taken so far holds. Every n-gram is looked at
    once, when it stops being new.
    """

    def __init__(self, texts: Sequence[set[Bigram]], seen: set[Bigram]) -> None:
        self._new = [text - seen for text in texts]
        self.gains = [len(new) for new in self._new]
        self._holders: dict[Bigram, list[int]] = {}
        for i, new in enumerate(self._new):
            for gram in new:
                self._holders.setdefault(gram, []).append(i)

    def take(self, i: int) -> None:
        """Text i is taken: its n-grams are new to no text any more."""
        for gram in self._new[i]:
            for holder in self._holders.pop(gram, ()):
                self.gains[holder] -= 1


# -- verdicts -------------------------------------------------------------------------------------------------------


def own_verdicts(task: Task, records: Sequence[Record], run: RunPrograms | None) -> list[str | None]:
    """What each record's own text, or its own tests, say of it: ``""`` if it holds, otherwise why not; None where only
    other answers can tell, and for programs that must not be run (``run`` is None)."""
    verdicts = [task.verify(record) for record in records]
    if not task.executes or run is None:
        return verdicts
    open_ = [i for i, verdict in enumerate(verdicts) if verdict is None]
    programs = {i: program for i in open_ if (program := task.own_program(records[i])) is not None}
    outcomes = {i: outcome.why for i, outcome in zip(programs, run(list(programs.values())), strict=True)}
    return [outcomes.get(i, NO_TESTS) if i in open_ else verdict for i, verdict in enumerate(verdicts)]


class SelfConsistency:
    """Asks the model the sample's own question again and compares what it says most often with what the sample states.

    Answer j to sample i of a pool is drawn with a key of its own, so a verdict does not depend on the company in which
    it was found.

    Args:
        prompts: names the pool, and knows the tokenizer and the context.
        generator, sampling: as for the samples themselves.
        samples: answers to each question.
    """

    def __init__(self, prompts: PromptWriter, generator: Writer, sampling: Sampling, samples: int) -> None:
        self.prompts, self.generator, self.sampling, self.samples = prompts, generator, sampling, samples
        self.task = prompts.task

    def __call__(self, indices: Sequence[int], records: Sequence[Record]) -> list[tuple[str, int]]:
        """``(verdict, tokens written)`` for each record, which is that of the sample with the same place in
        ``indices``."""
        documents = [self.task.render(record) for record in records]
        prompts = encode_prompts(self.prompts.tokenizer, documents)
        requests = [r for i, prompt in zip(indices, prompts, strict=True) for r in self._requests(i, prompt)]
        answers: dict[int, list[Completion]] = {i: [] for i in indices}
        written = {c.id: c for c in self.generator.generate(requests, self.sampling, stop=self.task.stop)}
        for index, group in groupby(requests, key=lambda request: int(request.id.partition(":")[0])):
            answers[index] = [written[request.id] for request in group]
        return [
            (self._verdict(record, answers[i]), sum(len(answer.token_ids) for answer in answers[i]))
            for i, record in zip(indices, records, strict=True)
        ]

    def _requests(self, index: int, prompt: list[int]) -> Iterator[Request]:
        room = min(self.task.max_new_tokens, self.prompts.context - len(prompt))
        for j in range(self.samples if room > 0 else 0):
            yield Request(f"{index}:{j}", prompt, keys.key(self.prompts.pool, "consistency", index, j), room)

    def _verdict(self, record: Record, completions: Sequence[Completion]) -> str:
        if not completions:
            return "no room for another answer"
        stated = self._value(record, self.task.render(record).completion)
        values = [self._value(record, completion.text) for completion in completions]
        usual = majority([value for value in values if value is not None], self.task.same_answer)
        if stated is None or usual is None:
            return "no answer to compare"
        return "" if self.task.same_answer(usual, stated) else "not the usual answer"

    def _value(self, record: Record, completion: str) -> str | None:
        """The answer that a completion states; of a choice, what it stands for."""
        if self.task.answering == "generation":
            return self.task.extract(completion, strict=True).value
        texts = [choice.strip() for choice in self.task.choices(record)]
        meanings = dict(zip(texts, self.task.choice_answers(record), strict=True))
        return meanings.get(completion.strip(), completion.strip())


def majority(answers: Sequence[str], same: Callable[[str, str], bool]) -> str | None:
    """The answer given most often, in the words in which it was first given; the earlier one in a tie, None for none.

    >>> majority(["a", "B", "b"], lambda first, second: first.lower() == second.lower())
    'B'
    """
    counts: dict[str, int] = {}
    for answer in answers:
        known = next((other for other in counts if same(other, answer)), answer)
        counts[known] = counts.get(known, 0) + 1
    return max(counts, key=counts.__getitem__, default=None)


class TaskJudge:
    """The verdict on each sample, and the tokens that it cost: by its text, by its own tests, or by other answers.

    Args:
        task: what the samples are documents of.
        run: runs programs; None where they must not be run.
        ask: asks the model again.

    Raises:
        ConfigError: the task's samples are programs, and they must not be run.
    """

    def __init__(self, task: Task, run: RunPrograms | None, ask: SelfConsistency) -> None:
        if task.executes and run is None:
            raise ConfigError(
                [f"evaluation.run_generated_code = false, but {task.name} is verified by running what the model writes"]
            )
        self.task, self.run, self.ask = task, run, ask

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[str | None, int]]:
        """``(verdict, tokens)`` of each sample: ``(None, 0)`` for malformed text."""
        found: list[tuple[str | None, int]] = [(None, 0)] * len(samples)
        records = {i: sample.record for i, sample in enumerate(samples) if sample.record is not None}
        verdicts = dict(zip(records, own_verdicts(self.task, list(records.values()), self.run), strict=True))
        asked = [i for i, verdict in verdicts.items() if verdict is None]
        for i, verdict in verdicts.items():
            found[i] = (verdict, 0)
        if asked:
            answers = self.ask([samples[i].index for i in asked], [records[i] for i in asked])
            for i, answer in zip(asked, answers, strict=True):
                found[i] = answer
        return found


# -- perplexity -----------------------------------------------------------------------------------------------------


def perplexity_band(folder: Path, prompts: PromptWriter, quantiles: Sequence[float], score: Score) -> Band:
    """The quantiles of the mean log-probabilities of external documents, as the model that writes the pool sees them.

    The first 256 external documents are scored where a sample would stand: after the header, after the shots, or after
    the question. EOS does not count, as it does not in :attr:`Sample.logprob_mean`. Kept in ``folder/band.json``, so
    that a pool that is continued has the same bounds to the last bit.
    """
    path = folder / "band.json"
    if path.exists():
        known = json.loads(path.read_text())
        return Band(known["low"], known["high"])
    scored = [one for one in score(_band_texts(prompts)) if one.n_tokens]
    low, high = np.quantile([one.logprob / one.n_tokens for one in scored], quantiles)
    band = Band(float(low), float(high))
    write_json(path, {**band._asdict(), "quantiles": list(quantiles), "documents": len(scored)})
    return band


def _band_texts(prompts: PromptWriter) -> list[tuple[list[int], int]]:
    documents = [prompts.task.render(example.record) for example in prompts.examples[:BAND_DOCUMENTS]]
    texts = []
    for i, encoded in enumerate(encode_documents(prompts.tokenizer, documents)):
        ids, start = encoded.ids[:-1], encoded.completion_start
        if prompts.config.mode != "answer":
            prompt = prompts.request(i).prompt_ids
            ids, start = prompt + ids[len(prompts.header_ids) :], len(prompt)
        texts.append((ids[: prompts.context], start))
    return [(ids, start) for ids, start in texts if len(ids) > start]

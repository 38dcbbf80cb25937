"""Self-BLEU of 1,000 texts: NLTK's ``sentence_bleu`` a text against ``synthmix.metrics.self_bleu``.

    python experiments/benchmarks/self_bleu.py [--n 1000] [--repeats 5] [--nltk-budget-s 3600]

Both sides tokenize with the same tokenizer inside the timed call, and every score is compared. The texts are GSM8K
training items if SYNTHMIX_DATA is set, and otherwise seeded word problems of like length. NLTK compares every text with
every other and takes minutes: it is run until ``--repeats`` runs are done or the budget is used up, at least once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from _bench import measure, summary, write
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from synthmix.keys import generator
from synthmix.metrics import self_bleu_scores
from synthmix.metrics.ngrams import tokenize

NAMES = ("Tom", "Ana", "Ravi", "Mei", "Olu", "Lena", "Sam", "Ines")
THINGS = ("apples", "marbles", "pencils", "books", "stickers", "coins", "cards", "shells")
CLAUSES = (
    "{name} buys {a} boxes of {thing} for {b} dollars each.",
    "Then {name} gives {a} of the {thing} to a friend and keeps the other {b}.",
    "Each of the {a} children in the class needs {b} {thing} for the project.",
    "On {a} days of the week {name} finds {b} more {thing} on the way home.",
    "So there are {a} * {b} = <<{a}*{b}={c}>>{c} {thing} in all.",
    "That leaves {c} - {a} = <<{c}-{a}={d}>>{d} {thing} for {name}.",
)


def texts(n: int) -> tuple[str, list[str]]:
    """The source's name and ``n`` texts."""
    root = os.environ.get("SYNTHMIX_DATA")
    if not root:
        return "seeded word problems", [word_problem(index) for index in range(n)]
    with (Path(root) / "gsm8k" / "train.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for _, line in zip(range(n), lines, strict=False)]
    return "GSM8K train, first items", [f"{record['question']} {record['answer']}" for record in records]


def word_problem(index: int) -> str:
    """A text of the length and the repetitiveness of a GSM8K item."""
    draw = generator("benchmark", "self_bleu", index)
    name, thing = str(draw.choice(NAMES)), str(draw.choice(THINGS))
    sentences = []
    for _ in range(int(draw.integers(5, 14))):
        a, b = (int(value) for value in draw.integers(2, 99, 2))
        clause = CLAUSES[int(draw.integers(len(CLAUSES)))]
        sentences.append(clause.format(name=name, thing=thing, a=a, b=b, c=a * b, d=a * b - a))
    return " ".join(sentences)


def nltk_scores(items: list[str]) -> np.ndarray:
    """The BLEU of each text against all the others, as NLTK computes it."""
    method1 = SmoothingFunction().method1
    tokens = [tokenize(item) for item in items]
    scores = []
    for index, hypothesis in enumerate(tokens):
        references = tokens[:index] + tokens[index + 1 :]
        scores.append(sentence_bleu(references, hypothesis, smoothing_function=method1))
    return np.array(scores)


def measure_nltk(items: list[str], repeats: int, budget_s: float) -> tuple[list[float], np.ndarray]:
    """Seconds of each run, and the scores."""
    kept: list[np.ndarray] = []
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < repeats and (not seconds or time.perf_counter() - start < budget_s):
        seconds += measure(lambda: kept.append(nltk_scores(items)), 1)
    return seconds, kept[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="number of texts")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    parser.add_argument("--nltk-budget-s", type=float, default=3600.0, help="start no further NLTK run after this")
    args = parser.parse_args()

    source, items = texts(args.n)
    ours = summary(measure(lambda: self_bleu_scores(items), args.repeats, warmup=1))
    scores = self_bleu_scores(items)
    seconds, reference = measure_nltk(items, args.repeats, args.nltk_budget_s)
    theirs = summary(seconds)
    ratio = theirs["median_s"] / ours["median_s"]
    difference = float(np.abs(scores - reference).max())
    path = write(
        "self_bleu",
        {
            "texts": source,
            "n": len(items),
            "tokens_mean": float(np.mean([len(tokenize(item)) for item in items])),
            "self_bleu": float(scores.mean()),
            "nltk": theirs,
            "synthmix": ours,
            "ratio": ratio,
            "max_abs_difference": difference,
        },
    )
    print(f"{len(items)} texts ({source}), self-BLEU {scores.mean():.6f}")
    print(f"nltk      {theirs['median_s']:10.3f} s  (median of {len(theirs['runs_s'])})")
    print(f"synthmix  {ours['median_s']:10.3f} s  (median of {len(ours['runs_s'])})")
    print(f"ratio     {ratio:10.0f} x, largest difference of a text's score {difference:.1e}")
    print(f"written to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()

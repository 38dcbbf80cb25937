"""How long GSM8K's texts are in GPT-NeoX tokens: recorded once, so that a machine without the data can draw from it.

    SYNTHMIX_DATA=DIR python experiments/scale/lengths.py --tokenizer DIR

Writes ``lengths.json`` beside this file: how often each length occurs among the training set's documents (what is
trained on: header, question, answer and EOS), prompts and answers; and the mean lengths that a plan's cost is made of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from synthmix.config import ModelConfig
from synthmix.config.schema import DataConfig
from synthmix.data.encoding import encode_documents
from synthmix.data.records import load_split
from synthmix.models.loading import load_tokenizer
from synthmix.study.lengths import measure
from synthmix.tasks.gsm8k import GSM8K

FILE = Path(__file__).parent / "lengths.json"
#: Nothing is held out here: all 7,473 documents.
ALL = DataConfig(validation_examples=0)


def counted(lengths: Iterable[int]) -> dict[str, int]:
    """How often each length occurs, shortest first."""
    return {str(length): n for length, n in sorted(Counter(lengths).items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True, help="folder of the GPT-NeoX tokenizer")
    folder = parser.parse_args().tokenizer
    tokenizer, task = load_tokenizer(folder), GSM8K()
    documents = [task.render(example.record) for example in load_split(task, "train", ALL)]
    encoded = encode_documents(tokenizer, documents)
    model = ModelConfig(name="gpt-neox", source="folder", id=folder, parameters=1)
    held = {
        "source": "GSM8K, training set, in tokens of GPT-NeoX-20B's tokenizer (that of all Pythia models)",
        "command": "SYNTHMIX_DATA=DIR python experiments/scale/lengths.py --tokenizer DIR",
        "cost": dataclasses.asdict(measure(task, DataConfig(), model, None)),
        "documents": counted(len(document.ids) for document in encoded),
        "prompts": counted(document.completion_start for document in encoded),
        "answers": counted(len(document.ids) - document.completion_start for document in encoded),
    }
    FILE.write_text(json.dumps(held) + "\n", encoding="utf-8")
    print(FILE, len(documents), "documents")


if __name__ == "__main__":
    main()

"""What runs in vLLM's own environment for test_vllm.py: writes what is asked for in one JSON file into another.

Usage: python vllm_check.py ASKED.json WRITTEN.json
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any


def main(asked: Path, written: Path) -> None:
    from transformers import AutoTokenizer

    from synthmix.generation.engine import Request
    from synthmix.generation.sampling import Sampling
    from synthmix.generation.vllm_backend import VllmWriter

    task: dict[str, Any] = json.loads(asked.read_text())
    folder = Path(task["folder"])
    writer = VllmWriter(folder, AutoTokenizer.from_pretrained(folder), task["batch_size"])
    results = {}
    for name, run in task["runs"].items():
        requests = [Request(**request) for request in run["requests"]]
        completions = writer.generate(requests, Sampling(**run["sampling"]), run["stop"])
        results[name] = {completion.id: dataclasses.asdict(completion) for completion in completions}
    abandoned = writer.generate(requests, Sampling())
    next(abandoned)
    abandoned.close()
    left = writer._engine.get_num_unfinished_requests()
    children = multiprocessing.active_children()
    writer.close()
    for child in children:
        child.join(30)
    statuses = [child.exitcode for child in children]
    written.write_text(json.dumps({"runs": results, "left": left, "statuses": statuses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

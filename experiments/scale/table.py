"""The tables of docs/scale.md: measured where gpu_check.sh left a JSON, else estimated, or not yet measured.

    python experiments/scale/table.py            prints them
    python experiments/scale/table.py --write    puts them into docs/scale.md, between its markers

Estimates are the project's own: memory by ``synthmix.models.memory``, time by ``synthmix.study.cost`` at the shares of
the peak that a profile states, lengths from lengths.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from _scale import longest

from synthmix.config import HardwareConfig, ModelConfig, StudyConfig, config_names, load_hardware, load_model
from synthmix.models.memory import GIB, examine
from synthmix.study.cost import Estimator, Job, stated_seconds
from synthmix.study.lengths import Items, Lengths
from synthmix.tasks import get_task

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "scale.md"
SIZES = ("410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
#: Utilisation that issue 6 asks of one H200, and how much faster than model.generate a back end should be.
TARGETS, GENERATION_TARGET = {"410m": 0.45, "1.4b": 0.45, "6.9b": 0.50}, 4.0
#: Of :class:`synthmix.models.memory.Fit`.
STATES = {"fits": "yes", "close": "too close to tell", "too much": "no"}
NOT_MEASURED = "not yet measured"
#: GSM8K without the 200 held out; a pool for the shares up to 50 %.
EXAMPLES, POOL = 7273, 3637

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(results: Path, part: str) -> dict[str, Any]:
    """What a part left behind; {} where it has not been run."""
    path = results / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run_on(found: dict[str, Any]) -> str:
    """Machine, commit and command of a measurement, for the line under its table."""
    machine = found["machine"]
    device = ", ".join(sorted(set(machine["gpus"]))) or f"{machine['cpu_count']} cores of {machine['cpu']}"
    libraries = " ".join(f"{name} {machine['libraries'][name]}" for name in ("torch", "deepspeed", "transformers")
                         if name in machine["libraries"])  # fmt: skip
    return f"{device}, {libraries}, commit {found['commit']}, {found['taken'][:10]}: `{found['command']}`"


# -- what each size takes of each machine -----------------------------------------------------------------------------


class Recorded(Estimator):
    """The plan's cost, with the lengths of GSM8K that lengths.json has: no data are needed."""

    def lengths(self, job: Job) -> Lengths:
        held = dict(json.loads((HERE / "lengths.json").read_text(encoding="utf-8"))["cost"])
        return Lengths(**{**held, "splits": {name: Items(**items) for name, items in held["splits"].items()}})


@lru_cache
def profiles() -> list[HardwareConfig]:
    """Those with a GPU whose memory is known, the smallest machine first."""
    found = [load_hardware(name) for name in config_names("hardware")]
    known = [profile for profile in found if profile.accelerator == "gpu" and profile.memory_gib]
    return sorted(known, key=lambda p: (p.devices * (p.memory_gib or 0), p.name))


def devices(results: Path) -> str:
    """Every size on every machine profile."""
    rows = [
        device_row(model, profile)
        for model in (load_model(f"pythia-{size}") for size in SIZES)
        for profile in profiles()
        if worth_a_row(model, profile)
    ]
    head = ("size", "profile", "strategy", "micro-batch", "training, GiB a device", "evaluation, generation, GiB (at once)",
            "of", "GiB of host", "fits", "tokens/s", "hours a cell", "GPU-hours a cell")  # fmt: skip
    return table(head, rows)


def worth_a_row(model: ModelConfig, profile: HardwareConfig) -> bool:
    """Not where a profile is a slower variant (``a100-40x1-offload``) of one that the model fits on."""
    plain = next((other for other in profiles() if profile.name.startswith(other.name + "-")), None)
    fit = None if plain is None else examine(model, plain, longest())
    return fit is None or fit.state != "fits"


def device_row(model: ModelConfig, profile: HardwareConfig) -> Row:
    """Strategy, memory and time of a cell."""
    fit = examine(model, profile, longest())
    assert fit is not None and profile.memory_gib
    keys = [profile.strategy, *([f"offload {profile.offload}"] if profile.offload != "none" else [])]
    keys += ["checkpointing"] if profile.activation_checkpointing else []
    inference = f"{fit.inference.total / GIB:.1f} (1), {fit.sequences} fit" if fit.sequences else "–"
    words = [model.name.removeprefix("pythia-"), profile.name, ", ".join(keys), str(profile.micro_batch),
             f"{fit.training.total / GIB:.1f}", inference, f"{profile.memory_gib:g}",
             f"{fit.host_gib:.0f}" if fit.host_gib else "–", STATES[fit.state]]  # fmt: skip
    return [*words, *(hours(model, profile) if fit.state != "too much" else ["–"] * 3)]


def hours(model: ModelConfig, profile: HardwareConfig) -> Row:
    """Tokens of training a second, hours of a cell, and GPU-hours, at the speeds that the profile states."""
    config = StudyConfig(name="scale", tasks=["gsm8k"], models=[model.name])
    work = Recorded().work(Job(model, get_task("gsm8k"), config, EXAMPLES, POOL))
    seconds = {phase: stated_seconds(load, profile) for phase, load in work.items()}
    speed = work["train"].tokens / seconds["train"] * profile.devices * profile.nodes
    gpu_hours = sum(seconds.values()) / 3600
    return [f"{float(f'{speed:.2g}'):,.0f}", f"{gpu_hours / (profile.devices * profile.nodes):.2g}", f"{gpu_hours:.2g}"]


# -- what gpu_check.sh measures ---------------------------------------------------------------------------------------


def utilisation(results: Path) -> str:
    """MFU and peak memory by speed option, beside the targets and the estimator's figures."""
    head = ("size", "variant", "tokens/s", "MFU", "target", "peak GiB", "estimated GiB")
    rows: list[Row] = []
    for size, target in TARGETS.items():
        goal, found = f"{100 * target:.0f} %", measured(results, f"utilisation-{size}")
        if not found:
            rows.append((size, "all", NOT_MEASURED, NOT_MEASURED, goal, NOT_MEASURED, NOT_MEASURED))
        for name, row in found.get("variants", {}).items():
            rows.append((size, name, *speed_cells(row, goal)))
    return table(head, rows) + sources(results, [f"utilisation-{size}" for size in TARGETS])


def speed_cells(row: dict[str, Any], goal: str) -> Row:
    """Tokens a second, MFU, its target, peak and estimated peak."""
    if "error" in row:
        return (short(row["error"]), "–", goal, "–", "–")
    mfu = f"{100 * row['mfu']:.1f} %" if row.get("mfu") else "–"
    return (f"{row['tokens_per_s']:,.0f}", mfu, goal, f"{peak(row):.1f}", f"{row['estimated_gib']:.1f}")


def zero(results: Path) -> str:
    """ZeRO-2 and ZeRO-3 beside the plain path."""
    head = ("size", "path", "tokens/s", "peak GiB a rank", "loss after the last step", "largest difference from plain")
    rows: list[Row] = []
    for size in TARGETS:
        found = measured(results, f"zero-{size}")
        rows += fits_rows(size, found) or [(size, "plain, ZeRO-2, ZeRO-3", *[NOT_MEASURED] * 4)]
    return table(head, rows) + sources(results, [f"zero-{size}" for size in TARGETS])


def strategies(results: Path) -> str:
    """Every strategy in two processes on a CPU beside one process."""
    head = ("size", "path", "tokens/s", "peak GiB a rank", "loss after the last step", "largest difference from plain")
    rows = fits_rows("14m", measured(results, "strategies-14m"))
    return table(head, rows or [("14m", "all", *[NOT_MEASURED] * 4)]) + sources(results, ["strategies-14m"])


def fits_rows(size: str, found: dict[str, Any]) -> list[Row]:
    """A row a fit."""
    rows: list[Row] = []
    for name, row in found.get("variants", {}).items():
        if "error" in row:
            rows.append((size, name, short(row["error"]), "–", "–", "–"))
            continue
        apart = f"{row['loss_difference']:.1e}" if "loss_difference" in row else "–"
        words = f"{row['tokens_per_s']:,.0f}", f"{peak(row):.2f}", f"{row['losses'][-1]:.4f}", apart
        rows.append((size, f"{name} ({row['hardware']['devices']})", *words))
    return rows


def export(results: Path) -> str:
    """What is equal after export, reload and resume."""
    head = (
        "strategy",
        "weights",
        "reloaded equal to trained",
        "stopped and resumed: weights equal",
        "largest loss difference",
    )
    rows: list[Row] = []
    for name, row in measured(results, "export-410m").get("strategies", {}).items():
        if "weights" not in row:
            rows.append((name, short(row["error"]), "–", "–", "–"))
            continue
        said = ["yes" if row[key] else "no" for key in ("reloaded_equal", "resumed_equal")]
        rows.append((name, str(row["weights"]), *said, f"{row['loss_difference']:.1e}"))
    return table(head, rows or [("zero-3, fsdp2", *[NOT_MEASURED] * 4)]) + sources(results, ["export-410m"])


def generation(results: Path) -> str:
    """Tokens a second of each back end, beside model.generate."""
    head = ("size", "side", "new tokens/s", f"times generate (target {GENERATION_TARGET:g})")
    rows: list[Row] = []
    parts = ("410m", "1.4b")
    for size in parts:
        found = measured(results, f"generation-{size}").get("sides", {})
        rows += [(size, name, *side(row)) for name, row in found.items()] or [(size, "all", NOT_MEASURED, NOT_MEASURED)]
    return table(head, rows) + sources(results, [f"generation-{size}" for size in parts])


def side(row: dict[str, Any]) -> Row:
    """Speed, and how many times that of ``generate``."""
    if "error" in row:
        return (short(row["error"]), "–")
    return (f"{row['tokens_per_s']:,.0f}", f"{row['over_generate']:.2f}" if "over_generate" in row else "–")


def study(results: Path) -> str:
    """Scores of SmolLM2-135M by task and share."""
    found = measured(results, "study")
    rows = [
        (row["task"], "phase 0" if row["iteration"] == 0 else f"{100 * row['proportion']:.0f} %", score(row))
        for row in found.get("cells", [])
    ]
    return table(
        ("task", "synthetic", "score"), rows or [("gsm8k, commonsense_qa", "0 to 50 %", NOT_MEASURED)]
    ) + sources(results, ["study"])


def score(row: dict[str, Any]) -> str:
    done = row["status"] == "done"
    return f"{100 * row['test_score']:.1f} % of {row['test_n']:.0f}" if done else row["status"]


def peak(row: dict[str, Any]) -> float:
    """The fullest rank's: of CUDA's allocator, or resident (GiB)."""
    return max(rank.get("allocated", rank.get("resident", 0.0)) for rank in row["peak_gib"])


def short(error: str) -> str:
    """The kind of an error: ``OutOfMemoryError``."""
    return error.split(":")[0].splitlines()[0][:60]


def sources(results: Path, parts: Sequence[str]) -> str:
    """A line a measured part."""
    lines = [f"- {part}: {run_on(found)}" for part in parts if (found := measured(results, part))]
    return "".join(f"\n{line}" for line in ["", *lines]) if lines else ""


SECTIONS: dict[str, Callable[[Path], str]] = {
    "devices": devices, "strategies": strategies, "utilisation": utilisation, "zero": zero, "export": export,
    "generation": generation, "study": study,
}  # fmt: skip


def filled(page: str, results: Path = RESULTS) -> str:
    """``page`` with what stands between ``<!-- NAME -->`` and ``<!-- end -->`` made anew."""
    for name, make in SECTIONS.items():
        block = f"<!-- {name} -->\n\n{make(results)}\n\n<!-- end -->"
        page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="the JSONs (%(default)s)")
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), given.results), encoding="utf-8")
        print(PAGE)
        return
    for name, make in SECTIONS.items():
        print(f"## {name}\n\n{make(given.results)}\n")


if __name__ == "__main__":
    main()

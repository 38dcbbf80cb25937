"""The command line: one console script, ``synthmix``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from synthmix import __version__
from synthmix.cli import cell, fetching, reading, running, sweeping
from synthmix.errors import UserError

EPILOG = """\
A STUDY is the name of a file under configs/study, or a path to one. KEY=VALUE changes any setting of it
(defaults < study file < key=value); 'synthmix run --help' lists tasks, models, studies and all keys.
"""


class _Parser(argparse.ArgumentParser):
    #: Whether the help lists everything that can be set.
    lists_keys = False

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{_describe_everything()}\n" if self.lists_keys else text

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if cells failed, 2 for what the user can put right."""
    # Read when torch is loaded: threads that wait must not spin, or processes that share cores stand still.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options = _parse(arguments)
        status: int = options.command(options)
        return status
    except UserError as error:
        print(f"synthmix: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # who read the output has enough of it: no traceback, also not when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("synthmix: interrupted. Nothing is lost: the same command continues where it stopped.", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options; key=value may stand among these, before or behind."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("synthmix", description=__doc__, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"synthmix {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "bring a study's weights and data into the caches and verify them, for nodes without a network"
    _study(commands, "fetch", fetching.fetch, about)
    about = "freeze the plan and show it: the grid, cells by level, tokens, disk"
    command = _study(commands, "plan", running.plan, about)
    command.add_argument("--dry-run", action="store_true", help="show the plan, write nothing")
    command.add_argument("--json", action="store_true", help="the same as JSON")
    about = "plan, run every cell that is not done, write the report; rerun = continue"
    command = _study(commands, "run", running.run, about)
    command.add_argument("--retry-failed", action="store_true", help="also the cells that failed three times")
    _add_sweeping(commands)
    _add_report_options(_study(commands, "report", reading.report, "tables and figures from what is there"))
    about = "a W&B run for each finished cell and one for the study; online, sends them"
    _study(commands, "wandb-sync", reading.wandb_sync, about)
    _add_cell(commands)
    _add_task(commands)
    _add_budget(commands)
    _add_doctor(commands)
    return parser


def _study(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    function: Callable[[argparse.Namespace], int],
    about: str,
) -> _Parser:
    """A command that begins with a study and its settings."""
    command = commands.add_parser(name, help=about, description=about)
    command.lists_keys = True
    command.add_argument("study", metavar="STUDY", help="name of a file under configs/study, or a path")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings, the last word")
    command.set_defaults(command=function)
    return command


def _add_sweeping(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "queue on SLURM every cell that is neither done nor queued: what slurm/sweep.sh runs"
    command = _study(commands, "submit", sweeping.submit, about)
    command.add_argument("--retry-failed", action="store_true", help="also the cells that failed three times")
    command.add_argument("--dry-run", action="store_true", help="show the sbatch commands, submit nothing")
    about = "which cells are done, running, queued, failed (and why), waiting, blocked (by whom)"
    command = _study(commands, "status", sweeping.status, about)
    command.add_argument("--watch", action="store_true", help="show it anew until nothing runs or is queued")
    command.add_argument("--all", action="store_true", help="list every cell that runs, failed or is blocked")
    _study(commands, "cancel", sweeping.cancel, "end the study's jobs on SLURM; what they have done stays")


def _add_report_options(command: argparse.ArgumentParser) -> None:
    about = "compare with the 0 %% chain at the same iteration, or with phase 0 (%(default)s)"
    command.add_argument("--control", choices=("chain", "baseline"), default="chain", help=about)
    about = "a difference of less counts as none, in points of the score (%(default)s)"
    command.add_argument("--margin", type=_positive, default=3.0, metavar="POINTS", help=about)
    about = "bootstrap resamples behind an interval (%(default)s)"
    command.add_argument("--resamples", type=int, default=1000, metavar="N", help=about)
    about = "also writes the study as a small folder that can be committed and analysed without its store"
    command.add_argument("--record", type=Path, metavar="DIR", help=about)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0 but got {text}")
    return value


def _add_cell(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "run one cell of a frozen plan: what a cluster task runs"
    command = commands.add_parser("cell", help=about, description=about)
    command.add_argument("plan", metavar="PLAN", type=Path, help="plan.json of a study")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--index", type=int, metavar="I", help="which cell of the plan, or of --cells, from 0")
    which.add_argument("--name", help="which cell of the plan")
    command.add_argument(
        "--cells", metavar="FILE", type=Path, help="names of cells, one a line, from which I picks one"
    )
    about = "wait for a cell above it that another process runs, or for this one (on SLURM the default)"
    command.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None, help=about)
    command.add_argument("--retry-failed", action="store_true", help="also if it failed three times")
    command.set_defaults(command=cell.cell)
    worker = commands.add_parser("work")
    worker.add_argument("plan", type=Path)
    worker.set_defaults(command=cell.work)


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "what this machine has and lacks: memory, GPUs, data, the sandbox; with a study, each of its needs"
    command = commands.add_parser("doctor", help=about, description=about)
    command.lists_keys = True
    command.add_argument("study", metavar="STUDY", nargs="?", help="name of a file under configs/study, or a path")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings, the last word")
    command.set_defaults(command=fetching.doctor)


def _add_task(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "look at a task of your own before a study uses it"
    task = commands.add_parser("task", help=about, description=about)
    actions = task.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "what was read and left out, three examples, lengths in tokens, duplicates, overlap between splits"
    check = actions.add_parser("check", help=about, description=about)
    check.add_argument("task", metavar="FILE", help="a task's YAML file (docs/your-task.md), or the name of a task")
    check.add_argument("--model", default="nano-0.9m", metavar="NAME", help="whose tokens to count (%(default)s)")
    check.set_defaults(command=reading.task_check)


def _add_budget(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "how much synthetic data may I use? The safe share for a model and a task, with interval and limits"
    budget = commands.add_parser("budget", help=about, description=about)
    budget.add_argument("--model", required=True, metavar="N", help="parameters (410M, 6.9B, 1.4e9) or a model's name")
    budget.add_argument("--task", required=True, help="a task, or a family: Math, Code, Factual, Reading, Commonsense")
    budget.add_argument(
        "--from", dest="study", metavar="STUDY", help="a study's own curves (a name in runs, or a folder)"
    )
    budget.add_argument("--margin", type=float, default=0.10, help="relative loss that counts as safe (%(default)s)")
    budget.add_argument("--json", action="store_true", help="the answer as JSON")
    budget.set_defaults(command=reading.budget)


def _describe_everything() -> str:
    from synthmix.config import config_names, describe
    from synthmix.tasks import task_names

    lines = [
        "tasks:    " + ", ".join([*task_names(), *config_names("task")]) + ", or a YAML file (docs/your-task.md)",
        "models:   " + ", ".join(config_names("model")),
        "studies:  " + ", ".join(config_names("study")),
        "hardware: " + ", ".join(config_names("hardware")),
        "",
        "keys (key=value; type, default, meaning [unit]):",
    ]
    rows = list(describe())
    width, types = max(len(key) for key, *_ in rows), max(len(kind) for _, kind, *_ in rows)
    lines += [f"  {key:<{width}}  {kind:<{types}}  {default:<16} {about}" for key, kind, default, about in rows]
    return "\n".join(lines)

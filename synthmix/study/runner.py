"""Runs one cell: mix -> train -> evaluate -> generate. Every phase is skipped if done and resumed if begun."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from synthmix import interrupts, ranks
from synthmix.callbacks import (
    CalibrationLogger,
    CellCallback,
    CellContext,
    DiversityLogger,
    EarlyWarning,
    JsonlLogger,
    StepProgress,
    WandbReplay,
)
from synthmix.config import ModelConfig
from synthmix.data.encoding import count_truncated, encode_documents
from synthmix.data.fitting import fit_documents
from synthmix.evaluation.evaluate import Piece, Row
from synthmix.evaluation.sandbox import best_level
from synthmix.files import disk_errors, read_jsonl_prefix, write_atomic, write_json
from synthmix.models.export import export
from synthmix.models.loading import load_tokenizer
from synthmix.models.training import total_steps
from synthmix.study import lease, team
from synthmix.study.cards import model_card
from synthmix.study.cells import Cell, Plan
from synthmix.study.frozen import to_plain
from synthmix.study.heartbeat import beating
from synthmix.study.material import Material, prepare
from synthmix.study.out_of_memory import OutOfMemory, is_out_of_memory, release_memory
from synthmix.study.pool_writer import PoolWriter
from synthmix.study.recording import (
    describe_work,
    evaluated_tokens,
    forget_peak_memory,
    peak_memory_bytes,
    summary_line,
    versions,
)
from synthmix.study.reporting import Reporter
from synthmix.study.store import Needs, Store
from synthmix.tasks import Example


class CellRunner:
    """Runs the cells of a plan, one after the other, in this process."""

    def __init__(self, plan: Plan, store: Store, reporter: Reporter) -> None:
        self.plan, self.store, self.reporter = plan, store, reporter

    def run(self, cell: Cell) -> None:
        """Brings a cell to its end, or up to what the study still needs of it.

        Among several ranks (:mod:`synthmix.ranks`) this is rank 0's part; the others :func:`~team.follow`.

        Raises:
            UserError: its data, weights or settings cannot be used.
            OutOfMemory: once more in a phase, with half as much at once, or where the ranks can go on only by starting anew.
            NonFiniteLoss: training diverged.
            Preempted: the process was asked to stop; what was done so far stays, and the next run goes on from there.
            LeaseLost: another process runs the cell now.
        """
        needs = self.store.needs(cell, self.plan)
        if needs:
            with disk_errors(self.store.folder(cell)):
                while not self._finished(cell, needs):
                    release_memory()  # here nothing refers to what the attempt held any more

    def _finished(self, cell: Cell, needs: Needs) -> bool:
        """Runs the cell; False where memory ran out, and it can go on at once with less."""
        try:
            _Run(cell, needs, self).execute()
        except OutOfMemory as error:
            if not (error.changed and team.in_step()):
                raise
            self.reporter.line(f"{cell.name}: {error}")
            return False
        return True

    def starting_weights(self, cell: Cell) -> ModelConfig | Path:
        """Where a cell's weights come from (``mixing.init_from``)."""
        init_from = self.plan.config.mixing.init_from
        if cell.parent is None or init_from == "base":
            return self.plan.models[cell.model]
        source = cell.parent if init_from == "previous" else cell.baseline
        return self.store.folder(self.plan.by_hash[source]) / "model"


class _Run:
    """One cell under way."""

    def __init__(self, cell: Cell, needs: Needs, runner: CellRunner) -> None:
        self.cell, self.needs, self.runner = cell, needs, runner
        self.plan, self.store, self.reporter = runner.plan, runner.store, runner.reporter
        self.config = self.plan.config
        self.task = self.plan.tasks[cell.task]
        self.hardware = self.plan.hardware_of(cell)
        self.folder = self.store.folder(cell)
        self.timings = self._read_json("timings.json", {})
        self.log = JsonlLogger(self.folder / "metrics.jsonl", cell.iteration)
        self.hands = team.Hands(cell, self.plan, self.folder)
        self.callbacks: list[CellCallback] = [
            CalibrationLogger(self.config.evaluation.bins),
            EarlyWarning(self.config.monitoring),
            DiversityLogger(self.config.evaluation.diversity_samples),
            WandbReplay(self.config.wandb),
        ]

    def execute(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        forget_peak_memory(self.hardware)
        team.resize(self.hands)
        started = time.perf_counter()
        with self._phase("mix"):
            material = self._mix()
        if not (self.folder / "model" / "config.json").exists():
            with self._phase("train"):
                self._train(material)
        with self._phase("evaluate"):
            context = self._context("evaluate")
            self._evaluate(context, material)
        with self._phase("generate"):
            context.log = self._log("generate")
            self._generate(context, material)
        self._finish(context, material, time.perf_counter() - started)

    # -- mix --------------------------------------------------------------------------------------------------------

    def _mix(self) -> Material:
        write_atomic(self.folder / "config.yaml", yaml.safe_dump(self._describe(), sort_keys=False))
        material = prepare(self.cell, self.plan, self.store)
        write_json(self.folder / "mixture.json", material.describe())
        write_json(self.folder / "examples.json", material.show(5))
        self.reporter.line(f"{self.cell.name}\n{material.tree()}")
        return material

    def _describe(self) -> dict[str, Any]:
        model = dataclasses.asdict(self.plan.models[self.cell.model])
        return {"cell": self.cell.to_dict(), "model": model, "study": to_plain(self.config)}

    # -- train ------------------------------------------------------------------------------------------------------

    def _train(self, material: Material) -> None:
        start = self.runner.starting_weights(self.cell)
        tokenizer = load_tokenizer(start)
        settings, spec = self.config.training, self.plan.models[self.cell.model]
        longest = min(settings.max_tokens or spec.context, spec.context)
        fitted = fit_documents(self.task, tokenizer, material.records, material.documents, longest)
        encoded = encode_documents(tokenizer, fitted.documents, longest)
        job = team.Train(start, encoded, material.mixture)
        with self._beating("train", "training", total_steps(job.data(self.hands), settings), "steps") as advance:
            model, result = team.train(job, self.hands, [self.log], [StepProgress(advance)])
        if not result.finished:
            raise KeyboardInterrupt
        told = {
            "loss": result.final_loss,
            "tokens": result.tokens,
            "steps": result.steps,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens_per_second,
            "micro_batch": self.hands.sizes.now["train"],
            "truncated": count_truncated(encoded),
            "shortened": sum(fitted.shortened),
            "resumed": result.resumed_from is not None,
        }
        write_json(self.folder / "train.json", told)
        card = model_card(self.cell, self.config, material.mixture, told, material.note)
        export(model, tokenizer, self.folder / "model", card)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    # -- evaluate ---------------------------------------------------------------------------------------------------

    def _evaluate(self, context: CellContext, material: Material) -> None:
        for split, examples in material.tests.items():
            rows = self._rows(split, examples)
            for callback in self.callbacks:
                callback.on_cell_evaluated(context, split, rows)
        self._write_items()

    def _rows(self, split: str, examples: list[Example]) -> list[dict[str, Any]]:
        table, lines = self.folder / "items.parquet", self.folder / "items.jsonl"
        if table.exists() and not lines.exists():
            frame = pd.read_parquet(table)
            part = frame[frame["split"] == split].astype(object)
            records = part.where(part.notna(), None).to_dict("records")
            return [{str(name): value for name, value in record.items()} for record in records]
        self._note_sandbox()
        done = 0
        with self._beating("evaluate", f"evaluation of {split}", len(examples), "items", split) as advance:

            def count(n: int) -> None:
                nonlocal done
                done += n
                advance(done)
                interrupts.check()

            def score(pieces: Sequence[Piece], split: str) -> list[list[Row]]:
                return team.score(pieces, split, self.hands)

            return self.hands.evaluator.evaluate(examples, split, lines, count, score, ranks.here().world)

    def _note_sandbox(self) -> None:
        """Adds the level at which programs are about to run to those at which some have run."""
        if self.task.executes:
            levels = self._read_json("sandbox.json", [])
            write_json(self.folder / "sandbox.json", list(dict.fromkeys([*levels, best_level().name])))

    def _write_items(self) -> None:
        """The rows of all splits as one table, once the last is scored."""
        lines, table = self.folder / "items.jsonl", self.folder / "items.parquet"
        if not lines.exists():
            return
        frame = pd.DataFrame(read_jsonl_prefix(lines))  # pandas' own reader rounds floats
        temporary = table.with_suffix(".parquet.tmp")
        frame.to_parquet(temporary, index=False, write_page_checksum=True)  # a flipped bit is found when it is read
        temporary.replace(table)
        lines.unlink()

    # -- generate ---------------------------------------------------------------------------------------------------

    def _generate(self, context: CellContext, material: Material) -> None:
        wanted = max(self.needs.pool, self.config.evaluation.diversity_samples)
        generator = team.SharedGenerator(self.hands)
        writer = PoolWriter(self.cell, self.plan, self.folder, material, lambda: self.hands.loaded, generator)
        pool = writer.pool
        if not pool.suffices(wanted):
            with self._beating("generate", "generation", wanted, "samples") as advance:

                def count(kept: int) -> None:
                    advance(kept)
                    interrupts.check()

                writer.extend(wanted, count, ranks.here().world)
        pool.stats.wanted = wanted  # also where a killed process had written them all
        header = len(self.task.header)
        for callback in self.callbacks:
            callback.on_cell_generated(context, [s.text[header:] for s in pool.kept()], material.reference)
        told = context.results["pool"] = writer.describe()
        numbers = {name: float(value) for name, value in told.items() if isinstance(value, (int, float))}
        context.log({f"pool/{name}": value for name, value in (numbers | told["levers"]).items()})
        # Too few is the children's failure, not this cell's: its own results, and children with smaller shares, stand.
        write_json(self.folder / "pool.json", told)
        writer.write_card(told)

    # -- end --------------------------------------------------------------------------------------------------------

    def _context(self, phase: str) -> CellContext:
        def result(hash_: str | None) -> dict[str, Any] | None:
            return self.store.result(self.plan.by_hash[hash_]) if hash_ and hash_ != self.cell.hash else None

        return CellContext(
            name=self.cell.name,
            hash=self.cell.hash,
            group=self.cell.group,
            task=self.cell.task,
            iteration=self.cell.iteration,
            seed=self.cell.seed,
            folder=self.folder,
            log=self._log(phase),
            say=self.reporter.line,
            config=self._describe(),
            baseline=result(self.cell.baseline),
            parent=result(self.cell.parent),
        )

    def _log(self, phase: str) -> Callable[[dict[str, float]], None]:
        return lambda values: self.log.write(phase, values)

    def _finish(self, context: CellContext, material: Material, seconds: float) -> None:
        tokens = evaluated_tokens(self.task, self.folder, material.tests)
        self.hands.forget()
        lease.check(self.folder, now=True)
        result = {
            **{k: v for k, v in self.cell.to_dict().items() if k not in ("index", "level")},
            "family": self.task.family,
            "metric": self.task.metric,
            "test": context.results["test"],
            "validation": context.results["validation"],
            "probes": {
                f"{probe}_{name}": value for probe in self.task.probes for name, value in context.results[probe].items()
            },
            "data": {"note": material.note, "excluded": material.excluded}
            | ({"sandbox": ", ".join(self._read_json("sandbox.json", []))} if self.task.executes else {}),
            "diversity": context.results.get("diversity", {}),
            "pool": context.results["pool"],
            "mixture": material.counts(),
            "train": self._read_json("train.json", {}),
            "alert": context.results["alert"],
            "memory": self.hands.sizes.told(),
            "work": describe_work(
                self.hardware,
                self._read_json("train.json", {}),
                tokens,
                context.results["pool"]["tokens"],
                self.timings,
                peak_memory_bytes(self.hardware),
            ),
            "timings": self.timings | {"total": sum(self.timings.values())},
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.folder / "result.json", result)
        for callback in self.callbacks:  # the cell is done, whatever becomes of its copy on W&B
            callback.on_cell_end(context)
        self.reporter.line(summary_line(result, seconds))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Adds up a phase's time over all attempts. It is not begun if the process was asked to stop."""
        interrupts.check(f"the time before '{name}'")
        lease.check(self.folder, now=True)
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            if name not in self.hands.sizes.now or not is_out_of_memory(error):
                raise
            raise self.hands.sizes.answer(name, error) from error
        finally:
            spent = self.timings.get(name, 0.0) + time.perf_counter() - started
            self.timings[name] = round(spent, 3)
            write_json(self.folder / "timings.json", self.timings)
        if name in ("train", "generate"):  # the phases after which what they needed is not needed again
            release_memory()

    def _beating(
        self, phase: str, where: str, total: int, unit: str, label: str | None = None
    ) -> AbstractContextManager[Callable[[int], None]]:
        named = f"{self.cell.group} s{self.cell.seed} {label or phase}"
        return beating(self.reporter, self.folder, named, phase, where, total, unit)

    def _read_json(self, name: str, default: Any) -> Any:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else default

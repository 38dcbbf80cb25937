"""Phase "generate" of a cell: its pool, written with the filter and the design that the study asks for, and measured."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix.evaluation.likelihood import document_logprobs
from synthmix.evaluation.sandbox import run_programs
from synthmix.generation.backends import backend_version
from synthmix.generation.engine import Writer
from synthmix.generation.filters import Band, RunPrograms, SelfConsistency, TaskJudge, make_filter, perplexity_band
from synthmix.generation.levers import Designed, designed, measure_levers
from synthmix.generation.pool import CHUNK, Pool, write_data_card
from synthmix.generation.prompts import PromptWriter
from synthmix.generation.sampling import Sampling
from synthmix.study.cells import Cell, Plan
from synthmix.study.material import Material

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


class PoolWriter:
    """The pool of one cell.

    Args:
        load: gives the cell's trained model and its tokenizer; called only if something has to be written or scored.
        generator: writes with that model.
    """

    def __init__(
        self,
        cell: Cell,
        plan: Plan,
        folder: Path,
        material: Material,
        load: Callable[[], Loaded],
        generator: Writer,
    ) -> None:
        self.cell, self.plan, self.config, self.task = cell, plan, plan.config, material.task
        self.folder, self.material, self.load, self.generator = folder, material, load, generator
        plain = make_filter(self.config.generation, self.task, self._band)
        chosen_by = designed(plain, self.config.design, self.task)
        self.pool = Pool(folder, self.task, chosen_by, material.train_index, material.test_index)

    def extend(self, wanted: int, advance: Callable[[int], None], ranks: int = 1) -> None:
        """Writes attempts until ``wanted`` samples are kept, or the cap on attempts ends it; ``ranks`` write together."""
        settings, prompts = self.config.generation, self._prompts
        sampling = Sampling(settings.temperature, settings.top_p)
        judge: TaskJudge | None = None
        if self.pool.filter.judged:
            asks = SelfConsistency(prompts, self.generator, sampling, settings.consistency_samples)
            judge = TaskJudge(self.task, self._programs(), asks)
        chunk = CHUNK * ranks
        self.pool.extend(wanted, settings.max_tries, self.generator, prompts, sampling, judge, advance, chunk)

    def describe(self) -> dict[str, Any]:
        """Content of ``pool.json``: counts and costs, the levers of the first samples (as many as diversity is measured
        on), what a design made of them, and the band of ``curated``."""
        n, run = self.config.evaluation.diversity_samples, self._programs()
        reference = self.material.reference
        told = self.pool.stats.to_dict()
        told["backend"] = backend_version(self.config.generation.backend)
        told["levers"] = measure_levers(self.task, self.pool.kept()[:n], reference, run)
        if isinstance(self.pool.filter, Designed):
            told["design"] = self.pool.filter.report(self.pool.samples, n, reference, run)
        if self.config.generation.mode == "answer":
            told["questions_left_out"] = self._prompts.left_out
        band = self.folder / "band.json"
        return told | ({"band": json.loads(band.read_text())} if band.exists() else {})

    def write_card(self, told: dict[str, Any]) -> None:
        """``synthetic.md``; says of the data behind it what is not as published."""
        made = dataclasses.asdict(self.config.generation)
        if self.config.design.move is not None:
            made["design"] = dataclasses.asdict(self.config.design)
        if self.material.note:
            made["external data"] = self.material.note
        write_data_card(self.folder, self.task, made, told)

    def _programs(self) -> RunPrograms | None:
        """What runs programs, where they may be run: as in evaluation."""
        allowed = self.task.source is None or self.config.evaluation.run_generated_code
        return run_programs if self.task.executes and allowed else None

    @functools.cached_property
    def _prompts(self) -> PromptWriter:
        context, settings = self.plan.models[self.cell.model].context, self.config.generation
        return PromptWriter(self.task, self.load()[1], settings, self.material.external, self.cell.hash, context)

    def _band(self) -> Band:
        settings, size = self.config.generation, self.config.evaluation.batch_size
        score = functools.partial(document_logprobs, self.load()[0], batch_size=size)
        return perplexity_band(self.folder, self._prompts, settings.perplexity_band, score)

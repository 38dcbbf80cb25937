"""The study in plain sentences, each one computed from the tables: what was run, what came out, what cannot be said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pandas as pd

from synthmix.analysis.conditions import ESTIMATORS, Analysis, of, off_nominal, percent, realised
from synthmix.analysis.printing import Column, show, show_p
from synthmix.analysis.tables import of_iterations

#: Sentences on single conditions, at most; the tables have the rest.
MAX_SENTENCES = 6
ALPHA = 0.05
_SCORE = Column("score", "", "percent interval")
_ECE = Column("ece", "", "decimal interval")


def facts(analysis: Analysis) -> list[tuple[str, str]]:
    """What was run, as (name, value): cells, models, tasks, grid, seeds, items, time."""
    cells, done = analysis.study.cells, analysis.study.done
    counts = cells.status.value_counts()
    state = f"{len(done)} of {len(cells)} done" + "".join(
        f", {counts[s]} {s}" for s in ("failed", "damaged", "blocked", "halted", "started", "planned") if s in counts
    )
    models = [f"{m} ({_size(p)})" if p else str(m) for m, p in _models(cells)]
    found = [
        ("Cells", state),
        ("Models", ", ".join(models) or "none"),
        ("Tasks", ", ".join(sorted(set(cells.task)))),
        ("Synthetic shares", ", ".join(percent(p) for p in sorted(set(cells.proportion))) + " %"),
        ("Iterations", f"{int(cells.iteration.max())} after phase 0" if len(cells) else "none"),
        ("Seeds", listed(sorted(set(cells.seed)))),
    ]
    modes = sorted(set(cells["mode"]) - {"baseline"})
    if modes:
        found.insert(4, ("Mixing", ", ".join(modes)))
    if len(analysis.conditions):
        sizes = sorted({int(n) for n in analysis.conditions.n_items})
        found.append(("Test items a cell", f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"))
    if "timings_total" in done and done.timings_total.notna().any():
        found.append(("Compute", duration(float(done.timings_total.sum()))))
    return found


def results(analysis: Analysis) -> list[str]:
    """The main results, with intervals."""
    if analysis.study.done.empty:
        return ["No cell has finished, so there is no result."]
    return [
        *_overview(analysis),
        *_single_conditions(analysis),
    ]


def calibration_sentences(analysis: Analysis) -> list[str]:
    """How the ECE changes, and where estimators disagree about it."""
    return [*_calibration(analysis), *_alerts(analysis)]


def diversity_sentences(analysis: Analysis) -> list[str]:
    """How the diversity of what models write changes, and what of it stands in the data."""
    return [*_diversity(analysis), *_contamination(analysis)]


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def day(iso: object) -> str:
    """The day and minute of an ISO time; the text as it is, if it is none."""
    try:
        when = datetime.fromisoformat(str(iso))
    except ValueError:
        return str(iso)
    zone = " UTC" if when.utcoffset() == timedelta(0) else ""
    return when.strftime("%d %B %Y, %H:%M").lstrip("0") + zone


# -- results --------------------------------------------------------------------------------------------------------


def _overview(analysis: Analysis) -> Iterator[str]:
    chains = of_iterations(analysis.conditions)
    if chains.empty:
        yield "Only phase 0 has finished: there are baseline scores, and no effect of synthetic text yet."
        yield from _baseline_scores(analysis.conditions)
        return
    tested = chains[chains.p_value.notna()]
    if tested.empty:
        yield "No condition with synthetic text has a finished 0 % control, so no effect can be stated."
        return
    sure = tested[tested.p_bonferroni < ALPHA]
    lower, higher = int((sure.difference < 0).sum()), int((sure.difference > 0).sum())
    rest = len(tested) - lower - higher
    noun = "comparison" if len(tested) == 1 else "comparisons"
    text = f"Of {len(tested)} {noun} with the 0 % control, {lower} scored lower and {higher} higher (p < 0.05 after Bonferroni)."
    alone = int((tested.n_paired_seeds == 1).sum())
    if alone:
        every = "Each of them compares" if alone == len(tested) else f"{alone} of them compare"
        text += f" {every} one training run with one other: what those say is about these runs, not about the share."
    if rest:
        text += f" The other {rest} cannot be told from no difference with this many items and seeds, which does not make them safe."
    yield text


def _baseline_scores(conditions: pd.DataFrame) -> Iterator[str]:
    for _, row in conditions.head(MAX_SENTENCES).iterrows():
        yield f"{row.task}, {row.model}: {row.metric} is {_score(row)} at phase 0."


def _single_conditions(analysis: Analysis) -> Iterator[str]:
    """The highest share of each chain at its last iteration."""
    tested = of_iterations(analysis.conditions)
    tested = tested[tested.difference.notna()] if len(tested) else tested
    if tested.empty:
        return
    last = tested.sort_values(["iteration", "proportion"]).groupby(["task", "model", "mode"]).tail(1)
    order = last.assign(size=last.difference.abs()).sort_values("size", ascending=False)
    for _, row in order.head(MAX_SENTENCES).iterrows():
        yield _sentence(row, several_modes=last["mode"].nunique() > 1)
    if len(order) > MAX_SENTENCES:
        yield f"These are the {MAX_SENTENCES} largest of {len(order)} chains; the tables have all of them."


def _sentence(row: pd.Series, several_modes: bool) -> str:
    mode = f" ({row['mode']})" if several_modes else ""
    share = f"{percent(row.proportion)} % synthetic text"
    if len(off_nominal(pd.DataFrame([row]))):
        share += f" ({100 * realised(row):.0f} % of the training set)"
    side, flip = ("below", -1) if row.difference < 0 else ("above", 1)
    ends = sorted(100 * flip * end for end in (row.difference_low, row.difference_high))
    text = (
        f"{row.task}, {row.model}{mode}: with {share} at iteration {int(row.iteration)},"
        f" {row.metric} is {_score(row)}, {abs(100 * row.difference):.1f} points [{ends[0]:.1f}, {ends[1]:.1f}] {side} the control"
    )
    if pd.notna(row.relative):
        text += f" ({100 * row.relative:+.0f} % relative)"
    sure = row.p_bonferroni < ALPHA
    said = show_p(row.p_bonferroni)
    p = f"p < {said[1:]}" if said.startswith("<") else f"p = {said}"
    runs = ", one run each" if row.n_paired_seeds == 1 else f", {int(row.n_paired_seeds)} seeds"
    text += f"; {'distinguishable' if sure else 'not distinguishable'} from no difference ({p} after Bonferroni{runs})."
    return text.replace(" -", " −").replace("[-", "[−").replace("(-", "(−")


def _score(row: pd.Series) -> str:
    shown = show(row, _SCORE)
    return f"{shown.value} % {shown.interval}".strip()


def _calibration(analysis: Analysis) -> Iterator[str]:
    pairs = list(_extremes(analysis.conditions))
    if not pairs:
        return
    ordered = sorted(pairs, key=lambda pair: -abs(pair[1].ece - pair[0].ece))
    for control, top in ordered[:MAX_SENTENCES]:
        yield (
            f"{top.task}, {top.model}: ECE is {show(top, _ECE)} at {percent(top.proportion)} % and"
            f" {show(control, _ECE)} at 0 %, iteration {int(top.iteration)}"
            f" ({'intervals apart' if _apart(control, top, 'ece') else 'intervals overlap: no clear change'})."
        )
    if len(ordered) > MAX_SENTENCES:
        yield f"These are the {MAX_SENTENCES} largest changes of the ECE among {len(ordered)} chains."
    mixed = sorted({str(t.task) for c, t in pairs if _estimators_disagree(c, t)})
    if mixed:
        yield (
            "The ECE rises under one confidence estimator and falls under another, each by more than their intervals,"
            f" for {listed(mixed)}: no single one of them is evidence for a direction."
        )


def _extremes(conditions: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.Series]]:
    """(control, highest share) of each chain at its last iteration, where both are there."""
    chains = of_iterations(conditions)
    if chains.empty:
        return
    for _, chain in chains[chains.proportion > 0].groupby(["task", "model", "mode"]):
        top = chain.sort_values(["iteration", "proportion"]).iloc[-1]
        control = of(chains, task=top.task, model=top.model, iteration=top.iteration, proportion=0.0)
        if len(control) and pd.notna(top.ece):
            yield control.iloc[0], top


def _estimators_disagree(control: pd.Series, top: pd.Series) -> bool:
    names = [name for e in ESTIMATORS[1:] if (name := f"{e}_ece") in control.index and _apart(control, top, name)]
    return len({bool(top[name] > control[name]) for name in names}) > 1


def _apart(control: pd.Series, top: pd.Series, name: str) -> bool:
    """Whether the two intervals have nothing in common; False where one of them does not exist."""
    return bool(top[f"{name}_low"] > control[f"{name}_high"] or top[f"{name}_high"] < control[f"{name}_low"])


def _diversity(analysis: Analysis) -> Iterator[str]:
    conditions = analysis.conditions
    if "diversity_diversity" not in conditions:
        return
    known = conditions[conditions.diversity_diversity.notna()]
    ends = sorted(_extremes(known), key=lambda pair: -abs(pair[1].diversity_diversity - pair[0].diversity_diversity))
    for control, top in ends[:MAX_SENTENCES]:
        yield (
            f"{top.task}, {top.model}: the diversity of the text written after iteration {int(top.iteration)}"
            f" (1 − self-BLEU) is {top.diversity_diversity:.3f} with {percent(top.proportion)} % and"
            f" {control.diversity_diversity:.3f} with 0 % (no interval)."
        )
    if len(ends) > MAX_SENTENCES:
        yield f"These are the {MAX_SENTENCES} largest changes of diversity among {len(ends)} chains."


def _alerts(analysis: Analysis) -> Iterator[str]:
    done = analysis.study.done
    if "alert_level" not in done:
        return
    watched = done[(done.iteration > 0) & done.alert_level.notna()]
    counts = watched.alert_level.value_counts()
    if len(watched):
        yield (
            f"Early warning on validation ECE: {counts.get('warning', 0)} of {len(watched)} cells at the level warning,"
            f" {counts.get('critical', 0)} at critical. Whether that foretells a loss is a question for the section on early warning."
        )


def _contamination(analysis: Analysis) -> Iterator[str]:
    done = analysis.study.done
    if "pool_copies_test" not in done or not done.pool_tries.sum():
        return
    tries, test, train = (int(done[f"pool_{c}"].sum()) for c in ("tries", "copies_test", "copies_train"))
    yield (
        f"Of {tries:,} written texts, {train:,} state a training question again ({train / tries:.1%}) and {test:,} a test"
        f" question ({test / tries:.1%})."
    ).replace("%)", " %)")


def _models(cells: pd.DataFrame) -> list[tuple[str, float]]:
    known = cells[["model", "parameters"]].drop_duplicates("model").fillna({"parameters": 0})
    return [(m, float(p)) for m, p in known.sort_values("parameters").itertuples(index=False)]


def _size(parameters: float) -> str:
    for unit, size, least in (("B", 1e9, 1e9), ("M", 1e6, 1e5), ("k", 1e3, 1e3)):
        if parameters >= least:
            return f"{parameters / size:.3g}{unit} parameters"
    return f"{parameters:.0f} parameters"


def listed(words: Sequence[object]) -> str:
    return ", ".join(map(str, words))

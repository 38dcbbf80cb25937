# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Calibration and early warning
#
# A calibrated model is right as often as it is confident. The published study reports that calibration breaks before the
# score does, so that its error could warn in time. This notebook looks at calibration first, and then judges the warning
# as what it is: a forecast, to be compared with simpler ones.

# %%
import os

import pandas as pd

from synthmix.analysis import Analysis, findings
from synthmix.analysis.conditions import ESTIMATORS
from synthmix.analysis.figures import iterations_figure, reliability_figure
from synthmix.analysis.notebook import line_figure, open_study, show
from synthmix.analysis.tables import calibration_table
from synthmix.analysis.warning.calibration_rise import calibration_rise_table
from synthmix.analysis.warning.section import warning_section

STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
study = open_study(STUDY)
analysis = Analysis(study)

# %% [markdown]
# ## Right as often as confident?
#
# Points on the diagonal are calibrated, points below it overconfident. The bars below count the items of each bin: a point
# that rests on few items says little.

# %%
show(reliability_figure(analysis))

# %% [markdown]
# ## The calibration error depends on what is called confidence
#
# The expected calibration error (ECE) is the mean distance from the diagonal. But a text has no confidence of its own: it
# can be the mean probability of its tokens, that of the whole answer, that of the part which states the answer, the
# agreement of sampled answers, or the model's own word for it. Below, each of them over the synthetic share, at
# iteration 1.

# %%
show(findings.calibration_sentences(analysis))

# %%
first = analysis.conditions[analysis.conditions.iteration == 1]
long = pd.concat(
    [
        first[["model", "task", "mode", "proportion"]].assign(
            confidence=estimator.removeprefix("confidence_").replace("_", " "),
            **{f"ece{end}": first.get(f"{estimator}_ece{end}") for end in ("", "_low", "_high")},
        )
        for estimator in ESTIMATORS[1:]
    ]
)
ece_figure = line_figure(
    long, "proportion", "ece", lines=["confidence"], panels=["task", "model", "mode"], labels=("synthetic share, %", "ECE"),
    title="ECE under each confidence estimator, iteration 1",
    caption="ECE on the test items with 95 % intervals, mean of the seeds, one line an estimator. The levels of two"
    " estimators are not comparable: each has its own range. Compare directions: where they differ, no single estimator"
    " is evidence for a rise or a fall.",
)  # fmt: skip
show(ece_figure)

# %% [markdown]
# The same with numbers, for phase 0 and every iteration.

# %%
show(calibration_table(analysis))

# %% [markdown]
# ## Is the rise real?
#
# An ECE of few items lies above the truth, and the more so the fewer they are. So a debiased estimate and one with bins of
# equal mass stand beside the ten-bin one, and a permutation test asks whether the rise could be chance. A rise over phase
# 0 may come from training on: the last columns compare with the 0 % chain, which was trained on as well.

# %%
show(calibration_rise_table(analysis))

# %% [markdown]
# ## Does it warn in time?
#
# A forecast is a signal at one iteration, taken from validation items and from what the model wrote, and its outcome a
# significant loss on the test items at the next. A precision means nothing without its base rate: an alert that is always
# on has that precision without looking. The rivals are a validation score that has dropped already, and the synthetic
# share itself, which is known before anything is trained.

# %%
warning = warning_section(analysis)
show(warning, only="sentences")

# %%
show(*(table for table in (warning.tables if warning else ()) if table.name != "calibration_rise"))

# %% [markdown]
# ## Over iterations, and as a forecast
#
# The first figure is the published one: does the calibration error rise while the score still stands? One chain does not
# show that one curve leads the other. The second one asks of all chains together which signal ranks what is lost above
# what is not. An interval that holds the dotted line does not show that a signal says nothing.

# %%
show(iterations_figure(analysis), *(warning.figures if warning else ()))

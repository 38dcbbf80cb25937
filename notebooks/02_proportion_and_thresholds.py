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
# # Proportion and thresholds
#
# How much synthetic data costs nothing, and how much costs too much? Two questions hide in this one. Is a condition
# different from its control? And is it shown to be alike? A large difference and few items can leave both open.

# %%
import os

from synthmix.analysis import Analysis
from synthmix.analysis.notebook import open_study, show
from synthmix.analysis.shapes.sections import curve_section, decay_section
from synthmix.analysis.tables import of_iterations
from synthmix.analysis.verdicts import comparisons_table, verdict_sentences, verdicts_table

STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
study = open_study(STUDY)
# Of the confidence estimators only the headline's; the third notebook has all of them.
analysis = Analysis(study, estimators=("confidence",))

# %% [markdown]
# ## Safe, degraded, undecided
#
# Every condition is compared with the 0 % chain at the same iteration: same seeds, same items, as many training steps
# where the mixing mode allows it.
#
# - **safe**: shown to lie within a margin of the control, by two one-sided tests;
# - **degraded**: shown to differ for the worse, and not safe;
# - **undecided**: neither. More items or more seeds would tell.
#
# The verdicts carry Holm's correction over all comparisons of the study. `Analysis(study, margin=..., margin_relative=...)`
# takes other margins; which loss is bearable is a question about your use, not about statistics.

# %%
show(verdict_sentences(analysis))

# %% [markdown]
# The verdict of every condition, against the margin in points.

# %%
judged = of_iterations(analysis.conditions)
judged = judged[judged.verdict != ""]
verdicts = judged.pivot_table(
    index=["task", "model", "mode", "iteration"], columns="proportion", values="verdict", aggfunc="first"
)
verdicts.rename(columns="{:.0%}".format).fillna("–")

# %% [markdown]
# The same with numbers, and with what would decide the open ones: items with as many seeds, or seeds with as many items.

# %%
show(verdicts_table(analysis))

# %% [markdown]
# ## Every comparison, by several tests
#
# The t-test over seeds is the one of the published study. It sees as many numbers as there are seeds, so it misses much.
# The p-value beside it rests on items and seeds. McNemar's test looks at one seed at a time, and takes the two training
# runs as given.

# %%
show(comparisons_table(analysis))

# %% [markdown]
# ## The curve over the share
#
# The safe proportion is where the curve has lost its margin, relative to the control. It comes with an interval, and it is
# never extrapolated beyond the shares that were measured. A break is claimed only where a line with a corner fits better
# than a straight one, and a curve without a corner is a rival, too.

# %%
curves = curve_section(analysis)
show(curves, only="sentences")

# %%
show(curves, only="tables")

# %% [markdown]
# ## From one iteration to the next
#
# A share that is bearable once may not be bearable three times. Each chain is fitted with four shapes of decay. The
# control is among the chains: what it loses is not due to synthetic text. With few iterations the shapes can hardly be
# told apart, and a half-life extrapolates.

# %%
decay = decay_section(analysis)
show(decay, only="sentences")

# %%
show(decay, only="tables")

# %% [markdown]
# ## Curves, safe proportions, decay
#
# Look at the bands below the curves before the curves: they are what is known about the safe proportion. A band that
# leaves the axis has no upper end within the measured shares. The second figure has the chains over iterations, where the
# study has any.

# %%
show(curves, decay, only="figures")

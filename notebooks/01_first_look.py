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
# # A first look at a study
#
# A study is a set of cells. A cell is one training run: a model is fine-tuned on a mixture of real and synthetic
# examples, tested, and asked to write the synthetic examples of the next iteration. This notebook opens a study and
# looks at what was run, at the texts, at the answers, and at the scores.
#
# `STUDY` is the study that comes with this repository. Put another in its place: the name of one in `runs`, its folder,
# or the folder of a record. The environment variable `SYNTHMIX_STUDY` does the same for all six notebooks.

# %%
import os

import pandas as pd

from synthmix.analysis import Analysis, findings
from synthmix.analysis.figures import iterations_figure, score_figure
from synthmix.analysis.limits import limits
from synthmix.analysis.notebook import open_study, show
from synthmix.analysis.tables import baselines_table, score_table

STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
study = open_study(STUDY)
# Of the confidence estimators only the headline's; the third notebook has all of them.
analysis = Analysis(study, estimators=("confidence",))

# %% [markdown]
# ## What was run
#
# `study.cells` has one row a planned cell, finished or not. The numbers below count the finished seeds of every
# condition. Iteration 0 is phase 0: the model fine-tuned on real examples alone. From iteration 1 on, the 0 % chain is
# the control: it is trained as long as the others, on real examples only.

# %%
pd.set_option("display.max_colwidth", None)
pd.DataFrame(findings.facts(analysis), columns=["", study.name]).set_index("")

# %%
seeds = study.done.groupby(["task", "model", "iteration", "proportion"]).seed.nunique().unstack(fill_value=0)
seeds.rename(columns="{:.0%}".format)

# %% [markdown]
# How many cells are in which state. Everything below is from those that are done.

# %%
study.cells.status.value_counts().to_frame("cells")

# %% [markdown]
# ## What the models read and write
#
# Of each task, a training example that was not written by a model, and then texts that a model wrote: those of the
# finished cell with the highest share at the last iteration. They are the first of their pool, not chosen. Without a
# filter they are what the next iteration is trained on, right or wrong.

# %%
written = study.done[study.done.pool_kept.notna()] if "pool_kept" in study.done else study.done
for task, name in written.sort_values(["iteration", "proportion"]).groupby("task").name.last().items():
    real = [example["text"] for example in study.examples(name) if example["source"] == "external"][:1]
    print(f"===== {task}, real", *real, f"===== {task}, written by {name}", *study.pool_texts(name, 2), sep="\n\n")
    print()

# %% [markdown]
# ## What was measured
#
# One row a test item and cell: the score of the answer, and the confidence that the model had in it. Every mean, interval
# and test in these notebooks is computed from these rows. The columns are in `docs/tables.md`.

# %%
items = study.read_items(["item", "score", "correct", "invalid", "confidence"], split="test")
items.drop(columns=["hash", "parameters"]).groupby(["task", "iteration"], observed=True).head(1).head(12)

# %% [markdown]
# ## Where the models start
#
# A score near its floor or its ceiling hides a change. The last but two columns say whether phase 0 leaves room to fall
# and to rise.

# %%
show(baselines_table(analysis))

# %% [markdown]
# ## What was found
#
# Computed from the rows above, with intervals. What cannot be told from no difference is not shown to be safe: the next
# notebook is about that.

# %%
show(findings.results(analysis))

# %% [markdown]
# And what this study cannot say:

# %%
show(limits(analysis))

# %%
show(score_table(analysis))

# %% [markdown]
# ## Score against share, and over iterations
#
# The first figure shows levels with their intervals. Two bars that overlap do not show that two shares are alike: a
# condition and its control answered the same items, and the paired differences in the table above are more exact than the
# bars. The second figure shows score and calibration error over iterations, beside the control, which may fall as well.

# %%
show(score_figure(analysis), iterations_figure(analysis))

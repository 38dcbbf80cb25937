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
# # Diversity and tails
#
# Text that a model writes is narrower than the text it has read, and training on it may make it narrower still. What goes
# first is the tail: rare words, rare questions, items that only a well-trained model gets right. This notebook looks at
# the diversity of what the models write, at the rare words in it, and at the test items that are lost.

# %%
import os

import pandas as pd

from synthmix.analysis import Analysis, findings
from synthmix.analysis.figures import diversity_figure
from synthmix.analysis.notebook import line_figure, open_study, show
from synthmix.analysis.tables import diversity_table, levers_table, pools_table

STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
study = open_study(STUDY)
# Of the confidence estimators only the headline's; the third notebook has all of them.
analysis = Analysis(study, estimators=("confidence",))

# %% [markdown]
# ## What the models write
#
# All values are taken over the same number of texts a cell: self-BLEU rises with the number of texts, and distinct-n
# falls with it. They also depend on the task, whose texts may be alike by their form. So compare within a task, and not
# with numbers from other places.

# %%
show(findings.diversity_sentences(analysis))

# %%
show(diversity_table(analysis))

# %% [markdown]
# ## Right or wrong
#
# Diversity is not quality. A pool can be diverse because it is wrong in many ways. What can be checked in a text itself is
# checked; malformed texts stay in the pool where no filter is set.

# %%
show(pools_table(analysis), levers_table(analysis))

# %% [markdown]
# ## The tail of the words
#
# Tail mass is the share of the training set's rare words that still occur in what the model writes. Where a task has a
# small vocabulary, its tail is a handful of words, and each of them moves the value a long way. The points are means over
# seeds, and the bars span the seeds: they are no confidence intervals.

# %%
by_condition = study.done.groupby(["task", "model", "mode", "iteration", "proportion"]).diversity_tail_mass
tail = by_condition.agg(tail="mean", tail_low="min", tail_high="max").reset_index()
tail_figure = line_figure(
    tail, "proportion", "tail", scale=100, lines=["iteration"], panels=["task", "model"],
    labels=("synthetic share the writer was trained on, %", "tail mass, %"), title="Rare words that are still written",
    caption="Share of the external set's rare words that occur in what each model writes, over the same number of texts a"
    " cell; mean of the seeds, bars from the lowest to the highest seed. Iteration 0 is phase 0. A word may be missing"
    " because it is rare and few texts were taken: compare shares and iterations, not levels.",
)  # fmt: skip
show(tail_figure)

# %% [markdown]
# ## The tail of the items
#
# Which test items are lost? Sort them by what the phase 0 models made of them: right in every seed, in some, in none. Then
# compare each condition at iteration 1 with its control, item by item. Both began from the same phase 0 models, so the
# sorting favours neither. Items in between are near the edge of what a model can do, and any loss of skill shows there. A
# loss among those that were right in all says that what was sure goes, too; one among those that were right in none, that
# the control has learned since what this model has not.

# %%
items = study.read_items(["item", "score"], split="test")
key = ["model", "task", "item"]
before = items[items.iteration == 0].groupby(key, observed=True).score.mean().rename("before").reset_index()
first = items[items.iteration == 1].merge(before, on=key)
control = first.loc[first.proportion == 0, [*key, "seed", "score"]]
pairs = first[first.proportion > 0].merge(control, on=[*key, "seed"], suffixes=("", "_control"))
pairs["items"] = pd.cut(pairs.before, [-0.01, 0.01, 0.99, 1.01], labels=["right in none", "in between", "right in all"])
pairs["change"] = pairs.score - pairs.score_control

# %% [markdown]
# Means over seeds first, then over items; the interval covers the choice of items alone, with these training runs as they
# are. The table counts the items of each kind.

# %%
condition = ["task", "model", "mode", "proportion", "items"]
by_item = pairs.groupby([*condition, "item"], observed=True).change.mean()
lost = by_item.groupby(condition, observed=True).agg(change="mean", error="sem", n="size").reset_index()
lost = lost.assign(change_low=lost.change - 1.96 * lost.error, change_high=lost.change + 1.96 * lost.error)
lost.groupby(["task", "model", "items"], observed=True).n.max().unstack(fill_value=0)

# %%
lost_figure = line_figure(
    lost, "proportion", "change", scale=100, lines=["items"], panels=["task", "model"],
    labels=("synthetic share, %", "change against control, points"), title="What is lost, by what phase 0 made of the items",
    caption="Score minus that of the 0 % control at iteration 1, over the items that the phase 0 models had right in no"
    " seed, in between, or in all; with 95 % intervals over items, training runs taken as they are. Items that were right"
    " in all can only fall and those that were right in none can only rise, in both arms alike; so the figure shows where"
    " the difference lies, and not which items are harder to keep.",
)  # fmt: skip

# %% [markdown]
# ## Diversity, rare words, lost items
#
# A fall of diversity beside a loss of score does not show that one causes the other: both follow the share.

# %%
show(diversity_figure(analysis), tail_figure, lost_figure)

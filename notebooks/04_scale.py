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
# # Scale
#
# Do larger models bear more synthetic data? The published study says that the safe proportion grows with the logarithm of
# the number of parameters. This notebook compares the models of a study on the tasks that they share. A study with one
# model has nothing to show here.

# %%
import os

from synthmix.analysis import Analysis
from synthmix.analysis.notebook import line_figure, open_study, show
from synthmix.analysis.shapes.sections import scale_section
from synthmix.analysis.tables import baselines_table

STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
study = open_study(STUDY)
# Of the confidence estimators only the headline's; the third notebook has all of them.
analysis = Analysis(study, estimators=("confidence",))
conditions = analysis.conditions
sizes = conditions.groupby("task").model.nunique()
ladder = conditions[conditions.task.isin(sizes[sizes > 1].index)]

# %% [markdown]
# ## The models
#
# Sizes are compared fairly where each model has room to fall. A model that starts near the floor cannot lose much, and a
# small loss of it says little about size.

# %%
show(baselines_table(analysis))

# %% [markdown]
# ## Score of every model
#
# Levels first: a larger model usually starts higher, so that the same loss in points is a smaller share of its score. The
# relative loss divides by the score of the model's own control.

# %%
levels = line_figure(
    ladder[ladder.iteration == 1], "proportion", "score", scale=100, lines=["model"], panels=["task", "mode"],
    labels=("synthetic share, %", "score, %"), title="Score of each model, iteration 1",
    caption="Test score with 95 % intervals over items and seeds, one line a model. Each model was trained on text that it"
    " wrote itself, so size and the quality of the text change together: the figure does not tell them apart.",
)  # fmt: skip
show(levels)

# %% [markdown]
# ## Loss and safe proportion by size
#
# A law over size needs three sizes at least, and each size is one point, however many items it was tested on. Other
# things than size differ between models, too. The laws are those of the published study: a power law for losses, and a
# line over the logarithm for the safe proportion, each with its interval and its R². With few sizes even a high R² leaves
# a wide interval.

# %%
scale = scale_section(analysis)
show(scale, only="sentences")

# %%
show(scale, only="tables")

# %% [markdown]
# ## By size
#
# Bars that overlap leave the order of two sizes open. Bars apart show that these two models differ, not that size alone is
# the reason, and nothing beyond the sizes that were measured: lines join points and are no fit.

# %%
show(scale, only="figures")

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
# # The paper audited
#
# The study that this project implements (arXiv 2510.05133) prints tables, an equation and advice. Do they agree with each
# other? Every finding below is recomputed from the printed numbers alone. A contradiction says that a number or a
# sentence cannot be right as it stands; it does not say which one is wrong. After that, the values of a study of our own
# stand beside the published ones.

# %%
import os
import sys
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

import synthmix
from synthmix.analysis import Analysis
from synthmix.analysis.budget.advice import advise
from synthmix.analysis.drawing import Figure, Panel
from synthmix.analysis.notebook import open_study, show
from synthmix.analysis.paper.published import load_published
from synthmix.analysis.paper.tables import published_section

# The audit is an experiment of the checkout, not a part of the package.
sys.path.insert(0, str(Path(synthmix.__file__).parents[1] / "experiments" / "paper"))
import audit
import drawings

published = load_published()
found = audit.findings(published)

# %% [markdown]
# ## What does not fit
#
# The same as a page: `python experiments/paper/audit.py`.

# %%
pd.DataFrame({"finding": [f.title for f in found]}, index=range(1, len(found) + 1)).style.set_properties(
    **{"text-align": "left"}
)

# %% [markdown]
# ## The arithmetic
#
# Quotations are the paper's; arithmetic and conclusions are not.

# %%
Markdown(
    "\n\n".join(
        "\n\n".join([f"### {f.title}", *(f"> {quote}" for quote in f.quotes), *f.arithmetic, f"**Result.** {f.result}"])
        for f in found
    )
)

# %% [markdown]
# ## What advice is left
#
# The budget below rests on a refit of the points that the equation is said to fit, moved to a task by the paper's first
# table. Its intervals are wide, because the points are few. `synthmix budget --from STUDY` answers from measured curves
# instead.

# %%
print(*(advise(model, family).text() for model, family in (("1.4B", "Math"), ("6.9B", "Reading"))), sep="\n\n\n")

# %% [markdown]
# ## A study beside the published values
#
# Other models, other tasks: shapes can be compared, levels cannot. What the published study did not find may be what its
# test could not see, and the same goes for ours.

# %%
STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")
# Of the confidence estimators only the headline's; the third notebook has all of them.
beside = published_section(Analysis(open_study(STUDY), estimators=("confidence",)))
show(beside, only="sentences")

# %%
show(beside, only="tables")

# %% [markdown]
# ## The equation, the losses, the resolution, the iterations
#
# First the equation as printed, beside the refit of its own points. Then the relative losses of the first table, and what
# its test sets can resolve. Last the published chain over iterations, beside those of the study.

# %%
audited = [
    Figure(name, drawings.ALT[name], drawings.CAPTIONS[name], [Panel(name, "", svg)], [])
    for name, svg in audit.figures(published).items()
]
show(*audited, *(beside.figures if beside else ()))

"""Analysis: one table of cells, one of items; statistics, tables, figures and a report.

>>> from synthmix.analysis import load_study                                      # doctest: +SKIP
>>> study = load_study("quickstart")                                              # doctest: +SKIP
>>> study.cells[["name", "status", "test_score"]], study.items.groupby("hash").score.mean()  # doctest: +SKIP
"""

from synthmix.analysis.conditions import Analysis
from synthmix.analysis.load import StudyData, load_study
from synthmix.analysis.loose_cells import load_cells
from synthmix.analysis.record import write_record
from synthmix.analysis.report import write_report

__all__ = ["Analysis", "StudyData", "load_cells", "load_study", "write_record", "write_report"]

"""The notebooks: valid, without a function of their own, and run with a kernel on the recorded study."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from synthmix.analysis.notebook import NOTHING

ROOT = Path(__file__).resolve().parents[2]
FOLDER, RECORD = ROOT / "notebooks", ROOT / "experiments" / "nano-study" / "record"
PATHS = sorted(FOLDER.glob("*.py"))
#: Drawings that the last cell shows of the recorded study, at the least.
DRAWINGS = {
    "01_first_look": 15,  # a panel a task for the scores, two a task and model over iterations
    "02_proportion_and_thresholds": 7,
    "03_calibration_and_early_warning": 11,
    "04_scale": 2,
    "05_diversity_and_tails": 25,
    "06_paper_audited": 7,
}
#: What is imported besides the package: the standard library's, and what dev installs.
KNOWN = {"os", "sys", "pathlib", "pandas", "IPython", "audit", "drawings", "synthmix"}


def notebook(path: Path) -> NotebookNode:
    return jupytext.read(path)


def drawings(output: dict[str, dict[str, str]]) -> int:
    return output.get("data", {}).get("text/html", "").count('<svg role="img"')


def test_all_six_are_there_and_listed() -> None:
    assert [path.stem for path in PATHS] == sorted(DRAWINGS)
    readme = (FOLDER / "README.md").read_text()
    assert [path.name for path in PATHS if f"]({path.name})" not in readme] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestSource:
    def test_is_a_percent_notebook(self, path: Path) -> None:
        read = notebook(path)
        again = jupytext.reads(jupytext.writes(read, "py:percent"), "py:percent")
        assert [(c.cell_type, c.source) for c in again.cells] == [(c.cell_type, c.source) for c in read.cells]
        assert read.metadata["kernelspec"]["name"] == "python3"
        assert read.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
        assert read.cells[0].cell_type == "markdown" and read.cells[0].source.startswith("# ")

    def test_imports_and_defines_nothing(self, path: Path) -> None:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        defined = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda
        assert [node.lineno for node in nodes if isinstance(node, defined)] == []
        plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        of = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert {name.split(".")[0] for name in [*plain, *(str(node.module) for node in of)]} <= KNOWN
        missing = [
            f"{node.module}.{alias.name}"
            for node in of
            if str(node.module).startswith("synthmix")
            for alias in node.names
            if not hasattr(importlib.import_module(str(node.module)), alias.name)
        ]
        assert missing == []

    def test_takes_another_study(self, path: Path) -> None:
        study = 'STUDY = os.environ.get("SYNTHMIX_STUDY", "experiments/nano-study/record")'
        assert path.read_text().count(study) == 1

    def test_ends_in_figures(self, path: Path) -> None:
        *_, before, last = notebook(path).cells
        assert (before.cell_type, last.cell_type) == ("markdown", "code")
        final = ast.parse(last.source).body[-1]
        assert isinstance(final, ast.Expr) and isinstance(final.value, ast.Call)
        assert ast.unparse(final.value.func) == "show" and "figure" in ast.unparse(final.value)

    def test_every_code_cell_is_explained(self, path: Path) -> None:
        kinds = [cell.cell_type for cell in notebook(path).cells]
        assert "code code code" not in " ".join(kinds)

    def test_text_states_no_result(self, path: Path) -> None:
        """Numbers come from cells: a reader may open another study. 0 % names the control, 95 % the intervals."""
        text = "\n".join(c.source for c in notebook(path).cells if c.cell_type == "markdown").replace("2510.05133", "")
        stated = re.findall(r"\d+\.\d+|\d+ ?%", text)
        assert set(stated) <= {"0 %", "95 %"}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_runs_on_the_recorded_study(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not RECORD.is_dir():
        pytest.skip(f"{RECORD.relative_to(ROOT)} is not there: run the nano study and write its record")
    monkeypatch.delenv("SYNTHMIX_STUDY", raising=False)
    opened = notebook(path)
    NotebookClient(opened, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in opened.cells for output in cell.get("outputs", [])]
    assert [o["text"] for o in outputs if o.get("name") == "stderr"] == []
    assert [o for o in outputs if NOTHING in str(o)] == []
    assert sum(map(drawings, opened.cells[-1].outputs)) >= DRAWINGS[path.stem]

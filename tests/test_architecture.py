"""The house: a room imports only from rooms below its own, and no file grows past a glance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import synthmix

PACKAGE = Path(synthmix.__file__).parent
ROOMS = [
    "errors", "keys", "files", "interrupts", "ranks", "config", "metrics", "statistics", "tasks", "data", "models", "generation",
    "evaluation", "callbacks", "study", "cluster", "analysis", "cli",
]  # fmt: skip
#: config checks names of tasks when a study is loaded; nothing of a task's content flows back.
ALLOWED = {("config", "tasks")}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("synthmix.")}
        if isinstance(node, ast.ImportFrom) and node.module == "synthmix":
            found |= {alias.name for alias in node.names if alias.name in ROOMS}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    for other in imported_rooms(path) - {own}:
        below = ROOMS.index(other) < ROOMS.index(own)
        assert below or (own, other) in ALLOWED, f"{own} imports from {other}"


def test_no_file_grows_past_a_glance() -> None:
    assert {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 420} == {}


def test_slurm_and_wandb_stay_where_they_belong() -> None:
    """W&B is known to the callbacks alone. SLURM to the cluster room, and a little below it: ranks read their place from
    it, a lease names the job that holds it, and checkpoints know the names of the files that Lightning leaves."""
    for path in FILES:
        tree = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)}
        if any(name.split(".")[0] == "wandb" for name in imported):
            assert room(path) == "callbacks", path
        texts = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        if any(text.startswith("SLURM_") for text in texts):
            known = path.relative_to(PACKAGE).as_posix() in ("study/holder.py", "study/lease.py", "ranks.py")
            assert known or room(path) == "cluster", path

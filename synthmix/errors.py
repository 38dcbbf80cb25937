"""Errors that a user can cause.

Anything that a wrong key, file or setting brings about is raised as a :class:`UserError`: the command line prints its
text, without a traceback, and exits with status 2. Asserts and other exceptions are for synthmix's own invariants.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; its text says what was given and what was expected."""

    exit_status = 2


class ConfigError(UserError):
    """Every problem found in a configuration, reported at once."""

    def __init__(self, problems: Sequence[str], origin: str = "") -> None:
        self.problems = list(problems)
        head = f"{origin}: " if origin else ""
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{head}{len(self.problems)} {noun} in the configuration\n{lines}")


class DataError(UserError):
    """A record, or a whole file, that cannot be read; names the file and, where there is one, the line."""

    def __init__(self, message: str, path: Path | str | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message)


class StoreError(UserError):
    """The store holds something other than what this run expects."""


class CellError(Exception):
    """What ends a cell by no fault of the machine: as it is, the cell would end in the same way again. Exit status 1.

    It is not tried again without being asked for (``--retry-failed``), unless something is ``changed`` by then, such as
    how much it takes at once.
    """

    changed = False


def near_match(word: str, known: Sequence[str]) -> str:
    """``' Did you mean ...?'`` for the closest known word, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, given: str, known: Sequence[str]) -> str:
    """The sentence for a name that does not exist: what was given, what there is, and a near match."""
    return f"unknown {kind} '{given}'.{near_match(given, known)} Known: {', '.join(sorted(known)) or 'none'}."

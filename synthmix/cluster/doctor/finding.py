"""What was found of one need of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["OK", "MISSING", "unknown"]


@dataclass(frozen=True)
class Finding:
    """A need, whether this machine meets it, and in words what is there or what to do."""

    state: State
    what: str


def ok(what: str) -> Finding:
    return Finding("OK", what)


def missing(what: str) -> Finding:
    return Finding("MISSING", what)


def unknown(what: str) -> Finding:
    return Finding("unknown", what)

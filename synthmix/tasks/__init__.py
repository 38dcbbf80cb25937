"""The tasks of a study; :func:`get_task` finds one by name."""

from __future__ import annotations

from synthmix.errors import ConfigError, unknown
from synthmix.tasks.base import Answer, Document, Example, Malformed, Record, Source, Task

__all__ = ["Answer", "Document", "Example", "Malformed", "Record", "Source", "Task", "get_task", "task_names"]

#: name -> "module:class"; imported when asked for, so that naming tasks costs nothing.
_TASKS = {
    "nano-commonsense": "nano_commonsense:NanoCommonsense",
    "nano-math": "nano_math:NanoMath",
    "nano-facts": "nano_facts:NanoFacts",
    "nano-reading": "nano_reading:NanoReading",
    "nano-code": "nano_code:NanoCode",
    "commonsense_qa": "commonsense_qa:CommonsenseQA",
    "gsm8k": "gsm8k:GSM8K",
}


def task_names() -> list[str]:
    """Every task that a study can name."""
    return list(_TASKS)


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        ConfigError: with a near match, if there is none.
    """
    from importlib import import_module

    if name not in _TASKS:
        raise ConfigError([unknown("task", name, task_names())])
    module, cls = _TASKS[name].split(":")
    task: Task = getattr(import_module(f"synthmix.tasks.{module}"), cls)()
    return task

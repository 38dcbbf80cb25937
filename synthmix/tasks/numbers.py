"""Reading the number that a worked solution arrives at."""

from __future__ import annotations

import re

from synthmix.tasks.base import Answer

#: As in the GSM8K release: the line that states the result.
MARKER = re.compile(r"#### ?(-?\$?[0-9][0-9.,]*)")
NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*")


def normalize_number(text: str) -> str:
    """``'$1,234.00.'`` -> ``'1234'``: no thousands separators, currency sign, closing full stop or empty decimals.

    >>> normalize_number("-1,500"), normalize_number("$18.00"), normalize_number("3.50")
    ('-1500', '18', '3.5')
    """
    plain = text.replace(",", "").replace("$", "").rstrip(".")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return plain


def extract_number(completion: str, strict: bool) -> Answer:
    """The last ``####`` number (``strict``), or simply the last number.

    The last marker counts, not the first: a model that goes on after its answer has changed its mind.
    """
    found = list((MARKER if strict else NUMBER).finditer(completion))
    if not found:
        return Answer(None, "no #### marker" if strict else "no number")
    group = 1 if strict else 0
    return Answer(normalize_number(found[-1].group(group)), span=found[-1].span(group))

"""What tables and arrays that people bring have in common, whatever file they come from: each column once, and values
as text, with what a missing one is and how a number is written."""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from dxmc_core.errors import InputError

#: What libraries write into text where a value is missing. "None", "null" and "NA" are words that a class may have.
_MISSING_LABELS = frozenset({"", "nan", "NaN", "NaT", "<NA>"})
#: How pandas shows the values that are missing in columns of times and of its own types.
_MISSING_TIMES = frozenset({"NaT", "<NA>"})


def require_once(name: str, names: Sequence[str], where: str) -> None:
    """Raises InputError when a column that is asked for is there more than once."""
    if names.count(name) > 1:
        raise InputError(f"{where} has {names.count(name)} columns called {name!r}; expected one, rename the others")


def as_text(values: Iterable[Any]) -> list[str | None]:
    """Values of any type as text, None where one is missing: null, NaN or NaT.

    Whole numbers are written as such, 3.0 too: a column of them becomes one of floats as soon as a value is missing.
    """
    return [_text(value) for value in values]


def as_labels(values: Iterable[Any]) -> list[str | None]:
    """Labels as text; beyond what `as_text` takes for missing, blank text is, and text that stands for NaN or NaT."""
    return [None if text is None or text.strip() in _MISSING_LABELS else text for text in as_text(values)]


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        if math.isfinite(value) and value == int(value):
            return str(int(value))
    text = str(value)
    return None if text in _MISSING_TIMES else text

"""Types and ranges of a dataclass's fields, which stand beside the fields as metadata."""

from __future__ import annotations

import dataclasses
import math
import operator
from types import UnionType
from typing import Any, get_args

from .errors import InputError


def setting(default: Any, meaning: str, low: float | None = None, high: float | None = None, **metadata: Any) -> Any:
    """A field with its meaning and its range; `open_low` and `open_high` exclude that end of the range."""
    return dataclasses.field(default=default, metadata=dict(meaning=meaning, low=low, high=high, **metadata))


def check_range(one: dataclasses.Field, value: Any) -> None:
    """Refuse a value outside the range or the choices that stand beside its field."""
    about = one.metadata
    if about.get("choices") and value not in about["choices"]:
        raise InputError(f"recipe field {one.name} is {value!r}: it must be one of {', '.join(about['choices'])}")
    low, high = about["low"], about["high"]
    if low is None or value is None:
        return
    above, below = (operator.gt if about.get("open_low") else operator.ge), operator.le
    if about.get("open_high"):
        below = operator.lt
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(above(number, low) and (high is None or below(number, high)) for number in numbers):
        least = f"greater than {low}" if about.get("open_low") else f"at least {low}"
        most = "" if high is None else f" and {'less than' if about.get('open_high') else 'at most'} {high}"
        raise InputError(f"recipe field {one.name} is {value!r}: it must be {least}{most}")


def typed(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as its declared type; ints stand for floats, lists for tuples; all else raises TypeError."""
    if isinstance(hint, UnionType):
        return None if value is None else typed(name, value, get_args(hint)[0])
    if hint == tuple[float, ...] and isinstance(value, (list, tuple)):
        return tuple(typed(name, item, float) for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value) + 0.0  # -0.0 becomes 0.0, which is equal and must have the same hash
        except OverflowError:  # an integer of more than 308 digits
            number = math.inf
        if not math.isfinite(number):
            raise InputError(f"recipe field {name} is {value!r}: it must be a finite number")
        return number
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else "a list of numbers, such as [1.0, 1.5]"
    yaml = "; in YAML write 1.0e-4, because 1e-4 is text" if hint is float and isinstance(value, str) else ""
    raise TypeError(f"recipe field {name} is {value!r} of type {type(value).__name__}: it must be {wanted}{yaml}")

"""Types and ranges of the fields of run.json, of a model's metadata and of tables of runs, with one form of message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Kind(NamedTuple):
    """What a field must be, in words and as a predicate."""

    words: str
    holds: Callable[[Any], bool]

    def or_nothing(self) -> Kind:
        """The same, or None (in a table, an empty cell)."""
        return Kind(f"{self.words} or nothing", lambda value: value is None or value != value or self.holds(value))


def _number(words: str, low: float = -1e300, high: float = 1e300, kinds: Any = (int, float)) -> Kind:
    return Kind(words, lambda v: isinstance(v, kinds) and not isinstance(v, bool) and low <= v <= high)


NUMBER, SIZE = _number("a finite number"), _number("0 or more", 0)
CORRELATION = _number("a number in -1..1", -1.001, 1.001)
COUNT, INDEX = (_number(f"a whole number of {low} or more", low, 2**64 - 1, int) for low in (1, 0))
TEXT = Kind("text", lambda v: isinstance(v, str))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))
POSITIVE = Kind("a number above 0", lambda v: NUMBER.holds(v) and v > 0)


def _either(one: Kind, other: Kind) -> Kind:
    return Kind("a whole number or text", lambda v: one.holds(v) or other.holds(v))


def _values(kind: Kind) -> Kind:
    return Kind(f"an object of {kind.words}", lambda v: isinstance(v, dict) and all(map(kind.holds, v.values())))


def _rising(count: int, strictly: bool) -> Kind:
    def holds(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != count or not all(map(NUMBER.holds, value)):
            return False
        return all(b > a if strictly else b >= a for a, b in zip(value, value[1:]))

    return Kind(f"{count} rising numbers", holds)


def _is_metrics(value: Any) -> bool:
    scores = isinstance(value, dict) and all(CORRELATION.holds(value.get(name)) for name in ("plcc", "srcc"))
    return scores and COUNT.holds(value.get("n")) and _values(_either(NUMBER, _values(NUMBER))).holds(value)


_DIGEST = Kind("64 hex digits", lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef"))

#: Fields of run.json. Runs of earlier versions lack some of them.
RUN = dict(
    **dict.fromkeys(("benchmark", "recipe_hash", "data_hash", "split_hash", "labels", "device", "processor"), TEXT),
    recipe=OBJECT,
    split_index=_either(INDEX, TEXT).or_nothing(),
    seed=INDEX,
    precision=TEXT,
    threads=_either(COUNT, TEXT),
    processes=COUNT,
    seconds=SIZE,
    metrics=Kind("an object of finite numbers with plcc, srcc and n", _is_metrics),
    commit=TEXT.or_nothing(),
    dirty=FLAG.or_nothing(),
    versions=_values(TEXT.or_nothing()),
    files=_values(_DIGEST),
    sha256=_DIGEST,
    conditions=Kind("a list of objects", lambda v: isinstance(v, list) and bool(v) and all(map(OBJECT.holds, v))),
)

#: Fields of a model's metadata.
MODEL = dict(
    **dict.fromkeys(("benchmark", "title", "axis", "label_kind"), TEXT),
    recipe=OBJECT,
    mos_range=_rising(2, strictly=True),
    mos_mean=NUMBER,
    mos_std=POSITIVE,
    mos_percentiles=_rising(101, strictly=False),
    largest_short_side=COUNT,
    packed=FLAG,
)

#: Columns of tables of runs.
ROW = dict(
    **dict.fromkeys(("plcc", "srcc"), CORRELATION),
    **dict.fromkeys(("krcc", "plcc_logistic", "plcc_best", "srcc_best"), CORRELATION.or_nothing()),
    **dict.fromkeys(("rmse", "seconds", "tolerance"), SIZE.or_nothing()),
    **dict.fromkeys(("value", "pairs_in_order"), NUMBER.or_nothing()),
    split=INDEX,
    n=COUNT,
)


def check(values: Any, kinds: Mapping[str, Kind], where: str, fix: str, needed: Iterable[str] = ()) -> None:
    """Raise InputError unless `values` is a dict with all `needed` fields, whose known fields are of their kinds.

    `where` names the file, and `fix` says what to do.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} is damaged (expected a JSON object): {fix}")
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where} lacks {', '.join(missing)}: {fix}")
    for name, kind in kinds.items():
        if name in values and not kind.holds(values[name]):
            raise InputError(f"{where} is damaged ({name} is {short_repr(values[name])}, expected {kind.words}): {fix}")


def check_rows(table: pd.DataFrame, where: str, fix: str) -> None:
    """Raise InputError if a cell of a column that `ROW` knows is not of its kind."""
    for name, kind in ROW.items():
        for row, value in enumerate(table[name].tolist() if name in table else [], start=1):
            if not (kind.holds(value) or kind.holds(_as_number(value))):
                found = f"{name} is {short_repr(value)} in row {row}, expected {kind.words}"
                raise InputError(f"{where} is damaged ({found}): {fix}")


def _as_number(value: Any) -> Any:
    """The number that a text states: one wrong cell makes all cells of a column texts."""
    try:
        return (float if "." in value or "e" in value else int)(value) if isinstance(value, str) else value
    except ValueError:
        return value

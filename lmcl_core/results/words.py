"""Results in words: tables for reading, and verdicts that are computed from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

NOTHING = "–"


@dataclass(frozen=True, eq=False)
class Table:
    """A table for reading, which a notebook shows as Markdown.

    Numbers are rounded to `digits`, those of a column "difference" have a sign, and a missing cell is a dash. `notes`
    are lines below the table, such as sources.
    """

    frame: pd.DataFrame
    digits: int = 3
    notes: Sequence[str] = ()

    def cells(self) -> pd.DataFrame:
        """The table as text."""
        columns = {name: [self._text(value, name) for value in self.frame[name]] for name in self.frame}
        return pd.DataFrame(columns, dtype=str)

    def _text(self, value: object, column: str) -> str:
        if pd.isna(value) or value == "":
            return NOTHING
        if isinstance(value, float):
            value = round(value, self.digits) + 0.0  # no "-0.000"
            return f"{value:{'+' if 'difference' in str(column) else ''}.{self.digits}f}"
        return str(value)

    def __repr__(self) -> str:
        rows = [list(map(str, self.frame)), ["---"] * self.frame.shape[1], *self.cells().to_numpy().tolist()]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([*(lines if len(self.frame) else []), *(f"\n{note}" for note in self.notes)])

    _repr_markdown_ = __repr__


def number_sources(sources: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Number different sources in their order: the mark of each, such as "[1]", and the footnotes."""
    marks = {source: f"[{n}]" for n, source in enumerate(dict.fromkeys(sources), 1)}
    return marks, [f"{mark} {source}" for source, mark in marks.items()]


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Lines that say which benchmarks are left out and why, from `choose_benchmarks`; missing folders share a line."""
    absent = [name for name, reason in reasons.items() if reason.startswith("missing_folder")]
    lines = [f"{name}: left out: {reason}" for name, reason in reasons.items() if name not in absent]
    if absent:
        lines.append(f"left out, their folders are missing: {', '.join(absent)}")
    return lines


def interval(low: float, high: float, digits: int = 3) -> str:
    """An interval or a range as "LOW to HIGH"; a dash if it is missing."""
    return NOTHING if pd.isna(low) or pd.isna(high) else f"{low:.{digits}f} to {high:.{digits}f}"


def verdict(low: float, high: float, limit: float, higher: str = "higher", lower: str = "lower") -> str:
    """What the interval of a difference says: `higher` or `lower` if it lies on one side of 0.

    Otherwise "no difference larger than X", where X is the larger distance of an end from 0, rounded up to 3 digits, or
    "undecided" if X is larger than `limit`. "no interval" if an end is NaN.
    """
    if pd.isna(low) or pd.isna(high):
        return "no interval"
    if low > 0 or high < 0:
        return higher if low > 0 else lower
    reach = max(-low, high)
    return "undecided" if reach > limit else f"no difference larger than {math.ceil(1000 * reach) / 1000:.3f}"


def conclusion(labels: Iterable[str], verdicts: Iterable[str]) -> str:
    """One line for each kind of `verdict`, with the labels of its rows; "undecided: all N" if more than 3 are, and no
    others."""
    groups: dict[str, list[str]] = {}
    for label, found in zip(labels, verdicts):
        kind, _, reach = found.partition(" larger than ")
        name = f"{kind} larger than the number in brackets" if reach else kind
        groups.setdefault(name, []).append(f"{label} ({reach})" if reach else label)
    if len(groups) == 1 and len(groups.get("undecided", [])) > 3:
        return f"undecided: all {len(groups['undecided'])}"
    return "\n".join(f"{kind}: {'; '.join(names)}" for kind, names in groups.items()) or "nothing to compare"


def trend(name: str, values: Sequence[float]) -> str:
    """How a quantity changed from its first value to its last."""
    first, last = values[0], values[-1]
    if len(values) < 2:
        return f"{name}: {first:.3f}"
    if f"{first:.3f}" == f"{last:.3f}":
        return f"{name} stayed at {last:.3f}"
    return f"{name} {'decreased' if last < first else 'increased'} from {first:.3f} to {last:.3f}"


def falling(data: pd.DataFrame, group: str, value: str) -> str:
    """In which groups the mean of `value` decreases at every level; `data` has the columns `group`, level, `value`."""
    means = data.astype({"level": int}).groupby([group, "level"])[value].mean().unstack("level")
    falls = (means.diff(axis=1).iloc[:, 1:] < 0).all(axis=1)
    rest = f"; not for {', '.join(falls.index[~falls])}" if not falls.all() else ""
    return f"the mean decreases at every level for {falls.sum()} of {len(falls)} distortions{rest}"

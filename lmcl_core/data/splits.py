"""Content-disjoint splits, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd

from ..common.errors import InputError
from .readers import leads_outside

#: Shares of all contents in the test part, and in the validation part of `validation_split`.
TEST_SHARE, VAL_SHARE = 0.2, 0.15


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions of a table as int64 arrays; unpacks as train, val, test."""

    train: np.ndarray
    val: np.ndarray  # rows to select on; may be empty
    test: np.ndarray
    index: int | str | None = None  # number of the split, "official", or a validation split such as "00-val"

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.train, self.val, self.test))


def make_split(table: pd.DataFrame, index: int | str, test: float = TEST_SHARE, val: float = 0.0) -> Split:
    """Split a table by content, the same on every machine and with every library version.

    Contents are sorted by the SHA-256 of the text "index/content". The first ones, a share of `test`, are the test
    part; the next ones, a share of `val`, are the validation part; the rest is the training part.

    Args:
        table: from `load_benchmark`.
        index: number of the split, >= 0 (the protocol uses 0..9), or "official" for the split of the benchmark's
            authors, which ignores `test` and `val`.
        test: share of contents in the test part, in (0, 1).
        val: share of contents in the validation part, in [0, 1).

    Raises:
        InputError: no table of `load_benchmark`, invalid index or shares, no official split, or too few contents.
    """
    check_columns(table, "content")
    if (missing := table["content"].isna()).any():
        raise InputError(f"row {missing.argmax()} of the table has no content: name the scene of every image")
    if isinstance(index, str) and index == "official":
        return _official_split(table)
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise InputError(f"split index is {index!r}: it must be an integer of 0 or more, or 'official'")
    numeric = all(isinstance(share, Real) for share in (test, val))
    if not (numeric and 0 < test < 1 and 0 <= val < 1 and test + val < 1):
        raise InputError(f"shares are test={test!r} and val={val!r}: both must be in 0..1 and leave a part to train on")
    order = _hash_order(table["content"], index)
    n_test, n_val = round(test * len(order)), round(val * len(order))
    if n_test < 1 or (val and n_val < 1) or n_test + n_val >= len(order):
        fix = "a part would be empty; add images, or choose other shares"
        raise InputError(f"{len(order)} contents cannot be split into test={test} and val={val}: {fix}")
    parts = order[n_test + n_val :], order[n_test : n_test + n_val], order[:n_test]
    return Split(*(np.flatnonzero(table["content"].isin(part)) for part in parts), index=int(index))


def numbered_splits(count: int, first: int = 0) -> range:
    """Indices of `count` (1..10000) numbered splits from `first` (0..999999999); `InputError` if out of range."""
    if not 1 <= count <= 10_000:
        raise InputError(f"splits is {count!r}: it must be in 1..10000")
    if not 0 <= first < 10**9:
        raise InputError(f"first_split is {first!r}: it must be in 0..999999999")
    return range(first, first + count)


def validation_split(table: pd.DataFrame, index: int) -> Split:
    """A split for selecting hyper-parameters that leaves out the test images of the numbered split `index`.

    15 % of all contents are moved from the training part to a validation part, which takes the place of the test part:
    it is the field `test`, and `val` is empty. The new index is, for split 0, "00-val". InputError for "official".
    """
    if index == "official":
        raise InputError("the official split has no validation split: choose a numbered split, such as 0")
    train, val, _ = make_split(table, index, val=VAL_SHARE)
    return Split(train, np.empty(0, dtype=np.int64), val, index=f"{index:02d}-val")


def subsample(table: pd.DataFrame, split: Split, share: float) -> np.ndarray:
    """Positions of the training images in a `share`, in (0, 1], of the training contents.

    A smaller share is always a subset of a larger one.
    """
    contents = table["content"].iloc[split.train]
    order = _hash_order(contents, f"share/{split.index}")
    return split.train[contents.isin(order[: max(1, round(share * len(order)))])]


def shared_contents(table: pd.DataFrame, split: Split) -> int:
    """Number of contents that stand in more than one part, compared without case; 0 for every split made here."""
    train, val, test = (set(table["content"].iloc[part].str.lower()) for part in split)
    return len(train & val | train & test | val & test)


def _hash_order(contents: Iterable[str], prefix: int | str) -> list[str]:
    """Unique contents in a pseudo-random order that depends on nothing but their names and the prefix."""
    return sorted(set(contents), key=lambda content: hashlib.sha256(f"{prefix}/{content}".encode()).hexdigest())


def _official_split(table: pd.DataFrame) -> Split:
    parts = table["official_split"] if "official_split" in table else pd.Series(pd.NA, index=table.index)
    if parts.isna().all():
        notes = [note for note in table.attrs.get("notes", []) if "official" in note]
        reason = f" ({'; '.join(notes)})" if notes else ""
        name = table.attrs.get("benchmark", "this table")
        raise InputError(f"{name} has no official split here{reason}: choose a numbered split, such as 0")
    return Split(*(np.flatnonzero(parts.isin([name])) for name in ("train", "val", "test")), "official")


def check_columns(table: pd.DataFrame, *columns: str, attrs: Iterable[str] = ()) -> None:
    """Raise `InputError` if `table` is no table of `load_benchmark`: it needs some columns and ``.attrs``."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"the table is of type {type(table).__name__}: make it with load_benchmark")
    if lacking := [*(c for c in columns if c not in table), *(name for name in attrs if name not in table.attrs)]:
        raise InputError(f"the table lacks {', '.join(lacking)}: make it with load_benchmark")


def check_split(table: pd.DataFrame, split: Split) -> None:
    """Raise `InputError` if a model cannot be trained and tested on this split of this table."""
    check_columns(table, "image", "mos", "content", attrs=("benchmark", "root", "label_kind"))
    if outside := [image for image in table["image"] if leads_outside(str(image))]:
        raise InputError(f"image {outside[0]!r} of the table is no path inside its root: make it with load_benchmark")
    if not isinstance(split, Split):
        raise InputError(f"the split is of type {type(split).__name__}: make it with make_split")
    parts = np.concatenate(list(split))
    if len(parts) and (parts.min() < 0 or parts.max() >= len(table)) or len(np.unique(parts)) != len(parts):
        raise InputError("the split does not fit the table: make it with make_split from this table")
    train, test = len(split.train), len(split.test)
    if train < 2 or test < 3:
        counts = f"the split has {train} images to train on and {test} to test on, and needs at least 2 and 3"
        raise InputError(f"{counts}: choose another split or a larger share")
    mos = table["mos"].to_numpy(dtype=float)
    if not np.isfinite(mos).all():
        image = table["image"][~np.isfinite(mos)].iloc[0]
        raise InputError(f"mos of {image} is not a finite number: correct the label file")
    for name, part in (("training", split.train), ("test", split.test)):
        if np.ptp(mos[part]) == 0:
            raise InputError(f"mos is the same for every {name} image: choose another split or check the labels")

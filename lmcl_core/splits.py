"""Splits by content, the same on every machine, and the hashes that name a split and a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError

#: Shares of contents: the test part of a numbered split, and the validation part that may be cut from the rest.
TESTED, VALIDATED = 0.2, 0.15


@dataclass(frozen=True, eq=False)
class Split:
    """Integer row positions of a table, as int64 arrays; unpacks as train, val, test.

    Attributes:
        train: positions to train on.
        val: positions to choose on; may be empty.
        test: positions to report on.
        index: which of the numbered splits this is, "official", or None.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    index: int | str | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.train, self.val, self.test))


def make_split(table: pd.DataFrame, index: int | str, test: float = TESTED, val: float = 0.0) -> Split:
    """Split a table by content; the same on every machine and in every version of every library.

    Contents are put in the order of the SHA-256 of "index/content"; the first share is test, the next val. The
    official split is the one its authors published; `test` and `val` have no say in it.

    Args:
        table: from `load_benchmark`.
        index: which split, 0 or greater; 0..9 are the ten splits of the protocol. Or "official".
        test: share of contents for test, in (0, 1).
        val: share of contents for validation, in [0, 1).

    Returns:
        The `Split`; no content stands in two parts.

    Raises:
        InputError: a bad index, no official split, shares out of range, or too few contents for them.
    """
    if not isinstance(table, pd.DataFrame) or "content" not in table:
        raise InputError(f"the table is a {type(table).__name__} without contents: make it with load_benchmark")
    if isinstance(index, str) and index == "official":
        return _official(table)
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise InputError(f"split index is {index!r}: it must be a whole number of 0 or more, or 'official'")
    if not (0 < test < 1 and 0 <= val < 1 and test + val < 1):
        raise InputError(
            f"shares test={test!r}, val={val!r}: they must be positive parts of 1 that leave some to train"
        )
    contents = sorted(set(table["content"]))
    order = sorted(contents, key=lambda content: hashlib.sha256(f"{index}/{content}".encode()).hexdigest())
    n_test, n_val = round(test * len(order)), round(val * len(order))
    if n_test < 1 or (val and n_val < 1) or n_test + n_val >= len(order):
        raise InputError(f"{len(order)} contents cannot be split into test={test} and val={val}: a part would be empty")
    part = {
        content: "test" if place < n_test else "val" if place < n_test + n_val else "train"
        for place, content in enumerate(order)
    }
    parts = table["content"].map(part).to_numpy()
    return Split(*(np.flatnonzero(parts == name) for name in ("train", "val", "test")), index=int(index))


def numbered_splits(count: int, first: int = 0) -> range:
    """The indices of some numbered splits.

    Args:
        count: how many, 1..10000.
        first: the first of them, 0 or greater, of nine digits at most.

    Raises:
        InputError: too few, or a first one that is not there.
    """
    if not 1 <= count <= 10_000:
        raise InputError(f"splits is {count!r}: it must be at least 1, and 10000 at most")
    if not 0 <= first < 10**9:
        raise InputError(f"first_split is {first!r}: it must be 0 or more, of nine digits at most")
    return range(first, first + count)


def validation_split(table: pd.DataFrame, index: int | str) -> Split:
    """A numbered split for choosing hyper-parameters: a validation part is measured, the test part left out.

    Args:
        table: from `load_benchmark`.
        index: which split, 0 or greater; 15 % of contents, from its training part, are its validation part.

    Returns:
        The `Split`: train, an empty part, and the validation part in the place of test; its index is "00-val" for 0.

    Raises:
        InputError: as `make_split`.
    """
    if index == "official":
        raise InputError("validation is cut from a numbered split, not from the official one: choose 0 to 9")
    train, val, _ = make_split(table, index, val=VALIDATED)
    return Split(train, np.empty(0, dtype=np.int64), val, index=f"{index:02d}-val")


def thinned(table: pd.DataFrame, split: Split, share: float) -> np.ndarray:
    """A share of a split's training part, whole contents of it; a smaller share is part of a larger one.

    Args:
        table: from `load_benchmark`.
        split: of this table.
        share: in (0, 1].

    Returns:
        Positions, in the order of the training part.
    """
    contents = table["content"].to_numpy()[split.train]
    order = sorted(set(contents), key=lambda name: hashlib.sha256(f"share/{split.index}/{name}".encode()).hexdigest())
    return split.train[np.isin(contents, order[: max(1, round(share * len(order)))])]


def _official(table: pd.DataFrame) -> Split:
    parts = table["official_split"] if "official_split" in table else pd.Series(pd.NA, index=table.index)
    if parts.isna().all():
        name = table.attrs.get("benchmark", "this table")
        notes = [note for note in table.attrs.get("notes", []) if "official" in note]
        said = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"{name} has no official split here{said}: choose a numbered one, such as 0")
    parts = parts.fillna("none").to_numpy()
    return Split(*(np.flatnonzero(parts == name) for name in ("train", "val", "test")), index="official")


def shared_contents(table: pd.DataFrame, split: Split) -> int:
    """How many contents stand in more than one part of a split; 0 for every split made here.

    Args:
        table: from `load_benchmark`.
        split: of this table.
    """
    parts = [set(table["content"].iloc[part].str.lower()) for part in split]
    return len({content for one, other in combinations(parts, 2) for content in one & other})


def tail_length(images: Iterable[str]) -> int:
    """How many last parts of a path tell all pictures apart without case; 1 where file names do, 4 at most.

    Args:
        images: paths with "/" between their parts.
    """
    images = list(images)
    unique = (n for n in range(1, 4) if len({tail(image, n) for image in images}) == len(images))
    return next(unique, 4)


def tail(image: str, length: int) -> str:
    """The last parts of a path, in lower case.

    Args:
        image: path with "/" between its parts.
        length: how many parts.
    """
    return "/".join(image.lower().split("/")[-length:])


def split_hash(table: pd.DataFrame, split: Split) -> str:
    """First 12 hex digits of the SHA-256 of the file names, in lower case, in each part of a split.

    Where file names do not tell pictures apart, as in LIVE, their folders are hashed with them.
    """
    length = tail_length(table["image"])
    names = [sorted(tail(image, length) for image in table["image"].iloc[part]) for part in split]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]


def data_hash(table: pd.DataFrame) -> str:
    """First 12 hex digits of the SHA-256 of every image's file name in lower case, size in bytes and mos.

    Pixels are not read: a picture replaced by another of the very same size in bytes is not noticed.
    """
    root, length = Path(table.attrs["root"]), tail_length(table["image"])
    rows = [
        [tail(image, length), (root / image).stat().st_size, repr(float(mos))]
        for image, mos in zip(table["image"], table["mos"])
    ]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:12]

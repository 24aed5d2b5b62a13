"""Splits by content, the same on every machine, and the hashes that name a split and a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """Integer row positions of a table, as int64 arrays; unpacks as train, val, test.

    Attributes:
        train: positions to train on.
        val: positions to choose on; may be empty.
        test: positions to report on.
        index: which of the numbered splits this is, or None.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    index: int | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.train, self.val, self.test))


def make_split(table: pd.DataFrame, index: int, test: float = 0.2, val: float = 0.0) -> Split:
    """Split a table by content; the same on every machine and in every version of every library.

    Contents are put in the order of the SHA-256 of "index/content"; the first share is test, the next val.

    Args:
        table: from `load_benchmark`.
        index: which split, 0 or greater; 0..9 are the ten splits of the protocol.
        test: share of contents for test, in (0, 1).
        val: share of contents for validation, in [0, 1).

    Returns:
        The `Split`; no content stands in two parts.

    Raises:
        InputError: shares out of range, or too few contents for them.
    """
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise InputError(f"split index is {index!r}: it must be a whole number of 0 or more")
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


def split_hash(table: pd.DataFrame, split: Split) -> str:
    """First 12 hex digits of the SHA-256 of the file names, in lower case, in each part of a split."""
    names = [sorted(Path(image).name.lower() for image in table["image"].iloc[part]) for part in split]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]


def data_hash(table: pd.DataFrame) -> str:
    """First 12 hex digits of the SHA-256 of every image's file name in lower case, size in bytes and mos.

    Pixels are not read: a picture replaced by another of the very same size in bytes is not noticed.
    """
    root = Path(table.attrs["root"])
    rows = [
        [Path(image).name.lower(), (root / image).stat().st_size, repr(float(mos))]
        for image, mos in zip(table["image"], table["mos"])
    ]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:12]

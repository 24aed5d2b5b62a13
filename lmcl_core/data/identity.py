"""Hashes that identify a data set and a split, and image names that do not depend on the folder layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import InputError
from .splits import Split, check_columns


def image_keys(table: pd.DataFrame, images: Iterable[str] | None = None) -> list[str]:
    """Keys of images (by default all) that do not depend on which parent of the official folder is the root.

    A key is the end of an image's path in lower case: the file name and, only if that is needed to tell all images of
    the table apart, folders above it. InputError: `table` is not from `load_benchmark`.
    """
    check_columns(table, "image")
    parts = [image.lower().split("/") for image in table["image"]]
    deepest = max(map(len, parts), default=1)
    length = next((n for n in range(1, deepest) if len({tuple(part[-n:]) for part in parts}) == len(parts)), deepest)
    if images is not None:
        parts = [image.lower().split("/") for image in images]
    return ["/".join(part[-length:]) for part in parts]


def split_hash(table: pd.DataFrame, split: Split) -> str:
    """First 12 hex digits of the SHA-256 of the image keys in each part of a split."""
    keys = image_keys(table)
    return _hash([sorted(keys[row] for row in part) for part in split])


def data_hash(table: pd.DataFrame) -> str:
    """First 12 hex digits of the SHA-256 of every image's key, file size in bytes and mos.

    Pixels are not read: an image replaced by another one of the same file size is not noticed. Raises as `image_stats`.
    """
    sizes, keys = [stat.st_size for stat in image_stats(table)], image_keys(table)
    return _hash(sorted([key, size, repr(float(mos))] for key, size, mos in zip(keys, sizes, table["mos"])))


def image_stats(table: pd.DataFrame) -> list[os.stat_result]:
    """File status of each image. InputError: one cannot be reached, or `table` is not from `load_benchmark`."""
    check_columns(table, "image", "mos", attrs=["root"])
    try:
        return [(Path(table.attrs["root"]) / image).stat() for image in table["image"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"missing image {error.filename}: unpack the archive again") from error
    except OSError as error:
        fix = "check the path and its permissions"
        raise InputError(f"image {error.filename} cannot be reached ({error.strerror}): {fix}") from error


def rows_of(table: pd.DataFrame, images: Iterable[str]) -> np.ndarray:
    """Positions (n,) int64 of images, such as those of a predictions.csv made with another root folder."""
    images = list(images)
    rows = {key: row for row, key in enumerate(image_keys(table))}
    found = [rows.get(key) for key in image_keys(table, images)]
    if None in found:
        raise InputError(f"{images[found.index(None)]} is not in this table: load the benchmark the run was made on")
    return np.array(found, dtype=np.int64)


def name_order(table: pd.DataFrame, images: Iterable[str]) -> np.ndarray:
    """Positions (n,) int64 that sort images of a table by key, the same in every folder layout."""
    return np.argsort(np.array(image_keys(table, images), dtype=object), kind="stable")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]

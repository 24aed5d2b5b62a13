"""The dataset doctor: everything that is wrong with a benchmark's folder, and how to mend it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from . import benchmarks
from .benchmarks import Benchmark, Fault, FaultError
from .pictures import DAMAGED

#: The bytes a whole file of a format ends with, searched for in its last kilobyte.
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def verify_benchmark(name: str, root: str | Path | None, deep: bool = False) -> list[Fault]:
    """Look for faults in a benchmark's folder, without changing it.

    Args:
        name: a key of `BENCHMARKS`.
        root: the official folder or the folder it lies in; None only for "demo".
        deep: decode every image instead of reading its header and its end.

    Returns:
        The faults; empty means sound.

    Raises:
        InputError: unknown benchmark, or no root.
    """
    benchmark = benchmarks._benchmark(name)
    root = Path(root if root is not None else benchmarks._default_root(name)).expanduser().resolve()
    try:
        folder = benchmarks.find_folder(benchmark, root)
        table, label_file = benchmark.read(folder)
    except FaultError as error:
        return [error.fault]
    return [*_image_faults(benchmark, table, folder, deep), *_label_faults(benchmark, table, label_file)]


def _image_faults(benchmark: Benchmark, table: pd.DataFrame, folder: Path, deep: bool) -> Iterator[Fault]:
    listed, there = list(table["image"]), benchmarks._pictures(folder)
    for image in sorted(set(listed) - set(there)):
        yield Fault("missing_image", str(folder / image), f"listed but not there: {benchmark.mend}")
    rated_folders = {Path(image).parent for image in listed}
    for image in sorted(set(there) - set(listed)):
        if Path(image).parent in rated_folders:
            yield Fault("extra_image", str(folder / image), "not in the label file: move it out of the folder")
    present = sorted(set(listed) & set(there))
    with ThreadPoolExecutor() as pool:
        for image, reason in zip(present, pool.map(lambda i: picture_fault(folder / i, deep), present)):
            if reason:
                yield Fault("unreadable_image", str(folder / image), f"{reason}: fetch this file again")


def picture_fault(path: Path, deep: bool) -> str | None:
    """Why a picture file cannot be used, or None.

    Args:
        path: the file.
        deep: decode it; otherwise only its header, its length and its end are looked at.

    Returns:
        A few words, or None where nothing is wrong.
    """
    try:
        with Image.open(path) as picture:
            if deep:
                picture.load()
                return None
            form, (width, height) = picture.format, picture.size
        size = path.stat().st_size
        if form == "BMP" and size < _bitmap_size(path):
            return f"truncated: {size} bytes for {width} x {height} pixels"
        if form in _ENDINGS:
            with open(path, "rb") as file:
                file.seek(max(0, size - 1024))
                if _ENDINGS[form] not in file.read():
                    return "truncated: its end is missing"
    except DAMAGED as error:
        return f"cannot be decoded ({error})"
    return None


def _bitmap_size(path: Path) -> int:
    """Bytes an uncompressed BMP must have: the offset of its pixels, and rows padded to four bytes."""
    with open(path, "rb") as file:
        head = file.read(34)
    offset, width, height = struct.unpack_from("<I", head, 10)[0], *struct.unpack_from("<ii", head, 18)
    bits, compression = struct.unpack_from("<H", head, 28)[0], struct.unpack_from("<I", head, 30)[0]
    return offset if compression else offset + (width * bits + 31) // 32 * 4 * abs(height)


def _label_faults(benchmark: Benchmark, table: pd.DataFrame, label_file: Path) -> Iterator[Fault]:
    if len(table) != benchmark.count:
        yield Fault(
            "wrong_count",
            str(label_file),
            f"{len(table)} rated images, {benchmark.title} has {benchmark.count}: fetch the complete set",
        )
    finite = np.isfinite(table["mos"])
    if not finite.all():
        yield benchmarks._bad_rows(table.loc[~finite, "image"].tolist(), label_file)
    low, high = benchmark.mos_range
    slack = 0.01 * (high - low)
    seen = table.loc[finite, "mos"]
    if len(seen) and (seen.min() < low - slack or seen.max() > high + slack):
        yield Fault(
            "wrong_range",
            str(label_file),
            f"scores span {seen.min():.2f}..{seen.max():.2f}, "
            f"{benchmark.title} spans {low}..{high}: use the official label file",
        )
    graded = table[finite].dropna(subset=["level"])
    if len(graded):
        means = graded.groupby(graded["level"].astype(int))["mos"].mean()
        if len(means) > 1 and means.iloc[-1] > means.iloc[0]:
            yield Fault(
                "wrong_direction",
                str(label_file),
                "scores rise with the level of distortion, they must fall: use the official label file",
            )

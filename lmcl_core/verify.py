"""The dataset doctor: everything that is wrong with a benchmark's folder, and how to mend it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .benchmarks import Benchmark, locate
from .faults import Fault, FaultError, bad_scores
from .pictures import DAMAGED
from .readers import Reading, pictures_beside

#: The bytes a whole file of a format ends with, searched for in its last kilobyte.
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_FORBIDDEN = "it may not be read"


def verify_benchmark(name: str, root: str | Path | None, deep: bool = False) -> list[Fault]:
    """Look for faults in a benchmark's folder, without changing it.

    A bar on stderr shows how far it is, where stderr is a terminal.

    Args:
        name: a key of `BENCHMARKS`.
        root: the official folder, the folder it lies in, or a folder of many benchmarks; None only for "demo".
        deep: decode every image instead of reading its header and its end.

    Returns:
        The faults; empty means sound.

    Raises:
        InputError: unknown benchmark, no root, several copies of the benchmark in it, or a library that its label file
            needs is missing.
    """
    try:
        benchmark, _, folder = locate(name, root)
        reading = benchmark.read(folder)
    except FaultError as error:
        return list(error.faults)
    return [*_image_faults(benchmark, reading, folder, deep), *_label_faults(benchmark, reading)]


def _image_faults(benchmark: Benchmark, reading: Reading, folder: Path, deep: bool) -> Iterator[Fault]:
    listed = set(reading.table["image"])
    there = pictures_beside(folder, listed)
    missing = sorted(listed - there)
    gone = {parent for parent in {Path(image).parent for image in missing} if not (folder / parent).is_dir()}
    for parent in sorted({_highest_missing(folder, parent) for parent in gone}):
        yield Fault("missing_folder", str(folder / parent), f"all its pictures are missing: {benchmark.mend}")
    extra = sorted(there - listed - reading.unrated)
    by_stem = {_stem(image): image for image in extra}
    renamed = {image: by_stem[_stem(image)] for image in missing if _stem(image) in by_stem}
    for image in missing:
        if Path(image).parent not in gone:
            fix = f"rename {renamed[image]} to this" if image in renamed else benchmark.mend
            yield Fault("missing_image", str(folder / image), f"listed but not there: {fix}")
    for image in sorted(set(extra) - set(renamed.values())):
        fix = "not in the label file, or there twice: move it out of the folder"
        yield Fault("extra_image", str(folder / image), fix)
    found = sorted(listed & there)
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda image: picture_fault(folder / image, deep), found)
        bar = tqdm(zip(found, reasons), f"{benchmark.title}: images", len(found), leave=False, disable=None)
        for image, reason in bar:
            if reason:
                fix = "give yourself permission to read it" if reason == _FORBIDDEN else "fetch this file again"
                yield Fault("unreadable_image", str(folder / image), f"{reason}: {fix}")


def _highest_missing(folder: Path, inside: Path) -> Path:
    while inside.parent != Path(".") and not (folder / inside.parent).is_dir():
        inside = inside.parent
    return inside


def _stem(image: str) -> str:
    return image.rpartition(".")[0].lower()


def picture_fault(path: Path, deep: bool) -> str | None:
    """Why a picture file cannot be used, or None.

    Args:
        path: the file.
        deep: decode it; otherwise only its header, its length and its end are looked at.

    Returns:
        A few words, or None where nothing is wrong.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return "it is no file"
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
                ended = _ENDINGS[form] in file.read()
            if not ended and not _ends_earlier(path, form):
                return "truncated: its end is missing"
    except PermissionError:
        return _FORBIDDEN
    except DAMAGED as error:
        return f"cannot be decoded ({error})"
    return None


def _ends_earlier(path: Path, form: str) -> bool:
    """Whether more than a kilobyte follows a whole picture, as some phones write it."""
    if form == "PNG":
        return b"IEND\xaeB`\x82" in path.read_bytes()
    with Image.open(path) as picture:  # the end of a JPEG's thumbnail looks like its own
        try:
            picture.load()
        except DAMAGED:
            return False
    return True


def _bitmap_size(path: Path) -> int:
    """Bytes an uncompressed BMP must have: the offset of its pixels, and rows padded to four bytes."""
    with open(path, "rb") as file:
        head = file.read(34)
    offset, width, height = struct.unpack_from("<I", head, 10)[0], *struct.unpack_from("<ii", head, 18)
    bits, compression = struct.unpack_from("<H", head, 28)[0], struct.unpack_from("<I", head, 30)[0]
    return offset if compression else offset + (width * bits + 31) // 32 * 4 * abs(height)


def _label_faults(benchmark: Benchmark, reading: Reading) -> Iterator[Fault]:
    table, where = reading.table, str(reading.label_file)
    rows = len(table) + reading.left_out
    if rows != benchmark.count:
        fix = f"{rows} rated images, {benchmark.title} has {benchmark.count}: fetch the complete set"
        yield Fault("wrong_count", where, fix)
    finite = np.isfinite(table["mos"])
    if not finite.all():
        yield bad_scores(table.loc[~finite, "image"].tolist(), reading.label_file)
    low, high = benchmark.mos_range
    slack = 0.01 * (high - low)
    seen = table.loc[finite, "mos"]
    if len(seen) and (seen.min() < low - slack or seen.max() > high + slack or np.ptp(seen) < 10 * slack):
        fix = f"scores span {seen.min():.2f}..{seen.max():.2f}, {benchmark.title} spans {low}..{high}"
        yield Fault("wrong_range", where, f"{fix}: use the official label file")
    rising = _rising(reading)
    if rising:
        yield Fault("wrong_direction", where, f"{rising}: use the official label file")


def _rising(reading: Reading) -> str | None:
    """How the scores are seen to go the wrong way, or None."""
    table = reading.table[np.isfinite(reading.table["mos"])]
    if reading.pristine is not None and len(reading.pristine) and len(table):
        if np.nanmean(reading.pristine) < table["mos"].mean():
            return "distorted pictures score better than the copies of their references, they must score worse"
    graded = table.dropna(subset=["level"])
    level, mos = graded["level"].to_numpy(dtype=float), graded["mos"].to_numpy(dtype=float)
    if len(graded) and np.sum((level - level.mean()) * (mos - mos.mean())) > 0:
        return "scores rise with the level of distortion, they must fall"
    return None

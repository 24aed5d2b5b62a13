"""Check a benchmark's folder and report every fault with its fix, also by a list of hashes; describe its splits."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..common.errors import InputError, first_line
from ..common.files import atomic_write, digest
from ..common.paths import resolve_path
from ..common.progress import bar
from .benchmarks import locate, read
from .catalogue import Benchmark
from .faults import Fault, FaultError, bad_scores
from .formats import ImageError
from .identity import split_hash
from .images import DAMAGED, decode, open_image
from .own import own_folder
from .readers import Reading, images_beside
from .splits import make_split, shared_contents

#: Last bytes of a complete file, searched for in its last kilobyte.
_ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # MPO: JPEG files of some phones
_AGAIN = "download this file again"
_HASH = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # a line of a known-good list, in the format of sha256sum

#: What `deep` cannot find.
UNSEEN = "decoding does not show all damage, such as zeros inside a JPEG: compare with a known-good list (--hashes)"


def verify_benchmark(
    name: str, root: str | Path | None, deep: bool = False, hashes: str | Path | None = None
) -> list[Fault]:
    """Find the faults of a benchmark's folder: none if it is complete and correct. Nothing is changed.

    Args:
        name, root: as in `load_benchmark`.
        deep: decode every image, too, and not only check its header, length and end. See `UNSEEN`.
        hashes: a list of `write_known_good`, with which every image is compared.

    Raises:
        InputError: unknown benchmark, no root, or a root that does not hold the path `name`; several copies of the
            benchmark, a missing library, or a list of hashes or a ``benchmark.toml`` that cannot be used.
    """
    if root is not None and (own := own_folder(name)) and not own.is_relative_to(resolve_path(root)):
        raise InputError(f"{own} does not lie in {root}: give the path alone")
    try:
        benchmark, _, folder = locate(name, root)
        reading = read(benchmark, folder)
    except FaultError as error:
        return list(error.faults)
    listed = set(reading.table["image"])
    existing = images_beside(folder, listed)
    return [
        *_file_faults(benchmark, folder, sorted(listed - existing), sorted(existing - listed - reading.unrated)),
        *_unreadable_images(benchmark, folder, sorted(listed & existing), deep),
        *_label_faults(benchmark, reading),
        *(_hash_faults(Path(hashes), folder, listed & existing) if hashes else []),
    ]


def write_known_good(path: str | Path, name: str, root: str | Path | None) -> None:
    """Write the SHA-256 of every image of a sound benchmark to a new file. InputError: the file exists."""
    benchmark, _, folder = locate(name, root)
    if (path := Path(path)).exists():
        raise InputError(f"{path} exists, and may be a known-good list: name another file, or remove it")
    lines = [f"{found}  {image}\n" for image, found in _digests(folder, sorted(read(benchmark, folder).table["image"]))]
    with atomic_write(path) as temporary:
        temporary.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


def _hash_faults(path: Path, folder: Path, images: Iterable[str]) -> Iterator[Fault]:
    """Images that differ from a list of `write_known_good`, or are not in it. InputError: it cannot be read."""
    known = _read_known_good(path)
    for image, found in _digests(folder, sorted(images)):
        if image not in known:
            yield Fault("unreadable_image", str(folder / image), f"not in {path}: make the list from a whole copy")
        elif found != known[image]:
            problem = f"its SHA-256 differs from the one in {path}"
            yield Fault("unreadable_image", str(folder / image), f"{problem}: download this file again")


def _read_known_good(path: Path) -> dict[str, str]:
    """SHA-256 by name."""
    if path.exists() and not path.is_file():  # a device may never end
        raise InputError(f"--hashes {path} is not a file: name a file that --write-hashes made")
    try:
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        fix = "name a file that --write-hashes made"
        raise InputError(f"--hashes {path} cannot be read ({error.strerror}): {fix}") from error
    found = {number: _HASH.fullmatch(line) for number, line in enumerate(lines, 1) if line.strip()}
    if odd := [number for number, match in found.items() if match is None]:
        raise InputError(f"{path}: line {odd[0]} is not a SHA-256 and a name: make the list again with --write-hashes")
    return {match[2]: match[1] for match in found.values()}


def _digests(folder: Path, images: list[str]) -> Iterator[tuple[str, str]]:
    def of_image(image: str) -> str:
        try:
            return digest(folder / image)
        except OSError:  # told as a fault of its own
            return ""

    with ThreadPoolExecutor() as pool:
        yield from zip(images, pool.map(of_image, images))


def _file_faults(benchmark: Benchmark, folder: Path, missing: list[str], extra: list[str]) -> Iterator[Fault]:
    """Missing folders, missing images and extra images."""
    parents = {Path(image).parent for image in missing}
    absent = {one: [place for place in (one, *one.parents) if not os.path.isdir(folder / place)] for one in parents}
    for path in sorted({paths[-1] for paths in absent.values() if paths}):
        yield Fault("missing_folder", str(folder / path), f"all images in it are missing: {benchmark.fix}")
    inner = {image: f"{image.rpartition('/')[0]}/{Path(image).parent.name}/{Path(image).name}" for image in missing}
    by_stem = {image.rpartition(".")[0].lower(): image for image in extra}
    renamed = {image: by_stem.get(image.rpartition(".")[0].lower()) for image in missing}
    for image in missing:
        if not absent[Path(image).parent]:
            fix = f"rename {renamed[image]} to this name" if renamed[image] else benchmark.fix
            fix = f"it is in {Path(inner[image]).parent}/, move it up" if os.path.isfile(folder / inner[image]) else fix
            yield Fault("missing_image", str(folder / image), f"in the label file but missing: {fix}")
    for image in sorted(set(extra) - set(renamed.values())):
        fix = "not in the label file, or a second copy: move it out of the folder"
        yield Fault("extra_image", str(folder / image), fix)


def _unreadable_images(benchmark: Benchmark, folder: Path, images: list[str], deep: bool) -> Iterator[Fault]:
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda image: image_fault(folder / image, deep), images)
        for image, reason in zip(images, bar(reasons, len(images), f"checking {benchmark.title}")):
            if reason:
                yield Fault("unreadable_image", str(folder / image), reason)


def image_fault(path: Path, deep: bool) -> str | None:
    """Why an image file cannot be used, and the fix; None if it can; `deep` as in `verify_benchmark`."""
    try:
        if not path.is_file():  # opening a pipe would block
            return f"not a regular file: {_AGAIN}"
        with open_image(path) as image:
            form, (width, height) = image.format, image.size
        size = path.stat().st_size
        if form == "BMP" and size < _bitmap_size(path):
            return f"truncated, {size} bytes for {width} x {height} pixels: {_AGAIN}"
        if form in _ENDINGS and not _has_end(path, form, size):
            return f"truncated, the end of the file is missing: {_AGAIN}"
        if deep:
            decode(path)
    except ImageError as error:
        return f"{error.problem}: {error.fix}"
    except (InputError, *DAMAGED) as error:
        if isinstance(error.__cause__ or error, PermissionError):
            return "no permission to read it: change its permissions"
        return f"cannot be decoded ({first_line(error.__cause__ or error)}): {_AGAIN}"
    return None


def _has_end(path: Path, form: str, size: int) -> bool:
    """Whether the image is complete, even if more than a kilobyte of other data follows, as some phones write it."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 1024))
        if _ENDINGS[form] in file.read():
            return True
    if form == "PNG":
        return b"IEND\xaeB`\x82" in path.read_bytes()
    with Image.open(path) as image:  # searching for the end of a JPEG could find that of its thumbnail
        try:
            image.load()
        except DAMAGED:
            return False
    return True


def _bitmap_size(path: Path) -> int:
    """Least size in bytes of a BMP file: the offset of its pixels, and rows padded to four bytes if uncompressed."""
    with open(path, "rb") as file:
        offset, width, height, bits, compression = struct.unpack("<10xI4xii2xHI", file.read(34))
    return offset if compression else offset + (width * bits + 31) // 32 * 4 * abs(height)


def _label_faults(benchmark: Benchmark, reading: Reading) -> Iterator[Fault]:
    table, where = reading.table, str(reading.label_file)
    rows = len(table) + reading.left_out
    if benchmark.count and rows != benchmark.count:
        counts = f"{rows} rated images, {benchmark.title} has {benchmark.count}"
        yield Fault("wrong_count", where, f"{counts}: download the complete set")
    if not (finite := np.isfinite(table["mos"])).all():
        yield bad_scores(reading.label_file, table["image"][~finite].tolist())
    low, high = benchmark.mos_range
    slack = 0.01 * (high - low)
    mos = table["mos"][finite]
    if len(mos) and (mos.min() < low - slack or mos.max() > high + slack or np.ptp(mos) < 10 * slack):
        fix = f"scores span {mos.min():.2f}..{mos.max():.2f}, {benchmark.title} spans {low}..{high}"
        yield Fault("wrong_range", where, f"{fix}: {benchmark.label_fix}")
    if not benchmark.count:  # own data
        yield from _split_faults(reading)
    if reason := _wrong_direction(reading):
        yield Fault("wrong_direction", where, f"{reason}: {benchmark.label_fix}")


def _split_faults(reading: Reading) -> Iterator[Fault]:
    """Labels with which no split, or no official split, can be made."""
    table, where = reading.table, f"{reading.label_file}: "
    if (count := table["content"].nunique()) < 3:
        problem = f"its images show {count} different contents, and a split needs at least 3"
        yield Fault("bad_label_column", f"{where}content", f"{problem}: add images, or correct their contents")
    parts = set(table["official_split"].dropna()) if "official_split" in table else set()
    if parts and (lacking := sorted({"train", "test"} - parts)):
        fix = "name the part of every image, or remove the column"
        yield Fault("bad_label_column", f"{where}official_split", f"no image is in {' or '.join(lacking)}: {fix}")


def _wrong_direction(reading: Reading) -> str | None:
    """Evidence that a higher score means lower quality, or None."""
    table = reading.table[np.isfinite(reading.table["mos"])]
    if reading.pristine is not None and len(reading.pristine) and len(table):
        if np.nanmean(reading.pristine) < table["mos"].mean():
            return "distorted images score higher than copies of their references; they must score lower"
    graded = table.dropna(subset=["level"])
    level, mos = graded["level"].to_numpy(dtype=float), graded["mos"].to_numpy(dtype=float)
    if len(graded) and np.sum((level - level.mean()) * (mos - mos.mean())) > 0:
        return "scores rise with the level of distortion; they must fall"
    return None


def split_lines(table: pd.DataFrame) -> Iterator[str]:
    """Describe each numbered split, and the official one if there is one, in a line: hash, counts, shared contents."""
    first_of: dict[str, int | str] = {}  # by hash; few contents give equal splits
    for index in [*range(10), *(["official"] if table["official_split"].notna().any() else [])]:
        split = make_split(table, index)
        digest = split_hash(table, split)
        again = f"; equals split {first_of[digest]}, because there are few contents" if digest in first_of else ""
        first_of.setdefault(digest, index)
        counts = ", ".join(f"{len(part)} {name}" for name, part in zip(("train", "val", "test"), split) if len(part))
        yield f"split {index}: {digest}  {counts}, {shared_contents(table, split)} contents shared{again}"

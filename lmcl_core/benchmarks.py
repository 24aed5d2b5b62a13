"""A benchmark's labels and pictures as one table, wherever its official folder lies.

Facts about the benchmarks stand in the catalogue, how each folder is read in the readers, and what can be wrong with a
copy in `lmcl_core.verify`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .catalogue import BENCHMARKS, Benchmark
from .errors import InputError, unknown
from .faults import Fault, FaultError, bad_scores, some
from .labels import find
from .paths import whole_path
from .readers import pictures_beside
from .splits import tail, tail_length

COLUMNS = ["image", "mos", "content", "distortion", "level", "official_split"]

#: Names of official folders that say nothing by themselves.
_GENERIC = {"database"}

#: How deep below a root the official folder may lie, and how many folders are looked at.
_DEPTH, _MOST_FOLDERS = 2, 3000


def load_benchmark(name: str, root: str | Path | None = None) -> pd.DataFrame:
    """Read a benchmark's labels and find its images; pixels are not touched.

    Args:
        name: a key of `BENCHMARKS`.
        root: the official folder, the folder it lies in, or a folder of many benchmarks; None is allowed for "demo"
            alone, which is then built.

    Returns:
        One row an image, sorted by image: image (str, path relative to `root`), mos (float, higher is better),
        content (str, must not be shared by train and test), distortion (str or NA), level (Int64 or NA),
        official_split ("train", "val", "test" or NA). ``.attrs`` holds benchmark, root, mos_range, label_file and
        notes (list of sentences about this copy).

    Raises:
        InputError: unknown name, or a folder that cannot be read; the message holds the fix.
    """
    benchmark, root, folder = locate(name, root)
    reading = benchmark.read(folder)
    table = reading.table
    bad = table[~np.isfinite(table["mos"])]
    if len(bad):
        raise FaultError(bad_scores(bad["image"].tolist(), reading.label_file))
    missing = sorted(set(table["image"]) - pictures_beside(folder, table["image"]))
    if missing:
        where = some([str(folder / image) for image in missing])
        fix = f"{len(missing)} of {len(table)} listed images are not there: {benchmark.mend}"
        raise FaultError(Fault("missing_image", where, fix))
    prefix = folder.relative_to(root).as_posix()
    table["image"] = [image if prefix == "." else f"{prefix}/{image}" for image in table["image"]]
    table = table[COLUMNS].sort_values("image", ignore_index=True)
    table = table.astype({"mos": np.float64, "level": "Int64", "official_split": object})
    table["official_split"] = table["official_split"].where(table["official_split"].notna(), pd.NA)
    table.attrs = dict(
        benchmark=name,
        root=str(root),
        mos_range=benchmark.mos_range,
        label_file=str(reading.label_file),
        notes=list(reading.notes),
    )
    return table


def rows_of(table: pd.DataFrame, images: Iterable[str]) -> np.ndarray:
    """Rows of a table by image, whichever folder above the official one the images were named relative to.

    Args:
        table: from `load_benchmark`.
        images: names, e.g. of a predictions.csv.

    Returns:
        (n,) int64 positions.

    Raises:
        InputError: an image is not in the table.
    """
    length, images = tail_length(table["image"]), list(images)
    position = {tail(image, length): row for row, image in enumerate(table["image"])}
    for image in images:
        if tail(image, length) not in position:
            raise InputError(f"{image} is not in this table: load the benchmark the run was made on")
    return np.array([position[tail(image, length)] for image in images], dtype=np.int64)


def name_order(table: pd.DataFrame, images: Iterable[str]) -> np.ndarray:
    """The order of pictures by name without case, which is the same in every layout of a benchmark's folder.

    Args:
        table: from `load_benchmark`.
        images: names of some of its pictures.

    Returns:
        (n,) int64 positions that sort `images`.
    """
    length = tail_length(table["image"])
    names = [tail(image, length) for image in images]
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)


def locate(name: str, root: str | Path | None) -> tuple[Benchmark, Path, Path]:
    """Resolve what a user named.

    Args:
        name: a key of `BENCHMARKS`.
        root: as in `load_benchmark`.

    Returns:
        The benchmark, the root as an absolute path, and the official folder.

    Raises:
        InputError: unknown name, no root, or no such folder.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    if root is None and name != "demo":
        raise InputError(
            f"benchmark {name!r} needs the folder of its images: pass root (on the command line --data-root DIR, or "
            f"`lmcl verify {name} DIR`)"
        )
    if root is not None and not isinstance(root, (str, Path)):
        raise InputError(f"root is {root!r} of type {type(root).__name__}: it must be a path")
    if root is None:
        from .demo import build_demo

        root = build_demo()
    root = whole_path(root)
    return BENCHMARKS[name], root, find_folder(BENCHMARKS[name], root)


def find_folder(benchmark: Benchmark, root: Path) -> Path:
    """The official folder at or below a root, by what it holds or else by its name, both matched without case.

    Args:
        benchmark: which one.
        root: the official folder, the folder it lies in, or a folder of many benchmarks.

    Returns:
        The folder.

    Raises:
        FaultError: it is not there; the fix names the benchmarks that are there instead.
        InputError: it is there more than once, as deep and as well named.
    """
    places = list(_places(root))
    found = _pick(benchmark, places)
    if found is not None:
        return found
    others = [
        f"{place.path.name}/ is {other.title} (benchmark {other.name!r})"
        for other in BENCHMARKS.values()
        for place in [next((place for place in places if _is_marked(other, place)), None)]
        if place is not None and other.name != benchmark.name
    ]
    seen = "" if root.is_dir() else "this is a file; " if root.exists() else "there is no such folder; "
    instead = f"{some(others, 8)}, not {benchmark.title}; " if others else seen
    fix = f"{instead}name the {benchmark.title} folder {benchmark.folder}/ or the folder it lies in"
    above = [path for path in [*root.parents][:2] if _is_marked(benchmark, _Place(path, _contents(path)[0]))]
    raise FaultError(Fault("missing_folder", str(root), f"it is a part of {above[0]}: name that" if above else fix))


class _Place(NamedTuple):
    """A folder that may be the official one, and the lower-case names of all it holds."""

    path: Path
    names: frozenset[str]


def _places(root: Path) -> Iterator[_Place]:
    """A root and the folders in it, breadth first, as deep as the wrappers of archives go."""
    level, seen = [root] if root.is_dir() else [], 0
    for _ in range(_DEPTH + 1):
        inner = []
        for folder in level[: max(0, _MOST_FOLDERS - seen)]:
            names, folders = _contents(folder)
            yield _Place(folder, names)
            inner += folders
        seen, level = seen + len(level), inner


def _contents(folder: Path) -> tuple[frozenset[str], list[Path]]:
    """Lower-case names of all that a folder holds, and the folders in it that are worth a look."""
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: _is_folder(entry) for entry in entries}
    except OSError:
        return frozenset(), []
    inner = sorted(name for name, is_dir in kinds.items() if is_dir and name[0] != "." and name != "__MACOSX")
    return frozenset(name.lower() for name in kinds), [folder / name for name in inner]


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether there is a folder to look into; a link in a circle, or to where one may not look, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _pick(benchmark: Benchmark, places: list[_Place]) -> Path | None:
    """The official folder among some: one that holds the marks, or else one of that name that holds no other's."""
    names = [name.lower() for name in benchmark.folders]
    marked = [place.path for place in places if _is_marked(benchmark, place)]
    if marked:
        depth = min(len(path.parts) for path in marked)
        nearest = [path for path in marked if len(path.parts) == depth]
        best = [path for path in nearest if path.name.lower() in names] or nearest
        if len(best) > 1:
            copies = some([str(path) for path in best])
            raise InputError(f"there are {len(best)} copies of {benchmark.title}: {copies}: name the one that is meant")
        return best[0]
    named = [place.path for place in places if place.path.name.lower() in names]
    named = [path for path in named if path.name.lower() not in _GENERIC]
    others = [other for other in BENCHMARKS.values() if other.name != benchmark.name]
    taken = [place.path for place in places if any(_is_marked(other, place) for other in others)] if named else []
    free = [path for path in named if not any(other.is_relative_to(path) for other in taken)]
    return min(free, key=lambda path: names.index(path.name.lower()), default=None)


def _is_marked(benchmark: Benchmark, place: _Place) -> bool:
    return all(any(_holds(place, name) for name in mark.split("|")) for mark in benchmark.marks)


def _holds(place: _Place, name: str) -> bool:
    first, _, rest = name.partition("/")
    return first.lower() in place.names and (not rest or find(place.path, name) is not None)

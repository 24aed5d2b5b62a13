"""What all dataset readers share: the result of a reader, and the search for image files on disk."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from .faults import AGAIN, Fault, FaultError, bad_row, bad_scores, first_few
from .images import SUFFIXES
from .labels import find


class Reading(NamedTuple):
    """Labels of a benchmark as its official folder holds them; images are relative to this folder."""

    table: pd.DataFrame  # image, mos, content, distortion, level, official_split; rows in any order
    label_file: Path  # the file of the scores
    notes: tuple[str, ...] = ()  # sentences that a user of this copy should know
    unrated: frozenset[str] = frozenset()  # images in the same folders that rightly have no row: never rated
    pristine: np.ndarray | None = None  # (n,) float64 scores, like mos, of undistorted images without a row
    left_out: int = 0  # number of rows left out because this copy does not include their images


Reader = Callable[[Path], Reading]


def label_table(path: Path, names: Iterable[str], faults: Iterable[Fault] = (), **columns: object) -> pd.DataFrame:
    """Build the table of a `Reading` from its `columns`; `names` are the image names in the label file.

    Raises `FaultError` for empty or repeated names and for `faults` that the caller has found. The error then also
    lists scores that are not finite; on their own they raise nothing here.
    """
    names = list(names)
    lower, faults = pd.Series(names, dtype=str).str.lower(), [*outside_faults(path, names), *faults]
    empty = [str(row + 1) for row in np.flatnonzero(lower == "")]
    repeated = sorted(set(lower[lower.duplicated() & (lower != "")]))
    if empty:
        where = f"{path}: data row {first_few(empty)}"
        faults.append(Fault("bad_label_row", where, f"the name of the image is empty: {AGAIN}"))
    if repeated:
        faults.append(bad_row(path, repeated, f"the image has more than one row: {AGAIN}"))
    if faults:
        odd = lower[~np.isfinite(np.asarray(columns["mos"], dtype=np.float64))].tolist()
        raise FaultError(*faults, *([bad_scores(path, odd)] if odd else []))
    unknown = dict(distortion=pd.NA, level=pd.NA, official_split=pd.NA)
    return pd.DataFrame({**unknown, **columns}, index=range(len(lower))).astype({"level": "Int64"})


def outside_faults(path: Path, names: Iterable[str]) -> list[Fault]:
    """The fault of a label file at `path` whose image names lead out of the benchmark's folder; [] if none does."""
    odd = [repr(name) for name in names if leads_outside(name)]
    return [bad_row(path, odd, f"{len(odd)} names lead out of the folder: {AGAIN}")] if odd else []


def folded(name: str) -> str:
    """A name for comparisons: in lower case, and in one Unicode form (file systems store é in two)."""
    return unicodedata.normalize("NFC", name).lower()


def leads_outside(name: str) -> bool:
    """Whether the name of an image is absolute, holds a part ``..``, or names no file."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name == "." or len(parts) > 1 and not parts[0] or name[1:2] == ":" or "\0" in name


def image_folder(folder: Path, name: str) -> Path | None:
    """`find`; if that folder holds no image but a folder of its own name, as some archives unpack, the inner one."""
    place = find(folder, name)
    inner = place and find(place, place.name)
    return inner if inner and inner.is_dir() and not image_names(place) else place


def image_names(folder: Path) -> list[str]:
    """Sorted names of the image files in a folder, not below it; hidden files and a missing folder give none."""
    return sorted(filter(_is_usual, names_in(folder)))


def names_in(folder: Path) -> list[str]:
    """Names of everything in a folder; a missing folder gives none."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_usual(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def images_beside(folder: Path, images: Collection[str]) -> set[str]:
    """All images in the folders that hold the given images; paths are relative to the official `folder`.

    Of images in formats that no official benchmark has, only the given ones are included, in any case.
    """
    parents, given, found = {image.rpartition("/")[0] for image in images}, set(map(folded, images)), set()
    for parent in parents:
        for name in names_in(folder / parent):
            image = f"{parent}/{name}" if parent else name
            if _is_usual(name) or folded(image) in given and os.path.isfile(folder / image):
                found.add(image)
    return found


def on_disk(folder: Path, names: Iterable[str], *inside: str, inner: Sequence[str] = ()) -> list[str]:
    """Paths of images relative to `folder`, found without case; a missing image gets the path where it belongs.

    `inside` names the folders that may hold the images, the preferred one first; `inner`, for each image, the subfolder
    where it should be. If it is given, images are searched for at any depth.
    """
    bases = [base for name in inside if (base := image_folder(folder, name)) is not None and base.is_dir()]
    found: dict[str, list[PurePosixPath]] = {}
    places = [walk[0] for base in bases for walk in sorted(os.walk(base))] if inner else bases
    for place in map(Path, places):
        for name in image_names(place) if "__MACOSX" not in place.parts else []:
            found.setdefault(name.lower(), []).append(PurePosixPath((place / name).relative_to(folder).as_posix()))
    home = PurePosixPath(bases[0].relative_to(folder).as_posix() if bases else inside[0])
    is_preferred = home.name.lower() == inside[0].lower()

    def path_of(name: str, subfolder: str) -> str:
        candidates = found.get(name.lower(), [])
        right = [path for path in candidates if path.parent.name.lower() == subfolder.lower()]
        return str([*right, *candidates, home / (subfolder if is_preferred else "") / name][0])

    names = list(names)
    return [path_of(name, subfolder) for name, subfolder in zip(names, inner or [""] * len(names))]


def file_name(path: str) -> str:
    """File name of a path in a label file, whose separators are slashes or backslashes."""
    return PurePosixPath(path.replace("\\", "/")).name

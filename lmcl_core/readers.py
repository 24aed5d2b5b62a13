"""What every reader of a benchmark hands back, and how it finds its pictures on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from .faults import AGAIN, Fault, FaultError, bad_scores, some
from .labels import find
from .pictures import SUFFIXES


class Reading(NamedTuple):
    """A benchmark's labels as its official folder holds them.

    Attributes:
        table: image (relative to the folder), mos, content, distortion, level, official_split; in any order of rows.
        label_file: where the scores come from.
        notes: what a user should know about this copy, a sentence each.
        unrated: pictures, relative to the folder, that lie among the rated ones and rightly have no row.
        pristine: (n,) float64 scores, in units of mos, of undistorted pictures that have no row; or None.
        left_out: number of rows of the label file left out because this copy has no pictures for them.
    """

    table: pd.DataFrame
    label_file: Path
    notes: tuple[str, ...] = ()
    unrated: frozenset[str] = frozenset()
    pristine: np.ndarray | None = None
    left_out: int = 0


Reader = Callable[[Path], Reading]


def labelled(label_file: Path, names: Sequence[str], faults: Sequence[Fault] = (), **columns: object) -> pd.DataFrame:
    """The table of a reading, after a look at its names.

    Args:
        label_file: for the error.
        names: pictures as the label file names them.
        faults: what was found in the label file already.
        columns: image, mos and content; distortion, level and official_split where they are known.

    Raises:
        FaultError: `faults`, or a bad_label_row where a name is empty or stands twice; with them, bad scores.
    """
    lower = pd.Series([name.lower() for name in names], dtype=str)
    empty, twice = np.flatnonzero(lower == ""), sorted(set(lower[lower.duplicated() & (lower != "")]))
    found = list(faults)
    if len(empty):
        rows = some([str(row + 1) for row in empty])
        found.append(Fault("bad_label_row", f"{label_file}: data row {rows}", f"it names no picture: {AGAIN}"))
    if twice:
        fix = f"each picture must have one row and a name: {AGAIN}"
        found.append(Fault("bad_label_row", f"{label_file}: {some(twice)}", fix))
    if found:
        odd = lower[~np.isfinite(np.asarray(columns["mos"], dtype=np.float64))].tolist()
        raise FaultError(*found, *([bad_scores(odd, label_file)] if odd else []))
    known = dict(distortion=pd.NA, level=pd.NA, official_split=pd.NA)
    return pd.DataFrame({**known, **columns}, index=range(len(names)))


def picture_names(folder: Path) -> list[str]:
    """Picture files in a folder and not below it, without the hidden ones that archives bring along.

    Args:
        folder: where to look; nothing where it does not exist.

    Returns:
        File names, sorted.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."))


def pictures_beside(folder: Path, images: Iterable[str]) -> set[str]:
    """All pictures in the folders that some pictures lie in.

    Args:
        folder: the official folder.
        images: paths relative to it.

    Returns:
        Paths relative to it.
    """
    parents = {image.rpartition("/")[0] for image in images}
    return {f"{parent}/{name}" if parent else name for parent in parents for name in picture_names(folder / parent)}


def on_disk(folder: Path, names: Iterable[str], *inside: str, inner: Sequence[str] = ()) -> list[str]:
    """Where pictures lie, as their paths are spelled on the disk.

    Args:
        folder: the official folder.
        names: pictures by file name, compared without case.
        inside: folders they may lie in, the preferred one first.
        inner: by picture, the folder inside the preferred one that it belongs in; then folders at any depth count.

    Returns:
        Paths relative to `folder`; a picture that is not there is given the preferred folder that exists.
    """
    bases = [base for name in inside if (base := find(folder, name)) is not None and base.is_dir()]
    there: dict[str, list[str]] = {}
    for base in bases:
        places = sorted(walk[0] for walk in os.walk(base)) if inner else [str(base)]
        for place in (Path(place) for place in places if "__MACOSX" not in place):
            for name in picture_names(place):
                there.setdefault(name.lower(), []).append((place / name).relative_to(folder).as_posix())
    home = bases[0].relative_to(folder) if bases else Path(inside[0])
    is_preferred = home.name.lower() == inside[0].lower()

    def where(name: str, own: str) -> str:
        found = there.get(name.lower(), [])
        right = [path for path in found if PurePosixPath(path).parent.name.lower() == own.lower()]
        return [*right, *found, (home / (own if is_preferred else "") / name).as_posix()][0]

    names = list(names)
    return [where(name, own) for name, own in zip(names, inner or [""] * len(names))]


def file_name(path: str) -> str:
    """The last part of a path of a label file, which may have been written on Windows.

    Args:
        path: with "/" or "\\\\" between its parts.
    """
    return PurePosixPath(path.replace("\\", "/")).name

"""The benchmarks: where their pictures and opinion scores lie, and what can be wrong with a copy.

A reader returns a table with one row an image; a check returns the faults of a folder. Facts about each official
folder (names, counts, ranges, direction) live in its `Benchmark`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from .errors import InputError, unknown
from .pictures import pictures_below

COLUMNS = ["image", "mos", "content", "distortion", "level", "official_split"]


class Fault(NamedTuple):
    """One thing that is wrong with a benchmark's folder.

    Attributes:
        kind: missing_folder, missing_label_file, bad_label_column, bad_label_row, missing_image, extra_image,
            unreadable_image, wrong_count, wrong_range or wrong_direction.
        where: the file, folder, row or column.
        fix: what to do about it.
    """

    kind: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.fix}"


class FaultError(InputError):
    """A benchmark that cannot be read; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark, and its reader.

    Attributes:
        name: the name used everywhere.
        title: as printed in tables.
        folder: name of the official folder.
        count: number of rated images.
        mos_range: lowest and highest `mos` of the official labels, in the units of the table.
        axis: the scores' name on an axis.
        label_kind: whose opinion the labels are.
        source: paper, and where to ask for the images.
        marks: what the official folder holds, by which it is known under another name.
        mend: what to do where files are missing.
        read: (official folder) -> (table with image relative to that folder, label file).
    """

    name: str
    title: str
    folder: str
    count: int
    mos_range: tuple[float, float]
    axis: str
    label_kind: str
    source: str
    marks: tuple[str, ...]
    mend: str
    read: Callable[[Path], tuple[pd.DataFrame, Path]]


def load_benchmark(name: str, root: str | Path | None = None) -> pd.DataFrame:
    """Read a benchmark's labels and find its images; pixels are not touched.

    Args:
        name: a key of `BENCHMARKS`.
        root: the official folder or the folder it lies in; None is allowed for "demo" alone, which is then built.

    Returns:
        One row an image, sorted by image: image (str, path relative to `root`), mos (float, higher is better),
        content (str, must not be shared by train and test), distortion (str or NA), level (Int64 or NA),
        official_split (str or NA). ``.attrs`` holds benchmark, root, mos_range and label_file.

    Raises:
        InputError: unknown name, or a folder that cannot be read; the message holds the fix.
    """
    benchmark = _benchmark(name)
    if root is None:
        root = _default_root(name)
    root = Path(root).expanduser().resolve()
    folder = find_folder(benchmark, root)
    table, label_file = benchmark.read(folder)
    bad = table[~np.isfinite(table["mos"])]
    if len(bad):
        raise FaultError(_bad_rows(bad["image"].tolist(), label_file))
    missing = sorted(set(table["image"]) - set(_pictures(folder)))
    if missing:
        raise FaultError(
            Fault(
                "missing_image",
                _some([str(folder / m) for m in missing]),
                f"{len(missing)} of {len(table)} listed images are not there: {benchmark.mend}",
            )
        )
    prefix = folder.relative_to(root).as_posix()
    table["image"] = [image if prefix == "." else f"{prefix}/{image}" for image in table["image"]]
    table = table[COLUMNS].sort_values("image", ignore_index=True)
    table["level"] = table["level"].astype("Int64")
    table.attrs = dict(benchmark=name, root=str(root), mos_range=benchmark.mos_range, label_file=str(label_file))
    return table


def rows_of(table: pd.DataFrame, images: Iterable[str]) -> np.ndarray:
    """Rows of a table by image, whether the images were named relative to the official folder or to its parent.

    Args:
        table: from `load_benchmark`.
        images: names, e.g. of a predictions.csv.

    Returns:
        (n,) int64 positions.

    Raises:
        InputError: an image is not in the table.
    """
    prefix = _benchmark(table.attrs["benchmark"]).folder.lower() + "/"
    position = pd.Series(np.arange(len(table)), index=[name.lower().removeprefix(prefix) for name in table["image"]])
    found = position.reindex([name.lower().removeprefix(prefix) for name in images])
    if found.isna().any():
        raise InputError(f"{found.index[found.isna()][0]} is not in this table: load the benchmark the run was made on")
    return found.to_numpy(dtype=np.int64)


def find_folder(benchmark: Benchmark, root: Path) -> Path:
    """The official folder: `root` itself or, matched without case, the folder of that name inside it.

    Args:
        benchmark: which one.
        root: the folder the user named.

    Returns:
        The folder.

    Raises:
        FaultError: neither is there.
    """
    if root.is_dir():
        inside = [
            entry
            for entry in sorted(root.iterdir())
            if entry.is_dir() and entry.name.lower() == benchmark.folder.lower()
        ]
        if inside:
            return inside[0]
        if root.name.lower() == benchmark.folder.lower() or all((root / mark).exists() for mark in benchmark.marks):
            return root
    raise FaultError(
        Fault(
            "missing_folder",
            str(root),
            f"name the {benchmark.title} folder {benchmark.folder}/ or the folder it lies in",
        )
    )


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def _default_root(name: str) -> Path:
    if name != "demo":
        raise InputError(
            f"benchmark {name!r} needs the folder of its images: pass root (--data-root on the command line)"
        )
    from .demo import build_demo

    return build_demo()


def _pictures(folder: Path) -> list[str]:
    """Picture files below a folder, relative to it."""
    return [path.relative_to(folder).as_posix() for path in pictures_below(folder)]


def _some(items: list[str], show: int = 3) -> str:
    return ", ".join(items[:show]) + (f" and {len(items) - show} more" if len(items) > show else "")


def _bad_rows(images: list[str], label_file: Path) -> Fault:
    return Fault(
        "bad_label_row",
        f"{label_file}: {_some(images)}",
        f"{len(images)} scores are not finite numbers: fetch the label file again",
    )


def _labels(folder: Path, name: str) -> Path:
    """A label file by its name, matched without case."""
    wanted = folder / name
    near = (
        [p for p in wanted.parent.glob("*") if p.name.lower() == wanted.name.lower()] if wanted.parent.is_dir() else []
    )
    if not near:
        raise FaultError(Fault("missing_label_file", str(wanted), "unpack the archive again, with its label files"))
    return near[0]


def _mat_column(path: Path, variable: str) -> np.ndarray:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # loadmat raises a different kind for each way a file can be damaged
        raise FaultError(
            Fault("missing_label_file", str(path), f"not a readable .mat file ({error}): fetch it again")
        ) from error
    if variable not in content:
        raise FaultError(
            Fault("bad_label_column", f"{path}: {variable}", "the variable is not in the file: fetch it again")
        )
    return content[variable].ravel()


def _read_livec(folder: Path) -> tuple[pd.DataFrame, Path]:
    """ChallengeDB_release: 1,169 rows, of which the first seven are the pictures subjects were trained on."""
    names_file, label_file = _labels(folder, "Data/AllImages_release.mat"), _labels(folder, "Data/AllMOS_release.mat")
    names = [str(np.asarray(cell).ravel()[0]) for cell in _mat_column(names_file, "AllImages_release")]
    mos = pd.to_numeric(pd.Series(_mat_column(label_file, "AllMOS_release")), errors="coerce").to_numpy(dtype=float)
    if len(names) != len(mos):
        raise FaultError(
            Fault(
                "bad_label_row",
                str(label_file),
                f"{len(mos)} scores for {len(names)} names in {names_file.name}: fetch both files again",
            )
        )
    on_disk = {
        Path(path).name.lower(): path for path in _pictures(folder) if Path(path).parent.name.lower() == "images"
    }
    if [name.lower() for name in names[:7]] != [f"t{n}.bmp" for n in range(1, 8)]:
        raise FaultError(
            Fault("bad_label_row", str(names_file), "its first seven rows are not t1.bmp to t7.bmp: fetch it again")
        )
    rows = pd.DataFrame({"name": names, "mos": mos})[7:]
    return pd.DataFrame(
        {
            "image": [on_disk.get(name.lower(), f"Images/{name}") for name in rows["name"]],
            "mos": rows["mos"].to_numpy(),
            "content": rows["name"].to_numpy(),
            "distortion": pd.NA,
            "level": pd.NA,
            "official_split": pd.NA,
        }
    ), label_file


def _read_demo(folder: Path) -> tuple[pd.DataFrame, Path]:
    from .demo import LABEL_FILE

    label_file = _labels(folder, LABEL_FILE)
    try:
        table = pd.read_csv(label_file, dtype={"content": str, "distortion": str})
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise FaultError(
            Fault("missing_label_file", str(label_file), f"not a table ({error}): delete the folder")
        ) from error
    for column in ("image", "mos", "content", "distortion", "level"):
        if column not in table:
            raise FaultError(
                Fault("bad_label_column", f"{label_file}: {column}", "delete the folder; it is built again")
            )
    level = pd.to_numeric(table["level"], errors="coerce")
    if level.isna().any():
        bad = table.loc[level.isna(), "image"].astype(str).tolist()
        raise FaultError(Fault("bad_label_row", f"{label_file}: {_some(bad)}", "level is no number: delete the folder"))
    table["mos"], table["level"] = pd.to_numeric(table["mos"], errors="coerce"), level.astype(int)
    return table.assign(official_split=pd.NA), label_file


_LIVEC = Benchmark(
    name="livec",
    title="LIVEC",
    folder="ChallengeDB_release",
    count=1162,
    mos_range=(3.42, 92.43),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 100",
    source="Ghadiyaram and Bovik, IEEE TIP 2016; LIVE, The University of Texas at Austin",
    marks=("Images", "Data"),
    mend="unpack the archive again",
    read=_read_livec,
)
_DEMO = Benchmark(
    name="demo",
    title="Demo (proxy labels)",
    folder="demo",
    count=360,
    mos_range=(0.0, 40.0),
    axis="proxy: MS-SSIM, dB",
    label_kind="a PROXY: MS-SSIM in dB, not people's opinion",
    source="photographs of scikit-image, scikit-learn and matplotlib, distorted here",
    marks=("labels.csv", "images"),
    mend="delete the folder, it is built again",
    read=_read_demo,
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (_LIVEC, _DEMO)}

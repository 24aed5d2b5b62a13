"""Benchmarks of your own: a folder with a ``benchmark.toml``, a table of labels, and images.

Errors of ``benchmark.toml`` are `InputError`; errors of the label file are faults with the line or row.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.errors import InputError, unknown
from ..common.paths import resolve_path
from .catalogue import BENCHMARKS, Benchmark
from .faults import Fault, FaultError, first_few
from .labels import numbers
from .own_rows import read_rows
from .readers import Reading, folded, images_beside, label_table, leads_outside, names_in

FILE = "benchmark.toml"  #: the file that makes a folder a benchmark
HELP = 'notebooks/README.md, "Your own data", shows one'

#: Keys of the file with their type and an example; all but the last are needed.
_KEYS: dict[str, tuple[type, str]] = {
    "name": (str, 'name = "my_photos"'),
    "title": (str, 'title = "My photographs"'),
    "labels": (str, 'labels = "labels.csv"'),
    "mos_range": (list, "mos_range = [0, 100]"),
    "higher_is_better": (bool, "higher_is_better = true"),
    "label_kind": (str, 'label_kind = "mean opinion of 20 raters"'),
    "source": (str, 'source = "where the data come from, and their terms"'),
    "columns": (dict, '[columns] and below it image = "file"'),
}
#: Columns of a label file, of which the first two are needed.
COLUMNS = ("image", "mos", "content", "distortion", "level", "official_split")
#: Names of other benchmarks, and of other folders in runs/ and figures/.
_RESERVED = {*BENCHMARKS, "all", "bench", "figures", "own", "repeats"}
_PARTS = ("train", "val", "test")


def own_folder(text: str | Path) -> Path | None:
    """The absolute folder that a path names if it holds a ``benchmark.toml``, else None."""
    if not str(text).strip():
        return None
    folder = resolve_path(text)
    inner = folder / folder.name  # as some archives unpack
    return next((place for place in (folder, inner) if os.path.isfile(place / FILE)), None)


def own_benchmark(folder: Path) -> Benchmark:
    """Facts about the benchmark in a folder with a ``benchmark.toml``. InputError: the file cannot be used."""
    about = read_toml(folder)
    low, high = about["mos_range"]
    reversed_axis = f"{low + high:g} - {about['columns'].get('mos', 'mos')}"
    return Benchmark(
        about["name"],
        about["title"],
        count=0,
        mos_range=(low, high),
        folders=(folder.name,),
        marks=(FILE,),
        label_kind=about["label_kind"],
        source=about["source"],
        axis="MOS" if about["higher_is_better"] else reversed_axis,
        fix="put it there, or remove its row",
        label_fix=f"correct the label file, or {FILE}",
    )


def read_toml(folder: Path) -> dict[str, Any]:
    """The checked content of a folder's ``benchmark.toml``; `columns` is {} if the file has none."""
    path = folder / FILE
    try:
        about = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML: the reason names the line
        raise InputError(f"{path} is not a TOML file in UTF-8 ({error}): correct it; {HELP}") from error
    for key in about:
        if key not in _KEYS:
            raise InputError(f"{path}: {unknown('key', key, _KEYS)}")
    for key, (kind, example) in _KEYS.items():
        if key not in about and key != "columns":
            raise InputError(f"{path}: the key {key} is missing: write {example}")
        if not isinstance(about.setdefault(key, {}), kind) or str(about[key]).strip() == "":
            raise InputError(f"{path}: {key} is {about[key]!r}: write for example {example}")
    _check_name(path, about["name"])
    about["mos_range"] = _range(path, about["mos_range"])
    if leads_outside(about["labels"]):
        raise InputError(f"{path}: labels is {about['labels']!r}: write a path inside this folder")
    for key, column in about["columns"].items():
        if key not in COLUMNS:
            raise InputError(f"{path}: {unknown('key of [columns]', key, COLUMNS)}")
        if not isinstance(column, str) or not column.strip():
            raise InputError(f"{path}: {key} in [columns] is {column!r}: write the name of a column, in quotes")
        about["columns"][key] = column.strip()
    return about


def _check_name(path: Path, name: str) -> None:
    if name in _RESERVED:
        raise InputError(f"{path}: the name {name!r} is taken: choose another one")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{,63}", name):
        rule = "use at most 64 lower-case letters a-z, digits, _ and -, with a letter or digit first"
        raise InputError(f"{path}: name is {name!r}: {rule}")


def _range(path: Path, values: list[Any]) -> tuple[float, float]:
    is_number = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    if len(values) != 2 or not all(is_number) or not all(abs(value) < 1e300 for value in values):
        raise InputError(f"{path}: mos_range is {values!r}: write the lowest and the highest value, such as [0, 100]")
    if values[0] >= values[1]:
        raise InputError(f"{path}: mos_range is {values!r}: the first value must be the lower one")
    return float(values[0]), float(values[1])


def read_own(folder: Path) -> Reading:
    """Labels of a folder with a ``benchmark.toml``.

    Without a column for content, every image is its own content. If lower labels are better, mos is max + min - label,
    with max and min of mos_range. File names are matched without case.
    """
    about = read_toml(folder)
    path, named = folder / about["labels"], about["columns"]
    if not Path(os.path.realpath(path)).is_relative_to(folder):
        raise FaultError(Fault("missing_label_file", str(path), f"it is a link out of the folder of {FILE}: copy it"))
    needed = {"image", "mos", *named}
    rows = read_rows(path, {key: named.get(key, key) for key in COLUMNS}, needed)
    rows["image"] = [name if leads_outside(name) else _normal(name) for name in rows["image"]]
    places = {number: f"{path}: {rows.attrs['unit']} {number}" for number in rows.index}
    faults = [*_row_faults(rows, places, about), *_split_faults(rows, path)]
    images = _spelled(folder, rows["image"].tolist())
    if faults := [*faults, *_link_faults(folder, images, places)]:
        raise FaultError(*faults)
    mos, notes = numbers(rows["mos"]), []
    if not about["higher_is_better"]:
        low, high = about["mos_range"]
        mos = low + high - mos
        notes.append(f"lower labels are better: mos = {low + high:g} - {named.get('mos', 'mos')}")
    if "content" not in rows:
        notes.append("the labels have no column content: every image is its own content")
    return Reading(label_table(path, images, image=images, mos=mos, **_facts(rows)), path, tuple(notes))


def _facts(rows: pd.DataFrame) -> dict[str, list]:
    """Content of each row, and distortion, level and official part as far as the labels have them."""
    found = dict(content=rows["content" if "content" in rows else "image"].map(folded).tolist())
    if "distortion" in rows:
        found["distortion"] = [text or pd.NA for text in rows["distortion"]]
    if "level" in rows:
        found["level"] = [int(level) if text else pd.NA for text, level in zip(rows["level"], numbers(rows["level"]))]
    if "official_split" in rows:
        found["official_split"] = [text.lower() or pd.NA for text in rows["official_split"]]
    return found


def _row_faults(rows: pd.DataFrame, places: dict[int, str], about: dict[str, Any]) -> Iterator[Fault]:
    """Faults of single rows, in the order of the file."""
    columns = {key: about["columns"].get(key, key) for key in COLUMNS}
    checked = rows.assign(mos_number=numbers(rows["mos"]))
    checked["level_number"] = numbers(rows["level"]) if "level" in rows else math.nan
    first_place: dict[str, str] = {}
    for number, row in zip(rows.index, checked.to_dict("records")):
        for problem in _problems(row, columns):
            yield Fault("bad_label_row", places[number], f"{problem}: correct or remove the row")
        key = folded(row["image"])
        if key and key in first_place:
            problem = f"{row['image']!r} is also in {first_place[key]}: remove one of the two rows"
            yield Fault("bad_label_row", places[number], problem)
        first_place.setdefault(key, places[number].rpartition(": ")[2])
        low, high = about["mos_range"]
        if math.isfinite(row["mos_number"]) and not low <= row["mos_number"] <= high:
            problem = f"{row['mos']} in column {columns['mos']!r} is outside mos_range = [{low:g}, {high:g}] of {FILE}"
            yield Fault("wrong_range", places[number], f"{problem}: correct one of them")


def _split_faults(rows: pd.DataFrame, path: Path) -> Iterator[Fault]:
    """Contents with images in several parts of the official split."""
    if "official_split" not in rows:
        return
    content = rows["content" if "content" in rows else "image"].map(folded)
    parts = rows["official_split"].str.lower()
    parts = parts[parts.isin(_PARTS)]
    for name, found in parts.groupby(content):
        if name and found.nunique() > 1:
            places = first_few([str(number) for number in found.drop_duplicates().index])
            problem = f"content {name!r} is in the parts {', '.join(sorted(set(found)))} of the official split"
            where = f"{path}: {rows.attrs['unit']}s {places}"
            yield Fault("bad_label_row", where, f"{problem}: put all its images into one part")


def _problems(row: dict[str, Any], columns: dict[str, str]) -> Iterator[str]:
    if not row["image"]:
        yield f"column {columns['image']!r} is empty"
    elif leads_outside(row["image"]):
        yield f"{row['image']!r} is not a path inside the folder of {FILE}"
    if not math.isfinite(row["mos_number"]):
        yield f"{row['mos']!r} in column {columns['mos']!r} is not a number"
    for key in ("content", "distortion", "official_split"):
        if "\n" in row.get(key, ""):
            yield f"a cell of column {columns[key]!r} has a line break, perhaps by a quote that is not closed"
    if row.get("content") == "":
        yield f"column {columns['content']!r} is empty"
    if row.get("level") and not (float(row["level_number"]).is_integer() and abs(row["level_number"]) < 2**53):
        yield f"{row['level']!r} in column {columns['level']!r} is not a whole number"
    if row.get("official_split") and row["official_split"].lower() not in _PARTS:
        yield f"{row['official_split']!r} in column {columns['official_split']!r} is not {', '.join(_PARTS)}"


def _link_faults(folder: Path, images: Iterable[str], places: dict[int, str]) -> Iterator[Fault]:
    """Images that are links, or lie in a linked folder, to a place outside the benchmark's folder."""

    def stays(path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(folder)

    parents = {image.rpartition("/")[0] for image in images if not leads_outside(image)}
    leaving = {parent for parent in parents if not stays(folder / parent)}
    for number, image in zip(places, images):
        if leads_outside(image):
            continue
        if image.rpartition("/")[0] in leaving or os.path.islink(f"{folder}/{image}") and not stays(folder / image):
            problem = f"{image!r} is a link out of the folder of {FILE}: copy the image into the folder"
            yield Fault("bad_label_row", places[number], problem)


def _spelled(folder: Path, images: list[str]) -> list[str]:
    """Paths as spelled on disk, if case or Unicode form of a name differ; missing ones stay as they are."""
    inside = {image: image.rpartition("/") for image in images if not leads_outside(image)}
    parents = {parent: _spelled_folder(folder, parent) for parent, _, _ in inside.values()}
    moved = {image: f"{parents[parent]}{slash}{name}" for image, (parent, slash, name) in inside.items()}
    existing = images_beside(folder, moved.values())
    spelled = {folded(image): image for image in existing}
    moved = {image: path if path in existing else spelled.get(folded(path), image) for image, path in moved.items()}
    return [moved.get(image, image) for image in images]


def _spelled_folder(folder: Path, path: str) -> str:
    """A path of folders as spelled on disk, if it does not exist as it is."""
    if os.path.isdir(folder / path):
        return path
    found = ""
    for part in filter(None, path.split("/")):
        names = names_in(folder / found)
        same = [name for name in sorted(names) if folded(name) == folded(part)]
        found = posixpath.join(found, same[0] if same and part not in names else part)
    return found


def _normal(name: str) -> str:
    """A path of the label file with slashes, without empty or ``.`` parts."""
    return posixpath.normpath(name.replace("\\", "/")) if name else ""

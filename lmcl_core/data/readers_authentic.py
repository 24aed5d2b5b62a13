"""Readers of LIVEC, KonIQ-10k, LIVEFB and SPAQ, whose images are photographs with authentic distortions.

Each image is its own content. A reader takes the official folder and raises `FaultError` if a label file is unusable.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .faults import AGAIN, Fault, FaultError, bad_row
from .labels import find, label_file, mat_column, mat_names, numbers, read_columns
from .readers import Reading, file_name, image_folder, image_names, label_table, on_disk, outside_faults

KONIQ_SETS = "koniq10k_distributions_sets.csv"
KONIQ_SCORES = "koniq10k_scores_and_distributions.csv"
_KONIQ_PARTS = {"training": "train", "validation": "val", "test": "test"}
_KONIQ_SCALE = f"{AGAIN}; do not use column MOS of {KONIQ_SCORES}, which is on a scale of 1 to 5"

#: Folder of LIVEFB whose rows belong to no official part and whose images many copies lack.
_LIVEFB_SPARE = "EE371R"
_IS_VALID = {"true": "val", "1": "val", "false": "train", "0": "train"}


def read_livec(folder: Path) -> Reading:
    """LIVEC: 1,169 rows. The first seven, on which the raters only practised, are left out."""
    names_file, path = label_file(folder, "Data/AllImages_release.mat"), label_file(folder, "Data/AllMOS_release.mat")
    names = mat_names(names_file, "AllImages_release")
    mos = numbers(mat_column(path, "AllMOS_release"))
    if len(names) != len(mos):
        fix = f"{len(mos)} scores for {len(names)} names in {names_file.name}: download both files again"
        raise FaultError(Fault("bad_label_row", str(path), fix))
    if [name.lower() for name in names[:7]] != [f"t{n}.bmp" for n in range(1, 8)]:
        fix = f"the first seven rows are not t1.bmp to t7.bmp: {AGAIN}"
        raise FaultError(Fault("bad_label_row", str(names_file), fix))
    names = names[7:]
    return Reading(label_table(path, names, image=on_disk(folder, names, "Images"), mos=mos[7:], content=names), path)


def read_koniq10k(folder: Path) -> Reading:
    """KonIQ-10k with images of 1024x768 or 512x384 pixels and with either label file.

    mos is on a scale of 0 to 100: column MOS of the label file with the official split (`KONIQ_SETS`), or the same
    score from column MOS_zscore of the other one (`KONIQ_SCORES`).
    """
    places = [f"{place}{name}" for name in (KONIQ_SETS, KONIQ_SCORES) for place in ("", "metadata/")]
    path = label_file(folder, *places, fix=f"put {KONIQ_SETS} or {KONIQ_SCORES} beside the folder of images")
    has_sets = path.name.lower() == KONIQ_SETS
    score, others = ("MOS", ["set"]) if has_sets else ("MOS_zscore", [])
    rows = read_columns(path, ["image_name", score, *others], _KONIQ_SCALE)
    names, parts, notes, faults = rows["image_name"].tolist(), pd.NA, [], []
    if has_sets:
        parts = rows["set"].str.lower().map(_KONIQ_PARTS)
        if odd := sorted(set(rows["set"][parts.isna()].map(repr))):
            faults.append(bad_row(path, odd, f"set must be training, validation or test: {AGAIN}"))
    else:
        notes.append(f"{path.name} does not hold the official split; {KONIQ_SETS} does")
    size = _koniq_size(folder, names)
    notes.append(f"images of {size}/")
    columns = dict(image=on_disk(folder, names, size), mos=numbers(rows[score]), content=_content(names))
    return Reading(label_table(path, names, faults, **columns, official_split=parts), path, tuple(notes))


def _koniq_size(folder: Path, names: list[str]) -> str:
    """Folder that holds most of the listed images; the larger images if both folders hold as many."""
    listed = {name.lower() for name in names}
    places = {size: place for size in ("1024x768", "512x384") if (place := image_folder(folder, size))}
    found = {size: len(listed & set(map(str.lower, image_names(place)))) for size, place in places.items()}
    return max(found, key=found.get, default="1024x768")


def read_livefb(folder: Path) -> Reading:
    """LIVEFB (FLIVE, PaQ-2-PiQ): whole images, without the patches that were rated too.

    0.0 is a valid score. The three rows of EE371R/ are left out if that folder holds no images.
    """
    fix = "put labels_image.csv from folder database/ of https://github.com/baidut/PaQ-2-PiQ beside voc_emotic_ava/"
    path = label_file(folder, "labels_image.csv", fix=fix)
    rows = read_columns(path, ["name", "mos"])
    rows["name"] = _slashes(rows["name"])
    spare, notes, left_out = _is_spare(rows["name"]), [], 0
    if spare.any() and not image_names(find(folder, _LIVEFB_SPARE) or folder / _LIVEFB_SPARE):
        rows, left_out = rows[~spare].reset_index(drop=True), int(spare.sum())
        notes.append(f"{left_out} rows of {_LIVEFB_SPARE}/ are left out: this copy lacks their images")
    names = rows["name"].tolist()
    parts, more_notes = _livefb_parts(folder, rows["name"])
    if faults := outside_faults(path, names):
        raise FaultError(*faults)
    found, places = {}, {}
    for name in names:
        places.setdefault(name.rpartition("/")[0], []).append(name)
    for place, here in places.items():
        found |= zip(here, on_disk(folder, map(file_name, here), place or "."))
    images = [found[name] for name in names]
    columns = dict(image=images, mos=numbers(rows["mos"]), content=_content(names), official_split=parts)
    return Reading(label_table(path, names, **columns), path, (*notes, *more_notes), left_out=left_out)


def _livefb_parts(folder: Path, names: pd.Series) -> tuple[pd.Series, list[str]]:
    """Official part (train, val, test or NA) of each image, and notes on missing files of the official split."""
    keys = names.str.lower()
    if find(folder, "labels640.csv") is None:
        return pd.Series(pd.NA, index=names.index), ["labels640.csv, the official test list, is missing"]
    tested = keys.isin(_slashes(read_columns(find(folder, "labels640.csv"), ["name_image"])["name_image"]).str.lower())
    path = find(folder, "labels=640_padded.csv")
    if path is None:
        parts = pd.Series("train", index=names.index, dtype=object).mask(_is_spare(names), pd.NA)
        note = "labels=640_padded.csv is missing: official validation images are among the training images"
        return parts.mask(tested, "test"), [note]
    others = read_columns(path, ["name_image", "is_valid"])
    valid = others["is_valid"].str.lower().map(_IS_VALID)
    if odd := sorted(set(others["is_valid"][valid.isna()].map(repr))):
        raise FaultError(bad_row(path, odd, f"is_valid must be True or False: {AGAIN}"))
    parts = keys.map(dict(zip(_slashes(others["name_image"]).str.lower(), valid))).astype(object)
    return parts.mask(tested, "test"), []


def _slashes(names: pd.Series) -> pd.Series:
    return names.str.replace("\\", "/", regex=False)


def _is_spare(names: pd.Series) -> pd.Series:
    return names.str.lower().str.startswith(f"{_LIVEFB_SPARE.lower()}/")


def read_spaq(folder: Path) -> Reading:
    """SPAQ: photographs taken with phones, with the scores in a spreadsheet or a .csv of the same name."""
    stem = "MOS and Image attribute scores"
    places = [f"{place}{stem}{ending}" for ending in (".xlsx", ".csv") for place in ("Annotations/", "")]
    path = label_file(folder, *places, fix="put it there; it comes with the images, in Annotations/")
    rows = read_columns(path, ["Image name", "MOS"])
    names = rows["Image name"].tolist()
    images = on_disk(folder, names, "TestImage")
    return Reading(label_table(path, names, image=images, mos=numbers(rows["MOS"]), content=_content(names)), path)


def _content(names: list[str]) -> list[str]:
    return [file_name(name).lower() for name in names]

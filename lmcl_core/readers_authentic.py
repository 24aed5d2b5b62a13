"""Readers of the benchmarks of pictures as people took them: LIVEC, KonIQ-10k, LIVEFB and SPAQ.

Every picture is a content of its own, by its file name.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .faults import AGAIN, Fault, FaultError, some
from .labels import find, label_file, mat_column, mat_names, numbers, read_columns
from .readers import Reading, file_name, labelled, on_disk, picture_names

KONIQ_SETS = "koniq10k_distributions_sets.csv"
KONIQ_SCORES = "koniq10k_scores_and_distributions.csv"
_KONIQ_PARTS = {"training": "train", "validation": "val", "test": "test"}
_KONIQ_SCALE = f"{AGAIN}; the MOS of {KONIQ_SCORES} goes from 1 to 5 and is another scale"

#: Rows of LIVEFB that belong to no official part, and whose pictures many copies lack.
LIVEFB_SPARE = "EE371R"


def read_livec(folder: Path) -> Reading:
    """LIVEC: 1,169 rows, of which the first seven are the pictures subjects were trained on.

    Args:
        folder: ChallengeDB_release.

    Returns:
        mos as published.

    Raises:
        FaultError: a label file cannot be used.
    """
    names_file, path = label_file(folder, "Data/AllImages_release.mat"), label_file(folder, "Data/AllMOS_release.mat")
    names = mat_names(names_file, "AllImages_release")
    mos = numbers(mat_column(path, "AllMOS_release"))
    if len(names) != len(mos):
        fix = f"{len(mos)} scores for {len(names)} names in {names_file.name}: fetch both files again"
        raise FaultError(Fault("bad_label_row", str(path), fix))
    if [name.lower() for name in names[:7]] != [f"t{n}.bmp" for n in range(1, 8)]:
        fix = "its first seven rows are not t1.bmp to t7.bmp: fetch it again"
        raise FaultError(Fault("bad_label_row", str(names_file), fix))
    names = names[7:]
    return Reading(labelled(path, names, image=on_disk(folder, names, "Images"), mos=mos[7:], content=names), path)


def read_koniq10k(folder: Path) -> Reading:
    """KonIQ-10k in either size of its pictures and with either of its label files, on the scale of 0 to 100.

    Args:
        folder: holds 1024x768/ or 512x384/.

    Returns:
        mos is MOS of the file of official sets, or MOS_zscore of the other file, which is the same score.

    Raises:
        FaultError: the label file cannot be used.
    """
    places = [f"{place}{name}" for name in (KONIQ_SETS, KONIQ_SCORES) for place in ("", "metadata/")]
    path = label_file(folder, *places, fix=f"put {KONIQ_SETS} or {KONIQ_SCORES} beside the folder of pictures")
    parts, notes, faults = pd.NA, [], []
    if path.name.lower() == KONIQ_SETS:
        rows = read_columns(path, ["image_name", "MOS", "set"], _KONIQ_SCALE)
        mos, parts = rows["MOS"], rows["set"].str.lower().map(_KONIQ_PARTS)
        if parts.isna().any():
            odd = [repr(name) for name in sorted(set(rows["set"][parts.isna()]))]
            faults.append(Fault("bad_label_row", f"{path}: {some(odd)}", f"no official set of KonIQ-10k: {AGAIN}"))
    else:
        rows = read_columns(path, ["image_name", "MOS_zscore"], _KONIQ_SCALE)
        mos = rows["MOS_zscore"]
        notes.append(f"{path.name} does not hold the official split; {KONIQ_SETS} does")
    names = rows["image_name"].tolist()
    size = _koniq_size(folder, names)
    notes.append(f"pictures of {size}/")
    columns = dict(image=on_disk(folder, names, size), mos=numbers(mos), content=_content(names), official_split=parts)
    return Reading(labelled(path, names, faults, **columns), path, tuple(notes))


def _koniq_size(folder: Path, names: list[str]) -> str:
    """The folder of pictures that holds most of the listed ones; the large ones where both are as complete."""
    listed = {name.lower() for name in names}

    def complete(size: str) -> int:
        return len(listed & {name.lower() for name in picture_names(find(folder, size) or folder / size)})

    there = [size for size in ("1024x768", "512x384") if find(folder, size)] or ["1024x768"]
    return max(there, key=complete)


def read_livefb(folder: Path) -> Reading:
    """LIVEFB (FLIVE, PaQ-2-PiQ): whole pictures only, not the patches that were rated too.

    Args:
        folder: holds labels_image.csv, voc_emotic_ava/, blur_dataset/ and EE371R/.

    Returns:
        mos as published; 0.0 is a score like any other. Rows of EE371R/ are left out where it holds no pictures.

    Raises:
        FaultError: a label file cannot be used.
    """
    fix = "put the one of https://github.com/baidut/PaQ-2-PiQ, folder database/, beside voc_emotic_ava/"
    path = label_file(folder, "labels_image.csv", fix=fix)
    rows = read_columns(path, ["name", "mos"])
    all_rows, notes = len(rows), []
    spare = rows["name"].map(_first_folder) == LIVEFB_SPARE.lower()
    if spare.any() and not picture_names(find(folder, LIVEFB_SPARE) or folder / LIVEFB_SPARE):
        rows = rows[~spare].reset_index(drop=True)
        notes.append(f"{spare.sum()} rows of {LIVEFB_SPARE}/ are left out: their pictures are not here")
    names = [name.replace("\\", "/") for name in rows["name"]]
    parts, said = _livefb_parts(folder, names)
    images = pd.Series(names, dtype=str)
    for place, group in images.groupby([name.rpartition("/")[0] for name in names]):
        images[group.index] = on_disk(folder, [file_name(name) for name in group], place or ".")
    table = labelled(path, names, image=images, mos=numbers(rows["mos"]), content=_content(names), official_split=parts)
    return Reading(table, path, (*notes, *said), left_out=all_rows - len(rows))


def _livefb_parts(folder: Path, names: list[str]) -> tuple[list[object], list[str]]:
    """The official part of each picture, and what there is to say about it."""
    if find(folder, "labels640.csv") is None:
        return [pd.NA] * len(names), ["labels640.csv, the official test list, is not here"]
    tested = read_columns(find(folder, "labels640.csv"), ["name_image"])
    part = {name.lower().replace("\\", "/"): "test" for name in tested["name_image"]}
    if find(folder, "labels=640_padded.csv") is None:
        known = ["train" if _first_folder(name) != LIVEFB_SPARE.lower() else pd.NA for name in names]
        said = ["labels=640_padded.csv is not here: official validation pictures are among the training ones"]
        return [part.get(name.lower(), other) for name, other in zip(names, known)], said
    path = find(folder, "labels=640_padded.csv")
    others = read_columns(path, ["name_image", "is_valid"])
    valid = others["is_valid"].str.lower().map({"true": "val", "1": "val", "false": "train", "0": "train"})
    if valid.isna().any():
        odd = [repr(value) for value in sorted(set(others["is_valid"][valid.isna()]))]
        raise FaultError(Fault("bad_label_row", f"{path}: {some(odd)}", f"is_valid must be True or False: {AGAIN}"))
    keys = others["name_image"].str.lower().str.replace("\\", "/", regex=False)
    part = {**dict(zip(keys, valid)), **part}
    return [part.get(name.lower(), pd.NA) for name in names], []


def read_spaq(folder: Path) -> Reading:
    """SPAQ: photographs of phones, scored in a spreadsheet.

    Args:
        folder: holds TestImage/ and Annotations/.

    Returns:
        mos as published.

    Raises:
        FaultError: the label file cannot be used.
    """
    stem = "MOS and Image attribute scores"
    places = [f"{place}{stem}{ending}" for ending in (".xlsx", ".csv") for place in ("Annotations/", "")]
    path = label_file(folder, *places, fix="put it there; it comes with the pictures, in Annotations/")
    rows = read_columns(path, ["Image name", "MOS"])
    names = rows["Image name"].tolist()
    images = on_disk(folder, names, "TestImage")
    return Reading(labelled(path, names, image=images, mos=numbers(rows["MOS"]), content=_content(names)), path)


def _content(names: list[str]) -> list[str]:
    return [file_name(name).lower() for name in names]


def _first_folder(name: str) -> str:
    return name.replace("\\", "/").split("/")[0].lower()

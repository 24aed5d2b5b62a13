"""Readers of LIVE, CSIQ, TID2013, KADID-10k and the demo, whose images were distorted artificially.

The content of an image is the file name of its reference in lower case. A reader takes the official folder and raises
`FaultError` if a label file is unusable.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from .demo import LABEL_FILE
from .faults import AGAIN, Fault, FaultError, bad_row, first_few
from .labels import find, label_file, mat_column, mat_names, numbers, parts_of, read_columns, read_words
from .readers import Reading, file_name, image_folder, image_names, label_table, on_disk

#: LIVE's folders in the order of its labels: number of images, distortion, other name of the folder.
_LIVE_FOLDERS = {
    "jp2k": (227, "JPEG 2000", "jp2k"),
    "jpeg": (233, "JPEG", "jpeg"),
    "wn": (174, "white noise", "wn"),
    "gblur": (174, "Gaussian blur", "blur"),
    "fastfading": (174, "fast fading", "fastfading"),
}
_LIVE_REFERENCES = {
    f"{name}.bmp"
    for name in "bikes building2 buildings caps carnivaldolls cemetry churchandcapitol coinsinfountain dancers "
    "flowersonih35 house lighthouse lighthouse2 manfishing monarch ocean paintedhouse parrots plane rapids sailing1 "
    "sailing2 sailing3 sailing4 statue stream studentsculpture woman womanhat".split()
}
_UNPACK = "unpack the archive again, with its label files"
_REALIGNED = (
    "get the realigned subjective scores from https://live.ece.utexas.edu/research/Quality/subjective.htm and put "
    "dmos_realigned.mat beside refnames_all.mat; dmos.mat holds other scores, do not rename it"
)

# fmt: off
#: CSIQ's distortions by their part of a file name.
_CSIQ_DISTORTIONS = {
    "AWGN": "white noise", "BLUR": "Gaussian blur", "contrast": "contrast", "fnoise": "pink noise", "JPEG": "JPEG",
    "jpeg2000": "JPEG 2000",
}
#: The same parts by their lower-case spelling, and by their name in csiq.DMOS.xlsx without blanks.
_CSIQ_TOKENS = {token.lower(): token for token in _CSIQ_DISTORTIONS} | {"noise": "AWGN"}

_TID2013_DISTORTIONS = (
    "additive Gaussian noise", "noise stronger in colour", "spatially correlated noise", "masked noise",
    "high-frequency noise", "impulse noise", "quantisation noise", "Gaussian blur", "denoising", "JPEG", "JPEG 2000",
    "JPEG transmission errors", "JPEG 2000 transmission errors", "non-eccentricity pattern noise",
    "local block-wise distortion", "mean shift", "contrast change", "colour saturation change",
    "multiplicative Gaussian noise", "comfort noise", "lossy compression of noisy images",
    "colour quantisation with dither", "chromatic aberration", "sparse sampling",
)
_KADID_DISTORTIONS = (
    "Gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
    "colour saturation 1", "colour saturation 2", "JPEG 2000", "JPEG", "white noise",
    "white noise in colour component", "impulse noise", "multiplicative noise", "denoise", "brighten", "darken",
    "mean shift", "jitter", "non-eccentricity patch", "pixelate", "quantisation", "colour block", "high sharpen",
    "contrast change",
)
# fmt: on


def read_live(folder: Path) -> Reading:
    """LIVE release 2: the distorted images of its five folders. mos is 100 minus the realigned DMOS.

    The folders also hold copies of the references, which are not part of the table.
    """
    names_file = label_file(folder, "refnames_all.mat")
    path = label_file(folder, "dmos_realigned.mat", fix=_REALIGNED)
    references = mat_names(names_file, "refnames_all")
    mos = 100.0 - numbers(mat_column(path, "dmos_new", _REALIGNED))
    copies = numbers(mat_column(path, "orgs", _REALIGNED)) == 1
    if not len(mos) == len(copies) == len(references):
        fix = f"{len(mos)} scores for {len(references)} names in {names_file.name}: download both files again"
        raise FaultError(Fault("bad_label_row", str(path), fix))
    contents = [file_name(name).lower() for name in references]
    if odd := [repr(name) for name, content in zip(references, contents) if content not in _LIVE_REFERENCES]:
        raise FaultError(bad_row(names_file, odd, f"{len(odd)} names are none of LIVE's 29 references: {AGAIN}"))
    files = _live_files(folder, path, len(mos)).assign(mos=mos, content=contents)
    rated = files[~copies].reset_index(drop=True)
    table = label_table(path, rated["image"], **rated)
    return Reading(table, path, unrated=frozenset(files["image"][copies]), pristine=mos[copies])


def _live_files(folder: Path, path: Path, rows: int) -> pd.DataFrame:
    """Image and distortion of each file of LIVE's five folders, in the order of its labels."""
    is_subset, files = rows != sum(count for count, _, _ in _LIVE_FOLDERS.values()), []
    for name, (count, distortion, other) in _LIVE_FOLDERS.items():
        place = image_folder(folder, name) or image_folder(folder, other)
        if place is None:
            raise FaultError(Fault("missing_folder", str(folder / name), _UNPACK))
        if is_subset:  # a shortened copy: take all numbers up to the highest one in the folder
            matches = (re.fullmatch(r"(?i)img(\d+)\.bmp", file) for file in image_names(place))
            count = max((int(match[1]) for match in matches if match), default=0)
        images = on_disk(folder, [f"img{n}.bmp" for n in range(1, count + 1)], name, other)
        files += [(image, distortion) for image in images]
    if len(files) < rows:
        raise FaultError(Fault("missing_image", str(folder), f"{len(files)} images for {rows} scores: {_UNPACK}"))
    if len(files) > rows:
        raise FaultError(Fault("bad_label_row", str(path), f"{rows} scores for {len(files)} images: {_UNPACK}"))
    return pd.DataFrame(files, columns=["image", "distortion"])


def read_csiq(folder: Path) -> Reading:
    """CSIQ as released, or with all distorted images in one folder.

    mos is 1 minus DMOS. At most four levels of contrast change were rated per image; the folder may hold unrated ones.
    """
    fix = "put csiq.DMOS.xlsx of https://s2.smu.edu/~eclarson/csiq.html, or a csiq_label.txt, beside dst_imgs/"
    path = label_file(folder, "csiq.DMOS.xlsx", "csiq_label.txt", fix=fix)
    rows = _csiq_sheet(path) if path.suffix.lower() == ".xlsx" else read_words(path, ["name", "dmos"])
    pattern = rf"(.+)\.({'|'.join(_CSIQ_DISTORTIONS)})\.(\d)\.png"
    parts = parts_of(rows["name"], pattern, path, "1600.AWGN.1.png")
    tokens = parts[1].str.lower().map(_CSIQ_TOKENS)
    places = ("dst_imgs", "dst_imgs_all")
    images = on_disk(folder, rows["name"], *places, inner=tokens.str.lower().tolist())
    contrast = [f"{content}.contrast.{level}.png" for content in sorted(set(parts[0])) for level in range(1, 6)]
    unrated = set(on_disk(folder, contrast, *places, inner=["contrast"] * len(contrast))) - set(images)
    facts = dict(content=parts[0].str.lower() + ".png", distortion=tokens.map(_CSIQ_DISTORTIONS), level=parts[2])
    table = label_table(path, rows["name"], image=images, mos=1.0 - numbers(rows["dmos"]), **facts)
    return Reading(table, path, unrated=frozenset(unrated))


def _csiq_sheet(path: Path) -> pd.DataFrame:
    """File names and DMOS of the official spreadsheet, which holds the parts of a file name in columns."""
    rows = read_columns(path, ["image", "dst_type", "dst_lev", "dmos"])
    tokens = rows["dst_type"].str.lower().str.replace(" ", "").map(_CSIQ_TOKENS)
    if odd := sorted(set(rows["dst_type"][tokens.isna()].map(repr))):
        raise FaultError(bad_row(path, odd, f"CSIQ has no such distortion: {AGAIN}"))
    return pd.DataFrame({"name": rows["image"] + "." + tokens + "." + rows["dst_lev"] + ".png", "dmos": rows["dmos"]})


def read_tid2013(folder: Path) -> Reading:
    """TID2013: file names in mixed case hold reference, distortion and level; mos is as published."""
    path = label_file(folder, "mos_with_names.txt")
    rows = read_words(path, ["mos", "name"])
    parts = parts_of(rows["name"], r"(i\d\d)_(\d\d)_(\d)\.bmp", path, "i01_01_1.bmp")
    images = on_disk(folder, rows["name"], "distorted_images")
    distortion = _numbered(_TID2013_DISTORTIONS, parts[1], path)
    facts = dict(content=parts[0].str.lower() + ".bmp", distortion=distortion, level=parts[2])
    return Reading(label_table(path, rows["name"], image=images, mos=numbers(rows["mos"]), **facts), path)


def read_kadid10k(folder: Path) -> Reading:
    """KADID-10k with references and distorted images in one folder, or sorted into two folders.

    mos is the column "dmos" as published: in spite of its name, higher is better.
    """
    path = label_file(folder, "dmos.csv")
    rows = read_columns(path, ["dist_img", "ref_img", "dmos"])
    parts = parts_of(rows["dist_img"], r"(i\d\d)_(\d\d)_(\d\d)\.png", path, "I01_01_01.png")
    content = rows["ref_img"].map(file_name).str.lower()
    if odd := rows["dist_img"][content != parts[0].str.lower() + ".png"].tolist():
        raise FaultError(bad_row(path, odd, f"ref_img is not the reference of this image: {AGAIN}"))
    place = next((name for name in ("images", "distorted_images") if find(folder, name)), "images")
    images = on_disk(folder, rows["dist_img"], place)
    facts = dict(content=content, distortion=_numbered(_KADID_DISTORTIONS, parts[1], path), level=parts[2])
    table = label_table(path, rows["dist_img"], image=images, mos=numbers(rows["dmos"]), **facts)
    return Reading(table, path, unrated=frozenset(on_disk(folder, sorted(set(content)), place)))


def _numbered(distortions: tuple[str, ...], values: pd.Series, path: Path) -> list[str]:
    """Names of distortions from their numbers (str), which start at 1."""
    odd = sorted({int(value) for value in values if not 1 <= int(value) <= len(distortions)})
    if odd:
        fix = f"distortions go from 1 to {len(distortions)}: {AGAIN}"
        raise FaultError(Fault("bad_label_row", f"{path}: distortion {first_few([str(n) for n in odd])}", fix))
    return [distortions[int(value) - 1] for value in values]


def read_demo(folder: Path) -> Reading:
    """The demo as `lmcl_core.data.demo` builds it. mos is a proxy in dB."""
    fix = "delete the folder; it is built again"
    path = label_file(folder, LABEL_FILE)
    rows = read_columns(path, ["image", "mos", "content", "distortion", "level"], fix)
    level = numbers(rows["level"])
    if odd := rows["image"][~np.isfinite(level)].tolist():
        raise FaultError(bad_row(path, odd, f"level is not a number: {fix}"))
    rows = rows.assign(mos=numbers(rows["mos"]), level=level.astype(int))
    return Reading(label_table(path, rows["image"], **rows), path)

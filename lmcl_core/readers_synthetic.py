"""Readers of the benchmarks whose pictures were distorted on purpose: LIVE, CSIQ, TID2013, KADID-10k and the demo.

Their content is the reference picture, as its file name in lower case.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from .faults import AGAIN, Fault, FaultError, some
from .labels import find, label_file, mat_column, mat_names, numbers, parts_of, read_columns, read_words
from .readers import Reading, file_name, labelled, on_disk, picture_names

#: LIVE's folders, in the order of its label files: number of pictures, distortion, another name seen for the folder.
LIVE_FOLDERS = {
    "jp2k": (227, "JPEG 2000", "jp2k"),
    "jpeg": (233, "JPEG", "jpeg"),
    "wn": (174, "white noise", "wn"),
    "gblur": (174, "Gaussian blur", "blur"),
    "fastfading": (174, "fast fading", "fastfading"),
}
_UNPACK = "unpack the archive again, with its label files"
_REALIGNED = (
    "get the realigned subjective scores from https://live.ece.utexas.edu/research/Quality/subjective.htm and put "
    "dmos_realigned.mat beside refnames_all.mat; dmos.mat holds other scores, do not rename it"
)

#: CSIQ's distortions by their part of a file name, and by their name in csiq.DMOS.xlsx without blanks.
CSIQ_DISTORTIONS = {
    "AWGN": "white noise",
    "BLUR": "Gaussian blur",
    "contrast": "contrast",
    "fnoise": "pink noise",
    "JPEG": "JPEG",
    "jpeg2000": "JPEG 2000",
}
_CSIQ_TYPES = {token.lower(): token for token in CSIQ_DISTORTIONS} | {"noise": "AWGN"}

TID2013_DISTORTIONS = (
    "additive Gaussian noise",
    "noise stronger in colour",
    "spatially correlated noise",
    "masked noise",
    "high-frequency noise",
    "impulse noise",
    "quantisation noise",
    "Gaussian blur",
    "denoising",
    "JPEG",
    "JPEG 2000",
    "JPEG transmission errors",
    "JPEG 2000 transmission errors",
    "non-eccentricity pattern noise",
    "local block-wise distortion",
    "mean shift",
    "contrast change",
    "colour saturation change",
    "multiplicative Gaussian noise",
    "comfort noise",
    "lossy compression of noisy images",
    "colour quantisation with dither",
    "chromatic aberration",
    "sparse sampling",
)
KADID_DISTORTIONS = (
    "Gaussian blur",
    "lens blur",
    "motion blur",
    "colour diffusion",
    "colour shift",
    "colour quantisation",
    "colour saturation 1",
    "colour saturation 2",
    "JPEG 2000",
    "JPEG",
    "white noise",
    "white noise in colour component",
    "impulse noise",
    "multiplicative noise",
    "denoise",
    "brighten",
    "darken",
    "mean shift",
    "jitter",
    "non-eccentricity patch",
    "pixelate",
    "quantisation",
    "colour block",
    "high sharpen",
    "contrast change",
)


def read_live(folder: Path) -> Reading:
    """LIVE release 2: a row for every file of five folders, of which the copies of the references are left out.

    Args:
        folder: databaserelease2.

    Returns:
        mos is 100 minus the realigned DMOS.

    Raises:
        FaultError: a label file cannot be used.
    """
    names_file = label_file(folder, "refnames_all.mat")
    scores_file = label_file(folder, "dmos_realigned.mat", fix=_REALIGNED)
    references = mat_names(names_file, "refnames_all")
    mos = 100.0 - numbers(mat_column(scores_file, "dmos_new", _REALIGNED))
    copies = numbers(mat_column(scores_file, "orgs", _REALIGNED)) == 1
    if not len(mos) == len(copies) == len(references):
        fix = f"{len(mos)} scores for {len(references)} names in {names_file.name}: fetch both files again"
        raise FaultError(Fault("bad_label_row", str(scores_file), fix))
    files = _live_files(folder, scores_file, len(mos))
    rated = files[~copies]
    table = labelled(
        scores_file,
        list(rated["image"]),
        image=rated["image"].to_numpy(),
        mos=mos[~copies],
        content=[file_name(name).lower() for name, copy in zip(references, copies) if not copy],
        distortion=rated["distortion"].to_numpy(),
    )
    return Reading(table, scores_file, unrated=frozenset(files["image"][copies]), pristine=mos[copies])


def _live_files(folder: Path, scores_file: Path, rows: int) -> pd.DataFrame:
    """The files of LIVE's five folders in the order of its labels.

    A part of the set has fewer files than the official number; each folder then ends with its highest number.
    """
    official = rows == sum(count for count, _, _ in LIVE_FOLDERS.values())
    files = []
    for name, (count, distortion, other) in LIVE_FOLDERS.items():
        place = find(folder, name) or find(folder, other)
        if place is None:
            raise FaultError(Fault("missing_folder", str(folder / name), _UNPACK))
        if not official:
            seen = (re.fullmatch(r"(?i)img(\d+)\.bmp", file) for file in picture_names(place))
            count = max((int(match[1]) for match in seen if match), default=0)
        names = [f"img{n}.bmp" for n in range(1, count + 1)]
        files += [(image, distortion) for image in on_disk(folder, names, place.name)]
    if len(files) < rows:
        raise FaultError(Fault("missing_image", str(folder), f"{len(files)} pictures for {rows} scores: {_UNPACK}"))
    if len(files) > rows:
        raise FaultError(
            Fault("bad_label_row", str(scores_file), f"{rows} scores for {len(files)} pictures: {_UNPACK}")
        )
    return pd.DataFrame(files, columns=["image", "distortion"])


def read_csiq(folder: Path) -> Reading:
    """CSIQ, as released or with all distorted pictures in one folder.

    Args:
        folder: holds dst_imgs/ or dst_imgs_all/.

    Returns:
        mos is 1 minus DMOS.

    Raises:
        FaultError: the label file cannot be used.
    """
    fix = "put csiq.DMOS.xlsx of https://s2.smu.edu/~eclarson/csiq.html, or a csiq_label.txt, beside dst_imgs/"
    path = label_file(folder, "csiq.DMOS.xlsx", "csiq_label.txt", fix=fix)
    rows = _csiq_sheet(path) if path.suffix.lower() == ".xlsx" else read_words(path, ["name", "dmos"])
    pattern = rf"(.+)\.({'|'.join(CSIQ_DISTORTIONS)})\.(\d)\.png"
    parts = parts_of(rows["name"], pattern, path, "1600.AWGN.1.png")
    tokens = parts[1].str.lower().map(_CSIQ_TYPES)
    places = ("dst_imgs", "dst_imgs_all")
    images = on_disk(folder, rows["name"], *places, inner=tokens.str.lower().tolist())
    # people rated four strengths of contrast at most; pictures of others may lie among them
    contents = sorted(set(parts[0]))
    contrast = [f"{content}.contrast.{level}.png" for content in contents for level in range(1, 6)]
    table = labelled(
        path,
        rows["name"].tolist(),
        image=images,
        mos=1.0 - numbers(rows["dmos"]),
        content=parts[0].str.lower() + ".png",
        distortion=tokens.map(CSIQ_DISTORTIONS),
        level=parts[2].astype(int),
    )
    spare = set(on_disk(folder, contrast, *places, inner=["contrast"] * len(contrast))) - set(images)
    return Reading(table, path, unrated=frozenset(spare))


def _csiq_sheet(path: Path) -> pd.DataFrame:
    """File names and DMOS of the official spreadsheet, which holds the parts of a file name in columns."""
    rows = read_columns(path, ["image", "dst_type", "dst_lev", "dmos"])
    tokens = rows["dst_type"].str.lower().str.replace(" ", "").map(_CSIQ_TYPES)
    if tokens.isna().any():
        odd = [repr(kind) for kind in sorted(set(rows["dst_type"][tokens.isna()]))]
        raise FaultError(Fault("bad_label_row", f"{path}: {some(odd)}", f"no distortion of CSIQ: {AGAIN}"))
    return pd.DataFrame({"name": rows["image"] + "." + tokens + "." + rows["dst_lev"] + ".png", "dmos": rows["dmos"]})


def read_tid2013(folder: Path) -> Reading:
    """TID2013: names in mixed case, each telling reference, distortion and level.

    Args:
        folder: holds distorted_images/.

    Returns:
        mos as published.

    Raises:
        FaultError: the label file cannot be used.
    """
    path = label_file(folder, "mos_with_names.txt")
    rows = read_words(path, ["mos", "name"])
    parts = parts_of(rows["name"], r"(i\d\d)_(\d\d)_(\d)\.bmp", path, "i01_01_1.bmp")
    return Reading(
        labelled(
            path,
            rows["name"].tolist(),
            image=on_disk(folder, rows["name"], "distorted_images"),
            mos=numbers(rows["mos"]),
            content=parts[0].str.lower() + ".bmp",
            distortion=_numbered(TID2013_DISTORTIONS, parts[1], path),
            level=parts[2].astype(int),
        ),
        path,
    )


def read_kadid10k(folder: Path) -> Reading:
    """KADID-10k: references and distorted pictures lie in one folder; its column "dmos" is higher for better pictures.

    Args:
        folder: holds images/, or distorted_images/ where somebody has sorted it.

    Returns:
        mos is the column "dmos" as published.

    Raises:
        FaultError: the label file cannot be used.
    """
    path = label_file(folder, "dmos.csv")
    rows = read_columns(path, ["dist_img", "ref_img", "dmos"])
    parts = parts_of(rows["dist_img"], r"(i\d\d)_(\d\d)_(\d\d)\.png", path, "I01_01_01.png")
    content = rows["ref_img"].map(file_name).str.lower()
    odd = rows["dist_img"][content != parts[0].str.lower() + ".png"].tolist()
    if odd:
        raise FaultError(Fault("bad_label_row", f"{path}: {some(odd)}", f"ref_img is not its reference: {AGAIN}"))
    inside = next((name for name in ("images", "distorted_images") if find(folder, name)), "images")
    references = sorted({*rows["ref_img"], *(parts[0] + ".png")})
    table = labelled(
        path,
        rows["dist_img"].tolist(),
        image=on_disk(folder, rows["dist_img"], inside),
        mos=numbers(rows["dmos"]),
        content=content,
        distortion=_numbered(KADID_DISTORTIONS, parts[1], path),
        level=parts[2].astype(int),
    )
    return Reading(table, path, unrated=frozenset(on_disk(folder, references, inside)))


def _numbered(distortions: tuple[str, ...], numbers_: pd.Series, path: Path) -> list[str]:
    """Names of distortions that are counted from 1."""
    counted = numbers_.astype(int)
    odd = sorted(set(counted[~counted.between(1, len(distortions))]))
    if odd:
        fix = f"there are distortions 1 to {len(distortions)} only: {AGAIN}"
        raise FaultError(Fault("bad_label_row", f"{path}: distortion {some([str(n) for n in odd])}", fix))
    return [distortions[n - 1] for n in counted]


def read_demo(folder: Path) -> Reading:
    """The demo, as `lmcl_core.demo` builds it.

    Args:
        folder: holds labels.csv and images/.

    Returns:
        mos is a proxy in dB.

    Raises:
        FaultError: the label file cannot be used.
    """
    from .demo import LABEL_FILE

    again = "delete the folder; it is built again"
    path = label_file(folder, LABEL_FILE)
    rows = read_columns(path, ["image", "mos", "content", "distortion", "level"], again)
    level = numbers(rows["level"])
    if not np.isfinite(level).all():
        bad = rows["image"][~np.isfinite(level)].tolist()
        raise FaultError(Fault("bad_label_row", f"{path}: {some(bad)}", f"level is no number: {again}"))
    columns = dict(image=rows["image"], content=rows["content"], distortion=rows["distortion"])
    return Reading(
        labelled(path, rows["image"].tolist(), mos=numbers(rows["mos"]), level=level.astype(int), **columns), path
    )

"""Small copies of the official layouts: real names of folders, files and columns, generated images and scores.

Each function writes one below a parent folder and returns the official folder. `change` is applied to each score of
the label file; `column` is the name of the column of scores.
"""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import save_file
from scipy.io import savemat

Change = Callable[[float], object]

#: Number of rated images in the layouts below.
COUNTS = dict(live=20, csiq=58, tid2013=30, kadid10k=20, livec=12, koniq10k=12, livefb=15, spaq=10)
LABEL_FILES = dict(
    live=["dmos_realigned.mat", "refnames_all.mat"],
    csiq=["csiq.DMOS.xlsx"],
    tid2013=["mos_with_names.txt"],
    kadid10k=["dmos.csv"],
    livec=["Data/AllMOS_release.mat", "Data/AllImages_release.mat"],
    koniq10k=["koniq10k_distributions_sets.csv"],
    livefb=["labels_image.csv"],
    spaq=["Annotations/MOS and Image attribute scores.xlsx"],
)
_LIVEC_RATED = "10.bmp 100.bmp 3.JPG 4.JPG 5.bmp 6.bmp 7.JPG 8.bmp 9.JPG 11.bmp 12.bmp 13.JPG"
LIVEC_NAMES = [*(f"t{n}.bmp" for n in range(1, 8)), *_LIVEC_RATED.split()]
LIVE_SMALL = {name: 5 for name in ("jp2k", "jpeg", "wn", "gblur", "fastfading")}
LIVE_WHOLE = dict(jp2k=227, jpeg=233, wn=174, gblur=174, fastfading=174)
#: Folder and name in the spreadsheet by the part of a file name.
CSIQ_TYPES = dict(AWGN=("awgn", "noise"), BLUR=("blur", "blur"), contrast=("contrast", "contrast"))
CSIQ_TYPES |= dict(fnoise=("fnoise", "fnoise"), JPEG=("jpeg", "jpeg"), jpeg2000=("jpeg2000", "jpeg 2000"))
KONIQ_FILES = dict(sets="koniq10k_distributions_sets.csv", scores="koniq10k_scores_and_distributions.csv")


def same(score: float) -> float:
    return score


def write_image(path: Path, size: tuple[int, int] = (8, 8), seed: int | np.random.Generator = 0) -> None:
    """A coarse random image of width x height pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (max(1, size[1] // 4), max(1, size[0] // 4), 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def png_with(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with additional chunks, names and data, before its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    start, added = content.index(b"IDAT") - 4, b""
    for name, data in chunks:
        added += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content[:start] + added + content[start:]


def write_results(folder: Path, predictions: pd.DataFrame) -> None:
    """The files of a finished run except run.json; the model holds one weight."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame(dict(epoch=[1])).to_csv(folder / "history.csv", index=False)
    save_file({"weight": np.zeros(1)}, folder / "model.safetensors")


def cells(names: Sequence[str]) -> np.ndarray:
    """(1, n) cell array of strings."""
    array = np.empty((1, len(names)), dtype=object)
    array[0, :] = [np.array([name]) for name in names]
    return array


def row(scores: Sequence[object]) -> np.ndarray:
    """(1, n) float64 array; anything but a number becomes NaN."""
    return np.array([[score if isinstance(score, (int, float)) else np.nan for score in scores]], dtype=float)


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_book(path: Path, **sheets: list[list[object]]) -> None:
    """Write a spreadsheet; None is an empty cell."""
    from openpyxl import Workbook

    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


def write_live(
    parent: Path, change: Change = same, column: str = "dmos_new", files: dict[str, int] = LIVE_SMALL
) -> Path:
    """Labels in the order of five folders; in each, every fifth image from the first on is a copy of a reference."""
    folder, references = parent / "databaserelease2", ["bikes.bmp", "ocean.bmp"]
    names, scores, copies = [], [], []
    for place, count in files.items():
        for n in range(1, count + 1):
            write_image(folder / place / f"img{n}.bmp", seed=n)
            copy = n % 5 == 1
            names.append(references[n % 2])
            copies.append(int(copy))
            scores.append(0.0 if copy else 20.0 * (n % 5))
    for name in references:
        write_image(folder / "refimgs" / name)
    savemat(folder / "refnames_all.mat", {"refnames_all": cells(names)})
    flags = np.array([copies], dtype=np.uint8)
    savemat(folder / "dmos.mat", {"dmos": np.array([scores]) / 2, "orgs": flags})
    savemat(folder / "dmos_realigned.mat", {column: row([change(score) for score in scores]), "orgs": flags})
    return folder


def write_csiq(parent: Path, change: Change = same, column: str = "dmos", flat: str = "", text: bool = False) -> Path:
    """Folders in lower case, files in mixed case; the header of the spreadsheet is row 4 of its second sheet.

    `flat` is one folder for all distorted images; `text` writes csiq_label.txt instead of the spreadsheet.
    """
    folder, rows = parent / "CSIQ", []
    for content in ("1600", "aerial_city"):
        write_image(folder / "src_imgs" / f"{content}.png")
        for number, (token, (place, kind)) in enumerate(CSIQ_TYPES.items(), 1):
            for level in range(1, 5 if token == "contrast" else 6):
                write_image(folder / (flat or f"dst_imgs/{place}") / f"{content}.{token}.{level}.png", seed=level)
                score = change(level / 5 - 0.1 * (content == "1600"))
                rows.append((int(content) if content.isdigit() else content, number, token, kind, level, score))
    if text:
        lines = [f"{content}.{token}.{level}.png {score}" for content, _, token, _, level, score in rows]
        (folder / "csiq_label.txt").write_text("\n".join(lines) + "\n")
        return folder
    blank, edge = [[None] * 9] * 2, [None] * 3
    by_image = [[*edge, *row[:2], row[3], row[4], 0.1, row[5]] for row in rows]
    by_kind = [[*edge, row[3], row[0], row[4], row[5]] for row in rows if row[3] == "noise"]
    write_book(
        folder / "csiq.DMOS.xlsx",
        by_distortion=[["DMOS of CSIQ"], *blank, [*edge, "dst_type", "image", "dst_lev", column], *by_kind],
        all_by_image=[
            ["DMOS of CSIQ"],
            *blank,
            [*edge, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", column],
            *by_image,
        ],
    )
    return folder


def write_tid2013(parent: Path, change: Change = same, column: str = "mos") -> Path:
    """Names in mixed case that differ between disk and list; one reference in lower case.

    Another `column` leaves scores without names, as in mos.txt.
    """
    folder, lines = parent / "tid2013", []
    for content in ("01", "25"):
        write_image(folder / "reference_images" / ("i25.bmp" if content == "25" else f"I{content}.BMP"))
        for kind in ("01", "17", "24"):
            for level in range(1, 6):
                name = f"{content}_{kind}_{level}"
                write_image(
                    folder / "distorted_images" / (f"I{name}.BMP" if level == 3 else f"i{name}.bmp"), seed=level
                )
                score = change(round(7.2 - 1.4 * (level - 1) - 0.3 * (content == "01"), 5))
                lines.append(f"{score} {'I' if level % 2 else 'i'}{name}.bmp" if column == "mos" else f"{score}")
    (folder / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")
    return folder


def write_kadid10k(parent: Path, change: Change = same, column: str = "dmos", sorted_out: bool = False) -> Path:
    """References and distorted images in one folder, or `sorted_out` into two."""
    folder, rows = parent / "kadid10k", [["dist_img", "ref_img", column, "var"]]
    for content in ("I01", "I81"):
        write_image(folder / ("reference_images" if sorted_out else "images") / f"{content}.png")
        for kind in ("01", "25"):
            for level in range(1, 6):
                name = f"{content}_{kind}_{level:02d}.png"
                write_image(folder / ("distorted_images" if sorted_out else "images") / name, seed=level)
                rows.append([name, f"{content}.png", change(5.6 - 0.9 * level), 0.5])
    write_rows(folder / "dmos.csv", rows)
    return folder


def write_livec(parent: Path, change: Change = same, column: str = "AllMOS_release", seed: int = 0) -> Path:
    """Seven training images and twelve rated ones; the names are a column, the scores per row."""
    folder = parent / "ChallengeDB_release"
    rng = np.random.default_rng(seed)
    for n, name in enumerate(LIVEC_NAMES):
        size = (60, 40) if name == "6.bmp" else (48, 48)  # one image is not square
        write_image(folder / "Images" / ("trainingImages" if n < 7 else "") / name, size, rng)
    (folder / "Data").mkdir()
    scores = [*[1.0] * 7, *(change(float(score)) for score in np.linspace(5, 90, len(LIVEC_NAMES) - 7))]
    savemat(folder / "Data" / "AllImages_release.mat", {"AllImages_release": cells(LIVEC_NAMES).T})
    savemat(folder / "Data" / "AllMOS_release.mat", {column: row(scores)})
    return folder


def write_koniq10k(
    parent: Path,
    change: Change = same,
    column: str | None = None,
    sizes: Sequence[str] = ("1024x768",),
    files: Sequence[str] = ("sets",),
) -> Path:
    """`sizes` are folders of images, `files` label files: "sets" has MOS on 0..100, "scores" has MOS on 1..5."""
    folder, counts = parent / "koniq10k", ["c1", "c2", "c3", "c4", "c5", "c_total"]
    tables = dict(
        sets=[["image_name", *counts, column or "MOS", "SD", "set"]],
        scores=[["image_name", *counts, "MOS", "SD", column or "MOS_zscore"]],
    )
    for n in range(12):
        name, score = f"{1000 + n}.jpg", 5.0 + 7.0 * n
        for size in sizes:
            width, height = (int(side) // 64 for side in size.split("x"))
            write_image(folder / size / name, (width, height), n)
        part = ("training", "validation", "test")[max(0, n - 9)]
        tables["sets"].append([name, 0, 0, 1, 0, 0, 100, change(score), 0.5, part])
        tables["scores"].append([name, 0, 0, 100, 0, 0, 100, 1 + score / 25, 0.5, change(score)])
    for file in files:
        write_rows(folder / KONIQ_FILES[file], tables[file])
    return folder


def write_livefb(parent: Path, change: Change = same, column: str = "mos") -> Path:
    """Three folders of images and one of patches; one score is exactly 0, one extension is in capitals."""
    folder = parent / "database"
    names = [f"voc_emotic_ava/AVA__{n}.jpg" for n in range(8)]
    names += [f"blur_dataset/motion000{n}.jpg" for n in range(3)] + ["blur_dataset/out_of_focus0079.JPG"]
    names += [f"EE371R/rq{n}.jpg" for n in (59, 73, 85)]
    for n, name in enumerate(names):
        write_image(folder / name, seed=n)
    write_image(folder / "patches" / "AVA__0.jpg")
    rows = [[name, change(0.0 if n == 4 else 20.0 + 5.0 * n)] for n, name in enumerate(names)]
    write_rows(folder / "labels_image.csv", [["name", column], *rows])
    write_rows(folder / "labels_patch.csv", [["name", "mos"], ["patches/AVA__0.jpg", 50.0]])
    tested = [[60.0, f"patches/{Path(name).name}", 55.0, name] for name in names[:2]]
    write_rows(folder / "labels640.csv", [["mos_patch_1", "name_patch", "mos_image", "name_image"], *tested])
    rest = [[name, str(n % 4 == 0)] for n, name in enumerate(names[2:12])]
    write_rows(folder / "labels=640_padded.csv", [["name_image", "is_valid"], *rest])
    return folder


def write_spaq(parent: Path, change: Change = same, column: str = "MOS", ending: str = ".xlsx") -> Path:
    """Scores in a spreadsheet beside another one, or in a .csv of the same name."""
    folder = parent / "SPAQ"
    rows = [["Image name", column, "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]]
    for n in range(1, 11):
        write_image(folder / "TestImage" / f"{n:05d}.jpg", seed=n)
        rows.append([f"{n:05d}.jpg", change(9.0 * n), *[50.0] * 5])
    path = folder / "Annotations" / f"MOS and Image attribute scores{ending}"
    write_book(path, Sheet1=rows) if ending == ".xlsx" else write_rows(path, rows)
    write_book(folder / "Annotations" / "EXIF_tags.xlsx", tags=[["Image name", "ISO"], ["00001.jpg", 100]])
    return folder


def write_demo(parent: Path) -> Path:
    """The demo with 15 tiny images whose scores fall with the level."""
    folder = parent / "demo"
    rows = [["image", "mos", "content", "distortion", "level"]]
    rows += [[f"images/{c}.{level}.png", 30.0 - 5 * level, c, "blur", level] for c in "abc" for level in range(1, 6)]
    for image, *_ in rows[1:]:
        write_image(folder / image)
    write_rows(folder / "labels.csv", rows)
    return folder


LAYOUTS: dict[str, Callable[..., Path]] = {name: globals()[f"write_{name}"] for name in COUNTS}


OWN_TOML = """name = "mine"
title = "My pictures"
labels = "labels.csv"
mos_range = [0, 100]
higher_is_better = true
label_kind = "opinion of three raters"
source = "made up"
[columns]
image = "file"
mos = "score"
"""


def write_own(folder: Path, toml: str = OWN_TOML) -> Path:
    """Twelve pictures, four references at three levels of blur, with labels."""
    (folder / "images").mkdir(parents=True)
    (folder / "benchmark.toml").write_text(toml)
    rows = []
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        level = 1 + n % 3
        rows.append(dict(file=f"images/{n}.png", score=90 - 30 * level + n, content=f"Ref{n // 3}"))
        rows[-1] |= dict(distortion="blur", level=level, official_split="test" if n > 8 else "train")
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder.resolve()

"""Output of ``lmcl score``: rows as a table, CSV or JSON on standard output; overlays of saliency and crop scores."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.errors import InputError, counted, save_failed
from ..common.files import atomic_write, ensure_writable
from ..common.paths import resolve_path
from ..common.progress import above_bar, bar
from .files import FileScore, image_files, score_files

if TYPE_CHECKING:  # wrong use of the command is reported before torch and matplotlib are imported
    from matplotlib.figure import Figure

    from ..inference import Scorer

DENSITY = 4  #: end of the colour scale of saliency, as a multiple of a uniform map


def check_options(paths: Sequence[str], out: str | None, is_printed: bool, scheduler: str, workers: int) -> None:
    """Raise `InputError` for options that exclude each other.

    `is_printed` says whether an option of printed rows or overlays is given; the others are those of the command.
    """
    if not all(path.strip() for path in paths):
        raise InputError("PATHS is empty: name a file or folder, or leave it out")
    if out is not None:
        if is_printed:
            raise InputError("--overlays, --format and --batch-size do not work with --out: leave one of them out")
        return
    if scheduler or workers:
        raise InputError("--scheduler and --workers need --out FOLDER, because they write the scores to files")
    if address := next((path for path in paths if "://" in path), None):
        raise InputError(f"{address} is an address: add --out FOLDER, or name files and folders")


def _print(text: str) -> None:
    """Write to standard output and flush. A full disk raises RunError; the error of a closed pipe is passed on."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # buffered text would fail again at exit
        raise save_failed("the scores on standard output", error) from error


@contextmanager
def _csv() -> Iterator[Callable[[dict[str, Any]], None]]:
    writer = csv.DictWriter(SimpleNamespace(write=_print), ["image", "score", "percentile"], lineterminator="\n")
    writer.writeheader()
    yield lambda row: writer.writerow({**row, "image": row["image"].replace("\r", "\\r")})  # "\r" would end the row


@contextmanager
def _json() -> Iterator[Callable[[dict[str, Any]], None]]:
    separators = chain("[", repeat(","))
    try:
        yield lambda row: _print(f"{next(separators)}\n{json.dumps(row)}")
    finally:  # close the array after an interrupt, too
        _print("[]\n" if next(separators) == "[" else "\n]\n")


@contextmanager
def _table() -> Iterator[Callable[[dict[str, Any]], None]]:
    def write(row: dict[str, Any]) -> None:
        name = "".join(letter if letter.isprintable() else "?" for letter in row["image"])
        with above_bar():
            _print(f"{row['score']:6.1f}  {row['percentile']:10.0f}  {name}\n")

    _print(" score  percentile  image\n")
    yield write


#: Output formats: context managers that return a function, which prints one row (image, score, percentile).
WRITERS = {"csv": _csv, "json": _json, "table": _table}


def print_scores(
    paths: Sequence[str], weights: str, form: str | None, overlays: str | None, batch_size: int, device: str
) -> int:
    """Print one row per image as soon as it is scored, and faults on stderr; return the number of unreadable files.

    Missing paths are reported first, before the model is loaded. The last line on stderr counts the images, on a
    terminal or if some were not scored.

    `paths` are images, and folders at any depth; `weights` and `device` are as in `load`; `form` is a key of `WRITERS`,
    or None: "table" on a terminal, else "csv"; `overlays` is a folder for overlays, or None. A terminal also gets the
    `meaning` of the scores, on stderr. InputError: a folder without images, or arguments that `check_overlays`, `load`
    or `score_files` refuse. RunError: a row or an overlay cannot be written.
    """
    folder = None if overlays is None else resolve_path(overlays)
    if folder is not None:
        check_overlays(folder, paths)
    files, missing = _find(paths)
    for path in missing:
        print(f"no file or folder {' '.join(path.split())}: check the path", file=sys.stderr)
    scorer = _load(weights, device) if files else None
    on_terminal, faults = sys.stdout.isatty(), len(missing)
    with WRITERS[form or ("table" if on_terminal else "csv")]() as write:
        scores = bar(score_files(scorer, files, batch_size), len(files), "scoring") if files else ()
        for number, scored in enumerate(scores):
            if scored.fault is not None:
                faults += 1
                with above_bar():
                    print(" ".join(scored.fault.split()), file=sys.stderr)
                continue
            write(dict(image=scored.image, score=round(scored.score, 4), percentile=round(scored.percentile, 2)))
            if folder is not None:
                faults += not save_overlay(folder, scorer, scored, number)
    if faults or on_terminal or sys.stderr.isatty():
        total = len(files) + len(missing)
        print(f"{counted(total - faults, 'image')} scored, {faults} could not be read", file=sys.stderr)
    return faults


def _find(paths: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Image files at and below some paths, each once, and the paths that do not exist.

    InputError: a folder without images.
    """
    files, missing = [], list(filter(_is_missing, dict.fromkeys(paths)))
    for path in [path for path in dict.fromkeys(paths) if path not in missing]:
        found = image_files(path)
        if not found:
            raise InputError(f"no images in {path}, apart from hidden ones: name image files, or folders of images")
        files += found
    return list(dict.fromkeys(files)), missing


def _is_missing(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def _load(weights: str, device: str) -> Scorer:
    """A model; on a terminal, print the `meaning` of its scores."""
    from ..inference import load  # imports torch

    scorer = load(weights, device)
    if sys.stdout.isatty() or sys.stderr.isatty():
        print(meaning(scorer), file=sys.stderr)
    elif scorer.about["benchmark"] == "demo":
        print(f"note: these weights predict the demo's labels, {scorer.about['label_kind']}", file=sys.stderr)
    return scorer


def meaning(scorer: Scorer) -> str:
    """Four lines about a model's scores: their scale, its training data, and what it does not know."""
    about, (low, high) = scorer.about, scorer.about["mos_range"]
    return (
        f"score: predicted {about['axis']}, {low:g} to {high:g}, higher is better\n"
        f"model: {scorer.recipe.backbone}, trained on {about['title']} ({about['label_kind']})\n"
        "percentile: percentage of the training images with a lower MOS\n"
        "limits: scores of other kinds of images or distortions than in its training data are unreliable"
    )


def check_overlays(folder: Path, sources: Iterable[str | Path]) -> None:
    """Create the folder of overlays if it is missing.

    InputError: it is a file or lies in one of the `sources` that are scored. RunError: it is not writable.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--overlays is {folder}, a file: name a folder")
    for source in filter(os.path.isdir, sources):
        if folder.resolve().is_relative_to(Path(source).resolve()):
            problem = f"--overlays is {folder}, inside {source}, whose images are scored"
            raise InputError(f"{problem}: name a folder elsewhere, or the next call scores the overlays too")
    ensure_writable(folder)


def save_overlay(folder: Path, scorer: Scorer, scored: FileScore, number: int) -> bool:
    """Save an overlay as ``NUMBER_STEM.png``, where STEM is the file name without suffix, cut to 60 characters.

    Returns whether there was memory for it. RunError: it cannot be saved.
    """
    try:
        figure = score_overlay(scorer, scored)
        with atomic_write(folder / f"{number:05d}_{Path(scored.image).stem[:60]}.png") as path:
            figure.savefig(path, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    except MemoryError:
        with above_bar():
            print(f"overlay of {scored.image} needs more memory than is free: save it smaller", file=sys.stderr)
        return False
    return True


def score_overlay(scorer: Scorer, scored: FileScore) -> Figure:
    """Draw a scored image with its test crops, its saliency map, and at each pixel the mean score of its crops.

    The crop with the highest saliency has a thick frame. All images of a model share the colours: scores span the MOS
    of its benchmark, saliency 0 to `DENSITY`.
    """
    from matplotlib.figure import Figure

    from ..results.palette import DOUBLE, DPI, TYPE, draw_crops, draw_saliency

    crop_scores = scorer.to_mos(scored.prediction.crop_scores[0])  # (K,)
    low, high = scorer.about["mos_range"]
    height, width = scored.pixels.shape[:2]
    mean = _mean_of_crops(height, width, scored.prediction.boxes[0].tolist(), crop_scores)
    figure = Figure(figsize=(DOUBLE, min(2.3 * height / width, 8) + 0.9), dpi=DPI, layout="constrained")
    titles = (
        f"score {scored.score:.1f}, percentile {scored.percentile:.0f}",
        "saliency",
        f"crop scores {crop_scores.min():.1f} to {crop_scores.max():.1f}",
    )
    axes, extent = figure.subplots(1, 3), (0, width, height, 0)
    for axis, title in zip(axes, titles):
        axis.imshow(scored.pixels.numpy(), extent=extent)
        axis.axis("off")
        axis.set_title(title, fontsize=TYPE)
    draw_crops(axes[0], scored.prediction.boxes[0].tolist(), int(scored.prediction.weights[0].argmax()))
    density = draw_saliency(axes[1], scored.prediction.saliency[0].numpy(), height, width, DENSITY)
    scores = axes[2].imshow(mean, cmap="viridis", alpha=0.7, extent=extent, vmin=low, vmax=high)
    mos = f"MOS of {scorer.about['title']}"
    bars = ((axes[1], density, "max", "density, 1 = uniform"), (axes[2], scores, "both", mos))
    for axis, drawn, extend, label in bars:
        bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.9, extend=extend)
        bar.set_label(label, size=TYPE)
        bar.ax.tick_params(labelsize=TYPE)
    below = figure.colorbar(scores, ax=axes[0], location="bottom", shrink=0.9).ax  # as high as the two bars
    below.clear()
    below.axis("off")
    below.text(0.5, 0.0, "test crops, the salient one orange", transform=below.transAxes, ha="center", fontsize=TYPE)
    return figure


def _mean_of_crops(height: int, width: int, boxes: list[list[int]], crop_scores: np.ndarray) -> np.ndarray:
    """Mean score of the crops that cover each pixel; NaN where none does."""
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (top, left, h, w), score in zip(boxes, crop_scores):
        total[top : top + h, left : left + w] += score
        count[top : top + h, left : left + w] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

"""Score image files: decode in background threads, predict in batches, hold only a few images in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from ..common.errors import InputError
from ..common.prefetch import prefetch_map
from ..data.images import images_below, load_rgb

if TYPE_CHECKING:  # wrong use is reported before torch is imported
    from torch import Tensor

    from ..inference import Prediction, Scorer


class FileScore(NamedTuple):
    """The score of one image file. Of a file that cannot be read, only `image` and `fault` are set.

    Attributes:
        image: path of the file.
        score: MOS units, higher is better.
        percentile: percentage of the training images with a lower MOS.
        fault: why the file cannot be read; None if it was scored.
        pixels: (H, W, 3) uint8 RGB as the model saw them.
        prediction: the model's output for this image alone, n = 1.
    """

    image: str
    score: float | None = None
    percentile: float | None = None
    fault: str | None = None
    pixels: Tensor | None = None
    prediction: Prediction | None = None


def image_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """List image files, each once: files as they are named, and folders searched at any depth in sorted order."""
    seen = set()
    for path in map(Path, paths):
        for file in images_below(path) if os.path.isdir(path) else [path]:
            if file not in seen:
                seen.add(file)
                yield file


def score_files(
    scorer: Scorer,
    files: Iterable[str | Path],
    batch_size: int = 8,
    readers: int = 2,
    open_file: Callable[[str | Path], str | Path | Image.Image] = lambda file: file,
) -> Iterator[FileScore]:
    """Score image files in their order. A file that cannot be read does not stop the others.

    Args:
        scorer: from `load`.
        files: paths, taken from the iterable only as they are needed.
        batch_size: images that the model predicts together, >= 1; else InputError.
        readers: threads that decode images, >= 1; else InputError.
        open_file: opens a file that is not a local path; it returns what `load_rgb` accepts or raises `InputError`.

    Yields:
        One `FileScore` per file.
    """
    for name, value in (("batch_size", batch_size), ("readers", readers)):
        if value < 1:
            raise InputError(f"{name} is {value!r}: it must be at least 1")
    read = partial(_read, open_file, scorer.short_side)
    return _score(scorer, prefetch_map(read, files, readers, batch_size + readers), batch_size)


def _score(scorer: Scorer, images: Iterator[tuple], batch_size: int) -> Iterator[FileScore]:
    while batch := list(islice(images, batch_size)):
        readable = [pixels for _, pixels in batch if not isinstance(pixels, InputError)]
        predictions = iter(next(scorer.predict(readable, batch_size)).split() if readable else [])
        for file, pixels in batch:
            if isinstance(pixels, InputError):
                yield FileScore(str(file), fault=str(pixels))
                continue
            prediction = next(predictions)
            score = float(scorer.to_mos(prediction.score)[0])
            yield FileScore(str(file), score, float(scorer.percentile(score)), None, pixels, prediction)


def _read(open_file: Callable, short_side: int, file: str | Path) -> tuple[str | Path, Tensor | InputError]:
    try:
        return file, load_rgb(open_file(file), short_side)
    except InputError as error:
        return file, error

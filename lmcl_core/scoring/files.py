"""Score image files: decode in background threads, predict in batches, hold only a few images in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from ..common.errors import InputError, first_line
from ..common.prefetch import MOST_BYTES, prefetch_map
from ..data.images import images_below, load_rgb

if TYPE_CHECKING:  # wrong use is reported before torch is imported
    from torch import Tensor

    from ..inference import Prediction, Scorer


class FileScore(NamedTuple):
    """The score of one image file. Of a file that cannot be read, only `image` and `fault` are set."""

    image: str  #: path of the file
    score: float | None = None  #: MOS units, higher is better
    percentile: float | None = None  #: percentage of the training images with a lower MOS
    fault: str | None = None  #: why the file cannot be read; None if it was scored
    pixels: Tensor | None = None  #: (H, W, 3) uint8 RGB as the model saw them
    prediction: Prediction | None = None  #: the model's output for this image alone, n = 1


def image_files(path: str | Path) -> list[Path]:
    """List image files: a file as it is named, and those of a folder, searched at any depth, in sorted order."""
    return images_below(Path(path)) if os.path.isdir(path) else [Path(path)]


def score_files(
    scorer: Scorer,
    files: Iterable[str | Path],
    batch_size: int = 8,
    readers: int = 2,
    open_file: Callable[[str | Path], str | Path | Image.Image] = lambda file: file,
) -> Iterator[FileScore]:
    """Score image files in their order, and yield one `FileScore` per file; no file stops the others.

    Memory does not grow with the number of files: about 3.6 GB at most, for the largest images that
    `data.formats.check_image` accepts.

    Args:
        scorer: from `load`.
        files: paths, taken from the iterable only as they are needed.
        batch_size: images that the model predicts together, >= 1; else InputError.
        readers: threads that decode images, >= 1; else InputError.
        open_file: opens a file that is not a local path; it returns what `load_rgb` accepts or raises `InputError`.
    """
    for name, value in (("batch_size", batch_size), ("readers", readers)):
        if value < 1:
            raise InputError(f"{name} is {value!r}: it must be at least 1")
    read = partial(_read, open_file, scorer.short_side)
    return _score(scorer, prefetch_map(read, files, readers, batch_size + readers, _bytes), batch_size)


def _score(scorer: Scorer, images: Iterator[tuple], batch_size: int) -> Iterator[FileScore]:
    for batch in _batches(images, batch_size):
        readable = [one for one in batch if not isinstance(one[1], InputError)]
        predictions = iter(_predict(scorer, readable))
        for file, pixels in batch:
            found = pixels if isinstance(pixels, InputError) else next(predictions)
            if isinstance(found, InputError):
                yield FileScore(str(file), fault=str(found))
                continue
            score = float(scorer.to_mos(found.score)[0])
            yield FileScore(str(file), score, float(scorer.percentile(score)), None, pixels, found)


def _batches(images: Iterator[tuple], batch_size: int) -> Iterator[list[tuple]]:
    """Batches of images, smaller ones where the images are large."""
    batch = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size or sum(map(_bytes, batch)) > MOST_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _bytes(image: tuple[str | Path, Tensor | InputError]) -> int:
    return 0 if isinstance(image[1], InputError) else image[1].numel()


def _predict(scorer: Scorer, batch: list[tuple[str | Path, Tensor]]) -> list[Prediction | InputError]:
    """Predict a batch; if that fails, each image alone, so that one image does not stop the others."""
    if not batch:
        return []
    try:
        return next(scorer.predict([pixels for _, pixels in batch], len(batch))).split()
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError if memory is short
        if len(batch) == 1:
            return [_failed(batch[0][0], "scored", error)]
    return [prediction for one in batch for prediction in _predict(scorer, [one])]


def _read(open_file: Callable, short_side: int, file: str | Path) -> tuple[str | Path, Tensor | InputError]:
    try:
        opened = open_file(file)  # an error of a store that does not answer is not the file's fault
        try:
            return file, load_rgb(opened, short_side)
        except Exception as error:  # whatever a file does to a decoder
            raise error if isinstance(error, InputError) else _failed(file, "read", error) from error
    except InputError as error:
        return file, error
    except MemoryError as error:
        return file, _failed(file, "read", error)


def _failed(file: str | Path, work: str, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {first_line(error)}"
    return InputError(f"image {file} cannot be {work} ({reason}): save it again in a smaller size, or leave it out")

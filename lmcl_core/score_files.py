"""Scores of any number of picture files: decoded ahead, scored in batches, a few of them in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from .ahead import mapped
from .errors import InputError
from .looking import Look
from .pictures import pictures_below
from .scoring import Scorer, as_picture


class FileScore(NamedTuple):
    """What is said of one file.

    Attributes:
        image: its path.
        score: in MOS units, higher is better; None where it could not be read.
        percentile: share of the training images with a lower MOS, 0..100; None likewise.
        fault: why it could not be read; None where it was.
        picture: (H, W, 3) uint8 pixels as they were scored; None where it could not be read.
        look: what the model saw in this picture alone; None likewise.
    """

    image: str
    score: float | None
    percentile: float | None
    fault: str | None
    picture: Tensor | None
    look: Look | None


def picture_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Picture files named one by one or by their folders, each once, in that order.

    Args:
        paths: files, taken as they are, and folders, searched at any depth.

    Returns:
        Their paths; those of a folder sorted.
    """
    seen = set()
    for path in map(Path, paths):
        for file in pictures_below(path) if os.path.isdir(path) else [path]:
            if file not in seen:
                seen.add(file)
                yield file


def _itself(file: str | Path) -> str | Path:
    return file


def score_files(
    scorer: Scorer,
    files: Iterable[str | Path],
    batch_size: int = 8,
    readers: int = 2,
    open_file: Callable[[str | Path], str | Path | Image.Image] = _itself,
) -> Iterator[FileScore]:
    """Score files one after another; a file that cannot be read takes nothing from the others.

    No more than a few batches of pictures are held at any time, whatever the number of files.

    Args:
        scorer: from `load`.
        files: their paths.
        batch_size: pictures that the model looks at together, >= 1.
        readers: threads that decode ahead, >= 1.
        open_file: turns a file into what `scoring.as_picture` takes, for those that are no paths; `InputError` where it
            cannot.

    Returns:
        One `FileScore` a file, in their order.

    Raises:
        InputError: a number below 1.
    """
    for name, value in (("batch_size", batch_size), ("readers", readers)):
        if value < 1:
            raise InputError(f"{name} is {value!r}: it must be at least 1")
    read = partial(_read, open_file, short_side=scorer.short_side)
    ahead = mapped(lambda file: (file, read(file)), files, readers, batch_size + readers)
    return _score_files(scorer, ahead, batch_size)


def _score_files(scorer: Scorer, read: Iterator[tuple], batch_size: int) -> Iterator[FileScore]:
    while batch := list(islice(read, batch_size)):
        pictures = [picture for _, picture in batch if not isinstance(picture, InputError)]
        seen = iter(_one_by_one(next(scorer.looks(pictures, batch_size))) if pictures else [])
        for file, picture in batch:
            if isinstance(picture, InputError):
                yield FileScore(str(file), None, None, str(picture), None, None)
            else:
                look = next(seen)
                score = float(scorer.to_mos(look.score)[0])
                yield FileScore(str(file), score, float(scorer.percentile(score)), None, picture, look)


def _read(open_file: Callable, file: str | Path, short_side: int) -> Tensor | InputError:
    try:
        return as_picture(open_file(file), short_side)
    except InputError as error:
        return error


def _one_by_one(look: Look) -> Iterator[Look]:
    """Parts of a look, one a picture."""
    return (Look(*(values[n : n + 1] for values in look)) for n in range(len(look.score)))

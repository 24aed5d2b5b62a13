"""A picture of each scored file: saliency, and scores of its crops."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError
from .figures import save_picture, score_overlay
from .files import ensure_writable
from .score_files import FileScore
from .scoring import Scorer


class Overlays:
    """A folder of such pictures.

    Args:
        folder: where they go; made where it is missing.
        sources: files and folders that are scored.

    Raises:
        InputError: the folder is a file, or lies in a folder that is scored: its pictures would be scored next time.
        RunError: nothing can be written there.
    """

    def __init__(self, folder: Path, sources: Iterable[str | Path]) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--overlays is {folder}, a file: name a folder")
        place = folder.resolve()
        for source in sources:
            if os.path.isdir(source) and Path(source).resolve() in (place, *place.parents):
                raise InputError(
                    f"--overlays is {folder}, within {source}, whose pictures are scored: name a folder elsewhere, "
                    "or the overlays are scored too the next time"
                )
        ensure_writable(folder)
        self.folder = folder

    def save(self, scorer: Scorer, scored: FileScore, number: int) -> None:
        """Draw one file's picture, ``<number>_<name>.png``.

        Args:
            scorer: that scored it.
            scored: the file, which could be read.
            number: its place in the order of files.

        Raises:
            RunError: it cannot be saved.
        """
        name = f"{number:05d}_{Path(scored.image).stem[:60]}.png"
        save_picture(score_overlay(scored, scorer.to_mos(scored.look.crop_scores[0])), self.folder / name)

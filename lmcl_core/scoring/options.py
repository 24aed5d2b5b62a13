"""Check the options of ``lmcl score`` before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import InputError


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

"""Faults of a benchmark's folder and the error that reports them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..common.errors import InputError, escaped

AGAIN = "download the label file again"


class Fault(NamedTuple):
    """One fault of a benchmark's folder.

    `kind` is missing_folder, missing_label_file, bad_label_column, bad_label_row, missing_image, extra_image,
    unreadable_image, wrong_count, wrong_range or wrong_direction.
    """

    kind: str
    where: str  # the file, folder, row or column
    fix: str  # what is wrong, unless `kind` says it, and what to do

    def __str__(self) -> str:
        return escaped(f"{self.kind}: {self.where}: {self.fix}")


class FaultError(InputError):
    """Raised for a benchmark that cannot be read. `faults` holds all faults; the message shows the first one."""

    def __init__(self, *faults: Fault) -> None:
        more = f" (and {len(faults) - 1} more: `lmcl verify` lists them)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")
        self.faults = faults

    def __reduce__(self) -> tuple:
        return type(self), self.faults


def bad_row(path: Path, items: list[str], fix: str) -> Fault:
    """Fault of kind bad_label_row: a label file, the offending entries and the fix."""
    return Fault("bad_label_row", f"{path}: {first_few(items)}", fix)


def bad_scores(path: Path, images: list[str]) -> Fault:
    """Fault for the scores of some images that are not finite numbers."""
    return bad_row(path, images, f"{len(images)} scores are not finite numbers: {AGAIN}")


def first_few(items: list[str], show: int = 3) -> str:
    """Join the first `show` items with commas and count the rest."""
    return ", ".join(items[:show]) + (f" and {len(items) - show} more" if len(items) > show else "")

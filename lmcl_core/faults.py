"""What can be wrong with a benchmark's folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .errors import InputError

AGAIN = "fetch the label file again"


class Fault(NamedTuple):
    """One thing that is wrong with a benchmark's folder.

    Attributes:
        kind: missing_folder, missing_label_file, bad_label_column, bad_label_row, missing_image, extra_image,
            unreadable_image, wrong_count, wrong_range or wrong_direction.
        where: the file, folder, row or column.
        fix: what to do about it.
    """

    kind: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.fix}"


class FaultError(InputError):
    """A benchmark that cannot be read; `faults` say why, the message tells the first of them."""

    def __init__(self, *faults: Fault) -> None:
        more = f" (and {len(faults) - 1} more: `lmcl verify` lists them)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")
        self.faults = faults

    def __reduce__(self) -> tuple:
        return type(self), self.faults


def bad_scores(images: list[str], label_file: Path) -> Fault:
    """The fault of scores that are no numbers.

    Args:
        images: whose scores.
        label_file: where they stand.
    """
    fix = f"{len(images)} scores are not finite numbers: {AGAIN}"
    return Fault("bad_label_row", f"{label_file}: {some(images)}", fix)


def some(items: list[str], show: int = 3) -> str:
    """The first few of a list, and how many more there are.

    Args:
        items: what to list.
        show: how many to name.
    """
    return ", ".join(items[:show]) + (f" and {len(items) - show} more" if len(items) > show else "")

"""What can be wrong with a benchmark's folder."""

from __future__ import annotations

from typing import NamedTuple

from .errors import InputError


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
    """A benchmark that cannot be read; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def some(items: list[str], show: int = 3) -> str:
    """The first few of a list, and how many more there are.

    Args:
        items: what to list.
        show: how many to name.
    """
    return ", ".join(items[:show]) + (f" and {len(items) - show} more" if len(items) > show else "")

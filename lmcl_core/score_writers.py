"""Rows of scores on standard output, each written as soon as it is known."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _csv() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Rows as CSV, each written at once."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    writer = csv.DictWriter(sys.stdout, ["image", "score", "percentile"], lineterminator="\n")
    writer.writeheader()

    def write(row: dict[str, Any]) -> None:
        writer.writerow({**row, "image": row["image"].replace("\r", "\\r")})  # a bare one would end the row
        sys.stdout.flush()

    yield write


@contextmanager
def _json() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Rows as one JSON array, an object a line, each written at once."""
    separator = "["

    def write(row: dict[str, Any]) -> None:
        nonlocal separator
        print(f"{separator}\n{json.dumps(row)}", end="", flush=True)
        separator = ","

    try:
        yield write
    finally:  # also when it is stopped, so that what was written can be read
        print("[]" if separator == "[" else "\n]", flush=True)


WRITERS = {"csv": _csv, "json": _json}  #: context managers that give a function of one row, by name of the format

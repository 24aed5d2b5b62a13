"""Rows of scores on standard output, each written as soon as it is known."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import save_failed


def _say(text: str) -> None:
    """Put text on standard output at once; a full disk behind it is told, a closed pipe is left to the caller."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held would fail again at exit
        raise save_failed("the scores on standard output", error) from error


@contextmanager
def _csv() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Rows as CSV, each written at once."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, ["image", "score", "percentile"], lineterminator="\n")
    writer.writeheader()

    def write(row: dict[str, Any]) -> None:
        writer.writerow({**row, "image": row["image"].replace("\r", "\\r")})  # a bare one would end the row
        send()

    def send() -> None:
        _say(lines.getvalue())
        lines.seek(0)
        lines.truncate()

    send()
    yield write


@contextmanager
def _json() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Rows as one JSON array, an object a line, each written at once."""
    separator = "["

    def write(row: dict[str, Any]) -> None:
        nonlocal separator
        _say(f"{separator}\n{json.dumps(row)}")
        separator = ","

    try:
        yield write
    finally:  # also when it is stopped, so that what was written can be read
        _say("[]\n" if separator == "[" else "\n]\n")


WRITERS = {"csv": _csv, "json": _json}  #: context managers that give a function of one row, by name of the format

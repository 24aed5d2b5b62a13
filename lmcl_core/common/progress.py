"""A progress bar that is shown only in JupyterLab or a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def bar(items: Iterable[Item], count: int, title: str) -> Iterator[Item]:
    """Iterate with a progress bar in JupyterLab or a terminal, on rank 0; elsewhere without one."""
    visible = "JPY_SESSION_NAME" in os.environ or sys.stderr.isatty()
    return iter(tqdm(items, title, count, leave=False, disable=not visible or os.environ.get("RANK", "0") != "0"))

"""A progress bar where somebody watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def bar(items: Iterable[Item], count: int, title: str) -> Iterator[Item]:
    """Items, with a bar in JupyterLab and in a terminal, of one process; nothing where nobody watches.

    Args:
        items: whatever is gone through.
        count: how many they are.
        title: what stands before the bar.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    watched = first and ("JPY_SESSION_NAME" in os.environ or sys.stderr.isatty())
    return iter(tqdm(items, desc=title, total=count, leave=False, disable=not watched))

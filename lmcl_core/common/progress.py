"""Progress on stderr: a bar in a terminal or JupyterLab, lines in a log, nothing in notebooks that run headless."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
Log = Callable[[str], None]  #: what a line about the work is given to

_FIRST, _NEXT = 5, 10  # seconds until the first line of a log, and between lines


def bar(items: Iterable[Item], count: int | None, title: str) -> Iterator[Item]:
    """Yield the items and show progress; `count` is their number, None if it is not known."""
    with closing(meter(count, title)) as shown:
        for item in items:
            yield item
            shown.update()


def meter(count: int | None, title: str, unit: str = "", done: int = 0) -> tqdm | _Lines:
    """Progress of work that is not a loop over items: call ``update(n)`` as it advances, and ``close()`` at the end.

    `unit` "B" counts bytes, and `done` is what is finished at the start. A notebook that papermill, nbconvert or nbval
    executes shows nothing, so that its outputs stay the same, and processes other than rank 0 show nothing.
    """
    in_lab, in_kernel = "JPY_SESSION_NAME" in os.environ, _in_kernel()
    visible = os.environ.get("RANK", "0") == "0"
    if visible and not (in_lab or in_kernel or sys.stderr.isatty()):
        return _Lines(count, title, unit, done)
    hidden = not visible or in_kernel and not in_lab
    scaled = dict(unit="B", unit_scale=True) if unit == "B" else {}
    return tqdm(desc=title, total=count, initial=done, leave=False, disable=hidden, **scaled)


def above_bar() -> AbstractContextManager:
    """A context in which a bar of this terminal is cleared, so that printed lines do not mix with it."""
    return tqdm.external_write_mode(sys.stderr) if sys.stderr.isatty() else nullcontext()


def _in_kernel() -> bool:
    """Whether this process runs the cells of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


class _Lines:
    """Progress as lines such as "scoring 120/1162, 11/s, 95 s left"; none for work that takes less than 5 s."""

    def __init__(self, count: int | None, title: str, unit: str, done: int) -> None:
        self.count, self.title, self.unit, self.before, self.done = count, title, unit, done, done
        self.start = time.monotonic()
        self.due = self.start + _FIRST

    def update(self, n: int = 1) -> None:
        """Count `n` more items, and print a line if one is due and the work is not finished."""
        self.done, now = self.done + n, time.monotonic()
        if now < self.due or self.done == self.count:
            return
        self.due, rate = now + _NEXT, (self.done - self.before) / (now - self.start)
        total = "" if self.count is None else f"/{self._text(self.count)}"
        left = "" if self.count is None or not rate else f", {_duration((self.count - self.done) / rate)} left"
        speed = self._text(rate) if rate >= 10 or self.unit else f"{rate:.2g}"
        print(f"{self.title} {self._text(self.done)}{total}, {speed}/s{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to do: lines stay."""

    def _text(self, number: float) -> str:
        return f"{tqdm.format_sizeof(number)}B" if self.unit else f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"

"""How much memory a piece of work takes: it is done in a fresh process, whose high-water mark is read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_megabytes(work: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Memory at its highest while a piece of work is done twice, above what there was when it had been made.

    Args:
        work: a function of a module, which makes what is then called.
        *arguments: its arguments, which can be pickled.

    Returns:
        Megabytes: of the GPU where the work used one, else of the process, without the processes that it starts; NaN
        where the system does not tell; infinity where the machine's memory is not enough.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, work, arguments).result()
        except BrokenProcessPool:  # how the system ends a process that asks for more than there is
            return float("inf")
        except RuntimeError as error:  # torch's, on a CPU; on a GPU it has a kind of its own
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                return float("inf")
            raise


def _measure(work: Callable[..., Callable[[], Any]], arguments: tuple) -> float:
    torch.set_num_threads(torch.get_num_threads())  # its threads are there before the work
    call = work(*arguments)
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _twice(call)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if _FORGET.is_file():
        _FORGET.write_text("5")  # the mark begins anew
    before = _status("VmRSS")
    _twice(call)
    return max(0.0, _status("VmHWM") - before)


def _twice(call: Callable[[], Any]) -> None:
    for _ in range(2):
        call()


def _status(field: str) -> float:
    """A line of /proc/self/status in megabytes; NaN outside Linux."""
    if not _STATUS.is_file():
        return float("nan")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6

"""How much memory a piece of work takes: it is done in a fresh process, whose high-water mark is read."""

from __future__ import annotations

import math
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from .errors import RunError

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_megabytes(work: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Memory at its highest while a piece of work is done twice, above what there was when it had been made.

    Args:
        work: a function of a module, which makes what is then called.
        *arguments: its arguments, which can be pickled.

    Returns:
        Megabytes: of the GPU where the work used one, else of the process, without the processes that it starts, and
        without the pages of files that it mapped meanwhile; NaN where the system does not tell; infinity where the
        machine's memory is not enough.

    Raises:
        RunError: the process ended in another way than for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(its, work, arguments))
    process.start()
    its.close()  # so that its end is seen here
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # how the system ends what asks for more memory than there is
            return float("inf")
        raise RunError(
            f"{work.__name__}{arguments[:1]} ended its process with exit code {process.exitcode}: leave that part out"
        ) from None
    except BaseException:  # nobody waits for it any more
        process.kill()
        raise
    process.join()
    if isinstance(found, Exception):
        raise found
    return found


def _measure(answer: Connection, work: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    try:
        answer.send(_peak(work, arguments))
    except RuntimeError as error:  # torch's, on a CPU; on a GPU it has a kind of its own
        enough = not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error)
        answer.send(_noted(error) if enough else float("inf"))
    except Exception as error:  # raised again where it is waited for
        answer.send(_noted(error))


def _noted(error: Exception) -> Exception:
    error.add_note(traceback.format_exc())  # which does not travel by itself
    return error


def _peak(work: Callable[..., Callable[[], Any]], arguments: tuple) -> float:
    torch.set_num_threads(torch.get_num_threads())  # its threads are there before the work
    call = work(*arguments)
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _twice(call)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if _FORGET.is_file():
        _FORGET.write_text("5")  # the mark begins anew
    before, mapped = _status("VmRSS"), _status("RssFile")
    _twice(call)
    files = _status("RssFile") - mapped
    highest = _status("VmHWM") - before - (0.0 if math.isnan(files) else files)
    return highest if math.isnan(highest) else max(0.0, highest)


def _twice(call: Callable[[], Any]) -> None:
    for _ in range(2):
        call()


def _status(field: str) -> float:
    """A line of /proc/self/status in megabytes; NaN where there is none."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    found = [line for line in lines if line.startswith(f"{field}:")]
    return int(found[0].split()[1]) * 1024 / 1e6 if found else float("nan")

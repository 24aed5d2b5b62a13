"""Run tasks on a Dask cluster, no more at once than it has threads, and check that processes can be started."""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, RunError

if TYPE_CHECKING:
    from distributed import Client, Future

Task = TypeVar("Task")

_SECONDS_TO_LOOK = 5  # how often the workers are checked
REPEAT = "run the same command again; what is finished is kept"  #: end of the message of a batch that stops early


def as_finished(
    client: Client, tasks: Iterable[Task], submit: Callable[[Task], Future]
) -> Iterator[tuple[Task, Any, Exception | None]]:
    """Submit tasks and yield them as they finish, in any order, with their results or their errors for the user.

    At most one task per thread is on the cluster at a time, so that a worker that dies loses only the task it runs.
    RunError: all workers started on this machine are lost, all workers are paused, or the scheduler is lost.
    """
    from distributed import wait
    from distributed import TimeoutError as NothingYet

    waiting, running = deque(tasks), {}
    while waiting or running:
        try:
            with _scheduler_answers():
                while waiting and len(running) < max(1, sum(client.nthreads().values())):
                    task = waiting.popleft()
                    running[submit(task)] = task
                done = wait(list(running), timeout=_SECONDS_TO_LOOK, return_when="FIRST_COMPLETED").done
                finished = [(future, future.exception()) for future in done]
                results = [None if error else future.result() for future, error in finished]
        except NothingYet:
            with _scheduler_answers():
                _check_workers(client)
            continue  # workers may have joined
        tasks = [running.pop(future) for future, _ in finished]
        for task, result, (future, error) in zip(tasks, results, finished):
            future.release()
            yield task, result, error and _task_error(error)


def _check_workers(client: Client) -> None:
    """Raise `RunError` if no worker will run the tasks that wait."""
    from distributed import Nanny

    kinds = {kind["cls"] for kind in getattr(client.cluster, "worker_spec", {}).values()}
    if kinds == {Nanny} and not client.cluster.workers:  # all nannies have stopped: no worker comes back
        raise RunError(f"every worker was lost and none could be restarted: free memory, then {REPEAT}")
    workers = client.scheduler_info()["workers"].values()
    paused = [worker for worker in workers if worker["status"] == "paused"]
    if paused and len(paused) == len(workers) and not any(client.processing().values()):
        # Dask pauses a worker whose process holds most of the memory limit; a loaded model is never freed
        problem = "every worker is paused, because its memory is nearly full"
        raise RunError(f"{problem}: {_more_memory(paused[0]['memory_limit'])}, then {REPEAT}")


def _more_memory(limit: int) -> str:
    """How to give a worker more memory than its limit in bytes; 0 is no limit."""
    if not limit:
        return "free memory or use fewer workers"
    size = limit / 1e9
    return f"raise its memory limit of {size:.3g} GB, such as with `dask worker --memory-limit {2 * size:.3g}GB`"


@contextmanager
def _scheduler_answers() -> Iterator[None]:
    """Raise what Dask raises when its scheduler is lost as `RunError`."""
    from concurrent.futures import CancelledError

    from distributed import TimeoutError as NothingYet
    from distributed.client import ClosedClientError

    try:
        yield
    except NothingYet:
        raise
    except (CancelledError, ClosedClientError, OSError) as error:
        raise RunError(f"the Dask scheduler was lost: start it again, then {REPEAT}") from error


def check_main_guard() -> None:
    """Raise `InputError` in a script that starts processes outside ``if __name__ == "__main__":``.

    Each new process runs the script once more, and would start processes without end.
    """
    main = sys.modules["__main__"]
    path, name = getattr(main, "__file__", None), getattr(getattr(main, "__spec__", None), "name", "")
    if path is None or f".{name}".endswith(".__main__") or not Path(path).is_file():
        return  # a process does not run these again
    frame = sys._getframe()
    while frame.f_back and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    for node in ast.parse(Path(path).read_bytes()).body if frame.f_globals is vars(main) else []:
        guarded = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if node.lineno <= frame.f_lineno <= node.end_lineno and not guarded:
            fix = 'put the lines that call lmcl_core below `if __name__ == "__main__":`'
            raise InputError(f"{path}, line {frame.f_lineno}, starts processes, which run this script again: {fix}")


def _task_error(error: BaseException) -> Exception:
    """The exception of a failed task, with a message for the user."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        fix = _more_memory(error.last_worker.memory_limit)
        return RunError(f"the worker that ran it died repeatedly (out of memory?): {fix}")
    return error if isinstance(error, Exception) and str(error) else RunError(str(error) or type(error).__name__)

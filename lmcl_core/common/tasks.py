"""Run tasks on a Dask cluster, no more at once than it has threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .errors import RunError

if TYPE_CHECKING:
    from distributed import Client, Future

Task = TypeVar("Task")

_SECONDS_TO_LOOK = 5  # how often the number of workers is checked


def as_finished(
    client: Client, tasks: Iterable[Task], submit: Callable[[Task], Future]
) -> Iterator[tuple[Task, Future]]:
    """Submit tasks and yield them as they finish, in any order.

    At most one task per thread is on the cluster at a time, so that a worker that dies loses only the task it runs.
    A future is released as soon as the next one is requested. RunError: all workers started on this machine are lost.
    """
    from distributed import Nanny, wait
    from distributed import TimeoutError as NothingYet

    waiting, running = deque(tasks), {}
    while waiting or running:
        while waiting and len(running) < max(1, sum(client.nthreads().values())):
            task = waiting.popleft()
            running[submit(task)] = task
        try:
            finished = wait(list(running), timeout=_SECONDS_TO_LOOK, return_when="FIRST_COMPLETED").done
        except NothingYet:
            kinds = {kind["cls"] for kind in getattr(client.cluster, "worker_spec", {}).values()}
            if kinds == {Nanny} and not client.cluster.workers:  # all nannies have stopped: no worker comes back
                message = "every worker was lost and none could be restarted: free memory and run the command again"
                raise RunError(message) from None
            continue  # workers may have joined
        for future in finished:
            yield running.pop(future), future
            future.release()


def task_error(error: BaseException) -> Exception:
    """The exception of a failed task, with a message for the user."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return RunError("the worker that ran it died repeatedly (out of memory?): free memory or use fewer workers")
    return error if isinstance(error, Exception) and str(error) else RunError(str(error) or type(error).__name__)

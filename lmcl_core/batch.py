"""Many notebooks at once, as tasks on a Dask cluster: this machine, any running scheduler, or SLURM."""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .errors import InputError, RunError

if TYPE_CHECKING:
    from distributed import Client, Future

    from .jobs import Job

Task = TypeVar("Task")

_TOPIC = "lmcl"  # of the events by which a worker tells of its epochs
_LOOPBACK = "127.0.0.1"  # of all that is started on this machine: whoever reaches a worker can run code in it
_SECONDS_TO_JOIN = 60
_SECONDS_TO_LOOK = 5  # at workers that joined
#: Dask gives up a worker that died where it is not back after 15 seconds, which a busy machine may need to import.
_PATIENT = {"distributed.deploy.lost-worker-timeout": "10 minutes"}
_SLURM_SETTINGS = (
    "SLURM settings are incomplete: write job-cpu, memory and walltime into ~/.config/dask/jobqueue.yaml under "
    "jobqueue.slurm, as notebooks/README.md shows"
)
#: Dask gives its workers one thread of OpenMP each; a training is to have all CPUs of its job.
_ALL_CPUS = [
    f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__{name}_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}"
    for name in ("OMP", "MKL")
]


def check_cluster(scheduler: str, workers: int) -> None:
    """Refuse what `connect` cannot use, before anything is started.

    Args:
        scheduler: as in `connect`.
        workers: as in `connect`.

    Raises:
        InputError: no address, or a negative number.
    """
    if scheduler not in ("", "slurm") and "://" not in scheduler:
        raise InputError(f"scheduler is {scheduler!r}: write tcp://HOST:PORT, or slurm, or leave it out")
    if workers < 0:
        raise InputError(f"workers is {workers}: it must be 0 (as many as GPUs, or 1) or more")


@contextmanager
def connect(scheduler: str = "", workers: int = 0) -> Iterator[Client]:
    """A client of a Dask cluster, closed with the cluster that was started for it.

    Args:
        scheduler: "" starts workers on this machine, "slurm" asks SLURM for them through dask-jobqueue, anything else
            is the address of a running scheduler, such as tcp://10.0.0.1:8786.
        workers: number of workers to start; 0 means one a GPU, or one where there is none.

    Yields:
        The `distributed.Client`.

    Raises:
        InputError: as `check_cluster`; an address nobody answers at, or SLURM settings that are missing.
        RunError: the scheduler has no worker.
    """
    from distributed import Client

    check_cluster(scheduler, workers)
    with _cluster(scheduler, workers) as cluster:
        try:
            client = Client(cluster, timeout=10)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`"
            ) from error
        with client:
            if scheduler not in ("", "slurm"):
                _wait_for_a_worker(client, scheduler)
            yield client


def run_jobs(
    client: Client, jobs: Sequence[Job], finished: Callable[[Job], None], log: Callable[[str], None] = print
) -> dict[str, Exception]:
    """Run notebooks wherever a worker is free; one that loses its worker is tried again, and a training that fails too.

    Args:
        client: from `connect`.
        jobs: the notebooks, none of which needs another.
        finished: called here with each job that ran to its end.
        log: called with one line for a job that starts, ends or fails, and for each epoch.

    Returns:
        The error of each job that failed, by its title; the others are finished.

    Raises:
        RunError: every worker that was started on this machine is lost.
    """

    def submit(job: Job) -> Future:
        key = f"{job.title}  {uuid.uuid4().hex[:8]}"
        return client.submit(_work, job, key=key, retries=int(job.is_training), pure=False)

    failed = {}
    client.subscribe_topic(_TOPIC, lambda event: log(event[1]))
    try:
        for job, future in each_ended(client, jobs, submit):
            error = future.exception()
            if error is None:
                finished(job)
                log(f"{job.title}: {future.result():.0f} s")
            else:
                failed[job.title] = told(error)
                log(f"{job.title}: FAILED: {failed[job.title]}")
    finally:
        client.unsubscribe_topic(_TOPIC)
    return failed


def each_ended(
    client: Client, tasks: Iterable[Task], submit: Callable[[Task], Future]
) -> Iterator[tuple[Task, Future]]:
    """Tasks as they end, no more of them on the cluster than can run at once: a worker that dies takes along nothing
    but what it was doing.

    Args:
        client: from `connect`.
        tasks: any, none of which needs another.
        submit: gives one to the client.

    Yields:
        A task and its future, which the cluster forgets afterwards and will not compute anew when a worker dies.

    Raises:
        RunError: every worker that was started on this machine is lost.
    """
    from distributed import TimeoutError as NothingYet
    from distributed import wait

    waiting, running = deque(tasks), {}
    while waiting or running:
        while waiting and len(running) < max(1, sum(client.nthreads().values())):
            task = waiting.popleft()
            running[submit(task)] = task
        try:
            ended = wait(list(running), timeout=_SECONDS_TO_LOOK, return_when="FIRST_COMPLETED").done
        except NothingYet:
            _check_for_workers(client)
            continue  # some may have joined meanwhile
        for future in ended:
            yield running.pop(future), future
            future.release()


def _check_for_workers(client: Client) -> None:
    """Nobody brings back the workers that were started on this machine once their keepers have given them up."""
    from distributed import Nanny

    kinds = {kind["cls"] for kind in getattr(client.cluster, "worker_spec", {}).values()}
    if kinds == {Nanny} and not client.cluster.workers:
        raise RunError("every worker was lost and none could be started again: free memory, then call again")


def local_workers(workers: int, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """The environment of each worker on this machine: its GPU, or its share of the cores.

    Args:
        workers: how many are wanted; 0 means one a GPU, or one where there is none.
        gpus: the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them.
        cores: how many cores there are.

    Returns:
        One mapping of environment variables a worker.
    """
    count = workers or max(len(gpus), 1)
    threads = str(max(1, cores // count))
    environments = [dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads) for _ in range(count)]
    for n, environment in enumerate(environments):
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[n % len(gpus)]
    return environments


def slurm_cluster():
    """A cluster whose workers are SLURM jobs of one notebook each; queue, CPUs, memory and walltime come from Dask's
    own configuration (jobqueue.slurm: queue, job-cpu, memory, walltime).

    Returns:
        The `dask_jobqueue.SLURMCluster`, not yet scaled; ``job_script()`` is what it would submit.

    Raises:
        InputError: dask-jobqueue is not installed, or its settings are incomplete.
    """
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise InputError("scheduler slurm needs the package dask-jobqueue: pip install dask-jobqueue") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupted)  # the import lets Ctrl-C end the process as if all were done
    import dask

    if dask.config.get("jobqueue.slurm.job-cpu", None) is None:
        raise InputError(_SLURM_SETTINGS)
    try:
        return SLURMCluster(
            cores=1,  # threads of a worker, each of which runs a notebook; a notebook takes all CPUs of its job
            processes=1,
            job_script_prologue=[*dask.config.get("jobqueue.slurm.job-script-prologue", []), *_ALL_CPUS],
            scheduler_options=dict(dashboard=False, dashboard_address=":0"),
        )
    except ValueError as error:
        raise InputError(f"{_SLURM_SETTINGS} ({' '.join(str(error).split())})") from error


@contextmanager
def _cluster(scheduler: str, workers: int) -> Iterator:
    """What a client connects to: a cluster of our own, or an address."""
    if scheduler == "slurm":
        with slurm_cluster() as cluster:
            cluster.adapt(
                minimum_jobs=max(workers, 1), maximum_jobs=max(workers, 1)
            )  # replaces jobs that ran out of time
            yield cluster
    elif scheduler:
        yield scheduler
    else:
        import dask
        from distributed import Nanny, Scheduler, SpecCluster

        environments = local_workers(workers, _visible_gpus(), os.cpu_count() or 1)
        options = dict(nthreads=1, memory_limit=0, dashboard=False, silence_logs=logging.CRITICAL, host=_LOOPBACK)
        with (
            dask.config.set(_PATIENT),
            SpecCluster(
                scheduler=dict(
                    cls=Scheduler, options=dict(dashboard=False, dashboard_address=f"{_LOOPBACK}:0", host=_LOOPBACK)
                ),
                workers={n: dict(cls=Nanny, options=dict(options, env=env)) for n, env in enumerate(environments)},
                silence_logs=logging.CRITICAL,
            ) as cluster,
        ):
            yield cluster


def _visible_gpus() -> list[str]:
    """The GPUs this process may use; CUDA_VISIBLE_DEVICES may already leave it some of them only."""
    import torch  # here, since a worker imports this module and needs none of it

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(n) for n in range(count)]


def _wait_for_a_worker(client: Client, scheduler: str) -> None:
    from distributed import TimeoutError as NobodyCame

    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_JOIN)
    except (NobodyCame, TimeoutError) as error:
        raise RunError(
            f"scheduler {scheduler} has no worker after {_SECONDS_TO_JOIN} s: start some with `dask worker {scheduler}`"
        ) from error


def _work(job: Job) -> float:
    """Run one notebook on a worker; seconds it took."""
    import time

    from distributed import get_worker

    from .jobs import run_notebook  # here, since whoever scores pictures on a cluster needs no notebooks

    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)  # a failure is told once, by who waits for it
    worker, start = get_worker(), time.perf_counter()
    worker.log_event(_TOPIC, f"{job.title}: running")
    run_notebook(job, lambda line: worker.log_event(_TOPIC, f"{job.title}: {line.strip()}"))
    return time.perf_counter() - start


def told(error: BaseException) -> Exception:
    """The error of a task as the user is to read it."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return RunError("its worker died again and again (out of memory?): free memory or use fewer workers")
    return error if isinstance(error, Exception) and str(error) else RunError(str(error) or type(error).__name__)

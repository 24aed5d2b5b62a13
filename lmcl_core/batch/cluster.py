"""Run notebooks as tasks on a Dask cluster: workers on this machine, a running scheduler, or SLURM."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ..common.errors import InputError, RunError, first_line
from ..common.tasks import as_finished, check_main_guard

if TYPE_CHECKING:
    from distributed import Client, Future

    from .notebook import Job

_TOPIC = "lmcl"  # Dask events that carry the epoch lines of a worker
_LOOPBACK = "127.0.0.1"
_SECONDS_TO_ANSWER = 5
_SECONDS_TO_JOIN = 60
_MOST_WORKERS = 4  # by default, on a machine without GPU
_MOST_JOBS = 100_000
_WORKERS_PER_CORE = 8  # at most on this machine; each worker is a process that imports torch
#: Dask's default of 15 seconds is too short for a worker that restarts and imports torch on a busy machine.
_LONG_RESTART = {"distributed.deploy.lost-worker-timeout": "10 minutes"}
_SLURM_SETTINGS = (
    "SLURM settings are incomplete: write job-cpu, memory and walltime into ~/.config/dask/jobqueue.yaml under "
    "jobqueue.slurm, as notebooks/README.md shows"
)
#: Dask sets one OpenMP thread per worker; a training uses all CPUs of its SLURM job.
_ALL_CPUS = [
    f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__{name}_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}"
    for name in ("OMP", "MKL")
]


def check_cluster(scheduler: str, workers: int) -> None:
    """Check the arguments of `connect` without starting or contacting anything.

    InputError: `scheduler` is not an address, or `workers` is negative or too large for this machine.
    """
    if scheduler not in ("", "slurm") and "://" not in scheduler:
        raise InputError(f"scheduler is {scheduler!r}: write tcp://HOST:PORT, or slurm, or leave it out")
    if not 0 <= workers <= _MOST_JOBS:
        raise InputError(f"workers is {workers}: it must be 0 (one worker per GPU or core) to {_MOST_JOBS}")
    if not scheduler and workers > (most := _WORKERS_PER_CORE * (os.cpu_count() or 1)):
        raise InputError(f"workers is {workers}: this machine has cores for at most {most}; choose about one per core")


@contextmanager
def connect(scheduler: str = "", workers: int = 0) -> Iterator[Client]:
    """Connect to a Dask cluster; on exit, close the client and every process that was started for it.

    Workers on this machine listen on the loopback interface and use TLS with a certificate made for this call, so that
    no other user of the machine can connect to them.

    Args:
        scheduler: "" starts workers on this machine, "slurm" starts them as SLURM jobs through dask-jobqueue, and an
            address such as ``tcp://10.0.0.1:8786`` uses a running scheduler.
        workers: number of workers to start; 0 starts one per GPU, or one per core (at most 4) without GPU.

    InputError: wrong arguments, no Dask scheduler at the address, or incomplete SLURM settings. RunError: the scheduler
    has no worker.
    """
    from distributed import Client

    check_cluster(scheduler, workers)
    check_scheduler(scheduler)
    check_main_guard()
    if scheduler not in ("", "slurm"):
        with Client(scheduler, timeout=_SECONDS_TO_ANSWER) as client:
            _wait_for_worker(client, scheduler)
            yield client
        return
    with slurm_cluster() if scheduler else _local_cluster(workers) as cluster:
        if scheduler:  # `adapt` replaces jobs that reach their walltime
            cluster.adapt(minimum_jobs=max(workers, 1), maximum_jobs=max(workers, 1))
        with Client(cluster, timeout=_SECONDS_TO_JOIN) as client:
            yield client


def run_jobs(
    client: Client, jobs: Sequence[Job], finished: Callable[[Job], None], log: Callable[[str], None] = print
) -> dict[str, Exception]:
    """Run independent notebooks on a cluster, and return the error of each that failed, by title.

    A notebook is run again if its worker dies; a training that fails is tried once more. `finished` is called in this
    process with each job that succeeded, `log` with one line when a job starts, ends or fails, and with each epoch
    line. RunError: every worker that was started on this machine is lost, or the scheduler is.
    """

    def submit(job: Job) -> Future:
        key = f"{job.title}  {uuid.uuid4().hex[:8]}"
        return client.submit(_run, job, key=key, retries=int(job.trains), pure=False)

    failed = {}
    client.subscribe_topic(_TOPIC, lambda event: log(event[1]))
    try:
        for job, seconds, error in as_finished(client, jobs, submit):
            if error is None:
                finished(job)
                log(f"{job.title}: {seconds:.0f} s")
            else:
                failed[job.title] = error
                log(f"{job.title}: FAILED: {error}")
    finally:
        if client.status == "running":  # the scheduler is not lost
            client.unsubscribe_topic(_TOPIC)
    return failed


def _run(job: Job) -> float:
    """Run one notebook on a worker and return its seconds."""
    from distributed import get_worker

    from .notebook import run_notebook  # here: workers that score images do not need papermill

    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)  # `run_jobs` reports the failure
    worker, start = get_worker(), time.perf_counter()
    worker.log_event(_TOPIC, f"{job.title}: running")
    run_notebook(job, lambda line: worker.log_event(_TOPIC, f"{job.title}: {line.strip()}"))
    return time.perf_counter() - start


def worker_environments(workers: int, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Environment variables of each worker on this machine: its share of the cores, and one of the `gpus` in turn.

    Without a number of workers it is one per GPU, or one per core (at most 4) without GPU, because two processes of one
    thread train faster than one process of two threads.
    """
    count = workers or len(gpus) or min(cores, _MOST_WORKERS)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(max(1, cores // count)))
    return [threads | (dict(CUDA_VISIBLE_DEVICES=gpus[n % len(gpus)]) if gpus else {}) for n in range(count)]


def slurm_cluster():
    """Create a `dask_jobqueue.SLURMCluster` whose workers are SLURM jobs, each of which runs one notebook at a time.

    Queue, CPUs, memory and walltime come from Dask's configuration (jobqueue.slurm: queue, job-cpu, memory, walltime).
    InputError: dask-jobqueue is not installed, or its settings are incomplete.
    """
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise InputError("scheduler slurm needs the package dask-jobqueue: pip install dask-jobqueue") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupted)  # importing dask-jobqueue makes Ctrl-C exit with code 0
    import dask

    if dask.config.get("jobqueue.slurm.job-cpu", None) is None:
        raise InputError(_SLURM_SETTINGS)
    try:
        return SLURMCluster(
            cores=1,  # one thread, hence one notebook at a time; the notebook uses all CPUs of the job
            processes=1,
            job_script_prologue=[*dask.config.get("jobqueue.slurm.job-script-prologue", []), *_ALL_CPUS],
            scheduler_options=dict(dashboard=False, dashboard_address=":0"),
        )
    except ValueError as error:
        raise InputError(f"{_SLURM_SETTINGS} ({' '.join(str(error).split())})") from error


@contextmanager
def _local_cluster(workers: int) -> Iterator:
    """A scheduler and workers on this machine that accept only connections with their own certificate."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    security = Security.temporary()
    common = dict(dashboard=False, host=_LOOPBACK, protocol="tls", security=security)
    worker = dict(common, nthreads=1, memory_limit=0, silence_logs=logging.CRITICAL)
    environments = worker_environments(workers, _visible_gpus(), os.cpu_count() or 1)
    with dask.config.set(_LONG_RESTART), ExitStack() as stack:
        with _undisturbed():
            cluster = SpecCluster(
                scheduler=dict(cls=Scheduler, options=dict(common, dashboard_address=f"{_LOOPBACK}:0")),
                workers={n: dict(cls=Nanny, options=dict(worker, env=env)) for n, env in enumerate(environments)},
                security=security,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        yield cluster


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C, and raise KeyboardInterrupt for SIGTERM only after the block, in which worker processes start.

    Dask cannot close workers that are starting. They inherit that Ctrl-C is ignored, which in a terminal also reaches
    them: they end when the cluster is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated: list[int] = []
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
        if terminated:  # whether or not the workers could start
            raise KeyboardInterrupt


def _visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here: workers import this module and may not need torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(n) for n in range(count)]


def check_scheduler(address: str) -> None:
    """Raise `InputError` if no Dask scheduler answers at an address within 5 seconds; "" and "slurm" are none.

    `Client` itself waits for ever for a silent server.
    """
    if address in ("", "slurm"):
        return
    from distributed.core import rpc
    from distributed.security import Security
    from distributed.utils import LoopRunner

    for name in ("distributed.client", "distributed.core", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost scheduler is reported by `as_finished`

    async def ask() -> str:
        async with rpc(address, connection_args=Security().get_connection_args("client")) as server:
            return (await server.identity())["type"]

    try:
        kind = LoopRunner().run_sync(ask, callback_timeout=_SECONDS_TO_ANSWER)
        if kind != "Scheduler":
            raise ValueError(f"it is a {kind}")
    except Exception as error:  # what Dask raises depends on the bytes that an unknown server sends
        foreign = isinstance(error, MemoryError)  # of bytes that Dask takes for a length
        reason = "it speaks another protocol" if foreign else first_line(error.__cause__ or error)
        problem = f"no Dask scheduler answers at {address} ({reason})"
        raise InputError(f"{problem}: start one with `dask scheduler`") from error


def _wait_for_worker(client: Client, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_JOIN)
    except TimeoutError as error:
        fix = f"start some with `dask worker {scheduler}`"
        raise RunError(f"scheduler {scheduler} has no worker after {_SECONDS_TO_JOIN} s: {fix}") from error

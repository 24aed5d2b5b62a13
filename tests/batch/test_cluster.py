"""Notebooks as Dask tasks: lost workers, failing notebooks, other clusters, and who may connect."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401  its defaults enter the configuration when it is first imported
import nbformat
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from scheduler import SCHEDULER

from lmcl_core import InputError, RunError
from lmcl_core.batch.cluster import (
    _undisturbed,
    check_scheduler,
    connect,
    run_jobs,
    slurm_cluster,
    worker_environments,
)
from lmcl_core.batch.notebook import Job
from lmcl_core.common.tasks import as_finished

FIRST_TIME = """
from pathlib import Path
mark = Path(mark)
first = not mark.exists()
mark.touch()
"""


def job(folder: Path, source: str, name: str = "work", **parameters) -> Job:
    """A training job of a notebook of one cell."""
    parameters = dict(benchmark="demo", recipe="lmcl", split=0, mark=str(folder / f"{name}.mark"), **parameters)
    cell = nbformat.v4.new_code_cell("\n".join(f"{key} = None" for key in parameters))
    cell.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(source)])
    book.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return Job(str(path), folder / "out" / f"{name}.ipynb", parameters, trains=True)


@pytest.fixture(scope="module")
def client():
    with connect(workers=1) as client:
        yield client


@pytest.mark.slow
def test_a_notebook_that_ends_is_reported_with_its_epochs(client, tmp_path):
    lines, done = [], []
    work = job(tmp_path, "print('epoch 1/1  loss 0.5')")
    assert run_jobs(client, [work], done.append, lines.append) == {}
    assert done == [work] and work.output.is_file()
    assert lines[0].endswith(": running") and lines[1].endswith(": epoch 1/1  loss 0.5") and lines[2].endswith(" s")


@pytest.mark.slow
def test_a_failed_or_killed_training_is_tried_again_and_one_that_fails_twice_is_listed(client, tmp_path):
    done, lines = [], []
    kill = "import os, signal, time\nif first:\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)"
    once, killed = job(tmp_path, FIRST_TIME + "assert not first", "once"), job(tmp_path, FIRST_TIME + kill, "killed")
    twice = job(tmp_path, "1 / 0", "twice")
    failed = run_jobs(client, [once, killed, twice], done.append, lines.append)
    assert done == [once, killed] and list(failed) == [twice.title]
    assert isinstance(failed[twice.title], RunError) and "ZeroDivisionError" in str(failed[twice.title])
    assert any("FAILED" in line for line in lines)


@pytest.mark.slow
def test_a_notebook_that_kills_every_worker_is_given_up_and_the_rest_is_run_once(client, tmp_path):
    """Neither what was finished before nor what waits behind it is drawn into the failure."""
    count = "with open(mark, 'a') as file:\n    file.write('x')"
    before, after = job(tmp_path, count, "before"), job(tmp_path, count, "after")
    deadly = job(tmp_path, "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)", "deadly")
    done = []
    failed = run_jobs(client, [before, deadly, after], done.append, lambda line: None)
    assert list(failed) == [deadly.title] and "the worker that ran it died repeatedly" in str(failed[deadly.title])
    assert done == [before, after]
    assert [(tmp_path / f"{name}.mark").read_text() for name in ("before", "after")] == ["x", "x"]


def test_each_local_worker_has_its_gpu_or_its_share_of_the_cores():
    assert worker_environments(0, [], 8) == 4 * [dict(OMP_NUM_THREADS="2", MKL_NUM_THREADS="2")]
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in worker_environments(0, ["2", "3"], 8)] == ["2", "3"]
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in worker_environments(4, ["0", "1"], 8)] == ["0", "1", "0", "1"]
    assert worker_environments(9, [], 2)[0]["OMP_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_a_running_scheduler_is_used_by_its_address(tmp_path):
    done = []
    work = job(tmp_path, "1 + 1")
    options = dict(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with LocalCluster(**options) as cluster, connect(cluster.scheduler_address) as client:
        assert run_jobs(client, [work], done.append, lambda line: None) == {} and done == [work]
        worker = next(iter(cluster.workers.values())).address
        with pytest.raises(InputError, match="no Dask scheduler answers at .*it is a Worker"), connect(worker):
            pass


@pytest.mark.parametrize(
    "scheduler, workers, message",
    [
        ("10.0.0.1:8786", 0, "write tcp://HOST:PORT"),
        ("zip://127.0.0.1", 0, "no Dask scheduler answers at zip://127.0.0.1"),
        ("slurm", 10**20, "workers is 1" + 20 * "0"),
        ("", 100_000, "workers is 100000: this machine has cores for at most"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(scheduler, workers, message, monkeypatch):
    monkeypatch.setattr("lmcl_core.batch.cluster._SECONDS_TO_ANSWER", 1)
    with pytest.raises(InputError, match=message), connect(scheduler, workers):
        pass


def test_workers_start_undisturbed_and_ignore_the_ctrl_c_of_a_terminal():
    interrupt = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line sets it
    try:
        with pytest.raises(KeyboardInterrupt), _undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            code = "from signal import *; print(int(getsignal(SIGINT)), int(getsignal(SIGTERM)))"
            handlers = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
            os.kill(os.getpid(), signal.SIGTERM)
            started = True  # reached: both signals wait
        assert started and handlers == [str(int(signal.SIG_IGN)), str(int(signal.SIG_DFL))]
        assert signal.getsignal(signal.SIGINT) == interrupt
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    "reply, reason",
    [(b"SSH-2.0-OpenSSH_9.6\r\n", "it speaks another protocol"), (HTTP, "it speaks another protocol"), (b"", "5 s")],
)
def test_a_server_that_is_no_scheduler_is_reported_before_any_other_work(reply, reason):
    """Servers that speak another protocol, and one that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []  # stay open

        def answer():
            connections.append(server.accept()[0])
            connections[0].sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        start = time.perf_counter()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no Dask scheduler answers at {address} .*{reason}"):
            check_scheduler(address)
        assert time.perf_counter() - start < 9


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_batch_with_one_line(tmp_path):
    """What is finished before is reported as such."""
    done, source = [], "import os, time\nif kill:\n    os.kill(kill, 9)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True) as scheduler:
        address = scheduler.stdout.readline().strip()
        jobs = [job(tmp_path, source, name, kill=kill) for name, kill in (("first", 0), ("deadly", scheduler.pid))]
        with pytest.raises(RunError, match="the Dask scheduler was lost: start it again") as lost:
            with connect(address) as client:
                run_jobs(client, jobs, done.append, lambda line: None)
    assert [one.output.name for one in done] == ["first.ipynb"] and "\n" not in str(lost.value)


@pytest.mark.parametrize("guard, code", [("if True:", 2), ('if __name__ == "__main__":', 0)])
def test_a_script_without_a_main_guard_is_told_about_it(tmp_path, guard, code):
    """Each process that it starts would run it once more."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from lmcl_core.common.command import exit_codes\nfrom lmcl_core.common.tasks import check_main_guard\n"
        f"def work():\n    check_main_guard()\n{guard}\n    with exit_codes('mine'):\n        work()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == code and len(done.stderr.splitlines()) == (code != 0), done.stderr
    assert code == 0 or "mine.py, line 7, starts processes, which run this script again: put the lines" in done.stderr


@pytest.mark.slow
def test_ctrl_c_still_ends_as_interrupted_once_slurm_is_there():
    """In a process of its own, since the handler is set by the first import."""
    code = "import signal, lmcl_core.batch.cluster as b, dask, contextlib; was = signal.getsignal(signal.SIGINT)\n"
    code += "with contextlib.suppress(b.InputError): b.slurm_cluster()\n"
    code += "import sys; assert 'dask_jobqueue' in sys.modules and signal.getsignal(signal.SIGINT) is was"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_slurm_job_script_asks_for_what_the_configuration_says():
    settings = {
        "job-cpu": 4,
        "memory": "16GB",
        "walltime": "02:00:00",
        "queue": "gpu",
        "job-extra-directives": ["--gpus=1"],
    }
    with (
        dask.config.set({f"jobqueue.slurm.{key}": value for key, value in settings.items()}),
        slurm_cluster() as cluster,
    ):
        script = cluster.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH -t 02:00:00", "#SBATCH --gpus=1"):
        assert line in script
    assert "distributed.cli.dask_worker tcp://" in script and "--nthreads 1 " in script
    assert "OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}" in script


@pytest.mark.parametrize("settings", [{}, {"job-cpu": 4}])
def test_incomplete_slurm_settings_are_an_error(settings):
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in settings.items()}):
        with pytest.raises(InputError, match="SLURM settings are incomplete: write job-cpu, memory"):
            slurm_cluster()


@pytest.mark.slow
def test_workers_that_nobody_starts_again_end_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("lmcl_core.common.tasks._SECONDS_TO_LOOK", 0.2)
    with connect(workers=1) as client:
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "10 minutes"
        _, keeper = client.cluster.workers.popitem()
        client.cluster.sync(keeper.close)
        with pytest.raises(RunError, match="every worker was lost"):
            run_jobs(client, [job(tmp_path, "1 + 1")], lambda job: None, lambda line: None)


@pytest.mark.slow
def test_a_worker_that_dies_at_its_memory_limit_is_reported_with_the_limit():
    options = dict(n_workers=1, threads_per_worker=1, memory_limit="400MB", dashboard_address=":0", silence_logs=50)
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        finished = as_finished(client, [10**9], lambda size: client.submit(lambda: (b"x" * size, time.sleep(60))))
        [(_, _, error)] = finished
    assert "died repeatedly" in str(error) and "its memory limit of 0.4 GB, such as with `dask worker" in str(error)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_paused_workers_end_the_batch(monkeypatch):
    """The worker is this process, which needs more than the limit."""
    monkeypatch.setattr("lmcl_core.common.tasks._SECONDS_TO_LOOK", 0.5)
    options = dict(processes=False, n_workers=1, threads_per_worker=1, memory_limit="1MB", dashboard_address=None)
    with Client(**options) as client, pytest.raises(RunError, match="paused.*raise its memory limit of 0.001 GB"):
        list(as_finished(client, range(3), lambda number: client.submit(time.sleep, number)))


@pytest.mark.slow
def test_all_that_is_started_here_listens_on_the_loopback_interface_only(client):
    """Whoever can connect to a worker, a nanny or the scheduler can run code there."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [connection for process in processes for connection in process.net_connections(kind="inet")]
    listening = [connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3 and set(listening) == {"127.0.0.1"}  # scheduler, nanny, worker


@pytest.mark.slow
def test_no_one_without_the_certificate_of_this_call_can_connect(client):
    """Neither to the scheduler nor to a worker or its nanny; not with TLS and a certificate of one's own either."""
    information = client.scheduler_info()["workers"]
    addresses = [client.scheduler.address, *information, *(worker["nanny"] for worker in information.values())]
    assert len(addresses) == 3 and all(address.startswith("tls://127.0.0.1:") for address in addresses)
    for address in addresses:
        with pytest.raises(InputError, match="no Dask scheduler answers"), connect(address.replace("tls://", "tcp://")):
            pass
    with pytest.raises(OSError), Client(client.scheduler.address, security=Security.temporary(), timeout=2):
        pass
    assert client.submit(lambda: 1).result() == 1

"""Notebooks as Dask tasks: lost workers, failing notebooks, other clusters."""

from __future__ import annotations

from pathlib import Path

import subprocess
import sys
import dask
import dask_jobqueue  # noqa: F401  its defaults enter the configuration when it is first imported
import nbformat
import psutil
import pytest

from lmcl_core import InputError, RunError
from lmcl_core.batch import connect, local_workers, run_jobs, slurm_cluster
from lmcl_core.jobs import Job

FIRST_TIME = """
from pathlib import Path
mark = Path(mark)
first = not mark.exists()
mark.touch()
"""


def job(folder: Path, source: str, name: str = "work", **parameters) -> Job:
    """A notebook of one cell, and its place in a training batch."""
    parameters = dict(benchmark="demo", recipe="lmcl", split=0, mark=str(folder / f"{name}.mark"), **parameters)
    cell = nbformat.v4.new_code_cell("\n".join(f"{key} = None" for key in parameters))
    cell.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(source)])
    book.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return Job(str(path), folder / "out" / f"{name}.ipynb", parameters)


@pytest.fixture(scope="module")
def client():
    with connect(workers=1) as client:
        yield client


def test_a_notebook_that_ends_is_reported_with_its_epochs(client, tmp_path):
    lines, done = [], []
    work = job(tmp_path, "print('epoch 1/1  loss 0.5')")
    assert run_jobs(client, [work], done.append, lines.append) == {}
    assert done == [work] and work.output.is_file()
    assert lines[0].endswith(": running") and lines[1].endswith(": epoch 1/1  loss 0.5") and lines[2].endswith(" s")


def test_a_failing_training_is_tried_again(client, tmp_path):
    done = []
    work = job(tmp_path, FIRST_TIME + "assert not first")
    assert run_jobs(client, [work], done.append, lambda line: None) == {} and done == [work]


def test_one_that_fails_twice_is_listed_and_the_rest_goes_on(client, tmp_path):
    done, lines = [], []
    bad, good = job(tmp_path, "1 / 0", "bad"), job(tmp_path, "1 + 1", "good")
    failed = run_jobs(client, [bad, good], done.append, lines.append)
    assert done == [good] and list(failed) == [bad.title]
    assert isinstance(failed[bad.title], RunError) and "ZeroDivisionError" in str(failed[bad.title])
    assert any("FAILED" in line for line in lines)


def test_a_killed_worker_loses_its_notebook_to_another_try(client, tmp_path):
    done = []
    source = (
        FIRST_TIME
        + "import os, signal\nif first:\n    os.kill(os.getppid(), signal.SIGKILL)\n    import time; time.sleep(60)"
    )
    work = job(tmp_path, source)
    assert run_jobs(client, [work], done.append, lambda line: None) == {} and done == [work]


def test_a_notebook_that_kills_every_worker_is_given_up_and_the_rest_is_run_once(client, tmp_path):
    """Neither what was finished before nor what waits behind it is drawn into the failure."""
    count = "with open(mark, 'a') as file:\n    file.write('x')"
    before, after = job(tmp_path, count, "before"), job(tmp_path, count, "after")
    deadly = job(tmp_path, "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)", "deadly")
    done = []
    failed = run_jobs(client, [before, deadly, after], done.append, lambda line: None)
    assert list(failed) == [deadly.title] and "its worker died again and again" in str(failed[deadly.title])
    assert done == [before, after]
    assert [(tmp_path / f"{name}.mark").read_text() for name in ("before", "after")] == ["x", "x"]


def test_each_local_worker_has_its_gpu_or_its_share_of_the_cores():
    assert local_workers(0, [], 8) == [dict(OMP_NUM_THREADS="8", MKL_NUM_THREADS="8")]
    assert [worker["OMP_NUM_THREADS"] for worker in local_workers(3, [], 8)] == ["2", "2", "2"]
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in local_workers(0, ["2", "3"], 8)] == ["2", "3"]
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in local_workers(4, ["0", "1"], 8)] == ["0", "1", "0", "1"]
    assert local_workers(9, [], 2)[0]["OMP_NUM_THREADS"] == "1"


def test_any_running_scheduler_will_do(client, tmp_path):
    done = []
    work = job(tmp_path, "1 + 1")
    with connect(client.scheduler.address) as other:
        assert run_jobs(other, [work], done.append, lambda line: None) == {} and done == [work]


def test_a_wrong_number_of_workers_is_refused_before_any_is_started():
    with pytest.raises(InputError, match="workers is -1"), connect("", -1):
        pass


@pytest.mark.parametrize(
    "address, message", [("10.0.0.1:8786", "write tcp://HOST:PORT"), ("tcp://127.0.0.1:9", "no Dask scheduler answers")]
)
def test_a_scheduler_that_is_not_there_is_an_error(address, message):
    with pytest.raises(InputError, match=message), connect(address):
        pass


def test_ctrl_c_still_ends_as_interrupted_once_slurm_is_there():
    """In a process of its own, since the handler is set by the first import."""
    code = "import signal, lmcl_core.batch as b, dask, contextlib; was = signal.getsignal(signal.SIGINT)\n"
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


@pytest.mark.parametrize("settings", [{}, {"job-cpu": 4}, {"memory": "16GB"}])
def test_incomplete_slurm_settings_are_an_error(settings):
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in settings.items()}):
        with pytest.raises(InputError, match="SLURM settings are incomplete: write job-cpu, memory"):
            slurm_cluster()


def test_workers_that_nobody_starts_again_end_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("lmcl_core.batch._SECONDS_TO_LOOK", 0.2)
    with connect(workers=1) as client:
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "10 minutes"
        _, keeper = client.cluster.workers.popitem()
        client.cluster.sync(keeper.close)
        with pytest.raises(RunError, match="every worker was lost"):
            run_jobs(client, [job(tmp_path, "1 + 1")], lambda job: None, lambda line: None)


def test_everything_that_is_started_here_listens_on_the_loopback_alone(client):
    """Whoever reaches a port of a worker, a nanny or the scheduler can run code there."""
    this = psutil.Process()
    sockets = [
        socket
        for process in [this, *this.children(recursive=True)]
        for socket in process.net_connections(kind="inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(sockets) >= 3  # scheduler, nanny, worker
    assert {socket.laddr.ip for socket in sockets} == {"127.0.0.1"}

"""The main job: notebooks 01 to 04 run in order by papermill, finished work skipped."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from . import runs
from .benchmarks import load_benchmark
from .devices import resolve_device
from .errors import InputError, RunError, save_failed, unknown
from .paths import figures_folder, project_folder, runs_folder
from .recipe import VARIANTS, Recipe
from .splits import data_hash, make_split
from .store import replacing

KERNEL = "python3"


@dataclass(frozen=True)
class Job:
    """One notebook to run.

    Attributes:
        notebook: its name in ``notebooks/``.
        output: where the executed copy goes.
        parameters: JSON-type values for its parameters cell.
    """

    notebook: str
    output: Path
    parameters: dict[str, Any]


def reproduce(
    benchmark: str = "demo",
    data_root: str = "",
    splits: int = 3,
    runs_dir: str = "",
    figures_dir: str = "",
    device: str = "auto",
    overwrite: bool = False,
    changes: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Run the walk on one benchmark: data, training of each split with and without the manifold loss, results.

    Args:
        benchmark: a key of `BENCHMARKS`.
        data_root: the official folder or its parent; empty for the demo.
        splits: how many of the numbered splits, 1 or more.
        runs_dir: where run folders go; empty for the default of `runs_folder`.
        figures_dir: where figures go; empty for the default of `figures_folder`.
        device: as in `train`.
        overwrite: compute again what is finished.
        changes: recipe fields that differ from the preset.
        log: called with one line a notebook.

    Returns:
        The executed notebooks, in order.

    Raises:
        InputError: bad arguments or data, found before anything is run.
        RunError: a notebook failed; the message names it, the cell and the error.
    """
    if splits < 1:
        raise InputError(f"splits is {splits!r}: it must be at least 1")
    resolve_device(device)
    recipes = {name: Recipe.for_benchmark(benchmark, name, **(changes or {})) for name in VARIANTS}
    table = load_benchmark(benchmark, data_root or None)
    shared = dict(
        benchmark=benchmark,
        data_root=str(data_root),
        runs_dir=str(runs_folder(runs_dir)),
        figures_dir=str(figures_folder("", figures_dir)),
    )
    done = []
    for job in plan(shared, splits, device, overwrite, changes or {}):
        start = time.perf_counter()
        if not overwrite and _finished(job, table, recipes):
            log(f"{_title(job)}: finished before")
        else:
            log(f"{_title(job)}: running")
            run_notebook(job, log)
            _remember(job, table)
            log(f"{_title(job)}: {time.perf_counter() - start:.0f} s")
        done.append(job.output)
    return done


def plan(shared: dict[str, Any], splits: int, device: str, overwrite: bool, changes: dict[str, Any]) -> Iterator[Job]:
    """The notebooks of a reproduction, in order, with their parameters.

    Args:
        shared: benchmark, data_root, runs_dir and figures_dir.
        splits: number of splits.
        device: as in `train`.
        overwrite: whether finished runs are computed again.
        changes: recipe fields that differ from the preset.
    """
    folder = Path(shared["runs_dir"]) / shared["benchmark"]
    settings = dict(shared, recipe_changes=json.dumps(changes))
    yield Job(
        "01_data_preparation.ipynb",
        folder / "01_data_preparation.ipynb",
        {k: v for k, v in dict(shared, splits=splits).items() if k != "runs_dir"},
    )
    for index in range(splits):
        for recipe in VARIANTS:
            output = runs.run_folder(shared["runs_dir"], shared["benchmark"], recipe, index) / "02_training.ipynb"
            yield Job(
                "02_training.ipynb",
                output,
                dict(settings, recipe=recipe, split=index, device=device, overwrite=overwrite),
            )
    for name in ("03_benchmark_evaluation.ipynb", "04_hard_examples_umap.ipynb"):
        yield Job(name, folder / name, dict(settings, splits=splits, device=device))


def run_notebook(job: Job, log: Callable[[str], None] = print) -> None:
    """Run one notebook headless; its executed copy is kept also when it fails.

    Args:
        job: what to run.
        log: called with the line of each epoch.

    Raises:
        InputError: a parameter the notebook does not have.
        RunError: a cell failed; the message names notebook, cell and error.
    """
    import papermill

    source = project_folder() / "notebooks" / job.notebook
    check_parameters(source, job.parameters)
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(source),
            str(job.output),
            parameters=job.parameters,
            kernel_name=KERNEL,
            progress_bar=False,
            stdout_file=_EpochLines(log),
            cwd=str(source.parent),
            extra_arguments=["--log-level=ERROR"],  # of the kernel, which else warns of TCP on this very machine
        )
    except papermill.PapermillExecutionError as error:
        first_line = error.source.strip().split("\n")[0]
        raise RunError(
            f"{job.notebook} failed in cell In [{error.exec_count}], {first_line!r} "
            f"({error.ename}: {error.evalue}); see {job.output}"
        ) from error
    except OSError as error:
        raise save_failed(job.output, error) from error


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's parameters cell does not list; papermill alone would only warn.

    Args:
        notebook: the source notebook.
        parameters: what is to be injected.

    Raises:
        InputError: an unknown name.
    """
    import papermill

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {notebook.name}", name, known)


def _title(job: Job) -> str:
    training = [str(job.parameters["recipe"]), f"split {job.parameters['split']}"] if "recipe" in job.parameters else []
    return "  ".join([job.notebook.removesuffix(".ipynb"), *training])


def _finished(job: Job, table: pd.DataFrame, recipes: dict[str, Recipe]) -> bool:
    """Whether a notebook ran to its end on the same source, parameters, data and runs, and all it made is there."""
    if "recipe" in job.parameters:
        split = make_split(table, job.parameters["split"])
        identity = runs.identity(table, split, recipes[job.parameters["recipe"]])
        if runs.finished_run(job.output.parent, identity) is None:
            return False
    stamp = job.output.with_suffix(".json")
    return job.output.is_file() and stamp.is_file() and stamp.read_text() == _stamp(job, table)


def _remember(job: Job, table: pd.DataFrame) -> None:
    with replacing(job.output.with_suffix(".json")) as path:
        path.write_text(_stamp(job, table))


def _stamp(job: Job, table: pd.DataFrame) -> str:
    """What a finished notebook was made from, and the figures it left, as JSON."""
    source = nbformat.read(project_folder() / "notebooks" / job.notebook, as_version=4)
    parameters = {key: value for key, value in job.parameters.items() if key not in ("overwrite", "device")}
    records = [] if job.notebook < "03" else sorted(job.output.parent.glob("*/split-*/run.json"))
    parts = [
        *(cell.source for cell in source.cells),
        json.dumps(parameters, sort_keys=True),
        data_hash(table),
        *(path.read_text() for path in records),
    ]
    inputs = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return json.dumps(dict(inputs=inputs, figures=_figures(job)), indent=2)


def _figures(job: Job) -> list[str]:
    """Names of the figures a notebook drew: they begin with its number, and those of a run name recipe and split."""
    folder = Path(job.parameters["figures_dir"]) / job.parameters["benchmark"]
    run = f"*{job.parameters['recipe']}_split-{job.parameters['split']:02d}.*" if "recipe" in job.parameters else "*"
    return sorted(path.name for path in folder.glob(f"{job.notebook[:2]}_{run}"))


class _EpochLines(io.TextIOBase):
    """Passes the lines that tell of an epoch on to the log, as the notebook prints them."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log

    def write(self, text: str) -> int:
        """Take text as it comes; returns its length, as streams do."""
        for line in text.splitlines():
            if line.startswith("epoch "):
                self.log(f"    {line}")
        return len(text)

"""The main job: notebooks 01 to 04 run in order by papermill, finished work skipped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import runs
from .benchmarks import load_benchmark
from .errors import InputError, RunError, unknown
from .paths import figures_folder, project_folder, runs_folder
from .recipe import VARIANTS, Recipe
from .splits import make_split
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
            run_notebook(job)
            _remember(job)
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


def run_notebook(job: Job) -> None:
    """Run one notebook headless; its executed copy is kept also when it fails.

    Args:
        job: what to run.

    Raises:
        InputError: a parameter the notebook does not have.
        RunError: a cell failed; the message names notebook, cell and error.
    """
    import papermill

    source = project_folder() / "notebooks" / job.notebook
    check_parameters(source, job.parameters)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(job.output),
            parameters=job.parameters,
            kernel_name=KERNEL,
            progress_bar=False,
            log_output=False,
            cwd=str(source.parent),
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"{job.notebook} failed in cell {error.cell_index} ({error.ename}: {error.evalue}); see {job.output}"
        ) from error


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


def _inputs(job: Job) -> str:
    """Hash of what a notebook without a run folder of its own is made from: its source, parameters and runs."""
    source = (project_folder() / "notebooks" / job.notebook).read_bytes()
    records = sorted(job.output.parent.glob("*/split-*/run.json")) if job.notebook >= "03" else []
    parts = [source, json.dumps(job.parameters, sort_keys=True).encode(), *(path.read_bytes() for path in records)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _finished(job: Job, table, recipes: dict[str, Recipe]) -> bool:
    if not job.output.is_file():
        return False
    if "recipe" in job.parameters:
        split = make_split(table, job.parameters["split"])
        identity = runs.identity(table, split, recipes[job.parameters["recipe"]])
        return runs.finished_run(job.output.parent, identity) is not None
    stamp = job.output.with_suffix(".json")
    return stamp.is_file() and json.loads(stamp.read_text()) == _stamp(job) and _figures(job) != []


def _stamp(job: Job) -> dict[str, Any]:
    return dict(inputs=_inputs(job), figures=_figures(job))


def _figures(job: Job) -> list[str]:
    """Names of the figures a notebook drew; each begins with the notebook's number."""
    folder = Path(job.parameters["figures_dir"]) / job.parameters["benchmark"]
    return sorted(path.name for path in folder.glob(f"{job.notebook[:2]}_*"))


def _remember(job: Job) -> None:
    if "recipe" not in job.parameters:
        with replacing(job.output.with_suffix(".json")) as path:
            path.write_text(json.dumps(_stamp(job)))

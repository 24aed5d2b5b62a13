"""The main job: the notebooks in order, over benchmarks and splits, finished work skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from . import runs
from .batch import check_cluster, connect, run_jobs
from .catalogue import BENCHMARKS
from .choice import choose_benchmarks
from .devices import resolve_device
from .errors import InputError, RunError, counted
from .jobs import Job, is_finished, remember
from .paths import figures_folder, runs_folder, whole_path
from .recipe import COMPARED, Recipe, check_changes, variants_of
from .splits import make_split, numbered_splits
from .tables import finished_splits


@dataclass(frozen=True)
class Order:
    """What is to be reproduced, and where.

    Attributes:
        benchmark: a key of `BENCHMARKS`, several separated by commas, or "all" (every one of people's opinions).
        data_root: the official folder, its parent, or the folder that holds many of them; empty for the demo.
        splits: how many of the numbered splits, 1 or more.
        runs_dir: where run folders go; empty for the default of `runs_folder`.
        figures_dir: where figures go; empty for the default of `figures_folder`.
        device: as in `train`.
        overwrite: compute again what is finished.
        changes: recipe fields that differ from the presets.
        workers: Dask workers to start, as in `batch.connect`.
        scheduler: Dask scheduler, as in `batch.connect`.
        ablation: train every variant of the ablation too, and run notebook 05.
    """

    benchmark: str = "demo"
    data_root: str = ""
    splits: int = 3
    runs_dir: str = ""
    figures_dir: str = ""
    device: str = "auto"
    overwrite: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    workers: int = 0
    scheduler: str = ""
    ablation: bool = False

    def recipes(self, benchmark: str) -> tuple[str, ...]:
        """Names of the recipes that are trained on a benchmark."""
        return variants_of(benchmark) if self.ablation else COMPARED

    def settings(self, benchmark: str, **more: Any) -> dict[str, Any]:
        """Notebook parameters that tell of this order; `benchmark` is one name or several with commas."""
        built = benchmark == "demo" and self.benchmark.strip() != "demo"  # the folder is that of the others
        root = "" if built else self.data_root
        return dict(
            benchmark=benchmark,
            data_root=str(whole_path(root)) if root else "",
            runs_dir=str(runs_folder(self.runs_dir)),
            figures_dir=str(figures_folder("", self.figures_dir)),
            recipe_changes=json.dumps(self.changes),
            **more,
        )


def reproduce(order: Order, log: Callable[[str], None] = print) -> list[Path]:
    """Run the walk: data, training of every split with and without the manifold loss, results.

    A benchmark whose folder is missing or unsound is reported and left out where "all" are asked for; a run that fails
    is tried once more and then listed. What depends on neither goes on, and a later call does only what is missing.

    Args:
        order: what is to be done.
        log: called with one line a notebook and epoch.

    Returns:
        The executed notebooks, in order.

    Raises:
        InputError: bad arguments or data, found before anything is run.
        RunError: notebooks failed; the message names each, the cell and the error.
    """
    tables, recipes = prepare(order, log)
    if "demo" in tables:
        log(f"labels of the demo: {BENCHMARKS['demo'].label_kind}")
    done: list[Path] = []
    failed: dict[str, Exception] = {}
    with ExitStack() as stack:
        client = None
        for stage in plan(order, list(tables)):
            todo = [job for job in stage if not _lacks_input(job, failed)]
            fresh = [job for job in todo if order.overwrite or not _is_done(job, tables, recipes)]
            for job in todo:
                if job not in fresh:
                    log(f"{job.title}: finished before")
            for job in fresh:
                if order.overwrite and job.is_training:
                    runs.discard(job.output.parent)
            if fresh:
                client = client or stack.enter_context(connect(order.scheduler, order.workers))
                failed |= run_jobs(client, fresh, lambda job: remember(job, tables), log)
            done += [job.output for job in todo if job.title not in failed]
    if failed:
        raise RunError(_report(failed))
    return done


def prepare(
    order: Order, log: Callable[[str], None] = print
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Recipe]]]:
    """Check an order before anything is run.

    Args:
        order: what is to be done.
        log: called with one line for every benchmark that is left out.

    Returns:
        Tables by benchmark, and recipes by benchmark and name.

    Raises:
        InputError: something in it cannot be used.
    """
    wanted = numbered_splits(order.splits)
    check_cluster(order.scheduler, order.workers)
    if "name" in order.changes:
        raise InputError("recipe field name cannot be changed here: the runs of a batch lie in folders of their recipe")
    if order.ablation:
        check_changes(order.changes)
    if not order.scheduler and order.device != "auto":
        resolve_device(order.device)
    Recipe.from_dict(order.changes)  # a wrong field is told before anything is built
    tables, missing = choose_benchmarks(order.benchmark, order.data_root or None)
    recipes = {
        name: {recipe: Recipe.for_benchmark(name, recipe, **order.changes) for recipe in order.recipes(name)}
        for name in tables
    }
    for name, reason in missing.items():
        log(f"{name}: left out: {reason}")
    if not order.overwrite:
        for name, table in tables.items():  # a folder that holds another run is told now, not hours later
            for recipe in recipes[name].values():
                finished_splits(table, recipe, runs_folder(order.runs_dir), wanted)
    return tables, recipes


def plan(order: Order, benchmarks: list[str]) -> Iterator[list[Job]]:
    """The notebooks of a reproduction in stages; those of one stage do not need one another.

    Args:
        order: what is to be done.
        benchmarks: those that are there.
    """
    folder = runs_folder(order.runs_dir)
    yield [_job(order, "01_data_preparation", folder / name, name, splits=order.splits) for name in benchmarks]
    yield [
        Job(
            "02_training.ipynb",
            runs.run_folder(folder, name, recipe, index) / "02_training.ipynb",
            order.settings(name, recipe=recipe, split=index, device=order.device),
        )
        for name in benchmarks
        for index in numbered_splits(order.splits)
        for recipe in order.recipes(name)
    ]
    together = folder / (benchmarks[0] if len(benchmarks) == 1 else "all")
    all_of_them = ",".join(benchmarks)
    more = dict(splits=order.splits, device=order.device)
    yield [
        _job(order, "03_benchmark_evaluation", together, all_of_them, train_missing=False, **more),
        *(_job(order, "04_hard_examples_umap", folder / name, name, **more) for name in benchmarks),
        *(
            _job(order, "05_ablation", folder / name, name, train_missing=False, variants="all", recorded="", **more)
            for name in (benchmarks if order.ablation else [])
        ),
        _job(order, "06_cross_dataset", together, all_of_them, device=order.device),
    ]


def _job(order: Order, notebook: str, folder: Path, benchmark: str, **more: Any) -> Job:
    parameters = order.settings(benchmark, **more)
    if notebook.startswith("01"):  # it looks at data alone
        del parameters["runs_dir"], parameters["recipe_changes"]
    return Job(f"{notebook}.ipynb", folder / f"{notebook}.ipynb", parameters)


def _is_done(job: Job, tables: Mapping[str, pd.DataFrame], recipes: Mapping[str, dict[str, Recipe]]) -> bool:
    """Whether a notebook, and the run it trains, need not be computed again."""
    if job.is_training:
        table = tables[job.parameters["benchmark"]]
        recipe = recipes[job.parameters["benchmark"]][job.parameters["recipe"]]
        identity = runs.identity(table, make_split(table, job.parameters["split"]), recipe)
        if runs.finished_run(job.output.parent, identity) is None:
            return False
    return is_finished(job, tables)


def _lacks_input(job: Job, failed: Mapping[str, Exception]) -> bool:
    """Whether what a notebook is made from has failed: unsound data for all but the tables, a run for notebook 04."""
    broken = {tuple(title.split("  ")[:3]) for title in failed}
    data = all(("01_data_preparation", name) in broken for name in job.benchmarks)
    compared = any(("02_training", job.benchmarks[0], recipe) in broken for recipe in COMPARED)
    return data or (job.notebook.startswith("04") and compared)


def _report(failed: Mapping[str, Exception]) -> str:
    shown = "; ".join(f"{title}: {error}" for title, error in list(failed.items())[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"{counted(len(failed), 'notebook')} failed: {shown}{more}. Run the same command again to do what is missing"

"""``lmcl reproduce``: run notebooks 01 to 06 over benchmarks and splits, and skip what is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.devices import resolve_device
from ..common.errors import InputError, RunError, counted
from ..common.paths import DEFAULT_NETWORK, figures_folder, reference_folder, resolve_path, runs_folder
from ..common.progress import meter
from ..data.benchmarks import choose_benchmarks, name_of
from ..data.catalogue import BENCHMARKS
from ..data.own import own_folder
from ..data.splits import numbered_splits
from ..recipe import COMPARED, VARIANTS, Recipe, check_changes, variants_of
from ..results.ledger import ledger_path
from ..results.records import RunSet
from ..results.words import left_out
from ..runs import folder as runs
from .cluster import check_cluster, check_scheduler, connect, run_jobs, slurm_cluster
from .notebook import Job, is_finished, mark_finished


@dataclass(frozen=True)
class ReproduceOptions:
    """What `reproduce` runs, and where."""

    benchmark: str = "demo"  #: names or paths, as in `choose_benchmarks`
    data_root: str = ""  #: the official folder, its parent, or the folder that holds several; empty for the demo
    splits: int = 2  #: number of numbered splits, at least 1
    runs_dir: str = ""  #: folder of run folders; empty for the default of `runs_folder`
    figures_dir: str = ""  #: folder of figures and tables; empty for ``figures`` in the folder of run folders
    device: str = "auto"  #: as in `train`
    overwrite: bool = False  #: run finished notebooks and trainings again
    changes: dict[str, Any] = field(default_factory=dict)  #: recipe fields that differ from the presets
    workers: int = 0  #: as in `connect`
    scheduler: str = ""  #: as in `connect`
    ablation: bool = False  #: train every variant, and run notebook 05
    network: str = DEFAULT_NETWORK  #: as in `Recipe.for_benchmark`

    def data_parameters(self, benchmark: str) -> dict[str, Any]:
        """Parameters of every notebook; `benchmark` is one name or several separated by commas.

        A notebook gets the path of own data that was given by its path.
        """
        builds_demo = benchmark == "demo" and self.benchmark.strip() != "demo"  # data_root is that of the others
        root = "" if builds_demo or not self.data_root else str(resolve_path(self.data_root))
        given = {text.strip() for text in self.benchmark.split(",")} - set(BENCHMARKS)
        paths = {name_of(text): str(own_folder(text)) for text in given if own_folder(text)}
        benchmark = ",".join(paths.get(name, name) for name in benchmark.split(","))
        return dict(benchmark=benchmark, data_root=root, figures_dir=str(self.figures))

    @property
    def figures(self) -> Path:
        """The folder that holds one folder of figures and tables per benchmark."""
        return figures_folder("", self.figures_dir, self.runs_dir)

    def run_parameters(self, benchmark: str) -> dict[str, Any]:
        """Parameters of every notebook that trains or reads runs."""
        more = dict(runs_dir=str(runs_folder(self.runs_dir)), recipe_changes=json.dumps(self.changes))
        return self.data_parameters(benchmark) | more | dict(device=self.device, network=self.network)

    def of_network(self, folder: Path) -> Path:
        """Where notebooks or figures of a benchmark's folder lie; those of the default network lie in it directly."""
        return folder if self.network == DEFAULT_NETWORK else folder / self.network


def reproduce(options: ReproduceOptions, log: Callable[[str], None] = print) -> list[Path]:
    """Run the notebooks in the order data, training of every split and recipe, results.

    With benchmark "all", unreadable benchmarks are reported and left out. A failed training is tried once more. If a
    notebook fails, only notebooks that need its results are left out. A repeated call runs only what is missing.
    At the end, the results are compared with the committed reference, where there is one. `log` is called with one line
    per notebook and epoch. Returns the executed notebooks, in order.

    InputError: bad options or data, found before anything runs; or results that cannot be compared. RunError: notebooks
    failed (the message gives notebook, cell and error), or a quantity is outside its tolerance.
    """
    check_cluster(options.scheduler, options.workers)
    check_scheduler(options.scheduler)  # before the demo is built
    tables, recipes = check_options(options, log)
    if "demo" in tables:
        log(f"labels of the demo: {BENCHMARKS['demo'].label_kind}")
    done, failed = _run_stages(options, tables, recipes, log)
    if failed:
        shown = "; ".join(f"{title}: {error}" for title, error in list(failed.items())[:5])
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        count = counted(len(failed), "notebook")
        raise RunError(f"{count} failed: {shown}{more}. Run the same command again to do what is missing")
    compare_with_reference(options, tables, log)
    return done


def _run_stages(
    options: ReproduceOptions,
    tables: Mapping[str, pd.DataFrame],
    recipes: Mapping[str, dict[str, Recipe]],
    log: Callable[[str], None],
) -> tuple[list[Path], dict[str, Exception]]:
    """Run the notebooks of `plan` that are not finished. Returns the executed ones, and errors by title."""
    done: list[Path] = []
    failed: dict[str, Exception] = {}
    stages = list(plan(options, recipes))

    def trained(job: Job) -> bool:
        return job.trains and not options.overwrite and _has_run(job, tables, recipes)

    def finished(job: Job) -> bool:
        return not options.overwrite and (trained(job) or not job.trains) and is_finished(job, tables)

    with ExitStack() as stack:
        client, shown = None, stack.enter_context(closing(meter(sum(map(len, stages)), "notebooks")))

        def finish(job: Job) -> None:
            mark_finished(job, tables)
            shown.update()

        for stage in stages:
            runnable = [job for job in stage if not lacks_input(job, failed)]
            todo = [job for job in runnable if not finished(job)]
            for job in stage:
                if job not in runnable:
                    log(f"{job.title}: left out, because notebooks that it needs have failed")
                elif job not in todo:
                    log(f"{job.title}: finished before")
            for job in filter(trained, todo):
                log(f"{job.title}: its run is finished; only the notebook runs again, nothing is trained")
            shown.update(len(stage) - len(todo))
            if todo:
                client = client or stack.enter_context(connect(options.scheduler, options.workers))
                failures = run_jobs(client, todo, finish, log)
                failed |= failures
                shown.update(len(failures))
            done += [job.output for job in runnable if job.title not in failed]
    return done, failed


def compare_with_reference(options: ReproduceOptions, names: Iterable[str], log: Callable[[str], None] = print) -> None:
    """Report how the results of some benchmarks agree with the committed reference, where there is one.

    RunError: a quantity lies outside its tolerance, or the results cannot be compared.
    """
    from ..results import reproduction  # imports scipy

    problems = []
    for name in names:
        own, reference = (options.of_network(folder / name) for folder in (options.figures, reference_folder("")))
        reproduction.discard(own)  # a report of earlier results
        if options.changes:
            log(f"{name}: not compared with the reference, because recipe fields were changed")
        elif not reproduction.has_reference(reference):
            log(f"{name}: {reference} holds no results to compare with")
        else:
            try:
                reproduction.report(own, reference, log)
            except (InputError, RunError) as error:
                problems.append(str(error))
    if problems:
        raise RunError("; ".join(problems))


def check_options(
    options: ReproduceOptions, log: Callable[[str], None] = print
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Recipe]]]:
    """Check the options, and return tables by benchmark, and recipes by benchmark and name.

    `log` is called with one line per benchmark that is left out. InputError: bad options or data, or a run folder that
    holds another run.
    """
    runs_folder(options.runs_dir)  # a file is refused before the demo is built
    if options.figures.resolve() == reference_folder("").resolve():
        raise InputError(f"{options.figures} holds the reference results: choose another --figures-dir")
    splits = numbered_splits(options.splits)
    check_cluster(options.scheduler, options.workers)
    check_changes(options.changes, VARIANTS if options.ablation else COMPARED)
    if not options.scheduler and options.device != "auto":
        resolve_device(options.device)
    Recipe.for_benchmark("demo", network=options.network, **options.changes)  # before the demo is built
    tables, missing = choose_benchmarks(options.benchmark, options.data_root or None)
    for line in left_out(missing):
        log(line)
    recipes = recipes_of(options, tables)
    if not options.overwrite:  # a folder that holds another run is an error now rather than after hours
        for name, table in tables.items():
            for recipe in recipes[name].values():
                RunSet(table, recipe, runs_folder(options.runs_dir)).finished(splits)
    return tables, recipes


def print_forecast(options: ReproduceOptions, log: Callable[[str], None] = print) -> None:
    """``--dry-run``: print the table of `forecast`, its sums and, with SLURM, the job script. Raises as `reproduce`."""
    check_options(options, log=lambda line: None)  # wrong use is reported before torch is imported
    script = ""
    if options.scheduler == "slurm":  # first, because incomplete settings are an error
        with slurm_cluster() as cluster:
            script = cluster.job_script()
    from .forecast import forecast  # imports torch

    table = forecast(options, log)
    log(table.round({"minutes": 1, "store_gb": 2}).to_string(index=False))
    log(
        f"in all {table['runs'].sum()} runs, {table['minutes'].sum():.0f} minutes of training on one worker, "
        f"{table['store_gb'].sum():.1f} GB of decoded images to keep"
    )
    if script:
        log(script)


def recipes_of(options: ReproduceOptions, benchmarks: Mapping[str, str | pd.DataFrame]) -> dict[str, dict[str, Recipe]]:
    """Recipes by benchmark and variant; the values of `benchmarks` are as in `Recipe.for_benchmark`."""
    return {
        name: {
            variant: Recipe.for_benchmark(one, variant, network=options.network, **options.changes)
            for variant in (variants_of(one, options.network) if options.ablation else COMPARED)
        }
        for name, one in benchmarks.items()
    }


def plan(options: ReproduceOptions, recipes: Mapping[str, Mapping[str, Recipe]]) -> Iterator[list[Job]]:
    """Yield the notebooks in stages; the jobs of one stage are independent of each other. `recipes` as `recipes_of`."""
    benchmarks = list(recipes)
    folder, count = runs_folder(options.runs_dir), dict(splits=options.splits)
    checks = {
        name: _job("01_data_preparation", folder / name, options.data_parameters(name) | count, draws="01_*")
        for name in benchmarks
    }
    yield list(checks.values())
    trainings = {name: _trainings(options, name, recipes[name], ((checks[name].title,),)) for name in benchmarks}
    yield [job for jobs in trainings.values() for job in jobs]
    ledger = tuple(path for path in [ledger_path()] if path.is_file())
    ablation = dict(draws="05_*", reads_runs=tuple(VARIANTS), reads_files=ledger)
    no_training, records = dict(train_missing=False), dict(variants="all", recorded="")
    results = []
    for name in benchmarks:
        needs, own = ((checks[name].title,),), options.run_parameters(name) | count
        pair = tuple((job.title,) for job in trainings[name] if job.parameters["recipe"] in COMPARED)
        at = options.of_network(folder / name)
        results.append(_job("04_hard_examples_umap", at, own, (*needs, *pair), "04_*", COMPARED))
        if options.ablation:
            results.append(_job("05_ablation", at, own | no_training | records, needs, **ablation))
    together = options.of_network(folder / (benchmarks[0] if len(benchmarks) == 1 else "all"))
    parameters, needs = options.run_parameters(",".join(benchmarks)), (tuple(job.title for job in checks.values()),)
    yield [
        _job("03_benchmark_evaluation", together, parameters | count | no_training, needs, "03_*", COMPARED),
        *results,
        _job("06_cross_dataset", together, parameters, needs, "06_*", COMPARED),
    ]


def _trainings(
    options: ReproduceOptions, benchmark: str, recipes: Mapping[str, Recipe], needs: tuple[tuple[str, ...], ...]
) -> list[Job]:
    jobs = []
    for split in range(options.splits):
        for variant, recipe in recipes.items():
            folder = runs.run_folder(runs_folder(options.runs_dir), benchmark, recipe.name, split)
            own = dict(recipe=variant, split=split, overwrite=options.overwrite)
            parameters = options.run_parameters(benchmark) | own
            figures = f"02_*{recipe.name}_split-{split:02d}.*"
            jobs.append(_job("02_training", folder, parameters, needs, figures, trains=True))
    return jobs


def _job(name: str, folder: Path, parameters: dict[str, Any], *fields: Any, **more: Any) -> Job:
    return Job(f"{name}.ipynb", folder / f"{name}.ipynb", parameters, *fields, **more)


def lacks_input(job: Job, failed: Mapping[str, Exception]) -> bool:
    """Whether a job must be left out: in at least one group of `Job.needs`, all jobs have failed."""
    return any(all(title in failed for title in group) for group in job.needs)


def _has_run(job: Job, tables: Mapping[str, pd.DataFrame], recipes: Mapping[str, dict[str, Recipe]]) -> bool:
    """Whether the run that a notebook trains is finished."""
    [name] = job.benchmarks
    run_set = RunSet(tables[name], recipes[name][job.parameters["recipe"]], job.parameters["runs_dir"])
    return bool(run_set.finished([job.parameters["split"]]))

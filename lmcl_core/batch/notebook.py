"""Run one notebook with papermill, and recognise a finished one."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import RunError, save_failed
from ..common.files import atomic_write, digest
from ..common.paths import DEFAULT_NETWORK, figures_folder, project_folder
from ..data.benchmarks import benchmark, name_of
from ..data.identity import data_hash
from ..recipe import Recipe
from .parameters import check_parameters

if TYPE_CHECKING:
    import pandas as pd

#: Parameters that do not change the results.
_WITHOUT_EFFECT = ("overwrite", "device")


@dataclass(frozen=True)
class Job:
    """One notebook to run.

    The job needs at least one success in each group of `needs`, else it is left out. It reads the runs of the variants
    `reads_runs`, with its parameter recipe_changes, for all its benchmarks.
    """

    notebook: str  #: file name in ``notebooks/``
    output: Path  #: path of the executed copy
    parameters: dict[str, Any]  #: values for the parameters cell, of JSON types
    needs: tuple[tuple[str, ...], ...] = ()  #: groups of job titles
    draws: str = ""  #: glob pattern of the file names of its figures; "" for none
    reads_runs: tuple[str, ...] = ()  #: keys of `VARIANTS`
    reads_files: tuple[Path, ...] = ()  #: other files that it reads
    trains: bool = False  #: whether it trains the run of its parameters recipe and split

    @property
    def benchmarks(self) -> list[str]:
        """Names of its benchmarks."""
        return [name_of(text) for text in self.parameters["benchmark"].split(",")]

    @property
    def title(self) -> str:
        """Notebook, benchmarks and, of a training, recipe and split."""
        run = [self.parameters["recipe"], f"split {self.parameters['split']}"] if self.trains else []
        return "  ".join([self.notebook.removesuffix(".ipynb"), ", ".join(self.benchmarks), *run])


def run_notebook(job: Job, log: Callable[[str], None] = print) -> None:
    """Run a notebook headless; the executed copy is kept if a cell fails. `log` is called with the line of each epoch.

    InputError: unknown parameter, or one of the wrong type. RunError: a cell failed, or the copy cannot be saved.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = project_folder() / "notebooks" / job.notebook
    check_parameters(source, job.parameters)
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (source, job.output)]  # papermill formats them
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            *paths,
            parameters=job.parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=_EpochLines(log),
            cwd=str(source.parent),
            extra_arguments=["--log-level=CRITICAL"],  # otherwise the kernel reports its ports and its end
        )
    except papermill.PapermillExecutionError as error:
        cell = f"cell In [{error.exec_count}], {_first_statement(error.source)!r}"
        reason = f"{error.ename}: {error.evalue}"
        raise RunError(f"{job.notebook} failed in {cell} ({reason}); see {job.output}") from error
    except DeadKernelError as error:
        problem = f"the kernel of {job.notebook} was killed (out of memory?): free memory or use fewer workers"
        raise RunError(f"{problem}; see {job.output}") from error
    except OSError as error:
        raise save_failed(job.output, error) from error


def _first_statement(source: str) -> str:
    """The first line of a cell that is neither empty, a magic nor an import; else its first line."""
    lines = [line for line in source.strip().split("\n") if line.strip()]
    return next((line for line in lines if not line.startswith(("%", "import ", "from "))), lines[0])


class _EpochLines(io.TextIOBase):
    """A text stream that passes lines beginning with "epoch" on to a log and drops the others."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log

    def write(self, text: str) -> int:
        """Take some text; returns its length."""
        for line in text.splitlines():
            if line.startswith("epoch "):
                self.log(f"    {line}")
        return len(text)


def is_finished(job: Job, tables: Mapping[str, pd.DataFrame]) -> bool:
    """Whether a notebook has run with the same source, parameters, data and runs, and its figures are unchanged.

    `tables` are from `load_benchmark`, by benchmark.
    """
    path = job.output.with_suffix(".json")
    return job.output.is_file() and path.is_file() and path.read_text() == _fingerprint(job, tables)


def mark_finished(job: Job, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write what `is_finished` compares, beside the executed notebook. RunError: the file cannot be saved."""
    fingerprint = _fingerprint(job, tables)  # outside the block: a missing input is no failed write
    with atomic_write(job.output.with_suffix(".json")) as path:
        path.write_text(fingerprint)


def _fingerprint(job: Job, tables: Mapping[str, pd.DataFrame]) -> str:
    """A hash of all inputs of a notebook, and hashes of its figures, as JSON."""
    source, package = project_folder() / "notebooks" / job.notebook, project_folder() / "lmcl_core"
    parameters = {key: value for key, value in job.parameters.items() if key not in _WITHOUT_EFFECT}
    parts = [
        *("".join(cell["source"]) for cell in json.loads(source.read_text())["cells"]),
        json.dumps(parameters, sort_keys=True),
        *(_facts(tables[name]) for name in job.benchmarks),
        *(digest(path) for path in sorted([*package.rglob("*.py"), *package.rglob("*.csv")])),
        *(path.read_text() for path in [*_run_records(job, tables), *job.reads_files]),
    ]
    inputs = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return json.dumps(dict(inputs=inputs, figures=_figure_hashes(job)), indent=2)


def _facts(table: pd.DataFrame) -> str:
    """What a notebook shows of a benchmark: its data, every column of its labels, and what is said about it."""
    labels = table.drop(columns=["image", "mos"]).to_csv(index=False)
    return "\n".join([data_hash(table), labels, str(benchmark(table))])


def _run_records(job: Job, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    """The ``run.json`` of every run that a notebook reads; no notebook reads validation runs."""
    changes = Recipe.parse_changes(job.parameters.get("recipe_changes", {}))
    found: list[Path] = []
    for name in job.benchmarks:
        for variant in job.reads_runs:
            recipe = Recipe.for_benchmark(tables[name], variant, network=_network(job), **changes)
            found += (Path(job.parameters["runs_dir"]) / name / recipe.name).glob("split-*/run.json")
    return sorted(path for path in found if not path.parent.name.endswith("-val"))


def _network(job: Job) -> str:
    return job.parameters.get("network", DEFAULT_NETWORK)


def _figure_hashes(job: Job) -> dict[str, str]:
    figures = Path(job.parameters["figures_dir"])
    folders = [*job.benchmarks, "all"] if len(job.benchmarks) > 1 else job.benchmarks
    folders = [figures_folder(name, figures, network=_network(job)) for name in folders if job.draws]
    drawn = [path for folder in folders for path in sorted(folder.glob(job.draws))]
    return {path.relative_to(figures).as_posix(): digest(path) for path in drawn}

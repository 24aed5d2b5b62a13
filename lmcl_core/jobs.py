"""One notebook run headless by papermill, and how it is known to be finished."""

from __future__ import annotations

import ast
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from .arguments import expect
from .errors import RunError, save_failed, unknown
from .paths import project_folder
from .recipe import COMPARED, VARIANTS
from .splits import data_hash
from .files import replacing

KERNEL = "python3"

#: Parameters that say how and where a notebook is run, not what comes out of it.
_CIRCUMSTANCES = ("overwrite", "device")


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

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks it is about."""
        return str(self.parameters["benchmark"]).split(",")

    @property
    def title(self) -> str:
        """Notebook, and what it is run on."""
        about = [", ".join(self.benchmarks)]
        if self.is_training:
            about += [str(self.parameters["recipe"]), f"split {self.parameters['split']}"]
        return "  ".join([self.notebook.removesuffix(".ipynb"), *about])

    @property
    def is_training(self) -> bool:
        """Whether it trains one run."""
        return "split" in self.parameters


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
    from nbclient.exceptions import DeadKernelError

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
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel, which else tells of TCP and of its being stopped
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"{job.notebook} failed in cell In [{error.exec_count}], {_telling_line(error.source)!r} "
            f"({error.ename}: {error.evalue}); see {job.output}"
        ) from error
    except DeadKernelError as error:
        raise RunError(
            f"the Python of {job.notebook} was killed (out of memory?): free memory or use fewer workers; "
            f"see {job.output}"
        ) from error
    except OSError as error:
        raise save_failed(job.output, error) from error


def _telling_line(source: str) -> str:
    """The first line of a cell that says what it is about."""
    lines = [line for line in source.strip().split("\n") if line.strip()]
    return next((line for line in lines if not line.startswith(("%", "import ", "from "))), lines[0])


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's parameters cell does not list, of which papermill alone would only warn,
    and values of another type.

    Args:
        notebook: the source notebook.
        parameters: what is to be injected.

    Raises:
        InputError: an unknown name, or a value of another type than the notebook's own.
    """
    import papermill

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {notebook.name}", name, known)
        default = ast.literal_eval(known[name]["default"])
        if default is not None:
            expect(type(default), **{name: parameters[name]})


def is_finished(job: Job, tables: Mapping[str, pd.DataFrame]) -> bool:
    """Whether a notebook ran to its end on the same source, parameters, data and runs, and all it drew is there.

    Args:
        job: the notebook.
        tables: from `load_benchmark`, by benchmark.
    """
    path = job.output.with_suffix(".json")
    return job.output.is_file() and path.is_file() and path.read_text() == _stamp(job, tables)


def remember(job: Job, tables: Mapping[str, pd.DataFrame]) -> None:
    """Note beside the executed notebook what it was made from, so that `is_finished` knows it.

    Args:
        job: a notebook that ran to its end.
        tables: from `load_benchmark`, by benchmark.

    Raises:
        RunError: the note cannot be saved.
    """
    with replacing(job.output.with_suffix(".json")) as path:
        path.write_text(_stamp(job, tables))


def _stamp(job: Job, tables: Mapping[str, pd.DataFrame]) -> str:
    """What a finished notebook was made from, and the figures it left, as JSON."""
    source = nbformat.read(project_folder() / "notebooks" / job.notebook, as_version=4)
    parameters = {key: value for key, value in job.parameters.items() if key not in _CIRCUMSTANCES}
    parts = [
        *(cell.source for cell in source.cells),
        json.dumps(parameters, sort_keys=True),
        *(data_hash(tables[name]) for name in job.benchmarks),
        *(path.read_text() for path in _records(job)),
    ]
    inputs = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return json.dumps(dict(inputs=inputs, figures=_figures(job)), indent=2)


def _records(job: Job) -> list[Path]:
    """The ``run.json`` of every run a notebook may read, and the ledger where it shows it."""
    if job.notebook < "03":
        return []
    runs, ablation = Path(job.parameters["runs_dir"]), job.notebook.startswith("05")
    recipes = VARIANTS if ablation else COMPARED
    found = [path for name in job.benchmarks for r in recipes for path in (runs / name / r).glob("split-*/run.json")]
    found = [path for path in found if not path.parent.name.endswith("-val")]  # no notebook reads validation runs
    ledger = project_folder() / "figures" / "ledger.csv"
    return sorted(found) + ([ledger] if ablation and ledger.is_file() else [])


def _figures(job: Job) -> dict[str, str]:
    """Hashes of the figures a notebook drew: names begin with its number, those of a run tell recipe and split."""
    figures = Path(job.parameters["figures_dir"])
    run = f"*{job.parameters['recipe']}_split-{job.parameters['split']:02d}.*" if job.is_training else "*"
    folders = [*job.benchmarks, "all"] if len(job.benchmarks) > 1 else job.benchmarks
    drawn = [path for name in folders for path in sorted((figures / name).glob(f"{job.notebook[:2]}_{run}"))]
    return {path.relative_to(figures).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in drawn}


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

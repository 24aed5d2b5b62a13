"""Project, runs, figures and cache folders; none depends on the working directory."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError

DEFAULT_NETWORK = "lite0"  # its name is left out of the names of folders


def project_folder() -> Path:
    """The checkout this package runs from; InputError if it is installed without one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / "notebooks").is_dir():
        fix = "work from a checkout installed with `pip install -e .`"
        raise InputError(f"no notebooks/ beside {folder / 'lmcl_core'}: {fix}")
    return folder


def resolve_path(path: str | Path) -> Path:
    """An absolute path with ``~`` expanded and links followed; InputError if that is not possible."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{path!r} is not a path, but of type {type(path).__name__}: pass a string or a Path")
    try:
        resolved = Path(path).expanduser().resolve()
        resolved.exists()  # raises OSError for a name that is too long
        return resolved
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"cannot resolve the path {str(path)!r} ({error}): choose another path") from error


def runs_folder(chosen: str | Path = "") -> Path:
    """The folder of all runs: `chosen`, else ``$LMCL_RUNS``, else ``runs/`` of the checkout."""
    return _folder(chosen, "LMCL_RUNS") or project_folder() / "runs"


def figures_folder(
    benchmark: str, chosen: str | Path = "", runs: str | Path = "", network: str = DEFAULT_NETWORK
) -> Path:
    """A benchmark's folder of figures and tables: in `chosen`, else ``$LMCL_FIGURES``, else ``figures`` of the runs.

    `runs` is as in `runs_folder`. Results of another network than the default lie in a folder of its name inside.
    """
    folder = (_folder(chosen, "LMCL_FIGURES") or runs_folder(runs) / "figures") / plain_name(benchmark)
    return folder if network == DEFAULT_NETWORK else folder / plain_name(network)


def reference_folder(benchmark: str) -> Path:
    """The committed results of a benchmark, ``figures/<benchmark>`` of the checkout."""
    return project_folder() / "figures" / benchmark


def plain_name(benchmark: str) -> str:
    """The name itself. InputError: it is a path, below which results would lie among the data."""
    if os.sep in benchmark:
        raise InputError(f"{benchmark} is a path: results are named after the benchmark, table.attrs['benchmark']")
    return benchmark


def cache_folder() -> Path:
    """The folder of decoded images, the demo and local weights: ``$LMCL_CACHE``, else ``~/.cache/lmcl``."""
    try:
        return _from_environment("LMCL_CACHE") or Path.home() / ".cache" / "lmcl"
    except RuntimeError as error:  # an unknown user
        fix = "set HOME, or LMCL_CACHE to a folder of decoded images"
        raise InputError(f"this user has no home folder: {fix}") from error


def _folder(chosen: str | Path, variable: str) -> Path | None:
    """The chosen folder, else the one that a variable names, else None."""
    if not chosen:
        return _from_environment(variable)
    folder = resolve_path(chosen)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose a folder")
    return folder


def _from_environment(variable: str) -> Path | None:
    """The folder a variable names; a relative one would differ between commands and notebooks and is refused."""
    value = os.environ.get(variable, "")
    if value and not value.startswith("~") and not Path(value).is_absolute():
        raise InputError(f"{variable} is {value!r}: use an absolute path, such as {resolve_path(value)}")
    return resolve_path(value) if value else None

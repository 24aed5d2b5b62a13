"""Where things lie, never depending on the working directory."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError


def project_folder() -> Path:
    """The checkout this package runs from, which holds ``notebooks/``.

    Raises:
        InputError: the package was installed without its checkout.
    """
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "notebooks").is_dir():
        raise InputError(
            f"no notebooks/ beside {folder / 'lmcl_core'}: work from a checkout installed with `pip install -e .`"
        )
    return folder


def whole_path(named: str | Path) -> Path:
    """An absolute path, with ``~`` and links followed.

    Args:
        named: as a user wrote it.

    Raises:
        InputError: its links lead in a circle, it names a user who is not there, or it is no path at all.
    """
    try:
        return Path(named).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # pathlib's: of circles and users, of long names, of NUL
        raise InputError(f"{str(named)!r} cannot be followed as a path ({error}): name another one") from error


def runs_folder(chosen: str | Path = "") -> Path:
    """Folder of run folders: `chosen`, else ``$LMCL_RUNS``, else ``runs/`` of the checkout."""
    return _folder(chosen, "LMCL_RUNS", "runs")


def figures_folder(benchmark: str, chosen: str | Path = "") -> Path:
    """Folder of a benchmark's figures: below `chosen`, else ``$LMCL_FIGURES``, else ``figures/`` of the checkout."""
    return _folder(chosen, "LMCL_FIGURES", "figures") / benchmark


def cache_folder() -> Path:
    """Where decoded pictures and the demo are kept: ``$LMCL_CACHE``, or ``~/.cache/lmcl``."""
    return _from_environment("LMCL_CACHE") or Path.home() / ".cache" / "lmcl"


def _folder(chosen: str | Path, variable: str, name: str) -> Path:
    if chosen:
        place = whole_path(chosen)
        if os.path.exists(place) and not os.path.isdir(place):
            raise InputError(f"{place} is a file: name a folder")
        return place
    return _from_environment(variable) or project_folder() / name


def _from_environment(variable: str) -> Path | None:
    """The folder that a variable names; None where it is not set.

    Raises:
        InputError: it is no whole path, which commands and notebooks, run elsewhere, would take for different folders.
    """
    named = os.environ.get(variable, "")
    if named and not named.startswith("~") and not Path(named).is_absolute():
        raise InputError(f"{variable} is {named!r}: name the whole path, as {whole_path(named)}")
    return whole_path(named) if named else None

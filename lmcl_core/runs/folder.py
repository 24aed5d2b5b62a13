"""The run folder: its files, when a run in it counts as finished, and when that run may be reused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open

from ..common.errors import InputError
from ..common.files import LockedError, atomic_write, file_lock
from ..common.paths import plain_name
from .provenance import provenance

RESULTS = ("history.csv", "predictions.csv", "model.safetensors")  # files of a finished run beside run.json
IDENTITY = ("benchmark", "recipe_hash", "data_hash", "split_hash")  # two runs that agree in these are the same run
_STATE = ("run.json", "checkpoint.pt")  # either file shows that a folder holds a run
_METRICS = ("plcc", "srcc", "n")  # metrics that every run records


def run_folder(runs: str | Path, benchmark: str, recipe: str, index: int | str) -> Path:
    """``runs/<benchmark>/<recipe name>/split-<index>``, where index is a number or a name such as "official"."""
    return (
        Path(runs)
        / plain_name(benchmark)
        / recipe
        / (f"split-{index:02d}" if isinstance(index, int) else f"split-{index}")
    )


@contextmanager
def reserved(folder: Path, timeout: float = 20.0) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if missing; the system releases it when the process ends.

    InputError: another process still trains in the folder after `timeout` seconds. RunError: it cannot be created.
    """
    try:
        with file_lock(folder / ".lock", timeout):
            yield
    except LockedError as error:
        raise InputError(f"another process is training in {folder}: wait for it, or stop it") from error


def check_same(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raise InputError if the recorded identity `found` differs from `wanted`, which `Recipe.identity` gives."""
    differing = [key for key in IDENTITY if found.get(key) != wanted[key]]
    if differing:
        here, there = wanted.get("recipe", {}), found.get("recipe", {})
        fields = [key for key in here if key != "name" and key in there and there[key] != here[key]]
        values = "".join(f"; {key} is {there[key]} in that run, {here[key]} now" for key in fields)
        raise InputError(
            f"{folder} holds another run (different: {', '.join(differing)}{values}): delete that folder, choose "
            "another runs folder, name the recipe differently (--set name=NAME), or replace it with --overwrite "
            "(overwrite=True in the notebook, resume=False in Python)"
        )


def read_run(folder: str | Path, needed: Sequence[str] = ()) -> dict[str, Any] | None:
    """Read ``run.json``; None if there is no such file. InputError: it is damaged or lacks one of the `needed` keys."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError("expected a JSON object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete the folder {path.parent} and train again") from error
    if missing := [key for key in needed if key not in record]:
        raise InputError(f"{path} lacks {', '.join(missing)}: train this run again in another folder")
    return record


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """Read ``predictions.csv``: image, mos, pred (MOS units) of each test image. InputError: missing or damaged."""
    return _read_csv(Path(folder) / "predictions.csv", "image", "mos", "pred")


def _read_csv(path: Path, *columns: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        if missing := set(columns) - set(table):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (FileNotFoundError, ValueError) as error:  # pandas raises ValueErrors for empty and cut files
        raise InputError(f"{path} is damaged ({error}): delete the folder {path.parent} and train again") from error
    return table


def finished_run(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The ``run.json`` of a finished run of the `wanted` identity; None if the folder lacks a file of a finished run.

    InputError: the folder holds another run, or one of its files is damaged.
    """
    record = read_run(folder, ("metrics",))
    if record is None:
        return None
    check_same(record, wanted, folder)
    if missing_files(folder):
        return None
    metrics = record["metrics"]
    if not isinstance(metrics, dict) or not all(isinstance(metrics.get(key), (int, float)) for key in _METRICS):
        raise InputError(f"{folder / 'run.json'} is damaged (invalid metrics): delete the folder and train again")
    predictions = read_predictions(folder)
    numeric = all(pd.api.types.is_numeric_dtype(predictions[name]) for name in ("mos", "pred"))
    if len(predictions) != metrics["n"] or not numeric:
        problem = f"expected {metrics['n']} predictions"
        raise InputError(f"{folder / 'predictions.csv'} is damaged ({problem}): delete the folder and train again")
    _read_csv(folder / "history.csv", "epoch")
    try:
        with safe_open(folder / "model.safetensors", framework="np"):
            return record
    except SafetensorError as error:
        path = folder / "model.safetensors"
        raise InputError(f"{path} is damaged ({error}): delete the folder {folder} and train again") from error


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a folder with a ``run.json`` lacks of a finished run."""
    return [name for name in RESULTS if (folder / "run.json").is_file() and not (folder / name).is_file()]


def refuse_foreign_files(folder: Path) -> None:
    """Raise InputError if training would overwrite files that belong to no run, or a folder has a file's name."""
    for path in (folder / name for name in (*RESULTS, *_STATE)):
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file, but a run writes a file there: move it, or choose another folder")
    results = [name for name in RESULTS if (folder / name).exists()]
    if results and not any((folder / name).exists() for name in _STATE):
        raise InputError(
            f"{folder} holds {' and '.join(results)} but no run, and training would overwrite them: choose another "
            "folder, move the files away, or discard them with --overwrite (resume=False)"
        )


def discard(folder: Path) -> None:
    """Delete the files of a run, finished or not."""
    for name in (*RESULTS, *_STATE):
        (folder / name).unlink(missing_ok=True)


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table atomically; raises RunError if it cannot be saved."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format)


def write_run(folder: Path, record: dict[str, Any], origin: dict[str, Any] | None = None) -> None:
    """Write ``run.json`` from `record` and the provenance `origin` (by default the current one).

    It must be written last: a folder with all other files but without it holds no finished run.
    """
    with atomic_write(folder / "run.json") as path:
        path.write_text(json.dumps({**record, **(origin or provenance())}, indent=2) + "\n")

"""The run folder: what a run was made of, so that a finished one is reused and a different one never is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open

from .splits import Split, data_hash, split_hash
from .errors import InputError
from .locks import TakenError, alone
from .recipe import Recipe
from .files import replacing

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scipy", "pandas", "pillow", "safetensors")
RESULTS = ("history.csv", "predictions.csv", "model.safetensors")  # of a run, beside run.json
IDENTITY = ("benchmark", "recipe_hash", "data_hash", "split_hash")
_STATE = ("run.json", "checkpoint.pt")  # either says that a folder holds a run
_TOLD = ("plcc", "srcc", "n")  # metrics that are told of every run


def run_folder(runs: str | Path, benchmark: str, recipe: str, index: int | str) -> Path:
    """``runs/<benchmark>/<recipe name>/split-<index>``; the index of the official split is its name."""
    return Path(runs) / benchmark / recipe / (f"split-{index:02d}" if isinstance(index, int) else f"split-{index}")


@contextmanager
def reserved(folder: Path, patience: float = 20.0) -> Iterator[None]:
    """Keep a run folder to oneself; the system lifts the reservation when the process ends, however it ends.

    Args:
        folder: the run folder; made where it is missing.
        patience: seconds to wait for a process that is about to end.

    Raises:
        InputError: another process trains in it.
        RunError: the folder cannot be made.
    """
    try:
        with alone(folder / ".lock", patience):
            yield
    except TakenError as error:
        raise InputError(f"another process is training in {folder}: wait for it, or stop it") from error


def identity(table: pd.DataFrame, split: Split, recipe: Recipe) -> dict[str, Any]:
    """What a run is a run of: benchmark name, the hashes of recipe, data and split, and the recipe's fields."""
    return dict(
        benchmark=table.attrs["benchmark"],
        recipe_hash=recipe.hash,
        data_hash=data_hash(table),
        split_hash=split_hash(table, split),
        recipe=recipe.to_dict(),
    )


def check_same(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse a folder that holds another run.

    Args:
        found: what the folder says it is.
        wanted: from `identity`.
        folder: for the message.

    Raises:
        InputError: they differ.
    """
    differing = ", ".join(key for key in IDENTITY if found.get(key) != wanted[key])
    if differing:
        raise InputError(
            f"{folder} holds another run (different: {differing}{_fields(found, wanted)}): delete that folder, choose "
            "another runs folder, give the recipe a name of its own (--set name=NAME), or compute all runs again with "
            "--overwrite (overwrite=True in the notebook)"
        )


def _fields(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The recipe fields that differ, in words; nothing where none does."""
    here, there = wanted.get("recipe", {}), found.get("recipe", {})
    keys = [key for key in here if key != "name" and key in there and there[key] != here[key]]
    words = [f"{key} is {there[key]} there, {here[key]} here" for key in keys]
    return f"; {', '.join(words)}" if words else ""


def read_run(folder: str | Path, needed: Sequence[str] = ()) -> dict[str, Any] | None:
    """The ``run.json`` of a finished run, or None where there is none.

    Args:
        folder: the run folder.
        needed: fields that must be there.

    Raises:
        InputError: the file is damaged, or lacks one of those.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError("it holds no record")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete that folder and run again") from error
    if lacking := [key for key in needed if key not in record]:
        raise InputError(
            f"{path} lacks {', '.join(lacking)}: it is damaged or of another version; train again elsewhere"
        )
    return record


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """The ``predictions.csv`` of a finished run: columns image, mos, pred (MOS units), one row a test picture.

    Args:
        folder: the run folder.

    Raises:
        InputError: the file is missing or damaged.
    """
    return _read_table(Path(folder) / "predictions.csv", "image", "mos", "pred")


def _read_table(path: Path, *columns: str) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
        if lacking := set(columns) - set(found):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except (FileNotFoundError, ValueError) as error:  # pandas' own errors of empty and torn tables are ValueErrors
        raise InputError(f"{path} is damaged ({error}): delete that folder and train again") from error
    return found


def finished_run(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a finished run of the same identity, or None.

    Args:
        folder: the run folder.
        wanted: from `identity`.

    Raises:
        InputError: the folder holds another run, or a file of it is damaged.
    """
    record = read_run(folder, ("metrics",))
    if record is None:
        return None
    check_same(record, wanted, folder)
    if not all((folder / name).is_file() for name in RESULTS):
        return None
    metrics = record["metrics"]
    if not isinstance(metrics, dict) or not all(isinstance(metrics.get(key), (int, float)) for key in _TOLD):
        raise InputError(f"{folder / 'run.json'} is damaged (its metrics are): delete that folder and run again")
    found, count = read_predictions(folder), metrics["n"]
    if len(found) != count or not all(pd.api.types.is_numeric_dtype(found[name]) for name in ("mos", "pred")):
        path = folder / "predictions.csv"
        raise InputError(f"{path} is damaged (not {count} predictions): delete that folder and train again")
    _read_table(folder / "history.csv", "epoch")
    try:
        with safe_open(folder / "model.safetensors", framework="np"):
            return record
    except SafetensorError as error:
        raise InputError(
            f"{folder / 'model.safetensors'} is damaged ({error}): delete that folder and train again"
        ) from error


def refuse_strange(folder: Path) -> None:
    """Refuse a folder whose files of a run's names belong to no run, or are none: training would write over them.

    Args:
        folder: the run folder to be.

    Raises:
        InputError: there are such files and neither a record nor a checkpoint of a run, or one of them is a folder.
    """
    for path in (folder / name for name in (*RESULTS, *_STATE)):
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file, and in the way of a run: move it, or choose another folder")
    there = [name for name in RESULTS if (folder / name).exists()]
    if there and not any((folder / name).exists() for name in _STATE):
        raise InputError(
            f"{folder} holds {' and '.join(there)} but no run, and training would write over it: choose another "
            "folder, move the files away, or discard them with --overwrite (resume=False)"
        )


def discard(folder: Path) -> None:
    """Make a run folder hold no run, finished or not.

    Args:
        folder: the run folder; nothing is done where it does not exist.
    """
    for name in (*RESULTS, *_STATE):
        (folder / name).unlink(missing_ok=True)


def write_run(folder: Path, record: dict[str, Any], made_by: dict[str, Any] | None = None) -> None:
    """Write ``run.json``, the last file of a run: from here on it counts as finished.

    Args:
        folder: the run folder.
        record: what is to be known of the run; commit and package versions are added.
        made_by: from `provenance` when the run began, since a checkout may have moved on; taken now if None.

    Raises:
        RunError: it cannot be saved.
    """
    with replacing(folder / "run.json") as path:
        path.write_text(json.dumps({**record, **(made_by or provenance())}, indent=2) + "\n")


def provenance() -> dict[str, Any]:
    """Commit and dirty flag of the package's code (None outside a checkout), and package versions."""
    here = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20)
        except (FileNotFoundError, subprocess.TimeoutExpired):  # no git, or a hanging one: the commit is not known
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--", "lmcl_core", "environment.yml", "pyproject.toml")
    return dict(
        commit=git("rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        versions={name: _version(name) for name in PACKAGES},
    )


def made_by_both(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a run that was begun by one version of the code and resumed by another.

    Args:
        before: from `provenance` or here; None where it is not known, and nothing is added.
        now: from `provenance`.

    Returns:
        As `provenance`; commits that differ stand in their order with commas between them.
    """
    if before is None:
        return now
    now = dict(now, dirty=before["dirty"] or now["dirty"])
    if before["commit"] == now["commit"]:
        return now
    commits = ", ".join(commit or "not known" for commit in (before["commit"], now["commit"]))
    return dict(now, commit=", ".join(dict.fromkeys(commits.split(", "))))


def commit_in_words(record: dict[str, Any]) -> str:
    """The version of the code that made a run, for tables: its commit, and whether there were changes beyond it.

    Args:
        record: of a run, from `read_run` or `records.recall`, or from `provenance`.
    """
    return f"{record['commit'] or 'not known'}{' with changes' if record.get('dirty') else ''}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # e.g. torchvision on a bare machine; recorded as absent
        return None

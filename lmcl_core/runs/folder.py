"""The run folder: its files, when a run in it counts as finished, and when that run may be reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.errors import InputError, first_line
from ..common.files import LockedError, atomic_write, clear_temporaries, digest, file_lock
from ..common.paths import plain_name
from ..data.identity import image_keys
from ..data.splits import Split
from . import schema
from .provenance import provenance

RESULTS = ("history.csv", "predictions.csv", "model.safetensors")  # files of a finished run beside run.json
IDENTITY = ("benchmark", "recipe_hash", "data_hash", "split_hash")  # two runs that agree in these are the same run
_STATE = ("run.json", "checkpoint.pt")  # either file shows that a folder holds a run
#: Differences of numbers that are computed again from a CSV file. Rounding makes ties, which change ranks.
_ROUNDING = dict(plcc=1e-4, srcc=1e-3, krcc=1e-3)


def run_folder(runs: str | Path, benchmark: str, recipe: str, index: int | str) -> Path:
    """``runs/<benchmark>/<recipe name>/split-<index>``, where index is a number or a name such as "official"."""
    split = f"split-{index:02d}" if isinstance(index, int) else f"split-{index}"
    return Path(runs) / plain_name(benchmark) / recipe / split


@contextmanager
def reserved(folder: Path, timeout: float = 20.0) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if missing, and delete temporary files of killed processes.

    InputError: another process still trains in the folder after `timeout` seconds. RunError: it cannot be created.
    """
    try:
        with file_lock(folder / ".lock", timeout):
            clear_temporaries(folder)
            yield
    except LockedError as error:
        raise InputError(f"another process is training in {folder}: wait for it, or stop it") from error


def check_same(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raise InputError if the recorded identity `found` differs from `wanted`, which `Recipe.identity` gives."""
    differing = [key for key in IDENTITY if found.get(key) != wanted[key]]
    here, there = wanted.get("recipe", {}), found.get("recipe", {})
    fields = [key for key in here if key != "name" and key in there and there[key] != here[key]]
    values = "".join(f"; {key} is {there[key]} in that run, {here[key]} now" for key in fields)
    if differing:
        fix = "delete that folder, choose another runs folder, name the recipe differently (--set name=NAME), or "
        fix += "replace it with --overwrite (overwrite=True in the notebook, resume=False in Python)"
        raise InputError(f"{folder} holds another run (different: {', '.join(differing)}{values}): {fix}")
    if fields:
        raise _damaged(folder / "run.json", f"its recipe is not that of its recipe_hash{values}")


def read_run(folder: str | Path, needed: Sequence[str] = ()) -> dict[str, Any] | None:
    """Read ``run.json``; None if there is no such file. InputError: it is damaged or lacks one of the `needed` keys."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    schema.check(record, schema.RUN, str(path), _fix(path), needed)
    if record.get("sha256") != _digest(record):
        raise _damaged(path, "its SHA-256 is missing, or not that of its fields")
    return record


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 of the fields of a ``run.json``, except of the digest itself."""
    fields = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """Read ``predictions.csv``: image, mos, pred (MOS units) of each test image. InputError: missing or damaged."""
    path = Path(folder) / "predictions.csv"
    try:
        table = pd.read_csv(path)[["image", "mos", "pred"]]
    except (FileNotFoundError, KeyError, ValueError) as error:  # pandas raises ValueErrors for empty and cut files
        raise _damaged(path, first_line(error)) from error
    for name in ("mos", "pred"):
        if not np.isfinite(pd.to_numeric(table[name], errors="coerce")).all():
            raise _damaged(path, f"{name} is not a finite number in every row")
    return table.assign(image=table["image"].astype(str))


def _damaged(path: Path, what: object) -> InputError:
    return InputError(f"{path} is damaged ({what}): {_fix(path)}")


def _fix(path: Path) -> str:
    return f"delete the folder {path.parent} and train again"


def finished_run(
    folder: Path, wanted: dict[str, Any], table: pd.DataFrame | None = None, split: Split | None = None
) -> dict[str, Any] | None:
    """The ``run.json`` of a finished run of the `wanted` identity; None if the folder lacks a file of a finished run.

    InputError: the folder holds another run, or one of its files is damaged, as in `check_results`.
    """
    record = read_run(folder, ("metrics",))
    if record is None:
        return None
    check_same(record, wanted, folder)
    if missing_files(folder):
        return None
    check_results(folder, record, table, split)
    return record


def check_results(
    folder: Path, record: dict[str, Any], table: pd.DataFrame | None = None, split: Split | None = None
) -> pd.DataFrame:
    """Check the files of a run against its ``run.json``, and return its predictions.

    The files must have the recorded SHA-256, which earlier versions did not record. The predictions must give the
    recorded correlations and RMSE and, if a table and a split are given, be those of its test images with their mos.
    InputError: a file is damaged.
    """
    for name, expected in record.get("files", {}).items():
        if (folder / name).is_file() and digest(folder / name) != expected:
            raise _damaged(folder / name, "its SHA-256 is not that in run.json")
    predictions, metrics, path = read_predictions(folder), record["metrics"], folder / "predictions.csv"
    if len(predictions) != metrics["n"]:
        raise _damaged(path, f"expected {metrics['n']} predictions, found {len(predictions)}")
    if table is not None:
        _check_test_part(path, predictions, record, table, split)
    pred, mos = predictions["pred"], predictions["mos"]
    methods = dict(plcc="pearson", srcc="spearman", krcc="kendall")
    found = {name: (pred.corr(mos, method), _ROUNDING[name]) for name, method in methods.items()}
    found["rmse"] = float(np.sqrt(((pred - mos) ** 2).mean())), 1e-3 * metrics.get("rmse", 0)
    for name, (value, rounding) in found.items():
        if name in metrics and not abs(value - metrics[name]) <= rounding:
            raise _damaged(path, f"its {name} is {value:.4f}, but {metrics[name]:.4f} is recorded in run.json")
    return predictions


def _check_test_part(
    path: Path, predictions: pd.DataFrame, record: dict[str, Any], table: pd.DataFrame, split: Split
) -> None:
    """Raise InputError if predictions are not those of the split's test images, or have other mos."""
    test = table.iloc[split.test]
    wanted = dict(zip(image_keys(table, test["image"]), test["mos"]))
    found = dict(zip(image_keys(table, predictions["image"]), predictions["mos"]))
    if len(predictions) != len(test) or set(found) != set(wanted):
        raise _damaged(path, "its images are not those of the split")
    if not np.allclose([found[key] for key in wanted], list(wanted.values()), rtol=1e-4, atol=1e-4):
        raise _damaged(path, "its mos are not those of the benchmark")
    if record.get("split_index", split.index) != split.index:
        raise _damaged(path.with_name("run.json"), f"its split_index is not {split.index}")


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
        fix = "choose another folder, move the files away, or discard them with --overwrite (resume=False)"
        raise InputError(f"{folder} holds {' and '.join(results)} but no run, and training would overwrite them: {fix}")


def discard(folder: Path, checkpoint: bool = True) -> None:
    """Delete the files of a run, finished or not; its checkpoint only if `checkpoint`."""
    for name in (*RESULTS, *_STATE[: 1 + checkpoint]):
        (folder / name).unlink(missing_ok=True)


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table atomically; raises RunError if it cannot be saved."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format)


def write_run(folder: Path, record: dict[str, Any], origin: dict[str, Any] | None = None) -> None:
    """Write ``run.json`` from `record`, the provenance `origin` (by default the current one) and digests: of the files
    and, as ``sha256``, of all these fields.

    It must be written last: a folder with all other files but without it holds no finished run.
    """
    present = all((folder / name).is_file() for name in RESULTS)
    files = dict(files={name: digest(folder / name) for name in RESULTS}) if present else {}
    with atomic_write(folder / "run.json") as path:
        fields = {**record, **(origin or provenance()), **files}
        path.write_text(json.dumps({**fields, "sha256": _digest(fields)}, indent=2) + "\n")

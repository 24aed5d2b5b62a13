"""Train a recorded run again from its run.json, and compare predictions and metrics with the recorded ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from ..common.errors import InputError, RunError
from ..common.paths import reference_folder, resolve_path
from ..data.benchmarks import BENCHMARKS, load_benchmark
from ..data.identity import rows_of
from ..data.splits import Split, make_split, validation_split
from ..recipe import Recipe
from ..runs import folder as runs
from .reproduction import KINDS, Comparison, has_reference, read_tolerances

_NEEDED = (*runs.IDENTITY, "recipe", "split_index", "device", "metrics", "commit")
_METRICS = KINDS | dict(krcc="KRCC", plcc_logistic="PLCC after a fitted logistic")
#: Tolerances under other conditions, of benchmarks without measured ones: of correlations, and of RMSE and of the root
#: mean square difference of the predictions as shares of the recorded RMSE.
_STATED, _RMSE_SHARE, _PREDICTIONS_SHARE = dict(plcc=0.05, srcc=0.07), 0.1, 0.5


def rerun(
    run: str | Path,
    data_root: str | Path | None = None,
    device: str = "",
    out: str | Path = "",
    log: Callable[[str], None] = print,
) -> Comparison:
    """Train again what a ``run.json`` records, and compare. Under the same conditions results must be identical.

    `run` is a run folder, or its ``run.json``; nothing is written there. `device` is by default the recorded one; so is
    the number of threads, if there are as many cores. `out` is the folder of the new run, by default a temporary one.
    `log` is called with the lines of the training, with the comparison and with the conditions.

    InputError: no finished run, a damaged one, or other data or splits than recorded. RunError: the training failed, or
    a quantity lies outside its tolerance.
    """
    folder = resolve_path(run).parent if Path(run).name == "run.json" else resolve_path(run)
    record = runs.read_run(folder, _NEEDED)
    if record is None:
        raise InputError(f"{folder} holds no run.json: name the folder of a finished run, or its run.json")
    recipe = Recipe.from_dict(record["recipe"])
    if recipe.hash != record["recipe_hash"]:
        raise InputError(f"{folder / 'run.json'} is damaged (its recipe is not that of its recipe_hash): restore it")
    place = _check_place(out, folder)
    if record["benchmark"] not in BENCHMARKS and not data_root:
        raise InputError(f"{folder} was trained on own data, {record['benchmark']!r}: name its folder with --data-root")
    table = load_benchmark(record["benchmark"], data_root or None)
    split = _recorded_split(table, record["split_index"], folder)
    found = recipe.identity(table, split)
    for key in [key for key in ("data_hash", "split_hash") if record[key] != found[key]]:
        what = f"the {key.removesuffix('_hash')} of {table.attrs['root']} differs from that of the run"
        fix = "name the folder of the same data with --data-root, and check it with lmcl verify"
        raise InputError(f"{what} (recorded {key} {record[key]}, here {found[key]}): {fix}")
    has_predictions = (folder / "predictions.csv").is_file()
    before = runs.check_results(folder, record, table, split) if has_predictions else None
    tolerances = _tolerances(record)
    log(f"{folder}: training {recipe.name} of {record['benchmark']} on split {split.index} again")
    from ..training import train  # imports torch

    recorded = record["device"] if record["device"] in ("cpu", "mps") else "cuda"
    with TemporaryDirectory() if place is None else nullcontext(place) as new, _threads(record):
        train(table, split, recipe, new, device or recorded, log=log)
        found, after = runs.read_run(new), runs.read_predictions(new)
    return _report(table, (record, before), (found, after), tolerances, log)


def _check_place(out: str | Path, folder: Path) -> Path | None:
    """The folder of the new run, None for a temporary one; refuses that of a finished run."""
    place = resolve_path(out) if str(out) else None
    if place is not None and (place / "run.json").exists():
        which = "the run itself" if place == folder else "another run"
        raise InputError(f"--out is {place}, which holds {which}: name an empty folder, or leave it out")
    return place


def _recorded_split(table: pd.DataFrame, index: int | str | None, folder: Path) -> Split:
    if isinstance(index, str) and (found := re.fullmatch(r"(\d{1,9})-val", index)):
        return validation_split(table, int(found[1]))
    if index is None or isinstance(index, str) and index != "official":
        path = folder / "run.json"
        raise InputError(f"{path} has the split {index!r}, which cannot be made from its name: name another run")
    return make_split(table, index)


@contextmanager
def _threads(record: dict[str, Any]) -> Iterator[None]:
    """Use the recorded number of threads, because sums in another order round differently."""
    import torch

    before, wanted = torch.get_num_threads(), record.get("threads")
    if isinstance(wanted, int) and wanted <= (os.cpu_count() or 1):
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tolerances(record: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Tolerances under other conditions, by metric, and where they come from."""
    name, rmse = record["benchmark"], record["metrics"].get("rmse", 0)
    try:
        if has_reference(reference_folder(name)):
            return f"measured on {name}", read_tolerances(reference_folder(name))
    except InputError:  # no checkout
        pass
    return "stated, not measured", dict(_STATED, rmse=_RMSE_SHARE * rmse)


def _facts(record: dict[str, Any]) -> dict[str, str]:
    """Conditions, versions and commit of a run as texts; several where it was resumed under others."""
    several = record.get("conditions") or [record]
    names = ("device", "processor", "features", "precision", "threads", "processes", "torch")
    facts = {name: list(dict.fromkeys(str(one.get(name, "not recorded")) for one in several)) for name in names}
    return record.get("versions", {}) | {name: ", ".join(values) for name, values in facts.items()}


def _report(
    table: pd.DataFrame,
    recorded: tuple[dict[str, Any], pd.DataFrame | None],
    found: tuple[dict[str, Any], pd.DataFrame],
    tolerances: tuple[str, dict[str, float]],
    log: Callable[[str], None],
) -> Comparison:
    """Compare, log, and raise RunError if a quantity lies outside its tolerance."""
    record, before = recorded
    facts = pd.DataFrame.from_dict({"recorded": _facts(record), "now": _facts(found[0])}, orient="index")
    facts = facts.fillna("not recorded")
    differing = [name for name in facts if facts[name].nunique() > 1]
    source, limits = tolerances if differing else ("", dict.fromkeys(_METRICS, 0.0))
    then, now = record["metrics"], found[0]["metrics"]
    kinds = [kind for kind in _METRICS if kind in then and kind in now and kind in limits]
    rows = [(_METRICS[kind], then[kind], now[kind], limits[kind]) for kind in kinds]
    if before is not None and differing:
        square, limit = np.mean(_difference(table, before, found[1]) ** 2), _PREDICTIONS_SHARE * then.get("rmse", 0)
        rows.append(("root mean square difference of predictions", 0.0, float(np.sqrt(square)), limit))
    elif before is not None:
        largest = float(np.abs(_difference(table, before, found[1])).max())
        rows.append(("largest difference of a prediction", 0.0, largest, 0.0))
    compared = pd.DataFrame(rows, columns=["quantity", "recorded", "now", "tolerance"])
    compared.insert(3, "difference", compared["now"] - compared["recorded"])
    within = compared["difference"].abs() <= compared["tolerance"]
    compared["verdict"] = np.where(within, "within", "outside")
    commits = facts.assign(commit=[record["commit"], found[0]["commit"]])
    comparison = Comparison(record["benchmark"], compared, commits)
    log(comparison.to_text())
    if differing:
        changes = [f"{name} ({' recorded, '.join(facts[name])} now)" for name in differing]
        log(f"conditions differ: {', '.join(changes)}; tolerances are {source}")
    else:
        log("the conditions are the recorded ones: tolerances are 0")
    if comparison.outside:
        raise RunError(f"{comparison.summary}; outside: {', '.join(compared['quantity'][~within])}")
    return comparison


def _difference(table: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Differences of the predictions of two runs, image by image."""
    one, other = (pd.Series(of["pred"].to_numpy(), rows_of(table, of["image"])) for of in (before, after))
    return (other - one).to_numpy()

"""One run, from a table and a recipe to a run folder; killed, it goes on from its last whole epoch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import processes, runs
from .catalogue import BENCHMARKS
from .devices import resolve_device
from .errors import InputError
from .recipe import Recipe
from .model_file import save_model
from .splits import Split, thinned
from .files import replacing
from .store import PictureStore
from .trainer import Trainer


def train(
    table: pd.DataFrame,
    split: Split,
    recipe: Recipe,
    out_dir: str | Path,
    device: str = "auto",
    resume: bool = True,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a model, evaluate it on the test part, and write the run folder.

    Started by torchrun, the processes share every batch (`processes`); the first of them writes the folder, which all
    must see.

    The folder receives run.json (last), history.csv, predictions.csv, model.safetensors, and checkpoint.pt while
    unfinished. A finished run of the same recipe, data and split is returned as it stands; a killed one goes on from
    its last whole epoch, on the CPU that it was killed on to bit-identical weights.

    Args:
        table: from `load_benchmark`.
        split: from `make_split`.
        recipe: every hyper-parameter.
        out_dir: the run folder.
        device: "auto", "cpu", "cuda" or "mps".
        resume: False discards what the folder holds of a run, once all else was found good, and starts anew.
        log: called with one line an epoch.

    Returns:
        Metrics of the last epoch on the test part (srcc, plcc, plcc_logistic, krcc, rmse, n, epoch); under
        "test_best_optimistic" those of the epoch with the highest test PLCC, which is how most published numbers
        are made; under "student" and "teacher" those of either after the last epoch.

    Raises:
        InputError: a table, split, recipe or device that cannot be used, or a folder that holds another run or
            somebody's files of the same names, or that another process is training in.
        RunError: a full disk, or a loss that is no longer finite.
    """
    _check(table, split, recipe, out_dir)
    if processes.rank() > 0:  # the first process keeps the folder and tells of the run
        return _train(table, split, recipe, Path(out_dir), device, resume, lambda line: None)
    with runs.reserved(Path(out_dir)):
        return _train(table, split, recipe, Path(out_dir), device, resume, log)


def _train(
    table: pd.DataFrame,
    split: Split,
    recipe: Recipe,
    out_dir: Path,
    device: str,
    resume: bool,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """`train`, in a folder that nobody else writes to."""
    identity = runs.identity(table, split, recipe)
    if resume:
        record = processes.as_the_first(runs.finished_run(out_dir, identity), device, recipe.precision)
        if record is not None:
            log(f"{'/'.join(out_dir.parts[-3:])}: finished before")
            return record["metrics"]
        runs.refuse_strange(out_dir)
    resolve_device(device)  # before any picture is decoded
    made_by = runs.provenance()  # now, since the checkout may move on before the run ends
    if recipe.train_share < 1:
        split = replace(split, train=thinned(table, split, recipe.train_share))
        _check(table, split, recipe, out_dir)
    store = PictureStore.open(table, recipe.short_side, log=log)  # its size is told before anything is built
    _tell_of_small_images(store, recipe, log)
    trainer = Trainer(table, split, recipe, device)
    if resume:
        made_by = runs.made_by_both(load_checkpoint(trainer, out_dir / "checkpoint.pt", identity), made_by)
    elif processes.rank() == 0:  # now that everything was found good, so that wrong use loses nothing
        runs.discard(out_dir)
    if trainer.epoch != processes.as_the_first(trainer.epoch, device, recipe.precision):
        raise InputError(
            f"processes find different checkpoints in {out_dir}: it must be one folder that all of them see"
        )
    how = f"{trainer.device} in {trainer.precisions[-1]}"
    if trainer.precisions[-1] != recipe.precision:
        how += f" ({recipe.precision} would only be imitated by this processor, slowly)"
    log(f"{recipe.name}: {len(split.train)} images to train, {len(split.test)} to test, on {how}")
    if table.attrs["benchmark"] == "demo":
        log(f"labels of the demo: {BENCHMARKS['demo'].label_kind}")
    while trainer.epoch < recipe.epochs:
        line = trainer.run_epoch()
        if processes.rank() == 0:
            save_checkpoint(trainer, out_dir / "checkpoint.pt", identity, made_by)
        log(line)  # an epoch that was told is kept
    metrics = {**trainer.last, "test_best_optimistic": trainer.best, **trainer.both()}
    if processes.rank() == 0:
        _finish(trainer, out_dir, identity, metrics, made_by)
    return metrics


def _tell_of_small_images(store: PictureStore, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Crops are clipped to an image's short side and enlarged; where all of them would be, the recipe is wrong."""
    crop, sides = recipe.crop_size, torch.minimum(store.heights, store.widths)
    small = int((sides < crop).sum())
    if small == len(sides):
        raise InputError(
            f"recipe field crop_size is {crop}: every image is smaller, choose one of at most {int(sides.max())}"
        )
    if small:
        log(f"{small} of {len(sides)} images are smaller than a crop of {crop} pixels: their crops are enlarged")


def save_checkpoint(trainer: Trainer, path: Path, identity: dict[str, Any], made_by: dict[str, Any]) -> None:
    """Write a run's state, whole or not at all.

    Args:
        trainer: after a whole epoch.
        path: the file.
        identity: from `runs.identity`.
        made_by: from `runs.provenance`, when the run began.

    Raises:
        RunError: it cannot be saved; the file of the epoch before is untouched.
    """
    with replacing(path) as temporary:
        _save_tensors(dict(identity=identity, made_by=made_by, **trainer.state()), temporary)


def load_checkpoint(trainer: Trainer, path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Go on from a checkpoint, where there is one.

    Args:
        trainer: a fresh one; changed in place.
        path: the file.
        identity: from `runs.identity`.

    Returns:
        What `save_checkpoint` was told as made_by; None where there is no checkpoint.

    Raises:
        InputError: it is damaged or belongs to another run.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise InputError(f"checkpoint {path} is damaged: delete it, or recompute with --overwrite") from error
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        raise InputError(f"checkpoint {path} was not written by lmcl_core: move it away, or recompute with --overwrite")
    runs.check_same(state["identity"], identity, path.parent)
    try:
        trainer.load_state(state)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:  # a part is missing or another
        raise InputError(f"checkpoint {path} is damaged: delete it, or recompute with --overwrite") from error
    return state.get("made_by")


def _finish(
    trainer: Trainer, out_dir: Path, identity: dict[str, Any], metrics: dict[str, Any], made_by: dict[str, Any]
) -> None:
    """Write the results, run.json last, and drop the checkpoint."""
    recipe, test = trainer.recipe, trainer.table.iloc[trainer.split.test]
    save_model(
        out_dir / "model.safetensors",
        trainer.tested,
        recipe,
        trainer.table,
        trainer.split,
        mos_mean=trainer.mos_mean,
        mos_std=trainer.mos_std,
        largest_short_side=int(torch.minimum(trainer.store.heights, trainer.store.widths).max()),
    )
    with replacing(out_dir / "history.csv") as path:
        pd.DataFrame(trainer.history).to_csv(path, index=False, float_format="%.6g")
    with replacing(out_dir / "predictions.csv") as path:
        pd.DataFrame(dict(image=test["image"], mos=test["mos"], pred=trainer.predicted)).to_csv(path, index=False)
    device = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else trainer.device.type
    runs.write_run(
        out_dir,
        dict(
            identity,
            labels=BENCHMARKS[trainer.table.attrs["benchmark"]].label_kind,
            split_index=trainer.split.index,
            seed=recipe.seed,
            device=device,
            precision=", ".join(trainer.precisions),
            threads=torch.get_num_threads(),
            processes=trainer.fabric.world_size,
            seconds=round(trainer.seconds, 1),
            metrics=metrics,
        ),
        made_by,
    )
    for left in (out_dir / "checkpoint.pt", *out_dir.glob(".checkpoint.pt-*")):  # of processes that were killed too
        left.unlink(missing_ok=True)


def _save_tensors(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's writer reports a failed write as RuntimeError, without the errno
        if "write" in str(error).lower() or "enforce" in str(error).lower():
            raise OSError(28, os.strerror(28)) from error
        raise


def _check(table: pd.DataFrame, split: Split, recipe: Recipe, out_dir: str | Path) -> None:
    wanted = dict(table=pd.DataFrame, split=Split, recipe=Recipe, out_dir=(str, Path))
    made_by = dict(table="load_benchmark", split="make_split", recipe="Recipe.for_benchmark", out_dir="str or Path")
    for name, value in dict(table=table, split=split, recipe=recipe, out_dir=out_dir).items():
        if not isinstance(value, wanted[name]):
            raise InputError(f"{name} is a {type(value).__name__}: pass what {made_by[name]} gives")
    if not str(out_dir).strip():
        raise InputError("out_dir is empty: name the run folder")
    missing = sorted({"benchmark", "root"} - set(table.attrs)) + sorted({"image", "mos", "content"} - set(table))
    if missing:
        raise InputError(f"the table lacks {', '.join(missing)}: make it with load_benchmark")
    parts = np.concatenate(list(split))
    if len(parts) and (parts.min() < 0 or parts.max() >= len(table)) or len(np.unique(parts)) != len(parts):
        raise InputError("the split does not fit the table: positions must lie in the table and stand in one part only")
    if len(split.train) < 2 or len(split.test) < 3:
        raise InputError(
            f"{len(split.train)} images to train and {len(split.test)} to test: at least 2 and 3 are needed"
        )
    mos = table["mos"].to_numpy(dtype=float)
    if not np.isfinite(mos).all():
        raise InputError(
            f"mos of {table['image'][~np.isfinite(mos)].iloc[0]} is not a finite number: mend the label file"
        )
    if np.ptp(mos[split.train]) == 0:
        raise InputError("mos is the same for every training image: there is nothing to learn")
    if np.ptp(mos[split.test]) == 0:
        raise InputError("mos is the same for every test image: no correlation can be told; choose another split")

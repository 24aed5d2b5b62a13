"""Training: one run, from a table and a recipe to a run folder, resumable from its last whole epoch; and the trainer of
the frozen regime, which replaces the backbone by stored features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .backbones.ridge import ridge
from .backbones.weights import weights_digest, weights_file
from .common import distributed
from .common.devices import resolve_device
from .common.errors import InputError
from .common.progress import Log
from .crops import CropBank, crop_saliency, crop_weights
from .data.splits import Split, check_split, subsample
from .data.store import ImageStore
from .inference import Prediction, predict_bank
from .model import FrozenModel
from .recipe import Recipe
from .runs import checkpoint, folder, provenance
from .runs.model_file import save_model
from .trainer import Batch, Outputs, Trainer


def train(
    table: pd.DataFrame,
    split: Split,
    recipe: Recipe,
    out_dir: str | Path,
    device: str = "auto",
    resume: bool = True,
    log: Log = print,
) -> dict[str, Any]:
    """Train a model, evaluate it on the test part, and write the run folder.

    The run folder receives history.csv, predictions.csv, model.safetensors and, last, run.json; checkpoint.pt exists
    while the run is unfinished. A finished run of the same recipe, data and split is returned without training. A
    killed run resumes from its last whole epoch, with bit-identical results on the same CPU. Processes started by
    torchrun share every batch, and rank 0 writes the folder, which all of them must see.

    Args:
        table, split: from `load_benchmark` and `make_split`.
        recipe: every hyper-parameter.
        out_dir: the run folder.
        device: "auto", "cpu", "cuda" or "mps".
        resume: False starts a new run; an earlier run in the folder is deleted after all checks have passed.
        log: called with one line per epoch.

    Returns:
        Metrics of the last epoch on the test part (srcc, plcc, plcc_logistic, krcc, rmse, n, epoch); under
        "test_best_optimistic" those of the epoch with the highest test PLCC; under "student" and "teacher" those of
        both models after the last epoch.

    Raises:
        InputError: a table, split, recipe or device that cannot be used; a folder that holds another run or files of
            the same names, or in which another process is training.
        RunError: a full disk, or a loss that is no longer finite.
    """
    check_split(table, split)
    if not isinstance(recipe, Recipe):
        raise InputError(f"recipe is {recipe!r}: pass a Recipe, such as Recipe.for_benchmark('livec', 'no-manifold')")
    if not isinstance(out_dir, (str, Path)) or not str(out_dir).strip():
        raise InputError(f"out_dir is {out_dir!r}: name the run folder")
    if distributed.rank() > 0:
        return _train(table, split, recipe, Path(out_dir), device, resume, lambda line: None)
    with folder.reserved(Path(out_dir)):
        return _train(table, split, recipe, Path(out_dir), device, resume, log)


def _train(
    table: pd.DataFrame, split: Split, recipe: Recipe, out_dir: Path, device: str, resume: bool, log: Log
) -> dict[str, Any]:
    """`train` in a folder that this run has reserved."""
    identity, missing, is_main = recipe.identity(table, split), folder.missing_files(out_dir), distributed.rank() == 0
    if resume:
        finished = distributed.broadcast(folder.finished_run(out_dir, identity, table, split), device, recipe.precision)
        if finished is not None:
            _check_weights(finished, recipe, out_dir)
            checkpoint.delete(out_dir)  # of a run that was killed between its last two steps
            log(f"{'/'.join(out_dir.parts[-3:])}: finished before")
            return finished["metrics"]
        folder.refuse_foreign_files(out_dir)
        if missing:
            log(f"{out_dir} lacks {' and '.join(missing)} of a finished run, which is trained again")
    resolve_device(device)  # fail before any image is decoded
    origin = provenance.provenance()  # recorded at the start, because the checkout may change during the run
    if recipe.train_share < 1:
        split = replace(split, train=subsample(table, split, recipe.train_share))
        check_split(table, split)
    store = ImageStore.open(table, recipe.short_side, log=log)
    if small := store.check_crop_size(recipe.crop_size):
        log(f"{small} of {len(store)} images are smaller than a crop of {recipe.crop_size} pixels: crops are enlarged")
    trainer = (FrozenTrainer if recipe.frozen else Trainer)(table, split, recipe, store, device, log)
    if resume:
        origin = provenance.combine(checkpoint.load(trainer, out_dir, identity), origin)
    if is_main and (missing or not resume):
        folder.discard(out_dir, checkpoint=not resume)  # delete the old run only after all checks have passed
    if trainer.epoch != distributed.broadcast(trainer.epoch, device, recipe.precision):
        raise InputError(f"processes find different checkpoints in {out_dir}: use one folder that all of them see")
    log(f"labels: {table.attrs['label_kind']}")
    if changes := recipe.differences(table):
        listed = (f"{k}={v}" for k, v in changes.items())
        log(f"{recipe.name}: preset of {table.attrs['benchmark']} with {', '.join(listed)}")
    log(f"{recipe.name}: {len(split.train)} images to train, {len(split.test)} to test, on {trainer.describe()}")
    while trainer.epoch < recipe.epochs:
        line = trainer.run_epoch()
        if is_main and not recipe.frozen:  # frozen runs take seconds and start again
            checkpoint.save(trainer, out_dir, identity, origin)
        log(line)
    scores = {**trainer.last, "test_best_optimistic": trainer.best, **trainer.compare()}
    if is_main:
        _finish(trainer, out_dir, identity, scores, origin)
    return scores


def _check_weights(finished: dict[str, Any], recipe: Recipe, out_dir: Path) -> None:
    """Raise InputError if a finished run started from other weights than those in the local file."""
    found, path = finished.get("backbone_weights"), weights_file(recipe.backbone)
    if recipe.pretrained and found and path.is_file() and found != (now := weights_digest(recipe.backbone)):
        problem = f"{out_dir} holds a run that started from other weights ({found}) than those at {path} ({now})"
        raise InputError(f"{problem}: put the former back, or train again with --overwrite (resume=False in Python)")


def _finish(
    trainer: Trainer, out_dir: Path, identity: dict[str, Any], scores: dict[str, Any], origin: dict[str, Any]
) -> None:
    """Write the results, run.json last, and delete the checkpoint."""
    table, split, device = trainer.table, trainer.split, trainer.device
    backbone_weights = weights_digest(trainer.recipe.backbone) if trainer.recipe.pretrained else None
    save_model(
        out_dir / "model.safetensors",
        trainer.student,
        trainer.recipe.to_dict(),
        table,
        split,
        mos_mean=trainer.mos_mean,
        mos_std=trainer.mos_std,
        backbone_weights=backbone_weights,
        largest_short_side=int(torch.minimum(trainer.store.heights, trainer.store.widths).max()),
    )
    folder.write_csv(out_dir / "history.csv", pd.DataFrame(trainer.history), float_format="%.6g")
    test = table[["image", "mos"]].iloc[split.test].assign(pred=trainer.predicted)
    folder.write_csv(out_dir / "predictions.csv", test)
    record = dict(
        identity,
        labels=table.attrs["label_kind"],
        split_index=split.index,
        seed=trainer.recipe.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{name: _used(trainer.conditions, name) for name in ("processor", "precision", "threads")},
        processes=trainer.fabric.world_size,
        backbone_weights=backbone_weights,
        conditions=trainer.conditions,
        seconds=round(trainer.seconds, 1),
        metrics=scores,
    )
    folder.write_run(out_dir, record, origin)
    checkpoint.delete(out_dir)


def _used(conditions: list[dict[str, Any]], name: str) -> Any:
    """The value of a condition; several as text if the run was resumed under others."""
    values = list(dict.fromkeys(one[name] for one in conditions))
    return values[0] if len(values) == 1 else ", ".join(map(str, values))


class FrozenTrainer(Trainer):
    """A `Trainer` on stored features of a frozen backbone. It starts from ridge regression on the training part."""

    def _new_model(self) -> FrozenModel:
        if self.table["content"].iloc[self.split.train].nunique() < 2:
            problem = "the training part has one content, and the ridge regression that training starts from needs 2"
            raise InputError(f"{problem}: choose another split or a larger share")
        self.bank = CropBank(self.store, self.recipe, self.device, self.log)
        features, channels = self.bank.features.crops.shape[2], self.bank.features.tokens.shape[3]
        model = FrozenModel(features, channels, self.recipe.embedding_dim)
        state, reduced = _start(self, model)
        model.load_state_dict(state, strict=False)
        self.reduced = reduced.to(self.device)  # (n, K, 1 + R) of all crops
        return model

    def _load(self, indices: Tensor, generator: torch.Generator) -> Batch:
        own = distributed.part(self.fabric, len(indices))
        drawn = torch.rand(len(indices), self.reduced.shape[1], generator=generator).argsort(dim=1)
        columns, rows = drawn[own, : self.recipe.crops], indices[own]
        tokens = torch.from_numpy(self.bank.features.tokens[rows.numpy()])
        return Batch(indices, self.bank.boxes[rows[:, None], columns], self.reduced[rows[:, None], columns], tokens)

    def _inputs(self, features: Tensor) -> Tensor:
        return features

    def _outputs(self, model: torch.nn.Module, crops: Tensor, views: Tensor) -> Outputs:
        outputs = model(crops, views)
        return Outputs(outputs.score, outputs.embedding, outputs.saliency)

    def _predictions(self, model: torch.nn.Module, positions: np.ndarray) -> Iterator[Prediction]:
        return predict_bank(model, self.bank, positions, self.recipe, self.reduced)


#: The last starts, by what they depend on: runs of other variants and seeds on the same split share them.
_MOST_STARTS = 8
_starts: dict[tuple, tuple[dict[str, Tensor], Tensor]] = {}


def _start(trainer: FrozenTrainer, model: FrozenModel) -> tuple[dict[str, Tensor], Tensor]:
    """The untrained buffers of a `FrozenModel`, from all crops of the training part, and all crops reduced by them.

    The linear score of a training image comes from a regression without its fold, so that the small network learns
    errors like those on unseen images.
    """
    bank, rows = trainer.bank, trainer.split.train
    folds = pd.factorize(trainer.table["content"].iloc[rows], sort=True)[0]
    key = (bank.features.crops.filename, rows.tobytes(), folds.tobytes(), trainer.recipe.saliency_pooling)
    if key not in _starts:
        while len(_starts) >= _MOST_STARTS:
            del _starts[next(iter(_starts))]
        _starts[key] = _fit(trainer, model, torch.from_numpy(folds))
    return _starts[key]


@torch.no_grad()
def _fit(trainer: FrozenTrainer, model: FrozenModel, contents: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What `_start` returns, from the numbered contents of the training images; the buffers of `model` are set."""
    bank, rows = trainer.bank, torch.from_numpy(trainer.split.train)
    total, squares, inputs = 0.0, 0.0, []
    model.std.fill_(1)
    for part in rows.split(64):
        boxes, crops, tokens = bank.gather(part, torch.arange(bank.boxes.shape[1]).expand(len(part), -1))
        x = model.standardised(crops)  # (b, K, 2F), not yet standardised
        total, squares = total + x.double().mean(dim=1).sum(dim=0), squares + x.square().double().mean(dim=1).sum(dim=0)
        density = crop_saliency(model.saliency(tokens), boxes, bank.heights[part], bank.widths[part])
        inputs.append(torch.einsum("bk,bkf->bf", crop_weights(density, trainer.recipe.saliency_pooling), x))
    mean = total / len(rows)
    std = (squares / len(rows) - mean.square()).clamp_min(0).sqrt()
    model.mean.copy_(mean)
    model.std.copy_(std.where(std > 1e-6, 1.0))
    if not (std > 1e-6).any():
        raise InputError(f"features of {trainer.recipe.backbone} are the same for all crops: check its weights")
    x = (torch.cat(inputs) - model.mean) / model.std
    found = ridge(x, trainer.target[rows], contents, model.basis.shape[1] - 1)
    model.basis.copy_(found.basis)
    model.offset.copy_(found.offset)
    features = torch.from_numpy(bank.features.crops)
    reduced = torch.cat([model.reduce(part) for part in features.split(64)])
    for one in found.fold.unique():
        for part in rows[found.fold == one].split(64):
            x = model.standardised(features[part])
            reduced[part, :, 0] = x @ found.held_out[:, one] + found.held_out_offset[one]
    return {name: value.clone() for name, value in model.named_buffers()}, reduced

"""Training: one step, one epoch, one run that survives being killed.

Shapes: `B` images, `K` crops per image, `S` crop side.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import evaluation, runs
from .benchmarks import Split
from .cpu import keep_freed_memory
from .crops import CropSampler, crop_saliency, salient_crop
from .errors import InputError, RunError
from .losses import LocalManifoldContrastiveLoss, mutual_loss, quality_loss
from .model import QualityModel, make_teacher, update_teacher
from .recipe import Recipe
from .scoring import save_model
from .store import PictureStore, replacing

TERMS = ("loss", "quality", "manifold", "inter", "intra", "mutual_score", "mutual_saliency")


def train(table: pd.DataFrame, split: Split, recipe: Recipe, out_dir: str | Path, device: str = "auto",
          resume: bool = True, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Train a model, evaluate it on the test part, and write the run folder.

    The folder receives run.json (last), history.csv, predictions.csv, model.safetensors, and checkpoint.pt while
    unfinished. A finished run of the same recipe, data and split is returned as it stands; a killed one goes on from
    its last whole epoch, on the CPU to bit-identical weights.

    Args:
        table: from `load_benchmark`.
        split: from `make_split`.
        recipe: every hyper-parameter.
        out_dir: the run folder.
        device: "auto", "cpu", "cuda" or "mps".
        resume: False discards whatever the folder holds and starts anew.
        log: called with one line an epoch.

    Returns:
        Metrics of the last epoch on the test part (srcc, plcc, plcc_logistic, krcc, rmse, n, epoch), and under
        "test_best_optimistic" those of the epoch with the highest test PLCC, which is how most published numbers
        are made.

    Raises:
        InputError: a table, split, recipe or device that cannot be used, or a folder that holds another run.
        RunError: a full disk, or a loss that is no longer finite.
    """
    _check(table, split)
    out_dir = Path(out_dir)
    identity = runs.identity(table, split, recipe)
    if resume:
        record = runs.finished_run(out_dir, identity)
        if record is not None:
            log(f"{'/'.join(out_dir.parts[-3:])}: finished before")
            return record["metrics"]
    else:
        for name in ("run.json", "checkpoint.pt"):
            (out_dir / name).unlink(missing_ok=True)
    trainer = Trainer(table, split, recipe, device)
    trainer.resume(out_dir / "checkpoint.pt", identity)
    log(f"{recipe.name}: {len(split.train)} images to train, {len(split.test)} to test, on {trainer.device}")
    while trainer.epoch < recipe.epochs:
        log(trainer.run_epoch())
        trainer.save(out_dir / "checkpoint.pt", identity)
    return _finish(trainer, out_dir, identity)


class Trainer:
    """Student, teacher, optimiser and data of one run.

    Args:
        table: from `load_benchmark`.
        split: from `make_split`.
        recipe: every hyper-parameter.
        device: "auto", "cpu", "cuda" or "mps".
    """

    def __init__(self, table: pd.DataFrame, split: Split, recipe: Recipe, device: str = "auto") -> None:
        self.table, self.split, self.recipe = table, split, recipe
        self.fabric = make_fabric(device, recipe.precision)
        self.device = self.fabric.device
        if self.device.type == "cpu":
            keep_freed_memory()
        mos = table["mos"].to_numpy(dtype=float)
        self.mos_mean, self.mos_std = float(mos[split.train].mean()), float(mos[split.train].std())
        self.target = torch.from_numpy((mos - self.mos_mean) / self.mos_std).float()  # (n,) standardised
        self.store = PictureStore.open(table)
        self.sampler = CropSampler(recipe.crop_size, recipe.crops, recipe.scales, recipe.flip)
        self.manifold = LocalManifoldContrastiveLoss(recipe.temperature, recipe.intra_weight, recipe.variant,
                                                     recipe.quality_sigma)
        self._build_model()
        self.epoch, self.seconds, self.history = 0, 0.0, []
        self.best: dict[str, Any] | None = None
        self.predicted = np.empty(0)

    def _build_model(self) -> None:
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            student = QualityModel(recipe.backbone, recipe.pretrained, recipe.embedding_dim, recipe.crop_size)
        student = student.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay,
                                      fused=self.device.type in ("cpu", "cuda"))
        self.model, self.optimizer = self.fabric.setup(student, optimizer)
        self.student = student
        self.teacher = make_teacher(student)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * len(self._batches(torch.Generator())),
            cycle_momentum=False)

    def _batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Training positions in random order, in parts of nearly equal size; none is left out."""
        order = torch.from_numpy(self.split.train)[torch.randperm(len(self.split.train), generator=generator)]
        return torch.tensor_split(order, -(-len(order) // self.recipe.batch_images))

    def run_epoch(self) -> str:
        """Train one epoch, evaluate it, and return the line that tells of it."""
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(_seed(self.recipe.seed, self.epoch))
        self.model.train()
        terms = [self.step(indices, generator)
                 for indices in _bar(self._batches(generator), f"epoch {self.epoch + 1}/{self.recipe.epochs}")]
        means = torch.stack(terms).mean(dim=0).tolist()
        if not np.isfinite(means).all():
            raise RunError(f"the loss is no longer a finite number in epoch {self.epoch + 1} of {self.recipe.name}: "
                           f"lower lr (now {self.recipe.lr}) or use precision 32-true")
        self.epoch += 1
        trained = time.perf_counter() - start
        scores = self.evaluate()
        self.seconds += time.perf_counter() - start
        self.history.append(dict(epoch=self.epoch, **dict(zip(TERMS, means)), lr=self.schedule.get_last_lr()[0],
                                 test_srcc=scores["srcc"], test_plcc=scores["plcc"], train_seconds=trained))
        return (f"epoch {self.epoch}/{self.recipe.epochs}  loss {means[0]:.4f}  quality {means[1]:.4f}  "
                f"test SRCC {scores['srcc']:.4f}  PLCC {scores['plcc']:.4f}")

    def step(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """One step of student, optimiser, schedule and teacher.

        Args:
            indices: (B,) positions in the table.
            generator: draws crops and flips.

        Returns:
            (7,) detached values of `TERMS`, on the training device.
        """
        recipe, B = self.recipe, len(indices)
        heights, widths = self.store.heights[indices], self.store.widths[indices]
        boxes = self.sampler.sample(heights, widths, generator)
        crops = self.store.crops(indices, boxes, recipe.crop_size, self.sampler.flips(B, generator))
        views = torch.cat([crops, self.store.whole(indices, recipe.crop_size)]).to(self.device, non_blocking=True)
        with torch.no_grad(), self.fabric.autocast():
            taught = self.teacher(views)
        seen = self.model(views)
        terms = self._losses(seen, taught, boxes, heights, widths, self.target[indices].to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms[0])
        self.optimizer.step()
        self.schedule.step()
        update_teacher(self.teacher, self.student, recipe.ema_momentum)
        return torch.stack(terms).detach()

    def _losses(self, seen, taught, boxes: Tensor, heights: Tensor, widths: Tensor, mos: Tensor) -> list[Tensor]:
        """The terms of `TERMS`; the first n - B outputs are crops, the last B global views."""
        recipe, (B, K) = self.recipe, boxes.shape[:2]
        density = crop_saliency(taught.saliency[B * K:], boxes, heights, widths)  # (B, K)
        weights = density / density.sum(dim=1, keepdim=True)
        scores, taught_scores = (out.score[:B * K].view(B, K) for out in (seen, taught))
        quality = quality_loss(scores, weights, mos)
        manifold = self.manifold(seen.embedding[:B * K].view(B, K, -1), taught.embedding[:B * K].view(B, K, -1),
                                 salient_crop(density), mos)
        mutual = mutual_loss(scores, taught_scores, seen.saliency[B * K:], taught.saliency[B * K:])
        total = quality + recipe.manifold_weight * manifold.total + recipe.mutual_weight * sum(mutual)
        return [total, quality, manifold.total, manifold.inter, manifold.intra, mutual.score, mutual.saliency]

    def predict(self, positions: np.ndarray) -> np.ndarray:
        """Student's scores of pictures through the test grid, in MOS units, as (n,) float64."""
        self.student.eval()
        looks = evaluation.look_at_all(self.student, (self.store.picture(i) for i in positions), self.sampler,
                                       self.recipe.test_crops, self.device, self.fabric.autocast)
        scores = torch.cat([look.score for look in looks])
        return self.mos_mean + self.mos_std * scores.double().numpy()

    def evaluate(self) -> dict[str, float]:
        """Predict the test part, remember the best epoch, and return this epoch's metrics."""
        self.predicted = self.predict(self.split.test)
        scores = evaluation.metrics(pred=self.predicted, mos=self.table["mos"].to_numpy()[self.split.test])
        if self.best is None or scores["plcc"] > self.best["plcc"]:
            self.best = {**scores, "epoch": self.epoch}
        self.last = {**scores, "epoch": self.epoch}
        return scores

    def save(self, path: Path, identity: dict[str, str]) -> None:
        """Write the checkpoint, whole or not at all."""
        state = dict(identity=identity, epoch=self.epoch, seconds=self.seconds, history=self.history, best=self.best,
                     last=self.last, predicted=torch.from_numpy(self.predicted), student=self.student.state_dict(),
                     teacher=self.teacher.state_dict(), optimizer=self.optimizer.state_dict(),
                     schedule=self.schedule.state_dict())
        with replacing(path) as temporary:
            _save_tensors(state, temporary)

    def resume(self, path: Path, identity: dict[str, str]) -> None:
        """Go on from a checkpoint, where there is one.

        Raises:
            InputError: it is damaged or belongs to another run.
        """
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds for damaged files
            raise InputError(f"checkpoint {path} is damaged: delete it, or recompute with --overwrite") from error
        runs.check_same(state["identity"], identity, path.parent)
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]
        self.best, self.last, self.predicted = state["best"], state["last"], state["predicted"].cpu().numpy()


def make_fabric(device: str, precision: str):
    """Lightning Fabric for one device.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        precision: as in `Recipe`.

    Returns:
        The `lightning.fabric.Fabric`.

    Raises:
        InputError: the device is unknown or not there, or cannot work in that precision.
    """
    import logging

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device):
        raise InputError(f"device {device!r} is not there: this machine offers "
                         f"{', '.join(name for name, yes in there.items() if yes)}; choose one of them or 'auto'")
    if device == "cpu" and precision == "16-mixed":
        raise InputError("precision 16-mixed needs a GPU: choose bf16-mixed or 32-true on the CPU")
    from lightning.fabric import Fabric
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # its import sets INFO
    return Fabric(accelerator=device, devices=1, precision=precision)


def _finish(trainer: Trainer, out_dir: Path, identity: dict[str, str]) -> dict[str, Any]:
    """Write the results, run.json last, and drop the checkpoint."""
    recipe, test = trainer.recipe, trainer.table.iloc[trainer.split.test]
    save_model(out_dir / "model.safetensors", trainer.student, recipe, trainer.table,
               trainer.split, trainer.mos_mean, trainer.mos_std)
    with replacing(out_dir / "history.csv") as path:
        pd.DataFrame(trainer.history).to_csv(path, index=False, float_format="%.6g")
    with replacing(out_dir / "predictions.csv") as path:
        pd.DataFrame(dict(image=test["image"], mos=test["mos"], pred=trainer.predicted)).to_csv(path, index=False)
    metrics = {**trainer.last, "test_best_optimistic": trainer.best}
    device = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else trainer.device.type
    runs.write_run(out_dir, dict(identity, recipe=recipe.to_dict(), split_index=trainer.split.index, seed=recipe.seed,
                                 device=device, seconds=round(trainer.seconds, 1), metrics=metrics))
    (out_dir / "checkpoint.pt").unlink(missing_ok=True)
    return metrics


def _save_tensors(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's writer reports a failed write as RuntimeError, without the errno
        if "write" in str(error).lower() or "enforce" in str(error).lower():
            raise OSError(28, os.strerror(28)) from error
        raise


def _check(table: pd.DataFrame, split: Split) -> None:
    missing = {"benchmark", "root"} - set(table.attrs)
    if missing:
        raise InputError(f"the table lacks .attrs {sorted(missing)}: make it with load_benchmark")
    parts = np.concatenate(list(split))
    if len(parts) and (parts.min() < 0 or parts.max() >= len(table)) or len(np.unique(parts)) != len(parts):
        raise InputError("the split does not fit the table: positions must lie in the table and stand in one part only")
    if len(split.train) < 2 or len(split.test) < 3:
        raise InputError(f"{len(split.train)} images to train and {len(split.test)} to test: at least 2 and 3 are needed")
    mos = table["mos"].to_numpy(dtype=float)
    if not np.isfinite(mos).all():
        raise InputError(f"mos of {table['image'][~np.isfinite(mos)].iloc[0]} is not a finite number: mend the label file")
    if np.ptp(mos[split.train]) == 0:
        raise InputError("mos is the same for every training image: there is nothing to learn")


def _seed(seed: int, epoch: int) -> int:
    """One seed an epoch, so that a resumed run draws what the unbroken run would have drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")


def _bar(batches: Sequence[Tensor], title: str):
    """A progress bar in JupyterLab and in a terminal; nothing where nobody watches."""
    watched = "JPY_SESSION_NAME" in os.environ or sys.stderr.isatty()
    return tqdm(batches, desc=title, leave=False, disable=not watched)

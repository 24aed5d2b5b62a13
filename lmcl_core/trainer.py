"""The trainer: student, teacher and optimiser of one run. A step computes outputs and losses and updates both models.

Shapes: `B` images of a step (`b` of them in this process), `K` crops per image, `S` crop side, `V` view side.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .common import distributed
from .common.devices import conditions, keep_freed_memory
from .common.errors import InputError, RunError
from .common.prefetch import prefetch_map
from .common.progress import Log, bar
from .crops import crop_saliency, crop_weights, salient_crop, sampler_of
from .data.splits import Split
from .data.store import ImageStore
from .evaluation import metrics
from .inference import Prediction, predict_images
from .losses import LocalManifoldContrastiveLoss, correlation_loss, mutual_loss, quality_loss
from .model import FrozenModel, QualityModel, make_teacher, update_teacher
from .recipe import Recipe


class Batch(NamedTuple):
    """A step's images. `indices` (B,) names all of them; the other fields hold the b images of this process: boxes
    (b, K, 4), crops (b·K, 3, S, S) uint8 and global views (b, 3, V, V) uint8."""

    indices: Tensor
    boxes: Tensor
    crops: Tensor
    views: Tensor


class Outputs(NamedTuple):
    """A model's outputs on a batch: score (B, K) and embedding (B, K, D) of the crops, and saliency (B, h, w) of the
    global views."""

    score: Tensor
    embedding: Tensor
    saliency: Tensor


class Trainer:
    """Student, teacher, optimiser and data of one run; `log` is called with a line before work that takes minutes."""

    def __init__(
        self, table: pd.DataFrame, split: Split, recipe: Recipe, store: ImageStore, device: str, log: Log = print
    ) -> None:
        self.table, self.split, self.recipe, self.log = table, split, recipe, log
        self.fabric = distributed.make_fabric(device, recipe.precision)
        self.device = self.fabric.device
        #: more than one if the run was resumed under others
        self.conditions = [conditions(self.device.type, recipe.precision, self.fabric.world_size)]
        if self.device.type == "cpu":
            keep_freed_memory()
        self.store = store.on(self.device)
        self.mos = table["mos"].to_numpy(dtype=float)
        self.mos_mean, self.mos_std = float(self.mos[split.train].mean()), float(self.mos[split.train].std())
        self.target = torch.from_numpy((self.mos - self.mos_mean) / self.mos_std).float()  # (n,) standardised
        self.sampler = sampler_of(recipe)
        self.manifold = LocalManifoldContrastiveLoss(
            recipe.temperature, recipe.intra_weight, recipe.variant, recipe.quality_sigma
        )
        self._build_model()
        self.epoch, self.seconds, self.history = 0, 0.0, []
        self.best: dict[str, Any] | None = None
        self.predicted = np.empty(0)

    def _new_model(self) -> QualityModel | FrozenModel:
        """The student before training."""
        recipe = self.recipe
        student = QualityModel(recipe.backbone, recipe.pretrained, recipe.embedding_dim, recipe.crop_size)
        if student.transformer and recipe.view_side != recipe.crop_size:
            needed = f"a vision transformer needs view_size equal to crop_size, {recipe.crop_size}"
            raise InputError(f"recipe field view_size is {recipe.view_size}: {needed}")
        return student

    def _build_model(self) -> None:
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            student = self._new_model()
        student = student.to(self.device, memory_format=torch.channels_last)
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
        self.model, self.optimizer = self.fabric.setup(student, optimizer)
        self.student, self.teacher = student, make_teacher(student)
        batches = self.batches(torch.Generator())
        if (least := min(map(len, batches))) < self.fabric.world_size:
            problem = f"{self.fabric.world_size} processes cannot share {least} images"
            raise InputError(f"{problem}: start fewer processes, or raise batch_images")
        self.schedule = make_schedule(optimizer, recipe, len(batches))

    def describe(self) -> str:
        """Device and precision in words."""
        used, wanted = self.conditions[-1]["precision"], self.recipe.precision
        note = "" if used == wanted else f" (this CPU emulates bfloat16; using float32 instead of {wanted})"
        return f"{self.device} in {used}{note}"

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Training positions of one epoch in random order, in batches of nearly equal size."""
        order = torch.from_numpy(self.split.train)[torch.randperm(len(self.split.train), generator=generator)]
        return torch.tensor_split(order, -(-len(order) // self.recipe.batch_images))

    def run_epoch(self) -> str:
        """Train one epoch, evaluate it, and return a line that describes it."""
        start = time.perf_counter()
        # from seed and epoch, so that a resumed run draws the same numbers as an uninterrupted one
        digest = hashlib.sha256(f"{self.recipe.seed}/{self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        batches = self.batches(generator)
        loaded = bar(self.load(batches, generator), len(batches), f"epoch {self.epoch + 1}/{self.recipe.epochs}")
        self.student.train()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed())  # for backbones with stochastic depth
            steps = [self.step(batch) for batch in loaded]
        means = torch.stack([torch.stack([*terms.values()]) for terms in steps]).mean(dim=0).tolist()
        if not (np.isfinite(means).all() and all(p.isfinite().all() for p in self.student.parameters())):
            raise self._diverged(f"loss or weights are no longer finite in epoch {self.epoch + 1}")
        self.epoch += 1
        train_seconds = time.perf_counter() - start
        scores = self.evaluate()
        self.seconds += time.perf_counter() - start
        tested = dict(test_srcc=scores["srcc"], test_plcc=scores["plcc"], train_seconds=train_seconds)
        losses = dict(zip(steps[0], means))
        self.history.append(dict(epoch=self.epoch, **losses, lr=self.schedule.get_last_lr()[-1], **tested))
        return (
            f"epoch {self.epoch}/{self.recipe.epochs}  loss {losses['loss']:.4f}  quality {losses['quality']:.4f}  "
            f"test SRCC {scores['srcc']:.4f}  PLCC {scores['plcc']:.4f}"
        )

    def load(self, batches: Sequence[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """Load batches one after another, prefetched for a GPU; `generator` draws crops and flips."""
        if self.device.type == "cuda":
            return prefetch_map(lambda indices: self._load(indices, generator), batches, threads=1, depth=2)
        return (self._load(indices, generator) for indices in batches)

    def _load(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Draw the crops of a batch, the same in every process, and gather those of this process from the store."""
        own = distributed.part(self.fabric, len(indices))
        boxes = self.sampler.sample(self.store.heights[indices], self.store.widths[indices], generator)
        flips = self.sampler.flips(len(indices), generator)
        crops = self.store.crops(indices[own], boxes[own], self.recipe.crop_size, flips[own])
        views = self.store.whole(indices[own], self.recipe.view_side)
        if self.device.type == "cuda" and not crops.is_cuda:
            crops, views = crops.pin_memory(), views.pin_memory()
        return Batch(indices, boxes[own], crops, views)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of student, optimiser, schedule and teacher; returns detached loss terms by name."""
        student, teacher, density = self._forward(batch)
        terms = self._losses(student, teacher, density, self.target[batch.indices].to(self.device))

        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms["loss"])
        if self.fabric.world_size > 1:
            self._check_gradients()
        self.optimizer.step()
        self.schedule.step()
        update_teacher(self.teacher, self.student, self.recipe.ema_momentum)
        return {name: value.detach() for name, value in terms.items()}

    def _forward(self, batch: Batch) -> tuple[Outputs, Outputs, Tensor]:
        """Student and teacher on the whole batch, gathered from all processes, and the saliency (B, K) of the crops."""
        with self.fabric.autocast():
            parts = (part.to(self.device, non_blocking=True) for part in (batch.crops, batch.views))
            crops, views = map(self._inputs, parts)
            with torch.no_grad():
                teacher = self._outputs(self.teacher, crops, views)
        student = self._outputs(self.model, crops, views)
        images = len(batch.indices)
        own = batch.indices[distributed.part(self.fabric, images)]
        density = crop_saliency(teacher.saliency, batch.boxes, self.store.heights[own], self.store.widths[own])
        *teacher, density = distributed.gather(self.fabric, [*teacher, density], images)
        return Outputs(*distributed.gather(self.fabric, student, images)), Outputs(*teacher), density

    def _inputs(self, pixels: Tensor) -> Tensor:
        """What both models take in."""
        return self.student.normalise(pixels)

    def _outputs(self, model: torch.nn.Module, crops: Tensor, views: Tensor) -> Outputs:
        """A model's outputs on the images of this process."""
        of_crops = model(crops, normalised=True)
        of_views = model(views, normalised=True, train_backbone=self.recipe.view_gradient)
        score, embedding = (v.unflatten(0, (-1, self.recipe.crops)) for v in (of_crops.score, of_crops.embedding))
        return Outputs(score, embedding, of_views.saliency)

    def _losses(self, student: Outputs, teacher: Outputs, density: Tensor, mos: Tensor) -> dict[str, Tensor]:
        """Scalar loss terms of the whole batch, by their names in the history; density: (B, K), mos: (B,)."""
        recipe = self.recipe
        weights = crop_weights(density, recipe.saliency_pooling)
        quality = quality_loss(student.score, weights, mos)
        if recipe.correlation_weight:
            quality = quality + recipe.correlation_weight * correlation_loss((student.score * weights).sum(dim=1), mos)
        manifold = self.manifold(student.embedding, teacher.embedding, salient_crop(density), mos)
        mutual = mutual_loss(student.score, teacher.score, student.saliency, teacher.saliency)
        # Equation 9
        total = quality + recipe.manifold_weight * manifold.total + recipe.mutual_weight * sum(mutual)
        terms = dict(loss=total, quality=quality, manifold=manifold.total, inter=manifold.inter, intra=manifold.intra)
        return terms | dict(mutual_score=mutual.score, mutual_saliency=mutual.saliency)

    def _check_gradients(self) -> None:
        """Refuse parameters without a gradient: with several processes, training would wait for it for ever."""
        unused = [name for name, p in self.student.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise InputError(f"backbone {self.recipe.backbone} does not use {unused[0]}: train it in one process")

    def predict(self, positions: np.ndarray, model: torch.nn.Module | None = None) -> np.ndarray:
        """Scores of images over the test crops as (n,) float64 in MOS units; by the student if no model is given."""
        model, rank, count = (model or self.student).eval(), self.fabric.global_rank, self.fabric.world_size
        own = [part.score for part in self._predictions(model, positions[rank::count])]
        scores = distributed.collect(self.fabric, torch.cat([torch.empty(0), *own]), len(positions))
        return self.mos_mean + self.mos_std * scores.double().numpy()

    def _predictions(self, model: torch.nn.Module, positions: np.ndarray) -> Iterator[Prediction]:
        return predict_images(model, (self.store.image(i) for i in positions), self.recipe)

    def evaluate(self) -> dict[str, float]:
        """Predict the test part, remember the best epoch, and return this epoch's metrics."""
        self.predicted = self.predict(self.split.test)
        if np.ptp(self.predicted) == 0:
            raise self._diverged(f"every test image has the same score after epoch {self.epoch}")
        self.last = {**metrics(pred=self.predicted, mos=self.mos[self.split.test]), "epoch": self.epoch}
        if self.best is None or self.last["plcc"] > self.best["plcc"]:
            self.best = self.last
        return self.last

    def compare(self) -> dict[str, dict[str, float]]:
        """Metrics of student and teacher on the test part after the last epoch."""
        predictions = dict(student=self.predicted, teacher=self.predict(self.split.test, self.teacher))
        return {name: metrics(pred=pred, mos=self.mos[self.split.test]) for name, pred in predictions.items()}

    def _diverged(self, what: str) -> RunError:
        return RunError(f"{what} of {self.recipe.name}: lower lr (now {self.recipe.lr}) or use precision 32-true")

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs: tensors, numbers, lists and dicts only."""
        return dict(
            **{name: getattr(self, name) for name in ("epoch", "seconds", "history", "best", "last", "conditions")},
            predicted=torch.from_numpy(self.predicted),
            student=self.student.state_dict(),
            teacher=self.teacher.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaling=self.fabric.strategy.precision.state_dict(),  # of the loss, in 16-mixed; else empty
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        for name in ("student", "teacher", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if state["scaling"]:
            self.fabric.strategy.precision.load_state_dict(state["scaling"])
        for name in ("epoch", "seconds", "history", "best", "last"):
            setattr(self, name, state[name])
        self.predicted = state["predicted"].cpu().numpy()
        self.conditions = [one for one in state["conditions"] if one not in self.conditions] + self.conditions


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over a run of `steps` steps an epoch: one cycle, or a tenth after every three epochs."""
    if recipe.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, 3 * steps, 0.1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, recipe.epochs * steps, cycle_momentum=False)

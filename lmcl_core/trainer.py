"""Student, teacher and optimiser of one run: a step, an epoch, a prediction.

Shapes: `B` images, `K` crops per image, `S` crop side.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import evaluation, looking, processes
from .ahead import ahead
from .cpu import keep_freed_memory
from .crops import CropSampler, crop_saliency, crop_weights, salient_crop
from .devices import usable_precision
from .errors import InputError, RunError
from .losses import LocalManifoldContrastiveLoss, correlation_loss, mutual_loss, quality_loss
from .freezing import batchnorm_frozen, freeze_batchnorm, set_batchnorm_momentum
from .model import ModelOutput, QualityModel, make_teacher, update_teacher
from .probe import start_from_probe
from .progress import bar
from .recipe import Recipe
from .splits import Split
from .store import PictureStore

#: What a step returns; "quality" holds the correlation term where there is one.
TERMS = ("loss", "quality", "manifold", "inter", "intra", "mutual_score", "mutual_saliency")


class Seen(NamedTuple):
    """What a model saw in a batch: score (B, K), embedding (B, K, D) of its crops, saliency (B, h, w) of its views."""

    score: Tensor
    embedding: Tensor
    saliency: Tensor


class Batch(NamedTuple):
    """A step's images: their positions (B,) and boxes (B, K, 4), and of those that this process works on the crops
    (b·K, 3, S, S) and the global views (b, 3, V, V), both uint8."""

    indices: Tensor
    boxes: Tensor
    crops: Tensor
    views: Tensor


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
        self.fabric = processes.make_fabric(device, recipe.precision)
        self.device = self.fabric.device
        self.precisions = [usable_precision(self.device.type, recipe.precision)]  # more where a run changes machines
        if self.device.type == "cpu":
            keep_freed_memory()
        mos = table["mos"].to_numpy(dtype=float)
        self.mos_mean, self.mos_std = float(mos[split.train].mean()), float(mos[split.train].std())
        self.target = torch.from_numpy((mos - self.mos_mean) / self.mos_std).float()  # (n,) standardised
        self.store = PictureStore.open(table, recipe.short_side).on(self.device)
        self.sampler = CropSampler(recipe.crop_size, recipe.crops, recipe.scales, recipe.flip)
        self.manifold = LocalManifoldContrastiveLoss(
            recipe.temperature, recipe.intra_weight, recipe.variant, recipe.quality_sigma
        )
        self._build_model()
        self._check_processes()
        self.epoch, self.seconds, self.history = 0, 0.0, []
        self.best: dict[str, Any] | None = None
        self.predicted = np.empty(0)

    def _build_model(self) -> None:
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            student = QualityModel(
                recipe.backbone, recipe.pretrained, recipe.embedding_dim, recipe.crop_size, recipe.stages
            )
        if student.transformer and recipe.view_side != recipe.crop_size:
            raise InputError(
                f"recipe field view_size is {recipe.view_size}: a vision transformer needs that of crop_size, "
                f"{recipe.crop_size}"
            )
        student.freeze_stages(recipe.frozen_stages)
        set_batchnorm_momentum(student, recipe.batchnorm_momentum)
        student = student.to(self.device, memory_format=torch.channels_last)
        if recipe.probe:
            start_from_probe(student, self._probe_crops(), self.target[self.split.train], self.fabric.autocast)
        rates = [recipe.backbone_lr or recipe.lr, recipe.lr]
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        pretrained = set(student.backbone.parameters())
        optimizer = torch.optim.AdamW(
            [
                dict(params=[parameter for parameter in trained if parameter in pretrained]),
                dict(params=[parameter for parameter in trained if parameter not in pretrained]),
            ],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.model, self.optimizer = self.fabric.setup(student, optimizer)
        self.student = student
        self.teacher = make_teacher(student)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=rates,
            total_steps=recipe.epochs * len(self.batches(torch.Generator())),
            cycle_momentum=False,
        )

    def _check_processes(self) -> None:
        smallest = min(len(batch) for batch in self.batches(torch.Generator()))
        if smallest < self.fabric.world_size:
            raise InputError(
                f"{self.fabric.world_size} processes share batches of {smallest} images: start fewer processes, "
                "or raise batch_images"
            )
        if self.fabric.world_size > 1 and not self.recipe.freeze_batchnorm:
            raise InputError(
                "freeze_batchnorm is false, so each process would normalise with statistics of its own: "
                "set it to true, or train in one process"
            )

    def _check_all_are_used(self) -> None:
        """Processes wait for one another's gradients: one that never comes would stop all of them."""
        unused = [name for name, p in self.student.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise InputError(f"backbone {self.recipe.backbone} never uses {unused[0]}: train it in one process")

    def _probe_crops(self) -> Iterator[Tensor]:
        """(b, 2K, 3, S, S) training crops of b images at a time, every training image once, in the split's order."""
        recipe, scales = self.recipe, self.sampler.scales[: self.recipe.crops]
        sampler = replace(self.sampler, crops=2 * recipe.crops, scales=scales)
        generator = torch.Generator().manual_seed(_seed(recipe.seed, -1))
        for indices in torch.from_numpy(self.split.train).split(recipe.batch_images):
            boxes = sampler.sample(self.store.heights[indices], self.store.widths[indices], generator)
            crops = self.store.crops(indices, boxes, recipe.crop_size)
            yield crops.to(self.device).unflatten(0, boxes.shape[:2])

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Training positions of one epoch in random order, in batches of nearly equal size; none is left out.

        Args:
            generator: draws the order.
        """
        order = torch.from_numpy(self.split.train)[torch.randperm(len(self.split.train), generator=generator)]
        return torch.tensor_split(order, -(-len(order) // self.recipe.batch_images))

    def begin(self) -> None:
        """Put the student into training mode, its batch statistics as the recipe wants them."""
        self.student.train()
        if self.recipe.freeze_batchnorm:
            freeze_batchnorm(self.student)

    def run_epoch(self) -> str:
        """Train one epoch, evaluate it, and return the line that tells of it."""
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(_seed(self.recipe.seed, self.epoch))
        self.begin()
        batches = self.batches(generator)
        drawn = bar(self.drawn(batches, generator), len(batches), f"epoch {self.epoch + 1}/{self.recipe.epochs}")
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed())  # some backbones drop paths by chance
            terms = [self.step(batch) for batch in drawn]
        means = torch.stack(terms).mean(dim=0).tolist()
        # activations that are no numbers may be clipped to numbers, and so be missing from the loss
        whole = all(parameter.isfinite().all() for parameter in self.student.parameters())
        if not (np.isfinite(means).all() and whole):
            raise self._diverged(f"loss or weights are no longer finite numbers in epoch {self.epoch + 1}")
        self.epoch += 1
        trained = time.perf_counter() - start
        scores = self.evaluate()
        self.seconds += time.perf_counter() - start
        self.history.append(
            dict(
                epoch=self.epoch,
                **dict(zip(TERMS, means)),
                lr=self.schedule.get_last_lr()[-1],
                test_srcc=scores["srcc"],
                test_plcc=scores["plcc"],
                train_seconds=trained,
            )
        )
        return (
            f"epoch {self.epoch}/{self.recipe.epochs}  loss {means[0]:.4f}  quality {means[1]:.4f}  "
            f"test SRCC {scores['srcc']:.4f}  PLCC {scores['plcc']:.4f}"
        )

    def drawn(self, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """`draw` for one batch after another; for a GPU ahead of the steps, on a CPU, which is busy anyway, in turn.

        Args:
            batches: positions (B,) in the table.
            generator: as in `draw`.
        """
        found = (self.draw(indices, generator) for indices in batches)
        return ahead(found) if self.device.type == "cuda" else found

    def draw(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Take a step's crops and views from the store.

        Args:
            indices: (B,) positions in the table.
            generator: draws crops and flips, the same in every process.
        """
        recipe, own = self.recipe, processes.part(self.fabric, len(indices))
        boxes = self.sampler.sample(self.store.heights[indices], self.store.widths[indices], generator)
        flips = self.sampler.flips(len(indices), generator)
        crops = self.store.crops(indices[own], boxes[own], recipe.crop_size, flips[own])
        views = self.store.whole(indices[own], recipe.view_side)
        if self.device.type == "cuda" and not crops.is_cuda:
            crops, views = crops.pin_memory(), views.pin_memory()
        return Batch(indices, boxes, crops, views)

    def step(self, batch: Batch) -> Tensor:
        """One step of student, optimiser, schedule and teacher.

        Args:
            batch: from `draw`.

        Returns:
            (7,) detached values of `TERMS`, on the training device.
        """
        recipe, indices, B = self.recipe, batch.indices, len(batch.indices)
        own, boxes = processes.part(self.fabric, B), batch.boxes
        heights, widths = self.store.heights[indices], self.store.widths[indices]
        crops, views = (pixels.to(self.device, non_blocking=True) for pixels in (batch.crops, batch.views))
        with torch.no_grad(), self.fabric.autocast():  # frozen stages are the same in both models
            crops, views = self.student.early(crops), self.student.early(views)
            taught, taught_map = self.teacher.late(crops), self.teacher.late(views).saliency
        seen = self.model(begun=crops)
        with batchnorm_frozen(self.student):  # whole pictures look different: they must not mix into the statistics
            seen_map = self.model(begun=views).saliency
        density = crop_saliency(taught_map, boxes[own], heights[own], widths[own])
        student = self._gathered(seen, seen_map, B)
        teacher = self._gathered(taught, taught_map, B)
        (density,) = processes.gather(self.fabric, [density], B)  # (B, K)
        terms = self._losses(student, teacher, density, self.target[indices].to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms[0])
        if self.fabric.world_size > 1:
            self._check_all_are_used()
        self.optimizer.step()
        self.schedule.step()
        update_teacher(self.teacher, self.student, recipe.ema_momentum)
        return torch.stack(terms).detach()

    def _gathered(self, out: ModelOutput, view_map: Tensor, images: int) -> Seen:
        """What all processes saw in a batch, from a model's outputs on this process's crops and global views."""
        by_image = [value.unflatten(0, (-1, self.recipe.crops)) for value in (out.score, out.embedding)]
        return Seen(*processes.gather(self.fabric, [*by_image, view_map], images))

    def _losses(self, student: Seen, teacher: Seen, density: Tensor, mos: Tensor) -> list[Tensor]:
        """The terms of `TERMS` of the whole batch; density: (B, K), mos: (B,)."""
        recipe = self.recipe
        weights = crop_weights(density, recipe.saliency_pooling)
        quality = quality_loss(student.score, weights, mos)
        if recipe.correlation_weight:
            quality = quality + recipe.correlation_weight * correlation_loss((student.score * weights).sum(dim=1), mos)
        manifold = self.manifold(student.embedding, teacher.embedding, salient_crop(density), mos)
        mutual = mutual_loss(student.score, teacher.score, student.saliency, teacher.saliency)
        total = quality + recipe.manifold_weight * manifold.total + recipe.mutual_weight * sum(mutual)
        return [total, quality, manifold.total, manifold.inter, manifold.intra, mutual.score, mutual.saliency]

    @property
    def tested(self) -> QualityModel:
        """The one of the two that is evaluated and saved."""
        return self.teacher if self.recipe.tested == "teacher" else self.student

    def predict(self, positions: np.ndarray, model: QualityModel | None = None) -> np.ndarray:
        """Scores of pictures through the test grid, in MOS units, as (n,) float64; by the tested model if None."""
        model, rank, count = (model or self.tested).eval(), self.fabric.global_rank, self.fabric.world_size
        looks = looking.look_at_all(
            model,
            (self.store.picture(i) for i in positions[rank::count]),
            self.sampler,
            self.recipe.test_crops,
            self.device,
            self.fabric.autocast,
            view_size=self.recipe.view_size,
            by_saliency=self.recipe.saliency_pooling,
        )
        own = torch.cat([torch.empty(0), *(look.score for look in looks)])
        scores = processes.collect(self.fabric, own, len(positions))
        return self.mos_mean + self.mos_std * scores.double().numpy()

    def evaluate(self) -> dict[str, float]:
        """Predict the test part, remember the best epoch, and return this epoch's metrics."""
        self.predicted = self.predict(self.split.test)
        if np.ptp(self.predicted) == 0:
            raise self._diverged(f"every test image has the same score after epoch {self.epoch}")
        scores = evaluation.metrics(pred=self.predicted, mos=self.table["mos"].to_numpy()[self.split.test])
        if self.best is None or scores["plcc"] > self.best["plcc"]:
            self.best = {**scores, "epoch": self.epoch}
        self.last = {**scores, "epoch": self.epoch}
        return scores

    def _diverged(self, what: str) -> RunError:
        name, lr = self.recipe.name, self.recipe.lr
        return RunError(f"{what} of {name}: lower lr (now {lr}) or use precision 32-true")

    def both(self) -> dict[str, dict[str, float]]:
        """Metrics of student and teacher on the test part, after the last epoch."""
        other, model = ("teacher", self.teacher) if self.tested is self.student else ("student", self.student)
        mos = self.table["mos"].to_numpy()[self.split.test]
        scores = {self.recipe.tested: self.predicted, other: self.predict(self.split.test, model)}
        return {name: evaluation.metrics(pred=scores[name], mos=mos) for name in ("student", "teacher")}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors, numbers, lists and dicts only."""
        return dict(
            **{name: getattr(self, name) for name in ("epoch", "seconds", "history", "best", "last", "precisions")},
            predicted=torch.from_numpy(self.predicted),
            student=self.student.state_dict(),
            teacher=self.teacher.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaling=self.fabric.strategy.precision.state_dict(),  # of the loss, in 16-mixed; else empty
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name in ("student", "teacher", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if state.get("scaling"):
            self.fabric.strategy.precision.load_state_dict(state["scaling"])
        for name in ("epoch", "seconds", "history", "best", "last"):
            setattr(self, name, state[name])
        self.predicted = state["predicted"].cpu().numpy()
        self.precisions = list(dict.fromkeys([*state.get("precisions", []), *self.precisions]))


def _seed(seed: int, epoch: int) -> int:
    """One seed an epoch, so that a resumed run draws what the unbroken run would have drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")

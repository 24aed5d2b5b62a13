"""What the suite is timed beside: plain loops, other libraries' contrastive losses, DEIQT's own training pipeline.

A contender is made once, outside the clock, and then called: each call does one portion of work and returns how many
items (crops, images, losses) it held. Other projects' code is only called, where its owner has installed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from .catalogue import BENCHMARKS
from .crops import CropSampler, fixed_boxes, resize_crop
from .devices import computes_in_bfloat16
from .errors import InputError
from .losses import LocalManifoldContrastiveLoss
from .paths import whole_path
from .recipe import Recipe
from .scoring import Scorer, as_picture
from .splits import Split
from .trainer import Trainer

Contender = Callable[[], int]
_NORMALISE = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class OurTraining:
    """Steps of the method: student and teacher, every loss, crops gathered from the store.

    Attributes:
        waited: seconds spent so far until crops were there.

    Args:
        table: from `load_benchmark`.
        split: its training part is trained on, over and over.
        recipe: every hyper-parameter.
        device: as in `train`.
    """

    def __init__(self, table: pd.DataFrame, split: Split, recipe: Recipe, device: str) -> None:
        self.trainer = Trainer(table, split, replace(recipe, epochs=10_000), device)  # a schedule without an end
        self.trainer.begin()
        generator = torch.Generator().manual_seed(0)
        self.batches = self.trainer.drawn(self._forever(generator), generator)
        self.waited = 0.0

    def _forever(self, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            yield from self.trainer.batches(generator)

    def __call__(self) -> int:
        """One step; returns its crops."""
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - start
        self.trainer.step(batch)
        return batch.boxes[..., 0].numel()


class PlainTraining:
    """Steps of the plain loop: one file decoded a crop, channels_last, no teacher, one loss; bfloat16 autocast where
    the device has that type, float32 elsewhere.

    Args:
        table: from `load_benchmark`.
        split: its training part is trained on.
        recipe: gives backbone, crops, batch, crop size and rate.
        device: a name torch knows.
        workers: processes that decode.
    """

    def __init__(self, table: pd.DataFrame, split: Split, recipe: Recipe, device: str, workers: int) -> None:
        self.device = torch.device(device)
        rows = table.iloc[split.train]
        samples = [
            (Path(table.attrs["root"]) / image, float(mos))
            for image, mos in zip(rows["image"], rows["mos"])
            for _ in range(recipe.crops)
        ]
        look = transforms.Compose(
            [
                transforms.RandomCrop(recipe.crop_size, pad_if_needed=True),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                _NORMALISE,
            ]
        )
        self.loader = DataLoader(
            _Files(samples, look),
            batch_size=recipe.batch_images * recipe.crops,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.batches = _forever(self.loader)
        self.model = timm.create_model(recipe.backbone, pretrained=False, num_classes=1)
        self.model.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), recipe.lr)
        self.half = computes_in_bfloat16(device)

    def __call__(self) -> int:
        """One step; returns its crops."""
        crops, mos = next(self.batches)
        crops, mos = crops.to(self.device), mos.float().to(self.device)
        crops = crops.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            score = self.model(crops).squeeze(1)
        self.optimizer.zero_grad()
        F.smooth_l1_loss(score.float(), mos).backward()
        self.optimizer.step()
        return len(crops)


class DeiqtTraining:
    """Steps of DEIQT's own pipeline: its dataset, transforms, loader and ViT-S, its loss, optimiser and clipping.

    In its own loop mixed precision is CUDA's alone, so that it trains in float32 on a CPU.

    Args:
        folder: a checkout of DEIQT (github.com/narthchin/DEIQT), which also needs the package torchinfo.
        table: LIVEC, from `load_benchmark`, since the pipeline reads official folders by itself.
        split: gives how many images are trained on.
        device: a name torch knows.

    Raises:
        InputError: no such checkout, something that it needs is not installed, or another benchmark.
    """

    def __init__(self, folder: str | Path, table: pd.DataFrame, split: Split, device: str) -> None:
        if table.attrs["benchmark"] != "livec":
            raise InputError("--against DEIQT reads LIVEC alone: add --benchmark livec --data-root DIR")
        dataset, build, deiqt = (
            _import_from(folder, name) for name in ("IQA.iqa_dataset", "IQA.build", "models.deiqt")
        )
        settings = SimpleNamespace(DATA=SimpleNamespace(DATASET="livec", CROP_SIZE=(224, 224)))
        files = dataset.LIVECDATASET(_release(table), range(BENCHMARKS["livec"].count), 10, None)
        wanted = {Path(image).name for image in table["image"].iloc[split.train]}
        files.samples = [sample for sample in files.samples if Path(sample[0]).name in wanted]
        files.transform = build.build_transform(True, settings)
        self.device = torch.device(device)
        self.files = files
        # workers that begin anew would not find its modules; its own loop has them forked too
        how = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        options = dict(num_workers=4, persistent_workers=True, multiprocessing_context=how)
        loader = DataLoader(files, batch_size=16, shuffle=True, drop_last=True, **options)
        self.batches = _forever(loader)
        self.model = deiqt.build_deiqt(pretrained=False, infer=False).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 2e-4, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda")

    def __call__(self) -> int:
        """One step; returns its crops."""
        crops, mos = (values.to(self.device, non_blocking=True) for values in next(self.batches))
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            score = self.model(crops)
        loss = F.smooth_l1_loss(score, mos[:, None])
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        loss.item()  # its meters ask for every step's loss
        return len(crops)


def deiqt_modules(folder: str | Path, table: pd.DataFrame) -> list[ModuleType]:
    """DEIQT's modules of data, transforms and network, from somebody's checkout.

    Args:
        folder: the checkout.
        table: LIVEC, from `load_benchmark`.

    Raises:
        InputError: as `DeiqtTraining`.
    """
    if table.attrs["benchmark"] != "livec":
        raise InputError("--against DEIQT reads LIVEC alone: add --benchmark livec --data-root DIR")
    return [_import_from(folder, name) for name in ("IQA.iqa_dataset", "IQA.build", "models.deiqt")]


class PlainScoring:
    """Scores of files by a plain loop: one picture at a time, the network as timm builds it.

    Args:
        scorer: the model that is scored with; the loop takes its backbone's kind, crops and device.
        files: their paths.
        half: bfloat16 autocast; else float32.
    """

    def __init__(self, scorer: Scorer, files: Sequence[Path], half: bool) -> None:
        self.scorer, self.files, self.half = scorer, files, half
        recipe = scorer.recipe
        self.model = timm.create_model(recipe.backbone, pretrained=False, num_classes=1).eval()
        self.model.to(scorer.device, memory_format=torch.channels_last)
        self.sampler = CropSampler(recipe.crop_size, recipe.crops, recipe.scales)

    @torch.no_grad()
    def __call__(self) -> int:
        """Score every file; returns their number."""
        for file in self.files:
            picture = as_picture(file, self.scorer.short_side)
            boxes = fixed_boxes(self.sampler, *picture.shape[:2], self.scorer.recipe.test_crops).tolist()
            crops = [resize_crop(picture[y : y + h, x : x + w], self.sampler.size) for y, x, h, w in boxes]
            views = torch.stack([*crops, resize_crop(picture, self.sampler.size)]).permute(0, 3, 1, 2)
            with torch.autocast(self.scorer.device.type, torch.bfloat16, enabled=self.half):
                self.model(_NORMALISE(views.to(self.scorer.device) / 255)).float().mean().item()
        return len(self.files)


def losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Contrastive losses of N student and N teacher embeddings, (N, D) unit vectors each, four crops an image.

    Ours, and those of the two libraries where they are installed. Lightly's takes two views of N/2 images, so that all
    three compare N embeddings with N: its views are the halves of the student's.
    """
    found = {f"ours {variant}": _our_loss(variant) for variant in ("v1", "v2")}
    if importlib.util.find_spec("pytorch_metric_learning"):
        found["pytorch-metric-learning NTXent"] = _metric_learning_loss()
    if importlib.util.find_spec("lightly"):
        from lightly.loss import NTXentLoss

        lightly = NTXentLoss(temperature=0.2)
        found["lightly NTXent"] = lambda student, teacher: lightly(*student.chunk(2))
    return found


def _our_loss(variant: str) -> Callable[[Tensor, Tensor], Tensor]:
    manifold = LocalManifoldContrastiveLoss(variant=variant)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        by_image = [rows.view(-1, 4, rows.shape[1]) for rows in (student, teacher)]
        return manifold(*by_image, torch.zeros(len(by_image[0]), dtype=torch.int64, device=student.device)).total

    return loss


def _metric_learning_loss() -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    contrastive = SelfSupervisedLoss(NTXentLoss(temperature=0.2), symmetric=False)
    return lambda student, teacher: contrastive(student, teacher.detach())


class _Files(Dataset):
    """One file decoded a sample."""

    def __init__(self, samples: Sequence[tuple[Path, float]], look: Callable) -> None:
        self.samples, self.look = samples, look

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, float]:
        path, mos = self.samples[number]
        with Image.open(path) as picture:
            return self.look(picture.convert("RGB")), mos


def _release(table: pd.DataFrame) -> str:
    """LIVEC's official folder, ChallengeDB_release."""
    return str((Path(table.attrs["root"]) / table.attrs["label_file"]).parents[1])


def _forever(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def _import_from(folder: str | Path, name: str) -> ModuleType:
    """A module of somebody else's checkout."""
    folder = whole_path(folder)
    if not (folder / f"{name.replace('.', '/')}.py").is_file():
        raise InputError(f"--against is {folder}: {name} is not there; name a checkout of github.com/narthchin/DEIQT")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"--against {folder} needs {error.name}: pip install {error.name}") from error
    finally:
        sys.path.remove(str(folder))

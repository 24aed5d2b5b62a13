"""What `lmcl bench` times: this package, plain loops, contrastive losses of libraries, and DEIQT's training pipeline.

A contender is a callable: one call does one portion of work and returns its number of items (crops, images, losses).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, count, repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from ..backbones.bank import FrozenBackbone, open_bank
from ..common.devices import computes_in_bfloat16
from ..common.errors import InputError
from ..common.paths import resolve_path
from ..crops import bank_boxes, sampler_of
from ..data.images import decode, shrink
from ..data.splits import Split
from ..data.store import ImageStore
from ..inference import load
from ..losses import LocalManifoldContrastiveLoss
from ..recipe import Recipe
from ..scoring.files import score_files
from ..trainer import Trainer

Contender = Callable[[], int]


def image_files(table: pd.DataFrame) -> list[Path]:
    """Paths of a table's images."""
    return [Path(table.attrs["root"]) / image for image in table["image"]]


def build_store(table: pd.DataFrame, short_side: int | None) -> int:
    """Decode a table's images into a store in an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        return len(ImageStore.open(table, short_side, cache=Path(folder)))


def decode_all(table: pd.DataFrame, short_side: int | None) -> int:
    """Decode a table's images one by one and keep nothing."""
    return len([shrink(decode(file), short_side).shape for file in image_files(table)])


def features(table: pd.DataFrame, recipe: Recipe, device: str, way: str) -> Contender:
    """Features of a frozen backbone for the whole view and a crop at each scale of a table's images.

    They are kept in an empty cache as in training if `way` is "ours", else computed one view at a time and not kept.
    """
    store, backbone = ImageStore.open(table, recipe.short_side), (recipe.backbone, recipe.crop_size, recipe.pretrained)
    boxes = bank_boxes(sampler_of(recipe), store.heights, store.widths, 0, 1)  # (n, K, 4)
    images, size, where = len(table), recipe.crop_size, torch.device(device)

    def bank() -> int:
        with tempfile.TemporaryDirectory() as folder:
            return open_bank(store, boxes, backbone, where, lambda line: None, Path(folder)).crops[..., 0].size

    if way == "ours":
        return bank
    model = FrozenBackbone(*backbone).to(device)

    def one_by_one() -> int:
        views = [(store.crops([n], boxes[n : n + 1], size), store.whole([n], size)) for n in range(images)]
        return sum(len(model(view[None])[0]) for parts in views for view in torch.cat(parts))

    return one_by_one


def our_training(table: pd.DataFrame, recipe: Recipe, device: str) -> Contender:
    """Training steps of this package on all images of a table; `waited` adds up the seconds spent waiting for crops."""
    split, recipe = Split(np.arange(len(table)), *np.empty((2, 0), int), None), replace(recipe, epochs=10_000)
    trainer = Trainer(table, split, recipe, ImageStore.open(table, recipe.short_side), device)
    trainer.student.train()
    generator = torch.Generator().manual_seed(0)
    batches = trainer.load(chain.from_iterable(trainer.batches(generator) for _ in count()), generator)

    def step() -> int:
        start = time.perf_counter()
        batch = next(batches)
        step.waited += time.perf_counter() - start
        trainer.step(batch)
        return batch.boxes[..., 0].numel()

    step.waited = 0.0
    return step


def plain_training(table: pd.DataFrame, recipe: Recipe, device: str) -> Contender:
    """Training steps of a plain loop without a teacher that decodes one file for each crop."""
    crop, normalize = transforms.RandomCrop(recipe.crop_size, pad_if_needed=True), transforms.Normalize(0.5, 0.5)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
    files, mos = image_files(table), torch.from_numpy(table["mos"].to_numpy(np.float32))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = torch.randint(len(files), (recipe.batch_images * recipe.crops,)).tolist()
            yield torch.stack([transform(Image.open(files[row]).convert("RGB")) for row in rows]), mos[rows]

    model = timm.create_model(recipe.backbone, pretrained=False, num_classes=1)
    return _plain_step(model, batches(), recipe.lr, device, computes_in_bfloat16(device))


def _plain_step(model: nn.Module, batches: Iterator, lr: float, device: str, half: bool) -> Contender:
    """Steps of AdamW on smooth-L1, channels_last, under bfloat16 autocast if `half`."""
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr)

    def step() -> int:
        crops, mos = next(batches)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            score = model(crops.to(device, memory_format=torch.channels_last)).squeeze(1)
        optimizer.zero_grad()
        F.smooth_l1_loss(score.float(), mos.float().to(device)).backward()
        optimizer.step()
        return len(crops)

    return step


def deiqt_training(folder: str | Path, table: pd.DataFrame, device: str) -> Contender:
    """The plain loop with DEIQT's dataset, transforms, loader and network; mixed precision on CUDA only, as there."""
    dataset, build, deiqt = import_deiqt(folder)
    release = (Path(table.attrs["root"]) / table.attrs["label_file"]).parents[1]
    files = dataset.LIVECDATASET(str(release), range(1162), 10, None)
    names = {Path(image).name for image in table["image"]}
    files.samples = [sample for sample in files.samples if Path(sample[0]).name in names]
    config = SimpleNamespace(DATA=SimpleNamespace(DATASET="livec", CROP_SIZE=(224, 224)))
    files.transform = build.build_transform(True, config)
    loader = DataLoader(files, batch_size=16, shuffle=True, drop_last=True, num_workers=4, persistent_workers=True)
    model = deiqt.build_deiqt(pretrained=False, infer=False)
    return _plain_step(model, chain.from_iterable(repeat(loader)), 2e-4, device, device == "cuda")


def import_deiqt(folder: str | Path) -> list[ModuleType]:
    """Import the data, transform and network modules of a checkout of DEIQT (github.com/narthchin/DEIQT).

    InputError: the folder is no such checkout, or a package that it needs is missing.
    """
    sys.path.insert(0, str(resolve_path(folder)))
    try:
        return [import_module(name) for name in ("IQA.iqa_dataset", "IQA.build", "models.deiqt")]
    except ModuleNotFoundError as error:
        advice = "name a checkout of github.com/narthchin/DEIQT, and install the packages that it needs"
        raise InputError(f"--against {folder}: {error}; {advice}") from error


def scoring(files: Sequence[Path], device: str, batches: bool) -> Contender:
    """Score files with the bundled weights: by `score_files`, which reads ahead and batches images, or one by one."""
    scorer = load("livec", device)
    return lambda: len(list(score_files(scorer, files) if batches else map(scorer.score, files)))


def losses(size: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Contrastive losses of (N, D) student and teacher unit vectors, N = size, four crops per image.

    Those of pytorch-metric-learning (up to 512 vectors: its memory grows with N³) and lightly are there if installed.
    """
    found = {f"ours {variant}": partial(_our_loss, variant) for variant in ("v1", "v2")}
    if size <= 512 and find_spec("pytorch_metric_learning"):
        library = import_module("pytorch_metric_learning.losses")
        loss = library.SelfSupervisedLoss(library.NTXentLoss(temperature=0.2), symmetric=False)
        found["pytorch-metric-learning NTXent"] = loss
    if find_spec("lightly"):  # two views of N/2 images: the halves of the student's vectors
        two_views = import_module("lightly.loss").NTXentLoss(temperature=0.2)
        found["lightly NTXent"] = lambda student, teacher: two_views(*student.chunk(2))
    return found


def _our_loss(variant: str, student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = student.unflatten(0, (-1, 4)), teacher.unflatten(0, (-1, 4))  # (B, K, D)
    salient = torch.zeros(len(student), dtype=torch.int64, device=student.device)
    return LocalManifoldContrastiveLoss(variant=variant)(student, teacher, salient).total


def loss_step(name: str, size: int, device: str) -> Contender:
    """Forward and backward pass of one of `losses` on `size` embeddings of length 128."""
    generator, loss = torch.Generator().manual_seed(0), losses(size)[name]
    student, teacher = (F.normalize(torch.randn(size, 128, generator=generator), dim=1).to(device) for _ in range(2))
    student.requires_grad_()
    return lambda: len(torch.autograd.grad(loss(student, teacher), [student]))  # 1: one loss per call

"""Inference: apply a trained model to the fixed test crops of images; `Scorer` scores files, arrays and PIL images.

Shapes: `n` images, `K` test crops per image, `S` crop side, `C` backbone channels, `h w` token grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .backbones.bank import FrozenBackbone
from .backbones.weights import weights_digest
from .common.devices import autocast, keep_freed_memory, resolve_device
from .common.errors import InputError, first_line
from .crops import CropBank, crop_saliency, crop_weights, fixed_boxes, random_boxes, sampler_of
from .data.images import load_rgb, resize_crop
from .data.store import ImageStore
from .model import FrozenModel, QualityModel
from .recipe import Recipe
from .runs.model_file import read_model


class Prediction(NamedTuple):
    """What the model predicts of n images, on the CPU in float32 except for the boxes."""

    score: Tensor  # (n,) standardised quality, the saliency-weighted mean over the crops
    crop_scores: Tensor  # (n, K) standardised quality of each crop
    weights: Tensor  # (n, K) saliency weights, summing to 1 over K
    boxes: Tensor  # (n, K, 4) int64 boxes in image pixels
    saliency: Tensor  # (n, h, w) maps of the global view
    feature: Tensor  # (n, K, C) pooled backbone feature of each crop

    @classmethod
    def concatenate(cls, parts: Iterable[Prediction]) -> Prediction:
        """Join predictions of batches of images, at least one, into one."""
        return cls(*map(torch.cat, zip(*parts)))

    def split(self) -> list[Prediction]:
        """One prediction per image."""
        return [Prediction(*(values[i : i + 1] for values in self)) for i in range(len(self.score))]


class Explanation(NamedTuple):
    """How a score comes about: the test crops of one image, and what the model computes of each."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB, the image as the model saw it, shrunk to `Scorer.short_side` if larger
    score: float  # quality in MOS units, the sum of ``weights * crop_scores``
    percentile: float  # share of the training images with a lower MOS, 0..100
    boxes: np.ndarray  # (K, 4) int64 test crops: top, left, height, width in pixels of `pixels`
    crop_scores: np.ndarray  # (K,) float64, in MOS units
    weights: np.ndarray  # (K,) float32 saliency weights, summing to 1
    saliency: np.ndarray  # (h, w) float32 map of the global view, summing to 1
    feature: np.ndarray  # (K, C) float32 pooled backbone feature of each crop
    embedding: np.ndarray | None  # (K, D) float32 unit vectors; None for packed weights, such as the bundled ones


def predict_images(
    model: QualityModel | FrozenModel,
    images: Iterable[Tensor],
    recipe: Recipe,
    batch_size: int = 8,
    backbone: FrozenBackbone | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Prediction]:
    """Predict images through the fixed test crops. Source: notebook 02, equations 2 and 3.

    Args:
        model: in evaluation mode; its device is used.
        images: (H, W, 3) uint8 RGB tensors of any sizes, already brought to the recipe's short side.
        recipe: crop size, scales, number of test crops, global view, pooling and precision.
        batch_size: images of one yielded `Prediction`, in 1..65536, else InputError.
        backbone: the frozen backbone of a `FrozenModel`.
        generator: if given, crops lie at random positions drawn with it, and nothing is random otherwise.
    """
    if not isinstance(batch_size, (int, np.integer)) or not 1 <= batch_size <= 2**16:
        raise InputError(f"batch_size is {batch_size!r}: it must be a whole number in 1..65536")
    iterator = iter(images)
    batches = iter(lambda: list(islice(iterator, batch_size)), [])
    return (_predict_batch(model, batch, recipe, backbone, generator) for batch in batches)


@torch.no_grad()
def _predict_batch(
    model: QualityModel | FrozenModel,
    images: Sequence[Tensor],
    recipe: Recipe,
    backbone: FrozenBackbone | None,
    generator: torch.Generator | None,
) -> Prediction:
    sampler = sampler_of(recipe)
    heights, widths = (torch.tensor([image.shape[axis] for image in images]) for axis in (0, 1))
    choose = fixed_boxes if generator is None else partial(random_boxes, generator=generator)
    boxes = [choose(sampler, *image.shape[:2], recipe.test_crops) for image in images]
    boxes = torch.stack(boxes)  # (n, K, 4)
    crops = [
        resize_crop(image[top : top + height, left : left + width], recipe.crop_size)
        for image, rows in zip(images, boxes.tolist())
        for top, left, height, width in rows
    ]
    views = [resize_crop(image, recipe.view_side) for image in images]
    # (n·K, 3, S, S) and (n, 3, V, V)
    pixels = (torch.stack(part).permute(0, 3, 1, 2).to(model.mean.device) for part in (crops, views))
    if backbone is None:
        with autocast(model.mean.device, recipe.precision):
            of_crops, of_views = (model(part) for part in pixels)
        return _weighted(of_crops.score, of_crops.feature, of_views.saliency, boxes, heights, widths, recipe)
    (of_crops, _), (of_views, tokens) = (backbone(part) for part in pixels)
    stored = torch.cat([of_crops.unflatten(0, boxes.shape[:2]), of_views[:, None]], dim=1).half()  # as in the bank
    outputs = model(model.reduce(stored), tokens.half())
    return _weighted(outputs.score, outputs.feature, outputs.saliency, boxes, heights, widths, recipe)


_BANK_BATCH = 64  # images


@torch.no_grad()
def predict_bank(
    model: FrozenModel, bank: CropBank, rows: np.ndarray, recipe: Recipe, reduced: Tensor | None = None
) -> Iterator[Prediction]:
    """Predict images by their positions in a table, from stored features, as `predict_images` does from pixels.

    `reduced` (n, K, 1 + R) is what `FrozenModel.reduce` makes of all crops of the bank, if that is known.
    """
    device = model.mean.device
    for part in torch.as_tensor(rows).split(_BANK_BATCH):
        columns = torch.arange(recipe.bank_crops, bank.boxes.shape[1]).expand(len(part), -1)
        boxes, crops, tokens = bank.gather(part, columns)
        inputs = model.reduce(crops.to(device)) if reduced is None else reduced[part, recipe.bank_crops :]
        outputs = model(inputs, tokens.to(device))
        sizes = bank.heights[part], bank.widths[part]
        yield _weighted(outputs.score, outputs.feature, outputs.saliency, boxes, *sizes, recipe)


def _weighted(
    scores: Tensor, features: Tensor, saliency: Tensor, boxes: Tensor, heights: Tensor, widths: Tensor, recipe: Recipe
) -> Prediction:
    """The prediction from the outputs on n·K crops and on n global views."""
    crop_scores = scores.float().cpu().view(boxes.shape[:2])  # (n, K)
    feature = features.float().cpu().view(*boxes.shape[:2], -1)  # (n, K, C)
    saliency = saliency.float().cpu()
    # Equations 2 and 3: saliency weights, and the weighted mean of the crop scores
    weights = crop_weights(crop_saliency(saliency, boxes, heights, widths), recipe.saliency_pooling)
    return Prediction((crop_scores * weights).sum(dim=1), crop_scores, weights, boxes, saliency, feature)


def load(weights: str | Path, device: str = "cpu") -> Scorer:
    """Load a trained model.

    Args:
        weights: a ``model.safetensors`` written by `lmcl_core.train`, its run folder, or the name of bundled weights
            (a key of `runs.model_file.BUNDLED`).
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: no such file, or a file that this package did not write.
    """
    path, state, about = read_model(weights)
    try:
        recipe = Recipe.from_dict(about["recipe"])
        with torch.random.fork_rng(devices=[]):
            if recipe.frozen:
                model = _frozen_model(state, recipe)
            else:
                model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size)
        for key in ("feature_mean", "feature_std"):  # written by earlier versions, without effect
            state.pop(key, None)
        if about["packed"]:  # packed weights have no embedding head, which scoring does not use
            own = model.state_dict().items()
            state |= {key: torch.zeros_like(value) for key, value in own if key.startswith("embedding_head.")}
        model.load_state_dict(state)
    except (InputError, RuntimeError, TypeError) as error:
        fix = "use the version that wrote them, or train again"
        raise InputError(f"weights at {path} do not fit this version ({first_line(error)}): {fix}") from error
    return Scorer(model, recipe, about, torch.device(resolve_device(device)))


def _check_backbone(recipe: Recipe, about: dict[str, Any]) -> None:
    """Raise InputError if the weights of the frozen backbone are not those that the model was trained on."""
    wanted = about.get("backbone_weights")
    if recipe.pretrained and wanted != (found := weights_digest(recipe.backbone)):
        problem = f"the weights of {recipe.backbone} here (SHA-256 {found}) are not those that this model"
        raise InputError(f"{problem} was trained on ({wanted}): put the right file in their place, or train again")


def _frozen_model(state: dict[str, Tensor], recipe: Recipe) -> FrozenModel:
    """A new model of the sizes of stored weights."""
    names = ("mean", "pool.norm.weight", "basis", "score_head.weight")
    if missing := [name for name in names if name not in state]:
        raise InputError(f"they lack {missing[0]}")
    inputs, channels, reduced, hidden = (state[name].shape[-1] for name in names)
    return FrozenModel(inputs // 2, channels, recipe.embedding_dim, reduced - 1, hidden)


class Scorer:
    """Scores images of any size in the MOS units of the benchmark its model was trained on.

    Args:
        model: a trained `QualityModel` or `FrozenModel`.
        recipe: its recipe.
        about: metadata written by `runs.model_file.save_model`: benchmark, its title, axis, label_kind and
            mos_range, mos_mean, mos_std, mos_percentiles of the training part, largest_short_side, packed.
        device: where to work.
    """

    backbone: FrozenBackbone | None = None  # of the frozen regime

    def __init__(
        self, model: QualityModel | FrozenModel, recipe: Recipe, about: dict[str, Any], device: torch.device
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval()
        self.recipe, self.about, self.device = recipe, about, device
        if recipe.frozen:
            self.backbone = FrozenBackbone(recipe.backbone, recipe.crop_size, recipe.pretrained).to(device)
            _check_backbone(recipe, about)
        if device.type == "cpu":
            keep_freed_memory()

    @property
    def short_side(self) -> int:
        """Short side in pixels that larger images are shrunk to."""
        return min(self.recipe.short_side or self.about["largest_short_side"], self.about["largest_short_side"])

    def score(
        self, inputs: Sequence[str | Path | Image.Image | np.ndarray] | str | Path, batch_size: int = 8
    ) -> pd.DataFrame:
        """Score images; the same image always gets the same score on the same machine.

        Args:
            inputs: paths, PIL images of any mode, or uint8 arrays (H, W), (H, W, 3) or (H, W, 4); one or many.
            batch_size: images at a time, >= 1.

        Returns:
            One row per input: image (its path, or its position), score (MOS units, higher is better), percentile
            (share of the training images with a lower MOS, 0..100). InputError names an image that cannot be read.
        """
        single = isinstance(inputs, (str, Path, Image.Image, np.ndarray)) or not isinstance(inputs, Iterable)
        inputs = [inputs] if single else list(inputs)
        parts = [part.score for part in self.predict(map(self.prepare, inputs), batch_size)]
        score = self.to_mos(torch.cat(parts)) if parts else np.empty(0)
        names = [str(item) if isinstance(item, (str, Path)) else str(n) for n, item in enumerate(inputs)]
        return pd.DataFrame(dict(image=names, score=score, percentile=self.percentile(score)))

    @torch.no_grad()
    def explain(self, picture: str | Path | Image.Image | np.ndarray) -> Explanation:
        """Score one input of `score` and keep everything that the score is made of. InputError: it cannot be read."""
        pixels = self.prepare(picture)
        prediction = next(self.predict([pixels]))
        score = float(self.to_mos(prediction.score)[0])
        embedding = None
        if not self.about["packed"]:
            head = self.model.embedding_head(prediction.feature[0].to(self.device))
            embedding = F.normalize(head.float(), dim=-1).cpu().numpy()
        return Explanation(
            pixels.numpy(),
            score,
            float(self.percentile(score)),
            prediction.boxes[0].numpy(),
            self.to_mos(prediction.crop_scores[0]),
            *(values[0].numpy() for values in (prediction.weights, prediction.saliency, prediction.feature)),
            embedding,
        )

    def prepare(self, item: str | Path | Image.Image | np.ndarray) -> Tensor:
        """One input of `score` as an (H, W, 3) uint8 RGB tensor, shrunk if its short side exceeds `short_side`."""
        return load_rgb(item, self.short_side)

    def predict(
        self, images: Iterable[Tensor], batch_size: int = 8, generator: torch.Generator | None = None
    ) -> Iterator[Prediction]:
        """`predict_images` with this model: one `Prediction` per batch of prepared images."""
        return predict_images(self.model, images, self.recipe, batch_size, self.backbone, generator)

    def predict_rows(self, store: ImageStore, rows: np.ndarray) -> Iterator[Prediction]:
        """Predict images of a store by their positions; features of a frozen backbone are computed once and kept."""
        if self.backbone is None:
            return self.predict(store.image(int(row)) for row in rows)
        return predict_bank(self.model, CropBank(store, self.recipe, self.device), rows, self.recipe)

    def to_mos(self, score: Tensor) -> np.ndarray:
        """Standardised scores of any shape as float64 in MOS units."""
        return self.about["mos_mean"] + self.about["mos_std"] * score.double().numpy()

    def percentile(self, score: np.ndarray) -> np.ndarray:
        """Share of the training images with a lower MOS, 0..100, for scores in MOS units."""
        return np.interp(score, self.about["mos_percentiles"], np.arange(101))

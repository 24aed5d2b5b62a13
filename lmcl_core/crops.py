"""Crops: random multi-scale boxes for training, a fixed grid for test, and the saliency of a box.

Shapes: `B` images, `K` crops per image, `h w` the token grid of a saliency map. A box is (top, left, height, width)
in pixels of the image, int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .backbones.bank import open_bank
from .common.errors import InputError
from .common.progress import Log

if TYPE_CHECKING:
    from .data.store import ImageStore
    from .recipe import Recipe


@dataclass(frozen=True)
class CropSampler:
    """Samples square crops of an image at several scales (notebook 02).

    Crop k covers a square of side ``size * scales[k % len(scales)]`` image pixels, clipped to the image's short
    side, and is later resized to ``size x size``.

    Args:
        size: S, side of a crop as the model sees it, in pixels, >= 1.
        crops: K, crops per image, >= 1.
        scales: sides of the crops in units of `size`, > 0.
        flip: whether `flips` mirrors crops at random.

    Raises:
        ValueError: a size, number or scale out of range.
    """

    size: int = 224
    crops: int = 8
    scales: Sequence[float] = (1.0,)
    flip: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "crops"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"CropSampler {name} is {value!r}: it must be a whole number of at least 1")
        if not isinstance(self.flip, bool):
            raise InputError(f"CropSampler flip is {self.flip!r}: it must be True or False")
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not self.scales or not all(math.isfinite(s) and s > 0 for s in self.scales):
            raise InputError(f"CropSampler scales is {self.scales!r}: it must be one or more numbers greater than 0")

    def sample(
        self, heights: Sequence[int] | Tensor, widths: Sequence[int] | Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw K boxes in each image, uniform over all positions that fit: (B, K, 4) int64, each inside its image.

        `heights` and `widths` are (B,) image sizes in pixels, and `generator` is the only source of randomness.
        ValueError: heights and widths differ in length, or one is below 1.
        """
        extent = _extents(heights, widths)  # (B, 2)
        sides = [max(1, round(self.size * scale)) for scale in self.scales]
        wanted = torch.tensor([sides[k % len(sides)] for k in range(self.crops)])  # (K,)
        side = torch.minimum(wanted[None, :], extent.amin(1)[:, None])  # (B, K)
        places = extent[:, None, :] - side[..., None] + 1  # (B, K, 2): number of positions
        draw = torch.rand(places.shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()
        corner = torch.minimum((draw * places).long(), places - 1)  # (B, K, 2)
        return torch.cat([corner, side[..., None].expand(-1, -1, 2)], dim=-1)

    def flips(self, images: int, generator: torch.Generator) -> Tensor:
        """Draw which crops of B images are mirrored left-right: (B, K) bool, all False if `flip` is False."""
        if not self.flip:
            return torch.zeros(images, self.crops, dtype=torch.bool)
        return (torch.rand(images, self.crops, generator=generator, device=generator.device) < 0.5).cpu()

    def grid(self, height: int, width: int, crops: int) -> Tensor:
        """Fixed test crops (crops, 4) at the first scale, spread evenly, that together reach all four edges.

        ``crops=1`` gives the whole image, since one smaller crop cannot reach four edges. ValueError: a size in pixels
        or the number is below 1.
        """
        [[height, width]] = _extents([height], [width]).tolist()
        if isinstance(crops, bool) or not isinstance(crops, int) or not 1 <= crops <= 65536:
            raise InputError(f"grid of {crops!r} crops: it must be a whole number of at least 1 and at most 65536")
        if crops == 1:
            return torch.tensor([[0, 0, height, width]])
        side = min(max(1, round(self.size * self.scales[0])), height, width)
        boxes = []
        counts = _columns_per_row(height - side, width - side, crops)
        for row, columns in enumerate(counts):
            top = _spread(row, len(counts), height - side)
            for column in range(columns):
                if crops == 2 and len(counts) == 2:  # two single crops: opposite corners
                    left = row * (width - side)
                else:
                    left = _spread(column, columns, width - side)
                boxes.append([top, left, side, side])
        return torch.tensor(boxes)


def fixed_boxes(sampler: CropSampler, height: int, width: int, crops: int) -> Tensor:
    """The fixed test crops (K, 4) of an image: one grid for each scale of the sampler; fewer boxes at larger scales.

    The first scale gets `crops` boxes, and a scale r times as large crops / r², rounded, but at least 2. With 1, every
    scale gets one box, the whole image. K depends only on `sampler` and `crops`.
    """
    counts = crops_by_scale(sampler.scales[: sampler.crops], crops)
    return torch.cat([replace(sampler, scales=(s,)).grid(height, width, count) for s, count in counts.items()])


def random_boxes(sampler: CropSampler, height: int, width: int, crops: int, generator: torch.Generator) -> Tensor:
    """As many boxes (K, 4) of each scale as `fixed_boxes` has, at random positions instead."""
    counts = crops_by_scale(sampler.scales[: sampler.crops], crops)
    scales = [scale for scale, count in counts.items() for _ in range(count)]
    return replace(sampler, crops=len(scales), scales=scales).sample([height], [width], generator)[0]


def bank_boxes(
    sampler: CropSampler, heights: Sequence[int] | Tensor, widths: Sequence[int] | Tensor, drawn: int, crops: int
) -> Tensor:
    """Boxes (n, drawn + K, 4) of the frozen regime: random crops of each image, always the same, then `fixed_boxes`."""
    fixed = [fixed_boxes(sampler, int(height), int(width), crops) for height, width in zip(heights, widths)]
    if not drawn:
        return torch.stack(fixed)
    random = replace(sampler, crops=drawn).sample(heights, widths, torch.Generator().manual_seed(0))
    return torch.cat([random, torch.stack(fixed)], dim=1)


def sampler_of(recipe: Recipe) -> CropSampler:
    """The crop sampler of a recipe."""
    return CropSampler(recipe.crop_size, recipe.crops, recipe.scales, recipe.flip)


class CropBank:
    """Crops of every image of a table with stored features, for a recipe with a frozen backbone.

    `device` and `log` are those of `open_bank`, for features that are not there yet.

    Attributes:
        boxes: (n, K, 4) int64 boxes of all K crops: `Recipe.bank_crops` random ones, then the fixed test crops.
        heights, widths: (n,) image sizes in pixels.
        features: a `FeatureBank` of these crops and the whole views.
    """

    def __init__(self, store: ImageStore, recipe: Recipe, device: torch.device, log: Log = lambda line: None) -> None:
        self.heights, self.widths = store.heights, store.widths
        counts = recipe.bank_crops, recipe.test_crops
        self.boxes = bank_boxes(sampler_of(recipe), self.heights, self.widths, *counts)
        backbone = recipe.backbone, recipe.crop_size, recipe.pretrained
        self.features = open_bank(store, self.boxes, backbone, device, log)

    def gather(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops `columns` (b, k) of images `rows` (b,): boxes (b, k, 4), features (b, k + 1, F), tokens (b, h, w, C).

        Features and tokens are float16; the last feature is that of the whole view.
        """
        boxes = self.boxes[rows[:, None], columns]
        columns = torch.cat([columns, torch.full((len(rows), 1), self.boxes.shape[1])], dim=1)
        crops = torch.from_numpy(self.features.crops[rows[:, None].numpy(), columns.numpy()])
        return boxes, crops, torch.from_numpy(self.features.tokens[rows.numpy()])


def crops_by_scale(scales: Sequence[float], crops: int) -> dict[float, int]:
    """Number of fixed test crops at each distinct scale; `crops` as in `fixed_boxes`."""
    first = scales[0]
    return {s: crops if s == first or crops == 1 else max(2, round(crops * (first / s) ** 2)) for s in scales}


def crop_saliency(maps: Tensor, boxes: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Mean density of a saliency map inside each box. It is a mean, not a sum, so it does not favour large crops.

    The map is piecewise constant over a grid that covers the image; its integral over a box is exact.

    Args:
        maps: (B, h, w) non-negative float maps, each summing to 1.
        boxes: (B, K, 4) int64 boxes in image pixels.
        heights, widths: (B,) image sizes in pixels.

    Returns:
        (B, K) float densities; 1 where the map is uniform. Source: notebook 02, equation 2.
    """
    # Equation 2: share of the attention over share of the area
    _, h, w = maps.shape
    boxes = boxes.to(maps.device, maps.dtype)
    height, width = (v.to(maps.device, maps.dtype)[:, None] for v in (heights, widths))
    rows = torch.stack([boxes[..., 0] / height, (boxes[..., 0] + boxes[..., 2]) / height], -1) * h  # (B, K, 2)
    columns = torch.stack([boxes[..., 1] / width, (boxes[..., 1] + boxes[..., 3]) / width], -1) * w
    mass = torch.einsum("bkh,bhw,bkw->bk", _cover(rows, h), maps, _cover(columns, w))
    area = boxes[..., 2] * boxes[..., 3] / (height * width)
    return mass / area


def salient_crop(density: Tensor) -> Tensor:
    """Index (B,) of the most salient crop of each image, the first if several tie: s(i) of notebook 02, equation 2."""
    position = torch.arange(density.shape[1], device=density.device).expand_as(density)
    best = density == density.amax(dim=1, keepdim=True)
    return torch.where(best, position, density.shape[1] - 1).amin(dim=1)


def crop_weights(density: Tensor, by_saliency: bool = True) -> Tensor:
    """Weights (B, K) of an image's crops, summing to 1 over K, from `crop_saliency` (notebook 02, equation 2).

    They are equal if the density of every crop is 0, or if `by_saliency` is False.
    """
    density = density + 1e-12 if by_saliency else torch.ones_like(density)
    return density / density.sum(dim=1, keepdim=True)


def _cover(spans: Tensor, cells: int) -> Tensor:
    """(B, K, 2) start and end in cells -> (B, K, cells) covered fraction of each cell."""
    cell = torch.arange(cells, device=spans.device, dtype=spans.dtype)
    return (torch.minimum(spans[..., 1:], cell + 1) - torch.maximum(spans[..., :1], cell)).clamp(min=0)


def _extents(heights, widths) -> Tensor:
    """Check image sizes and stack them into (B, 2) int64."""
    heights, widths = torch.as_tensor(heights).cpu().long(), torch.as_tensor(widths).cpu().long()
    if heights.shape != widths.shape or heights.ndim != 1:
        shapes = f"heights {tuple(heights.shape)} and widths {tuple(widths.shape)}"
        raise InputError(f"image sizes: got {shapes}; both must hold one number per image")
    extent = torch.stack([heights, widths], dim=1)
    if extent.numel() and extent.min() < 1:
        raise InputError(f"image sizes: smallest is {int(extent.min())}; every height and width must be at least 1")
    return extent


def _columns_per_row(free_rows: int, free_columns: int, crops: int) -> list[int]:
    """Number of crops in each row of the grid; the grid's shape follows the free space in both directions."""
    if free_rows == 0:
        return [crops]
    if free_columns == 0 or crops == 2:
        return [1] * crops
    rows = round(math.sqrt(crops * (free_rows + 1) / (free_columns + 1)))
    rows = min(max(rows, 2), (crops + 1) // 2)
    return [crops // rows + (row < crops % rows) for row in range(rows)]


def _spread(index: int, count: int, free: int) -> int:
    """Offset of item `index` of `count` items spread evenly over 0..free; a single item is centred."""
    return free // 2 if count == 1 else round(index * free / (count - 1))

"""Looking at pictures through fixed test crops.

Shapes: `n` pictures, `K` test crops a picture, `S` crop side, `C` backbone channels, `h w` token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .crops import CropSampler, crop_saliency, crop_weights, fixed_boxes, resize_crop


class Look(NamedTuple):
    """What the model saw in n pictures, all on the CPU in float32 but for the boxes.

    Attributes:
        score: (n,) standardised quality, the saliency-weighted mean over the crops.
        crop_scores: (n, K) standardised quality of each crop.
        weights: (n, K) saliency weights, summing to 1 over K.
        boxes: (n, K, 4) int64 boxes in picture pixels.
        saliency: (n, h, w) maps of the global view.
        feature: (n, K, C) pooled backbone feature of each crop.
    """

    score: Tensor
    crop_scores: Tensor
    weights: Tensor
    boxes: Tensor
    saliency: Tensor
    feature: Tensor


@torch.no_grad()
def look(
    model: nn.Module,
    pictures: Sequence[Tensor],
    sampler: CropSampler,
    crops: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    view_size: int | None = None,
    by_saliency: bool = True,
) -> Look:
    """Look at a batch of pictures through the fixed test grid; nothing is random.

    Args:
        model: a `QualityModel` in evaluation mode.
        pictures: n tensors (H, W, 3) uint8 RGB of any sizes.
        sampler: gives size and scales of the grid.
        crops: number of grid crops at the first scale, as in `crops.fixed_boxes`; K is their number in all.
        device: where the model is.
        autocast: makes the precision context of the forward pass.
        view_size: side of the global view in pixels; None takes the size of a crop.
        by_saliency: as in `crops.crop_weights`.

    Returns:
        The `Look`. Source: notebook 02, equations 2 and 3.
    """
    boxes = torch.stack([fixed_boxes(sampler, p.shape[0], p.shape[1], crops) for p in pictures])  # (n, K, 4)
    crop_views = [
        resize_crop(p[top : top + height, left : left + width], sampler.size)
        for p, rows in zip(pictures, boxes.tolist())
        for top, left, height, width in rows
    ]
    whole_views = [resize_crop(p, view_size or sampler.size) for p in pictures]
    with autocast():
        out, whole = (
            model(torch.stack(views).permute(0, 3, 1, 2).to(device)) for views in (crop_views, whole_views)
        )  # of (n·K, 3, S, S) and (n, 3, V, V)
    n, K = boxes.shape[:2]
    score, feature, saliency = (value.float().cpu() for value in (out.score, out.feature, whole.saliency))
    heights, widths = (torch.tensor([p.shape[axis] for p in pictures]) for axis in (0, 1))
    weights = crop_weights(crop_saliency(saliency, boxes, heights, widths), by_saliency)  # (n, K)
    crop_scores = score.view(n, K)
    return Look((crop_scores * weights).sum(dim=1), crop_scores, weights, boxes, saliency, feature.view(n, K, -1))


def look_at_all(
    model: nn.Module,
    pictures: Iterable[Tensor],
    sampler: CropSampler,
    crops: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    batch: int = 8,
    view_size: int | None = None,
    by_saliency: bool = True,
) -> Iterator[Look]:
    """`look` over any number of pictures, `batch` at a time; the other arguments are those of `look`."""
    waiting: list[Tensor] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == batch:
            yield look(model, waiting, sampler, crops, device, autocast, view_size, by_saliency)
            waiting = []
    if waiting:
        yield look(model, waiting, sampler, crops, device, autocast, view_size, by_saliency)

"""Linear probing before fine-tuning: the score head starts as a ridge regression on pretrained features.

Fine-tuning from a random head first bends the pretrained features towards that head's noise; from a fitted head it
starts where the frozen features already are (Kumar et al., "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", ICLR 2022).

Shapes: `n` images, `K` crops an image, `C` feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from .model import QualityModel

PENALTIES = np.logspace(0, 6, 25)  #: that the leave-one-out error chooses from


def ridge(feature: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Ridge regression whose penalty has the smallest leave-one-out error, in closed form.

    Args:
        feature: (n, C) float.
        target: (n,) float.

    Returns:
        Weights (C,), intercept, and the penalty chosen from `PENALTIES`.
    """
    center, level = feature.mean(axis=0), target.mean()
    u, s, vt = np.linalg.svd(feature - center, full_matrices=False)
    rotated = u.T @ (target - level)  # (r,)
    errors = []
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        leverage = np.square(u) @ shrink + 1 / len(target)
        residual = target - level - u @ (shrink * rotated)
        errors.append(np.square(residual / np.maximum(1 - leverage, 1e-6)).mean())
    penalty = float(PENALTIES[int(np.argmin(errors))])
    weight = vt.T @ (s / (s**2 + penalty) * rotated)
    return weight, float(level - center @ weight), penalty


@torch.no_grad()
def start_from_probe(
    model: QualityModel, crops: Iterable[Tensor], target: Tensor, autocast: Callable[[], AbstractContextManager]
) -> float:
    """Standardise a model's features over training crops, and set its score head to the ridge regression on them.

    Args:
        model: changed in place: `feature_mean`, `feature_std` and `score_head`; left in evaluation mode.
        crops: for each batch of b images (b, K, 3, S, S) uint8 on the model's device, in the order of `target`.
        target: (n,) standardised opinion scores.
        autocast: makes the precision context of the forward pass.

    Returns:
        The penalty of the regression.
    """
    model.eval()
    found = []
    for batch in crops:
        with autocast():
            feature = model(batch.flatten(0, 1)).feature
        found.append(feature.float().cpu().unflatten(0, batch.shape[:2]))
    feature = torch.cat(found)  # (n, K, C)
    mean, std = feature.mean(dim=(0, 1)), feature.std(dim=(0, 1))
    std = torch.where(std < 1e-3, 1.0, std)  # a channel that is silent here must not shout when it wakes up
    of_image = ((feature - mean) / std).mean(dim=1)
    weight, intercept, penalty = ridge(of_image.double().numpy(), target.double().cpu().numpy())
    device = model.feature_mean.device
    model.feature_mean.copy_(mean.to(device))
    model.feature_std.copy_(std.to(device))
    model.score_head.weight.copy_(torch.from_numpy(weight)[None].to(device))
    model.score_head.bias.fill_(intercept)
    return penalty

"""The probe: a ridge regression in closed form, put into the score head."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lmcl_core import QualityModel
from lmcl_core.probe import PENALTIES, ridge, start_from_probe


def problem(n: int = 60, channels: int = 8, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    feature = rng.normal(3.0, 1.0, (n, channels))
    return feature, feature @ rng.normal(size=channels) + noise * rng.normal(size=n) - 5


def solved(feature: np.ndarray, target: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """The textbook normal equations."""
    centred = feature - feature.mean(axis=0)
    weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(feature.shape[1]), centred.T @ target)
    return weight, target.mean() - feature.mean(axis=0) @ weight


@pytest.mark.parametrize("n, channels", [(60, 8), (20, 50)])
def test_ridge_solves_the_normal_equations(n, channels):
    feature, target = problem(n, channels)
    weight, intercept, penalty = ridge(feature, target)
    expected = solved(feature, target, penalty)
    assert np.allclose(weight, expected[0]) and intercept == pytest.approx(expected[1])


@pytest.mark.parametrize("noise", [0.1, 20.0])
def test_the_penalty_has_the_smallest_error_on_pictures_left_out(noise):
    feature, target = problem(25, 8, noise)

    def left_out(penalty: float) -> float:
        errors = []
        for i in range(len(target)):
            keep = np.arange(len(target)) != i
            weight, intercept = solved(feature[keep], target[keep], penalty)
            errors.append((target[i] - intercept - feature[i] @ weight) ** 2)
        return np.mean(errors)

    errors = [left_out(penalty) for penalty in PENALTIES]
    assert ridge(feature, target)[2] == pytest.approx(PENALTIES[int(np.argmin(errors))])


@pytest.mark.parametrize("stages", [None, (1, 3)])
def test_the_score_head_starts_at_the_regression_on_standardised_features(stages):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QualityModel(pretrained=False, crop_size=32, stages=stages).eval()
    crops = torch.randint(0, 256, (12, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    target = torch.randn(12, generator=generator)
    penalty = start_from_probe(model, crops.split(5), target, nullcontext)
    out = model(crops.flatten(0, 1))
    assert torch.allclose(out.feature.mean(0), torch.zeros_like(out.feature[0]), atol=1e-3)
    spread = out.feature.std(0)
    assert torch.allclose(spread[spread > 0.5], torch.ones(()), atol=1e-2) and (spread > 0.5).float().mean() > 0.5
    weight, intercept, again = ridge(
        out.feature.detach().view(12, 2, -1).mean(1).double().numpy(), target.double().numpy()
    )
    assert again == pytest.approx(penalty)
    of_image = out.score.detach().view(12, 2).mean(1).double().numpy()
    predicted = out.feature.detach().view(12, 2, -1).mean(1).double().numpy() @ weight + intercept
    assert of_image == pytest.approx(predicted, abs=1e-3)


def test_a_channel_that_was_silent_does_not_shout_when_it_wakes_up():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QualityModel(pretrained=False, crop_size=32).eval()
    crops = torch.full((6, 2, 3, 32, 32), 100, dtype=torch.uint8)  # every channel is the same everywhere
    crops[0] += 1
    start_from_probe(model, [crops], torch.linspace(-1, 1, 6), nullcontext)
    assert model.feature_std.min() >= 1e-3
    other = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert model(other).feature.abs().max() < 1e3


def test_the_probe_fits_better_than_a_random_head_and_is_repeatable():
    generator = torch.Generator().manual_seed(1)
    light = torch.linspace(20, 230, 16)
    crops = (light[:, None, None, None, None] + 10 * torch.randn(16, 2, 3, 32, 32, generator=generator)).clamp(0, 255)
    crops, target = crops.to(torch.uint8), (light - light.mean()) / light.std()
    heads = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = QualityModel(pretrained=False, crop_size=32).eval()
        before = (model(crops.flatten(0, 1)).score.view(16, 2).mean(1) - target).square().mean()
        start_from_probe(model, crops.split(8), target, nullcontext)
        after = (model(crops.flatten(0, 1)).score.view(16, 2).mean(1) - target).square().mean()
        assert after < 0.5 * before
        heads.append(model.score_head.weight.detach().clone())
    assert torch.equal(*heads)

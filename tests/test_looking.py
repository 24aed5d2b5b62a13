"""What a model sees through the fixed test crops, with a model whose answers are known."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmcl_core import CropSampler, crop_saliency
from lmcl_core.crops import resize_crop
from lmcl_core.looking import look, look_at_all
from lmcl_core.model import ModelOutput


class Brightness(nn.Module):
    """Scores the mean of a crop, looks at bright cells, and counts its calls."""

    calls = 0

    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 8, 8)
        self.calls += 1
        x = images.float()
        heat = F.adaptive_avg_pool2d(x.mean(1), 4) + 1
        feature = x.mean((2, 3))
        return ModelOutput(feature.mean(1), F.normalize(feature, dim=1), heat / heat.sum((1, 2), keepdim=True), feature)


def photographs():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8)
        for h, w in [(20, 30), (8, 8), (5, 40), (33, 9), (64, 64), (20, 30), (8, 9)]
    ]


def seen(pictures, crops=5):
    return look(Brightness(), pictures, CropSampler(8), crops, torch.device("cpu"), nullcontext)


@pytest.mark.parametrize("crops", [1, 2, 5, 9])
def test_the_score_is_the_saliency_weighted_mean_of_the_crops(crops):
    result = seen(photographs(), crops)
    assert result.score.shape == (7,) and result.crop_scores.shape == result.weights.shape == (7, crops)
    assert result.boxes.shape == (7, crops, 4) and result.feature.shape == (7, crops, 3)
    assert result.saliency.shape == (7, 4, 4)
    torch.testing.assert_close(result.weights.sum(1), torch.ones(7))
    for i in range(7):
        mean = sum(w * s for w, s in zip(result.weights[i].tolist(), result.crop_scores[i].tolist()))
        assert result.score[i].item() == pytest.approx(mean, rel=1e-5)


def test_crops_scores_weights_and_boxes_belong_together():
    pictures, model, sampler = photographs(), Brightness(), CropSampler(8)
    result = seen(pictures)
    for i, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        assert torch.equal(result.boxes[i], sampler.grid(height, width, 5))
        whole = model(resize_crop(picture, 8).permute(2, 0, 1)[None]).saliency
        torch.testing.assert_close(result.saliency[i], whole[0])
        density = crop_saliency(whole, result.boxes[i : i + 1], torch.tensor([height]), torch.tensor([width]))[0]
        torch.testing.assert_close(result.weights[i], density / density.sum())
        for k, (top, left, tall, wide) in enumerate(result.boxes[i].tolist()):
            out = model(resize_crop(picture[top : top + tall, left : left + wide], 8).permute(2, 0, 1)[None])
            assert result.crop_scores[i, k].item() == pytest.approx(out.score.item(), rel=1e-5)
            torch.testing.assert_close(result.feature[i, k], out.feature[0])


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 50])
def test_what_is_seen_does_not_depend_on_the_batch_size(batch):
    model, pictures = Brightness(), photographs()
    looks = list(look_at_all(model, iter(pictures), CropSampler(8), 5, torch.device("cpu"), nullcontext, batch))
    assert len(looks) == math.ceil(7 / batch) == model.calls / 2 and max(len(x.score) for x in looks) == min(batch, 7)
    for together, apart in zip(seen(pictures), zip(*looks)):
        torch.testing.assert_close(torch.cat(apart), together, atol=1e-5, rtol=1e-5)


def test_no_pictures_give_nothing():
    assert list(look_at_all(Brightness(), [], CropSampler(8), 5, torch.device("cpu"), nullcontext)) == []


def test_the_forward_pass_runs_in_the_given_precision_and_without_gradients():
    class Precise(Brightness):
        def forward(self, images):
            assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
            return ModelOutput(*(x.bfloat16() for x in super().forward(images)))

    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    result = look(Precise(), photographs(), CropSampler(8), 2, torch.device("cpu"), autocast)
    assert all(x.dtype == torch.float32 for name, x in result._asdict().items() if name != "boxes")
    assert result.boxes.dtype == torch.int64


def test_a_map_that_no_crop_covers_still_gives_a_finite_score():
    class Elsewhere(Brightness):
        def forward(self, images):
            out = super().forward(images)
            heat = torch.zeros(len(images), 9, 9)
            heat[:, 4, 4] = 1
            return out._replace(saliency=heat)

    result = look(Elsewhere(), photographs()[4:5], CropSampler(8), 2, torch.device("cpu"), nullcontext)
    assert torch.isfinite(result.score).all() and result.weights.sum().item() == pytest.approx(1)

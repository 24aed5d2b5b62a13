"""Inference: predictions over the fixed test crops, and scores of any image in MOS units."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from golden import golden_images
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from lmcl_core import CropSampler, InputError, QualityModel, Recipe, Scorer, Split, crop_saliency, load
from lmcl_core.data.images import load_rgb, resize_crop
from lmcl_core.inference import Prediction, predict_images
from lmcl_core.model import ModelOutput
from lmcl_core.runs.model_file import BUNDLED, pack, save_model

MEAN, STD = 55.0, 12.0
ABOUT = dict(mos_mean=MEAN, mos_std=STD, largest_short_side=100)
RECIPE = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")
SMALL = Recipe(crop_size=8, test_crops=5, scales=(1.0,), precision="32-true")


class Brightness(nn.Module):
    """Its score is the mean of a crop, its saliency the brightness; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.calls = 0

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


def predict(images, model=None, **changes) -> Prediction:
    recipe = replace(SMALL, **changes)
    return Prediction.concatenate(predict_images(model or Brightness(), images, recipe, batch_size=len(images)))


@pytest.mark.parametrize("crops", [1, 2, 9])
def test_the_score_is_the_saliency_weighted_mean_of_the_crops(crops):
    result = predict(photographs(), test_crops=crops)
    assert result.score.shape == (7,) and result.crop_scores.shape == result.weights.shape == (7, crops)
    assert result.boxes.shape == (7, crops, 4) and result.feature.shape == (7, crops, 3)
    assert result.saliency.shape == (7, 4, 4)
    torch.testing.assert_close(result.weights.sum(1), torch.ones(7))
    for i in range(7):
        mean = sum(w * s for w, s in zip(result.weights[i].tolist(), result.crop_scores[i].tolist()))
        assert result.score[i].item() == pytest.approx(mean, rel=1e-5)


def test_crops_scores_weights_and_boxes_belong_together():
    images, model, sampler = photographs(), Brightness(), CropSampler(8)
    result = predict(images)
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        assert torch.equal(result.boxes[i], sampler.grid(height, width, 5))
        whole = model(resize_crop(image, 8).permute(2, 0, 1)[None]).saliency
        torch.testing.assert_close(result.saliency[i], whole[0])
        density = crop_saliency(whole, result.boxes[i : i + 1], torch.tensor([height]), torch.tensor([width]))[0]
        torch.testing.assert_close(result.weights[i], density / density.sum())
        for k, (top, left, tall, wide) in enumerate(result.boxes[i].tolist()):
            out = model(resize_crop(image[top : top + tall, left : left + wide], 8).permute(2, 0, 1)[None])
            assert result.crop_scores[i, k].item() == pytest.approx(out.score.item(), rel=1e-5)
            torch.testing.assert_close(result.feature[i, k], out.feature[0])


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_predictions_do_not_depend_on_the_batch_size(batch):
    model, images = Brightness(), photographs()
    parts = list(predict_images(model, iter(images), SMALL, batch))
    assert len(parts) == math.ceil(7 / batch) == model.calls / 2 and max(len(x.score) for x in parts) == min(batch, 7)
    for together, joined in zip(predict(images), Prediction.concatenate(parts)):
        torch.testing.assert_close(joined, together, atol=1e-5, rtol=1e-5)
    for together, joined in zip(predict(images), Prediction.concatenate(Prediction.concatenate(parts).split())):
        torch.testing.assert_close(joined, together, atol=1e-5, rtol=1e-5)


def test_the_forward_pass_runs_in_the_recipe_s_precision_and_without_gradients(monkeypatch):
    class Precise(Brightness):
        def forward(self, images):
            assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
            return ModelOutput(*(x.bfloat16() for x in super().forward(images)))

    monkeypatch.setattr("lmcl_core.common.devices.computes_in_bfloat16", lambda device: True)
    result = predict(photographs(), Precise(), precision="bf16-mixed")
    assert all(x.dtype == torch.float32 for name, x in result._asdict().items() if name != "boxes")
    assert result.boxes.dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_gives_the_golden_scores(name):
    """In float32 on any machine to 1e-4 MOS: other weights, another resize or another grid are noticed."""
    scorer = load(name)
    scorer.recipe = replace(scorer.recipe, precision="32-true")
    golden = Path(__file__).parent / "fixtures" / f"golden_{name}.csv"
    expected = {row["image"]: float(row["score"]) for row in csv.DictReader(golden.open())}
    images = golden_images()
    assert scorer.score(list(images.values()))["score"].tolist() == pytest.approx(
        [expected[name] for name in images], abs=1e-4
    )


def resized(pixels: torch.Tensor, size: int, how: Image.Resampling) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.fromarray(pixels.numpy()).resize((size, size), how)))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["another resize", "another grid", "another shrinking", "other weights"])
def test_the_golden_scores_notice_a_change(monkeypatch, change):
    scorer = load("livec")
    scorer.recipe = replace(scorer.recipe, precision="32-true")
    name = "scene_large" if change == "another shrinking" else "scene"
    golden = Path(__file__).parent / "fixtures" / "golden_livec.csv"
    expected = next(float(row["score"]) for row in csv.DictReader(golden.open()) if row["image"] == name)
    image = golden_images()[name]
    assert scorer.score(image)["score"].item() == pytest.approx(expected, abs=1e-4)
    other = Image.Resampling.LANCZOS
    if change == "another resize":
        monkeypatch.setattr("lmcl_core.inference.resize_crop", lambda pixels, size: resized(pixels, size, other))
    elif change == "another grid":
        scorer.recipe = replace(scorer.recipe, test_crops=8)
    elif change == "another shrinking":
        monkeypatch.setattr("lmcl_core.data.images._resized", lambda image, *size: image.resize(size[::-1], other))
    else:
        with torch.no_grad():
            next(scorer.model.parameters()).mul_(1.001)
    assert abs(scorer.score(image)["score"].item() - expected) > 2e-4


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    table = pd.DataFrame({"mos": np.arange(0, 101, dtype=float)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    return table


@pytest.fixture(scope="module")
def model() -> QualityModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return QualityModel(pretrained=False, crop_size=32).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, table) -> Path:
    folder = tmp_path_factory.mktemp("run")
    split = Split(np.arange(0, 81), np.array([], dtype=int), np.arange(81, 101), 0)
    save_model(folder / "model.safetensors", model, RECIPE.to_dict(), table, split, **ABOUT)
    return folder


@pytest.fixture(scope="module")
def scorer(run) -> Scorer:
    with torch.random.fork_rng(devices=[]):
        return load(run)


def noise(height: int = 90, width: int = 80, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def score_of(scorer: Scorer, item) -> float:
    return scorer.score([item])["score"].item()


def test_a_loaded_model_gives_the_scores_of_the_saved_one_bit_for_bit(run, scorer, model):
    about = json.loads(json.dumps(scorer.about))
    original = Scorer(model, RECIPE, about, torch.device("cpu"))
    images = [noise(90, 80, 3), noise(64, 64, 3, seed=1)]
    scores = scorer.score(images)
    assert scores.equals(original.score(images)) and len(scorer.score([])) == 0
    assert list(scorer.score([]).columns) == ["image", "score", "percentile"]
    raw = torch.cat([part.score for part in scorer.predict(map(scorer.prepare, images))]).double().numpy()
    assert scores["score"].to_numpy() == pytest.approx(MEAN + STD * raw)
    assert scorer.about["mos_percentiles"] == pytest.approx(np.linspace(0, 80, 101)), "of the training part alone"
    before = torch.random.get_rng_state()
    assert score_of(load(str(run / "model.safetensors")), images[0]) == scores["score"][0]
    assert torch.equal(before, torch.random.get_rng_state())


def test_one_row_an_input_in_the_order_given(scorer, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(70, 70, 3)).save(path)
    found = scorer.score([noise(80, 80, 3, seed=3), path, Image.fromarray(noise(90, 90, 3, seed=4)), str(path)])
    assert list(found.columns) == ["image", "score", "percentile"]
    assert list(found["image"]) == ["0", str(path), "2", str(path)] and list(found.index) == [0, 1, 2, 3]
    assert found["score"][1] == found["score"][3] and found["score"].nunique() == 3
    for item in (path, str(path), Image.open(path), noise(70, 70, 3)):  # one image may stand without a list
        assert scorer.score(item)["score"].tolist() == pytest.approx([found["score"][1]])
    for inputs, options, message in (
        ([noise(), tmp_path / "no.png"], {}, r"missing image .*no\.png"),
        (3, {}, "cannot read int: pass a path"),
        ([None], {}, "cannot read NoneType: pass a path"),
        ([noise()], dict(batch_size=0), "batch_size is 0: it must be a whole number in 1..65536"),
    ):
        with pytest.raises(InputError, match=message):
            scorer.score(inputs, **options)


def test_an_explanation_adds_up_to_the_score_and_holds_the_embedding_of_every_crop(scorer, model):
    image = noise(150, 120, 3)  # larger than the model's largest short side
    found, row = scorer.explain(image), scorer.score(image).iloc[0]
    assert found.pixels.shape == (125, 100, 3) and (found.score, found.percentile) == (row["score"], row["percentile"])
    assert (found.weights * found.crop_scores).sum() == pytest.approx(found.score, rel=1e-5)
    for k, (top, left, height, width) in enumerate(found.boxes):
        crop = torch.from_numpy(found.pixels[top : top + height, left : left + width])
        out = model(resize_crop(crop, 32).permute(2, 0, 1)[None])
        np.testing.assert_allclose(found.embedding[k], out.embedding[0].detach(), atol=1e-5)
        np.testing.assert_allclose(found.feature[k], out.feature[0].detach(), atol=1e-5)
    assert found.saliency.sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (3000, 20), (31, 33)])
def test_an_image_of_any_size_gets_a_finite_score(scorer, height, width):
    found = scorer.score(noise(height, width, 3))
    assert np.isfinite(found[["score", "percentile"]].to_numpy()).all()


@pytest.mark.parametrize("mean, percentile", [(-5.0, 0), (20.0, 25), (80.0, 100), (300.0, 100)])
def test_the_percentile_is_the_share_of_training_images_below(scorer, mean, percentile):
    same_for_all = Scorer(scorer.model, RECIPE, {**scorer.about, "mos_mean": mean, "mos_std": 0.0}, torch.device("cpu"))
    assert same_for_all.score(noise())["percentile"].item() == pytest.approx(percentile)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state, about: (state.pop("score_head.weight"), about),
        lambda state, about: (state.update({"score_head.weight": torch.zeros(1, 3)}), about),
        lambda state, about: about["recipe"].update(epoch=3),
        lambda state, about: about.update(recipe=7),
        lambda state, about: [state.pop(key) for key in list(state) if key.startswith("embedding_head.")],
    ],
    ids=["a tensor missing", "another shape", "unknown recipe field", "a recipe that is a number", "not packed"],
)
def test_weights_that_do_not_fit_this_version_are_refused_by_name_in_two_lines(run, scorer, tmp_path, spoil):
    state, about = load_file(run / "model.safetensors"), json.loads(json.dumps(scorer.about))
    spoil(state, about)
    save_file(state, tmp_path / "model.safetensors", metadata={"lmcl": json.dumps(about)})
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError) as caught:
        load(tmp_path / "model.safetensors")
    assert str(tmp_path / "model.safetensors") in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_images_larger_than_those_of_the_training_benchmark_are_brought_to_their_size(scorer):
    assert scorer.short_side == 100
    large = noise(300, 240, 3)
    assert score_of(scorer, large) == score_of(scorer, load_rgb(large, 100).numpy())
    small = torch.from_numpy(noise(100, 240, 3))
    assert score_of(scorer, small.numpy()) == pytest.approx(MEAN + STD * next(scorer.predict([small])).score.item())


def test_packed_weights_take_less_than_half_the_room_and_score_alike(run, scorer, tmp_path):
    pack(run, tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").stat().st_size < 0.5 * (run / "model.safetensors").stat().st_size
    loaded = load(tmp_path / "packed.safetensors")
    assert all(value.dtype != torch.float16 for value in loaded.model.state_dict().values())
    image = noise(90, 80, 3)
    assert score_of(loaded, image) == pytest.approx(score_of(scorer, image), abs=0.01 * STD)
    assert loaded.about == {**scorer.about, "packed": True} and loaded.explain(image).embedding is None

"""The model as a metric: pyiqa's calling convention, with and without pyiqa."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, QualityModel, Recipe, Split, load
from lmcl_core.metric import QualityMetric, register
from lmcl_core.model_file import save_model

RECIPE = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    import pandas as pd

    table = pd.DataFrame({"mos": np.arange(0, 101, dtype=float)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QualityModel(pretrained=False, crop_size=32).eval()
    split = Split(np.arange(0, 81), np.array([], dtype=int), np.arange(81, 101), 0)
    save_model(path, model, RECIPE, table, split, mos_mean=55.0, mos_std=12.0, largest_short_side=120)
    return str(path)


@pytest.fixture(scope="module")
def metric(weights) -> QualityMetric:
    return QualityMetric(weights, "cpu")


def images(n: int = 2, channels: int = 3, height: int = 70, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def test_it_says_what_pyiqa_asks_of_a_metric(metric):
    assert (metric.metric_mode, metric.lower_better) == ("NR", False)
    assert (metric.metric_name, metric.score_range) == ("lmcl-livec", "0, 100")


def test_a_batch_of_tensors_scores_like_the_same_pixels(metric, weights):
    pixels = images()
    scores = metric(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert scores.shape == (2,) and scores.dtype == torch.float32 and not scores.requires_grad
    assert np.allclose(scores.numpy(), load(weights).score(list(pixels))["score"], atol=1e-3)
    assert scores[0] != scores[1]


def test_grey_images_score_like_their_rgb(metric):
    grey = torch.from_numpy(images(channels=1)).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(metric(grey), metric(grey.expand(-1, 3, -1, -1)))


def test_a_path_and_a_reference_are_taken(metric, tmp_path):
    pixels = images(1)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    as_tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(metric(tmp_path / "a.png"), metric(as_tensor, as_tensor))


@pytest.mark.parametrize(
    "target, what",
    [
        (torch.zeros(3, 40, 40), r"\(3, 40, 40\)"),
        (torch.zeros(1, 4, 40, 40), r"\(1, 4, 40, 40\)"),
        (torch.zeros(0, 3, 40, 40), r"\(0, 3, 40, 40\)"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 40, 40), 2.0), "0..1"),
        (torch.full((1, 3, 40, 40), float("nan")), "0..1"),
        (np.zeros((1, 3, 40, 40)), "ndarray"),
    ],
)
def test_what_is_no_image_is_refused(metric, target, what):
    with pytest.raises(InputError, match=what):
        metric(target)


def test_images_may_be_half_and_weights_may_not(weights):
    own = QualityMetric(weights, "cpu")
    shown = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(own(shown.half()), own(shown)) and own(shown.half()).dtype == torch.float32
    with pytest.raises(InputError, match="weights are torch.float16, they must be float32"):
        own.half()(shown)


def test_it_does_not_learn_inside_a_module_that_is_trained(metric):
    target = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    before, buffers = metric(target), {key: value.clone() for key, value in metric.net.named_buffers()}
    torch.nn.Sequential(metric).train()
    assert torch.equal(metric(target), before)
    assert all(torch.equal(value, buffers[key]) for key, value in metric.net.named_buffers())


def test_registering_puts_it_where_pyiqa_looks(weights, metric, monkeypatch, tmp_path):
    class Registry(dict):
        def register(self, made):
            self[made.__name__] = made

    names = ["pyiqa", "pyiqa.default_model_configs", "pyiqa.utils", "pyiqa.utils.registry"]
    modules = {name: types.ModuleType(name) for name in names}
    modules["pyiqa.default_model_configs"].DEFAULT_CONFIGS = configs = {}
    modules["pyiqa.utils.registry"].ARCH_REGISTRY = registry = Registry()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "livec").mkdir()  # a folder of that name is not the bundled model
    register("livec", "bundled")
    assert configs["bundled"]["metric_opts"]["weights"] == "livec"
    assert register(weights) == "lmcl-livec" and register(weights, "mine") == "mine"
    options = dict(configs["mine"]["metric_opts"])
    assert configs["mine"]["metric_mode"] == "NR" and configs["mine"]["score_range"] == "0, 100"
    made = registry[options.pop("type")](**options, device="cpu")
    target = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(made(target), metric(target))


def test_without_pyiqa_registering_says_what_to_install(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(InputError, match="pip install pyiqa"):
        register(weights)


@pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="pyiqa is not installed")
def test_pyiqa_makes_the_metric_by_its_name(weights, metric):
    import pyiqa

    made = pyiqa.create_metric(register(weights), device=torch.device("cpu"))
    target = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    assert made.lower_better is False and made.score_range == "0, 100"
    assert torch.allclose(made(target), metric(target))

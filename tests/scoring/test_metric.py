"""A model as a pyiqa metric, with and without pyiqa installed."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, load
from lmcl_core.scoring.metric import QualityMetric, register


@pytest.fixture(scope="module")
def metric(weights) -> QualityMetric:
    return QualityMetric(weights, "cpu")


def images(n: int = 2, channels: int = 3, height: int = 70, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def test_float_tensors_paths_and_grey_images_get_the_scores_of_the_same_pixels(metric, weights, tmp_path):
    pixels = images()
    scores = metric(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert scores.shape == (2,) and scores.dtype == torch.float32 and not scores.requires_grad
    assert np.allclose(scores.numpy(), load(weights).score(list(pixels))["score"], atol=1e-3)
    assert scores[0] != scores[1]
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    assert torch.allclose(metric(tmp_path / "a.png"), scores[:1])
    grey = torch.from_numpy(images(channels=1)).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(metric(grey), metric(grey.expand(-1, 3, -1, -1), grey)), "a reference is ignored"


def test_a_wrong_shape_dtype_or_range_is_refused(metric):
    for target, what in [(torch.zeros(3, 40, 40), r"\(3, 40, 40\)"), (torch.full((1, 3, 40, 40), 2.0), "0..1")]:
        with pytest.raises(InputError, match=what):
            metric(target)


def test_images_may_be_float16_but_weights_must_be_float32(weights):
    own = QualityMetric(weights, "cpu")
    shown = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(own(shown.half()), own(shown)) and own(shown.half()).dtype == torch.float32
    with pytest.raises(InputError, match="weights are torch.float16: keep them in float32"):
        own.half()(shown)


def test_the_metric_stays_in_evaluation_mode_inside_a_module_in_training(metric):
    target = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    before, buffers = metric(target), {key: value.clone() for key, value in metric.net.named_buffers()}
    torch.nn.Sequential(metric).train()
    assert torch.equal(metric(target), before)
    assert all(torch.equal(value, buffers[key]) for key, value in metric.net.named_buffers())


@pytest.mark.slow
def test_register_adds_the_metric_to_the_registries_of_pyiqa(weights, metric, monkeypatch, tmp_path):
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
    (tmp_path / "livec").mkdir()  # the name means the bundled weights, not this folder
    register("livec", "bundled")
    assert configs["bundled"]["metric_opts"]["weights"] == "livec"
    assert register(weights) == metric.metric_name == "lmcl-livec" and register(weights, "mine") == "mine"
    options = dict(configs["mine"]["metric_opts"])
    assert configs["mine"]["metric_mode"] == "NR" and configs["mine"]["score_range"] == "0, 100"
    made = registry[options.pop("type")](**options, device="cpu")
    target = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(made(target), metric(target))


def test_register_without_pyiqa_names_the_package_to_install(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(InputError, match="pip install pyiqa"):
        register(weights)

"""A trained model as a pyiqa metric: float NCHW images in, one score per image out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.paths import resolve_path
from ..data.images import load_rgb
from ..inference import load
from ..runs.model_file import BUNDLED


class QualityMetric(nn.Module):
    """A trained model with the interface of the metrics that `pyiqa.create_metric` returns.

    `weights` and `device` are as in `load`. `metric_name` is "lmcl-" followed by the training benchmark. `score_range`
    is the range of that benchmark's MOS as text, such as "0, 100"; scores may lie slightly outside it.
    """

    metric_mode, lower_better = "NR", False

    def __init__(self, weights: str | Path = "general", device: str = "auto") -> None:
        super().__init__()
        self.scorer = load(weights, device)
        self.net = self.scorer.model
        low, high = self.scorer.about["mos_range"]
        self.metric_name, self.score_range = f"lmcl-{self.scorer.about['benchmark']}", f"{low:g}, {high:g}"

    def train(self, mode: bool = True) -> QualityMetric:
        """Stay in evaluation mode, also when the module that contains this metric is switched to training."""
        return super().train(False)

    def forward(self, target: Tensor | str | Path, ref: Tensor | None = None) -> Tensor:
        """(N,) float32 scores in MOS units, on the model's device; without gradient, as pixels are rounded to 8 bits.

        `target` is (N, 3, H, W) or grey (N, 1, H, W), floating point in 0..1, or the path of one image; `ref`, which
        pyiqa passes to every metric, is ignored. InputError: wrong shape, dtype or range, an image that cannot be read,
        or weights that are not float32.
        """
        if isinstance(target, (str, Path)):
            images = [self.scorer.prepare(target)]
        else:
            _check(target)
            pixels = (target.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
            images = [load_rgb(image, self.scorer.short_side) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        self.net.eval()  # a caller may have switched the inner module to training
        weight = next(self.net.parameters())
        if weight.dtype != torch.float32:
            raise InputError(f"the metric's weights are {weight.dtype}: keep them in float32; images may be half")
        self.scorer.device = weight.device  # `.to` moves the weights only
        scores = torch.cat([prediction.score for prediction in self.scorer.predict(images)])
        return torch.from_numpy(self.scorer.to_mos(scores)).float().to(weight.device)


def register(weights: str | Path = "general", name: str | None = None) -> str:
    """Register a model with pyiqa, so that ``pyiqa.create_metric(name)`` creates it, and return the name.

    `name` is by default the `metric_name` of `QualityMetric`; a metric that is registered under it is replaced.
    InputError: pyiqa is not installed, or `load` cannot load the weights.
    """
    try:
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
        from pyiqa.utils.registry import ARCH_REGISTRY
    except ImportError as error:
        raise InputError("pyiqa is not installed: run `pip install pyiqa`, or use QualityMetric without it") from error
    metric = QualityMetric(weights, "cpu")
    name = name or metric.metric_name
    if "QualityMetric" not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(QualityMetric)
    weights = weights if weights in BUNDLED else str(resolve_path(weights))
    DEFAULT_CONFIGS[name] = dict(metric_opts=dict(type="QualityMetric", weights=weights)) | {
        key: getattr(metric, key) for key in ("metric_mode", "lower_better", "score_range")
    }
    return name


def _check(target: Tensor) -> None:
    if not isinstance(target, Tensor) or target.ndim != 4 or target.shape[1] not in (1, 3) or 0 in target.shape:
        what = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise InputError(f"images are {what}: pass an (N, 3, H, W) or (N, 1, H, W) tensor")
    if not target.is_floating_point():
        raise InputError(f"images are {target.dtype}: pass floating point in 0..1; divide 8-bit values by 255")
    low, high = float(target.detach().min()), float(target.detach().max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise InputError(f"images hold values of {low:.3g} to {high:.3g}: they must lie in 0..1")

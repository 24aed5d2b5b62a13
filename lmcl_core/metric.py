"""The model where a metric of pyiqa is expected: float NCHW tensors in, one score an image out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import InputError
from .model_file import BUNDLED
from .paths import whole_path
from .scoring import Scorer, as_picture, load


class QualityMetric(nn.Module):
    """A trained model with the interface of `pyiqa.create_metric`'s results.

    Args:
        weights: as in `load`; bundled weights by default.
        device: where it works, as in `load`.

    Attributes:
        metric_name: "lmcl-" and the training benchmark.
        metric_mode: "NR", it needs no reference.
        lower_better: False.
        score_range: "low, high" of the training benchmark's MOS; predictions may leave it a little.
    """

    metric_mode, lower_better = "NR", False

    def __init__(self, weights: str | Path = "livec", device: str = "auto") -> None:
        super().__init__()
        self.scorer: Scorer = load(weights, device)
        self.net = self.scorer.model
        low, high = self.scorer.about["mos_range"]
        self.metric_name, self.score_range = f"lmcl-{self.scorer.about['benchmark']}", f"{low:g}, {high:g}"

    def train(self, mode: bool = True) -> QualityMetric:
        """Stay in evaluation mode, also inside a module that is trained: a metric does not learn."""
        return super().train(False)

    def forward(self, target: Tensor | str | Path, ref: Tensor | None = None) -> Tensor:
        """Score images; no gradient flows, since pixels are rounded to the 8 bits the model was trained on.

        Args:
            target: (N, 3, H, W) or grey (N, 1, H, W), floating point in 0..1; or the path of one picture.
            ref: not used; a metric without reference accepts it.

        Returns:
            (N,) float32 scores in MOS units, on the model's device.

        Raises:
            InputError: another shape or dtype, values outside 0..1, a file that cannot be read, or weights of
                another dtype than float32.
        """
        if isinstance(target, (str, Path)):
            shown = [as_picture(target, self.scorer.short_side)]
        else:
            _check(target)
            pixels = (target.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
            shown = [
                as_picture(picture, self.scorer.short_side) for picture in pixels.permute(0, 2, 3, 1).cpu().numpy()
            ]
        self.net.eval()  # whatever was done to it
        weight = next(self.net.parameters())
        if weight.dtype != torch.float32:
            raise InputError(
                f"the metric's weights are {weight.dtype}, they must be float32: make it anew; images may be of any "
                "floating-point type"
            )
        self.scorer.device = weight.device  # where `.to` may have moved it
        scores = torch.cat([seen.score for seen in self.scorer.looks(shown)])
        return torch.from_numpy(self.scorer.to_mos(scores)).float().to(self.scorer.device)


def register(weights: str | Path = "livec", name: str | None = None) -> str:
    """Make a model known to pyiqa, so that ``pyiqa.create_metric(name)`` gives it.

    Args:
        weights: as in `load`.
        name: what to call it; "lmcl-" and the training benchmark if None. An earlier one of that name is replaced.

    Returns:
        The name.

    Raises:
        InputError: pyiqa is not installed, or as `load`.
    """
    try:
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
        from pyiqa.utils.registry import ARCH_REGISTRY
    except ImportError as error:
        raise InputError("pyiqa is not installed: run `pip install pyiqa`, or use QualityMetric without it") from error
    metric = QualityMetric(weights, "cpu")
    name = name or metric.metric_name
    found = weights if weights in BUNDLED else str(whole_path(weights))
    if "QualityMetric" not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(QualityMetric)
    DEFAULT_CONFIGS[name] = dict(
        metric_opts=dict(type="QualityMetric", weights=found),
        metric_mode=metric.metric_mode,
        lower_better=metric.lower_better,
        score_range=metric.score_range,
    )
    return name


def _check(target: Tensor) -> None:
    if not isinstance(target, Tensor) or target.ndim != 4 or target.shape[1] not in (1, 3) or 0 in target.shape:
        what = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise InputError(f"images are {what}: they must be a (N, 3, H, W) or (N, 1, H, W) tensor")
    if not target.is_floating_point():
        raise InputError(f"images are {target.dtype}: they must be floating point in 0..1; divide 8-bit values by 255")
    low, high = float(target.detach().min()), float(target.detach().max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise InputError(f"images hold values of {low:.3g} to {high:.3g}: they must lie in 0..1")

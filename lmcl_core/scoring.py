"""Scores for any picture from a trained model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from .cpu import keep_freed_memory
from .crops import CropSampler
from .devices import resolve_device, usable_precision
from .errors import InputError
from .looking import Look, look_at_all
from .model import QualityModel
from .model_file import read_model
from .recipe import Recipe
from .pictures import open_picture, shrink, to_rgb


def load(weights: str | Path, device: str = "cpu") -> Scorer:
    """Load a trained model.

    Args:
        weights: a ``model.safetensors`` that `lmcl_core.train` wrote, the run folder it lies in, or the name of
            weights that come with the package, a key of `model_file.BUNDLED`.
        device: where it is to work: "auto", "cpu", "cuda" or "mps".

    Returns:
        The `Scorer`.

    Raises:
        InputError: no such file, or one that this package did not write.
    """
    path, state, about = read_model(weights)
    try:
        recipe = Recipe.from_dict(about["recipe"])
        with torch.random.fork_rng(devices=[]):
            model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size, recipe.stages)
        if about["packed"]:  # no score is read from the embedding head; it is left at zero
            own = model.state_dict().items()
            state |= {key: torch.zeros_like(value) for key, value in own if key.startswith("embedding_head.")}
        model.load_state_dict(state)
    except (InputError, RuntimeError, TypeError) as error:
        raise InputError(
            f"weights at {path} do not fit this version ({str(error).splitlines()[0]}): "
            "use the version that wrote them, or train again"
        ) from error
    return Scorer(model, recipe, about, torch.device(resolve_device(device)))


class Scorer:
    """Scores pictures of any size in the MOS units of the benchmark its model was trained on.

    Args:
        model: a trained `QualityModel`.
        recipe: its recipe.
        about: what `model_file.save_model` wrote: benchmark, mos_range, mos_mean, mos_std, mos_percentiles of the
            training part, largest_short_side, packed.
        device: where to work.
    """

    def __init__(self, model: QualityModel, recipe: Recipe, about: dict, device: torch.device) -> None:
        self.model = model.to(device, memory_format=torch.channels_last).eval()
        self.recipe, self.about, self.device = recipe, about, device
        if device.type == "cpu":
            keep_freed_memory()  # else every batch faults its activations in anew
        self.sampler = CropSampler(recipe.crop_size, recipe.crops, recipe.scales, recipe.flip)

    def score(
        self, inputs: Sequence[str | Path | Image.Image | np.ndarray] | str | Path, batch_size: int = 8
    ) -> pd.DataFrame:
        """Score pictures; the same picture always gets the same score on the same machine.

        Args:
            inputs: paths, PIL images of any mode, or uint8 arrays (H, W), (H, W, 3) or (H, W, 4); one or many.
            batch_size: pictures at a time.

        Returns:
            One row an input: image (its path, or its number), score (MOS units, higher is better), percentile
            (share of the training images with a lower MOS, 0..100).

        Raises:
            InputError: a picture that cannot be read; the message names it.
        """
        alone = isinstance(inputs, (str, Path, Image.Image, np.ndarray)) or not isinstance(inputs, Iterable)
        inputs = [inputs] if alone else list(inputs)
        scores = [seen.score for seen in self.looks(self._pictures(inputs), batch_size)]
        score = self.to_mos(torch.cat(scores)) if scores else np.empty(0)
        names = [str(item) if isinstance(item, (str, Path)) else str(n) for n, item in enumerate(inputs)]
        return pd.DataFrame(dict(image=names, score=score, percentile=self.percentile(score)))

    def to_mos(self, score: Tensor) -> np.ndarray:
        """Standardised scores of any shape in MOS units, as float64."""
        return self.about["mos_mean"] + self.about["mos_std"] * score.double().numpy()

    def percentile(self, score: np.ndarray) -> np.ndarray:
        """Share of the training images with a lower MOS, 0..100, for scores in MOS units."""
        return np.interp(score, self.about["mos_percentiles"], np.arange(101))

    @property
    def short_side(self) -> int:
        """Short side in pixels that larger pictures are brought to."""
        return min(self.recipe.short_side or self.about["largest_short_side"], self.about["largest_short_side"])

    def look(self, inputs: Sequence, batch_size: int = 8) -> list[Look]:
        """All that the model saw in the pictures, one `Look` a batch; arguments as `score`."""
        return self.look_at(self._pictures(inputs), batch_size)

    def look_at(self, pictures: Iterable[Tensor], batch_size: int = 8) -> list[Look]:
        """`look` for pictures that are already (H, W, 3) uint8 tensors, of the short side the recipe wants."""
        return list(self.looks(pictures, batch_size))

    def _pictures(self, inputs: Sequence) -> Iterator[Tensor]:
        return (as_picture(item, self.short_side) for item in inputs)

    def looks(self, pictures: Iterable[Tensor], batch_size: int = 8) -> Iterator[Look]:
        """`look_at`, one batch after another, so that no more than one need be held.

        Raises:
            InputError: batch_size is below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}: it must be at least 1")
        return look_at_all(
            self.model,
            pictures,
            self.sampler,
            self.recipe.test_crops,
            self.device,
            self._autocast,
            batch_size,
            self.recipe.view_size,
            self.recipe.saliency_pooling,
        )

    def _autocast(self):
        precision, device = self.recipe.precision, self.device.type
        if device == "cpu" and precision == "16-mixed":  # as GPUs train; a CPU has no convolutions of that type
            precision = "bf16-mixed"
        precision = usable_precision(device, precision)
        if precision == "32-true":
            return nullcontext()
        return torch.autocast(device, torch.float16 if precision == "16-mixed" else torch.bfloat16)


def as_picture(item: str | Path | Image.Image | np.ndarray, short_side: int | None = None) -> Tensor:
    """Any accepted input as a (H, W, 3) uint8 RGB tensor.

    Args:
        item: path, PIL image or uint8 array.
        short_side: as in `pictures.shrink`.

    Raises:
        InputError: it cannot be read as a picture.
    """
    if isinstance(item, (str, Path)):
        with open_picture(item) as picture:
            return _decoded(picture, item, short_side)
    if isinstance(item, Image.Image):
        return _decoded(item, getattr(item, "filename", None) or "image", short_side)
    if (
        isinstance(item, np.ndarray)
        and item.dtype == np.uint8
        and (item.ndim == 2 or item.ndim == 3 and item.shape[2] in (1, 2, 3, 4))
        and item.size
    ):
        colours = item[..., 0] if item.ndim == 3 and item.shape[2] < 3 else item  # grey; of two the second is alpha
        pixels = np.asarray(Image.fromarray(colours).convert("RGB"))
    else:
        what = f"{item.dtype} array {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise InputError(f"cannot score {what}: give a path, a PIL image or a uint8 array (H, W) or (H, W, 1 to 4)")
    return torch.from_numpy(shrink(pixels, short_side).copy())


def _decoded(picture: Image.Image, name: object, short_side: int | None) -> Tensor:
    """`as_picture` of a PIL image; of several threads one at a time works on a large one, which takes much memory."""
    with _ONE_AT_A_TIME if picture.width * picture.height > _LARGE else nullcontext():
        return torch.from_numpy(shrink(to_rgb(picture, name), short_side).copy())


_LARGE = 16_000_000  # pixels
_ONE_AT_A_TIME = threading.Lock()

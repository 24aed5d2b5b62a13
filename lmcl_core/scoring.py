"""A trained model as a file, and scores for any picture from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .splits import Split
from .cpu import keep_freed_memory
from .crops import CropSampler
from .devices import resolve_device
from .errors import InputError
from .evaluation import Look, look_at_all
from .model import QualityModel
from .recipe import Recipe
from .pictures import decode, shrink, to_rgb
from .store import replacing


#: Weights that come with the package, by name: trained as their model cards beside them say.
BUNDLED = {path.stem: path for path in sorted((Path(__file__).parent / "bundled").glob("*.safetensors"))}


def save_model(
    path: Path,
    model: nn.Module,
    recipe: Recipe,
    table: pd.DataFrame,
    split: Split,
    *,
    mos_mean: float,
    mos_std: float,
    largest_short_side: int,
    half: bool = False,
) -> None:
    """Write weights and what is needed to use them as one safetensors file.

    Args:
        path: the file.
        model: a `QualityModel`.
        recipe: how it was trained.
        table: the training benchmark.
        split: its training part gives the percentiles.
        mos_mean: mean MOS of the training part.
        mos_std: standard deviation of the same.
        largest_short_side: of the benchmark's pictures as the model sees them, in pixels; larger pictures are brought
            to it before they are scored, since nobody's opinion of larger ones was learnt.
        half: store float16, half the size; they are loaded as float32.

    Raises:
        RunError: it cannot be saved.
    """
    quantiles = np.percentile(table["mos"].to_numpy()[split.train], np.arange(101)).round(6).tolist()
    about = dict(
        recipe=recipe.to_dict(),
        benchmark=table.attrs["benchmark"],
        mos_range=list(table.attrs["mos_range"]),
        mos_mean=mos_mean,
        mos_std=mos_std,
        mos_percentiles=quantiles,
        largest_short_side=largest_short_side,
    )
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if half:
        state = {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={"lmcl": json.dumps(about)})
        except SafetensorError as error:  # the writer is not Python's, so a full disk comes without its errno
            raise OSError(28, str(error)) from error


def load(weights: str | Path, device: str = "cpu") -> Scorer:
    """Load a trained model.

    Args:
        weights: a ``model.safetensors`` that `lmcl_core.train` wrote, the run folder it lies in, or the name of
            weights that come with the package, a key of `BUNDLED`.
        device: where it is to work: "auto", "cpu", "cuda" or "mps".

    Returns:
        The `Scorer`.

    Raises:
        InputError: no such file, or one that this package did not write.
    """
    path = BUNDLED.get(str(weights), Path(weights))
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"no weights at {path}: name a model.safetensors of a finished run, its folder, "
            f"or bundled weights ({', '.join(BUNDLED) or 'there are none'})"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("lmcl", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"weights at {path} are damaged ({error}): train or fetch them again") from error
    if about is None:
        raise InputError(f"{path} was not written by lmcl_core: it lacks the recipe; name a run's model.safetensors")
    needed = {"recipe", "benchmark", "mos_range", "mos_mean", "mos_std", "mos_percentiles", "largest_short_side"}
    missing = needed - set(about)
    if missing:
        raise InputError(f"weights at {path} lack {', '.join(sorted(missing))}: train or fetch them again")
    try:
        recipe = Recipe.from_dict(about["recipe"])
        with torch.random.fork_rng(devices=[]):
            model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size, recipe.stages)
        model.load_state_dict(state)
    except (InputError, RuntimeError) as error:
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
        about: what `save_model` wrote: benchmark, mos_range, mos_mean, mos_std, mos_percentiles of the training part,
            largest_short_side.
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
            (share of the training benchmark's pictures with a lower MOS, 0..100).

        Raises:
            InputError: a picture that cannot be read; the message names it.
        """
        inputs = [inputs] if isinstance(inputs, (str, Path, Image.Image, np.ndarray)) else list(inputs)
        scores = [seen.score for seen in self.looks(self._pictures(inputs), batch_size)]
        score = self.to_mos(torch.cat(scores)) if scores else np.empty(0)
        names = [str(item) if isinstance(item, (str, Path)) else str(n) for n, item in enumerate(inputs)]
        return pd.DataFrame(dict(image=names, score=score, percentile=self.percentile(score)))

    def to_mos(self, score: Tensor) -> np.ndarray:
        """Standardised scores of any shape in MOS units, as float64."""
        return self.about["mos_mean"] + self.about["mos_std"] * score.double().numpy()

    def percentile(self, score: np.ndarray) -> np.ndarray:
        """Share of the training benchmark's pictures with a lower MOS, 0..100, for scores in MOS units."""
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
        """`look_at`, one batch after another, so that no more than one need be held."""
        return look_at_all(
            self.model,
            pictures,
            self.sampler,
            self.recipe.test_crops,
            self.device,
            self._autocast,
            batch_size,
            self.recipe.view_size,
        )

    def _autocast(self):
        if self.recipe.precision == "32-true":
            return nullcontext()
        half = torch.float16 if self.recipe.precision == "16-mixed" and self.device.type != "cpu" else torch.bfloat16
        return torch.autocast(self.device.type, half)


def as_picture(item: str | Path | Image.Image | np.ndarray, short_side: int | None = None) -> Tensor:
    """Any accepted input as a (H, W, 3) uint8 RGB tensor.

    Args:
        item: path, PIL image or uint8 array.
        short_side: as in `pictures.shrink`.

    Raises:
        InputError: it cannot be read as a picture.
    """
    if isinstance(item, (str, Path)):
        pixels = decode(item)
    elif isinstance(item, Image.Image):
        pixels = to_rgb(item, getattr(item, "filename", None) or "image")
    elif (
        isinstance(item, np.ndarray)
        and item.dtype == np.uint8
        and (item.ndim == 2 or item.ndim == 3 and item.shape[2] in (3, 4))
        and item.size
    ):
        pixels = np.asarray(Image.fromarray(item).convert("RGB"))
    else:
        what = f"{item.dtype} array {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise InputError(
            f"cannot score {what}: give a path, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4)"
        )
    return torch.from_numpy(shrink(pixels, short_side).copy())

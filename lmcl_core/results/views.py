"""What notebook 08 explores: crops and their losses, scores by distortion level, hard pairs. Each view is one figure.

Shapes: `K` crops of an image, `D` embedding size, `h w` token grid. Pictures are (H, W, 3) uint8 RGB arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.devices import autocast, resolve_device
from ..common.errors import InputError, unknown
from ..crops import CropSampler, crop_saliency, salient_crop
from ..data.distortions import ALL_DISTORTIONS, LEVELS
from ..data.store import ImageStore
from ..hard_examples import Features, closest_hard_pairs, distance_rank, hard_pairs, umap_coordinates
from ..inference import Explanation, Scorer, load
from ..losses import LocalManifoldContrastiveLoss
from ..model import QualityModel
from ..recipe import Recipe
from . import palette
from .features import features_of_run
from .figures import panels
from .palette import BLUE, DOUBLE, SCREEN_DPI, VERMILION

#: Reads the picture of a name.
Read = Callable[[str], np.ndarray]


class CropModel(NamedTuple):
    """A model with an embedding head, its recipe, and a line that says where it comes from."""

    model: QualityModel
    recipe: Recipe
    title: str


class CropView(NamedTuple):
    """Random crops of one picture, and the manifold loss of a batch that it is in."""

    boxes: np.ndarray  #: (K, 4) int64: top, left, height, width in pixels
    density: np.ndarray  #: (K,) saliency of each crop (notebook 02, equation 2)
    salient: int  #: index of the salient crop
    saliency: np.ndarray  #: (h, w) map of the whole picture, summing to 1
    similarity: np.ndarray  #: (K, K) cosine similarities of the embeddings
    terms: dict[str, float]  #: values of equations 4 to 6 by name, means over the batch

    def table(self) -> pd.DataFrame:
        """One row per crop: crop, top, left, side, density, salient, similarity (to the salient crop)."""
        (top, left, side, _), crop = self.boxes.T, np.arange(len(self.boxes))
        columns = dict(crop=crop, top=top, left=left, side=side, density=self.density, salient=crop == self.salient)
        return pd.DataFrame(columns | dict(similarity=self.similarity[:, self.salient]))


def crop_model(run: str | Path, recipe: Recipe, device: str = "cpu") -> CropModel:
    """The model of a finished run; if its folder has no model, a new one with ImageNet weights and the given recipe.

    InputError: packed weights, which have no embedding head, or damaged ones.
    """
    if not (Path(run) / "model.safetensors").is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = QualityModel(recipe.backbone, recipe.pretrained, recipe.embedding_dim, recipe.crop_size)
        title = "a new model: ImageNet weights, embedding head untrained"
        return CropModel(model.to(resolve_device(device)).eval(), recipe, title)
    scorer = load(run, device)
    if scorer.about["packed"]:
        raise InputError(f"weights at {run} are packed, without an embedding head: name the folder of a finished run")
    return CropModel(scorer.model, scorer.recipe, f"trained run {'/'.join(Path(run).resolve().parts[-3:])}")


@torch.no_grad()
def view_crops(
    model: CropModel, pictures: Sequence[np.ndarray], seed: int, crops: int, scales: Sequence[float]
) -> CropView:
    """Draw K = `crops` random crops of pictures and compute saliency, embeddings and the manifold loss.

    A run keeps only the student, so it stands for the teacher too: z = t in equations 4 to 6. `pictures` are the
    picture to view, then the others of the batch, whose crops are inter-image negatives. InputError: a number of crops
    or a scale that `CropSampler` refuses.
    """
    recipe, images = model.recipe, [torch.from_numpy(picture) for picture in pictures]
    sampler = CropSampler(recipe.crop_size, crops, scales)
    heights, widths = (torch.tensor([image.shape[axis] for image in images]) for axis in (0, 1))
    boxes = sampler.sample(heights, widths, torch.Generator().manual_seed(seed))  # (B, K, 4)
    store = ImageStore(torch.cat([image.flatten() for image in images]), heights, widths)
    rows = range(len(images))
    patches, views = store.crops(rows, boxes, sampler.size), store.whole(rows, recipe.view_side)
    device = model.model.mean.device
    with autocast(device, recipe.precision):
        of_crops, of_views = (model.model(pixels.to(device)) for pixels in (patches, views))
    z, saliency = of_crops.embedding.cpu().unflatten(0, (-1, crops)), of_views.saliency.cpu()  # (B, K, D), (B, h, w)
    density = crop_saliency(saliency, boxes, heights, widths)
    salient = salient_crop(density)
    losses = (LocalManifoldContrastiveLoss(recipe.temperature, recipe.intra_weight, v) for v in ("v1", "v2"))
    one, two = (loss(z, z, salient) for loss in losses)
    terms = {"inter-image (4)": one.inter, "intra-image (5)": one.intra, "v1, (4) + λ·(5)": one.total}
    terms = {name: float(value) for name, value in (terms | {"v2 (6)": two.total}).items()}
    similarity = (z[0] @ z[0].T).numpy()
    return CropView(boxes[0].numpy(), density[0].numpy(), int(salient[0]), saliency[0].numpy(), similarity, terms)


def draw_crops(picture: np.ndarray, view: CropView, title: str) -> Figure:
    """The crops on the picture, its saliency map, the similarity matrix and the loss terms of a `CropView`."""
    figure, (left, right, matrix, bars) = _panels(3.0, 4, 2, title)
    _photograph(left, picture, "number: density of a crop; orange: salient")
    labels = [f"{k}: {density:.2f}" for k, density in enumerate(view.density)]
    palette.draw_crops(left, view.boxes.tolist(), view.salient, labels)
    _overlay(right, picture, view.saliency)
    matrix.imshow(view.similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    numbers = range(len(view.boxes))
    for i, j in product(numbers, numbers) if len(numbers) <= 8 else ():  # more numbers would overlap
        text, dark = f"{view.similarity[i, j]:.2f}", abs(view.similarity[i, j]) > 0.6
        matrix.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    matrix.set_title("cosine similarity of embeddings")
    matrix.set(xticks=numbers, yticks=numbers, xlabel="crop")
    matrix.grid(False)
    drawn = bars.barh(list(view.terms), list(view.terms.values()), color=[BLUE, BLUE, VERMILION, VERMILION])
    bars.bar_label(drawn, fmt=" %.3f")
    bars.invert_yaxis()
    bars.margins(x=0.25)
    bars.set_title("manifold loss, by equation")
    return figure


def explain_levels(scorer: Scorer, picture: np.ndarray, distortion: str) -> list[Explanation]:
    """Explanations of the picture at levels 0 (undistorted) to 5 of a distortion; noise is the same at all levels.

    InputError: unknown distortion.
    """
    if distortion not in ALL_DISTORTIONS:
        raise unknown("distortion", distortion, ALL_DISTORTIONS)
    picture = scorer.prepare(picture).numpy()
    distort = ALL_DISTORTIONS[distortion]
    levels = [distort(picture, level, np.random.default_rng(0)) for level in range(LEVELS)]
    return [scorer.explain(pixels) for pixels in (picture, *levels)]


def draw_level(levels: Sequence[Explanation], distortion: str, level: int) -> Figure:
    """The distorted picture, its saliency and the curve of the score over the level; `levels` as `explain_levels`."""
    shown = levels[level]
    name = f"{distortion}, level {level}" if level else "undistorted"
    title = f"{name}: score {shown.score:.1f}, percentile {shown.percentile:.0f}"
    figure, (left, middle, curve) = _panels(2.7, 3, 3, title)
    _photograph(left, shown.pixels, "picture")
    _overlay(middle, shown.pixels, shown.saliency)
    scores = [one.score for one in levels]
    curve.plot(range(len(levels)), scores, color=BLUE, marker="o", ms=4)
    curve.scatter(level, shown.score, color=VERMILION, s=90, zorder=3)
    curve.set(xlabel=f"level of {distortion}", xticks=range(len(levels)))
    curve.set_title("score in MOS units")
    return figure


def feature_spaces(folders: Mapping[str, Path], table: pd.DataFrame, device: str = "cpu") -> dict[str, Features]:
    """Features of the test images of several finished runs of one split, by the names of their recipes.

    InputError: a run is missing; the message says how to make it.
    """
    if missing := [name for name, folder in folders.items() if not (folder / "run.json").is_file()]:
        raise InputError(
            f"hard pairs and UMAP need finished runs, but there is none of {' and '.join(missing)}: "
            "run notebook 04 on this benchmark, which trains them"
        )
    return {name: features_of_run(folder, table, device) for name, folder in folders.items()}


def mined_pairs(spaces: Mapping[str, Features], neighbours: int, gap: float, count: int) -> pd.DataFrame:
    """At most `count` closest hard pairs of each of the `feature_spaces`; `neighbours` and `gap` as in `hard_pairs`.

    Returns one row per pair: a, b (positions, a < b), mined (names of the spaces that it was found in), and rank_NAME
    of each space (percentage of all pairs that are closer). Empty if there is no hard pair.
    """
    found: dict[tuple[int, int], list[str]] = {}
    for name, features in spaces.items():
        for row in closest_hard_pairs(hard_pairs(features, neighbours, gap), count).itertuples():
            found.setdefault((min(row.a, row.b), max(row.a, row.b)), []).append(name)
    mined = pd.DataFrame(list(found), columns=["a", "b"], dtype=int)
    mined["mined"] = [" and ".join(names) for names in found.values()]
    for name, features in spaces.items():
        mined[f"rank_{name}"] = distance_rank(features.feature, mined["a"], mined["b"])
    return mined


def partners(features: Features, neighbours: int, gap: float) -> pd.DataFrame:
    """The partner of every image in a feature space: its closest hard pair, else its nearest neighbour.

    Returns n rows in the order of `features.image`: partner (name of an image) and hard (bool).
    """
    pairs = hard_pairs(features, neighbours, gap)
    both = pd.concat([pairs, pairs.rename(columns=dict(a="b", b="a"))])
    first = both.sort_values(["hard", "distance"], ascending=[False, True], kind="stable").drop_duplicates("a")
    first = first.set_index("a").loc[range(len(features.image))]
    return pd.DataFrame(dict(partner=features.image[first["b"]], hard=first["hard"].to_numpy(bool)))


def draw_pair(read: Read, spaces: Mapping[str, Features], pairs: pd.DataFrame, number: int) -> Figure:
    """Pair `number` (from 1) of `mined_pairs`, both pictures large, with labels, predictions and ranks."""
    row = pairs.iloc[number - 1]
    ranks = ", ".join(f"{name} {row[f'rank_{name}']:.2f} %" for name in spaces)
    title = f"pair {number} of {len(pairs)}, found in {row['mined']}\npairs that are closer: {ranks}"
    figure, axes = _panels(3.8, 2, 2, title)
    first = next(iter(spaces.values()))
    for axis, at in zip(axes, (row["a"], row["b"])):
        predicted = ", ".join(f"{features.pred[at]:.1f} ({name})" for name, features in spaces.items())
        _photograph(axis, read(first.image[at]), f"label {first.mos[at]:.1f}\npredicted {predicted}")
    return figure


def umap_table(spaces: Mapping[str, Features], neighbours: int, gap: float) -> pd.DataFrame:
    """UMAP coordinates and partners, for `draw_umap` and `explorers.umap_explorer`.

    Returns one row per space and image: recipe (name of the space), image, x, y, mos, partner, hard (see `partners`).
    """
    parts = []
    for name, features in spaces.items():
        x, y = umap_coordinates(features.feature).T
        one = pd.DataFrame(dict(recipe=name, image=features.image, x=x, y=y, mos=features.mos))
        parts.append(one.join(partners(features, neighbours, gap)))
    return pd.concat(parts, ignore_index=True)


def draw_umap(read: Read, data: pd.DataFrame, label: str) -> Figure:
    """UMAP panels in which an image and its partner in each space are marked; the image and its partners, large.

    The image is the first that is in a hard pair, or the first of all if there is none.
    `data` is from `umap_table`; `label` is the label of the MOS.
    """
    image = data.sort_values("hard", ascending=False, kind="stable")["image"].iloc[0]
    spaces = {name: part.set_index("image") for name, part in data.groupby("recipe", sort=False)}
    count = len(spaces)
    figure = Figure(figsize=(DOUBLE, 5.6), dpi=SCREEN_DPI, layout="constrained")
    figure.suptitle("an image and its partner in each space")
    grid = figure.add_gridspec(2, count * (count + 1), height_ratios=(3, 2))
    axes = [figure.add_subplot(grid[0, n * (count + 1) : (n + 1) * (count + 1)]) for n in range(count)]
    axes += [figure.add_subplot(grid[1, n * count : (n + 1) * count]) for n in range(count + 1)]
    mos = data.set_index("image")["mos"].groupby(level=0).first()
    shown = [(image, "the image")]
    for axis, (name, part) in zip(axes, spaces.items()):
        dots = axis.scatter(part["x"], part["y"], c=part["mos"], cmap="viridis", s=18)
        partner, hard = part.loc[image, ["partner", "hard"]]
        shown.append((partner, f"{'hard pair' if hard else 'nearest'}, {name}"))
        pair = part.loc[[image, partner]]
        axis.plot(pair["x"], pair["y"], color=VERMILION, marker="o", mfc="none", ms=11, mew=2)
        axis.set(title=name, xticks=[], yticks=[])
    for axis, (name, role) in zip(axes[count:], shown):
        _photograph(axis, read(name), f"{role}\nlabel {mos[name]:.1f}")
    figure.colorbar(dots, ax=axes[:count], label=label)
    return figure


def _panels(height: float, count: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """`figures.panels` over the width of a page, with a title, in the resolution of a screen."""
    figure, axes = panels(height, count, columns, DOUBLE)
    figure.set_dpi(SCREEN_DPI)
    figure.suptitle(title)
    return figure, axes


def _overlay(axes: Axes, picture: np.ndarray, saliency: np.ndarray) -> None:
    """Draw a saliency map over its picture."""
    _photograph(axes, picture, f"saliency, density up to {saliency.max() * saliency.size:.1f}")
    palette.draw_saliency(axes, saliency, *picture.shape[:2])


def _photograph(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.axis("off")
    axes.set_title(title)

"""Crops and saliency drawn over an image, for figures and for the overlays of ``lmcl score``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .palette import BLACK, TYPE, VERMILION


def draw_crops(axes: Axes, boxes: Sequence[Sequence[int]], salient: int, labels: Sequence[str] = ()) -> None:
    """Draw boxes (top, left, height, width) with labels, if any; the salient one has a thick vermilion frame."""
    for k, (top, left, height, width) in enumerate(boxes):
        color, line = (VERMILION, 2.4) if k == salient else ("white", 1.0)
        outline = [withStroke(linewidth=line + 1.2, foreground="white" if k == salient else BLACK)]
        frame = dict(fill=False, lw=line, ec=color, path_effects=outline, zorder=3 + (k == salient))
        axes.add_patch(Rectangle((left, top), width - 1, height - 1, **frame))
    for k, label in enumerate(labels):
        box = dict(fc=VERMILION if k == salient else BLACK, ec="none", pad=1)
        place = boxes[k][1] + 4, boxes[k][0] + 4
        axes.text(*place, label, color="white", va="top", fontsize=TYPE, bbox=box, zorder=5)


def draw_saliency(axes: Axes, saliency: np.ndarray, height: int, width: int, highest: float | None = None) -> AxesImage:
    """Draw a saliency map (h, w) over an image of that size, as density: a uniform map is 1 everywhere.

    `highest` is the end of the colour scale, by default the maximum.
    """
    style = dict(cmap="magma", alpha=0.6, interpolation="bilinear", vmin=0, vmax=highest)
    return axes.imshow(saliency * saliency.size, extent=(0, width, height, 0), **style)

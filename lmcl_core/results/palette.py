"""The look of all figures: sizes in print, resolution, type, colours, markers and dashes; crops and saliency on images.

The colours are those of Okabe and Ito (2008), which stay apart for readers with protanopia and deuteranopia. Lines and
groups also differ in marker and dash or hatch, so that no figure depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

SINGLE, DOUBLE = 3.3, 6.9  #: width of one column and of two columns of a page, in inches
DPI = 200  #: dots per inch of PNG files
SCREEN_DPI = 100  #: dots per inch in a notebook, which keeps it small
PHOTO_DPI = 72  #: dots per inch of photographs in a figure, which keeps its file small
TYPE = 9  #: size of all type, in points

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#6b6b6b"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)  #: of groups, in this order; grey is for context
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")

#: Style of the two runs that are compared in a figure, without and with a part of the method.
WITHOUT = dict(color=BLUE, marker="o", ls="--")
WITH = dict(color=VERMILION, marker="s", ls="-")
#: Style of what is ours, of the paper's claims and of other published results.
OURS, PAPER, OTHERS = dict(color=VERMILION, marker="D"), dict(color=BLUE, marker="s"), dict(color=GREY, marker="o")

_SIZES = dict.fromkeys(
    ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), TYPE
)
_LINES = {"lines.markersize": 4, "lines.linewidth": 1.4, "axes.linewidth": 0.8, "hatch.linewidth": 0.6}
_SHAPE = {"axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e6e8eb", "grid.linewidth": 0.6}
_TICKS = {"xtick.major.size": 0, "ytick.major.size": 0, "xtick.major.pad": 3, "ytick.major.pad": 3}
_LEGEND = {"legend.frameon": False, "legend.handlelength": 2.2, "legend.columnspacing": 1.2, "figure.titlesize": TYPE}


def use() -> None:
    """Make this look matplotlib's default."""
    import seaborn as sns

    sns.set_theme(style="whitegrid", rc=_SIZES | _LINES | _SHAPE | _TICKS | _LEGEND)


def group_styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and dash (color, marker, ls) by group; the combinations of up to 49 groups differ."""
    styles = {}
    for n, name in enumerate(names):
        shift = n // len(COLOURS)
        marker = MARKERS[(n + shift) % len(MARKERS)]
        styles[name] = dict(color=COLOURS[n % len(COLOURS)], marker=marker, ls=DASHES[(n + shift) % len(DASHES)])
    return styles


def legend_above(figure: Figure, handles: list, labels: list[str]) -> None:
    """Put a legend above all panels, in as many columns as fit; the figure grows by its height."""
    widest = 0.45 + 0.075 * max(map(len, labels))  # inches, of a marker and a label
    columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def finish(figure: Figure, axes: Axes, **options: object) -> Figure:
    """Set properties of the only panel of a figure, put its legend above it, and return the figure."""
    axes.set(**options)
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


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

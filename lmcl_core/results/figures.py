"""Figures of data, training and scores. Each is drawn from one tidy table, which is saved beside it.

A drawing function takes a DataFrame and returns a matplotlib ``Figure``; `save` writes NAME.csv, NAME.png and NAME.pdf.
Functions that write raise `RunError` if a file cannot be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..common.files import atomic_write

if TYPE_CHECKING:  # importing torch takes seconds, and most notebooks need only tables
    from torch import Tensor

BLUE, ORANGE, GREY = "#2f6db3", "#d9792b", "#8a8f98"
LEGEND_RIGHT = dict(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
sns.set_theme(
    context="notebook",
    style="whitegrid",
    font_scale=0.85,
    rc={"axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e6e8eb", "figure.dpi": 100},
)


def save(figure: Figure, data: pd.DataFrame, folder: str | Path, name: str, note: str = "") -> Figure:
    """Write a figure and the table it was drawn from, and return the figure to be shown.

    `name` is the file name without suffix; `note` is one line below the figure, such as the kind of the labels.
    """
    save_table(data, folder, name)
    if note:
        figure.text(0.0, -0.02, note, fontsize=7, color=GREY, va="top")
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with atomic_write(Path(folder) / f"{name}{suffix}") as path:
            figure.savefig(path, format=suffix[1:], dpi=figure.dpi, bbox_inches="tight", metadata=metadata)
    return figure


def save_table(data: pd.DataFrame, folder: str | Path, name: str) -> pd.DataFrame:
    """Write a table as NAME.csv with 6 significant digits, and return it to be shown."""
    with atomic_write(Path(folder) / f"{name}.csv") as path:
        data.to_csv(path, index=False, float_format="%.6g")
    return data


def save_text(text: str, folder: str | Path, name: str) -> None:
    """Write a text, such as a LaTeX table; `name` is the file name with suffix."""
    with atomic_write(Path(folder) / name) as path:
        path.write_text(text)


def panels(
    width: float, height: float, count: int = 1, columns: int = 5, extra: float = 0, **options: object
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `columns` in a row.

    `width` and `height` of a panel, and the `extra` width for a legend or colour bar, are in inches; `options` are
    those of `Figure.subplots`.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns + extra, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def mos_histogram(data: pd.DataFrame, label: str) -> Figure:
    """Distribution of the MOS of a benchmark; `data` has the column mos, `label` is the axis label of the MOS."""
    figure, [axes] = panels(5.2, 2.8)
    sns.histplot(data, x="mos", bins=30, color=BLUE, edgecolor="white", ax=axes)
    axes.axvline(data["mos"].median(), color=ORANGE, label=f"median {data['mos'].median():.1f}")
    axes.set(xlabel=label, ylabel="images", title=f"{len(data)} images")
    axes.legend(frameon=False)
    return figure


def mos_by_level(data: pd.DataFrame, label: str) -> Figure:
    """Mean MOS by level of each distortion; it should fall.

    `data` has the columns distortion, level, mos; `label` is the axis label of the MOS.
    """
    figure, [axes] = panels(5.2, 2.8)
    sns.lineplot(data.astype({"level": int}), x="level", y="mos", hue="distortion", marker="o", errorbar=None, ax=axes)
    axes.set(xlabel="level of distortion", ylabel=f"mean {label}", xticks=sorted(data["level"].unique()))
    axes.legend(**LEGEND_RIGHT)
    return figure


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, side: float = 1.5) -> Figure:
    """A grid of (H, W, 3) uint8 images with titles, `columns` in a row, each `side` inches wide."""
    figure, grid = panels(side, side + 0.28, len(images), columns)
    figure.set_dpi(72)
    for axes, image, title in zip(grid, images, titles):
        axes.imshow(image)
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    return figure


def crops_and_saliency(images: Sequence[np.ndarray], maps: Tensor, boxes: Tensor, density: Tensor) -> Figure:
    """Images with crops above, with saliency maps below. The frame of the salient crop is thick.

    Args:
        images: n (H, W, 3) uint8 arrays.
        maps: (n, h, w) saliency, each map summing to 1.
        boxes: (n, K, 4) boxes: top, left, height, width in pixels.
        density: (n, K) saliency density of the crops, from `crop_saliency`.
    """
    figure = Figure(figsize=(2.6 * len(images) + 0.7, 5.0), dpi=72, layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    maps = maps * maps[0].numel()  # densities: a uniform map is 1 everywhere
    style = dict(cmap="magma", alpha=0.6, interpolation="bilinear", vmin=0, vmax=maps.max().item())
    for n, image in enumerate(images):
        for axis in axes[:, n]:
            axis.imshow(image)
            axis.axis("off")
        height, width = image.shape[:2]
        drawn = axes[1, n].imshow(maps[n].numpy(), extent=(0, width, height, 0), **style)
        for k, (top, left, h, w) in enumerate(boxes[n].tolist()):
            is_salient = k == int(density[n].argmax())
            frame = dict(lw=3, ec=ORANGE) if is_salient else dict(lw=1.4, ec="white")
            axes[0, n].add_patch(Rectangle((left, top), w - 1, h - 1, fill=False, **frame))
            label = dict(fc=ORANGE if is_salient else "#444", ec="none", pad=1.2)
            text = f"{k}: {density[n, k]:.2f}"
            axes[0, n].text(left + 4, top + 4, text, color="white", va="top", fontsize=8, bbox=label)
    axes[0, 0].set_title("crop: density; orange = salient", loc="left", fontsize=9)
    axes[1, 0].set_title("saliency of the trained model", loc="left", fontsize=9)
    figure.colorbar(drawn, ax=list(axes.flat), label="density, 1 = uniform", shrink=0.4, anchor=(0, 0.1))
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms and test correlation by epoch, from ``history.csv`` of a run."""
    titles = {
        "total and quality loss": {"loss": "total", "quality": "quality"},
        "manifold loss, unweighted": {"inter": "inter-image", "intra": "intra-image"},
        "mutual learning, unweighted": {"mutual_score": "scores", "mutual_saliency": "saliency"},
        "agreement on test": {"test_srcc": "SRCC", "test_plcc": "PLCC"},
    }
    figure, row = panels(3, 2.8, len(titles))
    for axes, (title, lines) in zip(row, titles.items()):
        for column, label in lines.items():
            axes.plot(history["epoch"], history[column], marker="o", label=label)
        unit = "correlation" if "test_srcc" in lines else "loss"
        axes.set(xlabel="epoch", ylabel=unit, title=title, xticks=history["epoch"])
        axes.legend(frameon=False)
    return figure


def scores_against_mos(data: pd.DataFrame, label: str) -> Figure:
    """Predicted scores against MOS, one panel per split.

    `data` has the columns split, mos, pred and optionally distortion, which gives the colours; `label` is the axis
    label of the MOS.
    """
    splits = data.groupby("split")
    figure, grid = panels(2.9, 3.1, len(splits), extra=1.2)
    hue = "distortion" if "distortion" in data and data["distortion"].notna().any() else None
    style = dict(hue=hue, color=None if hue else BLUE, s=16, linewidth=0, alpha=0.8)
    ends = [data[["mos", "pred"]].min().min(), data[["mos", "pred"]].max().max()]
    for axes, (split, part) in zip(grid, splits):
        legend = "auto" if hue and axes is grid[-1] else False
        sns.scatterplot(part, x="pred", y="mos", ax=axes, legend=legend, **style)
        axes.plot(ends, ends, color=GREY, lw=1, ls="--", zorder=0)
        axes.set(title=f"split {split}", xlabel="predicted")
        axes.set_ylabel(label if axes.get_subplotspec().is_first_col() else "")
    if hue:
        sns.move_legend(axes, "upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=None)
    return figure

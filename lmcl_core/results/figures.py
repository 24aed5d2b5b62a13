"""Figures of data, training and scores. Each is drawn from one tidy table, which is saved beside it.

A drawing function takes a DataFrame and returns a matplotlib ``Figure``; `save` writes NAME.csv, NAME.png and NAME.pdf.
Functions that write raise `RunError` if a file cannot be saved.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..common.files import atomic_write
from ..runs.folder import write_csv
from . import palette
from .palette import BLUE, DOUBLE, GREY, SINGLE, VERMILION, draw_crops, draw_saliency, finish, group_styles
from .palette import legend_above

if TYPE_CHECKING:  # importing torch takes seconds, and most notebooks need only tables
    from torch import Tensor

palette.use()


@dataclass(frozen=True)
class SavedFigure:
    """A saved figure. A notebook shows it in its size in print, with alternative text, and the caption below it.

    The alternative text is where `IPython.display.Image` puts it: in the metadata of the output, as "alt".
    """

    figure: Figure
    name: str
    caption: str
    alt: str

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        show(self.figure, self.alt, "png", dpi=palette.SCREEN_DPI, metadata={"Software": None})
        display(Markdown(f"*{self.name}:* {self.caption}"))


def show(figure: Figure, alt: str, kind: str, **options: object) -> None:
    """Display a figure in a notebook in its size in print, with an alternative text, as "png" or "jpeg".

    `options` are those of `Figure.savefig`, such as dpi.
    """
    from IPython.display import display

    pixels = io.BytesIO()
    figure.savefig(pixels, format=kind, **options)
    bundle = {f"image/{kind}": base64.b64encode(pixels.getvalue()).decode(), "text/plain": alt}
    display(bundle, metadata={f"image/{kind}": dict(alt=alt, width=css_width(figure))}, raw=True)


def css_width(figure: Figure) -> int:
    """Width of a figure in CSS pixels, of which an inch has 96."""
    return round(96 * figure.get_figwidth())


def save(
    figure: Figure, data: pd.DataFrame, folder: str | Path, name: str, caption: str, note: str = ""
) -> SavedFigure:
    """Write a figure and the table that it shows as NAME.csv, NAME.png and NAME.pdf; return the figure to be shown.

    The `caption` is one or two sentences: what is shown, and how to read it. The `note` is a line inside the figure,
    such as the kind of the labels. Both are the alternative text ("Description" of the PNG file, "Subject" of the PDF).
    """
    save_table(data, folder, name)
    alt = f"{caption} {note[:1].upper()}{note[1:]}." if note else caption
    if note:
        wrapped = textwrap.fill(note, int(13 * figure.get_figwidth()))
        figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=palette.TYPE, color=GREY)
    kinds = {".png": {"Software": None, "Description": alt}, ".pdf": {"CreationDate": None, "Subject": alt}}
    for suffix, metadata in kinds.items():
        with atomic_write(Path(folder) / f"{name}{suffix}") as file:
            figure.savefig(file, format=suffix[1:], dpi=figure.dpi, metadata=metadata)
    return SavedFigure(figure, name, caption, alt)


def save_table(data: pd.DataFrame, folder: str | Path, name: str) -> pd.DataFrame:
    """Write a table as NAME.csv with 6 significant digits, and return it to be shown."""
    write_csv(Path(folder) / f"{name}.csv", data, "%.6g")
    return data


def save_text(text: str, folder: str | Path, name: str) -> None:
    """Write a text, such as a LaTeX table; `name` is the file name with suffix."""
    with atomic_write(Path(folder) / name) as path:
        path.write_text(text)


def panels(height: float, count: int = 1, columns: int = 1, width: float = 0, **options: object) -> tuple[Figure, list]:
    """A figure of `count` panels, at most `columns` in a row, and its axes.

    `height` of a row and `width` of the figure are in inches; a width of 0 is one column of a page for one panel in a
    row, else two. `options` are those of `Figure.subplots`.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    width = width or (SINGLE if columns == 1 else DOUBLE)
    figure = Figure(figsize=(width, height * rows), dpi=palette.DPI, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def photograph(axes: Axes, image: np.ndarray, inches: float, **options: object) -> None:
    """Draw a (H, W, 3) uint8 image, about `inches` wide, with few dots; axis units stay pixels of the image."""
    height, width = image.shape[:2]
    pixels, side = Image.fromarray(image), max(16, round(inches * palette.PHOTO_DPI))
    pixels.thumbnail((side, 4 * side), Image.Resampling.LANCZOS)
    axes.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest", **options)
    axes.axis("off")


def mos_histogram(data: pd.DataFrame, label: str) -> Figure:
    """Distribution of the MOS of a benchmark; `data` has the column mos, `label` is the axis label of the MOS."""
    figure, [axes] = panels(2.1)
    sns.histplot(data, x="mos", bins=30, color=BLUE, edgecolor="white", ax=axes)
    median = data["mos"].median()
    axes.axvline(median, color=VERMILION, ls="--", label=f"median {median:.1f}")
    return finish(figure, axes, xlabel=label, ylabel="images")


def mos_by_level(data: pd.DataFrame, label: str) -> Figure:
    """Mean MOS by level of each distortion; it should fall.

    `data` has the columns distortion, level, mos; `label` is the axis label of the MOS.
    """
    means = data.astype({"level": int}).groupby(["distortion", "level"])["mos"].mean()
    styles = group_styles(means.index.unique("distortion"))
    figure, [axes] = panels(2.3, width=SINGLE if len(styles) < 9 else DOUBLE)
    for name, style in styles.items():
        axes.plot(means[name].index, means[name], label=name, **style)
    levels = sorted(data["level"].astype(int).unique())
    return finish(figure, axes, xlabel="level of distortion", ylabel=f"mean {label}", xticks=levels)


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> Figure:
    """A grid of (H, W, 3) uint8 images with titles, `columns` in a row."""
    side = DOUBLE / columns
    shape = max(image.shape[0] / image.shape[1] for image in images)
    lines = max(title.count("\n") + 1 for title in titles)
    figure, grid = panels(0.95 * side * min(shape, 1) + 0.17 * lines, len(images), columns, DOUBLE)
    for axes, image, title in zip(grid, images, titles):
        photograph(axes, image, side)
        axes.set_title(title, pad=3)
    return figure


def crops_and_saliency(images: Sequence[np.ndarray], maps: Tensor, boxes: Tensor, density: Tensor) -> Figure:
    """Images with crops above, with saliency maps below. The frame of the salient crop is thick.

    `images` are n (H, W, 3) uint8 arrays, `maps` (n, h, w) saliency maps that sum to 1, `boxes` (n, K, 4) top, left,
    height, width in pixels, `density` (n, K) the saliency density of the crops, from `crop_saliency`.
    """
    side, lines = DOUBLE / (len(images) + 0.5), -(-density.shape[1] // 2)
    shape = max(image.shape[0] / image.shape[1] for image in images)
    figure = Figure(figsize=(DOUBLE, 2 * side * shape + 0.17 * lines + 0.3), dpi=palette.DPI, layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    highest = maps.max().item() * maps[0].numel()
    for n, image in enumerate(images):
        for axis in axes[:, n]:
            photograph(axis, image, side)
        drawn = draw_saliency(axes[1, n], maps[n].numpy(), *image.shape[:2], highest)
        draw_crops(axes[0, n], boxes[n].tolist(), int(density[n].argmax()), list(map(str, range(len(boxes[n])))))
        values = [f"{k}: {value:.2f}" for k, value in enumerate(density[n].tolist())]
        axes[0, n].set_title("\n".join("  ".join(values[at : at + 2]) for at in range(0, len(values), 2)), pad=3)
    figure.colorbar(drawn, ax=list(axes.flat), label="density (uniform: 1)", shrink=0.5)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms and test correlation by epoch, from ``history.csv`` of a run."""
    titles = {
        "total and quality loss": {"loss": "total", "quality": "quality"},
        "manifold loss, unweighted": {"inter": "inter-image", "intra": "intra-image"},
        "mutual learning, unweighted": {"mutual_score": "scores", "mutual_saliency": "saliency"},
        "agreement on test": {"test_srcc": "SRCC", "test_plcc": "PLCC"},
    }
    figure, grid = panels(2.1, len(titles), 2)
    for axes, (title, lines) in zip(grid, titles.items()):
        for (column, label), style in zip(lines.items(), (palette.WITH, palette.WITHOUT)):
            axes.plot(history["epoch"], history[column], label=label, **style)
        unit = "correlation" if "test_srcc" in lines else "loss"
        axes.set(xlabel="epoch", ylabel=unit, title=title, xticks=history["epoch"])
        axes.legend()
    return figure


def scores_against_mos(data: pd.DataFrame, label: str) -> Figure:
    """Predicted scores against MOS, one panel per split; the dashed line is the diagonal.

    `data` has the columns split, mos, pred and optionally distortion, which gives colours and markers; `label` is the
    axis label of the MOS.
    """
    splits = data.groupby("split")
    columns = len(splits) if len(splits) < 5 else 5
    figure, grid = panels(min(7.6 / columns, 3.2), len(splits), columns, sharex=True, sharey=True)
    named = "distortion" in data and data["distortion"].notna().any()
    styles = group_styles(sorted(data["distortion"].dropna().unique())) if named else {"": dict(color=BLUE, marker="o")}
    ends = [data[["mos", "pred"]].min().min(), data[["mos", "pred"]].max().max()]
    for axes, (split, part) in zip(grid, splits):
        for name, style in styles.items():
            group = part[part["distortion"] == name] if named else part
            look = dict(color=style["color"], marker=style["marker"], s=12 if named else 6, lw=0, alpha=0.8)
            axes.scatter(group["pred"], group["mos"], label=name, **look)
        axes.plot(ends, ends, color=GREY, lw=1, ls="--", zorder=0)
        axes.set(title=f"split {split}", aspect="equal")
        axes.set_xlabel("predicted" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel(label if axes.get_subplotspec().is_first_col() else "")
    if named:
        legend_above(figure, *grid[0].get_legend_handles_labels())
    return figure

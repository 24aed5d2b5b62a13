"""Figures, each drawn from one tidy table that is stored beside it.

A drawing function takes a DataFrame and returns a matplotlib ``Figure``; `save` writes NAME.csv, NAME.png and
NAME.pdf into the figure folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .files import replacing

if TYPE_CHECKING:  # drawing needs no torch, whose import takes seconds
    from torch import Tensor

    from .score_files import FileScore

BLUE, ORANGE, GREY = "#2f6db3", "#d9792b", "#8a8f98"
sns.set_theme(
    context="notebook",
    style="whitegrid",
    font_scale=0.85,
    rc={"axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e6e8eb", "figure.dpi": 100},
)


def save(figure: Figure, data: pd.DataFrame, folder: str | Path, name: str, note: str = "") -> Figure:
    """Write a figure and the table it was drawn from.

    Args:
        figure: the figure.
        data: what it was drawn from.
        folder: where to.
        name: file name without suffix.
        note: one line below the figure, such as whose opinion its labels are.

    Returns:
        The figure, to be shown.

    Raises:
        RunError: it cannot be saved.
    """
    folder = Path(folder)
    save_table(data, folder, name)
    if note:
        figure.text(0.0, -0.02, note, fontsize=7, color=GREY, va="top")
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with replacing(folder / f"{name}{suffix}") as path:
            figure.savefig(path, format=suffix[1:], dpi=figure.dpi, bbox_inches="tight", metadata=metadata)
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure alone, such as one of somebody's own picture.

    Args:
        figure: the figure.
        path: PNG file.

    Raises:
        RunError: it cannot be saved.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=figure.dpi, bbox_inches="tight", metadata={"Software": None})


def save_table(data: pd.DataFrame, folder: str | Path, name: str) -> pd.DataFrame:
    """Write a table as NAME.csv.

    Args:
        data: the table.
        folder: where to.
        name: file name without suffix.

    Returns:
        The table, to be shown.

    Raises:
        RunError: it cannot be saved.
    """
    with replacing(Path(folder) / f"{name}.csv") as path:
        data.to_csv(path, index=False, float_format="%.6g")
    return data


def save_text(text: str, folder: str | Path, name: str) -> None:
    """Write a text, such as a LaTeX table.

    Args:
        text: what to write.
        folder: where to.
        name: file name with suffix.

    Raises:
        RunError: it cannot be saved.
    """
    with replacing(Path(folder) / name) as path:
        path.write_text(text)


def mos_histogram(data: pd.DataFrame, label: str) -> Figure:
    """How the opinion scores of a benchmark are spread.

    Args:
        data: column mos.
        label: what the scores are, for the axis.
    """
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    sns.histplot(data, x="mos", bins=30, color=BLUE, edgecolor="white", ax=axes)
    axes.axvline(data["mos"].median(), color=ORANGE, label=f"median {data['mos'].median():.1f}")
    axes.set(xlabel=label, ylabel="images", title=f"{len(data)} images")
    axes.legend(frameon=False)
    return figure


def mos_by_level(data: pd.DataFrame, label: str) -> Figure:
    """Opinion against the level of each distortion; it must fall.

    Args:
        data: columns distortion, level, mos.
        label: what the scores are.
    """
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    sns.lineplot(data.astype({"level": int}), x="level", y="mos", hue="distortion", marker="o", errorbar=None, ax=axes)
    axes.set(xlabel="level of distortion", ylabel=f"mean {label}", xticks=sorted(data["level"].unique()))
    axes.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def pictures(shown: Sequence[np.ndarray], titles: Sequence[str], columns: int, side: float = 1.5) -> Figure:
    """A sheet of pictures.

    Args:
        shown: (H, W, 3) uint8 arrays.
        titles: one a picture.
        columns: pictures in a row.
        side: width of each in inches.
    """
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(side * columns, (side + 0.28) * rows), dpi=72, layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, picture, title in zip(figure.axes, shown, titles):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
    return figure


def crops_and_saliency(shown: Sequence[np.ndarray], maps: Tensor, boxes: Tensor, density: Tensor) -> Figure:
    """Pictures with their saliency and crops: the salient crop thick, its intra-image negatives thin.

    Args:
        shown: n (H, W, 3) uint8 arrays.
        maps: (n, h, w) saliency, each map summing to 1.
        boxes: (n, K, 4) boxes.
        density: (n, K) of the crops, from `crop_saliency`.
    """
    figure = Figure(figsize=(2.6 * len(shown) + 0.7, 5.0), dpi=72, layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    salient, maps = density.argmax(dim=1), maps * maps[0].numel()  # as densities; that of a uniform map is 1
    for n, picture in enumerate(shown):
        height, width = picture.shape[:2]
        axes[0, n].imshow(picture)
        axes[1, n].imshow(picture)
        drawn = axes[1, n].imshow(
            maps[n].numpy(),
            extent=(0, width, height, 0),
            cmap="magma",
            alpha=0.6,
            interpolation="bilinear",
            vmin=0,
            vmax=maps.max().item(),
        )
        for k, (top, left, h, w) in enumerate(boxes[n].tolist()):
            best = k == int(salient[n])
            axes[0, n].add_patch(
                Rectangle((left, top), w - 1, h - 1, fill=False, lw=3 if best else 1.4, ec=ORANGE if best else "white")
            )
            axes[0, n].text(
                left + 4,
                top + 4,
                f"{k}: {density[n, k]:.2f}",
                color="white",
                va="top",
                fontsize=8,
                bbox=dict(fc=ORANGE if best else "#444", ec="none", pad=1.2),
            )
        for axis in axes[:, n]:
            axis.axis("off")
    axes[0, 0].set_title("crop: density; orange = salient", loc="left", fontsize=9)
    axes[1, 0].set_title("saliency of the trained model", loc="left", fontsize=9)
    figure.colorbar(drawn, ax=list(axes.flat), label="density, 1 = uniform", shrink=0.4, anchor=(0, 0.1))
    return figure


def score_overlay(scored: FileScore, crop_scores: np.ndarray) -> Figure:
    """One scored picture: where the model looked, and what it thought of each part.

    Args:
        scored: from `score_files`.
        crop_scores: (K,) scores of its test crops, in MOS units.
    """
    picture, height, width = scored.picture.numpy(), *scored.picture.shape[:2]
    figure = Figure(figsize=(8.4, min(3.2 * height / width, 8) + 0.7), dpi=100, layout="constrained")
    axes = figure.subplots(1, 3)
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (top, left, h, w), score in zip(scored.look.boxes[0].tolist(), crop_scores):
        total[top : top + h, left : left + w] += score
        count[top : top + h, left : left + w] += 1
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    place = dict(extent=(0, width, height, 0))
    for axis in axes:
        axis.imshow(picture, **place)
        axis.axis("off")
    axes[1].imshow(scored.look.saliency[0].numpy(), cmap="magma", alpha=0.6, interpolation="bilinear", **place)
    drawn = axes[2].imshow(mean, cmap="viridis", alpha=0.7, **place)
    figure.colorbar(drawn, ax=axes[2], shrink=0.8, label="mean score of the crops there")
    axes[0].set_title(f"score {scored.score:.1f}, percentile {scored.percentile:.0f}", fontsize=9)
    axes[1].set_title("saliency", fontsize=9)
    axes[2].set_title(f"crop scores {crop_scores.min():.1f} to {crop_scores.max():.1f}", fontsize=9)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms and test agreement by epoch.

    Args:
        history: history.csv of a run.
    """
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    panels = {
        "total and quality loss": {"loss": "total", "quality": "quality"},
        "manifold loss, unweighted": {"inter": "inter-image", "intra": "intra-image"},
        "mutual learning, unweighted": {"mutual_score": "scores", "mutual_saliency": "saliency"},
        "agreement on test": {"test_srcc": "SRCC", "test_plcc": "PLCC"},
    }
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items()):
        for column, label in lines.items():
            axes.plot(history["epoch"], history[column], marker="o", label=label)
        unit = "correlation" if "test_srcc" in lines else "loss"
        axes.set(xlabel="epoch", ylabel=unit, title=title, xticks=history["epoch"])
        axes.legend(frameon=False)
    return figure


def scores_against_opinion(data: pd.DataFrame, label: str) -> Figure:
    """Predicted against opinion scores, one panel a split.

    Args:
        data: columns split, mos, pred and optionally distortion.
        label: what the scores are.
    """
    splits = sorted(data["split"].unique())
    columns = min(len(splits), 5)
    rows = -(-len(splits) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.2, 3.1 * rows), layout="constrained")
    hue = "distortion" if "distortion" in data and data["distortion"].notna().any() else None
    low, high = data[["mos", "pred"]].min().min(), data[["mos", "pred"]].max().max()
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(splits) :]:
        axes.remove()
    for axes, split in zip(panels, splits):
        part = data[data["split"] == split]
        sns.scatterplot(
            part,
            x="pred",
            y="mos",
            hue=hue,
            s=16,
            linewidth=0,
            alpha=0.8,
            ax=axes,
            legend="auto" if hue and split == splits[-1] else False,
            color=None if hue else BLUE,
        )
        axes.plot([low, high], [low, high], color=GREY, lw=1, ls="--", zorder=0)
        axes.set(title=f"split {split}", xlabel="predicted", ylabel=label if splits.index(split) % columns == 0 else "")
    if hue:
        sns.move_legend(axes, "upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=None)
    return figure

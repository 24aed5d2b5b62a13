"""Figures, each drawn from one tidy table that is stored beside it.

A drawing function takes a DataFrame and returns a matplotlib ``Figure``; `save` writes NAME.csv, NAME.png and
NAME.pdf into the figure folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .store import replacing

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
        axes.set_title(title, fontsize=7)
    return figure


def crops_and_saliency(shown: Sequence[np.ndarray], maps: Tensor, boxes: Tensor, salient: Tensor) -> Figure:
    """Pictures with their saliency and crops: the salient crop thick, its intra-image negatives thin.

    Args:
        shown: n (H, W, 3) uint8 arrays.
        maps: (n, h, w) saliency.
        boxes: (n, K, 4) boxes.
        salient: (n,) index of the salient crop.
    """
    figure = Figure(figsize=(2.6 * len(shown), 5.0), dpi=72, layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for n, picture in enumerate(shown):
        height, width = picture.shape[:2]
        axes[0, n].imshow(picture)
        axes[1, n].imshow(picture)
        axes[1, n].imshow(
            maps[n].numpy(), extent=(0, width, height, 0), cmap="magma", alpha=0.6, interpolation="bilinear"
        )
        for k, (top, left, h, w) in enumerate(boxes[n].tolist()):
            best = k == int(salient[n])
            axes[0, n].add_patch(
                Rectangle((left, top), w - 1, h - 1, fill=False, lw=3 if best else 1.4, ec=ORANGE if best else "white")
            )
            axes[0, n].text(
                left + 4,
                top + 4,
                str(k),
                color="white",
                va="top",
                fontsize=8,
                bbox=dict(fc=ORANGE if best else "#444", ec="none", pad=1.2),
            )
        for axis in axes[:, n]:
            axis.axis("off")
    axes[0, 0].set_title("crops; orange = salient", loc="left", fontsize=9)
    axes[1, 0].set_title("saliency of the trained model", loc="left", fontsize=9)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss terms and test agreement by epoch.

    Args:
        history: history.csv of a run.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, columns in ((left, ["loss", "quality"]), (middle, ["inter", "intra"])):
        for column in columns:
            axes.plot(history["epoch"], history[column], marker="o", label=column)
    for column, label in (("test_srcc", "SRCC"), ("test_plcc", "PLCC")):
        right.plot(history["epoch"], history[column], marker="o", label=label)
    for axes, title in ((left, "total and quality loss"), (middle, "manifold loss"), (right, "agreement on test")):
        axes.set(xlabel="epoch", title=title, xticks=history["epoch"])
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
    for axes, split in zip(figure.subplots(rows, columns, squeeze=False).flat, splits):
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


def metric_bars(data: pd.DataFrame, by: str) -> Figure:
    """SRCC and PLCC by some group.

    Args:
        data: columns `by`, srcc, plcc.
        by: name of the grouping column.
    """
    long = data.melt(id_vars=by, value_vars=["srcc", "plcc"], var_name="metric")
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.subplots()
    sns.barplot(long, y=by, x="value", hue="metric", palette=[BLUE, ORANGE], errorbar=None, ax=axes)
    axes.set(xlabel="correlation with the labels", ylabel="", xlim=(min(0, long["value"].min()), 1))
    axes.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def against_published(data: pd.DataFrame, metric: str) -> Figure:
    """Ours among published results, as dots; ours with its interval.

    Args:
        data: columns method, `metric`, and for ours low and high.
        metric: "srcc" or "plcc".
    """
    rows = data.dropna(subset=[metric]).sort_values(metric)
    figure = Figure(figsize=(5.6, 0.28 * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots()
    ours = rows["method"].str.startswith("ours").to_numpy()
    axes.scatter(rows[metric], rows["method"], c=[ORANGE if own else BLUE for own in ours], s=34, zorder=3)
    for row in rows[ours].dropna(subset=["low", "high"]).itertuples():
        axes.plot([row.low, row.high], [row.method, row.method], color=ORANGE, lw=2)
    axes.set(xlabel=metric.upper())
    return figure


def benchmark_overview(whole: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """PLCC on every benchmark that was run: median and spread of ours, the paper's claim, the other published results.

    Args:
        whole: columns benchmark, title, splits, plcc, plcc_min, plcc_max.
        published: columns benchmark, method, plcc.
    """
    ran = whole[whole["splits"] > 0].reset_index(drop=True)
    figure = Figure(figsize=(6.4, 0.42 * max(len(ran), 1) + 1.3), layout="constrained")
    axes = figure.subplots()
    for n, row in ran.iterrows():
        others = published[published["benchmark"] == row["benchmark"]].dropna(subset=["plcc"])
        claim = others["method"].str.startswith("LML-IQA")
        axes.scatter(others["plcc"][~claim], [n] * int((~claim).sum()), color=GREY, s=18, alpha=0.7)
        axes.scatter(others["plcc"][claim], [n] * int(claim.sum()), color=BLUE, s=46, marker="D", zorder=3)
        axes.plot([row["plcc_min"], row["plcc_max"]], [n, n], color=ORANGE, lw=2.5)
        axes.scatter([row["plcc"]], [n], color=ORANGE, s=46, zorder=4)
    for color, marker, label in ((ORANGE, "o", "ours: median, range"), (BLUE, "D", "the paper"), (GREY, "o", "others")):
        axes.scatter([], [], color=color, marker=marker, label=label)
    axes.set(xlabel="PLCC", yticks=range(len(ran)), ylim=(len(ran) - 0.5, -0.5))
    axes.set_yticklabels([f"{row.title} ({row.splits} splits)" for row in ran.itertuples()])
    axes.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def cross_matrix(data: pd.DataFrame) -> Figure:
    """SRCC and PLCC of models trained on one benchmark and judged on another; median over splits.

    Args:
        data: columns train, test, srcc, plcc.
    """
    names = list(dict.fromkeys([*data["train"], *data["test"]]))
    side = 0.75 * len(names) + 1.6
    figure = Figure(figsize=(2 * side + 0.8, side), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("srcc", "plcc")):
        cells = data.pivot_table(index="train", columns="test", values=metric, aggfunc="median", dropna=False)
        cells = cells.reindex(columns=names).reindex([n for n in names if n in set(data["train"])])
        sns.heatmap(cells.astype(float), annot=True, fmt=".3f", vmin=0, vmax=1, cmap="Blues", cbar=False, ax=axes)
        axes.set(title=metric.upper(), xlabel="judged on", ylabel="trained on")
    return figure


def separation_bars(data: pd.DataFrame) -> Figure:
    """Separation of hard examples with and without the manifold loss, one panel a measure, one dot a split.

    Args:
        data: columns recipe, split, measure, value.
    """
    measures = list(data["measure"].unique())
    figure = Figure(figsize=(3.2 * len(measures), 2.9), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures):
        part = data[data["measure"] == measure]
        wide = part.pivot(index="split", columns="recipe", values="value")
        order = list(part["recipe"].unique())
        for _, row in wide.iterrows():
            axes.plot(range(len(order)), row[order], color=GREY, lw=1, marker="o", ms=4)
        axes.plot(range(len(order)), wide[order].mean(), color=ORANGE, lw=2.5, marker="o", label="mean")
        axes.set(title=measure.replace("_", " "), xticks=range(len(order)), xlim=(-0.3, len(order) - 0.7))
        axes.set_xticklabels(order)
    axes.legend(frameon=False)
    return figure


def umap_panels(data: pd.DataFrame, label: str) -> Figure:
    """UMAP of two feature spaces side by side, coloured by opinion; hard examples are ringed.

    Args:
        data: columns recipe, x, y, mos, hard.
        label: what the scores are.
    """
    recipes = list(data["recipe"].unique())
    figure = Figure(figsize=(4.3 * len(recipes) + 0.7, 3.9), layout="constrained")
    panels = figure.subplots(1, len(recipes), squeeze=False)[0]
    for axes, recipe in zip(panels, recipes):
        part = data[data["recipe"] == recipe]
        dots = axes.scatter(
            part["x"], part["y"], c=part["mos"], cmap="viridis", s=20, vmin=data["mos"].min(), vmax=data["mos"].max()
        )
        hard = part[part["hard"].astype(bool)]
        axes.scatter(
            hard["x"],
            hard["y"],
            s=60,
            facecolors="none",
            edgecolors="#c0392b",
            linewidths=1.1,
            label=f"in a hard pair ({len(hard)})",
        )
        axes.set(title=recipe, xticks=[], yticks=[])
        axes.legend(frameon=False, loc="lower left", fontsize=8)
    figure.colorbar(dots, ax=panels, label=label, shrink=0.85)
    return figure

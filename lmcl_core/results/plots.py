"""Figures of results: metrics, published results, other benchmarks, hard examples, costs.

As in `figures`, a function takes a DataFrame and returns a matplotlib ``Figure``, which `figures.save` writes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from ..common.errors import counted
from .figures import BLUE, GREY, LEGEND_RIGHT, ORANGE, panels

#: Panel title and unit of each measure of `hard_examples.separation`.
MEASURES = {
    "hard_pair_share": ("hard pairs", "share of neighbour pairs"),
    "very_hard_pair_share": ("very hard pairs", "share of neighbour pairs"),
    "knn_mos_error": ("k-nearest-neighbour error", "label units"),
    "intra_image_spread": ("intra-image spread", "over that between images"),
}


def _split_labels(titles: pd.Series, counts: pd.Series) -> list[str]:
    return [f"{title} ({counted(count, 'split')})" for title, count in zip(titles, counts)]


def metric_bars(data: pd.DataFrame, by: str) -> Figure:
    """SRCC and PLCC by group; `data` has the columns srcc, plcc and `by`, the name of the group."""
    long = data.melt(id_vars=by, value_vars=["srcc", "plcc"], var_name="metric")
    figure, [axes] = panels(5.6, 2.8)
    sns.barplot(long, y=by, x="value", hue="metric", palette=[BLUE, ORANGE], errorbar=None, ax=axes)
    axes.set(xlabel="correlation with the labels", ylabel="", xlim=(min(0, long["value"].min()), 1))
    axes.legend(**LEGEND_RIGHT)
    return figure


def against_published(data: pd.DataFrame, metric: str) -> Figure:
    """Our result, with its interval, among published results.

    `data` has the columns method, low, high and `metric` ("srcc" or "plcc"); our methods start with "ours".
    """
    rows = data.dropna(subset=[metric]).sort_values(metric)
    figure, [axes] = panels(5.6, 0.28 * len(rows) + 1.0)
    ours = rows["method"].str.startswith("ours").to_numpy()
    axes.scatter(rows[metric], rows["method"], c=np.where(ours, ORANGE, BLUE), s=34, zorder=3)
    for row in rows[ours].dropna(subset=["low", "high"]).itertuples():
        axes.plot([row.low, row.high], [row.method, row.method], color=ORANGE, lw=2)
    axes.set(xlabel=metric.upper())
    return figure


def benchmark_overview(results: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """PLCC on every benchmark with runs: our median and range, the paper's claim, other published results.

    `results` has the columns benchmark, title, splits and, where there are runs, plcc, plcc_min, plcc_max; `published`
    has benchmark, method and plcc.
    """
    rows = results[results["splits"] > 0].reset_index(drop=True)
    rows = rows.reindex(columns=["benchmark", "title", "splits", "plcc", "plcc_min", "plcc_max"])
    figure, [axes] = panels(6.4, 0.42 * max(len(rows), 1) + 1.3)
    known = published.merge(rows.reset_index(names="row")[["benchmark", "row"]]).dropna(subset=["plcc"])
    is_paper = known["method"].str.startswith("LML-IQA")
    others, paper = known[~is_paper], known[is_paper]
    axes.scatter(others["plcc"], others["row"], color=GREY, s=18, alpha=0.7, label="others")
    axes.scatter(paper["plcc"], paper["row"], color=BLUE, s=46, marker="D", zorder=3, label="the paper")
    axes.scatter(rows["plcc"], rows.index, color=ORANGE, s=46, zorder=4, label="ours: median, range")
    axes.hlines(rows.index, rows["plcc_min"], rows["plcc_max"], color=ORANGE, lw=2.5)
    axes.set(xlabel="PLCC", ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_yticks(rows.index, _split_labels(rows["title"], rows["splits"]))
    axes.legend(**LEGEND_RIGHT)
    return figure


def cross_matrix(data: pd.DataFrame) -> Figure:
    """SRCC and PLCC of models trained on one benchmark and tested on another, as medians over splits.

    `data` has the columns train, test, srcc, plcc.
    """
    names = list(dict.fromkeys([*data["train"], *data["test"]]))
    side = 0.75 * len(names) + 1.6
    figure, pair = panels(side, side, 2, extra=0.8)
    for axes, metric in zip(pair, ("srcc", "plcc")):
        cells = data.pivot_table(index="train", columns="test", values=metric, aggfunc="median", dropna=False)
        cells = cells.reindex(columns=names).reindex([name for name in names if name in set(data["train"])])
        sns.heatmap(cells.astype(float), annot=True, fmt=".3f", vmin=0, vmax=1, cmap="Blues", cbar=False, ax=axes)
        axes.set(title=metric.upper(), xlabel="tested on", ylabel="trained on")
    return figure


def separation_bars(data: pd.DataFrame) -> Figure:
    """Separation of hard examples with and without the manifold loss, one panel per measure, one line per split.

    `data` has the columns recipe, split, measure, value.
    """
    measures = data.groupby("measure", sort=False)
    figure, row = panels(3.4, 3.0, len(measures))
    for axes, (measure, part) in zip(row, measures):
        wide = part.pivot(index="recipe", columns="split", values="value").loc[part["recipe"].unique()]
        wide = wide.rename(index={"no-manifold": "without", "lmcl": "with"})
        axes.plot(wide.index, wide, color=GREY, lw=1, marker="o", ms=4)
        axes.plot(wide.index, wide.mean(axis=1), color=ORANGE, lw=2.5, marker="o", label="mean")
        title, unit = MEASURES.get(measure, (measure.replace("_", " "), ""))
        low, high = part["value"].min(), part["value"].max()
        middle, half = (low + high) / 2, max(0.55 * (high - low), 0.1 * abs(high))  # small changes look small
        axes.set(title=title, ylabel=unit, xlabel="manifold loss", xlim=(-0.3, len(wide) - 0.7))
        if half > 0:  # neither all 0 nor all missing
            axes.set(ylim=(middle - half, middle + half))
    axes.legend(frameon=False)
    return figure


def redistorted_curves(data: pd.DataFrame) -> Figure:
    """Mean score by level of a distortion, over images and splits; one panel per distortion.

    `data` has the columns recipe, distortion, level, score.
    """
    distortions = data.groupby("distortion", sort=False)
    figure, grid = panels(2.4, 2.4, len(distortions), 4, sharey=True)
    for axes, (name, part) in zip(grid, distortions):
        means = part.pivot_table(index="level", columns="recipe", values="score", sort=False).sort_index()
        for recipe, color in zip(means, (BLUE, ORANGE)):
            axes.plot(means.index, means[recipe], color=color, marker="o", ms=4, label=recipe)
        axes.set(title=name, xlabel="level", xticks=means.index)
    grid[0].set_ylabel("mean score")
    grid[0].legend(frameon=False)
    return figure


def paired_differences(data: pd.DataFrame, baseline: str) -> Figure:
    """Mean difference of PLCC between each variant and a baseline, with its interval.

    `data` has the columns title, pairs, difference, low, high; rows without pairs are left out. The axis ends at twice
    the largest difference; if an interval of few splits is longer, the axis label says so.
    """
    rows = data[data["pairs"] > 0].reset_index(drop=True)
    figure, [axes] = panels(5.8, 0.36 * max(len(rows), 1) + 1.0)
    axes.axvline(0, color=GREY, lw=1)
    axes.hlines(rows.index, rows["low"], rows["high"], color=BLUE, lw=2)
    axes.scatter(rows["difference"], rows.index, color=ORANGE, s=40, zorder=3)
    axes.set(xlabel=f"PLCC minus that of {baseline}", ylim=(len(rows) - 0.5, -0.5))
    end = 2 * rows["difference"].abs().max()
    if end > 0 and (rows[["low", "high"]].abs() > end).any(axis=None):
        axes.set(xlim=(-end, end), xlabel=f"{axes.get_xlabel()}\nsome intervals are longer than the axis")
    axes.set_yticks(rows.index, _split_labels(rows["title"], rows["pairs"]))
    return figure


def share_curve(data: pd.DataFrame) -> Figure:
    """Correlation by share of the data used for training, one dot per split.

    `data` has the columns share (percent), split, srcc, plcc.
    """
    figure, [axes] = panels(4.6, 2.9)
    for metric, color in (("plcc", BLUE), ("srcc", ORANGE)):
        axes.scatter(data["share"], data[metric], color=color, s=14, alpha=0.5)
        median = data.groupby("share")[metric].median()
        axes.plot(median.index, median, color=color, lw=2, label=f"{metric.upper()}, median")
    axes.set(xlabel="share of the data to train on, in percent", ylabel="correlation with the labels")
    axes.set_xticks(sorted(data["share"].unique()))
    axes.legend(frameon=False, loc="lower right")
    return figure


def umap_panels(data: pd.DataFrame, label: str) -> Figure:
    """UMAP of feature spaces side by side, coloured by MOS; rings mark images in hard pairs.

    `data` has the columns recipe, x, y, mos, hard; `label` is the label of the MOS.
    """
    spaces = data.groupby("recipe", sort=False)
    figure, row = panels(4.3, 3.9, len(spaces), extra=0.7)
    limits, rings = dict(vmin=data["mos"].min(), vmax=data["mos"].max()), dict(fc="none", ec="#c0392b", lw=1.1)
    for axes, (recipe, part) in zip(row, spaces):
        dots = axes.scatter(part["x"], part["y"], c=part["mos"], cmap="viridis", s=20, **limits)
        hard = part[part["hard"].astype(bool)]
        axes.scatter(hard["x"], hard["y"], s=60, label=f"in a hard pair ({len(hard)})", **rings)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8)
        axes.set(title=recipe, xticks=[], yticks=[])
    figure.colorbar(dots, ax=row, label=label, shrink=0.85)
    return figure


def umap_thumbnails(data: pd.DataFrame, images: Mapping[str, np.ndarray], label: str, most: int = 70) -> Figure:
    """UMAP of feature spaces side by side, with images instead of dots; the colour of a frame shows the MOS.

    `data` has the columns recipe, image, x, y, mos; `images` are (H, W, 3) uint8 arrays by name; `label` is the label
    of the MOS. A panel shows at most `most` images, chosen by `farthest_points`.
    """
    spaces = data.groupby("recipe", sort=False)
    figure, row = panels(5.6, 5.2, len(spaces), extra=0.7)
    figure.set_dpi(72)
    colours = ScalarMappable(Normalize(data["mos"].min(), data["mos"].max()), cmap="viridis")
    for axes, (recipe, part) in zip(row, spaces):
        points = part[["x", "y"]].to_numpy()
        axes.scatter(*points.T, s=0)
        for n in farthest_points(points, most):
            image = images[part["image"].iloc[n]]
            frame = dict(edgecolor=colours.to_rgba(part["mos"].iloc[n]), linewidth=2)
            thumbnail = OffsetImage(image, zoom=26 / max(image.shape[:2]))
            axes.add_artist(AnnotationBbox(thumbnail, points[n], pad=0.08, bboxprops=frame))
        axes.margins(0.06)
        axes.set(title=recipe, xticks=[], yticks=[])
    figure.colorbar(colours, ax=row, label=label, shrink=0.85)
    return figure


def farthest_points(points: np.ndarray, most: int) -> list[int]:
    """Indices of at most `most` of the (n, 2) points, each the farthest from those chosen before; starts at 0."""
    chosen, nearest = [0], np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(most, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def costs(summary: pd.DataFrame) -> Figure:
    """Items per second of everything that was timed, one panel per part and size; this package is blue.

    `summary` is from `bench.report.summary`.
    """
    groups = summary.groupby(["part", "size"], sort=False, dropna=False)
    heights = groups.size().tolist()
    height = 0.6 + 0.3 * len(summary) / len(groups)
    figure, column = panels(7.5, height, len(groups), 1, gridspec_kw=dict(height_ratios=heights))
    for axes, ((part, size), group) in zip(column, groups):
        spread = np.abs(group[["lowest", "highest"]].to_numpy() - group[["rate"]].to_numpy()).T
        colours = np.where(group["contender"].str.startswith("ours"), BLUE, GREY)
        axes.barh(group["contender"], group["rate"], xerr=spread, color=colours, ecolor="black", height=0.7)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        sized = "" if pd.isna(size) else f", {size:.0f} embeddings"
        axes.set_title(f"{part}{sized}: {group['unit'].iloc[0]} per second", fontsize=9, loc="left")
    return figure


def growth(curves: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Seconds by size on logarithmic axes, one panel per contender.

    `curves` is the part "growth" of `bench.measure.bench`; `slopes` is from `bench.report.exponents`.
    """
    figure, row = panels(2.6, 2.8, len(slopes))
    for axes, slope in zip(row, slopes.itertuples()):
        own = curves[curves["contender"] == slope.contender]
        median = own.groupby("size")["seconds"].median()
        axes.loglog(own["size"], own["seconds"], ".", color=GREY, markersize=4)
        axes.loglog(median.index, median, "-", color=BLUE)
        axes.set_title(f"{slope.contender}\nexponent {slope.exponent:.2f}", fontsize=8)
        axes.set_xticks(median.index, [f"{size:.0f}" for size in median.index], fontsize=7)
        axes.minorticks_off()
        axes.set_ylabel("seconds", fontsize=8)
    return figure

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
from PIL import Image

from ..common.errors import counted
from .figures import panels
from .palette import BLACK, BLUE, DOUBLE, GREY, OTHERS, OURS, PAPER, VERMILION, WITH, WITHOUT, finish, legend_above

#: Panel title and unit of each measure of `hard_examples.separation`.
MEASURES = {
    "hard_pair_share": ("hard pairs", "share of pairs"),
    "very_hard_pair_share": ("very hard pairs", "share of pairs"),
    "knn_mos_error": ("k-nearest-neighbour error", "label units"),
    "intra_image_spread": ("intra-image spread", "relative spread"),
}


def _split_labels(titles: pd.Series, counts: pd.Series) -> list[str]:
    return [f"{title} ({counted(count, 'split')})" for title, count in zip(titles, counts)]


def metric_bars(data: pd.DataFrame, by: str) -> Figure:
    """SRCC and PLCC by group; `data` has the columns srcc, plcc and `by`, the name of the group."""
    figure, [axes] = panels(0.34 * len(data) + 0.6)
    at = np.arange(len(data))
    for metric, color, hatch, shift in (("srcc", BLUE, "", -0.2), ("plcc", VERMILION, "////", 0.2)):
        look = dict(height=0.4, color=color, hatch=hatch, edgecolor="white", lw=0)
        axes.barh(at + shift, data[metric], label=metric.upper(), **look)
    axes.set_yticks(at, data[by])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    low = min(0, data[["srcc", "plcc"]].min().min())
    return finish(figure, axes, xlabel="correlation with the labels", xlim=(low, 1))


def against_published(data: pd.DataFrame, metric: str) -> Figure:
    """Our result, with its interval, among published results.

    `data` has the columns method, low, high and `metric` ("srcc" or "plcc"); our methods start with "ours", the paper's
    with "LML-IQA".
    """
    rows = data.dropna(subset=[metric]).sort_values(metric, ignore_index=True)
    figure, [axes] = panels(0.19 * len(rows) + 0.6, width=DOUBLE)
    ours, paper = (rows["method"].str.startswith(start) for start in ("ours", "LML-IQA"))
    groups = {"published": (~ours & ~paper, OTHERS), "the paper": (paper, PAPER)}
    for label, (chosen, style) in (groups | {"ours: median, lowest to highest split": (ours, OURS)}).items():
        if chosen.any():
            axes.scatter(rows[metric][chosen], rows.index[chosen], s=26, zorder=3, label=label, **style)
    known = rows[ours].dropna(subset=["low", "high"])
    axes.hlines(known.index, known["low"], known["high"], color=VERMILION, lw=2)
    axes.set_yticks(rows.index, rows["method"])
    return finish(figure, axes, xlabel=metric.upper(), ylim=(-0.7, len(rows) - 0.3))


def benchmark_overview(results: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """PLCC on every benchmark with runs: our median and range, the paper's claim, other published results.

    `results` has the columns benchmark, title, splits and, where there are runs, plcc, plcc_min, plcc_max; `published`
    has benchmark, method and plcc.
    """
    rows = results[results["splits"] > 0].reset_index(drop=True)
    figure, [axes] = panels(0.34 * len(rows) + 0.6, width=DOUBLE)
    known = published.merge(rows.reset_index(names="row")[["benchmark", "row"]]).dropna(subset=["plcc"])
    is_paper = known["method"].str.startswith("LML-IQA")
    others, paper = known[~is_paper], known[is_paper]
    axes.scatter(others["plcc"], others["row"], s=14, alpha=0.7, label="published", **OTHERS)
    axes.scatter(paper["plcc"], paper["row"], s=34, zorder=3, label="the paper", **PAPER)
    axes.scatter(rows["plcc"], rows.index, s=34, zorder=4, label="ours: median, lowest to highest split", **OURS)
    axes.hlines(rows.index, rows["plcc_min"], rows["plcc_max"], color=VERMILION, lw=2)
    axes.set_yticks(rows.index, _split_labels(rows["title"], rows["splits"]))
    return finish(figure, axes, xlabel="PLCC", ylim=(len(rows) - 0.5, -0.5))


def cross_matrix(data: pd.DataFrame) -> Figure:
    """SRCC and PLCC of models trained on one benchmark and tested on another, as medians over splits.

    `data` has the columns train, test, srcc, plcc.
    """
    names = list(dict.fromkeys([*data["train"], *data["test"]]))
    beside = 2 if len(names) <= 4 else 1
    figure, pair = panels(0.4 * data["train"].nunique() + 1.3, 2, beside, DOUBLE)
    for axes, metric in zip(pair, ("srcc", "plcc")):
        cells = data.pivot_table(index="train", columns="test", values=metric, aggfunc="median", dropna=False)
        cells = cells.reindex(columns=names).reindex([name for name in names if name in set(data["train"])])
        sns.heatmap(cells.astype(float), annot=True, fmt=".3f", vmin=0, vmax=1, cmap="Blues", cbar=False, ax=axes)
        axes.set(title=metric.upper(), xlabel="tested on", ylabel="trained on")
        axes.tick_params(axis="y", rotation=0)
    return figure


def separation_bars(data: pd.DataFrame) -> Figure:
    """Separation of hard examples with and without the manifold loss, one panel per measure, one line per split.

    `data` has the columns recipe, split, measure, value.
    """
    measures = data.groupby("measure", sort=False)
    figure, grid = panels(2.1, len(measures), 2)
    for axes, (measure, part) in zip(grid, measures):
        wide = part.pivot(index="recipe", columns="split", values="value").loc[part["recipe"].unique()]
        wide = wide.rename(index={"no-manifold": "without", "lmcl": "with"})
        splits = axes.plot(wide.index, wide, color=GREY, lw=0.8, marker="o", ms=3)
        mean = axes.plot(wide.index, wide.mean(axis=1), color=VERMILION, lw=2.2, ls="--", marker="D", ms=6)
        title, unit = MEASURES.get(measure, (measure.replace("_", " "), ""))
        low, high = part["value"].min(), part["value"].max()
        middle, half = (low + high) / 2, max(0.55 * (high - low), 0.1 * abs(high))  # small changes look small
        axes.set(title=title, ylabel=unit, xlabel="manifold loss", xlim=(-0.3, len(wide) - 0.7))
        if half > 0:  # neither all 0 nor all missing
            axes.set(ylim=(middle - half, middle + half))
    legend_above(figure, [splits[0], mean[0]], ["one split", "mean over splits"])
    return figure


def redistorted_curves(data: pd.DataFrame) -> Figure:
    """Mean score by level of a distortion, over images and splits; one panel per distortion.

    `data` has the columns recipe, distortion, level, score.
    """
    distortions = data.groupby("distortion", sort=False)
    figure, grid = panels(1.7, len(distortions), 4, DOUBLE, sharey=True)
    for axes, (name, part) in zip(grid, distortions):
        means = part.pivot_table(index="level", columns="recipe", values="score", sort=False).sort_index()
        for recipe, style in zip(means, (WITHOUT, WITH)):
            axes.plot(means.index, means[recipe], label=recipe, **style)
        axes.set(title=name, xlabel="level", xticks=means.index)
        axes.set_ylabel("mean score" if axes.get_subplotspec().is_first_col() else "")
    legend_above(figure, *grid[0].get_legend_handles_labels())
    return figure


def paired_differences(data: pd.DataFrame, baseline: str) -> Figure:
    """Mean difference of PLCC between each variant and a baseline, with its interval.

    `data` has the columns title, pairs, difference, low, high; rows without pairs are left out. The axis ends at twice
    the largest difference; if an interval of few splits is longer, the axis label says so.
    """
    rows = data[data["pairs"] > 0].reset_index(drop=True)
    figure, [axes] = panels(0.24 * len(rows) + 0.7, width=DOUBLE)
    axes.axvline(0, color=GREY, lw=1)
    axes.hlines(rows.index, rows["low"], rows["high"], color=BLUE, lw=1.6, label="95 % interval")
    axes.scatter(rows["difference"], rows.index, s=14, zorder=3, label="mean difference", **OURS)
    label, end = f"PLCC minus that of {baseline}", 2 * rows["difference"].abs().max()
    if end > 0 and (rows[["low", "high"]].abs() > end).any(axis=None):
        axes.set_xlim(-end, end)
        label += "\n(some intervals are longer than the axis)"
    axes.set_yticks(rows.index, _split_labels(rows["title"], rows["pairs"]))
    return finish(figure, axes, xlabel=label, ylim=(len(rows) - 0.5, -0.5))


def reporting_habits(data: pd.DataFrame) -> Figure:
    """Headline PLCC under each habit of `tables.reporting_habits`, beside what order statistics predict."""
    figure, [axes] = panels(0.26 * len(data) + 0.7, width=DOUBLE)
    axes.axvline(data["plcc"][0], color=GREY, lw=1)
    axes.scatter(data["plcc"], data.index, s=22, zorder=3, label="reported", **OURS)
    axes.scatter(data["plcc"][0] + data["expected"], data.index, s=34, label="predicted", **PAPER)
    axes.set_yticks(data.index, data["habit"])
    return finish(figure, axes, xlabel="PLCC", ylim=(len(data) - 0.5, -0.5))


def method_by_split(data: pd.DataFrame) -> Figure:
    """PLCC of the method and of the quality loss alone on every split; `data` has the columns recipe, split, plcc."""
    wide = data.pivot(index="split", columns="recipe", values="plcc")
    figure, [axes] = panels(2.3)
    axes.vlines(wide.index, wide["quality"], wide["lmcl"], color=GREY, lw=1)
    for recipe, label, style in (("quality", "quality loss alone", WITHOUT), ("lmcl", "the method", WITH)):
        axes.plot(wide.index, wide[recipe], label=label, **{**style, "ls": "none"})
    return finish(figure, axes, xlabel="split", ylabel="PLCC", xticks=wide.index)


def share_curve(data: pd.DataFrame) -> Figure:
    """Correlation by share of the data used for training, one small dot per split.

    `data` has the columns share (percent), split, srcc, plcc.
    """
    figure, [axes] = panels(2.5)
    for metric, style in (("plcc", WITH), ("srcc", WITHOUT)):
        dots = dict(color=style["color"], marker=style["marker"])
        axes.scatter(data["share"], data[metric], s=9, alpha=0.5, **dots)
        median = data.groupby("share")[metric].median()
        axes.plot(median.index, median, label=f"{metric.upper()}, median", **style)
    axes.set_xticks(sorted(data["share"].unique()))
    labels = dict(xlabel="share of the data to train on, in percent", ylabel="correlation with the labels")
    return finish(figure, axes, **labels)


def umap_panels(data: pd.DataFrame, label: str) -> Figure:
    """UMAP of feature spaces side by side, coloured by MOS; double rings mark images in hard pairs.

    `data` has the columns recipe, x, y, mos, hard; `label` is the label of the MOS.
    """
    spaces = data.groupby("recipe", sort=False)
    figure, row = panels(3.3, len(spaces), 2, DOUBLE)
    limits = dict(vmin=data["mos"].min(), vmax=data["mos"].max())
    for axes, (recipe, part) in zip(row, spaces):
        dots = axes.scatter(part["x"], part["y"], c=part["mos"], cmap="viridis", s=10, lw=0, **limits)
        hard = part[part["hard"].astype(bool)]
        for color, line in ((BLACK, 1.8), ("white", 0.7)):  # seen on every colour of viridis, and on white
            rings = axes.scatter(hard["x"], hard["y"], s=26, fc="none", ec=color, lw=line)
            rings.set_label(f"in a hard pair ({len(hard)})" if color == BLACK else None)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01))
        axes.set(title=recipe, xticks=[], yticks=[])
    figure.colorbar(dots, ax=row, label=label, shrink=0.85)
    return figure


def umap_thumbnails(data: pd.DataFrame, images: Mapping[str, np.ndarray], label: str, most: int = 40) -> Figure:
    """UMAP of feature spaces side by side, with images instead of dots; the colour of a frame shows the MOS.

    `data` has the columns recipe, image, x, y, mos; `images` are (H, W, 3) uint8 arrays by name; `label` is the label
    of the MOS. A panel shows at most `most` images, chosen by `farthest_points`.
    """
    spaces = data.groupby("recipe", sort=False)
    figure, row = panels(3.3, len(spaces), 2, DOUBLE)
    colours = ScalarMappable(Normalize(data["mos"].min(), data["mos"].max()), cmap="viridis")
    for axes, (recipe, part) in zip(row, spaces):
        points = part[["x", "y"]].to_numpy()
        axes.scatter(*points.T, s=0)
        for n in farthest_points(points, most):
            image = Image.fromarray(images[part["image"].iloc[n]])
            image.thumbnail((30, 30), Image.Resampling.LANCZOS)
            frame = dict(edgecolor=colours.to_rgba(part["mos"].iloc[n]), linewidth=1.8)
            thumbnail = OffsetImage(np.asarray(image), zoom=24 / max(image.size), interpolation="nearest")
            axes.add_artist(AnnotationBbox(thumbnail, points[n], pad=0.08, bboxprops=frame))
        axes.margins(0.08)
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
    """Items per second of everything that was timed, one panel per part and size; bars of this package are hatched.

    `summary` is from `bench.measure.summary`.
    """
    groups = summary.groupby(["part", "size"], sort=False, dropna=False)
    heights = groups.size().tolist()
    height = 0.55 + 0.22 * len(summary) / len(groups)
    figure, column = panels(height, len(groups), 1, DOUBLE, gridspec_kw=dict(height_ratios=heights))
    for axes, ((part, size), group) in zip(column, groups):
        spread = np.abs(group[["lowest", "highest"]].to_numpy() - group[["rate"]].to_numpy()).T
        bars = axes.barh(group["contender"], group["rate"], xerr=spread, color=GREY, ecolor=BLACK, height=0.7)
        for n, (bar, name, rate) in enumerate(zip(bars, group["contender"], group["rate"])):
            if pd.isna(rate):
                axes.text(0, n, " no result", va="center")
            if name.startswith("ours"):
                bar.set(facecolor=BLUE, hatch="////", edgecolor="white", linewidth=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        sized = "" if pd.isna(size) else f", {size:.0f} embeddings"
        axes.set_title(f"{part}{sized}: {group['unit'].iloc[0]} per second", loc="left")
    axes.set_xlabel("bar: median; line: slowest to fastest repetition; blue and hatched: this package")
    return figure


def growth(curves: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Seconds by size on logarithmic axes, one panel per contender.

    `curves` is the part "growth" of `bench.measure.bench`; `slopes` is from `bench.measure.exponents`.
    """
    figure, grid = panels(2.1, len(slopes), 3, DOUBLE)
    for axes, slope in zip(grid, slopes.itertuples()):
        own = curves[curves["contender"] == slope.contender]
        median = own.groupby("size")["seconds"].median()
        repetitions = axes.loglog(own["size"], own["seconds"], ls="", marker="o", ms=2.5, color=GREY)
        line = axes.loglog(median.index, median, color=BLUE)
        name = slope.contender.replace(", ", ",\n", 1)
        axes.set_title(f"{name}\nexponent {slope.exponent:.2f}")
        axes.set_xticks(median.index, [f"{size:.0f}" for size in median.index], rotation=90)
        axes.minorticks_off()
        axes.set_ylabel("seconds" if axes.get_subplotspec().is_first_col() else "")
    legend_above(figure, [repetitions[0], line[0]], ["one repetition", "median"])
    return figure

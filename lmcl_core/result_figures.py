"""Pictures of results, each drawn from one tidy table: metrics, published results, other benchmarks, hard examples.

As in `figures`, a function takes a DataFrame and returns a matplotlib ``Figure``; `figures.save` writes it.
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
from matplotlib.ticker import NullLocator

from .figures import BLUE, GREY, ORANGE

#: Measures of `hard_examples.separation`: what a panel is called, and its unit.
MEASURES = {
    "hard_pair_share": ("hard pairs", "share of neighbour pairs"),
    "very_hard_pair_share": ("very hard pairs", "share of neighbour pairs"),
    "knn_mos_error": ("k-nearest-neighbour error", "label units"),
    "intra_image_spread": ("intra-image spread", "over that between images"),
}


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
    axes.set(xlabel="PLCC", yticks=range(len(ran)), ylim=(max(len(ran), 1) - 0.5, -0.5))
    axes.set_yticklabels([f"{row.title} ({row.splits} split{'s' * (row.splits > 1)})" for row in ran.itertuples()])
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
    figure = Figure(figsize=(3.4 * len(measures), 3.0), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures):
        part = data[data["measure"] == measure]
        wide = part.pivot(index="split", columns="recipe", values="value")
        order = list(part["recipe"].unique())
        for _, row in wide.iterrows():
            axes.plot(range(len(order)), row[order], color=GREY, lw=1, marker="o", ms=4)
        axes.plot(range(len(order)), wide[order].mean(), color=ORANGE, lw=2.5, marker="o", label="mean")
        title, unit = MEASURES.get(measure, (measure.replace("_", " "), ""))
        low, high = part["value"].min(), part["value"].max()
        middle, half = (low + high) / 2, max(0.55 * (high - low), 0.1 * abs(high))  # small changes look small
        axes.set(title=title, ylabel=unit, xlabel="manifold loss")
        if half > 0:  # neither all 0 nor all missing
            axes.set(ylim=(middle - half, middle + half))
        axes.set(xticks=range(len(order)), xlim=(-0.3, len(order) - 0.7))
        axes.set_xticklabels([{"no-manifold": "without", "lmcl": "with"}.get(name, name) for name in order])
    axes.legend(frameon=False)
    return figure


def redistorted_curves(data: pd.DataFrame) -> Figure:
    """How far scores fall as a distortion gets stronger, one panel a distortion; mean over pictures and splits.

    Args:
        data: columns recipe, distortion, level, score.
    """
    names = list(data["distortion"].unique())
    figure = Figure(figsize=(9.6, 2.4 * -(-len(names) // 4)), layout="constrained")
    grid = figure.subplots(-(-len(names) // 4), 4, sharey=True, squeeze=False).flat
    for axes in grid:
        axes.axis("off")
    for axes, name in zip(figure.axes, names):
        axes.axis("on")
        for (recipe, part), color in zip(
            data[data["distortion"] == name].groupby("recipe", sort=False), (BLUE, ORANGE)
        ):
            mean = part.groupby("level")["score"].mean()
            axes.plot(mean.index, mean, color=color, marker="o", ms=4, label=recipe)
        axes.set(title=name, xlabel="level", xticks=sorted(data["level"].unique()))
    figure.axes[0].set_ylabel("mean score")
    figure.axes[0].legend(frameon=False)
    return figure


def umap_thumbnails(data: pd.DataFrame, pictures: Mapping[str, np.ndarray], label: str, most: int = 70) -> Figure:
    """UMAP of two feature spaces side by side, pictures in the place of dots, their frames coloured by opinion.

    Args:
        data: columns recipe, image, x, y, mos.
        pictures: (H, W, 3) uint8 by image.
        label: what the scores are.
        most: how many pictures a panel; those that would lie upon others are left out first.
    """
    recipes, colours = list(data["recipe"].unique()), _colours(data["mos"])
    figure = Figure(figsize=(5.6 * len(recipes) + 0.7, 5.2), dpi=72, layout="constrained")
    panels = figure.subplots(1, len(recipes), squeeze=False)[0]
    for axes, recipe in zip(panels, recipes):
        part = data[data["recipe"] == recipe].reset_index(drop=True)
        place = part[["x", "y"]].to_numpy()
        axes.scatter(*place.T, s=0)
        for n in spread_out(place, most):
            small = OffsetImage(pictures[part["image"][n]], zoom=26 / max(pictures[part["image"][n]].shape[:2]))
            frame = dict(edgecolor=colours.to_rgba(part["mos"][n]), linewidth=2)
            axes.add_artist(AnnotationBbox(small, place[n], pad=0.08, bboxprops=frame))
        axes.set(title=recipe, xticks=[], yticks=[])
        axes.margins(0.06)
    figure.colorbar(colours, ax=panels, label=label, shrink=0.85)
    return figure


def _colours(values: pd.Series) -> ScalarMappable:
    return ScalarMappable(Normalize(values.min(), values.max()), cmap="viridis")


def spread_out(place: np.ndarray, most: int) -> list[int]:
    """Points that cover a cloud: each next one is the farthest from those chosen before.

    Args:
        place: (n, 2).
        most: how many.

    Returns:
        Their indices, `most` at most.
    """
    chosen, nearest = [0], np.linalg.norm(place - place[0], axis=1)
    while len(chosen) < min(most, len(place)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(place - place[chosen[-1]], axis=1))
    return chosen


def paired_differences(data: pd.DataFrame, baseline: str) -> Figure:
    """What each variant gains over a baseline: mean difference of PLCC and its interval.

    The axis ends at twice the largest difference; intervals of few splits may run out of the picture, which it tells.

    Args:
        data: columns title, pairs, difference, low, high; rows without pairs are left out.
        baseline: what the differences are taken from, for the axis.
    """
    rows = data[data["pairs"] > 0].reset_index(drop=True)
    figure = Figure(figsize=(5.8, 0.36 * max(len(rows), 1) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, lw=1)
    for n, row in rows.iterrows():
        axes.plot([row["low"], row["high"]], [n, n], color=BLUE, lw=2)
        axes.scatter([row["difference"]], [n], color=ORANGE, s=40, zorder=3)
    axes.set(xlabel=f"PLCC less that of {baseline}", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    end = 2 * rows["difference"].abs().max()
    if (rows[["low", "high"]].abs() > end).any(axis=None):
        axes.set(xlim=(-end, end), xlabel=f"PLCC less that of {baseline}\nsome intervals are longer than the axis")
    axes.set_yticklabels([f"{row.title} ({row.pairs} split{'s' * (row.pairs > 1)})" for row in rows.itertuples()])
    return figure


def share_curve(data: pd.DataFrame) -> Figure:
    """Agreement against the share of the data that was trained on, one dot a split.

    Args:
        data: columns share (percent), split, srcc, plcc.
    """
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.subplots()
    for metric, color in (("plcc", BLUE), ("srcc", ORANGE)):
        axes.scatter(data["share"], data[metric], color=color, s=14, alpha=0.5)
        median = data.groupby("share")[metric].median()
        axes.plot(median.index, median, color=color, lw=2, label=f"{metric.upper()}, median")
    axes.set(xlabel="share of the data to train on, in percent", xticks=sorted(data["share"].unique()))
    axes.set(ylabel="correlation with the labels")
    axes.legend(frameon=False, loc="lower right")
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
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8)
    figure.colorbar(dots, ax=panels, label=label, shrink=0.85)
    return figure


def costs(told: pd.DataFrame) -> Figure:
    """Rate of every contender, part by part; ours in blue.

    Args:
        told: from `bench.summary`: part, contender, size, unit, rate, lowest, highest.
    """
    groups = list(told.groupby(["part", "size"], sort=False, dropna=False))
    figure = Figure(figsize=(7.5, 0.6 * len(groups) + 0.3 * len(told)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw=dict(height_ratios=[len(g) for _, g in groups]))
    for axes, ((part, size), group) in zip(panels[:, 0], groups):
        spread = np.abs(group[["lowest", "highest"]].to_numpy() - group[["rate"]].to_numpy()).T
        colours = [BLUE if name.startswith("ours") else GREY for name in group["contender"]]
        axes.barh(group["contender"], group["rate"], xerr=spread, color=colours, ecolor="black", height=0.7)
        for place in np.flatnonzero(group["rate"].isna()):
            axes.text(0, place, " does not fit into memory", fontsize=8, color=GREY, va="center")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        at = "" if pd.isna(size) else f", {size:.0f} embeddings"
        axes.set_title(f"{part}{at}: {group['unit'].iloc[0]} a second", fontsize=9, loc="left")
    return figure


def growth(curves: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Seconds over size, both logarithmic, a panel for each thing that grows.

    Args:
        curves: the part "growth" of `bench.bench`: contender, size, seconds.
        slopes: from `bench.exponents`.
    """
    figure = Figure(figsize=(2.6 * len(slopes), 2.8), layout="constrained")
    for axes, slope in zip(figure.subplots(1, len(slopes), squeeze=False)[0], slopes.itertuples()):
        own = curves[curves["contender"] == slope.contender]
        middle = own.groupby("size")["seconds"].median()
        axes.loglog(own["size"], own["seconds"], ".", color=GREY, markersize=4)
        axes.loglog(middle.index, middle, "-", color=BLUE)
        axes.set_title(f"{slope.contender}\nexponent {slope.exponent:.2f}", fontsize=8)
        axes.set_xticks(middle.index, [f"{size:.0f}" for size in middle.index], fontsize=7, minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("seconds", fontsize=8)
    return figure

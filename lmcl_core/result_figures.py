"""Pictures of results, each drawn from one tidy table: metrics, published results, other benchmarks, hard examples.

As in `figures`, a function takes a DataFrame and returns a matplotlib ``Figure``; `figures.save` writes it.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .figures import BLUE, GREY, ORANGE


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

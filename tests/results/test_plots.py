"""The data that the figures of results show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmcl_core.results.plots import (
    against_published,
    benchmark_overview,
    cross_matrix,
    method_by_split,
    metric_bars,
    paired_differences,
    redistorted_curves,
    separation_bars,
    share_curve,
    farthest_points,
    umap_panels,
    umap_thumbnails,
)


def test_our_result_and_the_papers_are_marked_among_published_results():
    data = pd.DataFrame(
        dict(
            method=["ours (x)", "A", "B", "LML-IQA v1 (the paper)"],
            plcc=[0.85, 0.9, np.nan, 0.914],
            low=[0.8, np.nan, np.nan, np.nan],
            high=[0.9, np.nan, np.nan, np.nan],
        )
    )
    figure = against_published(data, "plcc")
    axes = figure.axes[0]
    dots = {part.get_label(): np.asarray(part.get_offsets()).tolist() for part in axes.collections[:3]}
    ours = "ours: median, lowest to highest split"
    assert dots == {"published": [[0.9, 1]], "the paper": [[0.914, 2]], ours: [[0.85, 0]]}
    assert len({len(part.get_paths()[0].vertices) for part in axes.collections[:3]}) > 1, "markers are a second cue"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours (x)", "A", "LML-IQA v1 (the paper)"]
    assert [list(line[:, 0]) for line in axes.collections[3].get_segments()] == [[0.8, 0.9]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(dots)


def test_separation_shows_the_mean_over_splits():
    rows = [
        dict(recipe=r, split=s, measure="m", value=v)
        for r, vs in (("no-manifold", (1, 3)), ("lmcl", (0, 1)))
        for s, v in enumerate(vs)
    ]
    axes = separation_bars(pd.DataFrame(rows)).axes[0]
    assert list(axes.lines[-1].get_ydata()) == [2, 0.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["without", "with"]
    assert axes.get_ylim() == (1.5 - 0.55 * 3, 1.5 + 0.55 * 3)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_measure_that_is_zero_or_missing_is_drawn_without_a_warning(value, recwarn):
    rows = [dict(recipe=r, split=0, measure="very_hard_pair_share", value=value) for r in ("no-manifold", "lmcl")]
    separation_bars(pd.DataFrame(rows))
    assert not recwarn.list


def test_small_changes_look_small():
    rows = [dict(recipe=r, split=0, measure="knn_mos_error", value=v) for r, v in (("no-manifold", 9), ("lmcl", 9.1))]
    axes = separation_bars(pd.DataFrame(rows)).axes[0]
    assert axes.get_ylim()[1] - axes.get_ylim()[0] == pytest.approx(0.2 * 9.1) and axes.get_ylabel() == "label units"


def test_images_in_hard_pairs_are_ringed_and_counted():
    data = pd.DataFrame(
        dict(
            recipe=["a"] * 4 + ["b"] * 4,
            x=range(8),
            y=range(8),
            mos=range(8),
            hard=[True, False, True, False, False, False, False, True],
        )
    )
    figure = umap_panels(data, "MOS")
    assert [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes[:2]] == [
        "in a hard pair (2)",
        "in a hard pair (1)",
    ]
    dots, black, white = figure.axes[0].collections
    assert np.asarray(black.get_offsets()).tolist() == np.asarray(white.get_offsets()).tolist() == [[0, 0], [2, 2]]
    assert black.get_linewidth() > white.get_linewidth() and (black.get_edgecolor() != white.get_edgecolor()).any()


def test_metric_bars_have_the_length_of_the_metrics():
    data = pd.DataFrame(dict(distortion=["a", "b"], srcc=[0.1, 0.2], plcc=[0.3, 0.4]))
    bars = [bar.get_width() for bar in metric_bars(data, "distortion").axes[0].patches]
    assert sorted(width for width in bars if width > 0) == [0.1, 0.2, 0.3, 0.4]


def test_the_overview_shows_only_benchmarks_with_runs_and_the_papers_claim():
    whole = pd.DataFrame(
        dict(benchmark=["csiq", "livec"], title=["CSIQ", "LIVEC"], splits=[0, 3], plcc=[np.nan, 0.85])
    ).assign(plcc_min=[np.nan, 0.8], plcc_max=[np.nan, 0.9])
    published = pd.DataFrame(
        dict(benchmark=["livec"] * 2, method=["LML-IQA v1 (the paper)", "other"], plcc=[0.914, 0.88])
    )
    axes = benchmark_overview(whole, published).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LIVEC (3 splits)"]
    dots = [[float(x) for x in dots.get_offsets()[:, 0]] for dots in axes.collections[:3]]
    assert dots == [[0.88], [0.914], [0.85]] and list(axes.collections[3].get_segments()[0][:, 0]) == [0.8, 0.9]


def test_the_cross_matrix_shows_medians_over_splits_and_leaves_missing_cells_empty():
    rows = [("live", "livec", 0.2), ("live", "livec", 0.4), ("live", "live", 0.9), ("live", "tid2013", np.nan)]
    data = pd.DataFrame(rows, columns=["train", "test", "srcc"]).assign(plcc=0.5)
    left = cross_matrix(data).axes[0]
    assert [text.get_text() for text in left.get_xticklabels()] == ["live", "livec", "tid2013"]
    assert [text.get_text() for text in left.texts] == ["0.900", "0.300"]


def test_paired_differences_show_every_variant_with_pairs_and_its_interval():
    data = pd.DataFrame(
        dict(title=["base", "a", "b"], pairs=[0, 3, 1], difference=[np.nan, 0.1, -0.2], low=[np.nan, 0.0, np.nan])
    ).assign(high=[np.nan, 0.2, np.nan])
    axes = paired_differences(data, "base").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (3 splits)", "b (1 split)"]
    intervals, means = axes.collections
    assert [float(x) for x in means.get_offsets()[:, 0]] == [0.1, -0.2]
    assert list(intervals.get_segments()[0][:, 0]) == [0.0, 0.2]


def test_long_intervals_do_not_stretch_the_axis():
    data = pd.DataFrame(dict(title=["a", "b"], pairs=2, difference=[0.1, -0.2], low=[0.0, -4.0], high=[0.2, 3.6]))
    axes = paired_differences(data, "base").axes[0]
    assert axes.get_xlim() == (-0.4, 0.4) and "longer than the axis" in axes.get_xlabel()
    axes = paired_differences(data.assign(low=-0.3, high=0.3), "base").axes[0]
    assert "longer" not in axes.get_xlabel()
    low, high = paired_differences(data.assign(difference=0.0), "base").axes[0].get_xlim()
    assert low <= -4 and high >= 3.6, "without a difference the intervals give the axis its range"


def test_the_share_curve_goes_through_the_medians():
    data = pd.DataFrame(dict(share=[20, 20, 20, 80], split=[0, 1, 2, 0], plcc=[0.5, 0.6, 0.9, 0.95], srcc=0.4))
    axes = share_curve(data).axes[0]
    assert list(axes.lines[0].get_ydata()) == [0.6, 0.95] and list(axes.lines[0].get_xdata()) == [20, 80]


def test_redistorted_curves_are_means_by_level_in_one_panel_a_distortion():
    rows = [
        dict(recipe=r, distortion=d, level=n, score=10 * n + i)
        for r in ("no-manifold", "lmcl")
        for d in ("a", "b", "c", "d", "e")
        for n in (0, 1)
        for i in (0, 2)
    ]
    figure = redistorted_curves(pd.DataFrame(rows))
    drawn = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in drawn] == ["a", "b", "c", "d", "e"]
    assert [list(line.get_ydata()) for line in drawn[4].lines] == [[1, 11], [1, 11]]


def test_farthest_points_are_far_apart_and_distinct():
    place = np.array([[0.0, 0], [0.1, 0], [10, 0], [0, 10], [10.1, 0]])
    assert farthest_points(place, 3) == [0, 4, 3]
    assert sorted(farthest_points(place, 99)) == [0, 1, 2, 3, 4]


def test_thumbnails_are_placed_at_their_points_in_every_panel():
    data = pd.DataFrame(
        dict(recipe=["a"] * 3 + ["b"] * 3, image=list("xyz") * 2, x=range(6), y=range(6), mos=[1.0, 2, 3] * 2)
    )
    images = {name: np.zeros((20, 30, 3), dtype=np.uint8) for name in "xyz"}
    panels = umap_thumbnails(data, images, "MOS", most=2).axes[:2]
    assert [len(axes.artists) for axes in panels] == [2, 2]
    assert [tuple(box.xy) for box in panels[1].artists] == [(3, 3), (5, 5)]


def test_method_and_quality_loss_are_told_apart_on_every_split():
    rows = [(r, n, v) for r, values in (("lmcl", (0.8, 0.9)), ("quality", (0.85, 0.7))) for n, v in enumerate(values)]
    axes = method_by_split(pd.DataFrame(rows, columns=["recipe", "split", "plcc"])).axes[0]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "quality loss alone": [0.85, 0.7],
        "the method": [0.8, 0.9],
    }
    assert len({line.get_marker() for line in axes.lines}) == 2

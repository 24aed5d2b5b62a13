"""The data that the figures of results show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmcl_core.results import plots

BOTH = ("no-manifold", "lmcl")


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_our_result_and_the_papers_are_marked_among_published_results():
    methods = ["ours (x)", "A", "B", "LML-IQA v1 (the paper)"]
    nothing = [np.nan] * 3
    data = pd.DataFrame(
        dict(method=methods, plcc=[0.85, 0.9, np.nan, 0.914], low=[0.8, *nothing], high=[0.9, *nothing])
    )
    axes = plots.against_published(data, "plcc").axes[0]
    dots = {part.get_label(): np.asarray(part.get_offsets()).tolist() for part in axes.collections[:3]}
    ours = "ours: median, lowest to highest split"
    assert dots == {"published": [[0.9, 1]], "the paper": [[0.914, 2]], ours: [[0.85, 0]]}
    assert len({len(part.get_paths()[0].vertices) for part in axes.collections[:3]}) > 1, "markers are a second cue"
    assert labels(axes) == ["ours (x)", "A", "LML-IQA v1 (the paper)"]
    assert [list(line[:, 0]) for line in axes.collections[3].get_segments()] == [[0.8, 0.9]]


@pytest.mark.parametrize("values, half", [([1, 3, 0, 1], 0.55 * 3), ([9, 9, 9.1, 9.1], 0.1 * 9.1), ([0.0] * 4, None)])
def test_separation_shows_the_mean_over_splits_and_small_changes_look_small(values, half, recwarn):
    rows = [dict(recipe=BOTH[n // 2], split=n % 2, measure="knn_mos_error", value=v) for n, v in enumerate(values)]
    axes = plots.separation_bars(pd.DataFrame(rows)).axes[0]
    assert list(axes.lines[-1].get_ydata()) == [np.mean(values[:2]), np.mean(values[2:])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["without", "with"] and not recwarn.list
    assert half is None or np.ptp(axes.get_ylim()) == pytest.approx(2 * half)


def test_the_cross_matrix_shows_medians_over_splits_and_leaves_missing_cells_empty():
    rows = [("live", "livec", 0.2), ("live", "livec", 0.4), ("live", "live", 0.9), ("live", "tid2013", np.nan)]
    data = pd.DataFrame(rows, columns=["train", "test", "srcc"]).assign(plcc=0.5)
    left = plots.cross_matrix(data).axes[0]
    assert [text.get_text() for text in left.get_xticklabels()] == ["live", "livec", "tid2013"]
    assert [text.get_text() for text in left.texts] == ["0.900", "0.300"]


def test_paired_differences_show_every_variant_with_pairs_and_long_intervals_do_not_stretch_the_axis():
    data = pd.DataFrame(dict(title=["base", "a", "b"], pairs=[0, 3, 1], difference=[np.nan, 0.1, -0.2]))
    data = data.assign(low=[np.nan, 0.0, -4.0], high=[np.nan, 0.2, 3.6])
    axes = plots.paired_differences(data, "base").axes[0]
    intervals, means = axes.collections
    assert labels(axes) == ["a (3 splits)", "b (1 split)"] and list(intervals.get_segments()[0][:, 0]) == [0.0, 0.2]
    assert [float(x) for x in means.get_offsets()[:, 0]] == [0.1, -0.2]
    assert axes.get_xlim() == (-0.4, 0.4) and "longer than the axis" in axes.get_xlabel()
    assert "longer" not in plots.paired_differences(data.assign(low=-0.3, high=0.3), "base").axes[0].get_xlabel()


def test_curves_of_redistorted_images_and_of_shares_go_through_means_and_medians():
    levels = [dict(recipe=r, distortion="a", level=n, score=10 * n + i) for r in BOTH for n in (0, 1) for i in (0, 2)]
    drawn = plots.redistorted_curves(pd.DataFrame(levels)).axes[0]
    assert drawn.get_title() == "a" and [list(line.get_ydata()) for line in drawn.lines] == [[1, 11], [1, 11]]
    data = pd.DataFrame(dict(share=[20, 20, 20, 80], split=[0, 1, 2, 0], plcc=[0.5, 0.6, 0.9, 0.95], srcc=0.4))
    line = plots.share_curve(data).axes[0].lines[0]
    assert list(line.get_ydata()) == [0.6, 0.95] and list(line.get_xdata()) == [20, 80]


def test_images_in_hard_pairs_are_ringed_and_counted_and_thumbnails_lie_at_their_points():
    data = pd.DataFrame(dict(recipe=["a"] * 3 + ["b"] * 3, image=list("xyz") * 2, x=range(6), y=range(6)))
    data = data.assign(mos=[1.0, 2, 3] * 2, hard=[True, False, True, False, False, True])
    panels = plots.umap_panels(data, "MOS").axes[:2]
    counts = [axes.get_legend().get_texts()[0].get_text() for axes in panels]
    assert counts == ["in a hard pair (2)", "in a hard pair (1)"]
    _, black, white = panels[0].collections
    assert np.asarray(black.get_offsets()).tolist() == np.asarray(white.get_offsets()).tolist() == [[0, 0], [2, 2]]
    assert plots.farthest_points(np.array([[0.0, 0], [0.1, 0], [10, 0], [0, 10], [10.1, 0]]), 3) == [0, 4, 3]
    images = {name: np.zeros((20, 30, 3), dtype=np.uint8) for name in "xyz"}
    shown = plots.umap_thumbnails(data, images, "MOS", most=2).axes[1]
    assert [tuple(box.xy) for box in shown.artists] == [(3, 3), (5, 5)]

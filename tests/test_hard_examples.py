"""Hard examples against plain loops over pairs of pictures and of crops."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError
from lmcl_core.hard_examples import (
    Features,
    check_measures,
    closest_hard_pairs,
    cosine_distance,
    distance_rank,
    hard_pairs,
    intra_image_spread,
    separation,
    umap_coordinates,
)


def described(n=12, K=3, C=4, seed=0):
    rng = np.random.default_rng(seed)
    crop_feature = (rng.normal(size=(n, 1, C)) + 0.5 * rng.normal(size=(n, K, C))).astype(np.float32)
    mos = rng.uniform(0, 100, n)
    return Features(
        np.array([f"{i}.png" for i in range(n)]), mos, mos + rng.normal(size=n), crop_feature.mean(axis=1), crop_feature
    )


def angle(a, b):
    """1 - cosine of two lists of numbers."""
    dot = sum(x * y for x, y in zip(a, b))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def distances_by_loops(feature):
    rows = feature.astype(float).tolist()
    center = [sum(column) / len(rows) for column in zip(*rows)]
    rows = [[x - c for x, c in zip(row, center)] for row in rows]
    return [[angle(a, b) for b in rows] for a in rows]


def test_distances_equal_plain_loops_and_no_picture_is_its_own_neighbour():
    feature = described().feature
    distance, expected = cosine_distance(feature), distances_by_loops(feature)
    assert np.isinf(np.diag(distance)).all()
    for i in range(12):
        for j in set(range(12)) - {i}:
            assert distance[i, j] == pytest.approx(expected[i][j], abs=1e-5)


def test_hard_pairs_equal_plain_loops():
    for neighbours in [1, 3, 11]:
        for gap in [0.5, 1.0]:
            what = described()
            distance, mos = distances_by_loops(what.feature), what.mos.tolist()
            mean = sum(mos) / 12
            deviation = math.sqrt(sum((m - mean) ** 2 for m in mos) / 12)
            pairs = hard_pairs(what, neighbours, gap)
            assert len(pairs) == 12 * neighbours and list(pairs.columns) == ["a", "b", "distance", "mos_gap", "hard"]
            rows = pairs.itertuples(index=False)
            for i in range(12):
                for j in sorted(set(range(12)) - {i}, key=lambda j: distance[i][j])[:neighbours]:
                    row = next(rows)
                    apart = abs(mos[i] - mos[j]) / deviation
                    assert (row.a, row.b, row.hard) == (i, j, apart >= gap)
                    assert (row.distance, row.mos_gap) == pytest.approx((distance[i][j], apart), abs=1e-5)


def test_neighbours_and_gaps_out_of_range_are_refused():
    check_measures(12, 11, 1.0, 1.0)
    for gap, wide_gap in [(0, 1), (2, 1), (1, float("inf"))]:
        with pytest.raises(InputError, match=f"gap is {gap}, wide_gap {wide_gap}"):
            check_measures(12, 11, gap, wide_gap)
    for neighbours in (0, 12):
        with pytest.raises(InputError, match=f"neighbours is {neighbours}: it must lie in 1..11"):
            hard_pairs(described(), neighbours)


def test_the_closest_hard_pairs_use_no_picture_twice_and_are_chosen_greedily():
    pairs = pd.DataFrame(
        [
            (0, 1, 0.5, 2.0, True),
            (1, 0, 0.5, 2.0, True),
            (2, 1, 0.1, 0.1, False),
            (1, 3, 0.2, 3.0, True),
            (4, 5, 0.9, 1.5, True),
            (2, 4, 1.0, 1.5, True),
        ],
        columns=["a", "b", "distance", "mos_gap", "hard"],
    )
    assert closest_hard_pairs(pairs, 5)[["a", "b"]].to_numpy().tolist() == [[1, 3], [4, 5]]
    assert closest_hard_pairs(pairs, 1)[["a", "b", "distance"]].to_numpy().tolist() == [[1, 3, 0.2]]
    none = closest_hard_pairs(hard_pairs(described(), 3, gap=100.0), 3)
    assert len(none) == 0 and list(none.columns) == ["a", "b", "distance", "mos_gap", "hard"]


def test_the_rank_of_a_distance_is_the_share_of_closer_pairs():
    feature = described().feature
    distance = distances_by_loops(feature)
    every = [distance[i][j] for i in range(12) for j in range(i)]
    a, b = pd.Series([0, 5, 11, 3], index=[4, 2, 9, 1]), pd.Series([1, 2, 0, 8], index=[4, 2, 9, 1])
    expected = [100 * sum(d < distance[i][j] - 1e-9 for d in every) / len(every) for i, j in zip(a, b)]
    assert distance_rank(feature, a, b).tolist() == pytest.approx(expected)
    assert distance_rank(feature, b, a).tolist() == pytest.approx(expected)


def spread_by_loops(crop_feature):
    n, K, C = crop_feature.shape
    flat = crop_feature.reshape(n * K, C).astype(float)
    rows = (flat - flat.mean(axis=0)).tolist()
    within, between = [], []
    for p in range(n * K):
        for q in range(n * K):
            if p != q:
                (within if p // K == q // K else between).append(angle(rows[p], rows[q]))
    return (sum(within) / len(within)) / (sum(between) / len(between))


def test_the_intra_image_spread_equals_plain_loops():
    for n, K, C in [(2, 2, 3), (5, 3, 4), (4, 6, 2), (8, 2, 16)]:
        for seed in range(3):
            crop_feature = described(n, K, C, seed).crop_feature
            assert intra_image_spread(crop_feature) == pytest.approx(spread_by_loops(crop_feature), abs=1e-5)


def test_separation_equals_plain_loops():
    what = described()
    result, distance = separation(what, 3, 0.8, 1.2), distances_by_loops(what.feature)
    errors, hard, very = [], [], []
    for i in range(12):
        near = sorted(set(range(12)) - {i}, key=lambda j: distance[i][j])[:3]
        errors.append(abs(sum(what.mos[j] for j in near) / 3 - what.mos[i]))
        hard += [abs(what.mos[i] - what.mos[j]) / np.std(what.mos) >= 0.8 for j in near]
        very += [abs(what.mos[i] - what.mos[j]) / np.std(what.mos) >= 1.2 for j in near]
    assert sum(very) < sum(hard)
    assert result == pytest.approx(
        dict(
            hard_pair_share=sum(hard) / 36,
            very_hard_pair_share=sum(very) / 36,
            knn_mos_error=sum(errors) / 12,
            intra_image_spread=spread_by_loops(what.crop_feature),
        ),
        abs=1e-5,
    )


def test_umap_is_asked_for_no_more_neighbours_than_there_are(monkeypatch):
    asked = {}

    class Umap:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, feature):
            assert np.allclose(feature.mean(axis=0), 0, atol=1e-6)
            return feature[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    assert umap_coordinates(described().feature, 30, seed=4).shape == (12, 2)
    assert asked["n_neighbors"] == 11 and asked["random_state"] == 4
    umap_coordinates(described().feature, 5)
    assert asked["n_neighbors"] == 5

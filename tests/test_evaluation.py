"""Metrics against scipy, their bootstrap, and what is seen of a picture through the test grid."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmcl_core import InputError, bootstrap_interval, metrics
from lmcl_core.evaluation import by_distortion


def related(n=80, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 100, n)
    return mos / 10 + noise * rng.normal(size=n), mos


def test_metrics_equal_those_of_scipy():
    for seed in range(5):
        pred, mos = related(seed=seed, noise=2.0)
        pred[3:6], mos[10:12] = pred[3], mos[10]  # ties
        result = metrics(pred=pred, mos=mos)
        assert result["srcc"] == pytest.approx(stats.spearmanr(pred, mos)[0])
        assert result["plcc"] == pytest.approx(stats.pearsonr(pred, mos)[0])
        assert result["krcc"] == pytest.approx(stats.kendalltau(pred, mos)[0])
        assert result["rmse"] == pytest.approx(math.sqrt(sum((p - m) ** 2 for p, m in zip(pred, mos)) / 80))
        assert result["n"] == 80
        assert set(result) == {"srcc", "plcc", "plcc_logistic", "krcc", "rmse", "n"}


def test_a_reversed_prediction_is_negative():
    pred, mos = related()
    straight, turned = metrics(pred=pred, mos=mos), metrics(pred=list(-pred), mos=pd.Series(mos))
    for name in ("srcc", "plcc", "krcc"):
        assert turned[name] == pytest.approx(-straight[name]) and turned[name] < -0.8
    assert turned["plcc_logistic"] < 0 and all(type(value) in (float, int) for value in turned.values())


def test_the_logistic_fit_straightens_a_logistic_relation():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pred = rng.normal(size=100)
        mos = 20 + 60 / (1 + np.exp(-4 * (pred - 0.3))) + rng.normal(size=100)
        result = metrics(pred=pred, mos=mos)
        assert result["plcc_logistic"] > 0.997 > 0.97 > result["plcc"]


def test_the_logistic_fit_does_not_harm_other_relations():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pred = rng.normal(size=rng.integers(5, 60))
        mos = 2 * pred + rng.normal(size=len(pred)) * rng.uniform(0, 3)
        result = metrics(pred=pred, mos=mos)
        assert result["plcc_logistic"] >= result["plcc"] - 1e-3


@pytest.mark.parametrize(
    "pred, mos, message",
    [
        ([1, 1, 1], [1, 2, 3], "pred is constant (1.0): its correlation is undefined; check the values"),
        ([1, math.nan, 3], [1, 2, 3], "pred holds 1 values that are not finite: leave these images out"),
        ([1, 2, 3], [1, 2], "pred (3,) and mos (2,): both must hold one number per image"),
        ([1e308, -1e308, 0], [1, 2, 3], "pred holds 1e+308: beyond 1e100, metrics overflow"),
        ([1j, 2, 3], [1, 2, 3], "pred and mos must be real numbers: they hold complex ones"),
        ([1, 2], [1, 2], "only 2 pairs: a correlation needs at least 3"),
    ],
)
def test_unusable_pairs_are_refused(pred, mos, message):
    for function in (metrics, bootstrap_interval):
        with pytest.raises(ValueError) as error:
            function(pred=pred, mos=mos)
        assert str(error.value) == message


def test_the_bootstrap_interval_equals_a_plain_bootstrap():
    for statistic, reference in [("srcc", stats.spearmanr), ("plcc", stats.pearsonr)]:
        pred, mos = related(40, noise=3.0)
        rng = np.random.default_rng(99)
        plain = [reference(pred[rows], mos[rows])[0] for rows in rng.integers(0, 40, (500, 40))]
        options = dict(statistic=statistic, level=0.8, draws=1000)
        interval = bootstrap_interval(pred=pred, mos=mos, **options)
        assert interval == pytest.approx(np.percentile(plain, [10, 90]), abs=0.04)
        assert interval == bootstrap_interval(pred=pred, mos=mos, **options), "it is seeded"
    with pytest.raises(InputError, match="statistic is 'krcc': it must be 'srcc' or 'plcc'"):
        bootstrap_interval(pred=pred, mos=mos, statistic="krcc")


def test_few_contents_make_no_interval_however_many_pictures_they_have():
    pred, mos = related(60)
    for contents, known in ((5, False), (6, True)):
        ends = bootstrap_interval(pred=pred, mos=mos, content=[f"c{n % contents}" for n in range(60)])
        assert np.isfinite(ends).all() == known


def test_metrics_by_distortion_are_those_of_each_group():
    pred, mos = related(30, noise=2.0)
    kind = np.array(["blur"] * 12 + ["noise"] * 14 + ["rare"] * 2 + [pd.NA] * 2, dtype=object)
    predictions = pd.DataFrame(dict(split=0, distortion=kind, mos=mos, pred=pred)).sample(frac=1, random_state=0)
    result = by_distortion(predictions).set_index("distortion")
    assert list(result.index) == ["blur", "noise"]
    for name, rows in [("blur", slice(0, 12)), ("noise", slice(12, 26))]:
        expected = metrics(pred=pred[rows], mos=mos[rows])
        assert result.loc[name].to_dict() == pytest.approx({k: expected[k] for k in ("srcc", "plcc", "rmse", "n")})


def test_metrics_by_distortion_are_medians_over_splits_and_never_mix_models():
    offsets = {0: 0.0, 1: 1000.0, 2: -1000.0}  # pooled, these would drown the agreement within each split
    parts = [
        pd.DataFrame(dict(split=s, distortion="blur", mos=[1.0, 2, 3], pred=[1 + o, 2 + o, 3 + o]))
        for s, o in offsets.items()
    ]
    result = by_distortion(pd.concat(parts))
    assert result.loc[0, "plcc"] == pytest.approx(1) and result.loc[0, "rmse"] == 1000 and result.loc[0, "n"] == 9
    assert len(by_distortion(parts[0].assign(distortion=pd.NA))) == 0


def test_the_interval_over_contents_is_wider_where_pictures_of_one_content_err_together():
    rng = np.random.default_rng(0)
    content = np.repeat(np.arange(6), 20)
    mos = rng.uniform(0, 10, 120)
    pred = mos + 6 * rng.normal(size=6)[content]
    low, high = bootstrap_interval(pred=pred, mos=mos)
    wide_low, wide_high = bootstrap_interval(pred=pred, mos=mos, content=content)
    assert wide_high - wide_low > 1.5 * (high - low)

"""Verdicts follow from the numbers, and tables hold only what there is."""

from __future__ import annotations

import numpy as np
import pandas as pd


from lmcl_core.results import words
from lmcl_core.results.words import Table


def test_a_verdict_is_what_the_interval_allows():
    for low, high, expected in [
        (0.01, 0.04, "higher"),
        (-0.04, -0.01, "lower"),
        (-0.0062, 0.002, "no difference larger than 0.007"),
        (-0.1, 0.002, "undecided"),
        (np.nan, np.nan, "no interval"),
    ]:
        assert words.verdict(low, high, limit=0.05) == expected


def test_a_conclusion_names_every_row_once_under_its_verdict():
    found = ["lower", "no difference larger than 0.007", "lower", "no difference larger than 0.050"]
    assert words.conclusion("abcd", found).splitlines() == [
        "lower: a; c",
        "no difference larger than the number in brackets: b (0.007); d (0.050)",
    ]
    assert words.conclusion("abcd", ["undecided"] * 4) == "undecided: all 4"
    assert words.conclusion([], []) == "nothing to compare"


def test_a_table_has_dashes_for_nothing_signs_for_differences_and_notes_below():
    frame = pd.DataFrame(dict(name=["a|b", ""], n=[1, 2], PLCC=[0.12345, np.nan], difference=[0.2, -1e-9]))
    assert repr(Table(frame, notes=["[1] source"])).splitlines() == [
        "| name | n | PLCC | difference |",
        "| --- | --- | --- | --- |",
        "| a\\|b | 1 | 0.123 | +0.200 |",
        "| – | 2 | – | +0.000 |",
        "",
        "[1] source",
    ]
    assert repr(Table(frame[:0], notes=["nothing was run"])).strip() == "nothing was run"


def test_benchmarks_without_a_folder_share_a_line():
    reasons = dict(live="missing_folder: /data: no LIVE", csiq="bad_label_row: line 3", spaq="missing_folder: no SPAQ")
    lines = ["csiq: left out: bad_label_row: line 3", "left out, their folders are missing: live, spaq"]
    assert words.left_out(reasons) == lines and words.left_out({}) == []


def test_a_trend_is_told_from_the_first_and_the_last_value():
    assert words.trend("loss", [0.5, 0.9, 0.25]) == "loss decreased from 0.500 to 0.250"
    assert words.trend("PLCC", [0.5, 0.6]) == "PLCC increased from 0.500 to 0.600"
    assert words.trend("PLCC", [0.5]) == "PLCC: 0.500"


def test_a_distortion_whose_mean_rises_once_is_named():
    rows = [("a", 1, 3.0), ("a", 2, 2.0), ("a", 3, 1.0), ("b", 1, 3.0), ("b", 2, 1.0), ("b", 3, 2.0)]
    data = pd.DataFrame(rows, columns=["distortion", "level", "mos"])
    expected = "the mean decreases at every level for 1 of 2 distortions; not for b"
    assert words.falling(data, "distortion", "mos") == expected

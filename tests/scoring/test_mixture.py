"""The training data of the bundled weights `general`."""

from __future__ import annotations

import numpy as np
import pytest

from lmcl_core import InputError, Recipe, load_benchmark, make_split, train, verify_benchmark
from lmcl_core.scoring.mixture import LEAST_STEP, falling, main, write_mixture

SMALL = dict(backbone="resnet18", pretrained=False, crop_size=32, crops=2, test_crops=2, epochs=1, precision="32-true")


@pytest.fixture
def runs(livec, own, tmp_path):
    folders = []
    for name, table in (("livec", load_benchmark("livec", livec)), ("own", load_benchmark(str(own)))):
        table["mos"] += np.linspace(0, 1e-3, len(table))
        train(table, make_split(table, 0, test=0.34), Recipe(**SMALL), tmp_path / name, "cpu", log=lambda line: None)
        folders.append(tmp_path / name)
    return tuple(folders)


def test_labels_fall_with_the_level_and_start_below_the_photograph():
    assert falling(60, [-5, 2, -30, -10, -9]).tolist() == [57, 54, 51, 48, 30]
    assert falling(4, [0, 0, -9]).tolist() == [1, 0, 0]
    assert LEAST_STEP == 3


@pytest.mark.slow
def test_the_folder_is_a_benchmark_whose_test_part_is_that_of_livec(runs, livec, own, tmp_path):
    labels = write_mixture(runs, livec, own, tmp_path / "general", photographs=3)
    assert verify_benchmark(str(tmp_path / "general"), None) == []
    table, original = load_benchmark(str(tmp_path / "general")), load_benchmark("livec", livec)
    split, livec_split = make_split(table, "official"), make_split(original, 0)
    np.testing.assert_allclose(
        np.sort(table["mos"].iloc[split.test]), np.sort(original["mos"].iloc[livec_split.test]), atol=1e-4
    )
    own_table = load_benchmark(str(own))
    assert len(split.train) == len(livec_split.train) + len(make_split(own_table, 0).train) + 3 * 5
    distorted = labels[labels["level"].notna() & labels["image"].str.contains("distorted")]
    parts = distorted.groupby(distorted["image"].str[:-6])
    assert len(parts) == 3 and all((np.diff(part["mos"]) < 0).all() for _, part in parts)
    assert set(distorted["content"]) <= set(labels.loc[labels["image"].str.contains("/livec-"), "content"])


@pytest.mark.slow
def test_other_runs_and_existing_folders_are_refused(runs, livec, own, tmp_path, capsys):
    with pytest.raises(InputError, match="own is not a finished run of split 0 of livec"):
        write_mixture(runs[::-1], livec, own, tmp_path / "general")
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, runs), str(livec), str(own), str(tmp_path)])
    assert capsys.readouterr().err == f"mixture: {tmp_path} exists: name a new folder\n"

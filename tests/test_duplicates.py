"""Near-duplicates: the same scene under another name is found, other scenes are not; what it changes is counted."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data

from lmcl_core import InputError, duplicates, load_benchmark, make_split, metrics, records
from lmcl_core.duplicates import (
    effect,
    errors,
    identical_pictures,
    near_duplicates,
    recorded_predictions,
    seen_in_training,
)

_SCENES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins")


@pytest.fixture
def table(livec):
    """The tiny benchmark, of six photographs; the next three are the first three again: a copy of the file, another
    size, another crop."""
    paths = sorted((livec / "ChallengeDB_release" / "Images").glob("*.*"))
    scenes = [Image.fromarray(getattr(data, name)()).convert("RGB").resize((300, 240)) for name in _SCENES]
    others = [None, scenes[1].resize((280, 230)), scenes[2].crop((6, 4, 300, 236))]
    kinds = {".JPG": "JPEG", ".bmp": "BMP"}
    for path, scene in zip(paths, [*scenes, *others]):
        if scene is not None:
            scene.save(path, kinds[path.suffix])
    shutil.copy(paths[0], paths[6])
    table = load_benchmark("livec", livec)
    order = {path.name: number for number, path in enumerate(paths)}
    numbers = table["image"].map(lambda image: order.get(image.rsplit("/", 1)[-1], 99))
    return table[numbers < 9].iloc[np.argsort(numbers[numbers < 9], kind="stable")].reset_index(drop=True)


def pairs_of(table, found) -> set[frozenset[int]]:
    place = {image: row for row, image in enumerate(table["image"])}
    return {frozenset((place[one], place[other])) for one, other in zip(found["image"], found["other"])}


def test_a_copy_of_a_file_is_found_and_nothing_else(table):
    assert pairs_of(table, identical_pictures(table)) == {frozenset((0, 6))}


def test_pictures_of_one_content_are_not_told(table):
    assert identical_pictures(table.assign(content="the same")).empty
    assert near_duplicates(table.assign(content="the same"), 0.1).empty


@pytest.mark.parametrize("at_a_time", [1024, 2, 1])
def test_the_same_scene_is_found_and_another_is_not(table, monkeypatch, at_a_time):
    monkeypatch.setattr(duplicates, "_ROWS", at_a_time)
    found = near_duplicates(table)
    assert pairs_of(table, found) == {frozenset(pair) for pair in ((0, 6), (1, 7), (2, 8))}
    assert found["similarity"].is_monotonic_decreasing and found["similarity"].iloc[0] == pytest.approx(1, abs=1e-5)
    assert found["identical"].sum() == 1 and pairs_of(table, found[found["identical"]]) == {frozenset((0, 6))}


@pytest.mark.parametrize("similarity", [0, -1, 1.5, float("nan")])
def test_a_similarity_out_of_range_is_refused(table, similarity):
    with pytest.raises(InputError, match="it must be above 0 and at most 1"):
        near_duplicates(table, similarity)


@pytest.fixture
def tested():
    """Twenty pictures with predictions of split 0, two pairs of them across its border and one within its test part."""
    rng = np.random.default_rng(0)
    names = [f"{n}.jpg" for n in range(20)]
    table = pd.DataFrame(dict(image=names, content=names, mos=rng.uniform(0, 100, 20)))
    split = make_split(table, 0)
    (a, b, c, d), (x, y) = (table["image"].to_numpy()[part[:n]] for part, n in ((split.test, 4), (split.train, 2)))
    pairs = pd.DataFrame(dict(image=[a, y, c], other=[x, b, d]))
    test = table.iloc[split.test]
    return table, split, pairs, test.assign(split=0, pred=test["mos"] + [8.0, -8, 1, -1])


def test_test_pictures_count_whose_scene_is_trained_on_whichever_is_named_first(tested):
    table, split, pairs, _ = tested
    assert seen_in_training(table, split, pairs).tolist() == split.test[:2].tolist()
    assert seen_in_training(table, split, pairs.head(0)).size == 0


def test_the_effect_is_the_plcc_of_the_others(tested):
    table, split, pairs, predictions = tested
    predictions = pd.concat([predictions, predictions.assign(split=0)], ignore_index=True)  # 8, so that 4 are left
    (row,) = effect(table, pairs, predictions).to_dict("records")
    kept = predictions[predictions["image"].isin(table["image"].iloc[split.test[2:]])]
    assert (row["split"], row["test"], row["again"]) == (0, 8, 4)
    assert row["plcc"] == pytest.approx(metrics(pred=predictions["pred"], mos=predictions["mos"])["plcc"])
    assert row["plcc_without"] == pytest.approx(metrics(pred=kept["pred"], mos=kept["mos"])["plcc"])


def test_errors_are_told_by_where_the_scene_was(tested):
    table, _, pairs, predictions = tested
    found = errors(table, pairs, predictions).set_index("kind")
    assert found["predictions"].to_dict() == {"near-duplicate not trained on": 2, "near-duplicate trained on": 2}
    assert found["rmse"].tolist() == pytest.approx([1, 8]) and found["mae"].tolist() == pytest.approx([1, 8])
    alone = errors(table, pairs.head(0), predictions)
    assert alone["kind"].tolist() == ["no near-duplicate"] and alone["predictions"].tolist() == [4]


def test_the_command_writes_three_tables(livec, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMCL_FIGURES", str(tmp_path))
    shutil.copy(*sorted((livec / "ChallengeDB_release" / "Images").glob("*.bmp"))[:2])
    duplicates.main(["livec", str(livec)])
    pairs = pd.read_csv(tmp_path / "livec" / "duplicates.csv")
    assert pairs["identical"].sum() == 1 and "duplicates_by_split.csv" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "livec" / "duplicates_errors.csv").empty  # records are of other data
    with pytest.raises(SystemExit) as ended:
        duplicates.main(["livec"])
    assert ended.value.code == 2 and "use: python" in capsys.readouterr().err


def test_recorded_predictions_are_those_on_record():
    demo = load_benchmark("demo", None)
    found, known = recorded_predictions(demo), records.read_records(records.committed("demo"))
    method = known[known["name"] == "lmcl"].set_index("split")
    assert set(found["split"]) == set(method.index) and len(method)
    for index, part in found.groupby("split"):
        assert metrics(pred=part["pred"], mos=part["mos"])["plcc"] == pytest.approx(method.loc[index, "plcc"], abs=1e-4)

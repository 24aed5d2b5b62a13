"""Features of a run are computed once, and again when the run changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from lmcl_core import InputError, load, load_benchmark
from lmcl_core.crops import fixed_boxes, random_boxes, sampler_of
from lmcl_core.inference import Prediction
from lmcl_core.results import features
from lmcl_core.results.features import FEATURES, features_of_run


@pytest.fixture
def run(livec, tmp_path, put_model):
    """A folder with the model and the predictions of a finished run, and its table."""
    table = load_benchmark("livec", livec)
    folder = put_model(tmp_path / "run", table)
    rows = table.iloc[[7, 2, 5]]
    predictions = pd.DataFrame(dict(image=rows["image"], mos=rows["mos"], pred=[1.0, 2.0, 3.0]))
    predictions.to_csv(folder / "predictions.csv", index=False)
    return folder, table


def test_features_are_those_of_the_model_in_the_order_of_image_names(run):
    folder, table = run
    found, scorer = features_of_run(folder, table), load(folder)
    assert found.image.tolist() == table["image"].iloc[[2, 5, 7]].tolist() and found.pred.tolist() == [2, 3, 1]
    assert found.feature.shape == (3, 1280) and found.crop_feature.shape == (3, 3 + 2, 1280)
    assert found.crop_feature.dtype == np.float16
    for row, name in enumerate(found.image):
        (predicted,) = scorer.predict([scorer.prepare(f"{table.attrs['root']}/{name}")])
        assert np.allclose(found.crop_feature[row], predicted.feature[0], rtol=1e-3, atol=1e-4)
        mean = (predicted.weights[0][:, None] * predicted.feature[0]).sum(dim=0)
        assert np.allclose(found.feature[row], mean, atol=1e-4)


def test_features_are_kept_until_the_model_or_its_test_part_changes(run, monkeypatch):
    folder, table = run
    calls, compute = [], features._compute
    monkeypatch.setattr(features, "_compute", lambda *args: calls.append(args) or compute(*args))
    first, second = features_of_run(folder, table), features_of_run(folder, table)
    assert len(calls) == 1 and np.array_equal(first.crop_feature, second.crop_feature)
    assert second.image.tolist() == first.image.tolist() and second.mos.tolist() == first.mos.tolist()
    pd.read_csv(folder / "predictions.csv").iloc[:2].to_csv(folder / "predictions.csv", index=False)
    assert len(features_of_run(folder, table).image) == 2 and len(calls) == 2
    with np.load(folder / FEATURES) as kept:
        reverse = {name: kept[name] if name == "made_from" else kept[name][::-1] for name in kept.files}
    np.savez(folder / FEATURES, **reverse)
    assert features_of_run(folder, table).image.tolist() == reverse["image"][::-1].tolist() and len(calls) == 3
    features_of_run(folder, table.assign(mos=table["mos"] + 1))  # other data
    assert len(calls) == 4


def test_random_crops_change_the_correlation_and_are_always_the_same(run):
    folder, table = run
    pd.DataFrame(dict(image=table["image"], mos=table["mos"], pred=0.0)).to_csv(folder / "predictions.csv", index=False)
    scorer, sampler = load(folder), sampler_of(load(folder).recipe)
    images = [scorer.prepare(f"{table.attrs['root']}/{name}") for name in table["image"]]
    generator = torch.Generator().manual_seed(0)
    boxes = [random_boxes(sampler, *image.shape[:2], scorer.recipe.test_crops, generator) for image in images]
    fixed = [fixed_boxes(sampler, *image.shape[:2], scorer.recipe.test_crops) for image in images]
    assert torch.equal(torch.stack(boxes)[..., 2:], torch.stack(fixed)[..., 2:]) and not torch.equal(boxes[0], fixed[0])
    drawn = Prediction.concatenate(scorer.predict(images, generator=generator.manual_seed(0)))
    assert torch.equal(drawn.boxes, torch.stack(boxes))
    expected = np.corrcoef(drawn.score, table["mos"])[0, 1]
    assert features.plcc_of_random_crops(folder, table) == pytest.approx(expected, abs=1e-6)


def test_damaged_features_unfinished_runs_and_runs_of_another_table_are_refused(run):
    folder, table = run
    with pytest.raises(InputError, match="is not in this table"):
        features_of_run(folder, table.drop(index=table.index[5]))
    (folder / FEATURES).write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="features.npz is damaged .*delete that file"):
        features_of_run(folder, table)
    (folder / "predictions.csv").unlink()
    with pytest.raises(InputError, match="is not a finished run, it lacks predictions.csv"):
        features_of_run(folder, table)

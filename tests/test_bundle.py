"""Bundled weights: a finished run, packed, with a card whose numbers are the run's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lmcl_core import InputError, Recipe, load, load_benchmark, make_split, train
from lmcl_core.bundle import TOLERANCE, _all_splits, bundle, check, main
from lmcl_core.model_file import BUNDLED
from lmcl_core.records import committed, read_records

TINY = Recipe(name="tiny", pretrained=False, crop_size=32, crops=2, test_crops=2, epochs=1, batch_images=4)


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


@pytest.fixture
def numbered(monkeypatch):
    """Splits of so few pictures need a larger test part."""
    monkeypatch.setattr("lmcl_core.bundle.make_split", lambda table, index: make_split(table, index, test=0.34))


def run_of(table, folder, **changes):
    recipe = Recipe.from_dict(changes, TINY)
    return train(table, make_split(table, 0, test=0.34), recipe, folder, "cpu", log=lambda line: None)


def test_a_run_is_packed_and_its_card_tells_the_run_s_numbers(table, tmp_path, numbered):
    result = run_of(table, tmp_path / "run")
    path = bundle(tmp_path / "run", table, tmp_path / "out")
    card = (tmp_path / "out" / "livec.md").read_text()
    assert card.startswith("# Model card: livec\n")
    assert path == tmp_path / "out" / "livec.safetensors"
    for text in (f"PLCC {result['plcc']:.4f}", f"SRCC {result['srcc']:.4f}", "split 0", "`crop_size` 32"):
        assert text in card
    assert "not on record for other splits" in card and "MIT licence" in card
    assert "--split 0 --set name=tiny" in card and "--set crop_size=32" in card and "{" not in card
    picture = f"{table.attrs['root']}/{table['image'][0]}"
    own, packed = (load(weights).score(picture)["score"].item() for weights in (tmp_path / "run", path))
    assert packed == pytest.approx(own, abs=0.5)


def test_a_run_trained_again_reproduces_the_packed_weights_and_a_changed_one_does_not(table, tmp_path, numbered):
    run_of(table, tmp_path / "run", precision="32-true")
    path = bundle(tmp_path / "run", table, tmp_path / "out")
    run_of(table, tmp_path / "again", name="other-folder", precision="32-true")
    found = check(tmp_path / "again", table, path)
    assert found["same_weights"] and found["within"]
    assert found["score_rms"] <= found["score_max"] < 0.5  # packing alone
    moved = load_file(tmp_path / "again" / "model.safetensors")
    moved["score_head.bias"] += 2  # standard deviations of MOS
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(moved, tmp_path / "again" / "model.safetensors", metadata)
    found = check(tmp_path / "again", table, path)
    assert not found["same_weights"] and not found["within"] and found["score_rms"] > TOLERANCE["score_rms"]


def test_a_run_that_saw_other_images_is_not_compared(table, tmp_path, numbered):
    """It may have been trained on what the bundled weights are tested on, or the other way round."""
    run_of(table, tmp_path / "run")
    path = bundle(tmp_path / "run", table, tmp_path / "out")
    other = Recipe.from_dict(dict(name="other"), TINY)
    train(table, make_split(table, 1, test=0.34), other, tmp_path / "other", "cpu", log=lambda line: None)
    with pytest.raises(InputError, match="trained on other images"):
        check(tmp_path / "other", table, path)


def test_a_run_of_another_recipe_is_not_compared(table, tmp_path, numbered):
    run_of(table, tmp_path / "run")
    path = bundle(tmp_path / "run", table, tmp_path / "out")
    run_of(table, tmp_path / "other", temperature=0.5)
    with pytest.raises(InputError, match="another recipe"):
        check(tmp_path / "other", table, path)


@pytest.mark.parametrize("within, code", [(True, 0), (False, 1)])
def test_the_check_s_exit_code_says_what_it_found(within, code, monkeypatch, livec, capsys):
    found = dict(same_weights=False, score_rms=1.0, within=within)
    monkeypatch.setattr("lmcl_core.bundle.check", lambda run, table: found)
    with nullcontext() if within else pytest.raises(SystemExit) as stopped:
        main(["--check", "run", str(livec)])
    told = capsys.readouterr()
    assert "score_rms 1.0000" in told.out and bool(told.err) is not within
    assert within or stopped.value.code == code


def test_empty_folders_are_refused(capsys):
    """Taken for folders, they would be the one that the command is called in."""
    for folders in (["", "DIR"], ["RUN", " "]):
        with pytest.raises(SystemExit) as stopped:
            main(folders)
        assert stopped.value.code == 2 and "is empty: name a folder" in capsys.readouterr().err


def test_what_is_no_finished_run_of_a_numbered_split_is_refused(table, tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        bundle(tmp_path / "run", table, tmp_path)
    run_of(table, tmp_path / "run")
    with pytest.raises(InputError, match="another split"):  # its test part is larger than that of the protocol
        bundle(tmp_path / "run", table, tmp_path)
    table.attrs["benchmark"] = "spaq"
    with pytest.raises(InputError, match="numbered split of spaq"):
        bundle(tmp_path / "run", table, tmp_path)


def test_a_run_that_the_card_was_not_written_for_is_refused(table, tmp_path, numbered):
    run_of(table, tmp_path / "run", backbone="resnet18")
    with pytest.raises(InputError, match="written for tf_efficientnet_lite0"):
        bundle(tmp_path / "run", table, tmp_path)


@pytest.mark.parametrize("name", ["predictions.csv", "model.safetensors"])
def test_a_run_that_lacks_a_file_is_refused(table, tmp_path, numbered, name):
    run_of(table, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=f"no whole run, it lacks {name}"):
        bundle(tmp_path / "run", table, tmp_path)


@pytest.mark.parametrize("arguments, said", [([], "use: python"), (["a"], "use: python"), (["a", "/no"], "/no")])
def test_wrong_use_is_told_in_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and said in err and len(err.splitlines()) == 1


def test_the_card_tells_what_its_recipe_came_to_on_all_splits():
    """The one that comes with the package as well, which was made from a run that is no longer there."""
    known = read_records(committed("livec"))
    plcc = known.loc[known["name"] == "lmcl", "plcc"]
    said = _all_splits("livec", known.loc[known["name"] == "lmcl", "recipe_hash"].iloc[0])
    assert said == f"{len(plcc)} splits: PLCC {plcc.median():.3f} (median), {plcc.min():.3f} to {plcc.max():.3f}"
    assert said in BUNDLED["livec"].with_suffix(".md").read_text()


@pytest.mark.parametrize("name", sorted({*BUNDLED, "livec"}))
def test_bundled_weights_work_offline_are_small_and_have_a_card(name):
    import numpy as np

    path = BUNDLED[name]
    assert path.stat().st_size < 12e6 and "PLCC" in path.with_suffix(".md").read_text()
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8), 16, 0), 16, 1)
    noisy = rng.integers(0, 256, smooth.shape, dtype=np.uint8)
    found = load(name).score([smooth, noisy])
    assert found["score"].between(0, 100).all() and found["score"].nunique() == 2

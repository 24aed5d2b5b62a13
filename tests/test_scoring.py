"""A saved model scores any picture, always alike, in opinion-score units."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lmcl_core import InputError, QualityModel, Recipe, RunError, Scorer, Split, load
from lmcl_core import model_file
from lmcl_core.model_file import pack, save_model
from lmcl_core.scoring import as_picture

MEAN, STD = 55.0, 12.0
ABOUT = dict(mos_mean=MEAN, mos_std=STD, largest_short_side=100)
RECIPE = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    table = pd.DataFrame({"mos": np.arange(0, 101, dtype=float)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    return table


@pytest.fixture(scope="module")
def model() -> QualityModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return QualityModel(pretrained=False, crop_size=32).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, table) -> Path:
    folder = tmp_path_factory.mktemp("run")
    split = Split(np.arange(0, 81), np.array([], dtype=int), np.arange(81, 101), 0)
    save_model(folder / "model.safetensors", model, RECIPE, table, split, **ABOUT)
    return folder


@pytest.fixture(scope="module")
def scorer(run) -> Scorer:
    with torch.random.fork_rng(devices=[]):
        return load(run)


def noise(height: int = 90, width: int = 80, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def score_of(scorer: Scorer, item) -> float:
    return scorer.score([item])["score"].item()


def test_a_loaded_model_gives_the_scores_of_the_saved_one_bit_for_bit(run, scorer, model):
    about = json.loads(json.dumps(scorer.about))
    original = Scorer(model, RECIPE, about, torch.device("cpu"))
    pictures = [noise(90, 80, 3), noise(64, 64, 3, seed=1)]
    assert scorer.score(pictures).equals(original.score(pictures))


@pytest.mark.parametrize("able, used", [(True, torch.bfloat16), (False, None)])
@pytest.mark.parametrize("trained_in", ["bf16-mixed", "16-mixed"])
def test_half_precision_is_bfloat16_on_a_cpu_that_has_it_and_float32_elsewhere(
    model, scorer, monkeypatch, trained_in, able, used
):
    monkeypatch.setattr("lmcl_core.devices.computes_in_bfloat16", lambda device: able)
    other = Scorer(model, replace(RECIPE, precision=trained_in), scorer.about, torch.device("cpu"))
    with other._autocast():
        assert (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None) == used


def test_a_loaded_model_knows_how_it_was_trained(scorer):
    assert scorer.recipe == RECIPE and scorer.about["benchmark"] == "livec"
    assert (scorer.about["mos_mean"], scorer.about["mos_std"]) == (MEAN, STD)


def test_weights_may_be_named_by_file_or_by_folder_as_text_or_path(run, scorer):
    picture = noise(70, 70, 3)
    for weights in (run, str(run), run / "model.safetensors", str(run / "model.safetensors")):
        with torch.random.fork_rng(devices=[]):
            assert score_of(load(weights), picture) == score_of(scorer, picture)


def test_loading_leaves_the_global_generator_alone(run):
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        load(run)
        assert torch.equal(before, torch.random.get_rng_state())


def test_one_row_an_input_in_the_order_given(scorer, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(70, 70, 3)).save(path)
    found = scorer.score([noise(80, 80, 3, seed=3), path, Image.fromarray(noise(90, 90, 3, seed=4)), str(path)])
    assert list(found.columns) == ["image", "score", "percentile"]
    assert list(found["image"]) == ["0", str(path), "2", str(path)] and list(found.index) == [0, 1, 2, 3]
    assert found["score"][1] == found["score"][3] and found["score"].nunique() == 3


def test_one_picture_may_stand_without_a_list(scorer, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(70, 70, 3)).save(path)
    for item in (path, str(path), Image.open(path), noise(70, 70, 3)):
        assert len(scorer.score(item)) == 1


def test_no_picture_gives_an_empty_table(scorer):
    assert list(scorer.score([]).columns) == ["image", "score", "percentile"] and len(scorer.score([])) == 0


def test_a_picture_gets_the_same_score_as_path_image_and_array(scorer, tmp_path):
    path = tmp_path / "a.png"
    pixels = noise(90, 80, 3)
    Image.fromarray(pixels).save(path)
    assert len({score_of(scorer, item) for item in (path, str(path), Image.open(path), pixels, pixels.copy("F"))}) == 1


def test_an_array_of_one_channel_or_with_alpha_scores_like_its_grey(scorer):
    grey = noise(80, 80)
    pictures = [grey, grey[..., None], np.stack([grey, noise(80, 80, seed=1)], axis=-1)]
    pictures.append(Image.fromarray(grey).convert("LA").convert("La"))
    assert scorer.score(pictures)["score"].nunique() == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16"])
def test_an_image_of_any_mode_scores_like_its_rgb(scorer, mode):
    grey = noise(80, 80)
    if mode.startswith("I"):
        picture = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.int32))
        plain = Image.fromarray(grey).convert("RGB")
        assert picture.mode == mode
    else:
        picture = Image.fromarray(noise(80, 80, 3)).convert(mode)
        plain = picture.convert("RGB")
    assert score_of(scorer, picture) == score_of(scorer, plain)


def test_grey_and_transparent_arrays_score_like_their_rgb(scorer):
    grey, colour = noise(80, 80), noise(80, 80, 3)
    assert score_of(scorer, grey) == score_of(scorer, np.stack([grey] * 3, axis=-1))
    assert score_of(scorer, np.dstack([colour, noise(80, 80, seed=5)])) == score_of(scorer, colour)


def test_a_rotated_photograph_scores_like_the_upright_one(scorer, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(60, 90, 3)).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(noise(60, 90, 3), -1)
    assert score_of(scorer, tmp_path / "a.png") == score_of(scorer, Image.open(tmp_path / "a.png"))
    assert score_of(scorer, tmp_path / "a.png") == score_of(scorer, upright)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (3000, 20), (20, 3000), (32, 32), (31, 33)])
def test_a_picture_of_any_size_gets_a_finite_score(scorer, height, width):
    found = scorer.score(noise(height, width, 3))
    assert np.isfinite(found[["score", "percentile"]].to_numpy()).all()


def test_the_score_does_not_depend_on_the_batch(scorer):
    pictures = [noise(60 + 7 * n, 90 - 3 * n, 3, seed=n) for n in range(5)]
    together = scorer.score(pictures, batch_size=5)["score"]
    for batch_size in (1, 2, 64):
        assert np.abs(scorer.score(pictures, batch_size=batch_size)["score"] - together).max() < 1e-4
    assert np.abs(scorer.score(pictures[::-1])["score"].to_numpy()[::-1] - together).max() < 1e-4


def test_scoring_twice_gives_the_same(scorer):
    pictures = [noise(seed=1), noise(seed=2)]
    assert scorer.score(pictures).equals(scorer.score(pictures))


def test_the_score_is_in_the_units_of_the_training_scores(scorer):
    pictures = [noise(seed=1), noise(100, 70, 3, seed=2)]
    raw = torch.cat([seen.score for seen in scorer.look(pictures)]).double().numpy()
    assert scorer.score(pictures)["score"].to_numpy() == pytest.approx(MEAN + STD * raw)


@pytest.mark.parametrize("mean, percentile", [(-5.0, 0), (0.0, 0), (20.0, 25), (40.0, 50), (80.0, 100), (300.0, 100)])
def test_the_percentile_is_the_share_of_training_pictures_below(scorer, mean, percentile):
    same_for_all = Scorer(scorer.model, RECIPE, {**scorer.about, "mos_mean": mean, "mos_std": 0.0}, torch.device("cpu"))
    assert same_for_all.score(noise())["percentile"].item() == pytest.approx(percentile)


def test_the_percentile_rises_with_the_score_and_stays_in_range(scorer):
    wide = Scorer(scorer.model, RECIPE, {**scorer.about, "mos_std": 300.0}, torch.device("cpu"))
    found = wide.score([*(noise(70, 70, 3, seed=n) // (n + 1) for n in range(5)), np.zeros((70, 70), np.uint8)])
    assert found["percentile"].between(0, 100).all() and found["score"].nunique() == 6
    assert found.sort_values("score")["percentile"].is_monotonic_increasing


def test_a_missing_file_is_named(scorer, tmp_path):
    with pytest.raises(InputError, match=r"missing image .*no\.png"):
        scorer.score([noise(), tmp_path / "no.png"])


def test_a_file_that_is_no_picture_is_named(scorer, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"unreadable image .*a\.png"):
        scorer.score(tmp_path / "a.png")


def test_an_opened_image_that_turns_out_truncated_is_an_input_error(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(90, 80, 3)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as picture, pytest.raises(InputError):
        as_picture(picture)


@pytest.mark.parametrize(
    "item, what",
    [
        (np.zeros((8, 8, 3)), r"float64 array \(8, 8, 3\)"),
        (np.zeros((8, 8), dtype=np.uint16), r"uint16 array \(8, 8\)"),
        (np.zeros((8, 8, 5), dtype=np.uint8), r"uint8 array \(8, 8, 5\)"),
        (np.zeros((1, 8, 8, 3), dtype=np.uint8), r"uint8 array \(1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"uint8 array \(0, 8, 3\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "Tensor"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_kind(item, what):
    with pytest.raises(InputError, match=f"cannot score {what}: give a path"):
        as_picture(item)


def test_missing_weights_are_named(tmp_path):
    for path in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(InputError, match=r"no weights at .*safetensors: name a model\.safetensors"):
            load(path)


def test_weights_that_may_not_be_read_are_not_called_damaged(run, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"model\.safetensors may not be read: give yourself permission"):
        load(run)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 500, lambda data: data[:5]],
    ids=["half", "empty", "text", "header cut"],
)
def test_damaged_weights_are_named(run, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage((run / "model.safetensors").read_bytes()))
    with pytest.raises(InputError, match=r"weights at .*model\.safetensors are damaged .*again"):
        load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"lmcl": "null"}])
def test_weights_of_another_program_are_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"a\.safetensors was not written by lmcl_core"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state, about: (state.pop("score_head.weight"), about),
        lambda state, about: (state.update({"score_head.weight": torch.zeros(1, 3)}), about),
        lambda state, about: about.pop("recipe"),
        lambda state, about: about["recipe"].update(epoch=3),
        lambda state, about: about.pop("mos_mean"),
        lambda state, about: about.update(recipe=7),
    ],
    ids=[
        "a tensor missing",
        "a tensor of another shape",
        "no recipe",
        "unknown recipe field",
        "no mean",
        "a recipe that is a number",
    ],
)
def test_weights_that_do_not_fit_this_version_are_refused_by_name_in_two_lines(run, scorer, tmp_path, spoil):
    state, about = load_file(run / "model.safetensors"), json.loads(json.dumps(scorer.about))
    spoil(state, about)
    save_file(state, tmp_path / "model.safetensors", metadata={"lmcl": json.dumps(about)})
    with torch.random.fork_rng(devices=[]), pytest.raises(InputError) as caught:
        load(tmp_path / "model.safetensors")
    assert str(tmp_path / "model.safetensors") in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_pictures_larger_than_those_of_the_training_benchmark_are_brought_to_their_size(scorer):
    assert scorer.short_side == 100
    large = noise(300, 240, 3)
    assert score_of(scorer, large) == score_of(scorer, as_picture(large, 100).numpy())
    small = torch.from_numpy(noise(100, 240, 3))
    assert score_of(scorer, small.numpy()) == pytest.approx(MEAN + STD * scorer.look_at([small])[0].score.item())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_pictures_is_refused(scorer, batch_size):
    with pytest.raises(InputError, match=f"batch_size is {batch_size}"):
        scorer.score([noise()], batch_size=batch_size)


def test_packed_weights_take_less_than_half_the_room_and_score_alike(run, scorer, tmp_path):
    pack(run, tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").stat().st_size < 0.5 * (run / "model.safetensors").stat().st_size
    loaded = load(tmp_path / "packed.safetensors")
    assert all(value.dtype != torch.float16 for value in loaded.model.state_dict().values())
    picture = noise(90, 80, 3)
    assert score_of(loaded, picture) == pytest.approx(score_of(scorer, picture), abs=0.01 * STD)
    assert loaded.about == {**scorer.about, "packed": True}


def test_only_packed_weights_may_lack_the_embedding_head(run, scorer, tmp_path):
    state = load_file(run / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("embedding_head.")}
    save_file(kept, tmp_path / "a.safetensors", metadata={"lmcl": json.dumps(scorer.about)})
    with pytest.raises(InputError, match="do not fit this version"):
        load(tmp_path / "a.safetensors")


def test_bundled_weights_are_loaded_by_their_name(run, scorer, monkeypatch):
    monkeypatch.setitem(model_file.BUNDLED, "mine", run / "model.safetensors")
    assert score_of(load("mine"), noise()) == score_of(scorer, noise())


def test_a_model_that_cannot_be_saved_is_told_and_leaves_nothing(tmp_path, model, table):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot save .*model\.safetensors"):
        save_model(
            tmp_path / "file" / "model.safetensors",
            model,
            RECIPE,
            table,
            Split(np.arange(9), np.arange(0), np.arange(9, 12)),
            **ABOUT,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_s_percentiles_come_from_its_training_part_alone(scorer):
    assert scorer.about["mos_percentiles"] == pytest.approx(np.linspace(0, 80, 101))


def test_a_model_on_the_cpu_keeps_freed_memory(run, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr("lmcl_core.scoring.keep_freed_memory", lambda: asked.append(True))
    load(run, "cpu")
    assert asked == [True]


@pytest.mark.parametrize("inputs", [None, 3, [None]])
def test_what_is_no_picture_is_refused_alone_or_among_others(scorer, inputs):
    with pytest.raises(InputError, match="cannot score (NoneType|int): give a path"):
        scorer.score(inputs)

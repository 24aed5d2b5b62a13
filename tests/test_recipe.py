"""The recipe: frozen, checked on creation, and identified by a hash of everything but its name."""

from __future__ import annotations

import dataclasses
import json
import math

import pandas as pd
import pytest
from PIL import Image

from lmcl_core import BENCHMARKS, InputError, Recipe
from lmcl_core.recipe import _ADDED_LATER, BENCHMARK_PRESETS, VARIANTS, variants_of

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
YES_NO, WHOLE, REAL, TEXT = (
    [f for f in FIELDS if type(getattr(Recipe(), f)) is kind] for kind in (bool, int, float, str)
)
CHANGED = dict(
    name="other",
    backbone="resnet18",
    variant="v2",
    schedule="step",
    precision="32-true",
    scales=(1.0, 2.5),
    quality_sigma=0.75,
    view_size=128,
    short_side=384,
    **{f: not getattr(Recipe(), f) for f in YES_NO},
    **{f: getattr(Recipe(), f) + 1 for f in WHOLE},
    **{f: getattr(Recipe(), f) / 2 + 0.01 for f in REAL},
)


def test_the_hash_changes_with_every_field_but_the_name():
    hashes = {field: dataclasses.replace(Recipe(), **{field: CHANGED[field]}).hash for field in FIELDS}
    assert hashes.pop("name") == Recipe().hash
    assert len({Recipe().hash, *hashes.values()}) == len(hashes) + 1


def test_retired_fields_and_fields_added_later_leave_the_hash_of_earlier_runs_unchanged():
    assert Recipe().hash == "6d993de5fde6"
    retired = dict(stages=None, frozen_stages=0, probe=False, backbone_lr=None, tested="student")
    assert Recipe.from_dict({**Recipe().to_dict(), **retired}).hash == "6d993de5fde6"
    with pytest.raises(InputError, match="recipe field probe no longer exists: use the version"):
        Recipe.from_dict({"probe": True})
    for field in set(_ADDED_LATER) & set(FIELDS):
        assert dataclasses.replace(Recipe(), **{field: CHANGED[field]}).hash != Recipe().hash


def test_whole_numbers_stand_for_real_ones_with_the_same_hash():
    recipe = Recipe(temperature=1, scales=[1, 2], quality_sigma=2)
    assert recipe.hash == Recipe(temperature=1.0, scales=(1.0, 2.0), quality_sigma=2.0).hash
    assert [type(v) for v in (recipe.temperature, recipe.quality_sigma, *recipe.scales)] == [float] * 4


def test_unknown_names_are_refused_with_the_nearest_known_one_and_changes_that_are_no_object():
    for call, message in (
        (lambda: Recipe.from_dict({"temprature": 1}), "unknown recipe field 'temprature': did you mean 'temperature'"),
        (lambda: Recipe.for_benchmark("demo", "no-manifolds"), "unknown recipe 'no-manifolds': did you mean"),
        (lambda: Recipe.for_benchmark("livecc"), "unknown benchmark 'livecc': did you mean 'livec'"),
        (lambda: Recipe.parse_changes("[1]"), "not a JSON object: write for example"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(TypeError, match="temprature"):
        Recipe(temprature=1)
    assert Recipe.parse_changes({"epochs": 1}) == Recipe.parse_changes('{"epochs": 1}') == {"epochs": 1}


@pytest.mark.parametrize(
    "field, value",
    [("crops", True), ("lr", "0.1"), ("variant", None), ("flip", 1), ("scales", ("1",)), ("view_size", 64.0)],
)
def test_a_value_of_the_wrong_type_is_named(field, value):
    with pytest.raises(TypeError, match=f"recipe field {field} is .*: it must be "):
        Recipe(**{field: value})
    with pytest.raises(InputError, match=f"recipe field {field} is .*: it must be "):
        Recipe.from_dict({field: value})


@pytest.mark.parametrize(
    "field, value",
    [
        *(("crops", v) for v in (0, 10**9)),
        *(("lr", v) for v in (0, math.nan, 10**400)),
        *(("seed", v) for v in (-1, 2**64)),
        *(("view_size", 7), ("intra_weight", -0.1), ("train_share", 1.1), ("ema_momentum", 1.0), ("variant", "v3")),
        *(("scales", v) for v in ((), (1.0, 0.0))),
        *(("name", v) for v in ("", "a/b", ".hidden", "a\nb", "a" * 101)),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=f"recipe field {field} is .*: it (must|needs) "):
        Recipe(**{field: value})
    with pytest.raises(InputError, match="recipe field ema_momentum is 1.0: it must be at least 0 and less than 1"):
        Recipe(ema_momentum=1.0)


def test_a_recipe_survives_a_round_trip_through_json():
    for one in (Recipe(), Recipe(**CHANGED)):
        back = Recipe.from_dict(json.loads(json.dumps(one.to_dict())))
        assert back == one and back.hash == one.hash
    assert sorted(Recipe().to_dict()) == sorted(FIELDS)


def test_every_benchmark_has_a_preset_that_holds_differences_only():
    assert set(BENCHMARK_PRESETS) == set(BENCHMARKS)
    for name, preset in BENCHMARK_PRESETS.items():
        recipe = Recipe.for_benchmark(name)
        assert recipe.name == "lmcl" and all(getattr(recipe, field) == value for field, value in preset.items())
        assert [field for field, value in preset.items() if value == getattr(Recipe(), field)] == []


@pytest.mark.parametrize(
    "count, size, expected",
    [
        (779, (480, 720), dict()),
        (2_001, (300, 500), dict(epochs=4)),
        (20_001, (900, 700), dict(epochs=2, batch_images=32, short_side=512)),
        (10, (110, 400), dict(crop_size=96)),
        (10, (20, 20), dict(crop_size=32)),
    ],
)
def test_own_data_have_a_preset_by_number_and_size_of_their_images(tmp_path, count, size, expected):
    Image.new("RGB", size).save(tmp_path / "a.png")
    table = pd.DataFrame(dict(image=["a.png"] * count))
    table.attrs = dict(benchmark="mine", root=str(tmp_path))
    recipe = Recipe.for_benchmark(table)
    assert recipe == Recipe.from_dict(expected) and recipe.differences(table) == {}
    without = {**expected, "name": "no-manifold", "manifold_weight": 0.0}
    assert Recipe.for_benchmark(table, "no-manifold") == Recipe.from_dict(without)


def test_variants_have_titles_and_those_equal_to_a_preset_are_left_out():
    assert len({variant.title for variant in VARIANTS.values()}) == len(VARIANTS)
    assert set(VARIANTS) - set(variants_of("livec")) == {"quality-aware"}
    assert {"equal-negatives", "no-correlation", "paper"} == set(VARIANTS) - set(variants_of("demo"))


def test_a_changed_recipe_is_named_after_its_variant_and_its_hash():
    for variant in ("lmcl", "no-manifold"):
        changed = Recipe.for_benchmark("demo", variant, epochs=1, view_size=96)
        assert changed.name == f"{variant}@{changed.hash[:6]}" and changed.epochs == 1
        assert changed.differences("demo") == dict(epochs=1, view_size=96)
        preset = Recipe.for_benchmark("demo", variant)
        assert preset.name == variant and preset.differences("demo") == {}
    assert Recipe.for_benchmark("demo", epochs=1).name != Recipe.for_benchmark("demo", epochs=2).name


def test_a_recipe_equal_to_the_preset_and_one_with_a_given_name_keep_their_names():
    preset = Recipe.for_benchmark("demo")
    assert Recipe.for_benchmark("demo", epochs=preset.epochs, scales=list(preset.scales)) == preset
    assert Recipe.for_benchmark("demo", "no-manifold", manifold_weight=0.5).name == "no-manifold"
    named = Recipe.for_benchmark("demo", "quality", epochs=1, name="mine")
    assert named.name == "mine"
    assert named.differences("demo") == dict(epochs=1, manifold_weight=0.0, mutual_weight=0.0)

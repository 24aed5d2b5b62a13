"""The recipe: frozen, checked on creation, and named by a hash of everything but its name."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from lmcl_core import BENCHMARKS, InputError, Recipe, recipe
from lmcl_core.recipe import BENCHMARK_PRESETS

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
YES_NO = [f for f in FIELDS if type(getattr(Recipe(), f)) is bool]
WHOLE = [f for f in FIELDS if type(getattr(Recipe(), f)) is int]
REAL = [f for f in FIELDS if type(getattr(Recipe(), f)) is float]
TEXT = [f for f in FIELDS if type(getattr(Recipe(), f)) is str]
CHANGED = dict(
    name="other",
    backbone="resnet18",
    variant="v2",
    precision="32-true",
    scales=(1.0, 2.5),
    quality_sigma=0.75,
    backbone_lr=5e-5,
    stages=(2, 4),
    tested="teacher",
    view_size=128,
    short_side=384,
    **{f: not getattr(Recipe(), f) for f in YES_NO},
    **{f: getattr(Recipe(), f) + 1 for f in WHOLE},
    **{f: getattr(Recipe(), f) / 2 + 0.01 for f in REAL},
)


@pytest.mark.parametrize("field", FIELDS)
def test_the_hash_changes_with_every_field_but_the_name(field):
    assert CHANGED[field] != getattr(Recipe(), field)
    changed = dataclasses.replace(Recipe(), **{field: CHANGED[field]})
    assert (changed.hash == Recipe().hash) == (field == "name")


def test_no_two_single_changes_share_a_hash():
    hashes = {dataclasses.replace(Recipe(), **{field: CHANGED[field]}).hash for field in FIELDS}
    assert len(hashes) == len(FIELDS)


def test_the_hash_is_twelve_hex_digits_and_repeatable():
    assert len(Recipe().hash) == 12 and int(Recipe().hash, 16) >= 0
    assert Recipe(**CHANGED).hash == Recipe(**CHANGED).hash


def test_whole_numbers_stand_for_real_ones_with_the_same_hash():
    recipe = Recipe(temperature=1, scales=[1, 2], quality_sigma=2)
    assert recipe.hash == Recipe(temperature=1.0, scales=(1.0, 2.0), quality_sigma=2.0).hash
    assert [type(v) for v in (recipe.temperature, recipe.quality_sigma, *recipe.scales)] == [float] * 4
    assert recipe.scales == (1.0, 2.0)


@pytest.mark.parametrize("field", FIELDS)
def test_a_recipe_is_frozen(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Recipe(), field, CHANGED[field])


@pytest.mark.parametrize(
    "given, meant", [("temprature", "temperature"), ("epoch", "epochs"), ("crop_sise", "crop_size")]
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(given, meant):
    with pytest.raises(InputError) as error:
        Recipe.from_dict({given: 1})
    assert str(error.value) == f"unknown recipe field {given!r}: did you mean {meant!r}?"


def test_an_unknown_keyword_raises():
    with pytest.raises(TypeError, match="temprature"):
        Recipe(temprature=0.1)


@pytest.mark.parametrize(
    "field, value",
    [(f, v) for f in WHOLE for v in (True, 2.0, "2", None)]
    + [(f, v) for f in REAL for v in (True, "0.1", None, [0.1])]
    + [(f, v) for f in TEXT for v in (None, 3, True)]
    + [(f, v) for f in YES_NO for v in (1, 0, "yes", None)]
    + [("scales", v) for v in (1.0, None, "1", (True,), ("1",), (None,))]
    + [("quality_sigma", v) for v in ("0.5", True)]
    + [(f, v) for f in ("view_size", "short_side") for v in ("64", 64.0, True)],
)
def test_a_value_of_the_wrong_type_is_named(field, value):
    with pytest.raises(TypeError, match=f"recipe field {field} is "):
        Recipe(**{field: value})
    with pytest.raises(InputError, match=f"recipe field {field} is "):
        Recipe.from_dict({field: value})


@pytest.mark.parametrize(
    "field, value",
    [(f, v) for f in WHOLE if f not in ("seed", "frozen_stages") for v in (0, -1)]
    + [(f, v) for f in ("temperature", "lr", "quality_sigma") for v in (0, -0.1)]
    + [(f, -0.1) for f in ("intra_weight", "manifold_weight", "mutual_weight", "weight_decay")]
    + [(f, v) for f in ("view_size", "short_side") for v in (0, -64)]
    + [(f, v) for f in (*REAL, "quality_sigma") for v in (math.nan, math.inf)]
    + [
        ("seed", -1),
        ("seed", 2**64),
        ("lr", 10**400),
        ("frozen_stages", -1),
        ("batchnorm_momentum", 0.0),
        ("batchnorm_momentum", 1.1),
        ("train_share", 0.0),
        ("train_share", 1.1),
        ("ema_momentum", 1.0),
        ("ema_momentum", -0.1),
        ("variant", "v3"),
        ("precision", "float8"),
        ("scales", ()),
        ("scales", (1.0, 0.0)),
        ("scales", (-1.0,)),
        ("scales", (math.nan,)),
        ("name", ""),
        ("name", "a/b"),
        ("name", "a\\b"),
        ("name", ".."),
        ("name", ".hidden"),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=f"recipe field {field} is .*: it must be "):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    "values",
    [
        dict(intra_weight=0.0, manifold_weight=0.0, mutual_weight=0, weight_decay=0.0),
        dict(ema_momentum=0.0),
        dict(seed=0),
        dict(quality_sigma=None),
        dict(crops=1, test_crops=1, batch_images=1, epochs=1, scales=(0.5,)),
    ],
)
def test_values_at_the_end_of_their_range_are_accepted(values):
    recipe = Recipe(**values)
    assert all(getattr(recipe, field) == value for field, value in values.items())


def test_a_recipe_survives_a_round_trip_through_json():
    for one in (Recipe(), Recipe(**CHANGED)):
        back = Recipe.from_dict(json.loads(json.dumps(one.to_dict())))
        assert back == one and back.hash == one.hash
    assert sorted(Recipe().to_dict()) == sorted(FIELDS)


def test_values_from_a_dictionary_stand_on_top_of_a_base():
    base = Recipe(epochs=3, crops=2)
    recipe = Recipe.from_dict({"scales": [1, 1.5], "crops": 6}, base)
    assert (recipe.epochs, recipe.crops, recipe.scales) == (3, 6, (1.0, 1.5))
    assert base.crops == 2 and Recipe.from_dict({}) == Recipe()


def test_a_benchmark_has_its_preset():
    demo = Recipe.for_benchmark("demo")
    assert all(getattr(demo, field) == value for field, value in BENCHMARK_PRESETS["demo"].items())
    assert demo.name == "lmcl" and demo.crop_size != Recipe().crop_size


def test_there_is_a_preset_for_every_benchmark_and_it_holds_differences_alone():
    assert set(BENCHMARK_PRESETS) == set(BENCHMARKS)
    for name, preset in BENCHMARK_PRESETS.items():
        assert Recipe.for_benchmark(name).name == "lmcl"
        assert [field for field, value in preset.items() if value == getattr(Recipe(), field)] == []


def test_no_manifold_is_the_same_recipe_without_the_manifold_loss():
    with_it, without = Recipe.for_benchmark("demo"), Recipe.for_benchmark("demo", "no-manifold")
    assert without.name == "no-manifold" and without.manifold_weight == 0 and with_it.manifold_weight > 0
    assert dataclasses.replace(without, name="lmcl", manifold_weight=with_it.manifold_weight) == with_it


def test_changes_stand_on_top_of_a_preset():
    recipe = Recipe.for_benchmark("demo", "lmcl", epochs=1, manifold_weight=0.5)
    assert (recipe.epochs, recipe.manifold_weight) == (1, 0.5)


def test_what_makes_a_variant_cannot_be_changed_away():
    assert Recipe.for_benchmark("demo", "no-manifold", manifold_weight=0.5).manifold_weight == 0


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "epochs=1"])
def test_changes_that_are_no_json_object_are_refused(text):
    with pytest.raises(InputError, match="write e.g.|write for example"):
        Recipe.changes_from_json(text)


def test_an_unknown_recipe_name_or_change_is_refused():
    with pytest.raises(InputError, match="unknown recipe 'no-manifolds': did you mean 'no-manifold'"):
        Recipe.for_benchmark("demo", "no-manifolds")
    with pytest.raises(InputError, match="unknown benchmark 'livecc': did you mean 'livec'"):
        Recipe.for_benchmark("livecc")
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        Recipe.for_benchmark("demo", epoch=1)


def test_a_field_that_was_added_later_leaves_the_hash_of_older_runs_as_it_was():
    assert Recipe().hash == "6d993de5fde6"  # of a run made before the fields of `_AS_BEFORE` were there
    assert (
        len({dataclasses.replace(Recipe(), **{f: CHANGED[f]}).hash for f in recipe._AS_BEFORE} | {Recipe().hash}) == 4
    )

"""Any values make a recipe or an error for the user, and the hash belongs to the values alone."""

from __future__ import annotations

import dataclasses
import json
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st
from mutations import HOSTILE, examples, tried

from lmcl_core import InputError, Recipe

NAMES = [one.name for one in dataclasses.fields(Recipe)]
CHOICES = ["v1", "v2", "opinion", "one-cycle", "step", "32-true", 0.0, -0.0, 1, 2**64, 10**400, 1e-300]
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from([*CHOICES, *HOSTILE])
)
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(st.text(max_size=3), PLAIN, max_size=2))
NUMBERS = st.one_of(st.integers(1, 70), st.floats(0, 1), st.sampled_from(CHOICES))


@examples(2)
@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), st.sampled_from(["probe", "x"])), VALUES, max_size=4))
def test_any_values_make_a_recipe_or_an_error_for_the_user(values):
    tried["recipes"] += 1
    try:
        recipe = Recipe.from_dict(values)
    except InputError as error:
        assert len(str(error).splitlines()) <= 2
        return
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@examples(2)
@given(st.dictionaries(st.sampled_from(NAMES), NUMBERS, max_size=5), st.randoms())
@example({"intra_weight": -0.0}, Random())
def test_the_hash_depends_on_the_values_alone(values, chance):
    tried["recipes"] += 1
    sound = {}
    for name, value in values.items():
        try:
            Recipe.from_dict({name: value})
            sound[name] = value
        except InputError:
            pass
    recipe, shuffled = Recipe.from_dict(sound), list(Recipe.from_dict(sound).to_dict().items())
    chance.shuffle(shuffled)
    again = Recipe.from_dict(json.loads(json.dumps(dict(shuffled))))
    assert again == recipe and again.hash == recipe.hash
    for name, value in sound.items():  # equal values, such as 1, 1.0 and -0.0, 0.0
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert Recipe.from_dict({**sound, name: value + 0}).hash == recipe.hash

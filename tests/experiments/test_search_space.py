"""What a search may try: read from data, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from perscen.errors import ConfigError
from perscen.experiments.search_space import Space, read_space
from perscen.models.config import FAMILY_CONFIGS
from perscen.recipes import RECIPES, recipe_named, with_settings


def space_of(tmp_path: Path, text: str, *, recipe: str = "best", family: str = "perscen") -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(recipe_named(recipe, family=family), path)


@pytest.mark.parametrize("family", sorted(FAMILY_CONFIGS))
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_of_every_family_lies_within_what_is_tried_by_default(
    recipe: str, family: str
):
    start = recipe_named(recipe, family=family)
    space = read_space(start)
    assert with_settings(start, space.settings(space.start()), origin="the search") == start


@pytest.mark.parametrize("family", sorted(FAMILY_CONFIGS))
def test_every_value_that_is_tried_by_default_is_allowed(family: str):
    space = read_space(recipe_named("best", family=family))
    for path, one in space.varied.items():
        drawn = one.distribution()
        ends = drawn.choices if isinstance(drawn, CategoricalDistribution) else None
        for value in ends or (drawn.low, drawn.high):  # type: ignore[attr-defined]
            with_settings(space.recipe, space.settings({path: value}), origin="the search")


def test_a_file_says_choices_whole_numbers_grids_and_orders_of_magnitude(tmp_path: Path):
    space = space_of(
        tmp_path,
        "every:\n"
        "  train.optim.lr: {low: 1.0e-4, high: 1.0e-1, log: true}\n"
        "  model.dropout: {low: 0.0, high: 0.5, step: 0.1}\n"
        "perscen:\n"
        "  model.gnn.layers: {low: 1, high: 4}\n"
        "  model.exclude_fields: {choices: [[], [user_id]]}\n"
        "dssm:\n"
        "  model.widths: {choices: [[8]]}\n",
    )
    assert space.distributions() == {
        "train.optim.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "model.dropout": FloatDistribution(0.0, 0.5, step=0.1),
        "model.gnn.layers": IntDistribution(1, 4),
        "model.exclude_fields": CategoricalDistribution(["[]", '["user_id"]']),
    }
    drawn = {"model.exclude_fields": "[]", "model.gnn.layers": 1}
    recipe = with_settings(space.recipe, space.settings(drawn), origin="the search")
    assert recipe.model.exclude_fields == ()
    assert recipe.model.gnn.layers == 1
    assert recipe.train == space.recipe.train


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("evry: {}", "'evry' is no family", "did you mean 'every'?"),
        (
            "every: {model.drop_out: {choices: [0.2]}}",
            "'model.drop_out' is no setting of perscen",
            "did you mean 'model.dropout'?",
        ),
        ("every: {}", "gives perscen nothing to vary", "name a setting"),
        (
            "every: {train.monitor_k: {choices: [100, 10]}}",
            "train.monitor_k cannot be varied: trials are compared by it",
            "leave it out",
        ),
        (
            "every: {model.dropout: {low: 0.3, high: 0.5}}",
            "model.dropout is 0.2 in the recipe, which lies outside what may be tried",
            "widen the range",
        ),
        (
            "every: {model.dropout: {low: 0.0, high: 0.5, step: 0.15}}",
            "model.dropout is 0.2 in the recipe",
            "widen the range",
        ),
        ("every: {model.out_dim: {choices: [8]}}", "model.out_dim is 64 in the recipe", "add its"),
        ("every: {model.dropout: {low: 0.5, high: 0.1}}", "high: 0.1 lies below low: 0.5", "shows"),
        ("every: {model.dropout: {low: 0, high: 1, log: true}}", "log needs a low above 0", "show"),
        ("every: {model.dropout: {lo: 0.5}}", "model.dropout", "shows what such a file says"),
        ("[1, 2", "is not readable as YAML", "fix the file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str, hint: str):
    with pytest.raises(ConfigError) as caught:
        space_of(tmp_path, text)
    assert str(tmp_path) in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        read_space(recipe_named("best"), tmp_path / "none.yaml")


def test_settings_that_do_not_go_together_are_named():
    with pytest.raises(ConfigError, match=r"emb\.dim: 6 cannot be shared by heads: 4"):
        with_settings(
            recipe_named("best", family="ican"), {"model.emb.dim": 6}, origin="the search"
        )

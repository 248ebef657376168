"""Every family by name: its settings, its recipes, its file of settings."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import torch

from components.settings_commands import params_yaml
from perscen.config import read_config
from perscen.errors import ConfigError
from perscen.models.config import FAMILY_CONFIGS
from perscen.models.families import MODELS, load_model, make_model
from perscen.recipes import RECIPES, recipe_named
from tests.factories import random_splits

FAMILIES = sorted(MODELS)


def test_every_family_has_its_settings_and_every_settings_their_family() -> None:
    assert MODELS.keys() == FAMILY_CONFIGS.keys()
    assert all(MODELS[name].family == name for name in MODELS)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_file_of_settings_reads_back_as_the_recipe(
    family: str, recipe: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(params_yaml(recipe, date(2022, 5, 5), family=family))
    config = read_config(path)
    assert (config.model, config.train) == tuple(recipe_named(recipe, family=family))
    assert config.model.family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_is_made_saved_and_loaded_by_its_settings(
    family: str, tmp_path: Path
) -> None:
    splits = random_splits()
    model = make_model(splits.schema, recipe_named("best", family=family).model)
    model.start_from(splits)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is MODELS[family]
    assert loaded.config == model.config
    assert all(
        torch.equal(weight, loaded.state_dict()[name])
        for name, weight in model.state_dict().items()
    )


def test_a_family_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="there is no family 'dsm'; there are adin, dssm, "
    ) as caught:
        recipe_named("best", family="dsm")
    assert caught.value.hint == "did you mean 'dssm'?"

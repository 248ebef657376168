"""Every family by name: its settings, its recipes, its file of settings."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch

from components.settings_commands import params_yaml
from perscen.config import read_config
from perscen.data.batches import Packed
from perscen.errors import ArtifactError, ConfigError
from perscen.models.config import FAMILY_CONFIGS
from perscen.models.families import MODELS, load_model, make_model
from perscen.recipes import RECIPES, recipe_named, with_settings
from tests.factories import random_splits
from tests.models.contract import train_users

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


@pytest.mark.parametrize("family", ["dssm", "youtube_dnn"])
def test_the_best_recipe_says_what_to_change_for_one_model_per_scenario(family: str) -> None:
    best, single = recipe_named("best", family=family), {"model.form": "single"}
    with pytest.raises(ConfigError, match=r"shown_sequence has no .* single, so set it to false"):
        with_settings(best, single, origin="here")
    recipe = with_settings(best, single | {"model.shown_sequence": False}, origin="here")
    assert recipe.model == best.model.model_copy(update={"form": "single", "shown_sequence": False})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_excluded_is_not_read_or_the_family_says_that_it_cannot_do_without(
    family: str,
) -> None:
    splits = random_splits()
    best = recipe_named("best", family=family).model
    whole = train_users(splits)
    for name in ("history", "shown"):
        config = best.model_copy(update={"exclude_fields": (name,)})
        if name == "history" and family in ("ican", "m5", "self_attention"):
            with pytest.raises(
                ConfigError, match=f"'history', but model.family: {family} reads a user's clicks"
            ):
                make_model(splits.schema, config)
            continue
        model = make_model(splits.schema, config).eval()
        items = getattr(whole, name)
        nothing = Packed(items.values_V[:0], torch.zeros_like(items.offsets_B1))
        blind = replace(whole, **{name: nothing})
        assert torch.equal(
            model.encode_users(blind).vectors_BG, model.encode_users(whole).vectors_BG
        ), name


@pytest.mark.parametrize("name", ["model.json", "schema.json"])
def test_a_model_of_settings_that_are_gone_is_an_artifact_error(tmp_path: Path, name: str) -> None:
    make_model(random_splits().schema, FAMILY_CONFIGS["dssm"]()).save(tmp_path)
    told = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    (tmp_path / name).write_text(json.dumps(told | {"gone": 1}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"(?s)settings that are not known here.*gone") as error:
        load_model(tmp_path)
    assert "revision" in error.value.hint


def test_a_family_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="there is no family 'dsm'; there are adin, dssm, "
    ) as caught:
        recipe_named("best", family="dsm")
    assert caught.value.hint == "did you mean 'dssm'?"

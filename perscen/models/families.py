"""Every model family by the name it has in ``model.family``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from perscen.errors import ArtifactError
from perscen.models.adin import Adin
from perscen.models.config import ModelConfig, read_model_config
from perscen.models.dssm import Dssm
from perscen.models.ican import Ican
from perscen.models.m5 import M5
from perscen.models.perscen import Perscen
from perscen.models.sass import Sass
from perscen.models.self_attention import SelfAttentive
from perscen.models.two_tower import TwoTower
from perscen.models.youtube_dnn import YoutubeDnn
from perscen.schema import Schema

MODELS: Final[dict[str, Any]] = {
    "perscen": Perscen,
    "dssm": Dssm,
    "youtube_dnn": YoutubeDnn,
    "ican": Ican,
    "adin": Adin,
    "sass": Sass,
    "m5": M5,
    "self_attention": SelfAttentive,
}
"""Each takes a schema and its own family's settings."""


def make_model(schema: Schema, config: ModelConfig) -> TwoTower:
    """Return a fresh model of the family the settings name.

    Raises:
        ConfigError: A setting does not fit the data's fields or scenarios, or the family needs
            what they do not have.
    """
    model: TwoTower = MODELS[config.family](schema, config)
    return model


def load_model(directory: Path) -> TwoTower:
    """Return a saved model, whatever its family.

    Raises:
        ArtifactError: It has settings that are not known here, or as :meth:`TwoTower.load`.
    """
    try:
        config = read_model_config((directory / "model.json").read_text(encoding="utf-8"))
        model: TwoTower = MODELS[config.family].load(directory)
    except ValidationError as exc:
        raise ArtifactError(
            f"the model in {directory} was saved with settings that are not known here: {exc}",
            hint="use the revision of perscen that trained it, or train and publish anew",
        ) from exc
    return model

"""Every model family by the name it has in ``model.family``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from perscen.models.config import ModelConfig
from perscen.models.perscen import Perscen
from perscen.models.two_tower import TwoTower
from perscen.schema import Schema

MODELS: Final[dict[str, type[TwoTower]]] = {"perscen": Perscen}


def make_model(schema: Schema, config: ModelConfig) -> TwoTower:
    """Return a fresh model of the family the settings name."""
    return MODELS[config.family](schema, config)


def load_model(directory: Path) -> TwoTower:
    """Return a saved model, whatever its family.

    Raises:
        ArtifactError: As :meth:`TwoTower.load`.
    """
    config = ModelConfig.model_validate_json((directory / "model.json").read_text(encoding="utf-8"))
    return MODELS[config.family].load(directory)

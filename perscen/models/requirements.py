"""What a family cannot do without, said before anything is trained."""

from __future__ import annotations

from perscen.errors import ConfigError
from perscen.models.config import TwoTowerConfig
from perscen.models.field_towers import HISTORY_NODE
from perscen.schema import Schema


def needs_clicks(schema: Schema, config: TwoTowerConfig) -> None:
    """Check that users come with their clicks, and that the settings let them be read.

    Raises:
        ConfigError: They do not.
    """
    if HISTORY_NODE in config.exclude_fields:
        raise ConfigError(
            f"model.exclude_fields leaves out {HISTORY_NODE!r}, but model.family: {config.family} "
            "reads a user's clicks one by one",
            hint="read the history, or take a family that does without: dssm",
        )
    if not schema.user.sequence:
        raise ConfigError(
            f"model.family: {config.family} reads a user's clicks one by one, but the user tower "
            "of these splits has no click sequence",
            hint="give the source a click sequence, or take a family that does without: dssm",
        )


def needs_scenarios(schema: Schema, family: str) -> None:
    """Check that there is more than one scenario.

    Raises:
        ConfigError: There is only one.
    """
    if len(schema.scenarios) < 2:
        raise ConfigError(
            f"model.family: {family} tells scenarios apart, but these splits have only "
            f"{schema.scenarios[0]!r}",
            hint="raise split.num_scenarios, or take a family that does without: dssm",
        )

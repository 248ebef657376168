"""From a row to the settings it is trained with, checked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from perscen.config import EvaluateConfig, TrainConfig
from perscen.digests import json_digest
from perscen.errors import ConfigError, unknown_name
from perscen.experiments.rows import ROWS, Row
from perscen.models.config import FAMILY_CONFIGS, ModelConfig
from perscen.recipes import recipe_named, with_settings

_NOT_THE_ROWS: Final = frozenset({"seed", "num_threads", "checkpoint_every_s"})
"""Settings of ``train`` that make a row's runs, and not the row."""
_NO_CHANGE: Final = ("model.family", "train.seed")
"""What makes another row, or another run of the same."""


@dataclass(frozen=True)
class Settings:
    """What a row's result follows from, beside the splits, the seed and the code.

    Attributes:
        model: None for a ranker without training, as ``train``.
    """

    model: ModelConfig | None
    train: TrainConfig | None
    evaluate: EvaluateConfig

    def tree(self, *, defaults: bool = True) -> dict[str, Any]:
        """Return the settings by section; without ``defaults``, those alone that differ."""
        tree: dict[str, Any] = {
            "evaluate": self.evaluate.model_dump(mode="json", exclude_defaults=not defaults)
        }
        if self.model is not None and self.train is not None:
            model = self.model.model_dump(mode="json", exclude_defaults=not defaults)
            train = self.train.model_dump(
                mode="json", exclude_defaults=not defaults, exclude=set(_NOT_THE_ROWS)
            )
            tree |= {"model": {"family": self.model.family, **model}, "train": train}
        return tree

    @property
    def digest(self) -> str:
        """Hash of what differs from the defaults: settings that come later do not change it."""
        return json_digest(self.tree(defaults=False))

    def agree_with(self, recorded: Mapping[str, Any]) -> bool:
        """Return whether a run that recorded its whole tree was made with these settings.

        Settings it does not know came later; where :attr:`digest` agrees they are at their
        defaults, which leave everything as it was.
        """
        return _within(recorded, self.tree())


def settings_of(row: Row, *, evaluate: EvaluateConfig) -> Settings:
    """Return the settings of a row.

    Raises:
        ConfigError: A change is none that the family has, or its value is not allowed; the message
            names the row.
    """
    if row.family is None:
        return Settings(None, None, evaluate)
    if name := next((name for name in _NO_CHANGE if name in row.changes), None):
        raise ConfigError(
            f"row {row.name}: {name} cannot be changed by a row",
            hint="name another family, or say --seeds",
        )
    recipe = recipe_named(row.recipe, family=row.family)
    recipe = with_settings(recipe, row.changes, origin=f"row {row.name}")
    return Settings(recipe.model, recipe.train, evaluate)


def changed(row: Row, *, recipe: str | None, changes: Mapping[str, Any]) -> Row:
    """Return a row with another recipe or further changes, told by its title.

    A ranker without training has neither, and stays as it is.
    """
    if row.family is None or (recipe is None and not changes):
        return row
    told = [*([f"recipe {recipe}"] if recipe else [])]
    told += [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return replace(
        row,
        title=f"{row.title} ({', '.join(told)})",
        recipe=recipe or row.recipe,
        changes={**row.changes, **changes},
    )


def row_named(name: str) -> Row:
    """Return a row by its name, or a family's own by the family's.

    Raises:
        ConfigError: There is neither.
    """
    if name in ROWS:
        return ROWS[name]
    if name in FAMILY_CONFIGS:
        return Row(name, name, family=name)
    known = [*ROWS, *(family for family in FAMILY_CONFIGS if family not in ROWS)]
    raise unknown_name("row or family", name, known)


def read_changes(given: Sequence[str]) -> dict[str, Any]:
    """Return settings given as ``model.gnn.layers=2``; values are YAML, as in ``params.yaml``.

    Raises:
        ConfigError: One of them is not written so, or is of a section that no row has.
    """
    changes = {}
    for text in given:
        name, equals, value = text.partition("=")
        section, dot, _ = name.partition(".")
        if not equals or not dot or section not in ("model", "train"):
            raise ConfigError(
                f"--set {text} is no setting of a row",
                hint="write --set model.gnn.layers=2 or --set train.optim.lr=0.001",
            )
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise ConfigError(f"--set {text}: the value is no YAML: {exc}") from exc
    return changes


def _within(recorded: Any, today: Any) -> bool:
    if isinstance(recorded, Mapping):
        return isinstance(today, Mapping) and all(
            name in today and _within(value, today[name]) for name, value in recorded.items()
        )
    return bool(recorded == today)

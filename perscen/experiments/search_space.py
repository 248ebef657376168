"""What a search may try: a distribution for each setting, read from one file of data."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from perscen.errors import ConfigError
from perscen.models.config import FAMILY_CONFIGS
from perscen.recipes import Recipe
from perscen.section import Section

DEFAULT_SPACE: Final = Path(__file__).with_name("search_space.yaml")
_EVERY: Final = "every"
_YARDSTICK: Final = frozenset({"model.family", "train.seed", "train.monitor_k"})
"""What trials are compared by, and so must be the same in all."""


class Choice(Section):
    """One of a few values."""

    choices: tuple[Any, ...] = Field(min_length=1)

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna has it."""
        return CategoricalDistribution([_plain(choice) for choice in self.choices])

    def holds(self, value: Any) -> bool:
        """Return whether a setting's value is one of them."""
        return _plain(value) in [_plain(choice) for choice in self.choices]

    def setting(self, value: Any) -> Any:
        """Return the setting that a drawn value stands for."""
        return next(choice for choice in self.choices if _plain(choice) == value)


class Range(Section):
    """Numbers between two bounds, both of them included; whole ones when the bounds are whole."""

    low: int | float
    high: int | float
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    """Evenly over orders of magnitude."""

    @model_validator(mode="after")
    def _has_numbers_in_it(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"high: {self.high} lies below low: {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low}")
        return self

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna has it."""
        low, high, step = self.low, self.high, self.step
        if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
            return IntDistribution(low, high, log=self.log, step=step or 1)
        return FloatDistribution(low, high, log=self.log, step=step)

    def holds(self, value: Any) -> bool:
        """Return whether a setting's value can be drawn."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or math.isclose(steps, round(steps), abs_tol=1e-6)

    def setting(self, value: Any) -> Any:
        """Return the setting that a drawn value stands for: itself."""
        return value


_SPACES: Final = TypeAdapter(dict[str, dict[str, Choice | Range]])


@dataclass(frozen=True)
class Space:
    """The settings of one recipe that a search varies; the others stay as they are."""

    recipe: Recipe
    varied: Mapping[str, Choice | Range]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return what Optuna draws from, by setting."""
        return {path: one.distribution() for path, one in self.varied.items()}

    def start(self) -> dict[str, Any]:
        """Return the recipe's own values, as Optuna has them."""
        own = _leaves(self.recipe)
        return {path: _plain(own[path]) for path in self.varied}

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that drawn values stand for."""
        return {path: self.varied[path].setting(value) for path, value in drawn.items()}

    def changes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the varied settings that are not the recipe's own."""
        own = self.settings(self.start())
        return {path: value for path, value in settings.items() if value != own[path]}

    def to_json(self) -> str:
        """Return what tells this space from another."""
        plain = {path: one.model_dump(mode="json") for path, one in self.varied.items()}
        return json.dumps(plain, sort_keys=True)


def read_space(recipe: Recipe, path: Path = DEFAULT_SPACE) -> Space:
    """Return what a file says may be tried of a recipe's settings.

    Raises:
        ConfigError: The file is not there or not of this form; it names a setting or family that
            does not exist, or one that trials are compared by; or the recipe lies outside.
    """
    try:
        spaces = _SPACES.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint=f"{DEFAULT_SPACE} shows what such a file says"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not readable as YAML: {exc}", hint="fix the file") from exc
    except ValidationError as exc:
        raise ConfigError(
            "\n".join(f"{path}: {line}" for line in _faults(exc)),
            hint=f"{DEFAULT_SPACE} shows what such a file says",
        ) from exc
    _check_known(spaces, [_EVERY, *FAMILY_CONFIGS], what="family", where=path)
    varied = {**spaces.get(_EVERY, {}), **spaces.get(recipe.model.family, {})}
    own = _leaves(recipe)
    _check_known(varied, list(own), what=f"setting of {recipe.model.family}", where=path)
    if not varied:
        raise ConfigError(
            f"{path} gives {recipe.model.family} nothing to vary", hint="name a setting in it"
        )
    for name, one in varied.items():
        _check_start(name, own[name], one, where=path)
    return Space(recipe, varied)


def _check_start(name: str, value: Any, one: Choice | Range, *, where: Path) -> None:
    if name in _YARDSTICK:
        raise ConfigError(
            f"{where}: {name} cannot be varied: trials are compared by it", hint="leave it out"
        )
    if not one.holds(value):
        raise ConfigError(
            f"{where}: {name} is {value!r} in the recipe, which lies outside what may be tried: "
            f"{one.model_dump(exclude_defaults=True)}",
            hint="the recipe itself is the first trial: widen the range, or add its value",
        )


def _check_known(given: Mapping[str, Any], known: list[str], *, what: str, where: Path) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: {name!r} is no {what}", hint=advice)


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        yield f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})"


def _leaves(recipe: Recipe) -> dict[str, Any]:
    """Return every setting of a recipe by its path."""

    def walk(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return {**dict(walk(recipe.model, "model.")), **dict(walk(recipe.train, "train."))}


def _plain(value: Any) -> Any:
    """Return a value as Optuna stores it, which knows no lists."""
    return json.dumps(value) if isinstance(value, list | tuple) else value

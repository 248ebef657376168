"""Recipes: settings of model and training that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar

from perscen.config import BatchConfig, OptimConfig, ShownConfig, TrainConfig, parse_config
from perscen.errors import ConfigError, unknown_name
from perscen.models.config import (
    FAMILY_CONFIGS,
    EmbeddingConfig,
    GluConfig,
    GraphConfig,
    ModelConfig,
    PerscenConfig,
    TwoTowerConfig,
    VqConfig,
)

T = TypeVar("T")


class Recipe(NamedTuple):
    """A model section and a train section."""

    model: ModelConfig
    train: TrainConfig


PAPER: Final = Recipe(
    # The paper's settings (Du et al. 2025, arXiv:2506.18382, Table 6), but for what gets a model
    # off the plateau of global popularity: larger starting embeddings, whose products do not
    # vanish, a larger step, and a patience that does not fire on the plateau.
    model=PerscenConfig(emb=EmbeddingConfig(init_std=0.3)),
    train=TrainConfig(optim=OptimConfig(lr=3e-3), patience=8, min_steps=1_100),
)

BEST: Final = Recipe(
    # What trains well on real logs. What is popular with users of a kind in a scenario is a prior
    # to correct, not something to discover; the softmax over the whole catalogue of one scenario at
    # a time says what to correct; ids of users with a handful of clicks only overfit. What was
    # shown counts half a click: sparse scenarios have many times more impressions than clicks. The
    # towers begin with little to say (temperature), or they would first have to unlearn noise that
    # hides the prior. Codes follow the encoder by moving averages, and nothing pulls it towards
    # them (beta): pulled, it gives every user the same vector. Users without a history in the
    # scenario, who all look alike, are left out of the codebook's upkeep. Weights are averaged over
    # about a hundred steps, because those of sparse scenarios jump from step to step. Gated units
    # start without biases, which would make all users alike. Patience begins late: until the towers
    # have found something to say, recall stands still at the prior's.
    model=PerscenConfig(
        emb=EmbeddingConfig(init_std=0.3),
        graph=GraphConfig(power="refined"),
        vq=VqConfig(beta=0.0, ema_decay=0.99, revive_after=30, mask_empty=True),
        glu=GluConfig(init="lecun"),
        score="cosine",
        temperature=0.5,
        learn_temperature=True,
        item_bias="segments",
        dropout=0.2,
        exclude_fields=("user_id",),
        shown_sequence=True,
    ),
    train=TrainConfig(
        loss="full_softmax",
        optim=OptimConfig(lr=3e-3, weight_average=0.99),
        batch=BatchConfig(size=1024, unit="positives", by_scenario=True),
        shown=ShownConfig(weight=0.5),
        max_epochs=20,
        patience=3,
        min_steps=1_000,
    ),
)

_ANY_DAY: Final = {
    "run": {"logical_date": "2000-01-01"},
    "split": {"train_days": 1, "valid_days": 1, "test_days": 1},
}
"""Sections that a recipe says nothing of."""

RECIPES: Final[dict[str, Recipe]] = {"paper": PAPER, "best": BEST}


LOSSES: Final[dict[str, Literal["bce", "sampled_softmax"]]] = {
    "dssm": "bce",
    "youtube_dnn": "sampled_softmax",
    "ican": "bce",
    "adin": "sampled_softmax",
    "sass": "bce",
    "m5": "bce",
    "self_attention": "sampled_softmax",
}
"""What each family is trained by under the recipe ``paper``; PERSCEN's own is in the recipe."""


def recipe_named(name: str, *, family: str = "perscen") -> Recipe:
    """Return a recipe, for PERSCEN or for another family.

    Under ``paper`` another family keeps its own settings and its own loss, and is trained as
    PERSCEN is. Under ``best`` it also takes over every setting that is no family's own.

    Raises:
        ConfigError: There is no recipe, or no family, of that name.
    """
    recipe = _named(name, RECIPES, what="recipe")
    config = _named(family, FAMILY_CONFIGS, what="family")
    if family == recipe.model.family:
        return recipe
    common = ["emb"] if name == "paper" else [*TwoTowerConfig.model_fields.keys() - {"family"}]
    model: Any = config(family=family, **{field: getattr(recipe.model, field) for field in common})
    loss = LOSSES[family] if name == "paper" else recipe.train.loss
    return Recipe(model, recipe.train.model_copy(update={"loss": loss}))


def with_settings(recipe: Recipe, changes: Mapping[str, Any], *, origin: str) -> Recipe:
    """Return a recipe with some of its settings changed.

    Args:
        recipe: Where all other settings come from.
        changes: Values by dotted name, as in ``params.yaml``: ``train.optim.lr``.
        origin: Whose changes these are, for messages.

    Raises:
        ConfigError: There is no such setting, its value is not allowed, or settings do not go
            together.
    """
    tree: dict[str, Any] = {
        name: part.model_dump(mode="json") for name, part in recipe._asdict().items()
    }
    for name, value in changes.items():
        _put(tree, name, value, origin=origin)
    config = parse_config({**_ANY_DAY, **tree}, origin=origin)
    return Recipe(config.model, config.train)


def _put(tree: dict[str, Any], name: str, value: Any, *, origin: str) -> None:
    *path, last = name.split(".")
    for depth, part in enumerate(path, start=1):
        below = tree.get(part)
        if not isinstance(below, dict):
            raise ConfigError(
                f"{origin}: {'.'.join(path[:depth])} is not a group of settings",
                hint="`perscen params` prints every setting with its meaning",
            )
        tree = below
    tree[last] = value


def _named(name: str, known: Mapping[str, T], *, what: str) -> T:
    if name not in known:
        raise unknown_name(what, name, sorted(known))
    return known[name]

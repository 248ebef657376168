"""The same short training over and over, with one thing changed each time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from pydantic import BaseModel, ConfigDict

from perscen.config import TrainConfig
from perscen.data.splits import Splits
from perscen.diagnostics.codes import use_of
from perscen.diagnostics.looking import history_codes
from perscen.errors import ConfigError
from perscen.models.config import ModelConfig, PerscenConfig
from perscen.models.families import make_model
from perscen.seeding import seed_torch
from perscen.training.loop import train


class Trial(BaseModel):
    """How one training went; recalls are the validation window's, at the best epoch, in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int
    best_epoch: int
    macro_recall: float
    recall: dict[str, float]
    used: int | None = None
    """Codes that any validation query with clicks in its scenario fell on; None: no codebook."""
    dead: int | None = None
    perplexity: float | None = None
    distortion: float | None = None
    """Mean squared distance to the own code, as a share of the variance; None: no such query."""
    spread: float | None = None
    """Root of that variance over the length of the mean: near 0, histories say nothing; None: no
    such query."""
    train_cpu_s: float


def run_trial(splits: Splits, model: PerscenConfig, config: TrainConfig, *, epochs: int) -> Trial:
    """Train a model for so many epochs, none fewer, and say what came of it.

    Raises:
        ConfigError: As training.
        TrainingDiverged: As training.
    """
    seed_torch(config.seed, "init")
    towers = make_model(splits.schema, model)
    towers.start_from(splits)
    started = time.process_time()
    trained = train(
        towers, splits, config.model_copy(update={"max_epochs": epochs, "patience": epochs})
    )
    taken = time.process_time() - started
    codes: dict[str, Any] = {}
    if towers.num_codes:
        seen = history_codes(towers, splits, window="valid")
        use = use_of(seen.counts_SK.sum(axis=0))
        codes = {"used": use.used, "dead": use.dead, "perplexity": use.perplexity}
        codes |= {"distortion": seen.distortion, "spread": seen.spread}
    return Trial(
        epochs=len(trained.epochs),
        best_epoch=trained.best.epoch,
        macro_recall=trained.best.macro_recall,
        recall=trained.best.recall,
        train_cpu_s=taken,
        **codes,
    )


def trial_table(trials: Mapping[str, Trial], *, what: str) -> pl.DataFrame:
    """Return a row per trial, the recall of each scenario in a column of its own."""
    return pl.DataFrame(
        [
            {
                what: name,
                "macro_recall": trial.macro_recall,
                **{f"recall/{s}": recall for s, recall in trial.recall.items()},
                **trial.model_dump(exclude={"epochs", "macro_recall", "recall"}),
            }
            for name, trial in trials.items()
        ]
    )


_REFINEMENTS: Final[dict[str, dict[str, Any]]] = {
    "keep 0.1": {"sparsify": "global_topk", "keep_ratio": 0.1},
    "keep 0.5": {"sparsify": "global_topk", "keep_ratio": 0.5},
    "keep all": {"sparsify": "none"},
    "half of each row": {"sparsify": "row_topk", "keep_ratio": 0.5},
    "threshold 0.5": {"sparsify": "threshold", "threshold": 0.5},
    "degrees": {"normalise": "degree"},
    "not normalised": {"normalise": "none"},
    "one graph for all layers": {"power": "same"},
}


def refinements(model: ModelConfig) -> dict[str, PerscenConfig]:
    """Return the settings of a model with its graph refined in other ways, by name.

    Raises:
        ConfigError: The settings are of a model without a graph.
    """
    if not isinstance(model, PerscenConfig) or model.interaction != "gnn":
        raise ConfigError(
            f"the settings are of a model ({model.family}) without a feature graph",
            hint="set model.family: perscen and model.interaction: gnn",
        )
    return {
        name: model.model_copy(update={"graph": model.graph.model_copy(update=changes)})
        for name, changes in _REFINEMENTS.items()
    }

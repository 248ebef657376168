"""What people and ``dvc metrics`` read: means, intervals, differences and slices of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.evaluation.statistics import (
    SMALL_SAMPLE,
    Group,
    interval,
    percentiles,
    resample_means,
)

Floats = NDArray[np.float64]

INTERVAL_LEVEL: Final = 0.95
RESAMPLES: Final = 10_000
_SEED: Final = 0
_ALPHA: Final = (1 - INTERVAL_LEVEL) / 2


def metrics_of(per_user: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{model: {metric: {scenario: mean, "macro": unweighted mean over scenarios}}}``."""
    names = _metric_names(per_user)
    means = per_user.group_by("model", "scenario", maintain_order=True).agg(pl.col(names).mean())
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in means.iter_rows(named=True):
        of_model = metrics.setdefault(row["model"], {name: {} for name in names})
        for name in names:
            of_model[name][row["scenario"]] = row[name]
    for of_model in metrics.values():
        for by_scenario in of_model.values():
            by_scenario["macro"] = float(np.mean(list(by_scenario.values())))
    return metrics


def summarise(
    per_user: pl.DataFrame,
    *,
    ks: Sequence[int],
    segment_columns: Sequence[str],
    index_recall: Mapping[str, float],
) -> dict[str, Any]:
    """Return the contents of ``summary.json``; intervals are two-sided, at ``INTERVAL_LEVEL``.

    Args:
        per_user: Scores as in ``per_user.parquet``, with a model named ``candidate``.
        ks: The Ks; differences and slices are at the first.
        segment_columns: What the segment-popularity baseline chose.
        index_recall: Share of the exact top K that each scenario's index returns.
    """
    resampled = _Resampled.of(per_user, ks)
    baselines = [model for model in resampled.models if model != "candidate"]
    return {
        "ks": list(ks),
        "interval_level": INTERVAL_LEVEL,
        "models": {model: _levels(per_user, resampled, model, ks) for model in resampled.models},
        "differences": {model: _differences(resampled, model) for model in baselines},
        "slices": _slices(per_user, f"recall_{ks[0]}"),
        "segment_columns": list(segment_columns),
        "index_recall": dict(index_recall),
    }


def recall_plot(
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]], ks: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the rows of ``plots/recall.json``."""
    return [
        {"model": model, "scenario": scenario, "k": k, "recall": recall}
        for model, of_model in metrics.items()
        for k in ks
        for scenario, recall in of_model[f"recall_{k}"].items()
    ]


@dataclass(frozen=True)
class _Resampled:
    """Recall per user and its resampled means, per scenario; columns are (model, K)."""

    models: list[str]
    num_ks: int
    values: dict[str, Floats]
    means: dict[str, Floats]

    @classmethod
    def of(cls, per_user: pl.DataFrame, ks: Sequence[int]) -> _Resampled:
        models = per_user["model"].unique(maintain_order=True).to_list()
        users = per_user["user_id"].unique(maintain_order=True)
        place = dict(zip(users.to_list(), range(len(users)), strict=True))
        values, groups = {}, []
        for (scenario,), frame in per_user.group_by("scenario", maintain_order=True):
            parts = frame.partition_by("model", maintain_order=True)
            recalls = [part.select([f"recall_{k}" for k in ks]).to_numpy() for part in parts]
            values[str(scenario)] = np.concatenate(recalls, axis=1)
            users_N = np.array([place[user] for user in parts[0]["user_id"]], dtype=np.int64)
            groups.append(Group(users_N, values[str(scenario)]))
        means = resample_means(groups, num_users=len(users), resamples=RESAMPLES, seed=_SEED)
        return cls(models, len(ks), values, dict(zip(values, means, strict=True)))

    def column(self, model: str, k_place: int = 0) -> int:
        return self.models.index(model) * self.num_ks + k_place


def _levels(
    per_user: pl.DataFrame, resampled: _Resampled, model: str, ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    mine = per_user.filter(pl.col("model") == model)
    levels = {}
    for (scenario,), frame in mine.group_by("scenario", maintain_order=True):
        level: dict[str, float] = {"num_users": len(frame)}
        for place, k in enumerate(ks):
            column = resampled.column(model, place)
            values = resampled.values[str(scenario)][:, column]
            bounds = interval(values, resampled.means[str(scenario)][:, column], alpha=_ALPHA)
            level |= {
                f"recall_{k}": bounds.mean,
                f"recall_{k}_low": max(bounds.low, 0.0),
                f"recall_{k}_high": bounds.high,
                f"hits_{k}": float(frame.get_column(f"hits_{k}").to_numpy().mean()),
            }
        levels[str(scenario)] = level
    return levels


def _differences(resampled: _Resampled, baseline: str) -> dict[str, dict[str, float | None]]:
    """Return candidate minus baseline per scenario, and of the unweighted mean over scenarios.

    The mean has no interval where a scenario has under :data:`SMALL_SAMPLE` users: percentiles of
    few are too narrow, and of one user there is no spread at all.
    """
    mine, other = resampled.column("candidate"), resampled.column(baseline)
    differences: dict[str, dict[str, float | None]] = {}
    deltas, levels, drawn = [], [], []
    for scenario, values in resampled.values.items():
        means_R = resampled.means[scenario][:, mine] - resampled.means[scenario][:, other]
        bounds = interval(values[:, mine] - values[:, other], means_R, alpha=_ALPHA)
        level = float(values[:, other].mean())
        differences[scenario] = _difference(bounds.mean, bounds.low, bounds.high, level)
        deltas.append(bounds.mean)
        levels.append(level)
        drawn.append(means_R)
    fewest = min(len(values) for values in resampled.values.values())
    low, high = (
        percentiles(np.mean(drawn, axis=0), alpha=_ALPHA)
        if fewest >= SMALL_SAMPLE
        else (None, None)
    )
    differences["macro"] = _difference(float(np.mean(deltas)), low, high, float(np.mean(levels)))
    return differences


def _difference(
    delta: float, low: float | None, high: float | None, level: float
) -> dict[str, float | None]:
    relative = delta / level if level > 0 else None
    return {"delta": delta, "low": low, "high": high, "relative": relative}


def _slices(per_user: pl.DataFrame, metric: str) -> list[dict[str, Any]]:
    length = pl.col("history_length")
    sliced = {
        "new_user": pl.when("new_user").then(pl.lit("yes")).otherwise(pl.lit("no")),
        "cold_items": pl.when(pl.col("cold_items") > 0)
        .then(pl.lit("some"))
        .otherwise(pl.lit("none")),
        "history_length": pl.when(length == 0)
        .then(pl.lit("0"))
        .when(length < 5)
        .then(pl.lit("1-4"))
        .when(length < 20)
        .then(pl.lit("5-19"))
        .when(length < 50)
        .then(pl.lit("20-49"))
        .otherwise(pl.lit("50+")),
    }
    rows: list[dict[str, Any]] = []
    for name, value in sliced.items():
        means = (
            per_user.with_columns(value.alias("value"))
            .group_by("value", "scenario", "model", maintain_order=True)
            .agg(pl.len().alias("num_users"), pl.col(metric).mean())
        )
        rows += [{"slice": name, **row} for row in means.iter_rows(named=True)]
    return rows


def _metric_names(per_user: pl.DataFrame) -> list[str]:
    return [name for name in per_user.columns if name.startswith(("recall_", "hits_"))]

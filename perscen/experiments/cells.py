"""The numbers of a table: one cell per row, metric and scenario, with every seed's value."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from perscen.evaluation.summary import metrics_of
from perscen.experiments.significance import Scores

Key = tuple[str, str, str]
"""Row, metric, and scenario or ``macro``."""


@dataclass(frozen=True)
class Cell:
    """A metric's values by seed, each a mean over users, as fractions."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds, of the sample; None with one seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


def cells_of(scores: Scores) -> dict[Key, Cell]:
    """Return the cells of every row with a finished run."""
    cells: dict[Key, dict[int, float]] = {}
    for row, by_seed in scores.items():
        for seed, frame in by_seed.items():
            named = frame.with_columns(pl.lit(row).alias("model"))
            for metric, by_scenario in metrics_of(named)[row].items():
                for scenario, value in by_scenario.items():
                    cells.setdefault((row, metric, scenario), {})[seed] = value
    return {key: Cell(values) for key, values in cells.items()}


def first_and_second(
    cells: Mapping[Key, Cell], rows: Iterable[str], metric: str, scenario: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the rows with the best and with the second best mean, each one or, if equal, more."""
    means = {row: cells[key].mean for row in rows if (key := (row, metric, scenario)) in cells}
    ranked = sorted(set(means.values()), reverse=True)
    places = [frozenset(row for row in means if means[row] == value) for value in ranked[:2]]
    first, second = [*places, frozenset[str](), frozenset[str]()][:2]
    return first, second


def cells_table(cells: Mapping[Key, Cell], rows: Sequence[str]) -> pl.DataFrame:
    """Return the cells as they are written: mean, deviation, number of seeds and every value."""
    seeds = sorted({seed for cell in cells.values() for seed in cell.by_seed})
    lines = [
        {
            "row": row,
            "metric": metric,
            "scenario": scenario,
            "num_seeds": len(cell.by_seed),
            "mean": cell.mean,
            "sd": cell.sd,
            **{f"seed_{seed}": cell.by_seed.get(seed) for seed in seeds},
        }
        for name in rows
        for (row, metric, scenario), cell in cells.items()
        if row == name
    ]
    values = dict.fromkeys(("mean", "sd", *(f"seed_{seed}" for seed in seeds)), pl.Float64)
    return pl.DataFrame(lines, schema_overrides=values, infer_schema_length=None)

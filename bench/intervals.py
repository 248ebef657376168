"""How often the intervals of a comparison hold the truth, which they should 95 times in 100.

Two rows without a difference, of users and seeds that vary as said; "resampled" draws seeds with
replacement in place of Student's t, as a bootstrap over seeds and users within would.

Run: ``python -m bench.intervals``, half a minute on one thread.
"""

from __future__ import annotations

from typing import Final
from unittest import mock

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.experiments import significance
from perscen.experiments.significance import resample

USERS: Final = 100
REPEATS: Final = 300
RESAMPLES: Final = 1_000
USER_ERROR: Final = 0.01
"""Standard error of a difference, of users alone."""
CASES: Final = {
    "users alone": 0.0,
    "seeds as much as users": 0.01,
    "seeds alone": 1.0,
}
"""Standard deviation of a row's seeds."""


def run() -> None:
    """Print the table."""
    print(f"Intervals that hold the truth, of {REPEATS} pairs of rows, {USERS} users")
    print(f"{'what varies':24}{'trainings':>10}{'as published':>14}{'resampled':>11}")
    with mock.patch.object(significance, "RESAMPLES", RESAMPLES):
        for name, spread in CASES.items():
            for num_seeds in (2, 3, 5):
                published = _coverage(spread, num_seeds)
                with mock.patch.object(significance, "_draw_seeds", _with_replacement):
                    resampled = _coverage(spread, num_seeds)
                print(f"{name:24}{num_seeds:>10}{published:>14.0%}{resampled:>11.0%}")


def _coverage(spread: float, num_seeds: int) -> float:
    rng = np.random.default_rng(0)
    held = 0
    for repeat in range(REPEATS):
        taste_N = rng.normal(0, USER_ERROR * USERS**0.5, USERS)
        scores = {
            row: {
                seed: _scores(sign * taste_N / 2 + rng.normal(0, spread))
                for seed in range(num_seeds)
            }
            for row, sign in (("a", 1), ("b", -1))
        }
        found = resample(scores, ["recall_50"], seed=repeat).difference("a", "b", "recall_50", "s")
        held += found.sign == 0
    return held / REPEATS


def _scores(recall_N: NDArray[np.float64]) -> pl.DataFrame:
    users = [f"u{number}" for number in range(USERS)]
    return pl.DataFrame(
        {"scenario": "s", "user_id": users, "num_relevant": 1, "recall_50": recall_N}
    )


def _with_replacement(row: str, num_seeds: int, *, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, *row.encode()])
    picks_RS = rng.integers(num_seeds, size=(RESAMPLES, num_seeds))
    shares_RS: NDArray[np.float64] = (picks_RS[:, :, None] == np.arange(num_seeds)).mean(axis=1)
    return shares_RS - 1 / num_seeds


if __name__ == "__main__":
    run()

"""How sure a difference of two rows is: a bootstrap over users, and what seeds vary by.

A resample draws users with replacement, once for all rows, seeds and scenarios: two rows are
compared on the same users, and a user of several scenarios counts alike in all. To it comes what
each row's mean over seeds may be off by, drawn from Student's t distribution for that many seeds
(Student 1908, Biometrika 6): of a few seeds resampled themselves, the intervals leave out the truth
too often. What a seed makes of single users counts in both, so intervals are rather too wide. Of
one seed nothing follows about others: its intervals hold the chance of users alone.

Letters: R resamples, N users of a scenario, C columns (row, seed, metric).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.errors import ArtifactError
from perscen.evaluation.statistics import SMALL_SAMPLE, Group, percentiles, resample_means

Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[int, pl.DataFrame]]
"""Per-user scores by row and seed."""

MACRO: Final = "macro"
"""The unweighted mean over scenarios."""
LEVEL: Final = 0.95
RESAMPLES: Final = 10_000
_ALPHA: Final = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its two-sided interval at :data:`LEVEL`.

    Attributes:
        low: None, as all that follows, where there are too few users to say.
        p_value: Two-sided, that there is no difference; not adjusted for how many are told.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


class Resampled:
    """Means of every row, metric and scenario over all users, and over resamples of them."""

    def __init__(
        self,
        means: Mapping[tuple[str, str, str], float],
        drawn_R: Mapping[tuple[str, str, str], Floats],
        num_users: Mapping[str, int],
    ) -> None:
        self._means = means
        self._drawn_R = drawn_R
        self.num_users = num_users

    def level(self, row: str, metric: str, scenario: str) -> Estimate:
        """Return a row's mean over seeds and users, in one scenario or over all (``macro``)."""
        key = (row, metric, scenario)
        return self._estimate(self._means[key], self._drawn_R[key], scenario)

    def difference(self, row: str, other: str, metric: str, scenario: str) -> Estimate:
        """Return a row's mean less another's."""
        mine, others = (row, metric, scenario), (other, metric, scenario)
        delta = self._means[mine] - self._means[others]
        delta_R = self._drawn_R[mine] - self._drawn_R[others]
        estimate = self._estimate(delta, delta_R, scenario)
        if estimate.low is None:
            return estimate
        known_R = delta_R[~np.isnan(delta_R)]
        tail = min((known_R <= 0).sum(), (known_R >= 0).sum())
        p_value = min(1.0, 2 * (1 + int(tail)) / (1 + len(known_R)))
        return Estimate(estimate.value, estimate.low, estimate.high, p_value)

    def _estimate(self, value: float, drawn_R: Floats, scenario: str) -> Estimate:
        fewest = min(self.num_users.values()) if scenario == MACRO else self.num_users[scenario]
        if fewest < SMALL_SAMPLE:  # percentiles of few users are too narrow
            return Estimate(value)
        return Estimate(value, *percentiles(drawn_R, alpha=_ALPHA))


def resample(scores: Scores, metrics: Sequence[str], *, seed: int = 0) -> Resampled:
    """Return the means of the scores with their resamples; a row's do not depend on other rows.

    Args:
        scores: Per-user scores by row and seed, all of the same users in the same order.
        metrics: Columns of the scores.
        seed: Of the resampling.

    Raises:
        ArtifactError: Two runs scored other users.
    """
    columns = [(row, s) for row, by_seed in scores.items() for s in by_seed]
    frames = [scores[row][s] for row, s in columns]
    _check_alike(columns, frames)
    users = frames[0]["user_id"].unique(maintain_order=True)
    place = {user: number for number, user in enumerate(users.to_list())}
    scenario_N = frames[0]["scenario"].to_numpy()
    scenarios = frames[0]["scenario"].unique(maintain_order=True).to_list()
    position_N = np.array([place[user] for user in frames[0]["user_id"]], dtype=np.int64)
    values_NC = np.concatenate([frame.select(metrics).to_numpy() for frame in frames], axis=1)
    groups = [
        Group(position_N[scenario_N == name], values_NC[scenario_N == name]) for name in scenarios
    ]
    resampled = resample_means(groups, num_users=len(users), resamples=RESAMPLES, seed=seed)
    means: dict[tuple[str, str, str], float] = {}
    drawn: dict[tuple[str, str, str], Floats] = {}
    for row in scores:
        of_row = [number for number, (name, _) in enumerate(columns) if name == row]
        chance_RS = _draw_seeds(row, len(of_row), seed=seed)
        for number, metric in enumerate(metrics):
            column_S = [len(metrics) * place + number for place in of_row]
            for scenario, group, means_RC in zip(scenarios, groups, resampled, strict=True):
                of_seed_S = group.values_NC[:, column_S].mean(axis=0)
                means[row, metric, scenario] = float(of_seed_S.mean())
                drawn[row, metric, scenario] = (
                    means_RC[:, column_S].mean(axis=1) + chance_RS @ of_seed_S
                )
            of_metric = [(row, metric, scenario) for scenario in scenarios]
            means[row, metric, MACRO] = float(np.mean([means[key] for key in of_metric]))
            drawn[row, metric, MACRO] = np.mean([drawn[key] for key in of_metric], axis=0)
    return Resampled(means, drawn, {s: int((scenario_N == s).sum()) for s in scenarios})


def _draw_seeds(row: str, num_seeds: int, *, seed: int) -> Floats:
    """Return weights ``[R, S]`` of seeds that make of values what their mean may be off by.

    That is t times the mean's standard error, where t has S - 1 degrees of freedom; whatever the
    values are, so that scenarios and metrics vary together.
    """
    if num_seeds == 1:
        return np.zeros((RESAMPLES, 1))
    rng = np.random.default_rng([seed, *row.encode()])
    normal_RS = rng.standard_normal((RESAMPLES, num_seeds))
    centred_RS = normal_RS - normal_RS.mean(axis=1, keepdims=True)
    freedom = num_seeds - 1
    spread_R1 = np.sqrt(freedom / rng.chisquare(freedom, size=(RESAMPLES, 1)))
    chance_RS: Floats = centred_RS * spread_R1 / math.sqrt(num_seeds * freedom)
    return chance_RS


def _check_alike(columns: Sequence[tuple[str, int]], frames: Sequence[pl.DataFrame]) -> None:
    keys = ["scenario", "user_id", "num_relevant"]
    first = frames[0].select(keys)
    for (row, seed), frame in zip(columns, frames, strict=True):
        if not frame.select(keys).equals(first):
            raise ArtifactError(
                f"{row} seed {seed} was scored on other test users than {columns[0][0]} seed "
                f"{columns[0][1]}: {len(frame):,} of them, not {len(first):,}",
                hint="remove the older run from the work directory, and make it again",
            )

"""Paired bootstrap over users: how sure a difference of recalls is, in bounded memory.

Letters: U users, N users of one group, C columns of a group, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

SMALL_SAMPLE: Final = 50
"""Under this many users the bounds are Student's t instead of bootstrap percentiles."""

_CHUNK_WEIGHTS: Final = 2_000_000
_FIXED_POINT: Final = 2.0**24
_POISSON_STEPS: Final = 65_536


@dataclass(frozen=True)
class Group:
    """Some of the users with one or more numbers each: a scenario, or a slice of one.

    Attributes:
        users_N: Distinct positions within the list of all users; a user has one weight per
            resample, however many groups it is in, so that means of groups vary together.
        values_NC: Finite numbers, each of magnitude at most 1.
    """

    users_N: NDArray[np.int64]
    values_NC: Floats


@dataclass(frozen=True)
class Interval:
    """A mean with its two one-sided bounds, each of them right with probability ``1 - alpha``."""

    mean: float
    low: float
    high: float
    standard_error: float


def resample_means(
    groups: Sequence[Group], *, num_users: int, resamples: int, seed: int
) -> list[Floats]:
    """Return the resampled means ``[R, C]`` of each group.

    Weights are independent Poisson(1) counts per user, the usual stand-in for drawing users with
    replacement; a mean is self-normalised, sum of weighted values over sum of weights. All groups
    are one matrix product per chunk of resamples. A resample without any user of a group is NaN.

    The products are exact: small whole weights times values rounded to 2^-24 stay under 2^53, so
    the result depends on neither the number of threads nor the order of summation.
    """
    edges = np.cumsum([0, *(group.values_NC.shape[1] + 1 for group in groups)])
    columns_UM = np.zeros((num_users, edges[-1]))
    for group, (first, last) in zip(groups, pairwise(edges), strict=True):
        columns_UM[group.users_N, first : last - 1] = np.round(group.values_NC * _FIXED_POINT)
        columns_UM[group.users_N, last - 1] = 1.0
    sums_RM = np.empty((resamples, edges[-1]))
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_WEIGHTS // max(num_users, 1))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        draws = rng.integers(0, _POISSON_STEPS, (count, num_users), dtype=np.uint16)
        sums_RM[start : start + count] = _POISSON_OF_DRAW[draws] @ columns_UM
    return [
        _ratio(sums_RM[:, first : last - 1] / _FIXED_POINT, sums_RM[:, last - 1 : last])
        for first, last in pairwise(edges)
    ]


def interval(values_N: Floats, means_R: Floats, *, alpha: float) -> Interval:
    """Return the mean of the values with its bounds.

    From :data:`SMALL_SAMPLE` users on the bounds are percentiles of the resampled means. Below,
    they are Student's t bounds: percentiles of few users are too narrow. One user says nothing, and
    the bounds are -1 and 1.

    Raises:
        ValueError: There are no values.
    """
    num = len(values_N)
    if not num:
        raise ValueError("a mean over no users has no meaning")
    mean = float(values_N.mean())
    if num < 2:
        return Interval(mean, -1.0, 1.0, 1.0)
    error = float(values_N.std(ddof=1) / np.sqrt(num))
    if num < SMALL_SAMPLE:
        reach = float(stats.t.ppf(1 - alpha, num - 1)) * error
        return Interval(mean, max(mean - reach, -1.0), min(mean + reach, 1.0), error)
    return Interval(mean, *percentiles(means_R, alpha=alpha), error)


def percentiles(means_R: Floats, *, alpha: float) -> tuple[float, float]:
    """Return the one-sided percentile bounds of resampled means, low and high, NaN left out."""
    known = means_R[~np.isnan(means_R)]
    low, high = np.quantile(known, [alpha, 1 - alpha])
    return float(low), float(high)


def minimum_detectable_effect(standard_error: float, *, alpha: float, power: float) -> float:
    """Return the smallest loss a one-sided test at ``alpha`` finds with probability ``power``."""
    return float((stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)) * standard_error)


def users_needed(num_users: int, *, effect: float, margin: float) -> int | None:
    """Return how many users would make the detectable effect as small as the margin.

    None when no number would: the margin is 0 while the users differ.
    """
    if effect == 0:
        return num_users
    if margin <= 0:
        return None
    return int(np.ceil(num_users * (effect / margin) ** 2))


def _ratio(sums_RC: Floats, weights_R1: Floats) -> Floats:
    means_RC = np.full_like(sums_RC, np.nan)
    np.divide(sums_RC, weights_R1, out=means_RC, where=weights_R1 > 0)
    return means_RC


def _poisson_table() -> Floats:
    """Return the Poisson(1) count of each 16-bit draw: looking up is 10 x faster than sampling."""
    steps = np.arange(_POISSON_STEPS)
    bounds = np.round(stats.poisson.cdf(np.arange(16), 1.0) * _POISSON_STEPS)
    return np.searchsorted(bounds, steps, side="right").astype(np.float64)


_POISSON_OF_DRAW: Final = _poisson_table()

"""The bootstrap: against closed forms, and its coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from perscen.evaluation.statistics import (
    Group,
    interval,
    minimum_detectable_effect,
    percentiles,
    resample_means,
    users_needed,
)
from perscen.evaluation.summary import summarise


def resample(values: np.ndarray, *, resamples: int = 4_000, seed: int = 0) -> np.ndarray:
    group = Group(np.arange(len(values)), values[:, None])
    (means,) = resample_means([group], num_users=len(values), resamples=resamples, seed=seed)
    return means[:, 0]


def test_resampled_means_scatter_as_the_standard_error_says():
    values = np.random.default_rng(0).choice([-0.5, 0.0, 0.0, 0.0, 1.0], 800)
    means = resample(values)
    assert means.mean() == pytest.approx(values.mean(), abs=0.002)
    assert means.std() == pytest.approx(values.std() / np.sqrt(800), rel=0.05)


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    values = np.random.default_rng(0).random(100)
    assert (resample(values) == resample(values)).all()
    assert (resample(values) != resample(values, seed=1)).any()


def test_a_user_has_one_weight_in_all_groups():
    values = np.random.default_rng(0).random(60)
    groups = [
        Group(np.arange(60), values[:, None]),
        Group(np.arange(60)[::-1].copy(), np.stack([values[::-1], -values[::-1]], axis=1)),
    ]
    one, other = resample_means(groups, num_users=60, resamples=500, seed=0)
    assert (one[:, 0] == other[:, 0]).all()
    assert (one[:, 0] == -other[:, 1]).all()


def test_groups_without_common_users_vary_independently():
    values = np.random.default_rng(0).random((400, 1))
    groups = [Group(np.arange(200), values[:200]), Group(np.arange(200, 400), values[200:])]
    one, other = resample_means(groups, num_users=400, resamples=4_000, seed=0)
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.06


def test_a_resample_without_the_only_user_of_a_group_is_left_out_of_the_bounds():
    groups = [Group(np.array([0]), np.array([[0.5]])), Group(np.arange(5), np.zeros((5, 1)))]
    alone, _ = resample_means(groups, num_users=5, resamples=400, seed=0)
    assert np.isnan(alone).any()
    assert percentiles(alone[:, 0], alpha=0.05) == (0.5, 0.5)


def test_few_users_get_the_t_interval():
    values = np.linspace(-0.4, 0.6, 30)
    bounds = interval(values, resample(values), alpha=0.05)
    low, high = stats.t.interval(0.9, 29, values.mean(), stats.sem(values))
    assert (bounds.low, bounds.high) == pytest.approx((low, high))


def test_one_user_says_nothing_and_none_is_an_error():
    alone = interval(np.array([0.3]), np.array([0.3]), alpha=0.05)
    assert (alone.mean, alone.low, alone.high) == (0.3, -1.0, 1.0)
    with pytest.raises(ValueError, match="no users"):
        interval(np.array([]), np.array([]), alpha=0.05)


def test_the_detectable_effect_is_the_textbook_one():
    effect = minimum_detectable_effect(0.02, alpha=0.05, power=0.8)
    assert effect == pytest.approx((1.6449 + 0.8416) * 0.02, rel=1e-4)
    assert users_needed(500, effect=effect, margin=effect / 2) == 2_000
    assert users_needed(500, effect=effect, margin=0.0) is None
    assert users_needed(500, effect=0.0, margin=0.0) == 500


@pytest.mark.medium
@pytest.mark.parametrize(
    ("num_users", "recall"), [(45, 0.5), (60, 0.5), (200, 0.3), (1_000, 0.05), (3_000, 0.02)]
)
def test_each_bound_covers_the_true_difference_as_often_as_it_says(num_users: int, recall: float):
    repetitions, alpha = 1_500, 0.05
    rng = np.random.default_rng(num_users)
    # The taste of a user is shared by both models, so their scores are paired; the truth is 0.
    shape = (num_users, repetitions)
    num_relevant = rng.integers(1, 4, shape)
    taste = rng.beta(1.0, 1 / recall - 1, shape)
    values = (rng.binomial(num_relevant, taste) - rng.binomial(num_relevant, taste)) / num_relevant
    group = Group(np.arange(num_users), values)
    (means,) = resample_means([group], num_users=num_users, resamples=1_000, seed=0)
    bounds = [interval(v, m, alpha=alpha) for v, m in zip(values.T, means.T, strict=True)]
    # Four standard errors; a few hundred repetitions could not tell 5 % from 9 %.
    slack = 4 * np.sqrt(alpha * (1 - alpha) / repetitions)
    assert np.mean([b.low > 0 for b in bounds]) == pytest.approx(alpha, abs=slack)
    assert np.mean([b.high < 0 for b in bounds]) == pytest.approx(alpha, abs=slack)


@pytest.mark.parametrize(("num_users", "is_told"), [(1, False), (49, False), (50, True)])
def test_the_mean_over_scenarios_has_an_interval_where_each_scenario_has_users_enough(
    num_users, is_told
):
    """Few users vary less in resamples than they do; one does not vary at all."""
    rng = np.random.default_rng(0)
    users = {"rich": 200, "poor": num_users}
    scores = pl.concat(
        pl.DataFrame(
            {
                "model": model,
                "scenario": scenario,
                "user_id": [f"u{n}" for n in range(num)],
                "new_user": False,
                "history_length": 3,
                "cold_items": 0,
                "recall_5": rng.random(num),
                "hits_5": rng.random(num),
            }
        )
        for scenario, num in users.items()
        for model in ("candidate", "champion")
    )
    summary = summarise(scores, ks=(5,), segment_columns=(), index_recall={})
    macro = summary["differences"]["champion"]["macro"]
    if is_told:
        assert macro["low"] < macro["delta"] < macro["high"]
    else:
        assert macro["low"] is macro["high"] is None
    assert summary["differences"]["champion"]["poor"]["low"] is not None  # Student's t

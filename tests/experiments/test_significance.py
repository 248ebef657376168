"""The nested bootstrap against what can be computed by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from perscen.errors import ArtifactError
from perscen.experiments.significance import MACRO, resample


def scores(recall_by_scenario: dict[str, np.ndarray]) -> pl.DataFrame:
    frames = [
        pl.DataFrame(
            {
                "scenario": [scenario] * len(recall),
                "user_id": [f"u{n}" for n in range(len(recall))],
                "num_relevant": [1] * len(recall),
                "recall_5": recall,
            }
        )
        for scenario, recall in recall_by_scenario.items()
    ]
    return pl.concat(frames)


def test_users_alone_give_the_standard_error_of_a_paired_mean():
    rng = np.random.default_rng(0)
    base = rng.random(400)
    gain = rng.normal(0.02, 0.1, 400).clip(-1, 1)
    drawn = resample(
        {
            "a": {0: scores({"x": base * 0.5 + gain * 0.5})},
            "b": {0: scores({"x": base * 0.5})},
        },
        ["recall_5"],
    )
    difference = drawn.difference("a", "b", "recall_5", "x")
    assert difference.value == pytest.approx((gain * 0.5).mean())
    # What both have in common drops out: the error is that of the difference alone.
    error = (gain * 0.5).std() / np.sqrt(400)
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * error, rel=0.05)


@pytest.mark.parametrize("levels", [(0.1, 0.6), (0.1, 0.2, 0.6), (0.1, 0.2, 0.35, 0.4, 0.6)])
def test_seeds_alone_give_the_interval_of_students_t(levels):
    by_seed = {n: scores({"x": np.full(80, level)}) for n, level in enumerate(levels)}
    level = resample({"a": by_seed}, ["recall_5"]).level("a", "recall_5", "x")
    assert level.value == pytest.approx(np.mean(levels))
    low, high = stats.t.interval(
        0.95, len(levels) - 1, loc=np.mean(levels), scale=stats.sem(levels)
    )
    width = high - low
    assert level.low == pytest.approx(low, abs=0.05 * width)
    assert level.high == pytest.approx(high, abs=0.05 * width)


def test_scenarios_share_their_draws_of_seeds():
    # A seed good in one scenario is as bad in the other: their mean never varies.
    frames = {
        n: scores({"x": np.full(80, level), "y": np.full(80, 0.8 - level)})
        for n, level in enumerate((0.1, 0.2, 0.6))
    }
    macro = resample({"a": frames}, ["recall_5"]).level("a", "recall_5", MACRO)
    assert (macro.low, macro.high) == pytest.approx((0.4, 0.4))


def test_both_add_up_and_one_model_that_is_lucky_with_seeds_proves_nothing():
    rng = np.random.default_rng(1)
    base = rng.random(300) * 0.4 + 0.2
    lucky = {0: scores({"x": base + 0.10}), 1: scores({"x": base - 0.08})}
    plain = {0: scores({"x": base}), 1: scores({"x": base})}
    difference = resample({"a": lucky, "b": plain}, ["recall_5"]).difference(
        "a", "b", "recall_5", "x"
    )
    assert difference.value == pytest.approx(0.01)
    assert difference.low < -0.9  # of two seeds 9 points off their mean almost nothing follows
    assert difference.high > 0.9
    assert difference.sign == 0
    assert difference.p_value == pytest.approx(2 * stats.t.sf(0.01 / 0.09, 1), abs=0.03)


def test_a_certain_difference_has_the_smallest_p_there_is_and_no_difference_has_one():
    base = np.linspace(0.2, 0.6, 100)
    drawn = resample(
        {
            "a": {0: scores({"x": base + 0.1})},
            "b": {0: scores({"x": base})},
            "c": {0: scores({"x": base})},
        },
        ["recall_5"],
    )
    assert drawn.difference("a", "b", "recall_5", "x").p_value == pytest.approx(2 / 10_001)
    assert drawn.difference("a", "b", "recall_5", "x").sign == 1
    assert drawn.difference("b", "a", "recall_5", "x").sign == -1
    same = drawn.difference("c", "b", "recall_5", "x")
    assert (same.value, same.sign, same.p_value) == (0, 0, 1)


def test_the_macro_mean_weighs_scenarios_alike_and_a_user_of_two_counts_in_both():
    rng = np.random.default_rng(2)
    shared = rng.random(200)
    # In scenario y the same users' scores are mirrored: their mean over both never varies.
    frame = scores({"x": shared, "y": 1 - shared})
    drawn = resample({"a": {0: frame}}, ["recall_5"])
    macro = drawn.level("a", "recall_5", MACRO)
    assert macro.value == pytest.approx(0.5)
    assert macro.high - macro.low < 1e-6
    assert drawn.level("a", "recall_5", "x").high - drawn.level("a", "recall_5", "x").low > 0.05


def test_a_row_has_the_same_interval_whatever_stands_beside_it():
    rng = np.random.default_rng(3)
    mine = {n: scores({"x": rng.random(100)}) for n in range(3)}
    other = {0: scores({"x": rng.random(100)})}
    alone = resample({"a": mine}, ["recall_5"]).level("a", "recall_5", "x")
    beside = resample({"b": other, "a": mine}, ["recall_5"]).level("a", "recall_5", "x")
    assert alone == beside


def test_too_few_users_have_a_mean_and_no_interval():
    drawn = resample(
        {"a": {0: scores({"x": np.full(49, 0.5), "y": np.full(60, 0.5)})}}, ["recall_5"]
    )
    assert drawn.level("a", "recall_5", "x").low is None
    assert drawn.level("a", "recall_5", "y").low == pytest.approx(0.5, abs=1e-6)
    assert drawn.level("a", "recall_5", MACRO).low is None


def test_runs_on_other_users_are_not_compared():
    with pytest.raises(ArtifactError, match=r"b seed 1 .* other test users than a seed 0: 60 of"):
        resample(
            {"a": {0: scores({"x": np.zeros(50)})}, "b": {1: scores({"x": np.zeros(60)})}},
            ["recall_5"],
        )

"""Numbers on the page: wording, positions of bars, projections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.report.inside import principal_components
from components.report.recall import difference_table
from components.report.verdict import interval_bars
from components.report.words import percent, points
from perscen.evaluation.metrics import perplexity
from perscen.evaluation.verdict import Outcome, ScenarioVerdict


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0734, "7.3\u202f%"), (0.0, "0.0\u202f%"), (0.0001, "<0.1\u202f%"), (None, "–")],
)
def test_shares_are_percent_on_the_page(share: float | None, text: str):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0031, "+0.31"), (-0.004, "−0.40"), (-1e-9, "±0.00")]
)
def test_differences_carry_their_sign(difference: float, text: str):
    assert points(difference) == text


def scenario(difference: float, half: float, margin: float) -> ScenarioVerdict:
    return ScenarioVerdict(
        scenario="1",
        num_users=100,
        candidate_recall=0.2,
        champion_recall=0.2 - difference,
        popularity_recall=0.1,
        compared_with="champion",
        difference=difference,
        low=difference - half,
        high=difference + half,
        margin=margin,
        detectable_effect=0.01,
        users_needed=None,
        outcome=Outcome.PASS,
        policy=None,
        reasons=(),
    )


shares = st.floats(0, 0.5)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.builds(scenario, st.floats(-0.5, 0.5), half=shares, margin=shares),
        min_size=1,
        max_size=4,
    )
)
def test_bars_keep_the_order_of_their_numbers_and_stay_inside(scenarios: list[ScenarioVerdict]):
    bars = interval_bars(scenarios)
    for bar in bars:
        assert bar is not None
        assert bar.margin is not None
        assert 0 <= bar.low <= bar.point <= bar.high <= 100
        assert 0 <= bar.margin <= bar.zero <= 100
    assert len({bar.zero for bar in bars if bar}) == 1, "one scale for all scenarios"


def test_the_map_of_points_on_a_line_is_that_line():
    along_Q = np.array([-2.0, 0.0, 1.0, 5.0])
    point_Q2, explained = principal_components(along_Q[:, None] * np.array([0.6, -0.8, 0.0]))
    assert explained == pytest.approx((1.0, 0.0))
    assert point_Q2[:, 0] == pytest.approx(-(along_Q - 1.0))
    assert point_Q2[:, 1] == pytest.approx(np.zeros(4))


def test_perplexity_is_the_number_of_evenly_used_codes():
    assert perplexity(np.array([3, 3, 0, 3, 3])) == pytest.approx(4.0)


def test_a_difference_without_an_interval_has_no_colour():
    alone = {"delta": 0.01, "low": None, "high": None, "relative": 0.1}
    sure = {"delta": 0.01, "low": 0.005, "high": 0.015, "relative": 0.1}
    table = difference_table({"champion": {"1": sure, "macro": alone}}, scenarios=["1"])
    (_, one, macro) = table.rows[0]
    assert (one.tone, one.note) == ("good", "+0.50 to +1.50")
    assert (macro.tone, macro.note) == ("", "too few users for an interval")

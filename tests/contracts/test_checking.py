"""Every row is good, quarantined with all the rules it broke, or an exact duplicate."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.checking import check
from data_contracts.parsing import interactions_of, typed_rows
from data_contracts.suites import SecondOpinion
from tests.contracts.logs import (
    FIRST_DAY,
    Row,
    around,
    as_table,
    day,
    impression,
    impressions,
    log_contract,
    midnight_ms,
)

ODD_TEXTS = (
    *(None, "", "0", "1", "-1", "2", "15", "n/a", "nan", "1e3", "5\n", "1.0", " 1", "٣", "9" * 30),
    *("20220425", "20221340", "1650816000000", "1650816000", "1750816000000"),
)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Days of good rows, rows with a few odd fields, and repeats of either."""
    num = draw(st.integers(0, 12))
    columns = st.sampled_from(sorted(impression(FIRST_DAY)))
    built = [
        impression(
            FIRST_DAY,
            number,
            **draw(st.dictionaries(columns, st.sampled_from(ODD_TEXTS), max_size=3)),
        )
        for number in range(num)
    ]
    return built + (draw(st.lists(st.sampled_from(built), max_size=6)) if built else [])


@pytest.mark.medium
@given(rows())
@settings(max_examples=25, deadline=None)
def test_every_row_is_good_or_quarantined_or_a_dropped_duplicate(built):
    checked = check(as_table(built), log_contract(), around(built))
    assert checked.good.num_rows + checked.quarantined.num_rows + checked.dropped == len(built)
    whole = checked.good.to_pylist() + checked.quarantined.drop("broken_rules").to_pylist()
    assert {tuple(row.values()) for row in whole} == {tuple(row.values()) for row in built}


@pytest.mark.medium
@given(rows())
@settings(max_examples=25, deadline=None)
def test_a_row_is_in_quarantine_exactly_when_it_broke_a_rule(built):
    checked = check(as_table(built), log_contract(), around(built))
    listed = Counter(
        rule for broken in checked.quarantined["broken_rules"].to_pylist() for rule in broken
    )
    assert all(checked.quarantined["broken_rules"].to_pylist())
    assert listed == Counter({name: n for name, n in checked.rule_counts.items() if n})
    again = check(checked.good, log_contract(), around(checked.good.to_pylist()))
    assert again.good.equals(checked.good)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"user_id": None}, ["user_id_present"]),
        ({"user_id": ""}, ["user_id_present"]),
        ({"video_id": "777"}, ["item_known"]),
        ({"video_id": None}, ["video_id_present"]),
        ({"tab": "15"}, ["scenario_known"]),
        ({"tab": "01"}, ["scenario_known"]),
        ({"play_time_ms": "-1"}, ["play_time_ms_in_range"]),
        ({"play_time_ms": "n/a"}, ["play_time_ms_is_integer"]),
        ({"play_time_ms": "12\n"}, ["play_time_ms_is_integer"]),
        ({"duration_ms": "nan"}, ["duration_ms_is_integer"]),
        ({"is_click": "2"}, ["is_click_in_range"]),
        ({"time_ms": None}, ["time_ms_present"]),
        ({"date": "20220426"}, ["date_is_its_partition"]),
        ({"date": "today"}, ["date_is_date"]),
        ({"tab": "x", "is_like": "-3"}, ["is_like_in_range", "scenario_known"]),
    ],
)
def test_a_bad_row_is_kept_whole_with_every_rule_it_broke(changes, rules):
    bad = impression(FIRST_DAY, 3, **changes)
    built = impressions(FIRST_DAY, 3, bad)
    checked = check(as_table(built), log_contract(), around(built))
    assert checked.quarantined.to_pylist() == [bad | {"broken_rules": rules}]


@pytest.mark.parametrize(
    ("time_ms", "legal"),
    [
        (midnight_ms(day(-1)), True),
        (midnight_ms(day(-1)) - 1, False),
        (midnight_ms(day(1)) - 1, True),
        (midnight_ms(day(1)), False),
    ],
)
def test_the_time_may_lie_on_the_rows_date_or_the_day_before(time_ms, legal):
    built = [impression(FIRST_DAY, time_ms=str(time_ms))]
    checked = check(as_table(built), log_contract(), around(built))
    assert checked.rule_counts["time_plausible"] == (0 if legal else 1)


def test_a_user_without_features_is_legal():
    built = [impression(FIRST_DAY, user_id="stranger")]
    assert check(as_table(built), log_contract(), around(built)).good.num_rows == 1


def test_of_equal_rows_the_first_is_judged_and_the_others_are_dropped():
    bad = impression(FIRST_DAY, 9, tab="99")
    built = [*impressions(FIRST_DAY, 2), bad, *impressions(FIRST_DAY, 2), bad]
    checked = check(as_table(built), log_contract(), around(built))
    assert (checked.good.num_rows, checked.quarantined.num_rows, checked.dropped) == (2, 1, 3)


def test_rows_without_a_day_say_so():
    built = [impression(FIRST_DAY, date="soon")]
    checked = check(as_table(built), log_contract(), around(built, None))
    (bad,) = checked.quarantined.to_pylist()
    assert bad["broken_rules"] == ["date_is_date", "partition_day_present"]


def test_clean_rows_have_the_clean_logs_columns_in_the_order_they_came():
    built = [impression(FIRST_DAY, number) for number in (3, 1, 2)]
    checked = check(as_table(built), log_contract(), around(built))
    clean = interactions_of(checked.good_frame, log_contract())
    assert clean.to_pylist()[0] == {
        "user_id": "3",
        "item_id": "3",
        "scenario": "1",
        "event_time_ms": midnight_ms(FIRST_DAY) + 3000,
        "clicked": True,
    }
    assert clean["user_id"].to_pylist() == ["3", "1", "2"]


def test_typed_rows_keep_numbers_exact_and_missing_ones_missing():
    built = [
        impression(FIRST_DAY, 0, play_time_ms="900719925474099", duration_ms="87.0"),
        impression(FIRST_DAY, 1, duration_ms=None),
    ]
    frame = check(as_table(built), log_contract(), around(built)).distinct_frame
    typed = typed_rows(frame, log_contract())
    assert typed["play_time_ms"].to_pylist() == [900719925474099, 1500]
    assert typed["duration_ms"].to_pylist() == [87, None]
    assert typed["date"].to_pylist() == [FIRST_DAY, FIRST_DAY]


@pytest.mark.medium
def test_great_expectations_counts_the_same_rows_per_rule_as_the_predicates(tmp_path):
    built = impressions(FIRST_DAY, 40)
    for number, column in enumerate(sorted(impression(FIRST_DAY))):
        for turn, text in enumerate(ODD_TEXTS):
            built.append(impression(FIRST_DAY, 1000 * turn + number, **{column: text}))
    checked = check(as_table(built), log_contract(), around(built))
    opinion = SecondOpinion(tmp_path)
    counts = opinion.counts(log_contract(), checked.distinct_frame, batch="odd")
    assert counts == checked.rule_counts
    assert sum(1 for count in counts.values() if count) > 45


@pytest.mark.medium
def test_a_disagreement_of_the_two_is_our_bug_and_not_bad_data(tmp_path):
    built = impressions(FIRST_DAY, 5)
    checked = check(as_table(built), log_contract(), around(built))
    counts = checked.rule_counts | {"item_known": 2}
    with pytest.raises(RuntimeError, match="item_known"):
        SecondOpinion(tmp_path).confirm(
            log_contract(), checked.distinct_frame, batch="day", rule_counts=counts
        )

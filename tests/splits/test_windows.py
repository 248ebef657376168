"""Windows: counted back or given, in order, ending on the logical date."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.config import SplitConfig
from perscen.data.windows import windows_of
from perscen.errors import ConfigError

LOGICAL = date(2022, 5, 5)


def given_windows(train: tuple[int, int], valid: tuple[int, int], test: tuple[int, int]):
    """Return settings with windows by day of May 2022."""
    spans = {
        name: tuple(date(2022, 5, d) for d in span)
        for name, span in (("train", train), ("valid", valid), ("test", test))
    }
    return SplitConfig.model_validate(spans)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(-12, 14))
def test_windows_counted_back_follow_on_each_other_and_end_on_the_logical_date(
    train, valid, test, offset
):
    config = SplitConfig(train_days=train, valid_days=valid, test_days=test)
    windows = windows_of(config, logical_date=LOGICAL, utc_offset_hours=offset)

    (_, a_end), (b, b_end), (c, c_end) = (windows.span_ms(name) for name, _ in windows.items())
    assert (a_end, b_end) == (b, c)
    midnight = datetime(2022, 5, 6, tzinfo=timezone(timedelta(hours=offset)))
    assert c_end == midnight.timestamp() * 1000
    assert [len(windows.days(name)) for name, _ in windows.items()] == [train, valid, test]


def test_counting_back_passes_over_days_without_rows():
    config = SplitConfig(train_days=2, valid_days=1, test_days=1)
    windows = windows_of(
        config,
        logical_date=LOGICAL,
        utc_offset_hours=8,
        skip={date(2022, 5, 4), date(2022, 5, 2)},
    )
    assert windows.test.first == date(2022, 5, 5)
    assert (windows.valid.first, windows.valid.last) == (date(2022, 5, 3), date(2022, 5, 3))
    assert (windows.train.first, windows.train.last) == (date(2022, 4, 30), date(2022, 5, 1))


def test_given_windows_may_leave_days_out_between_them():
    windows = windows_of(
        given_windows((1, 1), (3, 3), (5, 5)), logical_date=LOGICAL, utc_offset_hours=8
    )
    assert windows.valid.first == date(2022, 5, 3)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (((1, 3), (3, 4), (5, 5)), "split.train ends on 2022-05-03, but split.valid begins on"),
        (((1, 2), (4, 4), (3, 5)), "split.valid ends on 2022-05-04, but split.test begins on"),
        (((3, 1), (4, 4), (5, 5)), "split.train is empty: it begins on 2022-05-03"),
        (((1, 2), (3, 3), (4, 4)), "split.test ends on 2022-05-04, but the logical date is"),
    ],
)
def test_windows_that_make_no_sense_are_refused_by_name(spans, message):
    with pytest.raises(ConfigError, match=message) as caught:
        windows_of(given_windows(*spans), logical_date=LOGICAL, utc_offset_hours=8)
    assert caught.value.hint


def test_days_without_rows_are_found_with_their_reason():
    windows = windows_of(
        given_windows((1, 2), (3, 3), (5, 5)), logical_date=LOGICAL, utc_offset_hours=8
    )
    lacking = windows.days_without_rows(
        [date(2022, 5, 1), date(2022, 5, 5)], {date(2022, 5, 2): "too many bad rows"}
    )
    assert lacking == {
        "train": {date(2022, 5, 2): "too many bad rows"},
        "valid": {date(2022, 5, 3): "no rows"},
    }

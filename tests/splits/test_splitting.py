"""What the splits hold, told on small clean logs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from perscen.data.splits import Splits
from perscen.errors import ArtifactError, ConfigError
from perscen.schema import FIRST_ROW
from tests.splits.clean_logs import (
    HOUR,
    at,
    click,
    config_of,
    day,
    some_rows,
    split_dir,
    users_table,
    write_clean_log,
)


@pytest.fixture
def split(tmp_path):
    """Split rows with settings; returns the splits."""

    def make(rows=None, *, users=None, items=None, **settings) -> Splits:
        directory = write_clean_log(
            tmp_path / f"clean{len(list(tmp_path.iterdir()))}",
            some_rows() if rows is None else rows,
            users=users,
            items=items,
        )
        return split_dir(directory, config_of(**settings), logical_date=day(5))[0]

    return make


def history(splits: Splits, name: str, q: int) -> list[str]:
    """Return the ids of a query's multi-scenario history."""
    slices = getattr(splits, f"{name}_slices")
    return splits.items.ids[splits.histories.items[slices.start[q] : slices.end[q]]].tolist()


def query_of(splits: Splits, name: str, user: str, scenario: str) -> int:
    queries = getattr(splits, name)
    wanted = (queries.user_id == user) & (
        queries.scenario == splits.schema.scenario_index(scenario)
    )
    (q,) = np.flatnonzero(wanted)
    return int(q)


def relevant(splits: Splits, name: str, q: int) -> list[str]:
    queries = getattr(splits, name)
    bounds = queries.relevant_offsets[q : q + 2]
    return splits.items.ids[queries.relevant[slice(*bounds)]].tolist()


def test_each_click_is_in_the_window_of_its_local_day(split):
    # 23:59 and 00:00 in Beijing are the same day in UTC.
    rows = [
        *some_rows(),
        click("u1", "v4", "main", at(3, 23.99)),
        click("u1", "v5", "main", at(4, 0)),
    ]
    splits = split(rows)

    assert splits.train.time_ms.max() == at(3, 23.99)
    assert "v5" in relevant(splits, "valid", query_of(splits, "valid", "u1", "main"))


def test_histories_of_queries_stop_at_their_window_and_served_ones_do_not(split):
    splits = split()
    q = query_of(splits, "test", "u1", "side")
    v = query_of(splits, "valid", "u1", "side")
    before_valid, before_test = history(splits, "valid", v), history(splits, "test", q)

    assert len(before_valid) == 10  # 4 days: 4 in main at 9:00, 4 in side, 2 more on odd days
    assert before_test == [*before_valid, "v4", "v4"]
    row = splits.test.user[q] * 2 + splits.schema.scenario_index("side")
    served = splits.histories.items[splits.served.start[row] : splits.served.end[row]]
    assert splits.items.ids[served].tolist() == [*before_test, "v5", "v4", "v5"]


def test_train_only_histories_leave_the_validation_clicks_out_of_the_test(split):
    splits = split(eval_history="train_only")
    q = query_of(splits, "test", "u1", "side")
    assert history(splits, "test", q) == history(
        splits, "valid", query_of(splits, "valid", "u1", "side")
    )


def test_a_query_wants_each_item_once_however_often_it_was_clicked(split):
    extra = [click("u1", "v3", "main", at(5, 20 + n)) for n in (0, 1, 2)]
    splits = split([*some_rows(), *extra])
    q = query_of(splits, "test", "u1", "main")
    assert relevant(splits, "test", q) == ["v3", "v4", "v5"]


def test_users_with_one_training_click_are_evaluated_but_not_trained_on(split):
    rows = [
        *some_rows(),
        click("u6", "v0", "main", at(1)),
        click("u6", "v1", "main", at(5)),
    ]
    users = users_table(["u6", "u1", "u2", "u3", "u4", "u5"])
    splits = split(rows, users=users)

    row = splits.vocabularies["users"].index("u6") + FIRST_ROW
    assert row not in splits.train.user
    assert "u6" not in splits.vocabularies["user/user_id"]
    assert splits.users.categorical_RF[row, 0] == 0
    assert history(splits, "test", query_of(splits, "test", "u6", "main")) == ["v0"]


def test_scope_all_counts_clicks_of_every_window_and_drops_the_others_everywhere(split):
    rows = [
        *some_rows(),
        click("u6", "v0", "main", at(1)),
        click("u6", "v1", "main", at(5)),
        click("u7", "v1", "main", at(5)),
    ]
    splits = split(rows, min_interactions_scope="all")

    trained = splits.users.ids[splits.train.user]
    assert "u6" in trained
    assert "u7" not in splits.test.user_id
    row = splits.vocabularies["users"].index("u7") + FIRST_ROW
    assert np.diff(splits.histories.user_offsets)[row] == 0


def test_the_log_date_keeps_evaluation_rows_out_of_every_earlier_history(split):
    # Just before midnight by its time, but logged as the next day: a test row under log_date.
    late = at(4, 23.9)
    rows = [*some_rows(), click("u1", "v5", "side", late, date=day(5).isoformat())]
    by_time = split(rows)
    by_date = split(rows, day_from="log_date")

    assert "v5" in relevant(by_time, "valid", query_of(by_time, "valid", "u1", "side"))
    q = query_of(by_date, "test", "u1", "side")
    assert "v5" in relevant(by_date, "test", q)
    assert history(by_date, "test", q)[-1] == "v4"
    assert by_date.histories.times_ms.max() < at(6, 0)


def test_scenarios_come_by_falling_training_clicks_and_ties_by_name(split, caplog):
    rows = some_rows()
    rows += [click("u1", "v0", "tail", at(d, 20)) for d in range(6) for _ in range(3)]
    rows += [click("u1", "v0", "aside", at(d, 20)) for d in range(6) for _ in range(3)]
    # Many clicks after the training window, and many impressions, count for nothing.
    rows += [click("u2", "v0", "later", at(5, n % 24)) for n in range(99)]
    splits = split(rows, num_scenarios=4)
    assert splits.schema.scenarios == ("main", "aside", "side", "tail")
    assert not caplog.records


def test_another_ranking_by_impressions_is_told(split, caplog):
    rows = some_rows()
    rows += [click("u1", "v0", "seen", at(1, 20), clicked=False) for _ in range(99)]
    rows += [click("u1", "v0", "seen", at(1, 21))]
    assert split(rows).schema.scenarios == ("main", "side")
    (record,) = caplog.records
    assert record.by_clicks == ["main", "side"]
    assert record.by_impressions == ["seen", "main"]


def test_scenarios_asked_for_by_name_are_ordered_by_volume_too(split):
    assert split(scenarios=("side", "main")).schema.scenarios == ("main", "side")


def test_impressions_of_the_training_window_are_kept_clicked_or_not(split):
    splits = split([*some_rows(), click("u9", "v0", "main", at(0), clicked=False)])
    kept = splits.impressions
    assert len(kept.user) == 4 * 13 + 1
    assert (~kept.clicked).sum() == 2 * 5 + 1
    assert kept.time_ms.max() < at(4, 0)
    row = splits.vocabularies["users"].index("u9") + FIRST_ROW
    assert np.diff(kept.user_offsets)[row] == 1


def test_a_user_without_features_gets_a_row_whose_features_are_missing(split):
    rows = [*some_rows(), *(click("zz", "v0", "main", at(d, 7)) for d in range(6))]
    splits = split(rows)

    assert splits.vocabularies["users"] == ["u1", "u2", "u3", "u4", "u5", "zz"]
    user_id, city = splits.users.categorical_RF[7]
    assert splits.vocabularies["user/user_id"][user_id - FIRST_ROW] == "zz"
    assert city == 1
    assert splits.users.dense_RF[7, 0] == 0


def test_later_windows_change_neither_vocabularies_nor_scalers_nor_training_rows(split):
    early = [row for row in some_rows() if row["event_time_ms"] < at(4, 0)]
    later = [
        click(f"u{1 + n % 5}", "v0", s, at(d, n))
        for d in (4, 5)
        for n in range(9)
        for s in ("main", "side")
    ]
    one, other = split(), split([*early, *later])

    assert one.vocabularies == other.vocabularies
    assert one.scalers == other.scalers
    for column in ("user", "item", "scenario", "time_ms"):
        np.testing.assert_array_equal(getattr(one.train, column), getattr(other.train, column))
    for q in range(len(one.train.user)):
        assert history(one, "train", q) == history(other, "train", q)


def test_the_order_of_rows_in_the_files_does_not_matter(split, tmp_path):
    rows = some_rows()
    rows += [click("u1", v, s, at(2)) for v in ("v3", "v1") for s in ("side", "main")]  # ties
    split(rows).save(tmp_path / "one")
    split(rows[::-1]).save(tmp_path / "other")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        other = tmp_path / "other" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([], {"num_scenarios": 3}, ConfigError, "num_scenarios is 3, but only 2 scenarios have"),
        ([], {"scenarios": ("main", "moon")}, ConfigError, "names moon, which no click"),
        ([], {"min_interactions": 99}, ConfigError, "no user has 99 clicks"),
        (
            [click("u1", "nowhere", "main", at(1))],
            {},
            ArtifactError,
            "1 of 79 impressions show an item missing from the catalogue",
        ),
        (
            [click("u1", "v0", "rare", at(d), clicked=d != 5) for d in range(6)],
            {"num_scenarios": 3},
            ArtifactError,
            "no user clicks in scenario rare in the test window, 2026-03-06 to 2026-03-06",
        ),
    ],
)
def test_a_log_that_cannot_be_split_so_is_refused(split, rows, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        split([*some_rows(), *rows], **settings)
    assert caught.value.hint


def test_a_window_without_impressions_is_refused(split):
    rows = [row for row in some_rows() if not at(4, 0) <= row["event_time_ms"] < at(5, 0)]
    with pytest.raises(ArtifactError, match="the valid window, 2026-03-05 to 2026-03-05, holds no"):
        split(rows)


def test_a_repeated_id_in_a_feature_table_is_refused(split):
    with pytest.raises(ArtifactError, match="1 of 3 rows of the user table repeat an user_id"):
        split(users=users_table(["u1", "u2", "u1"]))


def test_a_feature_table_without_a_planned_column_is_refused(split):
    with pytest.raises(ArtifactError, match="the user table lacks the columns age, city"):
        split(users=pa.table({"user_id": ["u1"]}))


def test_hours_are_what_the_tests_take_them_for():
    assert at(1, 0) - at(0, 23) == HOUR

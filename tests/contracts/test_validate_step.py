"""The validate step: days within tolerance pass, the newest beyond it stops the run."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.exit_codes import exit_code
from components.steps import validate
from components.store import digest_of
from data_contracts import validating
from perscen.config import DataConfig
from perscen.data.raw_layout import raw_layout
from perscen.errors import ArtifactError, ConfigError, ContractBreach
from tests.contracts.logs import (
    FIRST_DAY,
    as_batch,
    day,
    impression,
    impressions,
    item,
    midnight_ms,
    task_for,
    user,
    write_raw,
)

pytestmark = pytest.mark.medium  # each is quick, all together are not

NEWEST = day(3)
GOOD_DAYS = {day(number): impressions(day(number), 60) for number in range(4)}


class _Silent:
    """In place of Great Expectations, which costs seconds; what it says is tested elsewhere."""

    def __init__(self, data_docs):
        data_docs.mkdir()

    def confirm(self, *args, **kwargs):
        pass

    confirm_later = confirm_waiting = write_docs = confirm


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(validating, "SecondOpinion", _Silent)


@pytest.fixture
def run(tmp_path, quick):
    """Write a raw log of some days and run the step on it."""

    def run(days=GOOD_DAYS, *, logical_date=NEWEST, data=None, damage=None, **tables):
        raw = write_raw(tmp_path / "raw", days, **tables)
        if damage:
            damage(raw)
        shutil.rmtree(tmp_path / "clean_log", ignore_errors=True)
        task = task_for(raw, tmp_path / "clean_log", logical_date=logical_date)
        return task, validate.run(task, data=data or DataConfig())

    return run


@pytest.fixture
def report(tmp_path):
    return lambda where="clean_log": json.loads((tmp_path / where / "report.json").read_text())


def test_a_good_log_passes_whole(run, report):
    task, manifest = run()
    assert manifest.days == [day(number) for number in range(4)]
    assert (manifest.rows_in, manifest.rows_good, manifest.rows_quarantined) == (240, 240, 0)
    assert not (task.output / "quarantine").exists()
    assert all(check["passed"] for check in report()["table_checks"])
    users = pq.ParquetFile(task.output / "users/part-0.parquet").read()
    assert users["is_live_streamer"].to_pylist()[0] == -124
    items = pq.ParquetFile(task.output / "items/part-0.parquet").read()
    assert items["tag"].to_pylist()[0] == ["3", "12"]


def test_the_clean_log_says_when_its_days_begin(run):
    _, manifest = run(data=DataConfig(utc_offset_hours=9))
    assert manifest.utc_offset_hours == 9


def test_the_same_log_gives_the_same_bytes(run, tmp_path):
    bad = impression(NEWEST, 99, tab="x")
    task, manifest = run(GOOD_DAYS | {NEWEST: impressions(NEWEST, 60, bad)})
    first = digest_of(task.output, manifest)
    again = task_for(tmp_path / "raw", tmp_path / "again", logical_date=NEWEST)
    assert digest_of(again.output, validate.run(again, data=DataConfig())) == first


def test_bad_rows_within_tolerance_go_to_quarantine_and_the_run_goes_on(run, report):
    bad = impression(NEWEST, 99, tab="x", play_time_ms="-5")
    task, manifest = run(GOOD_DAYS | {NEWEST: impressions(NEWEST, 60, bad, impression(NEWEST, 1))})
    kept = pq.ParquetFile(task.output / f"quarantine/date={NEWEST}/part-0.parquet").read()
    assert kept.to_pylist() == [bad | {"broken_rules": ["play_time_ms_in_range", "scenario_known"]}]
    assert report()["rows"] == {"in": 242, "good": 240, "quarantined": 1, "dropped": 1}
    assert manifest.rule_counts["log.scenario_known"] == 1
    assert report()["days"][-1]["rules"] == {"play_time_ms_in_range": 1, "scenario_known": 1}


def test_the_newest_day_beyond_tolerance_stops_the_run_and_leaves_the_report(run, report, tmp_path):
    bad = [impression(NEWEST, 100 + number, tab="x") for number in range(20)]
    with pytest.raises(ContractBreach, match=r"20 of 80 rows .*25.0%.*'scenario_known'") as caught:
        run(GOOD_DAYS | {NEWEST: impressions(NEWEST, 60, *bad)})
    assert exit_code(caught.value) == 65
    kept = tmp_path / "clean_log.state" / "report.json"
    assert caught.value.report_path == kept
    assert str(kept) in caught.value.hint
    assert report("clean_log.state")["days"][-1]["status"] == "excluded"


def test_a_report_of_an_earlier_breach_does_not_outlive_a_good_run(run, tmp_path):
    with pytest.raises(ContractBreach):
        run(GOOD_DAYS | {NEWEST: impressions(NEWEST, 5)})
    assert (tmp_path / "clean_log.state").exists()
    run()
    assert not (tmp_path / "clean_log.state").exists()


def test_an_older_day_beyond_tolerance_is_left_out_and_named(run, report):
    days = GOOD_DAYS | {day(1): [impression(day(1), n, user_id=None) for n in range(60)]}
    task, manifest = run(days)
    assert manifest.days == [day(0), day(2), NEWEST]
    assert "user_id_present" in manifest.excluded_days[day(1)]
    assert not (task.output / f"interactions/date={day(1)}").exists()
    assert report()["days"][1]["status"] == "excluded"


def test_older_days_that_all_breach_leave_nothing_to_train_on(run):
    days = {day(n): [impression(day(n), i, is_click="yes") for i in range(60)] for n in range(3)}
    with pytest.raises(ContractBreach, match="none of the 3 days before"):
        run(days | {NEWEST: GOOD_DAYS[NEWEST]})


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (impressions(NEWEST, 20), "row_count"),
        (impressions(NEWEST, 200), "row_count"),
        (impressions(NEWEST, 60) * 2, "a day delivered twice"),
        ([impression(NEWEST, n, tab="1") for n in range(60)], "scenarios_present"),
        (
            [impression(NEWEST, n, time_ms=str(midnight_ms(NEWEST) - 1 - n)) for n in range(60)],
            "date_against_time",
        ),
        ([impression(NEWEST, n, tab=None) for n in range(60)], "60 of 60 rows"),
        ([impression(NEWEST, n, time_ms="0") for n in range(60)], "time_plausible"),
    ],
)
def test_what_is_wrong_with_the_newest_day_as_a_whole_is_named(run, rows, says):
    with pytest.raises(ContractBreach, match=says):
        run(GOOD_DAYS | {NEWEST: rows})


def test_a_scenario_too_small_to_be_missed_may_vanish(run):
    rare = impressions(day(0), 60, impression(day(0), 61, tab="9"))
    _, manifest = run(GOOD_DAYS | {day(0): rare})
    assert manifest.rows_good == 241


def test_rows_without_a_day_are_quarantined_and_judged_with_the_newest(run):
    lost = impression(FIRST_DAY, 7, date="unknown")
    task, _ = run(GOOD_DAYS | {None: [lost]})
    kept = pq.ParquetFile(task.output / f"quarantine/date={NEWEST}/part-0.parquet").read()
    assert kept.drop("broken_rules").to_pylist() == [lost]
    with pytest.raises(ContractBreach, match="date_is_date"):
        run(GOOD_DAYS | {None: [impression(FIRST_DAY, n, date="?") for n in range(30)]})


def test_only_the_window_is_read(run):
    old = day(0) - timedelta(days=5)
    _, manifest = run(GOOD_DAYS | {old: impressions(old, 3), day(4): impressions(day(4), 3)})
    assert old in manifest.days
    _, manifest = run(GOOD_DAYS, data=DataConfig(window_days=3), logical_date=day(2))
    assert manifest.days == [day(0), day(1), day(2)]


def test_a_day_that_was_not_delivered_is_watched(run, report):
    run({of: rows for of, rows in GOOD_DAYS.items() if of != day(1)})
    (check,) = [c for c in report()["table_checks"] if c["name"] == "days_delivered"]
    assert not check["passed"]
    assert str(day(1)) in check["observed"]


def test_users_without_features_are_watched_and_do_not_stop_the_run(run, report):
    _, manifest = run(users=[user(0)])
    (check,) = [c for c in report()["table_checks"] if c["name"] == "users_with_features"]
    assert (check["passed"], check["severity"]) == (False, "warning")
    assert manifest.rows_good == 240


def test_rows_of_a_feature_table_that_share_an_id_and_differ_are_all_quarantined(run, report):
    users = [user(number) for number in range(100)]
    task, _ = run(users=[*users, user(5), user(7, register_days="12")])
    assert report()["tables"]["users"] == {"in": 102, "good": 99, "quarantined": 2, "dropped": 1}
    kept = pq.ParquetFile(task.output / "quarantine/users/part-0.parquet").read()
    assert kept["broken_rules"].to_pylist() == [["user_id_unique"]] * 2


def test_a_feature_table_beyond_tolerance_stops_the_run(run):
    with pytest.raises(ContractBreach, match=r"2 of 5 rows of the items table"):
        run(items=[item(0), item(1), item(2), item(3, music_type="x"), item(4, video_id=None)])


@pytest.mark.parametrize(
    ("logical_date", "error", "says"),
    [
        (day(9), ConfigError, f"{day(0)} to {day(3)}"),
        (day(-1), ConfigError, f"{day(0)} to {day(3)}"),
        (day(2), ArtifactError, f"no partition for {day(2)}"),
    ],
)
def test_a_logical_date_the_log_does_not_have_names_the_days_it_has(run, logical_date, error, says):
    days = {of: rows for of, rows in GOOD_DAYS.items() if of != day(2)}
    with pytest.raises(error, match=says):
        run(days, logical_date=logical_date)


def _truncate(raw):
    path = raw / f"date={day(1)}/part-0.parquet"
    path.write_bytes(path.read_bytes()[:-40])


def _truncate_unlisted(raw):
    whole = (raw / f"date={day(1)}/part-0.parquet").read_bytes()
    (raw / f"date={day(1)}/part-1.parquet").write_bytes(whole[:-40])


def _lose(raw):
    (raw / f"date={day(1)}/part-0.parquet").unlink()


def _not_utf8(raw):
    rows = as_batch(impressions(day(1), 3), list(impression(day(1))))
    values = pa.array([b"\xff\xfe"] * 3, pa.binary()).view(pa.string())
    table = pa.Table.from_batches([rows]).set_column(0, "user_id", values)
    pq.write_table(table, raw / f"date={day(1)}/part-1.parquet")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "part-0.parquet is truncated or changed"),
        (_truncate_unlisted, "part-1.parquet is truncated"),
        (_lose, "part-0.parquet is missing"),
        (_not_utf8, "part-1.parquet is truncated, or no Parquet file of UTF-8 text"),
    ],
)
def test_a_damaged_file_is_named(run, damage, says):
    with pytest.raises(ArtifactError, match=says):
        run(damage=damage)


def _deliver(raw, table):
    pq.write_table(table, raw / f"date={NEWEST}/part-1.parquet")


def test_a_second_delivery_of_the_newest_day_is_noticed(run):
    def again(raw):
        _deliver(raw, pq.ParquetFile(raw / f"date={NEWEST}/part-0.parquet").read())

    with pytest.raises(ContractBreach, match="delivered twice"):
        run(damage=again)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.rename_columns(["uid", *t.column_names[1:]]),
            "missing user_id; unexpected uid",
        ),
        (lambda t: t.append_column("price", t["tab"]), "unexpected price"),
        (lambda t: t.set_column(18, "tab", t["tab"].cast(pa.int64())), r"not text: tab \(int64\)"),
    ],
)
def test_wrong_columns_are_named(run, change, says):
    rows = pa.Table.from_batches([as_batch(impressions(NEWEST, 3), list(impression(NEWEST)))])
    with pytest.raises(ContractBreach, match=says):
        run(damage=lambda raw: _deliver(raw, change(rows)))


def test_an_empty_newest_day_stops_the_run(run):
    def empty(raw):
        (raw / f"date={day(4)}").mkdir()

    with pytest.raises(ContractBreach, match=f"{day(4)} has no rows"):
        run(damage=empty, logical_date=day(4))


def test_the_truth_of_a_synthetic_log_is_passed_on(run, tmp_path):
    truth = pa.table({"row_key": ["1"]})

    def add(raw):
        (raw / "truth").mkdir()
        pq.write_table(truth, raw / "truth" / "defects.parquet")

    task, _ = run(damage=add)
    assert pq.ParquetFile(task.output / "truth/defects.parquet").read().equals(truth)


def test_alimama_takes_the_scenario_from_the_profile_and_seconds_for_time(tmp_path, quick):
    def row(of, number, **changes):
        seconds = midnight_ms(of) // 1000 + number
        clicked = number % 2
        return {
            "user": str(number % 3),
            "time_stamp": str(seconds),
            "adgroup_id": "7",
            "pid": "430548_1007",
            "nonclk": str(1 - clicked),
            "clk": str(clicked),
        } | changes

    profile = {
        **dict.fromkeys(("cms_segid", "cms_group_id", "final_gender_code", "age_level"), "1"),
        **dict.fromkeys(("shopping_level", "occupation"), "1"),
        "pvalue_level": None,
    }
    users = [
        {"userid": str(n), **profile, "new_user_class_level": tier}
        for n, tier in enumerate(["1", "3", None])
    ]
    ads = [
        {"adgroup_id": "7", **dict.fromkeys(("cate_id", "campaign_id", "customer"), "1")}
        | {"brand": None, "price": "199.0"}
    ]
    days = [day(0), day(1)]
    contracts = {table: f"alimama_{table}" for table in ("log", "users", "items")}
    with raw_layout(tmp_path / "raw", source="alimama", contracts=contracts) as layout:
        for of in days:
            rows = [row(of, number) for number in range(60)]
            rows += [row(of, 60, clk="1", nonclk="1")] if of == day(1) else []
            names = pa.array([str(of)] * len(rows))
            layout.add("log", as_batch(rows, list(rows[0])), days=names)
        layout.add("users", as_batch(users, list(users[0])))
        layout.add("items", as_batch(ads, list(ads[0])))
    task = task_for(tmp_path / "raw", tmp_path / "clean_log", logical_date=day(1))
    manifest = validate.run(task, data=DataConfig())
    assert (manifest.rows_good, manifest.rows_quarantined) == (80, 41)
    assert manifest.rule_counts["log.city_tier_present"] == 40
    assert manifest.rule_counts["log.click_flags_agree"] == 1
    clean = pq.ParquetFile(task.output / f"interactions/date={day(0)}/part-0.parquet").read()
    assert set(clean["scenario"].to_pylist()) == {"1", "3"}
    assert clean["event_time_ms"].to_pylist()[1] == midnight_ms(day(0)) + 1000

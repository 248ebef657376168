"""The synthetic log is what it says: shares, defects and truth are known and hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from perscen.data.kuairand import CONTRACTS, ITEM_COLUMNS, LOG_COLUMNS, USER_COLUMNS
from perscen.data.raw_layout import read_manifest
from perscen.data.synthetic import import_synthetic
from perscen.data.synthetic_defects import DEFECTS, DUPLICATE, DUPLICATE_RATE
from perscen.data.synthetic_world import DAY_MS, FIRST_MS, NUM_DAYS
from perscen.errors import ConfigError
from tests.data.archives import contents, read

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default."""
    directory = tmp_path_factory.mktemp("synthetic") / "raw"
    import_synthetic(directory)
    return directory


@pytest.fixture(scope="module")
def log(raw: Path) -> pd.DataFrame:
    """All rows, with their partition's day."""
    days = []
    for path in sorted(raw.glob("date=*/part-0.parquet")):
        day = path.parent.name.removeprefix("date=")
        days.append(pq.ParquetFile(path).read().to_pandas().assign(day=day))
    return pd.concat(days, ignore_index=True)


@pytest.fixture(scope="module")
def defects(raw: Path) -> pd.DataFrame:
    """The planted defects."""
    return read(raw, "truth/defects.parquet").to_pandas()


@pytest.fixture(scope="module")
def clean(log: pd.DataFrame, defects: pd.DataFrame) -> pd.DataFrame:
    """Rows without the planted defects."""
    spoiled = defects.loc[defects["rule"] != DUPLICATE, "row_key"]
    return log[~log["time_ms"].isin(spoiled)].drop_duplicates()


def test_it_has_the_form_of_kuairand(raw: Path) -> None:
    manifest = read_manifest(raw)

    assert manifest.source == "synthetic"
    assert manifest.contracts == CONTRACTS
    assert read(raw, "date=*/*").column_names == list(LOG_COLUMNS)
    assert read(raw, "users/*").column_names == list(USER_COLUMNS)
    assert read(raw, "items/*").column_names == list(ITEM_COLUMNS)
    assert all(str(field.type) == "string" for field in read(raw, "users/*").schema)


def test_two_weeks_are_there_and_every_clean_row_lies_in_its_day(clean: pd.DataFrame) -> None:
    days = pd.date_range("2022-04-22", "2022-05-05").strftime("%Y-%m-%d")
    number = (clean["time_ms"].astype("int64") - FIRST_MS) // DAY_MS

    assert sorted(clean["day"].unique()) == list(days)
    assert (clean["day"] == days.to_numpy()[number]).all()
    assert (clean["date"] == clean["day"].str.replace("-", "")).all()
    assert 60_000 < len(clean) < 100_000


def test_clicks_are_shared_84_9_4_3_among_the_scenarios(clean: pd.DataFrame) -> None:
    shares = clean.loc[clean["is_click"] == "1", "tab"].value_counts(normalize=True)

    assert list(shares.index) == ["1", "4", "2", "0"]
    assert shares.to_numpy() == pytest.approx([0.84, 0.09, 0.04, 0.03], abs=0.006)


def test_planted_defects_are_at_their_rates_on_every_day(
    log: pd.DataFrame, defects: pd.DataFrame
) -> None:
    for day, rows in log.groupby("day"):
        planted = Counter(defects.loc[defects["date"] == day, "rule"])
        num_rows = len(rows) - planted[DUPLICATE]
        assert planted == {
            DUPLICATE: round(DUPLICATE_RATE * num_rows),
            **{defect.name: round(defect.rate * num_rows) for defect in DEFECTS},
        }
    assert defects["date"].nunique() == NUM_DAYS
    assert sum(defect.rate for defect in DEFECTS) < 0.02


def test_the_truth_names_exactly_the_spoiled_rows(
    raw: Path, log: pd.DataFrame, defects: pd.DataFrame
) -> None:
    """Each defect is found again by its own plain definition, and nothing else is."""
    catalogue = set(read(raw, "items/*").column("video_id").to_pylist())
    known = log["video_id"].isin(catalogue) | log["video_id"].isna()
    time_ms = log["time_ms"].astype("int64")
    play = pd.to_numeric(log["play_time_ms"], errors="coerce")
    found = {
        "missing_user_id": log["user_id"].isna(),
        "missing_item_id": log["video_id"].isna(),
        "unknown_scenario": log["tab"] == "99",
        "future_time": time_ms >= FIRST_MS + (NUM_DAYS + 1) * DAY_MS,
        "past_time": time_ms < FIRST_MS - DAY_MS,
        "negative_play_time": play < 0,
        "text_in_number": play.isna(),
        "click_on_unknown_item": ~known & (log["is_click"] == "1"),
        DUPLICATE: log.duplicated(),
    }

    assert (known | found["click_on_unknown_item"]).all()
    for rule, rows in found.items():
        truth = defects[defects["rule"] == rule]
        assert sorted(log.loc[rows, "time_ms"]) == sorted(truth["row_key"]), rule
        places = log[rows].set_index("time_ms")["day"]
        assert (places[truth["row_key"]].to_numpy() == truth["date"].to_numpy()).all()
    assert set(defects["table"]) == {"log"}
    assert defects["row_key"].is_unique  # so no row has two defects


def test_a_row_key_is_shared_by_exact_copies_alone(log: pd.DataFrame) -> None:
    assert log.drop_duplicates()["time_ms"].is_unique


def test_affinities_are_the_chances_clicks_really_have(raw: Path, clean: pd.DataFrame) -> None:
    affinity = read(raw, "truth/affinity.parquet").to_pandas()
    group = read(raw, "truth/users.parquet").to_pandas().set_index("user_id")["group"]
    sums = affinity.groupby(["group", "scenario"])["probability"].sum()
    assert sums.to_numpy() == pytest.approx(np.ones(len(sums)))
    assert len(sums) == group.nunique() * 4

    clicks = clean[(clean["is_click"] == "1") & (clean["tab"] == "1")]
    counted = clicks.groupby([clicks["user_id"].map(group), "video_id"]).size()
    for number in range(group.nunique()):
        cell = affinity[(affinity["group"] == number) & (affinity["scenario"] == "1")]
        expected = cell.set_index("item_id")["probability"]
        observed = counted.loc[number].reindex(expected.index, fill_value=0)
        ratio = observed.sum() * expected
        # Chi-square per item is near 1 when the clicks are drawn from these very chances.
        assert ((observed - ratio) ** 2 / ratio).mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("scenario", ["1", "4", "2", "0"])
def test_personal_taste_can_be_measured_in_every_scenario(
    scenario: str, raw: Path, clean: pd.DataFrame
) -> None:
    """Ranking by the truth beats the scenario's popularity by half, on the last two days."""
    group = read(raw, "truth/users.parquet").to_pandas().set_index("user_id")["group"]
    affinity = read(raw, "truth/affinity.parquet").to_pandas()
    cells = affinity[affinity["scenario"] == scenario].groupby("group")
    best = {g: set(cell.nlargest(50, "probability")["item_id"]) for g, cell in cells}
    clicks = clean[(clean["is_click"] == "1") & (clean["tab"] == scenario)]
    test = clicks[clicks["day"] >= "2022-05-04"].groupby("user_id")["video_id"].agg(set)
    past = clicks.loc[clicks["day"] < "2022-05-04", "video_id"]
    popular = set(past.value_counts().index[:50])

    popularity = np.mean([len(items & popular) / len(items) for items in test])
    oracle = np.mean([len(v & best[group[user]]) / len(v) for user, v in test.items()])

    assert len(test) > 100
    assert 0.2 < popularity < 0.36
    assert oracle > 1.5 * popularity


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_log(tmp_path: Path) -> None:
    for name, seed in {"first": 3, "same": 3, "other": 4}.items():
        import_synthetic(tmp_path / name, seed=seed, num_users=300, num_items=100)

    first, same, other = (contents(tmp_path / name) for name in ("first", "same", "other"))
    assert first == same
    assert all(first[name] != other[name] for name in first if name.startswith("date="))


def test_a_world_too_small_to_mean_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 10 users"):
        import_synthetic(tmp_path / "raw", num_users=10)

    assert not (tmp_path / "raw").exists()

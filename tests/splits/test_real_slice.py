"""Known answers of the real slice, counted once by other means."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from perscen.config import SplitConfig
from perscen.data.fields import KUAIRAND
from perscen.data.leaks import check_no_leak
from tests.splits.clean_logs import HOUR, kuairand_dir, split_dir, write_kuairand

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kuairand_dir() is None, reason="the real slice is not here: KUAIRAND_DIR"),
]

WINDOWS = {
    "train": (date(2022, 4, 25), date(2022, 5, 1)),
    "valid": (date(2022, 5, 2), date(2022, 5, 3)),
    "test": (date(2022, 5, 4), date(2022, 5, 5)),
}


@pytest.fixture(scope="module")
def clean_log(tmp_path_factory):
    source = kuairand_dir()
    assert source is not None
    return write_kuairand(source, tmp_path_factory.mktemp("kuairand") / "clean")


def split(clean_log, **settings):
    config = SplitConfig.model_validate({**WINDOWS, **settings})
    splits, windows = split_dir(clean_log, config, logical_date=date(2022, 5, 5), plan=KUAIRAND)
    check_no_leak(splits, windows)
    return splits


def test_clicks_and_users_are_those_counted_for_the_whole_slice(clean_log):
    splits = split(clean_log, day_from="log_date", min_interactions_scope="all")
    histories = splits.histories
    clicks_RS = np.diff(histories.spec_offsets).reshape(-1, 4)

    assert splits.schema.scenarios == ("1", "4", "2", "0")
    assert len(histories.items) == 74_552
    assert (clicks_RS.sum(axis=1) > 0).sum() == 14_941
    assert (clicks_RS > 0).sum(axis=0).tolist() == [14_330, 3_344, 803, 1_005]
    assert len(np.unique(histories.items)) == 4_594


def test_the_towers_have_the_fields_of_the_specification(clean_log):
    schema = split(clean_log).schema
    user, item = schema.user, schema.item
    assert len(user.categorical) + len(user.dense) + len(user.bags) + user.sequence == 32
    assert len(item.categorical) + len(item.dense) + len(item.bags) + item.sequence == 8
    assert schema.num_item_rows == 7_583 + 2


def test_rows_by_local_day_are_those_that_pandas_counts(clean_log):
    source = kuairand_dir()
    assert source is not None
    log = pd.read_csv(source / "log_standard_4_22_to_5_08_pure.csv").drop_duplicates()
    log = log[(log["is_click"] == 1) & log["tab"].isin([1, 4, 2, 0])]
    day = pd.to_datetime(log["time_ms"] + 8 * HOUR, unit="ms").dt.date
    train = log[(day >= WINDOWS["train"][0]) & (day <= WINDOWS["train"][1])]
    kept = train[train.groupby("user_id")["user_id"].transform("size") >= 2]
    test = log[(day >= WINDOWS["test"][0]) & (day <= WINDOWS["test"][1])]

    splits = split(clean_log)
    names = [int(name) for name in splits.schema.scenarios]
    assert counts(splits.train.scenario) == [int((kept["tab"] == n).sum()) for n in names]
    users = test.groupby("tab")["user_id"].nunique()
    assert counts(splits.test.scenario) == [int(users[n]) for n in names]
    pairs = test.drop_duplicates(["tab", "user_id", "video_id"])
    assert len(splits.test.relevant) == len(pairs)


def counts(scenario: np.ndarray) -> list[int]:
    return np.bincount(scenario, minlength=4).tolist()

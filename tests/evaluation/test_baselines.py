"""Popularity, segments and the oracle on logs whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from perscen.config import EvaluateConfig
from perscen.data.segments import Segments, choose_segments
from perscen.data.splits import Rows, Splits
from perscen.errors import ArtifactError, ConfigError
from perscen.evaluation.baselines import (
    NOTHING,
    RandomRanker,
    global_popularity,
    oracle,
    scenario_popularity,
    segment_popularity,
)
from perscen.evaluation.evaluate import score_all
from perscen.evaluation.scoring import Candidates, retrieve, seen_items
from perscen.evaluation.summary import metrics_of
from perscen.schema import FIRST_ROW, Field
from tests.factories import Event, make_splits, random_splits

NUM_ITEMS = 40


def click(user: int, item: int, scenario: int, time_ms: int, *, clicked: bool = True) -> Event:
    return Event(user + FIRST_ROW, item + FIRST_ROW, scenario, time_ms, clicked)


@pytest.fixture
def small() -> Splits:
    """Item 0 leads in s0, item 1 in s1 and overall; item 2 only outside the training clicks."""
    events = [
        *(click(user, 0, 0, user) for user in range(2)),
        *(click(user, 1, 1, user) for user in range(3)),
        click(0, 3, 0, 10),
        *(click(user, 2, 0, 120 + user) for user in range(6)),
        *(click(user, 2, 1, 20 + user, clicked=False) for user in range(6)),
        *(click(user, 3, user % 2, 300) for user in range(6)),
    ]
    return make_splits(events, valid_from_ms=100, test_from_ms=200, num_users=6, num_items=5)


def test_popularity_counts_training_clicks_only_and_breaks_ties_by_item_row(small: Splits):
    in_s0, in_s1 = (np.flatnonzero(small.test.scenario == scenario)[:1] for scenario in (0, 1))
    of_scenario, overall = (
        scenario_popularity(small, small.test),
        global_popularity(small, small.test),
    )
    assert (of_scenario.rank(in_s0, 5)[0] - FIRST_ROW).tolist() == [0, 3, 1, 2, 4]
    assert (of_scenario.rank(in_s1, 5)[0] - FIRST_ROW).tolist() == [1, 0, 2, 3, 4]
    assert (overall.rank(in_s0, 5)[0] - FIRST_ROW).tolist() == [1, 0, 3, 2, 4]


def test_a_list_longer_than_the_catalogue_ends_with_nothing(small: Splits):
    assert (
        global_popularity(small, small.test).rank(np.array([0]), 7)[0, 5:].tolist() == [NOTHING] * 2
    )


def test_a_cell_is_shrunk_towards_its_scenario_and_an_empty_one_is_the_scenario():
    events = [
        *(click(user, 0, 0, user) for user in range(4)),
        click(4, 1, 0, 4),  # alone in its cell, and with its taste
        *(click(user, 2, scenario, 300) for user in (4, 5) for scenario in (0, 1)),
    ]
    splits = make_splits(events, valid_from_ms=100, test_from_ms=200, num_users=6, num_items=4)
    cell_of_user = np.zeros(len(splits.users.ids), dtype=np.int64)
    cell_of_user[FIRST_ROW + 4], cell_of_user[FIRST_ROW + 5] = 1, 2
    rows_Q = np.flatnonzero(splits.test.scenario == 0)  # user 4, then user 5, whose cell is empty

    def best(strength: float) -> list[int]:
        segments = Segments(("column",), cell_of_user, 3, (strength, 1.0))
        ranker = segment_popularity(splits, splits.test, segments)
        return (ranker.rank(rows_Q, 1)[:, 0] - FIRST_ROW).tolist()

    assert best(0.1) == [1, 0]
    assert best(100.0) == [0, 0]


def planted(*, seed: int = 0) -> Splits:
    """What users click depends on "colour", "shape" and the scenario, not on "noise"."""
    rng = np.random.default_rng(seed)
    num_users = 300
    splits = random_splits(num_users=num_users, num_items=NUM_ITEMS, per_user=4)
    noise, colour, shape = rng.integers(2, 4, (3, num_users + FIRST_ROW)).astype(np.int32)
    user = np.repeat(np.arange(FIRST_ROW, num_users + FIRST_ROW, dtype=np.int32), 12)
    scenario = rng.integers(0, 2, len(user)).astype(np.int32)
    taste = (colour[user] - 2) * 2 + (shape[user] - 2) + scenario
    item = FIRST_ROW + (taste * 8 + rng.integers(0, 8, len(user))) % NUM_ITEMS
    rows = Rows(user, item.astype(np.int32), scenario, np.arange(len(user), dtype=np.int64))
    columns = {"user_id": np.arange(num_users + FIRST_ROW), "noise": noise}
    columns |= {"colour": colour, "shape": shape}
    schema = splits.schema.user.model_copy(
        update={
            "categorical": tuple(
                Field(name=name, num_rows=int(rows.max()) + 1) for name, rows in columns.items()
            )
        }
    )
    table = np.stack(list(columns.values()), axis=1).astype(np.int32)
    return replace(
        splits,
        train=rows,
        users=replace(splits.users, categorical_RF=table),
        schema=splits.schema.model_copy(update={"user": schema}),
    )


def test_the_planted_columns_are_chosen_and_noise_is_not():
    splits = planted()
    chosen = choose_segments(splits, num_columns=2)
    assert set(chosen.columns) == {"colour", "shape"}
    assert chosen.num_cells == 4
    assert set(choose_segments(splits, num_columns=3).columns) == {"colour", "shape"}


def test_the_choice_reads_the_training_rows_alone():
    splits = planted()
    emptied = replace(
        splits, valid=splits.test, test=splits.valid, impressions=None, histories=None
    )
    assert (
        choose_segments(emptied, num_columns=2).columns
        == choose_segments(splits, num_columns=2).columns
    )


def write_truth(directory: Path, splits: Splits, *, scenarios: tuple[str, ...]) -> np.ndarray:
    """Two groups with opposite tastes in each scenario; users of even number are of group a."""
    num_items = splits.schema.num_item_rows - FIRST_ROW
    chance = np.geomspace(1, 1e-3, num_items)
    likes = np.stack([chance, chance[::-1]]) / chance.sum()
    rows = [
        (group, scenario, f"v{item}", likes[(place + number) % 2][item])
        for place, group in enumerate("ab")
        for number, scenario in enumerate(scenarios)
        for item in range(num_items)
    ]
    schema = ["group", "scenario", "item_id", "probability"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(directory / "affinity.parquet")
    users = [(f"u{n}", "ab"[n % 2]) for n in range(len(splits.users.ids) - FIRST_ROW)]
    pl.DataFrame(users, schema=["user_id", "group"], orient="row").write_parquet(
        directory / "users.parquet"
    )
    return likes


def synthetic_splits(*, num_users: int = 200, num_items: int = 40) -> Splits:
    rng = np.random.default_rng(0)
    chance = np.geomspace(1, 1e-3, num_items)
    likes = np.stack([chance, chance[::-1]]) / chance.sum()
    events = [
        click(user, int(rng.choice(num_items, p=likes[(user + scenario) % 2])), scenario, time)
        for user in range(num_users)
        for scenario in (0, 1)
        for time in rng.integers(0, 300, 6).tolist()
    ]
    return make_splits(
        events, valid_from_ms=100, test_from_ms=150, num_users=num_users, num_items=num_items
    )


@pytest.mark.medium
def test_no_baseline_beats_the_oracle(tmp_path: Path):
    splits = synthetic_splits()
    write_truth(tmp_path, splits, scenarios=splits.schema.scenarios)
    rankers = {
        "oracle": oracle(splits, splits.test, tmp_path),
        "segment": segment_popularity(splits, splits.test, choose_segments(splits, num_columns=1)),
        "scenario": scenario_popularity(splits, splits.test),
        "global": global_popularity(splits, splits.test),
        "random": RandomRanker(40, seed=0),
    }
    metrics = metrics_of(score_all(rankers, splits, config=EvaluateConfig(ks=(5, 10))))
    best = metrics.pop("oracle")
    for baseline in metrics.values():
        for scenario in splits.schema.scenarios:
            assert best["recall_5"][scenario] > baseline["recall_5"][scenario] + 0.1


def test_an_oracle_of_other_scenarios_is_refused(tmp_path: Path):
    splits = synthetic_splits(num_users=20)
    write_truth(tmp_path, splits, scenarios=("s0",))
    with pytest.raises(ArtifactError, match="says nothing of scenario s1"):
        oracle(splits, splits.test, tmp_path)


class Backwards:
    """Ranks the catalogue from the last item to the first."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def rank(self, rows_Q: np.ndarray, k: int) -> np.ndarray:
        rows = np.arange(FIRST_ROW + self.num_items - 1, FIRST_ROW - 1, -1)[:k]
        return np.tile(np.concatenate([rows, np.full(k - len(rows), NOTHING)]), (len(rows_Q), 1))


def test_what_may_not_be_recommended_is_passed_over_however_long_the_list_must_be():
    allowed = np.zeros(FIRST_ROW + 60, dtype=np.bool_)
    allowed[[3, 5, 40]] = True
    pool = Candidates(allowed, 60, None)
    found = retrieve(Backwards(60), np.array([0, 1]), 2, pool)
    assert found.tolist() == [[40, 5]] * 2
    assert retrieve(Backwards(60), np.array([0]), 5, pool).tolist() == [
        [40, 5, 3, NOTHING, NOTHING]
    ]


def test_seen_items_are_passed_over_beyond_the_histories_the_model_reads():
    splits = random_splits(num_users=8, num_items=30, per_user=60, max_seq_len=3)
    queries, slices = splits.test, splits.test_slices
    seen = seen_items(splits, queries, slices)
    found = retrieve(Backwards(30), np.arange(len(queries.user)), 4, Candidates(None, 30, seen))
    start_ms = 8 * 86_400_000
    past = splits.histories
    for row, user in enumerate(queries.user):
        mine = slice(past.user_offsets[user], past.user_offsets[user + 1])
        clicked = set(past.items[mine][past.times_ms[mine] < start_ms].tolist())
        assert len(clicked) > 3
        expected = [item for item in range(31, 1, -1) if item not in clicked][:4]
        assert found[row].tolist() == [*expected, *[NOTHING] * (4 - len(expected))]


@pytest.mark.parametrize(
    ("settings", "size"), [({}, "30"), ({"candidates": "train_items"}, "[0-9]+")]
)
def test_a_k_larger_than_the_pool_is_a_wrong_setting(settings: dict[str, str], size: str):
    splits = random_splits(num_items=30)
    with pytest.raises(ConfigError, match=f"evaluate.ks asks for 31 items, but .* has {size}$"):
        score_all({}, splits, config=EvaluateConfig(ks=(5, 31), **settings))


def test_a_scenario_without_test_users_is_named():
    splits = random_splits(num_scenarios=2)
    only = np.flatnonzero(splits.test.scenario == 0)
    test = replace(splits.test, user=splits.test.user[only], scenario=splits.test.scenario[only])
    with pytest.raises(
        ArtifactError, match="no user clicked in scenario s1 during the test window"
    ):
        score_all({}, replace(splits, test=test), config=EvaluateConfig(ks=(5,)))

"""Four days through the real scheduler: a release, bad logs, a bad model, and a release again."""

from __future__ import annotations

from datetime import date

import pytest

from bench.replay.results import collect
from bench.replay.run import Replay, run
from bench.replay.world import Plan, World, prepare
from perscen.data.synthetic import import_synthetic

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    # MLflow's use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

GOOD, BAD_LOGS, BAD_MODEL, LAST = (date(2022, 5, day) for day in (2, 3, 4, 5))
PLAN = Plan(GOOD, LAST, BAD_LOGS, BAD_MODEL, lost_scenario="4")
SETTINGS: dict[str, dict[str, object]] = {
    "data": {"window_days": 13},
    "split": {"train_days": 7, "valid_days": 2, "test_days": 2},
    "train": {"max_epochs": 2, "optim": {"lr": 3e-3}, "num_threads": 1},
    # Two epochs on few users prove little; what is planted is far outside this margin.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 0.5},
}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory) -> tuple[World, Replay]:
    home = tmp_path_factory.mktemp("replay")
    import_synthetic(home / "log", num_users=800, num_items=300)
    (home / "world").mkdir()
    world = prepare(home / "world", home / "log", PLAN, SETTINGS)
    return world, run(world, PLAN, again=GOOD)


def test_each_day_ends_as_its_logs_and_its_model_deserve(replayed):
    _, replay = replayed
    states = replay.states
    assert set(states[GOOD].values()) == {"success"}
    assert states[BAD_LOGS]["validate"] == "failed"
    assert {states[BAD_LOGS][name] for name in ("split", "train", "publish")} == {"upstream_failed"}
    assert (states[BAD_MODEL]["report"], states[BAD_MODEL]["publish"]) == ("success", "skipped")
    assert set(states[LAST].values()) == {"success"}


def test_the_refusal_names_the_scenario_that_was_lost(replayed):
    world, replay = replayed
    _, recalls = collect(world, PLAN, replay.states)
    outcomes = recalls.filter(recalls["day"] == BAD_MODEL)
    failed = outcomes.filter(outcomes["outcome"] == "FAIL")
    assert failed["scenario"].to_list() == ["4"]


def test_only_releases_reach_those_who_serve(replayed):
    _, replay = replayed
    assert (replay.num_releases, replay.num_refreshes) == (2, 2)


def test_a_finished_day_run_again_changes_nothing(replayed):
    assert replayed[1].changed_by_rerun == ()


def test_every_day_that_was_split_can_be_fetched_again(replayed):
    world, _ = replayed
    pointers = sorted(path.stem for path in (world.home / "remote" / "splits").iterdir())
    assert pointers == [str(GOOD), str(BAD_MODEL), str(LAST)]

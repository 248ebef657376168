"""Two days of a life: a release, a bad model that is refused, a good one that follows it."""

from __future__ import annotations

import json

import pytest

from tests.data.archives import contents
from tests.e2e.project import Project, checkout
from tests.faults import flip_a_byte

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, SECOND = "2022-05-04", "2022-05-05"
RECIPE = {
    "model": {"item_bias": "popularity"},
    "train": {"max_epochs": 2, "optim": {"lr": 3e-3}},
    # Two epochs on few users prove little; what is planted below is far outside this margin.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 0.5},
}
UNTRAINED = {"model": {"item_bias": "none"}, "train": {"max_epochs": 1, "optim": {"lr": 1e-9}}}


def state(project: Project) -> dict[str, bytes]:
    """The files of every artifact."""
    return contents(project.path / "artifacts")


@pytest.fixture(scope="module")
def first_day(tmp_path_factory) -> Project:
    """A checkout that has released a model for the first day."""
    project = checkout(tmp_path_factory.mktemp("days"))
    project.make_small_log()
    project.set(run={"logical_date": FIRST}, **RECIPE)
    project.run("dvc", "repro")
    assert project.aliases() == {"champion": 1}
    return project


@pytest.fixture(scope="module")
def refused(first_day) -> tuple[Project, str, int]:
    """The second day with a model that has learnt nothing: what was said, and the exit code."""
    first_day.set(run={"logical_date": SECOND}, **UNTRAINED)
    ran = first_day.run("dvc", "repro", ok=False)
    return first_day, ran.stderr, ran.returncode


@pytest.fixture(scope="module")
def verdict_of_refused(refused) -> dict:
    """The verdict on the bad model, kept before the good one's takes its place."""
    return refused[0].json("verdict/verdict.json")


def test_a_planted_regression_is_refused_and_the_champion_stays(refused, verdict_of_refused):
    project, said, code = refused
    assert code != 0
    last = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    assert (last["step"], last["error"], last["exit_code"]) == ("publish", "ReleaseRefused", 10)
    assert "exited with 10" in said
    assert verdict_of_refused["decision"] == "refuse"
    failed = {
        finding["gate"]
        for finding in verdict_of_refused["findings"]
        if finding["outcome"] == "FAIL"
    }
    assert {"popularity", "regression"} <= failed
    assert project.aliases() == {"champion": 1}
    assert (project.path / "artifacts/report/index.html").exists()
    # The release of the first day is still there, whole.
    assert project.json("release/release.json")["version"] == "1"


@pytest.fixture(scope="module")
def second_day(refused, verdict_of_refused) -> Project:
    """The second day again, with the recipe put right."""
    project, _, _ = refused
    project.set(**RECIPE)
    project.run("dvc", "repro")
    return project


def test_the_next_good_day_is_released_against_the_champion_of_the_day_before(second_day):
    assert second_day.aliases() == {"champion": 2, "previous": 1}
    assert second_day.json("champion/manifest.json")["champion_date"] == FIRST
    verdict = second_day.json("verdict/verdict.json")
    assert verdict["decision"] == "promote"
    assert {row["compared_with"] for row in verdict["scenarios"]} == {"champion"}
    assert [row["scenario"] for row in verdict["scenarios"]] == ["1", "4", "2", "0"]


def test_a_rerun_of_a_finished_day_changes_nothing(second_day):
    before, lock = state(second_day), second_day.lock()
    second_day.run("dvc", "repro", "--force", "--single-item", "champion")
    second_day.run("dvc", "repro", "--force", "--single-item", "publish")
    assert second_day.lock() == lock
    assert second_day.aliases() == {"champion": 2, "previous": 1}
    changed = {name for name, content in state(second_day).items() if before[name] != content}
    # When and by whom, and which aliases were moved: now none.
    assert changed <= {"champion/run.json", "release/run.json", "release/release.json"}
    assert second_day.json("release/release.json")["version"] == "2"


def test_a_changed_byte_of_the_raw_log_stops_the_run_and_touches_nothing(second_day):
    path = next(iter((second_day.path / f"data/raw/date={SECOND}").glob("*.parquet")))
    whole, before = path.read_bytes(), state(second_day)
    flip_a_byte(path)
    spoilt = contents(second_day.path / "data/raw")
    ran = second_day.run("dvc", "repro", ok=False)
    assert "truncated or changed: its sha256 is" in ran.stderr
    assert "exited with 66" in ran.stderr
    assert contents(second_day.path / "data/raw") == spoilt
    assert state(second_day) == before
    assert second_day.aliases() == {"champion": 2, "previous": 1}
    path.write_bytes(whole)
    assert "up to date" in second_day.run("dvc", "repro").stdout


def test_the_first_day_run_again_is_compared_with_nothing_and_moves_no_alias(second_day):
    second_day.set(run={"logical_date": FIRST})
    second_day.run("dvc", "repro", "champion")
    assert second_day.json("champion/manifest.json")["version"] is None
    second_day.set(run={"logical_date": SECOND})
    second_day.run("dvc", "repro", "champion")
    assert second_day.json("champion/manifest.json")["version"] == "1"
    assert second_day.aliases() == {"champion": 2, "previous": 1}

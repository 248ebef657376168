"""The real scheduler, triggerer and API: a backfill goes day by day; releases start a refresh."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.pipeline import PIPELINE
from tests.airflow.server import Airflow, airflow_standalone
from tests.airflow.stand_in import diary, land, python_for, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DAILY, REFRESH = "perscen_daily", "perscen_refresh"
FIRST, REFUSED, LATE = "2022-05-03", "2022-05-04", "2022-05-05"
STEPS = {step.name for step in PIPELINE.steps}
BEHAVIOUR = {
    "train": {"result": {"mlflow_experiment_id": "1", "mlflow_run_id": "abc"}},
    "report": {"result": {"page": "index.html"}},
    "publish": {"result": {"version": "1", "released": True}},
    f"publish {REFUSED}": {"codes": [10]},
}


@dataclass(frozen=True)
class Backfilled:
    """An Airflow after a backfill of three days: a release, a refusal, and a late release."""

    airflow: Airflow
    home: Path
    states: dict[str, str]
    """Of the scheduled and the backfilled runs, by id."""

    def run_of(self, day: str) -> str:
        """The id of a day's run."""
        return next(r for r, run in self.airflow.runs(DAILY).items() if day in run["logical_date"])

    def tasks(self, day: str) -> dict[str, dict[str, Any]]:
        """The tasks of a day's run, as the API has them."""
        path = f"dags/{DAILY}/dagRuns/{self.run_of(day)}/taskInstances"
        return {task["task_id"]: task for task in self.airflow.get(path)["task_instances"]}

    def links(self, day: str, task: str) -> dict[str, str]:
        """The links on the page of a task."""
        path = f"dags/{DAILY}/dagRuns/{self.run_of(day)}/taskInstances/{task}/links"
        links: dict[str, str] = self.airflow.get(path)["extra_links"]
        return links


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory) -> Iterator[Backfilled]:
    home = stand_in(tmp_path_factory.mktemp("steps"), BEHAVIOUR)
    raw_log, deployment = home / "raw", home / "deployment.yaml"
    land(raw_log, FIRST, REFUSED)
    settings = {
        "raw_log": str(raw_log),
        "run_root": str(home / "runs"),
        "runs_url": "http://127.0.0.1:1/runs",
        "mlflow_url": "http://127.0.0.1:1/mlflow",
        "wait_timeout_s": 60,
        "wait_interval_s": 15,
        "retry_delay_s": 2,
        "environment": {"PATH": f"{python_for(home)}{os.pathsep}{os.environ['PATH']}"},
    }
    deployment.write_text(yaml.safe_dump(settings))
    with airflow_standalone(
        home / "airflow",
        PERSCEN_DEPLOYMENT=str(deployment),
        AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL="2",
    ) as airflow:
        # More runs at once than is good for the days: they must go one by one all the same.
        airflow.backfill(DAILY, FIRST, LATE, "--max-active-runs", "3")
        airflow.unpause(REFRESH)
        airflow.unpause(DAILY)
        days = Backfilled(airflow, home, {})
        airflow.wait(
            lambda: days.tasks(LATE)["landed"]["state"] == "deferred",
            for_=f"{LATE} to wait for its logs",
            timeout=400,
        )
        land(raw_log, FIRST, REFUSED, LATE)
        # Besides the three days, the schedule starts the newest day, whose logs never land.
        yield Backfilled(airflow, home, airflow.wait_for_runs(DAILY, count=4, timeout=400))


def test_days_end_as_their_steps_did_and_a_refused_day_is_no_failed_one(backfilled):
    def states(day: str) -> dict[str, str]:
        return {name: task["state"] for name, task in backfilled.tasks(day).items()}

    well = dict.fromkeys({"landed", *STEPS}, "success")
    assert states(FIRST) == well
    assert states(REFUSED) == well | {"publish": "skipped"}
    assert states(LATE) == well
    assert backfilled.states[backfilled.run_of(REFUSED)] == "success"


def test_a_day_begins_when_the_day_before_has_ended(backfilled):
    def times(day: str, which: str) -> list[datetime]:
        tasks = backfilled.tasks(day)
        return [datetime.fromisoformat(tasks[name][which]) for name in STEPS]

    assert max(times(FIRST, "end_date")) < min(times(REFUSED, "start_date"))
    assert max(times(REFUSED, "end_date")) < min(times(LATE, "start_date"))


def test_waiting_for_the_day_before_costs_no_tries(backfilled):
    for day in (REFUSED, LATE):
        assert backfilled.tasks(day)["landed"]["try_number"] == 1


def test_each_release_refreshes_what_is_served_and_a_refusal_does_not(backfilled):
    runs = backfilled.airflow.wait_for_runs(REFRESH, count=2)
    assert list(runs.values()) == ["success", "success"]
    told = backfilled.airflow.get("assets/events", limit=100)["asset_events"]
    releases = [event["extra"] for event in told if event["name"] == "perscen_release"]
    assert {release["logical_date"] for release in releases} == {FIRST, LATE}
    assert diary(backfilled.home).count("refresh ended") == 4  # each: refresh, then the smoke test


def test_a_day_whose_logs_never_land_fails_with_the_partition_in_its_log(backfilled):
    # The first one: a test that runs over midnight has another.
    run_id = min(run for run in backfilled.states if run.startswith("scheduled"))
    states = backfilled.airflow.states(DAILY, run_id)
    assert states.pop("landed") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    landed = backfilled.airflow.get(f"dags/{DAILY}/dagRuns/{run_id}/taskInstances/landed")
    assert landed["try_number"] == 1, "a wait that was too long is not begun anew"
    log = backfilled.airflow.get(f"dags/{DAILY}/dagRuns/{run_id}/taskInstances/landed/logs/1")
    assert f"is not in {backfilled.home / 'raw' / 'source.json'}" in json.dumps(log)


def test_the_pages_have_links_without_a_plugin(backfilled):
    runs = f"http://127.0.0.1:1/runs/{FIRST}"
    mlflow = "http://127.0.0.1:1/mlflow/#/experiments/1/runs/abc"
    assert backfilled.links(FIRST, "report") == {"Report": f"{runs}/report/index.html"}
    docs = {"Data Docs": f"{runs}/clean_log/data_docs/index.html"}
    assert backfilled.links(FIRST, "validate") == docs
    assert backfilled.links(FIRST, "train") == {"MLflow run": mlflow}

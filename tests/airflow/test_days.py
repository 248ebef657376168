"""Whole days of the daily DAG in a real Airflow, with steps that behave as told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from components.pipeline import PIPELINE
from tests.airflow.days import DAY, RUNS, SECRET, TABLE
from tests.airflow.server import settings
from tests.conftest import ROOT

pytestmark = pytest.mark.medium

STEPS = {step.name for step in PIPELINE.steps}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the days ran; ``told.json`` says how, ``log.txt`` holds all that was logged."""
    folder = tmp_path_factory.mktemp("days")
    with (folder / "log.txt").open("w") as log:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.airflow.days", folder],
            env=settings(folder / "airflow"),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert ran.returncode == 0, (folder / "log.txt").read_text()[-4000:]
    return folder


@pytest.fixture(scope="module")
def days(folder) -> dict[str, Any]:
    return json.loads((folder / "told.json").read_text())


def states(day: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in day["tasks"].items()}


def test_a_day_runs_every_step_once_and_tells_of_its_release(days):
    day = days["released"]
    assert states(day) == dict.fromkeys({"landed", *STEPS}, "success")
    assert sorted(day["diary"]) == sorted(f"{s} {w}" for s in STEPS for w in ("started", "ended"))
    assert day["webhook"] == []
    assert set(day["assets"]) == {"perscen_splits", "perscen_release"}
    assert day["assets"]["perscen_release"]["version"] == "1"


def test_a_step_knows_its_day_and_airflows_run_and_leaves_its_result_as_xcom(days):
    day = days["released"]
    results = {name: day["xcoms"][f"{name}/return_value"] for name in STEPS}
    assert {r["logical_date"] for r in results.values()} == {DAY}
    assert {r["run_id"] for r in results.values()} == {day["run_id"]}


def test_the_pages_link_to_what_the_steps_made(days):
    links = {k: v for k, v in days["released"]["xcoms"].items() if "/_link_" in k}
    assert links == {
        "report/_link_report": f"{RUNS}{DAY}/report/index.html",
        "validate/_link_data_docs": f"{RUNS}{DAY}/clean_log/data_docs/index.html",
        "train/_link_mlflow_run": "https://mlflow.example.com/#/experiments/1/runs/abc",
    }


def test_a_refused_day_shows_as_skipped_and_no_consumer_hears_of_a_release(days):
    day = days["refused"]
    assert states(day) == dict.fromkeys({"landed", *STEPS}, "success") | {"publish": "skipped"}
    assert day["state"] == "success"
    assert set(day["assets"]) == {"perscen_splits"}
    assert day["tasks"]["publish"]["tries"] == 1


def test_people_hear_of_a_refusal_with_the_verdict(days):
    [told] = days["refused"]["webhook"]
    body = told["body"]
    assert (body["dag"], body["logical_date"], body["task"]) == ("perscen_daily", DAY, "publish")
    assert body["outcome"] == "refused"
    assert TABLE in body["text"]
    assert body["report"] == f"{RUNS}{DAY}/report/index.html"
    assert body["report"] in body["text"]


def test_a_breach_fails_at_once_and_stops_all_that_follows(days):
    day = days["breach"]
    after = STEPS - {"validate", "champion"}
    assert day["tasks"]["validate"] == {"state": "failed", "tries": 1}
    assert {states(day)[name] for name in after} == {"upstream_failed"}
    assert day["state"] == "failed"
    assert day["assets"] == {}
    assert day["xcoms"]["validate/_link_data_docs"] == (
        f"{RUNS}{DAY}/clean_log.state/data_docs/index.html"
    )


def test_people_hear_of_a_failure_with_its_reason_and_what_to_do(days):
    [told] = days["breach"]["webhook"]
    assert told["body"]["outcome"] == "failed"
    assert told["body"]["task"] == "validate"
    assert "exit code 65" in told["body"]["text"]
    assert "12 of 100 rows of 2022-05-05" in told["body"]["text"]
    assert "what to do: see report.json" in told["body"]["text"]
    assert told["body"]["report"] is None


def test_the_webhooks_secret_reaches_the_webhook_alone(days, folder):
    [told] = days["refused"]["webhook"]
    assert told["authorization"] == f"Bearer {SECRET}"
    kept = [p for p in folder.rglob("*") if p.is_file() and p.name != "told.json"]
    assert any(p.name == "airflow.db" for p in kept)
    assert [p for p in kept if SECRET.encode() in p.read_bytes()] == []


def test_a_webhook_that_does_not_answer_changes_no_outcome(days, folder):
    assert states(days["deaf webhook"]) == states(days["breach"])
    assert "the webhook was not told" in (folder / "log.txt").read_text()


def test_a_day_whose_logs_come_late_waits_for_them_and_a_preempted_step_is_tried_again(days):
    day = days["late and preempted"]
    assert states(day) == dict.fromkeys({"landed", *STEPS}, "success")
    assert day["tasks"]["train"]["tries"] == 2
    assert [line for line in day["diary"] if line.startswith("train")] == [
        "train started",
        "train started",
        "train ended",
    ]
    assert day["webhook"] == []


def test_a_day_that_never_lands_fails_and_says_which_partition_was_looked_for_where(days, folder):
    day = days["never landed"]
    assert day["tasks"]["landed"] == {"state": "failed", "tries": 1}
    assert day["diary"] == []
    source = folder / "never landed" / "raw" / "source.json"
    said = f"partition date={DAY}/ is not in {source}; it names 1 days, the last 2022-05-04"
    assert said in (folder / "log.txt").read_text()
    [told] = day["webhook"]
    assert (told["body"]["task"], told["body"]["outcome"]) == ("landed", "failed")
    assert said in told["body"]["text"]


def test_a_deferred_sensor_says_the_same_when_its_time_is_up(days):
    assert f"the logs of {DAY} did not land within 12 h: partition date={DAY}/" in days["timed out"]
    assert "2 days, the last 2022-05-04" in days["timed out"]


def test_a_store_that_does_not_answer_is_waited_for_and_named_when_time_is_up(days):
    assert days["unreachable"]["first look"] == "TaskDeferred"
    assert "it cannot be read (EndpointConnectionError: " in days["unreachable"]["time is up"]


def test_a_run_about_no_day_says_how_to_name_one(days, folder):
    assert days["no date"]["tasks"]["landed"] == {"state": "failed", "tries": 1}
    assert days["no date"]["diary"] == []
    said = "this run has no logical date, so it is about no day of logs"
    assert said in (folder / "log.txt").read_text()

"""The DAG files as Airflow's DAG processor reads them: without errors, quickly, and lightly."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.airflow.server import settings
from tests.conftest import ROOT

pytestmark = pytest.mark.medium

# Airflow itself is imported first: the processor has it anyway.
READ = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag

started = time.process_time()
bag = DagBag(sys.argv[1], collect_dags=False)
bag.collect_dags(sys.argv[1])
seconds = time.process_time() - started
heavy = {"torch", "faiss", "pandas", "mlflow", "dvc", "perscen", "kubernetes", "kfp"}
dags = {
    d.dag_id: {
        "catchup": d.catchup,
        "max_active_runs": d.max_active_runs,
        "timetable": type(d.timetable).__name__,
        "start": str(d.start_date),
        "retries": {t.task_id: t.retries for t in d.tasks},
        "outlets": {t.task_id: [a.name for a in t.outlets] for t in d.tasks if t.outlets},
    }
    for d in bag.dags.values()
}
errors = dict(bag.import_errors)
loaded = sorted(heavy & set(sys.modules))
print(json.dumps({"seconds": seconds, "loaded": loaded, "errors": errors, "dags": dags}))
"""


def read(home, **environment: str) -> dict[str, Any]:
    asked = subprocess.run(
        [sys.executable, "-c", READ, ROOT / "dags"],
        env=settings(home, **environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> dict[str, Any]:
    return read(tmp_path_factory.mktemp("airflow"))


def test_every_dag_file_is_read_without_error_and_the_helpers_are_no_dags(bag):
    assert bag["errors"] == {}
    assert set(bag["dags"]) == {"perscen_daily", "perscen_refresh"}


def test_reading_the_dags_is_quick_and_loads_nothing_heavy(bag):
    assert bag["loaded"] == []
    assert bag["seconds"] < 2


def test_one_run_at_a_time_starts_when_its_day_has_ended(bag):
    daily = bag["dags"]["perscen_daily"]
    assert daily["max_active_runs"] == 1
    assert daily["start"] == "2022-04-29 00:00:00+00:00"
    assert daily["timetable"] == "CronDataIntervalTimetable"


def test_every_task_is_tried_again_even_the_wait_which_a_scheduler_may_lose(bag):
    assert set(bag["dags"]["perscen_daily"]["retries"].values()) == {2}


def test_splits_and_releases_are_assets_and_the_refresh_starts_with_a_release(bag):
    assert bag["dags"]["perscen_daily"]["outlets"] == {
        "split": ["perscen_splits"],
        "publish": ["perscen_release"],
    }
    assert bag["dags"]["perscen_refresh"]["timetable"] == "AssetTriggeredTimetable"


def test_a_wrong_deployment_shows_as_an_import_error_that_names_the_setting(tmp_path):
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump({"runs_inn": "local"}))
    errors = read(tmp_path / "airflow", PERSCEN_DEPLOYMENT=str(file))["errors"]
    assert len(errors) == 2
    assert all("runs_inn" in text and str(file) in text for text in errors.values())

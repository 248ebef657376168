"""Days of the daily DAG in a real Airflow (``dag.test``), told as JSON.

Runs in a process of its own, as Airflow takes over logging and warnings where it is imported:
``python -m tests.airflow.days FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.airflow.stand_in import diary, land, stand_in

SECRET = "s3cr3t-of-the-webhook"
TABLE = "scenario  users  outcome\n1           120  fail"
DAY = "2022-05-05"
RUNS, MLFLOW = "https://runs.example.com/perscen/", "https://mlflow.example.com"
GATE = {"gate": {"result": {"decision": "refuse", "table": TABLE}}}
REFUSED = {
    "level": "error",
    "event": "the release was refused: the gate refused the candidate:\n  1: recall fell",
    "hint": "the champion stays in place",
}
BREACH = {
    "level": "error",
    "event": "the data breaks its contract: 12 of 100 rows of 2022-05-05",
    "hint": "see report.json",
}
TRAINED = {"mlflow_experiment_id": "1", "mlflow_run_id": "abc", "best_epoch": 3}
DAYS: dict[str, dict[str, Any]] = {
    "released": {
        **GATE,
        "train": {"result": TRAINED, "lines": ["a line of a library"]},
        "report": {"result": {"page": "index.html"}},
        "publish": {"result": {"version": "1", "bundle_id": "b" * 64, "released": True}},
    },
    "refused": {**GATE, "publish": {"codes": [10], "lines": [REFUSED]}},
    "breach": {"validate": {"codes": [65], "lines": [BREACH, "and a last line"]}},
}


class Webhook(HTTPServer):
    """A loopback server that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = {"path": self.path, "authorization": self.headers["Authorization"], "body": body}
        self.server.told.append(told)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def main(folder: Path) -> None:
    """Run every day in ``folder`` and write ``told.json`` there."""
    from airflow.utils.db import initdb

    initdb()
    webhook = Webhook()
    told = {name: _day(folder, name, behaviour, webhook) for name, behaviour in DAYS.items()}
    told["deaf webhook"] = _day(folder, "deaf webhook", DAYS["breach"], None)
    preempted = {"train": {"codes": [75, 0]}}
    told["late and preempted"] = _day(
        folder, "late and preempted", preempted, webhook, lands_after_s=2
    )
    told["never landed"] = _day(folder, "never landed", {}, webhook, landed=False)
    told["no date"] = _day(folder, "no date", {}, webhook, day=None)
    land(folder / "raw", "2022-05-03", "2022-05-04")
    told["timed out"] = _timed_out(str(folder / "raw"))
    told["unreachable"] = _unreachable()
    (folder / "told.json").write_text(json.dumps(told, default=str))


def _day(
    folder: Path,
    name: str,
    behaviour: dict[str, Any],
    webhook: Webhook | None,
    *,
    day: str | None = DAY,
    landed: bool = True,
    lands_after_s: float = 0,
) -> dict[str, Any]:
    from airflow.utils.session import create_session

    from dags._deployment import Deployment
    from dags.perscen_daily import build

    home, raw_log = stand_in(folder / name, behaviour), folder / name / "raw"
    os.environ["AIRFLOW_CONN_WEBHOOK"] = json.dumps(_connection(webhook))
    dag = build(
        Deployment(
            raw_log=str(raw_log),
            run_root=str(home / "runs"),
            retries=1,
            retry_delay_s=1,
            wait_timeout_s=1 if not landed else 60,
            runs_url=RUNS,
            mlflow_url=MLFLOW,
            webhook_conn_id="webhook",
        )
    )
    for task in dag.tasks:
        task.home = str(home)
    sensor = dag.get_task("landed")
    sensor.poke_interval, sensor.deferrable = 0.2, landed
    if lands_after_s:
        threading.Timer(lands_after_s, land, [raw_log, DAY]).start()
    else:
        land(raw_log, DAY if landed else "2022-05-04")
    seen = len(webhook.told) if webhook else 0
    logical_date = datetime.fromisoformat(day).replace(tzinfo=UTC) if day else None
    run = dag.test(logical_date=logical_date)
    with create_session() as session:
        told = _told(run.run_id, session)
        run = session.merge(run)
        told["state"] = run.state
        session.delete(run)  # the next one is of the same date
    return told | {"diary": diary(home), "webhook": webhook.told[seen:] if webhook else []}


def _told(run_id: str, session: Any) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    tasks = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id)).all()
    xcoms = session.scalars(select(XComModel).where(XComModel.run_id == run_id)).all()
    events = session.execute(
        select(AssetModel.name, AssetEvent.extra)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetEvent.source_run_id == run_id)
    ).all()
    return {
        "run_id": run_id,
        "tasks": {ti.task_id: {"state": ti.state, "tries": ti.try_number} for ti in tasks},
        "xcoms": {f"{x.task_id}/{x.key}": x.value for x in xcoms},
        "assets": dict(tuple(event) for event in events),
    }


def _connection(webhook: Webhook | None) -> dict[str, Any]:
    port = webhook.server_port if webhook else 9  # nobody answers on the discard port
    return {
        "conn_type": "http",
        "host": "127.0.0.1",
        "port": port,
        "schema": f"hooks/{SECRET}",
        "password": SECRET,
    }


def _timed_out(raw_log: str) -> str:
    """What a deferred sensor says when the scheduler tells it that its time is up."""
    from airflow.sdk.exceptions import AirflowSensorTimeout

    from dags._landing import LandedSensor

    sensor = LandedSensor(task_id="landed", raw_log=raw_log, timeout=12 * 3600)
    try:
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ds": DAY})
    except AirflowSensorTimeout as exc:
        return str(exc)
    raise AssertionError("it did not time out")


def _unreachable() -> dict[str, str]:
    """How the wait goes on while nobody answers at the object store's address."""
    from types import SimpleNamespace

    from dags._landing import LandedSensor

    os.environ |= {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # the discard port
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_MAX_ATTEMPTS": "1",
    }
    sensor = LandedSensor(task_id="landed", raw_log="s3://bucket/raw", timeout=12 * 3600)
    run = SimpleNamespace(run_type="scheduled")
    try:
        sensor.execute({"logical_date": DAY, "ds": DAY, "dag_run": run})  # type: ignore[arg-type]
        first_look = "returned"
    except BaseException as exc:  # noqa: BLE001 (Airflow's way to defer is one, too)
        first_look = type(exc).__name__
    return {"first look": first_look, "time is up": _timed_out("s3://bucket/raw")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Airflow in a process of its own: runs one pod task after another, as asked on its input.

Airflow is imported once, apart from the tests with their strict warnings, and the process can be
interrupted and killed. Each line read is a JSON object; each answer is a line after a mark, since
Airflow writes what it likes besides.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MARK = "@@answer "
DAY = datetime(2022, 5, 5, tzinfo=UTC)


def dag_of(request: dict[str, Any]) -> Any:
    """Return a DAG of one step as a pod."""
    from airflow.sdk import DAG

    from components.pipeline import PIPELINE
    from dags._deployment import Deployment
    from dags._pods import pod_operator

    deployment = Deployment.model_validate(request["deployment"])
    with DAG(dag_id=request["dag"], schedule=None, start_date=DAY) as dag:
        pod_operator(
            PIPELINE[request["step"]],
            argv=request["argv"],
            deployment=deployment,
            retries=deployment.retries,
            retry_delay=timedelta(0),
            poll_interval=0.1,
        )
    return dag


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the task until it is not tried again, and say how it ended."""
    from airflow.configuration import conf

    # As a file, since Airflow wants to know a DAG from its folder before it runs it.
    text = f"# airflow\nfrom tests.kubernetes.worker import dag_of\n\ndag = dag_of({request!r})\n"
    Path(conf.get("core", "dags_folder"), "one.py").write_text(text)
    return told(dag_of(request).test(logical_date=DAY).get_task_instances()[0])


def try_again(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the scheduler does for a task whose worker has died: try it again."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.definitions.dag import _run_task
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    with create_session() as session:
        ti = session.scalars(select(TaskInstance).filter_by(dag_id=request["dag"])).one()
        ti.try_number += 1
        ti.state, ti.next_method, ti.next_kwargs = TaskInstanceState.SCHEDULED, None, None
    _run_task(ti=ti, task=dag_of(request).task_dict[ti.task_id], run_triggerer=True)
    return told(ti)


def render(request: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that would be created, as it goes over the wire."""
    from kubernetes.client import ApiClient

    dag = dag_of(request)
    task = dag.tasks[0]
    run_id = f"scheduled__{DAY.isoformat()}"
    ti = SimpleNamespace(dag_id=dag.dag_id, task_id=task.task_id, map_index=-1, try_number=1)
    context = {"ds": f"{DAY:%Y-%m-%d}", "run_id": run_id, "ti": ti, "dag": dag}
    task.render_template_fields(context)
    vars(task)["hook"] = SimpleNamespace(
        is_in_cluster=True,
        get_xcom_sidecar_container_image=lambda: None,
        get_xcom_sidecar_container_resources=lambda: None,
    )
    pod = task.build_pod_request_obj(context)
    return {"pod": ApiClient().sanitize_for_serialization(pod)}


def told(ti: Any) -> dict[str, Any]:
    """Return what a test asks about a task."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        rows = session.scalars(select(XComModel).filter_by(dag_id=ti.dag_id)).all()
        results = {row.key: XComModel.deserialize_value(row) for row in rows}
    return {"state": ti.state, "tries": ti.try_number, "result": results.get("return_value")}


COMMANDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    command.__name__: command for command in (run, try_again, render)
}


def main() -> None:
    """Make the database, then answer."""
    from airflow.utils.db import initdb

    # A shell starts what it runs in the background with SIGINT ignored, and all below inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    initdb()
    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(COMMANDS[request["do"]](request))
        except KeyboardInterrupt:
            answer({"state": "interrupted"})


def answer(content: dict[str, Any]) -> None:
    """Write an answer."""
    sys.stdout.write(f"{MARK}{json.dumps(content, default=str)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
